"""Attention as primitives: its result, its tangent, and its gradients.

The compiled core computes the result and the gradients. The tangent and derivatives of gradients go
by the unfused formula, which stores all weights, with the mask drawn again.

Operands are queries, keys and values, of four axes in JAX's order; the bias, if there is one; and
words, lengths, p and start of the mask, as for dropout. `lse` has no gradient.
"""

import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.interpreters import ad

from fastdrop.jax._partition import Axes, mask_ranks
from fastdrop.jax._primitive import apply, primitive, split, summed, varying


def _ranks(
    count: int, *, p: float | None, whole: tuple[int, ...], bias: bool, **_: Any
) -> tuple[int, ...]:
    return (*(4,) * (3 + bias), *mask_ranks(p, whole))[:count]


def _tangent_ranks(count: int, *, moves_bias: bool, **options: Any) -> tuple[int, ...]:
    moved = (4,) * (3 + moves_bias)
    return (*moved, 4, 3, *_ranks(count - len(moved) - 2, **options))


def _gradient_ranks(count: int, **options: Any) -> tuple[int, ...]:
    return (4, 4, 3, *_ranks(count - 3, **options))


_HEADS = ("b", None, "h", None)
_ROWS = _HEADS[:3]
_WEIGHTS = ("b", "h", None, None)


def _axes(*, bias: bool, **_: Any) -> Axes:
    return Axes((_HEADS,) * 3 + (_WEIGHTS,) * bias, (_HEADS, _ROWS), _WEIGHTS)


def _gradient_axes(results: tuple[Any, ...], *, bias: bool, **_: Any) -> Axes:
    return Axes((_HEADS, _HEADS, _ROWS, *_axes(bias=bias).operands), results, _WEIGHTS)


def _computed(x: Any) -> Any:
    """Return the dtype that is computed in."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _results(q: Any, k: Any, v: Any, *_: Any, **options: Any) -> Any:
    rows = q.shape[-4:-1]
    return ((*rows, v.shape[-1]), q.dtype), (rows, _computed(q))


def _tangents(*operands: Any, moves_bias: bool, **options: Any) -> Any:
    y = operands[3 + moves_bias]
    return [(y.shape[-4:], y.dtype)]


def _gradients(dy: Any, y: Any, lse: Any, q: Any, k: Any, v: Any, *_: Any, **options: Any) -> Any:
    dtypes = _computed(q), q.dtype, q.dtype
    return [(x.shape[-4:], dtype) for x, dtype in zip((q, k, v), dtypes, strict=True)]


def _bias_gradient(
    dy: Any, y: Any, lse: Any, q: Any, k: Any, v: Any, added: Any, *_: Any, **options: Any
) -> Any:
    return [(added.shape[-4:], _computed(q))]


# --- The unfused formula -------------------------------------------------------------------------


def _unfused(
    inputs: Any,
    others: Any,
    *,
    p: float | None,
    whole: tuple[int, ...],
    scale: float,
    causal: bool,
    bias: bool,
) -> Any:
    """Return the result with all weights stored; `others` are the operands after the inputs."""
    dtype = inputs[0].dtype
    computed = _computed(inputs[0])
    q, k, v = (x.astype(computed) for x in inputs[:3])
    (t, n, h), (s, heads) = q.shape[-3:], k.shape[-3:-1]
    grouped = q.reshape(*q.shape[:-2], heads, n // max(heads, 1), h)
    grouped = jnp.moveaxis(grouped, -4, -2)  # key heads, group, queries, features
    keys = jnp.moveaxis(k, -3, -1)[..., None, :, :]  # key heads, 1, features, keys
    scores = scale * jnp.matmul(grouped, keys)
    scores = scores.reshape(*scores.shape[:-4], n, t, s)
    if bias:
        added = inputs[3]
        if added.dtype == bool:
            added = jnp.where(added, 0.0, -jnp.inf)
        scores = scores + added.astype(computed)
    if causal:
        rows, columns = jnp.arange(t)[:, None], jnp.arange(s)[None]
        ahead = jnp.expand_dims(rows - columns, range(scores.ndim - 2))
        if len(others) == len(mask_ranks(p, whole)):
            start = others[-1][..., None, None, None, None, :]
            ahead = ahead + start[..., 2] - start[..., 3]
        scores = jnp.where(ahead >= 0, scores, -jnp.inf)
    most = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=-jnp.inf))
    powers = jnp.exp(scores - jnp.where(jnp.isneginf(most), 0.0, most))
    sums = powers.sum(-1, keepdims=True)
    weights = powers / jnp.where(sums == 0.0, 1.0, sums)
    if p == 1.0:
        weights = jnp.zeros_like(weights)  # also where they are NaN, in all derivatives
    elif p != 0.0:
        weights = apply.bind(
            *varying(weights, *others), p=p, whole=whole, operation="scale", temperature=None
        )
    weights = weights.reshape(*weights.shape[:-3], heads, n // max(heads, 1), t, s)
    y = jnp.matmul(weights, jnp.moveaxis(v, -2, -3)[..., None, :, :])
    y = jnp.moveaxis(y, -2, -4)
    y = y.reshape(*y.shape[:-3], n, v.shape[-1]).astype(dtype)
    operands = (*inputs, *others)
    front, _ = split(operands, _ranks(len(operands), p=p, whole=whole, bias=bias))
    return jnp.broadcast_to(y, (*front, *y.shape[-4:]))


def _unfused_gradients(dy: Any, moving: Any, fixed: Any, others: Any, **options: Any) -> Any:
    """Return the gradients of the operands in `moving`, each with all batch axes."""
    operands = (*moving, *fixed, *others)
    ranks = _ranks(len(operands), **options)
    front, _ = split((dy, *operands), (4, *ranks))
    dy, *moving = (jnp.broadcast_to(x, (*front, *x.shape[-4:])) for x in (dy, *moving))
    _, pull = jax.vjp(functools.partial(_with, fixed, others, **options), *moving)
    gradients = list(pull(dy))
    for at in (0, *range(3, len(moving))):
        gradients[at] = gradients[at].astype(_computed(dy))
    return gradients


def _unfused_tangent(*operands: Any, moves_bias: bool, **options: Any) -> Any:
    count, inputs = 3 + moves_bias, 3 + options["bias"]
    tangents, operands = operands[:count], operands[count + 2 :]
    fixed, others = operands[count:inputs], operands[inputs:]
    f = functools.partial(_with, fixed, others, **options)
    pairs = [jnp.broadcast_arrays(*pair) for pair in zip(operands[:count], tangents, strict=True)]
    return [jax.jvp(f, *zip(*pairs, strict=True))[1]]


def _with(fixed: Any, others: Any, *moving: Any, **options: Any) -> Any:
    """Return the result as a function of the first inputs."""
    return _unfused((*moving, *fixed), others, **options)


# --- Rules ---------------------------------------------------------------------------------------

attend = primitive("attention", _ranks, _results, axes=_axes)
_tangent = primitive("attention_tangent", _tangent_ranks, _tangents, _unfused_tangent)
_backward = primitive(
    "attention_backward", _gradient_ranks, _gradients,
    axes=functools.partial(_gradient_axes, (_HEADS,) * 3),
)  # fmt: skip
_bias_backward = primitive(
    "attention_bias_gradient", _gradient_ranks, _bias_gradient,
    axes=functools.partial(_gradient_axes, (_WEIGHTS,)),
)  # fmt: skip


def _moving(operands: Any, tangents: Any, bias: bool) -> tuple[int, list[Any]]:
    """Return how many inputs have tangents (the bias only if it needs one), and these tangents."""
    has_gradient = bias and operands[3].dtype != bool
    count = 4 if has_gradient and type(tangents[3]) is not ad.Zero else 3
    return count, [ad.instantiate_zeros(tangent) for tangent in tangents[:count]]


def _attend_jvp(operands: Any, tangents: Any, **options: Any) -> Any:
    y, lse = attend.bind(*operands, **options)
    count, moved = _moving(operands, tangents, options["bias"])
    dy = _tangent.bind(*varying(*moved, y, lse, *operands), moves_bias=count == 4, **options)
    return [y, lse], [*dy, ad.Zero(jax.typeof(lse))]


def _tangent_jvp(operands: Any, tangents: Any, **options: Any) -> Any:
    # y and lse follow from the inputs, and the formula does not read them.
    count = 3 + options["moves_bias"]
    at = [*range(count), *range(count + 2, count + 5 + options["bias"])]
    at = [n for n in at if jnp.issubdtype(operands[n].dtype, jnp.floating)]

    def f(*moved: Any) -> Any:
        every = list(operands)
        for n, x in zip(at, moved, strict=True):
            every[n] = x
        return _unfused_tangent(*every, **options)

    moved = [ad.instantiate_zeros(tangents[n]) for n in at]
    _, dy = jax.jvp(f, [operands[n] for n in at], moved)
    return _tangent.bind(*operands, **options), dy


def _tangent_transpose(cotangents: Any, *operands: Any, moves_bias: bool, **options: Any) -> Any:
    (dy,) = cotangents
    count = 3 + moves_bias
    moving, others = operands[:count], operands[count:]
    needed = [ad.is_undefined_primal(x) for x in moving]
    if isinstance(dy, ad.Zero):
        zeros = [ad.Zero(x.aval) if needed[n] else None for n, x in enumerate(moving)]
        return [*zeros, *[None] * len(others)]
    known = varying(dy, *others)
    gradients = _backward.bind(*known, **options) if any(needed[:3]) else [None] * 3
    if any(needed[3:]):
        gradients += _bias_backward.bind(*known, **options)
    gradients = [
        summed(gradients[n], x.aval, 4).astype(x.aval.dtype) if needed[n] else None
        for n, x in enumerate(moving)
    ]
    return [*gradients, *[None] * len(others)]


def _gradients_jvp(made: Any, at: slice, operands: Any, tangents: Any, **options: Any) -> Any:
    # y and lse as in `_tangent_jvp`.
    inputs = 6 + options["bias"]
    last = 6 + (options["bias"] and operands[6].dtype != bool)
    places = [0, *range(3, last)]
    fixed, others = operands[last:inputs], operands[inputs:]

    def f(dy: Any, *moved: Any) -> Any:
        return _unfused_gradients(dy, moved, fixed, others, **options)[at]

    moved = [ad.instantiate_zeros(tangents[n]) for n in places]
    _, changes = jax.jvp(f, [operands[n] for n in places], moved)
    return made.bind(*operands, **options), changes


ad.primitive_jvps[attend] = _attend_jvp
ad.primitive_jvps[_tangent] = _tangent_jvp
ad.primitive_transposes[_tangent] = _tangent_transpose
ad.primitive_jvps[_backward] = functools.partial(_gradients_jvp, _backward, slice(3))
ad.primitive_jvps[_bias_backward] = functools.partial(_gradients_jvp, _bias_backward, slice(3, 4))
