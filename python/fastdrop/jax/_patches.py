"""Dropout of whole tokens, which shortens sequences."""

from typing import Any, SupportsIndex, Unpack

import jax
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import as_count, as_flag, probability
from fastdrop._family.patches import kept_tokens
from fastdrop.jax._arguments import drawn_words
from fastdrop.jax._call import Call, Draw, as_elements, decide, request_of
from fastdrop.jax._primitive import uniforms, varying


def patch_dropout(
    x: Any, p: float = 0.5, *, prefix: SupportsIndex = 0, ordered: bool = True, **call: Unpack[Call]
) -> tuple[Array, Array]:
    r"""Drop whole tokens of sequences, and return the shorter sequences and their positions.

    Of N tokens after the prefix, each sequence keeps

    .. math:: K = \max(1, \lfloor (1 - p) N \rfloor)

    chosen at random; kept tokens are not scaled. See Liu et al., "PatchDropout: economizing vision
    transformers using patch dropout", WACV 2023.

    Parameters
    ----------
    x : array of float or complex, shape (batch, tokens, ...)
        Sequences of tokens with features of any shape, of any dtype of `dropout`. The number of
        tokens is known when the function is compiled.
    p : float, default 0.5
        Fraction of the tokens to DROP, in [0, 1]. It decides a shape, so it cannot be an array.
    prefix : int, default 0
        Number of tokens at the start, such as a class token, that always stay.
    ordered : bool, default True
        Whether the kept tokens stay in order; otherwise they are shuffled after the prefix.
    key, deterministic, whole, start
        See `dropout`. All tokens of the whole must be in `x`.

    Returns
    -------
    tokens : Array, shape (batch, prefix + K, ...)
        Tokens that stay; `x` itself if deterministic, or for p = 0.
    indices : Array of int, shape (batch, prefix + K)
        Their positions: ``positions[indices]`` are their position embeddings.

    Examples
    --------
    >>> x = jax.numpy.arange(12.0).reshape(2, 6)
    >>> tokens, indices = fastdrop.jax.patch_dropout(x, 0.5, prefix=1, key=fd.Key(2))
    >>> tokens
    Array([[ 0.,  3.,  4.],
           [ 6., 10., 11.]], dtype=float32)
    >>> indices
    Array([[0, 3, 4],
           [0, 4, 5]], dtype=int32)
    """
    x = as_elements(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x must have the axes (batch, tokens, ...), got shape {x.shape}")
    rate, first = probability(p), as_count(prefix, "prefix")
    as_flag(ordered, "ordered")
    batch, tokens = x.shape[:2]
    kept = kept_tokens(rate, tokens, first)
    # One decision for each token; for p = 1 as well, where one token stays.
    draw = decide(request_of(patch_dropout, min(rate, 0.5), call), x.shape, tuple(range(2, x.ndim)))
    if draw.keeps is not None:
        return x, jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
    if draw.whole[1] != tokens:
        raise ValueError(f"whole must have the tokens of x, {tokens}, got {draw.whole[1]}")
    high, low = jnp.moveaxis(_uniforms(draw, (batch, tokens))[:, first:, ::-1], -1, 0)
    places = jnp.broadcast_to(jnp.arange(first, tokens), high.shape)
    in_order = jax.lax.sort((high, low, places), dimension=1, num_keys=2, is_stable=False)
    least = in_order[2][:, : kept - first]
    if ordered:
        least = jnp.sort(least, axis=1, stable=False)
    always = jnp.broadcast_to(jnp.arange(first), (batch, first))
    indices = jnp.concatenate([always, least], axis=1)
    kept_of_x = x.at[jnp.arange(batch)[:, None], indices].get(
        mode="promise_in_bounds", unique_indices=True, indices_are_sorted=ordered
    )
    return kept_of_x, indices


def _uniforms(draw: Draw, shape: tuple[int, int]) -> Array:
    """Return the uniforms of sequences and tokens, the low word of each first."""
    words, key, lengths, start = draw.operands
    others = [] if lengths is None else [lengths]
    if start is not None:
        others.append(start[:2])
    operands = varying(drawn_words(words, key), *others)
    (pairs,) = uniforms.bind(*map(jnp.asarray, operands), whole=draw.whole[:2], p=0.5, shape=shape)
    drawn: Array = pairs
    return drawn
