"""Parts of distributed tensors on a rank. Only a call on a distributed tensor loads this file."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


class Parts(NamedTuple):
    """Local parts of the tensors of a call."""

    local: tuple[Tensor, ...]
    start: tuple[int, ...]
    """Position of the first input's local part in the whole."""
    shape: tuple[int, ...]


def parts(inputs: tuple[Tensor, ...]) -> Parts:
    """Return the local parts of the tensors of a call, which broadcast to that of the first.

    Every rank must draw the same key: seed torch alike on all of them, as DTensor requires.
    """
    for x in inputs:
        if not isinstance(x, DTensor):
            raise RuntimeError(
                "all tensors of a call must be DTensors if one is, got a torch.Tensor; use "
                "distribute_tensor"
            )
    x, *others = inputs
    if any(not isinstance(placement, (Shard, Replicate)) for placement in x.placements):
        raise RuntimeError(
            f"input must be placed by Shard or Replicate, got {x.placements}; redistribute it first"
        )
    return Parts((x.to_local(), *(_local_like(y, x) for y in others)), *_place(x))


def whole(y: Tensor, x: Any) -> DTensor:
    """Return the tensor of the shape and placements of `x` whose local part is `y`."""
    return DTensor.from_local(
        y, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
    )


def _place(x: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where the local part of a tensor begins in the whole, and its shape."""
    start, shape = [0] * x.dim(), list(x.shape)
    for ranks, rank, placement in zip(
        x.device_mesh.shape, x.device_mesh.get_coordinate(), x.placements, strict=True
    ):
        if isinstance(placement, Shard):
            axis = placement.dim
            part = -(-shape[axis] // ranks)
            first = min(rank * part, shape[axis])
            start[axis] += first
            shape[axis] = min(part, shape[axis] - first)
    return tuple(start), tuple(shape)


def _local_like(other: DTensor, x: DTensor) -> Tensor:
    """Return the part of a tensor that belongs to the local part of `x`, to which it broadcasts."""
    front = x.dim() - other.dim()
    placements: list[Any] = []
    gradients: list[Any] = []
    for placement in x.placements:
        axis = placement.dim - front if isinstance(placement, Shard) else -1
        whole = axis < 0 or other.shape[axis] == 1
        placements.append(Replicate() if whole else Shard(axis))
        # Where the tensor is broadcast along a sharded axis, each rank sums over its part of `x`.
        is_part = whole and isinstance(placement, Shard)
        gradients.append(Partial() if is_part else placements[-1])
    return other.redistribute(x.device_mesh, placements).to_local(grad_placements=gradients)
