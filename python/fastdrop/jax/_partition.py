"""The rule by which XLA partitions calls: each device draws its shard's part of the mask.

XLA would otherwise gather a sharded array before a call, because a custom call is opaque to it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

try:  # JAX tells only primitives in this set on which devices a function runs
    from jax._src.dispatch import prim_requires_devices_during_lowering
except ImportError:
    prim_requires_devices_during_lowering = set()

UNKNOWN = -1
"""A length in `whole` that is only known at run time: the next of the operand `lengths`."""

Names: TypeAlias = tuple[str | None, ...]
"""Names of the axes of an array, which arrays with the same names are split along alike. None for
an axis that is not split."""
Shape: TypeAlias = tuple[int, ...]


class Axes(NamedTuple):
    """Names of the axes of a call, without batch axes. Those of a mask's operands have none."""

    operands: tuple[Names, ...]
    results: tuple[Names, ...]
    mask: Names


def mask_ranks(p: float | None, whole: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of axes of words, lengths, p and start; the last may be absent."""
    lengths = (1,) if UNKNOWN in whole else ()
    numbers = () if p is not None else (0,)
    return (1, *lengths, *numbers, 1)


def partition(made: Any, lower: Any, axes_of: Callable[..., Axes], platform: str | None) -> None:
    """Register the rule of a primitive, whose rule of lowering on one device is `lower`.

    Its last operands are those of a mask, and have no axes of their own. `axes_of` takes the
    parameters. The axes of a name may also have length 1, or be multiples of the shortest: heads of
    queries that share keys.
    """

    def rule(context: Any, *operands: Any, **parameters: Any) -> Any:
        if not _is_partitioned(context, parameters["whole"]):
            return lower(context, *operands, **parameters)
        shapes = [[kind.shape for kind in kinds] for kinds in (context.avals_in, context.avals_out)]
        call = _Call(made, axes_of(**parameters), parameters, *shapes)
        split = custom_partitioning(lambda *values: made.bind(*values, **parameters))
        split.def_partition(call.partition, call.inferred, **call.rule())
        return mlir.lower_fun(split, made.multiple_results)(context, *operands)

    prim_requires_devices_during_lowering.add(made)
    mlir.register_lowering(made, rule, platform=platform)


def _is_partitioned(context: Any, whole: Sequence[int]) -> bool:
    """Return whether XLA will partition what is lowered, over a known mesh."""
    module = context.module_context
    axes = module.axis_context
    devices = getattr(axes, "device_assignment", None)
    mesh = getattr(axes, "abstract_mesh", None)
    for_export = getattr(module.lowering_parameters, "for_export", False)
    return bool(devices and len(devices) > 1 and mesh and UNKNOWN not in whole and not for_export)


class _Call:
    """A call whose arrays are sharded."""

    def __init__(
        self, made: Any, axes: Axes, parameters: Any, operands: list[Shape], results: list[Shape]
    ) -> None:
        self.made, self.parameters, self.mask = made, parameters, axes.mask
        others = [(None,) * rank for rank in mask_ranks(parameters["p"], parameters["whole"])]
        inner = [*axes.operands, *others]
        self.has_start = len(operands) == len(inner)
        self.front = len(results[0]) - len(axes.results[0])
        inner = [*inner[: len(operands)], *axes.results]
        self.shapes, self.count = [*operands, *results], len(operands)
        self.lengths: dict[str, set[int]] = {}
        self.names = [
            (*(f"f{n}" for n in range(len(shape) - len(names))), *names)
            for shape, names in zip(self.shapes, inner, strict=True)
        ]
        for shape, names in zip(self.shapes, self.names, strict=True):
            for length, name in zip(shape, names, strict=True):
                if name is not None:
                    self.lengths.setdefault(name, set()).add(length)
        self.units = {name: min(of - {1}, default=1) for name, of in self.lengths.items()}
        self.names = [
            tuple(name if name and length % self.units[name] == 0 else None
                  for length, name in zip(shape, names, strict=True))
            for shape, names in zip(self.shapes, self.names, strict=True)
        ]  # fmt: skip

    def rule(self) -> dict[str, Any]:
        """Return which axes are split alike, in the words of `custom_partitioning`."""
        sizes: dict[str, int] = {}
        kept: list[str] = []
        arrays = []
        for shape, names in zip(self.shapes, self.names, strict=True):
            axes = []
            for length, name in zip(shape, names, strict=True):
                if name is None:
                    kept.append(f"k{len(kept)}")
                    axes.append(kept[-1])
                elif length == self.units[name]:
                    axes.append(name)
                else:
                    shared = f"{name}x{length // self.units[name]}"
                    sizes[shared] = length // self.units[name]
                    axes.append(f"({name} {shared})")
            arrays.append(" ".join(axes))
        equation = " -> ".join(map(", ".join, (arrays[: self.count], arrays[self.count :])))
        return {
            "sharding_rule": equation,
            "reduction_factors": tuple(self._summed(self.names[self.count :])),
            "need_replication_factors": tuple(kept),
            **sizes,
        }

    def _summed(self, results: Sequence[Names]) -> list[str]:
        """Return the names that no result has."""
        return [name for name in self.lengths if not any(name in names for names in results)]

    def inferred(self, mesh: Any, arguments: Any, results: Any) -> Any:
        """Return how results are split, from the operands."""
        split = self._split(mesh, arguments, self.names)
        made = [self._sharding(mesh, names, split) for names in self.names[self.count :]]
        return made if self.made.multiple_results else made[0]

    def partition(self, mesh: Any, arguments: Any, results: Any) -> Any:
        """Return how a device computes its shard, and how operands and results are split."""
        of_results = self.names[self.count :]
        kinds = jax.tree.leaves(results)
        split = self._split(mesh, [*kinds, *arguments], [*of_results, *self.names])
        shardings = [self._sharding(mesh, names, split) for names in self.names]
        made = shardings[self.count :]
        local = functools.partial(self._local, mesh, split)
        return (
            mesh,
            local,
            made if self.made.multiple_results else made[0],
            tuple(shardings[: self.count]),
        )

    def _split(self, mesh: Any, arrays: Any, names: Sequence[Names]) -> dict[str, Sequence[str]]:
        """Return the axes of the mesh that each name is split over; all shards have one length."""
        split: dict[str, Sequence[str]] = {}
        for array, own in zip(arrays, names, strict=False):
            for axes, name in zip(array.sharding.spec, own, strict=False):
                axes = (axes,) if isinstance(axes, str) else axes or ()
                used = {axis for others in split.values() for axis in others}
                parts = math.prod(mesh.shape[axis] for axis in axes)
                if (
                    name
                    and name not in split
                    and self.units[name] % parts == 0
                    and not used & {*axes}
                ):
                    split[name] = axes
        return split

    def _sharding(self, mesh: Any, names: Names, split: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(split.get(name) or None for name in names)))

    def _local(self, mesh: Any, split: Any, *operands: Any) -> Any:
        """Compute a shard, with its part of the mask."""
        others = list(operands)
        first = [self._first(mesh, split, name) for name in self.mask]
        if first:
            offset = jnp.stack([jnp.asarray(at, np.int32) for at in first])
            if self.has_start:
                start = others.pop()
                offset = start + offset.astype(start.dtype)
            others.append(offset.reshape(*(1,) * (self.front + 1 - offset.ndim), *offset.shape))
        made = self.made.bind(*others, **self.parameters)
        several = made if self.made.multiple_results else [made]
        summed = [
            [axis for name in self._summed([names]) for axis in split.get(name, ())]
            for names in self.names[self.count :]
        ]
        several = [
            jax.lax.psum(y, tuple(axes)) if axes else y
            for y, axes in zip(several, summed, strict=True)
        ]
        return several if self.made.multiple_results else several[0]

    def _first(self, mesh: Any, split: Any, name: str | None) -> Any:
        """Return where a device's shard begins, along an axis of the mask."""
        index: Any = 0
        parts = 1
        for axis in split.get(name, ()):
            index = index * mesh.shape[axis] + jax.lax.axis_index(axis)
            parts *= mesh.shape[axis]
        return index * (max(self.lengths[name]) // parts) if name is not None else 0
