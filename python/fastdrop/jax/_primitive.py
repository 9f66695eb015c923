"""Primitives of JAX over the compiled core's handlers: dropout, and blocks of random bits.

Their operands are checked already, and a key is four words. XLA finds a handler by its name, so
fastdrop does not link jaxlib.
"""

import functools
from typing import Any

import jax
import jax.extend.core
import numpy as np
from jax import numpy as jnp
from jax.interpreters import ad, batching, mlir, xla

from fastdrop import _core

UNKNOWN = -1
"""A length in `whole` that is only known at run time: the next of the operand `lengths`."""

for _name, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(f"fastdrop.{_name}", _handler, platform="cpu")


def varying(*operands: Any) -> list[Any]:
    """Mark all operands as varying over each axis of a mesh that any of them varies over."""
    kinds = [_axes_of(jax.typeof(operand)) for operand in operands]
    union = frozenset[Any]().union(*kinds)
    return [
        jax.lax.pcast(operand, tuple(union - kind), to="varying") if kind != union else operand
        for operand, kind in zip(operands, kinds, strict=True)
    ]


def _axes_of(kind: Any) -> frozenset[Any]:
    """Return the axes of a mesh over which a value of this type varies."""
    axes: frozenset[Any] = kind.vma if hasattr(kind, "vma") else kind.mat.varying
    return axes


def _primitive(name: str, rank: Any) -> Any:
    """Make a primitive whose operands may have leading batch axes, of the result's length or 1.

    `rank` returns the number of other axes of each operand, from the parameters.
    """
    primitive = jax.extend.core.Primitive(f"fastdrop_{name}")

    def result(first: Any, *others: Any, **parameters: Any) -> Any:
        operands = (first, *others)
        inner = rank(len(operands), **parameters)
        fronts = [x.shape[: x.ndim - n] for x, n in zip(operands, inner, strict=True)]
        front = jnp.broadcast_shapes(*fronts)
        return first.update(shape=(*front, *first.shape[first.ndim - inner[0] :]))

    def batched(operands: Any, dims: Any, **parameters: Any) -> Any:
        moved = [
            x[None] if dim is None else jnp.moveaxis(x, dim, 0)
            for x, dim in zip(operands, dims, strict=True)
        ]
        return primitive.bind(*moved, **parameters), 0

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, _lowering(name), platform="cpu")
    return primitive


def _lowering(name: str) -> Any:
    lower = jax.ffi.ffi_lowering(f"fastdrop.{name}")

    def rule(context: Any, *operands: Any, **parameters: Any) -> Any:
        kinds: dict[str, Any] = {
            "p": np.float64,
            "whole": lambda n: np.array(n, np.int64),
            "tag": np.int64,
        }
        attributes = {n: kinds[n](value) for n, value in parameters.items() if value is not None}
        return lower(context, *operands, **attributes)

    return rule


def _ranks(count: int, *, p: float | None, whole: tuple[int, ...]) -> tuple[int, ...]:
    lengths = (1,) if UNKNOWN in whole else ()
    numbers = () if p is not None else (0,)
    return (len(whole), 1, *lengths, *numbers, 1)[:count]


apply = _primitive("dropout", _ranks)
blocks = _primitive("blocks", lambda count, *, tag: (1, 0))


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    # The tangent of x is not zero, because no other operand has one: p is constant, and the rest
    # are integers.
    y = apply.bind(*primals, **parameters)
    return y, apply.bind(tangents[0], *primals[1:], **parameters)


def _transpose(cotangent: Any, x: Any, *others: Any, **parameters: Any) -> Any:
    nothing = [None] * len(others)
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval), *nothing]
    gradient = apply.bind(cotangent, *others, **parameters)
    front = gradient.ndim - len(parameters["whole"])
    repeated = [n for n in range(front) if x.aval.shape[n] != gradient.shape[n]]
    return [gradient.sum(repeated, keepdims=True) if repeated else gradient, *nothing]


ad.primitive_jvps[apply] = _jvp
ad.primitive_transposes[apply] = _transpose
