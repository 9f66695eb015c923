"""Calls on distributed tensors: each rank drops its part of the mask of the whole."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from fastdrop._key import Key
from fastdrop._recipe import Mask
from fastdrop.blocks import BlockMask
from fastdrop.torch._call import How, call, call_part
from fastdrop.torch._keys import CallKeys


def call_distributed(
    how: How,
    inputs: tuple[Tensor, ...],
    key: Key | Tensor | CallKeys | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
) -> DTensor:
    """Drop in the local part of the first input, as one process would in the whole.

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
    if how.block:
        raise RuntimeError("input of DropBlock must not be a DTensor, got one")
    if type(key) is CallKeys and key.share is not None:
        raise RuntimeError("set_keys must be given no rank for a model of DTensors, got one")
    local = (x.to_local(), *(_local_like(y, x) for y in others))
    start, shape = _place(x)
    if mask is None:
        y = call_part(how, local, False, key, generator, start, tuple(x.shape))
    elif not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask for a DTensor, got {type(mask).__name__}")
    else:
        last = [axis - mask.ndim for axis in range(mask.ndim)]
        at = [0 if mask.shape[axis] == 1 else start[axis] for axis in last]
        extent = [min(mask.shape[axis], shape[axis]) for axis in last]
        y = call(how, local, False, None, None, mask.region(at, extent), False)
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
    """Return the part of a tensor that broadcasts to `x` which belongs to the local part of `x`."""
    front = x.dim() - other.dim()
    placements: list[Any] = []
    gradients: list[Any] = []
    for placement in x.placements:
        axis = placement.dim - front if isinstance(placement, Shard) else -1
        whole = axis < 0 or other.shape[axis] == 1
        placements.append(Replicate() if whole else Shard(axis))
        # Each rank has the sum over its own part of `x`, where the tensor is broadcast along it.
        is_part = whole and isinstance(placement, Shard)
        gradients.append(Partial() if is_part else placements[-1])
    return other.redistribute(x.device_mesh, placements).to_local(grad_placements=gradients)
