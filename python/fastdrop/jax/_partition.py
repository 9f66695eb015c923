"""The rule by which XLA partitions dropout: each device draws its shard's part of the mask.

XLA would otherwise gather a sharded array before the call, because a custom call is opaque to it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from fastdrop.jax._primitive import UNKNOWN, apply, lowering, mask_ranks

try:  # JAX tells only primitives in this set on which devices a function runs
    from jax._src.dispatch import prim_requires_devices_during_lowering
except ImportError:
    pass
else:
    prim_requires_devices_during_lowering.add(apply)

Spec = tuple[Any, ...]
"""The axes of a mesh that each axis of an array is split over: names in a tuple."""


def _is_partitioned(context: Any, whole: Sequence[int]) -> bool:
    """Return whether XLA will partition what is lowered, over a known mesh."""
    module = context.module_context
    axes = module.axis_context
    devices = getattr(axes, "device_assignment", None)
    mesh = getattr(axes, "abstract_mesh", None)
    for_export = getattr(module.lowering_parameters, "for_export", False)
    return bool(devices and len(devices) > 1 and mesh and UNKNOWN not in whole and not for_export)


def _lower(context: Any, *operands: Any, **parameters: Any) -> Any:
    if not _is_partitioned(context, parameters["whole"]):
        return lowering("dropout")(context, *operands, **parameters)
    split = custom_partitioning(lambda *values: apply.bind(*values, **parameters))
    split.def_partition(
        partition=lambda *shapes: _partition(parameters, *shapes),
        infer_sharding_from_operands=lambda mesh, arguments, result: arguments[0].sharding,
        sharding_rule=lambda mesh, *kinds: _rule(parameters, *kinds),
    )
    return mlir.lower_fun(split, multiple_results=False)(context, *operands)


def _followed(shapes: Sequence[Any], result: Sequence[int], parameters: Any) -> list[Spec]:
    """Return for each axis of each operand the axis of the result that it is split with, or None.

    These are all axes of the elements, and the others' axes in front.
    """
    whole = parameters["whole"]
    ranks = (0, *mask_ranks(parameters["p"], whole))
    return [
        tuple(
            axis if axis < len(shape) - rank and length == result[axis] else None
            for axis, length in enumerate(shape)
        )
        for shape, rank in zip(shapes, ranks, strict=False)
    ]


def _rule(parameters: Any, operands: Sequence[Any], results: Sequence[Any]) -> str:
    """Return which axes of operands and result are split alike, as an equation of their names."""
    (result,) = (tuple(kind.shape) for kind in results)
    followed = _followed([tuple(kind.shape) for kind in operands], result, parameters)
    names = [
        " ".join(f"a{n}x{axis}" if of is None else f"e{of}" for axis, of in enumerate(axes))
        for n, axes in enumerate(followed)
    ]
    return ", ".join(names) + " -> " + " ".join(f"e{axis}" for axis in range(len(result)))


def _partition(parameters: Any, mesh: Any, arguments: Any, result: Any) -> Any:
    """Return how a device computes its shard, and how operands and result are split."""
    whole = parameters["whole"]
    spec = _even(mesh, result.sharding.spec, result.shape)
    front = len(result.shape) - len(whole)
    followed = _followed([argument.shape for argument in arguments], result.shape, parameters)
    has_start = len(arguments) == 1 + len(mask_ranks(parameters["p"], whole))

    def local(x: Any, *operands: Any) -> Any:
        others = list(operands)
        # Along an axis that shares decisions, every shard begins at 0.
        first = [
            0 if whole[axis] == 1 else _index(mesh, names) * x.shape[front + axis]
            for axis, names in enumerate(spec[front:])
        ]
        if first:
            offset = jnp.stack([jnp.asarray(at, np.int32) for at in first])
            if has_start:
                start = others.pop()
                offset = start + offset.astype(start.dtype)
            others.append(offset.reshape(*(1,) * (front + 1 - offset.ndim), *offset.shape))
        return apply.bind(x, *others, **parameters)

    def sharding(names: Sequence[Any]) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(axis or None for axis in names)))

    splits = [sharding([of is not None and spec[of] for of in axes]) for axes in followed]
    return mesh, local, sharding(spec), tuple(splits)


def _even(mesh: Any, spec: Any, shape: Sequence[int]) -> Spec:
    """Return how an array is split where all shards have the same length."""
    names = [() if axis is None else (axis,) if isinstance(axis, str) else axis for axis in spec]
    names += [()] * (len(shape) - len(names))
    return tuple(
        axis if length % math.prod(mesh.shape[name] for name in axis) == 0 else ()
        for axis, length in zip(names, shape, strict=True)
    )


def _index(mesh: Any, names: Sequence[str]) -> Any:
    """Return the number of a device among those that an axis is split over."""
    index: Any = 0
    for name in names:
        index = index * mesh.shape[name] + jax.lax.axis_index(name)
    return index


mlir.register_lowering(apply, _lower, platform="cpu")
