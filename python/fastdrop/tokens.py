"""Dropout of whole tokens, which shortens the sequence (PatchDropout).

A `PatchMask` is the recipe: which tokens stay is the rank of their uniforms.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._arguments import (
    Array,
    as_count,
    as_flag,
    as_indices,
    as_out,
    as_shape,
    float_array,
    probability,
)
from fastdrop._key import NO_KEY, RNG, Key
from fastdrop._layer import Layer, call_key
from fastdrop._plan import check_recipe, draw_key, select
from fastdrop._recipe import Drawable, check_key

ROUNDING = Fraction(1, 2**50)
"""A fraction of this size is taken for the rounding of p: (1 - 0.1) * 10 is 9, not 8.999..."""

BLOCK = 2**20
"""Tokens whose rows are sorted in one call: between calls, the program can be interrupted."""


def kept_tokens(p: float, tokens: int, prefix: int) -> int:
    """Return how many of `tokens` stay, the first `prefix` among them."""
    if prefix > tokens:
        raise ValueError(f"prefix must be at most the number of tokens, {tokens}, got {prefix}")
    number = tokens - prefix
    kept = int((1 - Fraction(p) + ROUNDING) * number)
    return prefix + min(number, max(1, kept))


@dataclass(frozen=True)
class PatchMask(Drawable):
    """Which tokens of a batch stay: a recipe, not an array.

    Parameters
    ----------
    shape : tuple of two int
        Number of sequences, and of tokens in each.
    p : float
        Fraction of the tokens to DROP, in [0, 1]; at least one stays.
    key : Key
        What the choice is a function of.
    prefix : int, default 0
        How many tokens at the start always stay.
    ordered : bool, default True
        Whether the tokens stay in order, or come in a random one behind the prefix.

    See Also
    --------
    patch_dropout : the rule in detail.

    Examples
    --------
    >>> import fastdrop as fd
    >>> mask = fd.PatchMask((2, 6), 0.5, fd.Key(2), prefix=1)
    >>> mask.kept
    3
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
        """How many tokens of each sequence stay, with the prefix."""
        return kept_tokens(self.p, self.shape[1], self.prefix)

    def indices(self) -> NDArray[np.int64]:
        """Return the places of the tokens that stay, shape (batch, kept)."""
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
        """Return the tokens of `x` that stay, as `patch_dropout` does; all in place, `x` itself."""
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
) -> Any:
    r"""Drop whole tokens of sequences, and return the shorter sequences of those that stay.

    Of N tokens behind the prefix, each sequence keeps

    .. math:: K = \max(1, \lfloor (1 - p) N \rfloor)

    chosen at random, all sets of K with the same probability. Nothing is scaled: the tokens that
    stay are as they were.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, tokens, ...)
        Sequences of tokens, which may have any features, of any of the dtypes of `dropout`.
    p : float, default 0.5
        Fraction of the tokens to DROP, in [0, 1].
    training, rng
        As for `dropout`.
    prefix : int, default 0
        How many tokens at the start (such as a class token) always stay, and are not counted.
    ordered : bool, default True
        Whether the tokens stay in order, or come in a random one behind the prefix.

    Returns
    -------
    tokens : ndarray, shape (batch, prefix + K, ...)
        Those that stay; `x` itself in evaluation and for p = 0.
    indices : ndarray of int64, shape (batch, prefix + K)
        Where they were: ``positions[indices]`` are their position embeddings.

    See Also
    --------
    PatchDropout : the layer.
    patch_dropout_backward : the gradient.

    Notes
    -----
    Liu et al., "PatchDropout: economizing vision transformers using patch dropout", WACV 2023; Li
    et al., "Scaling language-image pre-training via masking" (FLIP), CVPR 2023.

    The rounding of p as a floating-point number does not count: a product (1 - p) N less than
    N 2^-50 below an integer is that integer, so p = 0.1 of 10 tokens keeps 9. One token stays even
    for p = 1, since a sequence without tokens is nothing that the next layer can take.

    The K tokens of a row whose 64-bit uniforms are the least stay. So with one key, what a larger
    p keeps, a smaller one keeps as well.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x = np.arange(12.0).reshape(2, 6)
    >>> tokens, indices = fd.patch_dropout(x, 0.5, prefix=1, rng=2)
    >>> tokens
    array([[ 0.,  3.,  4.],
           [ 6., 10., 11.]])
    >>> indices
    array([[0, 3, 4],
           [0, 4, 5]])
    """
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
    """Return the number of sequences and of tokens of an array."""
    if len(shape) < 2:
        raise ValueError(f"{name} must have the axes (batch, tokens, ...), got shape {shape}")
    return shape[0], shape[1]


def _taken(x: Array, mask: PatchMask, indices: NDArray[np.int64]) -> Array:
    """Return the tokens at some places; `x` itself if all stay in place."""
    if mask.p == 0.0:
        return x
    if not indices.size:  # of any number of sequences
        return x[:, : indices.shape[1]].copy()
    return x[np.arange(len(x))[:, np.newaxis], indices]


def patch_dropout_backward(
    dy: ArrayLike, indices: ArrayLike | PatchMask, tokens: SupportsIndex | None = None
) -> Array:
    r"""Return the gradient of `patch_dropout`: zero for the tokens that were dropped.

    .. math:: dx_{n, i_{n k}} = dy_{n k}

    Parameters
    ----------
    dy : array_like of float or complex, shape (batch, kept, ...)
        Gradient with respect to the tokens that stayed.
    indices : array_like of int, shape (batch, kept), or PatchMask
        Where they were, or the mask, as `patch_dropout` returned it.
    tokens : int
        Number of tokens of each sequence of its input; not needed with a mask.

    Returns
    -------
    ndarray, shape (batch, tokens, ...)
        Of the dtype of `dy`.

    See Also
    --------
    patch_dropout : the function, with the papers.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.patch_dropout_backward([[[1.0, 2.0], [3.0, 4.0]]], [[0, 2]], 4)
    array([[[1., 2.],
            [0., 0.],
            [3., 4.],
            [0., 0.]]])
    """
    array = float_array(dy, "dy")
    if isinstance(indices, PatchMask):
        return _Tokens(indices, (*indices.shape, *array.shape[2:])).backward(array)
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


class _Tokens:
    """The plan of a call for an input of some shape; all tokens stay without a recipe."""

    __slots__ = ("_shape", "recipe")

    def __init__(self, recipe: PatchMask | None, shape: tuple[int, ...]) -> None:
        self.recipe, self._shape = recipe, shape

    def backward(self, dy: Array) -> Array:
        batch, tokens, *features = self._shape
        expected = (batch, tokens if self.recipe is None else self.recipe.kept, *features)
        if dy.shape != expected:
            raise ValueError(f"dy must have the shape of the output, {expected}, got {dy.shape}")
        if self.recipe is None or self.recipe.p == 0.0:
            return dy
        return _scattered(dy, self.recipe.indices(), tokens)


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
        self.prefix = as_count(prefix, "prefix")
        self.ordered = as_flag(ordered, "ordered")
        super().__init__(p, rng)

    def __call__(
        self, x: ArrayLike, *, training: bool | None = None
    ) -> tuple[Array, NDArray[np.int64]]:
        """Drop tokens.

        Parameters
        ----------
        x : array_like of float or complex, shape (batch, tokens, ...)
            Of the dtypes of `Dropout`.
        training : bool, optional
            As for `Dropout`.

        Returns
        -------
        tokens : ndarray, shape (batch, kept, ...)
            Those that stay; `x` itself in evaluation and for p = 0.
        indices : ndarray of int64, shape (batch, kept)
            Where they were.
        """
        array = float_array(x, "x")
        shape = _token_shape(array.shape)
        if self._trains(training):
            with call_key(self._keys) as key:
                mask = PatchMask(shape, self._p, key, self.prefix, self.ordered)
                indices = mask.indices()
                tokens = _taken(array, mask, indices)
            self._plan = _Tokens(mask, array.shape)
        else:
            everything = PatchMask(shape, 0.0, NO_KEY, self.prefix, self.ordered)
            tokens, indices = array, everything.indices()
            self._plan = _Tokens(None, array.shape)
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
        """
        gradient: Array = self._last_plan().backward(float_array(dy, "dy"))
        return gradient
