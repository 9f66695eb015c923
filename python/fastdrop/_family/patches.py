"""Dropout of whole tokens, which shortens the sequence (PatchDropout).

A `PatchMask` is the recipe: the tokens with the smallest uniforms stay.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Never, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._base.arguments import (
    Array,
    as_count,
    as_flag,
    as_indices,
    as_out,
    as_shape,
    float_array,
    probability,
    refuse,
    shown,
)
from fastdrop._base.keys import NO_KEY, RNG, Key, check_key
from fastdrop._base.layers import Layer, call_key
from fastdrop._base.masks import Drawable
from fastdrop._base.plans import Plan, check_recipe, draw_key, gradient_like, select
from fastdrop._base.states import Checked

EXACT = 2**50
"""Inverse of the tolerance for the rounding of p: (1 - 0.1) * 10 is 9, not 8.999..."""

BLOCK = 2**20
"""Tokens that one call sorts; Ctrl-C is handled between calls."""


def kept_tokens(p: float, tokens: int, prefix: int) -> int:
    """Return how many of `tokens` stay, including the first `prefix`."""
    if prefix > tokens:
        raise ValueError(
            f"prefix must be at most the number of tokens, {tokens}, got {shown(prefix)}"
        )
    number = tokens - prefix
    numerator, denominator = p.as_integer_ratio()
    kept = ((denominator - numerator) * EXACT + denominator) * number // (denominator * EXACT)
    return prefix + min(number, max(1, kept))


@dataclass(frozen=True)
class PatchMask(Checked, Drawable):
    """A recipe that tells which tokens of a batch stay.

    ``shape`` is (batch, tokens): the number of sequences, and of tokens in each. ``p`` is the
    fraction of the tokens to DROP; ``prefix`` and ``ordered`` are as for `patch_dropout`.

    >>> mask = fd.PatchMask((2, 6), 0.5, fd.Key(2), prefix=1)
    >>> mask.indices()
    array([[0, 3, 4],
           [0, 4, 5]])
    >>> mask.to_numpy().astype(int)
    array([[1, 0, 0, 1, 1, 0],
           [1, 0, 0, 0, 1, 1]])
    """

    shape: tuple[int, ...]
    p: float
    key: Key
    prefix: int = 0
    ordered: bool = True

    def __post_init__(self) -> None:
        shape = as_shape(self.shape, "shape")
        if len(shape) != 2:
            raise ValueError(f"shape must be (batch, tokens), got {self.shape!r}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "p", probability(self.p))
        check_key(self.key)
        object.__setattr__(self, "prefix", as_count(self.prefix, "prefix"))
        as_flag(self.ordered, "ordered")
        kept_tokens(self.p, shape[1], self.prefix)

    @property
    def kept(self) -> int:
        """Number of tokens of each sequence that stay, including the prefix."""
        return kept_tokens(self.p, self.shape[1], self.prefix)

    def indices(self) -> NDArray[np.int64]:
        """Return the positions of the tokens that stay, shape (batch, kept)."""
        batch, tokens = self.shape
        chosen = np.empty((batch, self.kept), dtype=np.int64)
        chosen[:, : self.prefix] = np.arange(self.prefix)
        if self.p == 0.0:
            chosen[:] = np.arange(tokens)
            return chosen
        if not chosen.size:
            return chosen
        uniforms = _core.uniforms(self.shape, self.key)[:, self.prefix :]
        rows = max(1, BLOCK // max(1, tokens))
        for first in range(0, batch, rows):
            some = slice(first, first + rows)
            order = np.argsort(uniforms[some], axis=1, kind="stable")
            least = order[:, : self.kept - self.prefix]
            if self.ordered:
                least = np.sort(least, axis=1)
            np.add(least, self.prefix, out=chosen[some, self.prefix :])
        return chosen

    def to_numpy(self) -> NDArray[np.bool_]:
        """Return a mask of shape (batch, tokens), True where a token stays."""
        kept = np.zeros(self.shape, dtype=np.bool_)
        np.put_along_axis(kept, self.indices(), True, axis=1)
        return kept

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Return the tokens of `x` that stay, as `patch_dropout` does; `x` itself if p = 0."""
        array = float_array(x, "x")
        if array.shape[:2] != self.shape:
            raise ValueError(f"x must begin with the axes {self.shape}, got shape {array.shape}")
        tokens = _taken(array, self, self.indices())
        return tokens if out is None else select(tokens, None, 1.0, as_out(out))


def patch_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    prefix: SupportsIndex = 0,
    ordered: bool = True,
    rng: RNG = None,
    mask: PatchMask | None = None,
    return_mask: bool = False,
    **unknown: Never,
) -> Any:
    r"""Drop whole tokens of sequences, and return the shorter sequences.

    Of N tokens after the prefix, each sequence keeps

    .. math:: K = \max(1, \lfloor (1 - p) N \rfloor)

    chosen at random; all sets of K tokens have the same probability. The kept tokens are not
    scaled.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, tokens, ...)
        Sequences of tokens with features of any shape, of any dtype of `dropout`.
    p : float, default 0.5
        Fraction of the tokens to DROP, in [0, 1].
    training, rng, return_mask
        See `dropout`.
    prefix : int, default 0
        Number of tokens at the start, such as a class token, that always stay. N excludes them.
    ordered : bool, default True
        Whether the kept tokens stay in order; otherwise they are shuffled after the prefix.
    mask : PatchMask, optional
        Mask to apply instead of drawing one from `rng`; `p`, `prefix` and `ordered` are then not
        used.

    Returns
    -------
    tokens : ndarray, shape (batch, prefix + K, ...)
        Tokens that stay; `x` itself in evaluation and for p = 0.
    indices : ndarray of int64, shape (batch, prefix + K)
        Their positions: ``positions[indices]`` are their position embeddings.
    mask : PatchMask
        If `return_mask`: the mask that was applied.

    Notes
    -----
    Liu et al., "PatchDropout: economizing vision transformers using patch dropout", WACV 2023; Li
    et al., "Scaling language-image pre-training via masking" (FLIP), CVPR 2023.

    K ignores the floating-point rounding of p: a product (1 - p) N less than N 2^-50 below an
    integer counts as that integer, so p = 0.1 of 10 tokens keeps 9. One token stays even for p = 1,
    because the next layer needs at least one.

    The K tokens of a row with the smallest 64-bit uniforms stay. So with one key, a smaller p keeps
    all tokens that a larger p keeps.

    Examples
    --------
    >>> tokens, indices = fd.patch_dropout(np.arange(12.0).reshape(2, 6), 0.5, prefix=1, rng=2)
    >>> tokens
    array([[ 0.,  3.,  4.],
           [ 6., 10., 11.]])
    >>> indices
    array([[0, 3, 4],
           [0, 4, 5]])
    """
    if unknown:
        refuse(unknown, patch_dropout)
    rate = probability(p) if as_flag(training, "training") else 0.0 * probability(p)
    first = as_count(prefix, "prefix")
    as_flag(ordered, "ordered")
    return_mask = as_flag(return_mask, "return_mask")
    array = float_array(x, "x")
    shape = _token_shape(array.shape)
    kept_tokens(rate, shape[1], first)
    if mask is None:
        mask = PatchMask(shape, rate, draw_key(rng, rate > 0.0), first, ordered)
    else:
        check_recipe(mask, PatchMask, rng)
        if mask.shape != shape:
            raise ValueError(f"mask must be of shape {shape}, got {mask.shape}")
        if not training:
            mask = PatchMask(shape, 0.0, NO_KEY, mask.prefix, mask.ordered)
    indices = mask.indices()
    tokens = _taken(array, mask, indices)
    return (tokens, indices, mask) if return_mask else (tokens, indices)


def _token_shape(shape: tuple[int, ...], name: str = "x") -> tuple[int, int]:
    """Return the numbers of sequences and of tokens of an array."""
    if len(shape) < 2:
        raise ValueError(f"{name} must have the axes (batch, tokens, ...), got shape {shape}")
    return shape[0], shape[1]


def _taken(x: Array, mask: PatchMask, indices: NDArray[np.int64]) -> Array:
    """Return the tokens at these positions; `x` itself if all stay in order."""
    if mask.p == 0.0:
        return x
    if not indices.size:  # no sequences, or no tokens to keep
        return x[:, : indices.shape[1]].copy()
    return x[np.arange(len(x))[:, np.newaxis], indices]


def patch_dropout_backward(
    dy: ArrayLike,
    indices: ArrayLike | PatchMask,
    tokens: SupportsIndex | None = None,
    **unknown: Never,
) -> Array:
    """Return the gradient of `patch_dropout`, zero for dropped tokens.

    ``dy``, of shape (batch, kept, ...), is the gradient with respect to the tokens that stayed.
    ``indices`` has the positions that `patch_dropout` returned; ``tokens`` is then the number of
    tokens of each input sequence. A `PatchMask` as ``indices`` needs no ``tokens``.

    >>> fd.patch_dropout_backward([[[1.0, 2.0], [3.0, 4.0]]], [[0, 2]], 3)
    array([[[1., 2.],
            [0., 0.],
            [3., 4.]]])
    """
    if unknown:
        refuse(unknown, patch_dropout_backward)
    array = float_array(dy, "dy")
    if isinstance(indices, PatchMask):
        return _backward(indices, (*indices.shape, *array.shape[2:]), array)
    if tokens is None:
        raise TypeError("tokens must be an int unless indices is a PatchMask, got None")
    count = as_count(tokens, "tokens")
    places = as_indices(indices, count, _token_shape(array.shape, "dy"))
    return _scattered(array, places, count)


def _scattered(dy: Array, indices: NDArray[np.int64], tokens: int) -> Array:
    dx = np.zeros((dy.shape[0], tokens, *dy.shape[2:]), dtype=dy.dtype)
    if indices.size:
        dx[np.arange(len(dx))[:, np.newaxis], indices] = dy
    return dx


def _backward(mask: PatchMask, shape: tuple[int, ...], dy: Array) -> Array:
    """Return the gradient with respect to an input of this shape."""
    gradient_like(dy, (shape[0], mask.kept, *shape[2:]), "the output")
    return dy if mask.p == 0.0 else _scattered(dy, mask.indices(), shape[1])


class PatchDropout(Layer[PatchMask]):
    """Drop whole tokens in training, and shorten the sequences; the layer of `patch_dropout`.

    ``p``, ``prefix`` and ``ordered`` are as for `patch_dropout`, ``rng`` as for `Dropout`. ``mask``
    is a `PatchMask`.

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
        self.prefix = as_count(prefix, "prefix")
        self.ordered = as_flag(ordered, "ordered")
        super().__init__(p, rng)

    def __call__(
        self, x: ArrayLike, *, training: bool | None = None, **unknown: Never
    ) -> tuple[Array, NDArray[np.int64]]:
        """Return the tokens that stay and their positions, as `patch_dropout` does."""
        if unknown:
            refuse(unknown, self.__call__)
        array = float_array(x, "x")
        shape = _token_shape(array.shape)
        if self._trains(training):
            with call_key(self._keys) as key:
                mask = PatchMask(shape, self._p, key, self.prefix, self.ordered)
                indices = mask.indices()
                tokens = _taken(array, mask, indices)
            recipe = mask
        else:
            mask = PatchMask(shape, 0.0, NO_KEY, self.prefix, self.ordered)
            tokens, indices, recipe = array, mask.indices(), None
        self._keep(Plan(recipe, partial(_backward, mask, array.shape)))
        return x if tokens is array and isinstance(x, np.ndarray) else tokens, indices

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the last input, zero for dropped tokens."""
        plan, _ = self._last_call()
        gradient: Array = plan.backward(float_array(dy, "dy"))
        return gradient
