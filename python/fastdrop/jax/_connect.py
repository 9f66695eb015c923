"""A linear map with a mask of its connections for each example (DropConnect), as one primitive.

For one mask, the sum of dy_no W_oi x_ni over kept connections is linear in dy, W and x. The
primitive computes the derivative with respect to one of them from the two others, so its own
derivatives are such calls again. Products of dropped connections are 0 also where a factor is NaN.
"""

import math
from typing import Any, Unpack

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.interpreters import ad

from fastdrop._family.connect import GRADIENTS, TILE
from fastdrop.jax._arguments import drawn_words
from fastdrop.jax._call import Call, as_elements, decide, request_of
from fastdrop.jax._partition import Axes, mask_ranks
from fastdrop.jax._primitive import apply, primitive, split, summed, varying


def drop_connect_linear(
    x: Any, weight: Any, bias: Any = None, p: Any = 0.5, **call: Unpack[Call]
) -> Array:
    r"""Map linearly, with connections dropped at random for each example.

    .. math:: y_{n o} = \frac{1}{1 - p} \sum_i m_{n o i} \, W_{o i} \, x_{n i} + b_o,
              \qquad m_{n o i} \sim Bernoulli(1 - p)

    See Wan et al., "Regularization of neural networks using DropConnect", ICML 2013.

    Parameters
    ----------
    x : array of float or complex, shape (..., inputs)
        Examples along all axes but the last, of any dtype of `dropout`.
    weight, bias : array of float or complex, shapes (outputs, inputs) and (outputs,)
        The weights and the bias, which is optional and never dropped.
    p : float or array of float, default 0.5
        Probability to DROP a connection, in [0, 1].
    key, deterministic
        See `dropout`.
    whole, start
        See `dropout`; they place the connections of this call, (examples, outputs, inputs).

    Returns
    -------
    Array, shape (..., outputs)
        Outputs, of the dtype that JAX promotes all arrays to; computed in at least float32.

    Examples
    --------
    >>> x, weight = jax.numpy.ones((3, 4)), jax.numpy.ones((2, 4))
    >>> fastdrop.jax.drop_connect_linear(x, weight, key=fd.Key(0))
    Array([[6., 4.],
           [2., 4.],
           [8., 4.]], dtype=float32)
    """
    given = [as_elements(x, "x"), as_elements(weight, "weight")]
    if bias is not None:
        given.append(as_elements(bias, "bias"))
    x, weight, *others = given
    if weight.ndim != 2:
        raise ValueError(f"weight must have the shape (outputs, inputs), got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have the shape (..., {weight.shape[1]}), got {x.shape}")
    if others and others[0].shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {weight.shape[:1]}, got {others[0].shape}")
    dtype = jnp.result_type(*given)
    x, weight, *others = (array.astype(jnp.promote_types(dtype, np.float32)) for array in given)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    draw = decide(
        request_of(drop_connect_linear, p, call), (rows.shape[0], *weight.shape), name="connections"
    )
    if draw.keeps is not None:
        y = rows @ weight.T if draw.keeps else jnp.zeros((rows.shape[0], len(weight)), x.dtype)
    else:
        words, drawn, lengths, first = draw.operands
        known = [n for n in (lengths, draw.rate, first) if n is not None]
        operands = varying(rows, weight, drawn_words(words, drawn), *known)
        (y,) = _connect.bind(*operands, wanted="outputs", p=draw.p, whole=draw.whole)
        y *= draw.scale
    y = y.reshape(*x.shape[:-1], len(weight))
    return (y + others[0] if others else y).astype(dtype)


_SUMMED = {"outputs": -1, "inputs": -2, "weights": -3}
"""The axis of (examples, outputs, inputs) that is summed over."""


def _ranks(count: int, *, p: float | None, whole: tuple[int, ...], **_: Any) -> tuple[int, ...]:
    return (2, 2, *mask_ranks(p, whole))[:count]


def _factors(first: Any, second: Any, wanted: str) -> tuple[Any, Any]:
    """Return both inputs with the axes (examples, outputs, inputs)."""
    first = jnp.expand_dims(first, -2 if wanted == "outputs" else -1)
    return first, jnp.expand_dims(second, -2 if wanted == "weights" else -3)


def _results(first: Any, second: Any, *_: Any, wanted: str, **options: Any) -> Any:
    lengths = [first.shape[-2], *_connections(first, second, wanted)]
    del lengths[_SUMMED[wanted]]
    return [(tuple(lengths), first.dtype)]


def _compute(
    first: Any, second: Any, *others: Any, wanted: str, p: float | None, whole: tuple[int, ...]
) -> list[Array]:
    """Compute the call, for some examples at a time, whose products stay in the cache."""
    ranks = _ranks(2 + len(others), p=p, whole=whole)
    front, _ = split((first, second, *others), ranks)
    examples, connections = first.shape[-2], math.prod(_connections(first, second, wanted))
    both = wanted == "weights"
    has_start = len(others) == len(mask_ranks(p, whole))

    def tile(at: Any, count: Any) -> Array:
        some = [
            jax.lax.dynamic_slice_in_dim(x, at, count, x.ndim - 2) if count != examples else x
            for x in ((first, second) if both else (first,))
        ]
        products = jnp.multiply(*_factors(some[0], some[1] if both else second, wanted))
        offset = jnp.stack([jnp.asarray(at, np.int32), np.int32(0), np.int32(0)])
        start = others[-1] + offset.astype(others[-1].dtype) if has_start else offset
        known = others[:-1] if has_start else others
        start = start.reshape(*(1,) * (len(front) + 1 - start.ndim), *start.shape)
        kept = apply.bind(
            *varying(products, *known, start), p=p, whole=whole, operation="keep", temperature=None
        )
        return kept.sum(_SUMMED[wanted])

    rows = max(1, TILE // max(1, connections * math.prod(front)))
    if not isinstance(examples, int) or examples <= rows:
        return [tile(0, examples)]
    count, rest = divmod(examples, rows)
    last = [tile(count * rows, rest)] if rest else []
    if both:
        zeros = jnp.zeros((*front, *_connections(first, second, wanted)), first.dtype)
        total = jax.lax.fori_loop(0, count, lambda n, y: y + tile(n * rows, rows), zeros)
        return [sum(last, total)]
    parts = jnp.moveaxis(jax.lax.map(lambda n: tile(n * rows, rows), jnp.arange(count)), 0, -3)
    parts = parts.reshape(*front, count * rows, parts.shape[-1])
    return [jnp.concatenate([parts, *last], -2)]


def _connections(first: Any, second: Any, wanted: str) -> tuple[Any, Any]:
    return first.shape[-1] if wanted == "weights" else second.shape[-2], second.shape[-1]


def _axes(*, wanted: str, **_: Any) -> Axes:
    first, second, result = {
        "outputs": ("ni", "oi", "no"), "inputs": ("no", "oi", "ni"), "weights": ("no", "ni", "oi")
    }[wanted]  # fmt: skip
    return Axes((tuple(first), tuple(second)), (tuple(result),), ("n", "o", "i"))


_connect = primitive("connect", _ranks, _results, _compute, _axes)


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    first, second, *others = primals
    pairs = (tangents[0], second), (first, tangents[1])
    parts = [
        _connect.bind(*varying(*pair, *others), **parameters)[0]
        for pair in pairs
        if not any(isinstance(x, ad.Zero) for x in pair)
    ]
    return _connect.bind(*primals, **parameters), [sum(parts[1:], parts[0])]


def _transpose(cotangents: Any, first: Any, second: Any, *others: Any, **parameters: Any) -> Any:
    (dy,) = cotangents
    wanted = parameters.pop("wanted")
    gradients: list[Any] = [None, None]
    known = {"dy": dy, "first": first, "second": second}
    for n, (x, call) in enumerate(zip((first, second), GRADIENTS[wanted], strict=True)):
        if ad.is_undefined_primal(x):
            gradients[n] = ad.Zero(x.aval)
            if not isinstance(dy, ad.Zero):
                which, one, other = call
                operands = varying(known[one], known[other], *others)
                (gradient,) = _connect.bind(*operands, wanted=which, **parameters)
                gradients[n] = summed(gradient, x.aval, 2)
    return [*gradients, *[None] * len(others)]


ad.primitive_jvps[_connect] = _jvp
ad.primitive_transposes[_connect] = _transpose
