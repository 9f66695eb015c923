"""Dropout as a layer: `functional` with the state that training needs. No mathematics here."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._core import Key, Mask
from fastdrop._validate import (
    Dims,
    Mode,
    as_dims,
    check_flag,
    check_inplace,
    check_mode,
    check_state,
    mask_shape,
)
from fastdrop.functional import evaluation_scale, scaled, training_scale
from fastdrop.random import RNG, as_key

Array = NDArray[Any]


class Dropout:
    """Drop elements at random in training; pass everything through in evaluation.

    A new layer is in training mode. Call number i in training uses the mask of the key
    ``layer.key.fold_in(i)``; calls in evaluation are not counted.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    inplace : bool, default False
        Whether a call overwrites its input.
    mode : {"inverted", "standard"}, default "inverted"
        When to scale: by 1 / (1 - p) in training (inverted), or by 1 - p in evaluation (standard).
    broadcast_dims : int or sequence of int, default ()
        Axes along which one decision is shared; negative ones count from the end.
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Where the layer's key comes from: a `Key` is used as it is, from all else one is drawn now.

    Attributes
    ----------
    p : float
        Probability to drop; can be set between calls.
    inplace, mode, broadcast_dims
        As given.
    training : bool
        Whether the layer is in training mode.
    key : Key
        The layer's key.
    calls : int
        Number of training calls so far.
    mask : Mask or None
        The mask of the last call, for `backward` and for looking at; None before the first call
        and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    dropout : the function, with the formula.

    Notes
    -----
    Hinton et al., arXiv:1207.0580, 2012; Srivastava et al., JMLR 15, 2014.

    No mask is stored for `backward`: it is drawn again. Layers with equal keys, such as a copy of
    this one, draw equal masks.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.Dropout(0.5, rng=0)
    >>> x = np.ones((2, 4), dtype=np.float32)
    >>> drop(x)
    array([[2., 2., 0., 0.],
           [0., 0., 2., 0.]], dtype=float32)
    >>> drop.backward(x)
    array([[2., 2., 0., 0.],
           [0., 0., 2., 0.]], dtype=float32)
    >>> drop.eval()(x) is x
    True
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        broadcast_dims: Dims = (),
        rng: RNG = None,
    ) -> None:
        check_flag(inplace, "inplace")
        check_mode(mode)
        self.p = p
        self.inplace = inplace
        self.mode: Mode = mode
        self.broadcast_dims = as_dims(broadcast_dims)
        self.training = True
        self._key = as_key(rng)
        self._calls = 0
        self._mask: Mask | None = None
        self._scale: float | None = None
        self._shape: tuple[int, ...] = ()

    @property
    def p(self) -> float:
        """Probability to drop."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = _core.probability(p)

    @property
    def key(self) -> Key:
        """The layer's key."""
        return self._key

    @property
    def calls(self) -> int:
        """Number of training calls so far."""
        return self._calls

    @property
    def mask(self) -> Mask | None:
        """The mask of the last call; None before the first and after one in evaluation."""
        return self._mask

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Input of any shape and memory layout; with `inplace`, an array that can be written.

        Returns
        -------
        numpy.ndarray
            Of the shape, dtype and memory layout of `x`; `x` itself in place, and where there is
            nothing to do.

        Raises
        ------
        TypeError, ValueError
            If `x` is none of these; it is unchanged, and the call does not count.
        """
        array = _core.float_array(x, "x")
        mask = None
        if self.training:
            shape = array.shape
            if self.broadcast_dims:
                shape = mask_shape(shape, self.broadcast_dims)
            mask = Mask(shape, self._p, self._key.fold_in(self._calls))
            scale = training_scale(self._p, self.mode)
        else:
            scale = evaluation_scale(self._p, self.mode)
        y = _forward(array, mask, scale, check_inplace(x, array) if self.inplace else None)
        self._mask, self._scale, self._shape = mask, scale, array.shape
        self._calls += mask is not None
        return x if y is array and isinstance(x, np.ndarray) else y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call.

        Parameters
        ----------
        dy : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Gradient with respect to the output, of the shape of the last input.

        Returns
        -------
        numpy.ndarray
            Of the shape and dtype of `dy`; `dy` itself where there is nothing to do.

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If `dy` is none of these, or of another shape.
        """
        if self._scale is None:
            raise RuntimeError("backward needs a forward call before it")
        array = _core.float_array(dy, "dy")
        if array.shape != self._shape:
            raise ValueError(f"dy must have the shape of x, {self._shape}, got {array.shape}")
        return _forward(array, self._mask, self._scale, None)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode (to evaluation for False), and return the layer."""
        check_flag(mode, "mode")
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode, and return the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training: enough to go on with the same masks elsewhere.

        Returns
        -------
        dict
            "key" (tuple of four int), "calls" (int) and "p" (float).

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Dropout(0.2, rng=fd.Key.from_words(1, 2, 3, 4)).state_dict()
        {'key': (1, 2, 3, 4), 'calls': 0, 'p': 0.2}
        """
        return {"key": self._key.words, "calls": self._calls, "p": self._p}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or elsewhere.

        Parameters
        ----------
        state : dict
            With the entries of `state_dict`; the key may be any sequence of four int.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown or out of range; the layer is unchanged then.
        """
        key, calls, p = check_state(state)
        self._key, self._calls, self._p = key, calls, p
        self._mask, self._scale = None, None

    def __repr__(self) -> str:
        extra = "" if self.mode == "inverted" else f", mode={self.mode!r}"
        if self.broadcast_dims:
            extra += f", broadcast_dims={self.broadcast_dims}"
        return f"{type(self).__name__}(p={self._p}, inplace={self.inplace}{extra})"


def _forward(x: Array, mask: Mask | None, scale: float, out: Array | None) -> Array:
    """Apply a mask, or only the scale where there is none or it keeps everything."""
    if mask is None or mask.p == 0.0:
        return scaled(x, scale, out)
    return _core.apply(mask, x, scale, out)
