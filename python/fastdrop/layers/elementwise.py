"""Dropout of single elements, or of whatever shares a decision, as layers. No mathematics here."""

from fastdrop import _core
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Dims, Mode, as_dims, check_mode, mask_shape
from fastdrop.functional.core import Array, evaluation_scale, scaled, training_scale
from fastdrop.layers.base import ElementwiseLayer
from fastdrop.random import RNG, Key


class Dropout(ElementwiseLayer[Mask]):
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
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> drop.backward(x)
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
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
        check_mode(mode)
        super().__init__(p, inplace, rng)
        self.mode: Mode = mode
        self.broadcast_dims = as_dims(broadcast_dims)
        self._scale = 1.0

    def _training_mode(self) -> Mode:
        return self.mode

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return mask_shape(shape, self.broadcast_dims) if self.broadcast_dims else shape

    def _draw(self, shape: tuple[int, ...], key: Key) -> Mask:
        return make_mask(self._mask_shape(shape), self._p, key)

    def _train(self, x: Array, mask: Mask, out: Array | None) -> Array:
        scale = training_scale(self._p, self._training_mode())
        y = _masked(x, mask, scale, out)
        self._scale = scale
        return y

    def _evaluate(self, x: Array, out: Array | None) -> Array:
        scale = evaluation_scale(self._p, self.mode)
        y = scaled(x, scale, out)
        self._scale = scale
        return y

    def _gradient(self, dy: Array, mask: Mask | None) -> Array:
        return (
            scaled(dy, self._scale, None) if mask is None else _masked(dy, mask, self._scale, None)
        )

    def _options(self) -> str:
        options = "" if self.mode == "inverted" else f", mode={self.mode!r}"
        if self.broadcast_dims:
            options += f", broadcast_dims={self.broadcast_dims}"
        return options


def _masked(x: Array, mask: Mask, scale: float, out: Array | None) -> Array:
    """Apply a mask, or only the scale where it keeps everything."""
    return scaled(x, scale, out) if mask.p == 0.0 else _core.apply(mask, x, scale, out)
