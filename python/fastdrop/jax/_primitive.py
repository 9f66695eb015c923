"""Primitives of JAX over the compiled core's handlers: dropout, uniforms, blocks of random bits.

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
from fastdrop.jax._partition import Axes, Names, mask_ranks, partition

OPERATIONS = ("scale", "keep", "complement", "noise", "relaxed")
"""Work of `apply`, by the numbers of the handler. For the last, p is a logit."""

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


def primitive(
    name: str, ranks: Any, results: Any = None, function: Any = None, axes: Any = None
) -> Any:
    """Make a primitive whose operands may have leading batch axes, of the result's length or 1.

    `ranks` returns the number of other axes of each operand, from the parameters. `results` returns
    shapes and dtypes without the batch axes, from operands and parameters; if not given, there is
    one result like the first operand. `function` computes the result where no handler does. `axes`
    returns the `Axes` of a call whose arrays may be sharded.
    """
    made = jax.extend.core.Primitive(f"fastdrop_{name}")
    made.multiple_results = results is not None

    def abstract(first: Any, *others: Any, **parameters: Any) -> Any:
        operands = (first, *others)
        front, inner = split(operands, ranks(len(operands), **parameters))
        if results is None:
            return first.update(shape=(*front, *inner[0]))
        return [
            first.update(shape=(*front, *shape), dtype=np.dtype(dtype), weak_type=False)
            for shape, dtype in results(*operands, **parameters)
        ]

    def batched(operands: Any, dims: Any, **parameters: Any) -> Any:
        moved = [
            x[None] if dim is None else jnp.moveaxis(x, dim, 0)
            for x, dim in zip(operands, dims, strict=True)
        ]
        y = made.bind(*moved, **parameters)
        return y, [0] * len(y) if made.multiple_results else 0

    made.def_impl(functools.partial(xla.apply_primitive, made))
    made.def_abstract_eval(abstract)
    batching.primitive_batchers[made] = batched
    lower = mlir.lower_fun(function, made.multiple_results) if function else lowering(name)
    platform = None if function else "cpu"
    if axes is None:
        mlir.register_lowering(made, lower, platform=platform)
    else:
        partition(made, lower, axes, platform)
    return made


def split(operands: Any, ranks: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """Return the lengths of the batch axes, and the other lengths of each operand."""
    at = [x.ndim - rank for x, rank in zip(operands, ranks, strict=True)]
    front = jnp.broadcast_shapes(*(x.shape[:n] for x, n in zip(operands, at, strict=True)))
    return front, [x.shape[n:] for x, n in zip(operands, at, strict=True)]


def summed(gradient: Any, like: Any, inner: int) -> Any:
    """Sum a gradient over the batch axes that its operand is repeated along."""
    front = gradient.ndim - inner
    repeated = [n for n in range(front) if like.shape[n] != gradient.shape[n]]
    return gradient.sum(repeated, keepdims=True) if repeated else gradient


def lowering(name: str) -> Any:
    """Return the rule that makes a primitive a call of the handler of this name."""
    lower = jax.ffi.ffi_lowering(f"fastdrop.{name}")

    def rule(context: Any, *operands: Any, **parameters: Any) -> Any:
        kinds: dict[str, Any] = {
            "p": np.float64,
            "whole": lambda n: np.array(n, np.int64),
            "operation": lambda name: np.int64(OPERATIONS.index(name)),
            "temperature": np.float64,
            "tag": np.int64,
            "scale": np.float64,
            "causal": np.int64,
            "bias": np.int64,
        }
        attributes = {
            n: kinds[n](value)
            for n, value in parameters.items()
            if n in kinds and value is not None and value != OPERATIONS[0]
        }
        return lower(context, *operands, **attributes)

    return rule


def _ranks(count: int, *, p: float | None, whole: tuple[int, ...], **_: Any) -> tuple[int, ...]:
    return (len(whole), *mask_ranks(p, whole))[:count]


def _uniforms_ranks(count: int, *, whole: tuple[int, ...], **_: Any) -> tuple[int, ...]:
    return mask_ranks(0.5, whole)[:count]


def _uniforms_results(*operands: Any, shape: tuple[int, ...], **_: Any) -> Any:
    return [((*shape, 2), np.uint32)]


def _axes(*, whole: tuple[int, ...], **_: Any) -> Axes:
    names: Names = tuple(f"e{axis}" for axis in range(len(whole)))
    drawn = tuple(None if n == 1 else name for n, name in zip(whole, names, strict=True))
    return Axes((names,), (names,), drawn)


apply = primitive("dropout", _ranks, axes=_axes)
uniforms = primitive("uniforms", _uniforms_ranks, _uniforms_results)
blocks = primitive("blocks", lambda count, *, tag: (1, 0))


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    # Only x has a tangent: p and logits are constant, and the rest are integers.
    tangent = ad.instantiate_zeros(tangents[0])
    y = apply.bind(*primals, **parameters)
    return y, apply.bind(*varying(tangent, *primals[1:]), **parameters)


def _transpose(cotangent: Any, x: Any, *others: Any, **parameters: Any) -> Any:
    nothing = [None] * len(others)
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval), *nothing]
    gradient = apply.bind(cotangent, *others, **parameters)
    return [summed(gradient, x.aval, len(parameters["whole"])), *nothing]


ad.primitive_jvps[apply] = _jvp
ad.primitive_transposes[apply] = _transpose
