"""Attention as the modules of Flax call it."""

import math
from typing import Any

from jax import Array
from jax import numpy as jnp

from fastdrop.jax import _attention


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    broadcast_dropout: bool = False,
    dropout_rng: Any = None,
    dropout_rate: Any = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: Any = None,
    is_causal: bool = False,
    force_fp32_for_softmax: bool = True,
    **unknown: Any,
) -> Array:
    """Attend to keys, with the arguments of Flax's function: ``attention_fn`` of its modules.

    This is `fastdrop.jax.dot_product_attention`, in one pass that stores no weights. Each weight
    has a decision of its own, whatever `broadcast_dropout` is. Sums are exact to float32, whatever
    `precision` and `force_fp32_for_softmax` are. Weights are never stored, so `module` must be
    None: Flax passes it to sow weights.

    >>> from flax import linen
    >>> import fastdrop.jax.linen
    >>> layer = linen.MultiHeadAttention(
    ...     num_heads=2, dropout_rate=0.1, attention_fn=fastdrop.jax.linen.dot_product_attention
    ... )
    >>> x, rngs = jax.numpy.ones((1, 3, 8)), {"dropout": fastdrop.jax.key(0)}
    >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
    >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
    (1, 3, 8)
    """
    given = {name: value for name, value in unknown.items() if value is not None}
    if module is not None or given:
        name = "module" if module is not None else next(iter(given))
        raise TypeError(
            f"{name} must be None, because attention is one pass that stores no weights"
        )
    arrays = [jnp.asarray(x) for x in (query, key, value)]
    dtype = jnp.result_type(*arrays) if dtype is None else dtype
    *batch, queries, heads, _ = arrays[0].shape
    weights = (*batch, heads, queries, arrays[1].shape[-3])
    # Flax has any number of batch axes.
    one = (math.prod(batch),)
    query, key, value = (x.astype(dtype).reshape(*one, *x.shape[-3:]) for x in arrays)
    bias, mask = (
        x
        if x is None or len(batch) == 1
        else jnp.broadcast_to(x, weights).reshape(*one, *weights[-3:])
        for x in (bias, mask)
    )
    y = _attention.dot_product_attention(
        query,
        key,
        value,
        bias,
        mask if mask is None else jnp.asarray(mask, bool),
        is_causal=is_causal,
        dropout_p=dropout_rate,
        dropout_key=dropout_rng,
        deterministic=deterministic,
    )
    result: Array = y.reshape(*batch, *y.shape[1:])
    return result
