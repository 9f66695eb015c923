"""Parts of distributed tensors on a rank. Only a call on a distributed tensor loads this file."""

import math
from typing import Any, NamedTuple

import torch
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
            raise _mixed()
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


def with_axis(y: Tensor, x: Any, length: int) -> DTensor:
    """Do the same for a local part with `length` elements along axis 1, which no rank shards.

    A local part without the other axes of `x` is the same on the ranks that shard these.
    """
    shape = (x.shape[0], length, *x.shape[2 : y.dim()])
    placements = [
        one if not isinstance(one, Shard) or one.dim < y.dim() else Replicate()
        for one in x.placements
    ]
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return DTensor.from_local(
        y, x.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def replicated(y: Tensor, x: Any) -> DTensor:
    """Return a tensor that all ranks of `x` have."""
    mesh = x.device_mesh
    return DTensor.from_local(y, mesh, [Replicate()] * mesh.ndim, run_check=False)


class Factors(NamedTuple):
    """Local parts of the factors of a product ``x @ weight.T``."""

    local: tuple[Tensor, Tensor]
    start: tuple[int, int, int]
    """Position of the local part of the mask, of shape (examples, outputs, inputs)."""
    placements: list[Any]
    """Placements of the product."""


_PRODUCTS: dict[tuple[Any, Any], tuple[Any, Any, Any]] = {
    (Replicate(), Replicate()): (Replicate(), Replicate(), Replicate()),
    (Shard(0), Replicate()): (Shard(0), Shard(0), Partial()),
    (Replicate(), Shard(0)): (Shard(1), Partial(), Shard(0)),
    (Shard(1), Shard(1)): (Partial(), Shard(1), Shard(1)),
}
"""Placements of a product and of both gradients, by those of the factors."""


def factors(x: Any, weight: Any) -> Factors:
    """Return the local parts of the factors of a linear map, with two axes each."""
    for one in (x, weight):
        if not isinstance(one, DTensor):
            raise _mixed()
    pairs = list(zip(x.placements, weight.placements, strict=True))
    if not set(pairs) <= set(_PRODUCTS):
        raise RuntimeError(
            "input and weight must be sharded as for a linear map, by examples, outputs or "
            f"inputs, got {x.placements} and {weight.placements}; redistribute one"
        )
    product, of_x, of_weight = zip(*(_PRODUCTS[pair] for pair in pairs), strict=True)
    local = x.to_local(grad_placements=of_x), weight.to_local(grad_placements=of_weight)
    (n, i), (o, _) = _place(x)[0], _place(weight)[0]
    return Factors(local, (n, o, i), list(product))


def product(y: Tensor, x: Any, weight: Any, placements: list[Any]) -> DTensor:
    """Return the product whose local part is `y`."""
    shape = torch.Size((x.shape[0], weight.shape[0]))
    return DTensor.from_local(
        y, x.device_mesh, placements, run_check=False, shape=shape, stride=(shape[1], 1)
    )


def _mixed() -> RuntimeError:
    return RuntimeError(
        "all tensors of a call must be DTensors if one is, got a torch.Tensor; use "
        "distribute_tensor"
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
