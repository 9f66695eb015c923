"""One call on tensors: its settings, and how the core computes it.

`in_core` computes a call on plain tensors. `_autograd` adds gradients, `_operator` lets torch trace
a call, and `_dispatch` chooses between them.
"""

import math
import operator
import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from fastdrop import _core
from fastdrop._base.arguments import REAL_DTYPES
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.members import Member, Numbers, drawn_shape
from fastdrop._family.blocks import BlockMask, block_mask
from fastdrop.torch._memory import Storages

LARGE = _core.LARGE
"""Size in bytes from which `_blocks` lends the memory of a result."""

KEPT = 2**28
"""Limit in bytes for the memory of such results, including memory in use."""

DTYPES = frozenset(getattr(torch, name) for name in REAL_DTYPES)

NO_MASK = "return_mask must be False in a compiled or transformed function, got True"
"""Error of calls whose mask cannot be told."""

RELAXED = "relaxed"
"""Operation of concrete dropout. Its second input is the logit; its numbers are 1, the temperature,
and how many derivatives with respect to the logit it takes. A third input is overwritten: it times
the first and the derivative."""

_PLAIN = (Tensor, torch.nn.Parameter)

_alias = operator.attrgetter("data")
_forward = _core.forward_tensors
_threads = torch.get_num_threads
_transforms_are_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state


class How(NamedTuple):
    """Settings of a call, without its tensors and key."""

    operation: str
    p: float
    shared: tuple[int, ...]
    """Axes along which elements share a decision."""
    numbers: Numbers
    block: tuple[int, ...] = ()
    """Axis of the channels and lengths of the blocks that are dropped, if any."""
    dtype: torch.dtype | None = None
    """Dtype of the result, if it differs from the promoted dtype of the inputs."""

    @classmethod
    def of(
        cls, member: Member, p: float, shared: tuple[int, ...] = (), mode: str | None = "inverted"
    ) -> "How":
        """Return the settings of a call of a member of the family."""
        return cls(member.operation, p, shared, member.numbers(p, mode))

    @property
    def linear(self) -> "How":
        """Settings of its linear part, which is the gradient of a linear call."""
        if self.operation in ("select", "noise", "complement"):
            return self
        return self._replace(operation="select", numbers=Numbers(self.numbers.scale))

    def gradient(self, which: int) -> "How | None":
        """Return the settings of the linear call on dy for an input's gradient; None if it is dy.

        For an activation, it is the part of the gradient that drops.
        """
        if which == 0 or (self.operation == "bias_add" and which == 1):
            return self.linear
        if self.operation == "switch":
            return self._replace(operation="complement")
        if self.operation == "mix":
            return self._replace(operation="select", numbers=Numbers(self.numbers.shift))
        return None


def recipe_of(how: How, source: Any, shape: tuple[int, ...]) -> Mask | BlockMask:
    """Return the mask of a call: `source` itself, or the one that a key draws."""
    if type(source) is not Key:
        return source
    if how.block:
        axis, *lengths = how.block
        return block_mask(
            drawn_shape(shape, how.shared), how.p, source, tuple(lengths), channel_axis=axis
        )
    return make_mask(drawn_shape(shape, how.shared), how.p, source)


def is_distributed(x: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(x, loaded.DTensor)


def leaves_process() -> bool:
    """Return whether torch records a call for a program that leaves this process."""
    return _is_exporting() or _tracing() is not None


def _is_exporting() -> bool:
    return torch.compiler._is_exporting_flag if _BY_FLAG else torch.compiler.is_exporting()


_BY_FLAG = torch.__version__ < "2.12"
"""Whether what Dynamo compiles takes `is_exporting()` for true."""


def is_plain(inputs: tuple[Tensor, ...]) -> bool:
    """Return whether a call can go straight to the core."""
    if (
        torch.compiler.is_compiling()
        or _transforms_are_active()
        or _dispatch_modes()
        or _tracing() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    for x in inputs:  # noqa: SIM110, a generator is measurable in small calls
        if type(x) not in _PLAIN or not x.is_cpu or x.is_neg():
            return False
    return True


def takes(x: Tensor) -> bool:
    """Return whether fastdrop has kernels for a tensor."""
    return (
        (type(x) in _PLAIN or not _is_foreign(x))
        and (x.is_cpu or x.is_meta)
        and x.layout is torch.strided
        and not x.is_nested
        and x.dtype in DTYPES
    )


def _is_foreign(x: Tensor) -> bool:
    """Return whether a tensor's class runs operators itself, and may know only torch's."""
    dispatch = type(x).__torch_dispatch__
    if dispatch is Tensor.__torch_dispatch__ or isinstance(x, (FakeTensor, FunctionalTensor)):
        return False
    if not is_distributed(x):
        return True
    known: Any = sys.modules["torch.distributed.tensor"]
    known = known.Shard, known.Replicate, known.Partial
    return any(not isinstance(placement, known) for placement in x.placements)  # strided shards


def in_core(how: How, source: Any, inputs: tuple[Tensor, ...], inplace: bool = False) -> Tensor:
    """Compute a call in the core, with a key, a mask, or a tensor of bool."""
    x = inputs[0]
    out, fresh = (x, False) if inplace else empty_like(x, dtype_of(how, inputs))
    operation, p, shared, numbers, block, _ = how
    if operation == RELAXED:
        x, logit, *terms = inputs
        inputs = (x, *terms)
        numbers = numbers._replace(scale=float(logit.detach()))
    if block or type(source) is BlockMask:
        source = recipe_of(how, source, x.shape).to_numpy()
    target = out
    if x.numel() >= _core.DETACH:
        # Aliases keep the memory alive: other threads may meanwhile take it from the tensors.
        inputs = (x.data,) if len(inputs) == 1 else tuple(map(_alias, inputs))
        target = inputs[0] if inplace else out  # no other thread has a new result
        source = source.data if type(source) is not Key and isinstance(source, Tensor) else source
    _forward(operation, inputs, target, source, p, shared, numbers, fresh, _threads())
    return out


def lent(*tensors: Any) -> tuple[Any, ...]:
    """Return what the core reads and writes: aliases, because others may empty the tensors."""
    return tuple([None if x is None else x.data for x in tensors])


def dtype_of(
    how: How, inputs: tuple[Tensor, ...], batched: tuple[bool, ...] = (False, False, False)
) -> torch.dtype:
    """Return the dtype of a result: that of `how`, or else of the inputs' sum.

    As in torch, an input without axes, not counting that of a batch, does not promote one with
    axes.
    """
    if how.dtype is not None:
        return how.dtype
    x = inputs[0]
    dtype = x.dtype
    if len(inputs) == 1:
        return dtype
    for n, other in enumerate(inputs[1:], 1):
        if other.dtype is not dtype and (other.dim() > batched[n] or x.dim() == batched[0]):
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def empty_like(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Return a new tensor of the layout of `x`, and whether its memory is new."""
    if x.numel() * dtype.itemsize < LARGE:
        y = torch.empty_like(x) if dtype is x.dtype else torch.empty_like(x, dtype=dtype)
        return y, True
    like = x if x.is_contiguous() else torch.empty_like(x, device="meta")
    return empty(like.shape, like.stride(), dtype)


def empty(
    shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, bool]:
    """Return a new tensor without holes, and whether its memory is new."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty_strided(shape, stride, dtype=dtype, device="cpu"), True
    return _blocks.lend(size, dtype, shape, stride)


_blocks = Storages(KEPT)
os.register_at_fork(after_in_child=_blocks.forget)
