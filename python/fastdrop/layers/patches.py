"""A layer that drops whole tokens of sequences (PatchDropout). No mathematics here."""

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._validate import as_count, check_flag, float_array
from fastdrop.functional.core import NO_KEY, Array
from fastdrop.functional.patches import (
    PatchMask,
    patch_dropout_backward,
    take_tokens,
    token_shape,
)
from fastdrop.layers.base import Layer
from fastdrop.random import RNG


class PatchDropout(Layer[PatchMask]):
    """Drop whole tokens in training, which shortens the sequences; keep all in evaluation.

    Parameters
    ----------
    p : float, default 0.5
        Fraction of the tokens to DROP, in [0, 1]; at least one stays.
    prefix : int, default 0
        How many tokens at the start (such as a class token) always stay, and are not counted.
    ordered : bool, default True
        Whether the tokens stay in order, or come in a random one behind the prefix.
    rng
        As for `Dropout`.

    Attributes
    ----------
    mask : PatchMask or None
        That of the last call; None before the first and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    patch_dropout : the function, with the formula and the papers.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.PatchDropout(0.5, prefix=1, rng=0)
    >>> tokens, indices = drop(np.ones((1, 5, 8)))
    >>> tokens.shape, indices
    ((1, 3, 8), array([[0, 3, 4]]))
    >>> drop.backward(tokens)[0, :, 0]
    array([1., 0., 0., 1., 1.])
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        prefix: SupportsIndex = 0,
        ordered: bool = True,
        rng: RNG = None,
    ) -> None:
        check_flag(ordered, "ordered")
        super().__init__(p, rng)
        self.prefix = as_count(prefix, "prefix")
        self.ordered = ordered

    def __call__(self, x: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
        """Drop tokens.

        Parameters
        ----------
        x : array_like of float or complex, shape (batch, tokens, ...)
            Of the dtypes of `Dropout`.

        Returns
        -------
        tokens : ndarray, shape (batch, kept, ...)
            Those that stay; `x` itself in evaluation and for p = 0.
        indices : ndarray of int64, shape (batch, kept)
            Where they were.

        Raises
        ------
        TypeError, ValueError
            If `x` is none of these, or shorter than the prefix; the call does not count then.
        """
        array = float_array(x, "x")
        shape = token_shape(array.shape)
        if self.training:
            key = self._key.child(self._calls)
            mask = PatchMask(shape, self._p, key, self.prefix, self.ordered)
        else:
            mask = PatchMask(shape, 0.0, NO_KEY, self.prefix, self.ordered)
        tokens, indices = take_tokens(array, mask)
        self._mask = mask if self.training else None
        if self.training:
            self._count()
        self._shape = array.shape
        return x if tokens is array and isinstance(x, np.ndarray) else tokens, indices

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call.

        Parameters
        ----------
        dy : array_like of float or complex, shape (batch, kept, ...)
            Gradient with respect to the tokens that stayed.

        Returns
        -------
        ndarray, shape (batch, tokens, ...)
            Zero for the others; `dy` itself where all stayed in place.

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If `dy` is none of these, or of another shape.
        """
        if self._shape is None:
            raise RuntimeError("backward needs a forward call before it")
        array = float_array(dy, "dy")
        batch, tokens, *features = self._shape
        mask = self._mask
        expected = (batch, tokens if mask is None else mask.kept, *features)
        if array.shape != expected:
            raise ValueError(f"dy must have the shape of the output, {expected}, got {array.shape}")
        if mask is None or mask.p == 0.0:
            return array
        return patch_dropout_backward(array, mask.indices(), tokens)

    def _options(self) -> str:
        options = f", prefix={self.prefix}" if self.prefix else ""
        return options + ("" if self.ordered else ", ordered=False")
