"""Dropout of whole tokens, which shortens the sequence (PatchDropout).

A `PatchMask` is the recipe: which tokens stay is the rank of their uniforms.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._validate import as_count, check_flag, check_indices, float_array, probability
from fastdrop.functional.core import NO_KEY, Array
from fastdrop.random import RNG, Key, as_key

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
class PatchMask:
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

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

    shape: tuple[int, int]
    p: float
    key: Key
    prefix: int = 0
    ordered: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or len(self.shape) != 2:
            raise TypeError(f"shape must be a tuple (batch, tokens), got {self.shape!r}")
        batch, tokens = (as_count(length, "shape") for length in self.shape)
        object.__setattr__(self, "shape", (batch, tokens))
        object.__setattr__(self, "p", probability(self.p))
        if not isinstance(self.key, Key):
            raise TypeError(f"key must be a Key, got {type(self.key).__name__}")
        object.__setattr__(self, "prefix", as_count(self.prefix, "prefix"))
        check_flag(self.ordered, "ordered")
        kept_tokens(self.p, tokens, self.prefix)

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


def patch_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    prefix: SupportsIndex = 0,
    ordered: bool = True,
    rng: RNG = None,
) -> tuple[Array, NDArray[np.int64]]:
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

    Raises
    ------
    TypeError, ValueError
        If `x` has less than two axes, if there are less tokens than `prefix`, or as for `dropout`.

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
    p = probability(p)
    check_flag(training, "training")
    check_flag(ordered, "ordered")
    array = float_array(x, "x")
    batch, tokens = token_shape(array.shape)
    if not training:
        p = 0.0
    key = as_key(rng) if p or isinstance(rng, Key) else NO_KEY
    mask = PatchMask((batch, tokens), p, key, as_count(prefix, "prefix"), ordered)
    return take_tokens(array, mask)


def token_shape(shape: tuple[int, ...], name: str = "x") -> tuple[int, int]:
    """Return the number of sequences and of tokens of an array.

    Raises
    ------
    ValueError
        If there are no such axes.
    """
    if len(shape) < 2:
        raise ValueError(f"{name} must have the axes (batch, tokens, ...), got shape {shape}")
    return shape[0], shape[1]


def take_tokens(x: Array, mask: PatchMask) -> tuple[Array, NDArray[np.int64]]:
    """Return the tokens that stay, and where they were; `x` itself if all stay in place."""
    indices = mask.indices()
    if mask.p == 0.0:
        return x, indices
    return x[np.arange(len(x))[:, np.newaxis], indices], indices


def patch_dropout_backward(dy: ArrayLike, indices: ArrayLike, tokens: SupportsIndex) -> Array:
    r"""Return the gradient of `patch_dropout`: what is known of the tokens that stayed, else zero.

    .. math:: dx_{n, i_{n k}} = dy_{n k}

    Parameters
    ----------
    dy : array_like of float or complex, shape (batch, kept, ...)
        Gradient with respect to the tokens that stayed.
    indices : array_like of int, shape (batch, kept)
        Where they were, as `patch_dropout` returned it.
    tokens : int
        Number of tokens of each sequence of its input.

    Returns
    -------
    ndarray, shape (batch, tokens, ...)
        Of the dtype of `dy`.

    Raises
    ------
    TypeError, ValueError
        If `indices` are no integers in [0, tokens), or not of the shape of the first two axes.

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
    tokens = as_count(tokens, "tokens")
    places = check_indices(indices, token_shape(array.shape, "dy"), tokens)
    dx = np.zeros((array.shape[0], tokens, *array.shape[2:]), dtype=array.dtype)
    dx[np.arange(len(dx))[:, np.newaxis], places] = array
    return dx
