"""Attention with the arguments of ``jax.nn.dot_product_attention``, and dropout of its weights."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Never

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.export import is_symbolic_dim

from fastdrop import _core
from fastdrop._base.arguments import (
    REAL_DTYPES,
    as_finite,
    as_flag,
    as_shape,
    either,
    refuse,
)
from fastdrop.jax._arguments import (
    as_key,
    as_place,
    as_rate,
    as_scalar,
    drawn_words,
    known_at_last,
)
from fastdrop.jax._attend import attend
from fastdrop.jax._primitive import varying

_WIDEST: int = _core.WIDEST
"""The most features of a query or a value."""


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: Any = None,
    is_causal: bool = False,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    local_window_size: int | tuple[int, int] | None = None,
    return_residual: bool = False,
    dropout_p: Any = 0.0,
    dropout_key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
    **unknown: Never,
) -> Any:
    r"""Attend to keys, with attention weights dropped at random.

    .. math:: y_{i} = \sum_j \frac{m_{ij}}{1 - p} \, w_{ij} v_{j}, \qquad
              w_{i} = softmax_j (scale \; q_i \cdot k_j + bias_{ij}), \qquad
              m_{ij} \sim Bernoulli(1 - p)

    This is ``jax.nn.dot_product_attention`` with dropout, without `implementation`. It shares the
    core of `fastdrop.scaled_dot_product_attention`: one `fastdrop.Key` gives both the same mask and
    the same bits. Neither the result nor its gradient stores weights or mask. Forward mode and
    derivatives of gradients do store all weights; they draw the same mask.

    Parameters
    ----------
    query : array of float32, float64, float16 or bfloat16, shape (batch, queries, heads, features)
        Queries, with at most 256 features. The batch may be absent, here and below.
    key : array, shape (batch, keys, key heads, features)
    value : array, shape (batch, keys, key heads, width)
        Keys and values, in the dtype of `query`. The number of their heads divides that of `query`:
        consecutive heads of queries share one. `width` is at most 256.
    bias : array of float, optional
        Added to scores. It broadcasts to (batch, heads, queries, keys), the shape of the weights.
    mask : array of bool, optional
        False where a query does not see a key. It broadcasts as `bias` does.
    scale : float or array of float, optional
        Factor of the products; if not given, 1 / sqrt(features). An array of shape () may be traced
        and multiplies the queries.
    is_causal : bool, default False
        Whether query i sees only the keys up to i.
    query_seq_lengths, key_value_seq_lengths : array of int, shape (batch,), optional
        Numbers of valid queries and keys. The result is 0 for the other queries.
    local_window_size : int or (int, int), optional
        How many keys before and after its own number a query sees.
    return_residual : bool, default False
        Whether to return the logarithms of the sums of exponentials of scores. They have no
        gradient.
    dropout_p : float or array of float, default 0
        Probability to DROP a weight, in [0, 1]. A float is exact; a new value recompiles the
        function. An array of shape () may be traced.
    dropout_key : Key or JAX key
        Source of the mask, as `key` of `dropout`: ``fd.Mask((batch, heads, queries, keys), p,
        key)`` for a `fastdrop.Key`. Required unless nothing is dropped.
    deterministic : bool, default False
        Whether to drop nothing.
    whole : sequence of int, optional
        Shape of all weights, of which this call computes a part.
    start : sequence of int, or array of int, optional
        Position of the first weight in the whole, which may be traced; zeros if not given.
        `is_causal`, `local_window_size` and lengths of sequences refer to positions in the whole.

    Returns
    -------
    y : Array, shape (batch, queries, heads, width)
        In the dtype of `query`.
    residual : Array, shape (batch, queries, heads)
        If `return_residual`: in the dtype of `key`; -inf for a query that sees no key.

    Notes
    -----
    Vaswani et al., "Attention is all you need", NIPS 2017; the tiles are those of Dao et al.,
    "FlashAttention", NeurIPS 2022, arXiv:2205.14135.

    A query that sees no key gives 0, where ``jax.nn`` gives the mean of all values. float64 is
    computed in float64 throughout. Under ``vmap``, one key gives all examples the same mask.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 2, 10, 4, 8), dtype=np.float32)
    >>> y = fastdrop.jax.dot_product_attention(q, k, v, dropout_p=0.1, dropout_key=fd.Key(1))
    >>> y.shape
    (2, 10, 4, 8)
    >>> heads = (x.swapaxes(1, 2) for x in (q, k, v))
    >>> z = fd.scaled_dot_product_attention(*heads, 0.1, rng=fd.Key(1)).swapaxes(1, 2)
    >>> np.array_equal(y, z)
    True

    Heads on several devices draw their part of the mask of all weights, (2, 4, 10, 10):

    >>> last = (x[:, :, 2:] for x in (q, k, v))
    >>> part = fastdrop.jax.dot_product_attention(
    ...     *last, dropout_p=0.1, dropout_key=fd.Key(1), whole=(2, 4, 10, 10), start=(0, 2, 0, 0)
    ... )
    >>> bool((part == y[:, :, 2:]).all())
    True
    """
    if unknown:
        refuse(unknown, dot_product_attention)
    inputs = _as_inputs(query, key, value)
    query, key, value = inputs
    *batch, queries, heads, _ = query.shape
    weights = (*batch, heads, queries, key.shape[-3])
    rate, p = as_rate(dropout_p, "dropout_p")
    shape, start = as_place(whole, start, weights, "the weights")
    words, drawn = as_key(dropout_key, "dropout_key")
    return_residual = as_flag(return_residual, "return_residual")
    causal = as_flag(is_causal, "is_causal")
    query, factor = _as_factor(scale, query)
    if as_flag(deterministic, "deterministic"):
        rate, p = None, 0.0
    if p in (0.0, 1.0):
        words, drawn = np.zeros(4, np.uint32), None
    elif words is None and drawn is None:
        raise TypeError("dropout_key must be a fastdrop.Key or a JAX key, got None")
    if not batch:
        query, key, value = (x[None] for x in (query, key, value))
        shape = (1, *shape)
        start = start if start is None else jnp.concatenate([jnp.zeros(1, start.dtype), start])

    at = _Positions(query.shape[0], queries, key.shape[1], start)
    seen = [] if mask is None else [_as_added(mask, "mask", weights)]
    if local_window_size is not None:
        seen.append(at.window(local_window_size))
    if key_value_seq_lengths is not None:
        seen.append(at.valid_keys(key_value_seq_lengths))
    added = [] if bias is None else [_as_added(bias, "bias", weights)]
    if seen:
        allowed = functools.reduce(jnp.logical_and, seen)
        added = [jnp.where(allowed, added[0], -jnp.inf) if added else allowed]
    valid = None if query_seq_lengths is None else at.valid_queries(query_seq_lengths)

    known, lengths = known_at_last(shape)
    others = [x for x in (lengths, rate, start) if x is not None]
    options = {"p": p, "whole": known, "scale": factor, "causal": causal}
    y, lse = _attention([query, key, value, *added], words, drawn, others, **options)
    if valid is not None:
        y, lse = jnp.where(valid[..., None], y, 0), jnp.where(valid, lse, -jnp.inf)
    if not batch:
        y, lse = y[0], lse[0]
    return (y, lse.astype(key.dtype)) if return_residual else y


@functools.partial(jax.jit, static_argnames=("p", "whole", "scale", "causal"), inline=True)
def _attention(inputs: Any, words: Any, key: Any, others: Any, **options: Any) -> Any:
    operands = varying(*inputs, drawn_words(words, key), *others)
    return attend.bind(*operands, bias=len(inputs) == 4, **options)


# --- Arguments -----------------------------------------------------------------------------------


def _as_inputs(*inputs: Any) -> list[Array]:
    """Return queries, keys and values that fit together."""
    arrays = [_as_array(x, name) for x, name in zip(inputs, ("query", "key", "value"), strict=True)]
    query, key, value = arrays
    if str(query.dtype) not in REAL_DTYPES:
        raise TypeError(f"query must have dtype {either(REAL_DTYPES)}, got {query.dtype}")
    for name, x in (("key", key), ("value", value)):
        if x.dtype != query.dtype:
            mend = f"use {name}.astype(query.dtype)"
            raise TypeError(f"{name} must have dtype {query.dtype}, got {x.dtype}: {mend}")
    if query.ndim not in (3, 4):
        must = "have the shape (batch, queries, heads, features), or one without the batch"
        raise ValueError(f"query must {must}, got {query.shape}")
    *batch, _, heads, features = query.shape
    _check_shape(key, "key", (*batch, "keys", "key heads", features))
    _check_shape(value, "value", (*key.shape[:-1], "features"))
    key_heads = key.shape[-2]
    if any(map(is_symbolic_dim, (heads, features, key_heads, value.shape[-1]))):
        raise ValueError(f"query must have known numbers of heads and features, got {query.shape}")
    if heads % key_heads if key_heads else heads:
        must = f"have a number of heads that divides that of query, {heads}"
        raise ValueError(f"key must {must}, got {key_heads}")
    for name, x in (("query", query), ("value", value)):
        if x.shape[-1] > _WIDEST:
            raise ValueError(f"{name} must have at most {_WIDEST} features, got {x.shape[-1]}")
    return arrays


def _as_array(x: Any, name: str) -> Array:
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array, got {type(x).__name__}") from None


def _check_shape(x: Array, name: str, wanted: tuple[Any, ...]) -> None:
    """Raise ValueError unless the lengths are these; any length fits a word."""
    fits = (isinstance(n, str) or n == m for n, m in zip(wanted, x.shape, strict=False))
    if x.ndim != len(wanted) or not all(fits):
        shown = ", ".join(map(str, wanted))
        raise ValueError(f"{name} must have the shape ({shown}), got {x.shape}")


def _as_added(x: Any, name: str, weights: tuple[Any, ...]) -> Array:
    """Return a mask or bias of four axes that broadcasts to the weights."""
    array = _as_array(x, name)
    if name == "mask" and array.dtype != bool:
        raise TypeError(f"mask must have dtype bool, got {array.dtype}: give numbers as bias")
    if name == "bias" and str(array.dtype) not in REAL_DTYPES:
        mend = ": give bools as mask" if array.dtype == bool else ""
        raise TypeError(f"bias must have dtype {either(REAL_DTYPES)}, got {array.dtype}{mend}")
    last = list(zip(reversed(array.shape), reversed((1, *weights)), strict=False))
    if array.ndim > 4 or not all(n == 1 or n == m for n, m in last):
        raise ValueError(f"{name} must broadcast to {weights}, got {array.shape}")
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _as_factor(scale: Any, query: Array) -> tuple[Array, float]:
    """Return the queries, and what their products are multiplied with."""
    if scale is None:
        return query, 1.0 / math.sqrt(max(1, query.shape[-1]))
    if not isinstance(scale, Array):
        return query, as_finite(scale, "scale")
    return query * as_scalar(scale, "scale").astype(query.dtype), 1.0


class _Positions:
    """Positions of queries and keys in the whole, and which of them see each other."""

    def __init__(self, batch: Any, queries: Any, keys: Any, start: Array | None) -> None:
        self.batch = batch
        self.queries, self.keys = jnp.arange(queries)[:, None], jnp.arange(keys)[None]
        if start is not None:
            self.queries, self.keys = self.queries + start[2], self.keys + start[3]

    def window(self, size: Any) -> Array:
        """Return whether keys are near queries."""
        sizes = as_shape(size, "local_window_size")
        if len(sizes) == 1 and hasattr(size, "__index__"):
            sizes *= 2
        if len(sizes) != 2:
            raise ValueError(f"local_window_size must be an int or two ints, got {size!r}")
        before, after = (min(n, jnp.iinfo(jnp.int32).max) for n in sizes)
        distance = self.queries - self.keys
        return ((distance <= before) & (-distance <= after))[None, None]

    def valid_keys(self, lengths: Any) -> Array:
        """Return whether keys are before the ends of their sequences."""
        lengths = self._lengths(lengths, "key_value_seq_lengths")
        return self.keys[None, None] < lengths[:, None, None, None]

    def valid_queries(self, lengths: Any) -> Array:
        """Return the same of queries, with one head."""
        lengths = self._lengths(lengths, "query_seq_lengths")
        return self.queries[None] < lengths[:, None, None]

    def _lengths(self, lengths: Any, name: str) -> Array:
        array = _as_array(lengths, name)
        if array.shape != (self.batch,) or not jnp.issubdtype(array.dtype, jnp.integer):
            got = f"{array.dtype} of shape {array.shape}"
            raise TypeError(f"{name} must be integers of shape ({self.batch},), got {got}")
        return array
