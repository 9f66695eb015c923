"""One call on tensors: its key, its two paths, and its gradient.

Plain tensors on the CPU go straight to the compiled core. Everything else (compilation, export, the
transforms of `torch.func`, forward-mode differentiation, fake and meta tensors, subclasses) goes
through one operator, which torch takes apart. Both do the same, and record the same gradient: that
of a linear call is the call itself, so the key is all that is kept.
"""

import itertools
import operator
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.fx import traceback
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy

from fastdrop import _core
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, inverse_keep, make_mask
from fastdrop._family.blocks import BlockMask, block_mask
from fastdrop.torch._keys import (
    CallKeys,
    Share,
    SharedKey,
    draw,
    draw_key,
    key_tensor,
    words_of_call,
)
from fastdrop.torch._memory import Storages

LARGE = 2**22
"""Bytes from which a result gets its memory from `_blocks`."""

KEPT = 2**28
"""Bytes of memory that are kept for such results, those in use included."""

DTYPES = frozenset([torch.float32, torch.float64, torch.float16, torch.bfloat16])

_PLAIN = (Tensor, torch.nn.Parameter)

_takes_tensors = _core.take_tensors(Tensor)
_alias = operator.attrgetter("data")
_forward, _key_of = _core.forward_tensors, _core.tensor_key
_transforms_are_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_threads = torch.get_num_threads
_grad_enabled = torch.is_grad_enabled
_tracing = torch._C._get_tracing_state
_made_by, _DEFAULT = torch._C._autograd._get_creation_meta, torch._C._autograd.CreationMeta.DEFAULT


class How(NamedTuple):
    """What a call does, apart from its tensors and its key."""

    operation: str
    p: float
    shared: tuple[int, ...]
    """Axes along which elements share a decision."""
    scale: float
    shift: float = 0.0
    fill: float = 0.0
    block: tuple[int, ...] = ()
    """Lengths of the blocks that are dropped, if any."""
    dtype: torch.dtype | None = None
    """Dtype of the result, if it is not what torch promotes the inputs to."""

    @property
    def linear(self) -> "How":
        """The call that is its gradient, where that is linear."""
        if self.operation == "select":
            return self
        return self._replace(operation="select", shift=0.0, fill=0.0)


def call(
    how: How,
    inputs: tuple[Tensor, ...],
    inplace: bool,
    key: Key | Tensor | CallKeys | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
    return_mask: bool,
) -> Any:
    """Drop: with the mask, or with the key, or with one drawn from the generator."""
    x = inputs[0]
    if inplace:
        _check_inplace(x)
    if type(key) is SharedKey:
        how, key = how._replace(shared=tuple({0, *how.shared})), key.key
    if not _is_plain(inputs):
        if return_mask:
            raise RuntimeError(
                "return_mask must be False in a compiled or transformed function, got True"
            )
        y = _transformed(how, inputs, key, generator, mask)
        return x.copy_(y) if inplace else y
    source: Any = mask
    if key is not None:
        if type(key) is CallKeys and key.share is not None:
            return _of_share(how, inputs, inplace, key, key.share)
        source = _key(key, None)
    elif mask is None:
        source = draw_key(generator)
    y = _run(how, source, inputs, inplace)
    return (y, _recipe(how, source, x.shape)) if return_mask else y


def _key(key: Key | Tensor | CallKeys | None, generator: torch.Generator | None) -> Any:
    """Return the key of a call on plain tensors."""
    if key is None:
        return draw_key(generator)
    if type(key) is CallKeys:
        return key.take()
    return key if type(key) is Key else _key_of(key)


def _transformed(
    how: How,
    inputs: tuple[Tensor, ...],
    key: Key | Tensor | CallKeys | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
) -> Any:
    """Return the result of a call that does not go straight to the core."""
    drawn = mask is None and generator is None and (how.p == 0.0 or type(key) in (_NONE, CallKeys))
    distributed = any(_is_distributed(x) for x in inputs)
    if distributed and not (drawn and how.p == 0.0):
        return _on_ranks(how, inputs, key, generator, mask)
    if drawn and (distributed or torch.compiler.is_exporting() or _tracing() is not None):
        if not how.block and _tracing() is None:
            return _in_their_operators(how, *inputs)
        if type(key) is CallKeys:
            key = None  # the keys of a module stay in this process
    if type(key) is CallKeys and key.share is not None:
        return _of_share(how, inputs, False, key, key.share)
    words, region = (_words(key, generator), None) if mask is None else _parts(mask)
    return _operate(how, words, region, inputs)


_NONE = type(None)


def _on_ranks(
    how: How,
    inputs: tuple[Tensor, ...],
    key: Key | Tensor | CallKeys | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
) -> Tensor:
    """Drop in the local part of a DTensor, as one process would in the whole."""
    from fastdrop.torch import _distributed

    x = inputs[0]
    local, start, shape = _distributed.parts(inputs)
    if how.block:
        raise RuntimeError("input of DropBlock must not be a DTensor, got one")
    if type(key) is CallKeys and key.share is not None:
        raise RuntimeError("set_keys must be given no rank for a model of DTensors, got one")
    if mask is None:
        y = call_part(how, local, False, key, generator, start, tuple(x.shape))
    elif not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask for a DTensor, got {type(mask).__name__}")
    else:
        last = [axis - mask.ndim for axis in range(mask.ndim)]
        at = [0 if mask.shape[axis] == 1 else start[axis] for axis in last]
        extent = [min(mask.shape[axis], shape[axis]) for axis in last]
        y = call(how, local, False, None, None, mask.region(at, extent), False)
    return _distributed.whole(y, x)


def _is_distributed(x: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(x, loaded.DTensor)


def call_part(
    how: How,
    inputs: tuple[Tensor, ...],
    inplace: bool,
    key: Key | Tensor | CallKeys | None,
    generator: torch.Generator | None,
    start: tuple[int, ...],
    whole: tuple[int, ...],
) -> Any:
    """Drop in a part of a whole of this shape, whose first element lies at `start`."""
    if how.block:
        raise RuntimeError("a part of a whole must be dropped by elements or axes, not by blocks")
    shape = tuple(inputs[0].shape)
    at = tuple(0 if axis in how.shared else n for axis, n in enumerate(start))
    whole, shape = _drawn(how, whole), _drawn(how, shape)
    if _is_plain(inputs):
        mask = make_mask(whole, how.p, _key(key, generator)).region(at, shape)
        return _run(how, mask, inputs, inplace)
    y = _operate(how, _words(key, generator), (list(whole), list(at), list(shape)), inputs)
    return inputs[0].copy_(y) if inplace else y


def _of_share(
    how: How, inputs: tuple[Tensor, ...], inplace: bool, keys: CallKeys, share: Share
) -> Any:
    """Drop in a rank's part of a batch."""
    x = inputs[0]
    if x.dim() == 0:
        raise RuntimeError("input must have the batch along axis 0, got a tensor without axes")
    n, *rest = x.shape
    rank, ranks = share.rank, share.world_size
    if not share.interleaved:
        start, whole = (rank * n, *(0 for _ in rest)), (ranks * n, *rest)
        return call_part(how, inputs, inplace, keys, None, start, whole)
    # Example number i of this rank is number i * ranks + rank of the batch: (n, ranks) in C order.
    others = tuple(y.unsqueeze(1) if y.dim() == x.dim() else y for y in inputs[1:])
    shared = tuple(axis + (axis > 0) for axis in how.shared) + ((1,) if 0 in how.shared else ())
    start, whole = (0, rank, *(0 for _ in rest)), (n, ranks, *rest)
    y = call_part(
        how._replace(shared=shared), (x.unsqueeze(1), *others), inplace, keys, None, start, whole
    )
    return x if inplace else y.squeeze(1)


def _in_their_operators(how: How, x: Tensor, *others: Tensor) -> Tensor:
    """Return the result of a call by torch's own operators, for programs that leave this process.

    They draw what is installed where they run.
    """
    operation, p, shared, scale, shift, fill, *_ = how
    if operation in _ACTIVATIONS:
        x = _ACTIVATIONS[operation][0](x)
    if operation == "bias_add":
        x, others = x + others[0], others[1:]
    if p > 0.0 and not shared and operation != "affine" and scale == inverse_keep(p):
        x = torch.dropout(x, p, True)
    elif p > 0.0:
        kept = torch.dropout(x.new_ones(_drawn(how, x.shape)), p, True) != 0
        x = torch.where(kept, x * scale + shift, fill)
    return sum(others, x)


def call_with_mask(how: How, x: Tensor) -> tuple[Tensor, Tensor]:
    """Drop, and return the result and the mask as a tensor of bool."""
    words = draw(None) if _is_plain((x,)) else _words(None, None)
    y = call(how, (x,), False, words, None, None, False)
    with torch.no_grad():
        ones = call(how, (torch.ones_like(x),), False, words, None, None, False)
    return y, ones != 0


def no_key() -> Key | Tensor:
    """Return a key for calls that keep everything."""
    if torch.compiler.is_compiling():
        return torch.zeros(2, dtype=torch.int64, device="cpu")
    return NO_KEY


def _recipe(how: How, source: Any, shape: tuple[int, ...]) -> Mask | BlockMask:
    """Return what decided a call: a mask as it is, or that of a key."""
    if type(source) is not Key:
        return source
    if how.block:
        return block_mask(_drawn(how, shape), how.p, source, how.block)
    return make_mask(_drawn(how, shape), how.p, source)


def _drawn(how: How, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with length 1 along the axes that share a decision."""
    return tuple(1 if axis in how.shared else n for axis, n in enumerate(shape))


def _is_plain(inputs: tuple[Tensor, ...]) -> bool:
    """Return whether a call can go straight to the core."""
    if (
        torch.compiler.is_compiling()
        or _transforms_are_active()
        or _dispatch_modes()
        or _tracing() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    for x in inputs:  # noqa: SIM110, small calls feel a generator
        if type(x) not in _PLAIN or not x.is_cpu or x.is_neg():
            return False
    return True


def takes(x: Tensor) -> bool:
    """Return whether there are kernels for a tensor."""
    return (
        (type(x) in _PLAIN or not _is_foreign(x))
        and (x.is_cpu or x.is_meta)
        and x.layout is torch.strided
        and not x.is_nested
        and x.dtype in DTYPES
    )


def _is_foreign(x: Tensor) -> bool:
    """Return whether a tensor's class runs operators itself, and may know torch's alone."""
    dispatch = type(x).__torch_dispatch__
    if dispatch is Tensor.__torch_dispatch__ or isinstance(x, (FakeTensor, FunctionalTensor)):
        return False
    if not _is_distributed(x):
        return True
    known: Any = sys.modules["torch.distributed.tensor"]
    known = known.Shard, known.Replicate, known.Partial
    return any(not isinstance(placement, known) for placement in x.placements)  # strided shards


def _check_inplace(x: Tensor) -> None:
    """Raise what torch raises for a tensor that must not be overwritten."""
    if x.requires_grad and torch.is_grad_enabled():
        if x.is_leaf:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        if x._base is not None and x._base.is_leaf and x._base.requires_grad:
            raise RuntimeError(
                "a view of a leaf Variable that requires grad is being used in an in-place "
                "operation."
            )
    if torch.compiler.is_compiling():
        return  # the graph copies the result into `x`, which torch checks
    if x.requires_grad and _grad_enabled() and x._is_view() and _made_by(x) is not _DEFAULT:
        x.mul_(1)  # a view that torch refuses to change, with a reason that depends on its origin
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed; clone the "
            "tensor first"
        )
    if x._is_zerotensor():
        raise RuntimeError("ZeroTensors are immutable; clone the tensor first")
    if torch._debug_has_internal_overlap(x) == 1:
        raise RuntimeError(
            "input must not share memory among its elements to be overwritten, got strides "
            f"{x.stride()} for shape {tuple(x.shape)}"
        )


def _run(how: How, source: Any, inputs: tuple[Tensor, ...], inplace: bool = False) -> Any:
    """Compute a call on plain tensors, and record it if a gradient is wanted."""
    try:
        if _grad_enabled():
            for x in inputs:
                if x.requires_grad:
                    return _Recorded.record(how, source, None, None, inplace, *inputs)
        y = compute(how, source, inputs, inplace)
    except BufferError:  # a tensor without memory of its own, such as a batch of gradients
        y = _operate(how, *_words_of(source), inputs)
        return inputs[0].copy_(y) if inplace else y
    if inplace and not y.is_inference():
        torch.autograd.graph.increment_version(y)
    return y


def compute(how: How, source: Any, inputs: tuple[Tensor, ...], inplace: bool = False) -> Tensor:
    """Compute a call in the core, with a key, a mask, or a tensor of bool."""
    x = inputs[0]
    out, fresh = (x, False) if inplace else _empty_like(x, _dtype(how, inputs))
    operation, p, shared, scale, shift, fill, block, _ = how
    if block or type(source) is BlockMask:
        source = _recipe(how, source, x.shape).to_numpy()
    target: Any = out
    if not _takes_tensors:
        inputs, target = tuple(_as_array(x) for x in inputs), _as_array(out)
        source = _as_array(source) if isinstance(source, Tensor) else source
    elif x.numel() >= _core.DETACH:
        # Aliases keep the memory, which other threads may take from the tensors meanwhile.
        inputs = (x.data,) if len(inputs) == 1 else tuple(map(_alias, inputs))
        target = inputs[0] if inplace else out  # a new one, only this call has
        source = source.data if type(source) is not Key and isinstance(source, Tensor) else source
    _forward(operation, inputs, target, source, p, shared, scale, shift, fill, fresh, _threads())
    return out


def _as_array(x: Tensor) -> Any:
    """Return the memory of a tensor as an array; bfloat16 as uint16."""
    x = x.detach()
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype is torch.bfloat16 else x.numpy()


def _dtype(
    how: How, inputs: tuple[Tensor, ...], batched: tuple[bool, ...] = (False, False, False)
) -> torch.dtype:
    """Return the dtype of a result: that of the inputs' sum, where nothing else was decided.

    As in torch, an input without axes, apart from that of a batch, does not promote one with axes.
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


def _empty_like(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Return a new tensor of the layout of `x`, and whether its memory is new."""
    size = x.numel() * dtype.itemsize
    if size < LARGE:
        y = torch.empty_like(x) if dtype is x.dtype else torch.empty_like(x, dtype=dtype)
        return y, True
    like = x if x.is_contiguous() else torch.empty_like(x, device="meta")
    return _blocks.lend(size, dtype, like.shape, like.stride())


_blocks = Storages(KEPT)
os.register_at_fork(after_in_child=_blocks.forget)


class _Recorded(torch.autograd.Function):
    """A call in the graph of autograd.

    In eager mode `source` is the key or the mask. Of the operator, `source` is the region, `words`
    the key, and `keyset` says which kernels come below autograd.
    """

    @classmethod
    def record(cls, *arguments: Any) -> Any:
        """Apply this at the level of `torch.func` that torch has dispatched to, if there is one."""
        apply = super(torch.autograd.Function, cls).apply
        if _transforms_are_active():
            with enable_single_level_autograd_function():
                return apply(*arguments)
        return apply(*arguments)

    @staticmethod
    def forward(
        ctx: Any,
        how: How,
        source: Any,
        keyset: Any,
        words: Tensor | None,
        inplace: bool,
        *inputs: Tensor,
    ) -> Tensor:
        """Compute the call."""
        x = inputs[0]
        if words is None:
            y = compute(how, source, inputs, inplace)
        elif _transforms_are_active():
            # An outer transform also records this call, which this function has switched off.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                y = _below_autograd(keyset, _arguments(how, words, source, inputs))
        else:
            y = _below_autograd(keyset, _arguments(how, words, source, inputs))
        if inplace:
            ctx.mark_dirty(x)
        nonlinear = how.operation in _ACTIVATIONS
        if words is not None or nonlinear:
            ctx.save_for_backward(words, x if nonlinear else None)
            ctx.save_for_forward(words)
        linear = how.linear
        if y.dtype is not x.dtype:
            linear = linear._replace(dtype=x.dtype)
        ctx.call = linear, source, how, [other.shape for other in inputs[1:]]
        ctx.dtype = y.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs; torch converts them to their dtypes."""
        linear, source, how, shapes = ctx.call
        words, x = ctx.saved_tensors or (None, None)
        if dy.layout is not torch.strided:
            dy = dy.to_dense()  # of an embedding, for one
        if x is None and not shapes:
            return None, None, None, None, None, _again(linear, source, words, (dy,))
        needs = ctx.needs_input_grad[5:]
        gradients: list[Any] = [None] * len(needs)
        total = dy
        if how.operation == "bias_add" and needs[1]:
            # The gradient with respect to x + bias, not yet rounded to the dtype of either.
            gradients[0] = total = _again(linear._replace(dtype=dy.dtype), source, words, (dy,))
        elif needs[0]:
            if x is None:
                gradients[0] = _again(linear, source, words, (dy,))
            elif torch.is_grad_enabled():
                passed = _again(linear, source, words, (dy,))
                gradients[0] = _ACTIVATIONS[how.operation][1](passed, x)
            else:
                gradient = how._replace(operation=how.operation + "_gradient")
                gradients[0] = _again(gradient, source, words, (dy, x))
        for which, shape in enumerate(shapes, 1):
            if needs[which]:
                of_bias = how.operation == "bias_add" and which == 1
                gradients[which] = (total if of_bias else dy).sum_to_size(shape)
        return (None,) * 5 + tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Return the tangent of the result, of an operation that is not an activation."""
        linear, source, how, _ = ctx.call
        (words,) = ctx.saved_tensors
        tangent, *others = tangents[5:]
        if how.operation == "bias_add":
            tangent = _sum(tangent, others.pop(0))
        if tangent is not None:
            tangent = _again(linear._replace(dtype=ctx.dtype), source, words, (tangent,))
        return _sum(tangent, *others).to(ctx.dtype)


def _sum(*tangents: Tensor | None) -> Any:
    """Return the sum of the tangents that are not None."""
    there = [tangent for tangent in tangents if tangent is not None]
    return sum(there[1:], there[0]) if there else None


_ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (torch.relu, lambda dy, x: torch.ops.aten.threshold_backward(dy, x, 0)),
    "gelu": (functional.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda dy, x: torch.ops.aten.gelu_backward(dy, x, approximate="tanh"),
    ),
}
"""Activations and their gradients, as operations that torch can differentiate again."""


def _again(how: How, source: Any, words: Tensor | None, inputs: tuple[Tensor, ...]) -> Any:
    """Compute another call with the same mask."""
    if words is not None:
        return _operate(how, words, source, inputs)
    if _is_plain(inputs):
        return _run(how, source, inputs)
    return _operate(how, *_words_of(source), inputs)


# The operator. A key is a tensor of two int64. An operator draws it: `key` becomes
# `draw_key` with another number at each place where a graph is made, so that no pass takes two
# draws for one.

_SCHEMA = (
    "forward(str operation, Tensor input, Tensor? second, Tensor? third, Tensor key, float p, "
    "int[] shared, float scale, float shift, float fill, int[] block, "
    "SymInt[]? whole, SymInt[]? start, SymInt[]? shape, ScalarType? dtype=None) -> Tensor"
)

_library = torch.library.Library("fastdrop", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
_library.define("key() -> Tensor")
_library.define("call_key(Tensor keys) -> Tensor")
_library.define(
    "draw_key(int place, *, Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
)
_library.define(
    "take_key(Tensor keys, int place) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
)
_OPERATOR = torch.ops.fastdrop.forward.default

_places = itertools.count()


def _words(key: Key | Tensor | CallKeys | None, generator: torch.Generator | None) -> Tensor:
    """Return the key of a call of the operator."""
    if isinstance(key, Tensor):
        return key
    if isinstance(key, CallKeys):
        words: Tensor = torch.ops.fastdrop.call_key(key.words)
        return words
    if key is not None:
        return key_tensor(key)
    if generator is not None:
        return _drawn_words(generator)
    words = torch.ops.fastdrop.key()
    return words


@contextmanager
def _saved() -> Iterator[None]:
    """Make the partitioner of compiled code save what is drawn here.

    Where memory is short it may compute again what the backward pass needs: of a draw, it would get
    another key. With a budget of 0 it saves nothing, but restores the generator for what is marked.
    """
    if not traceback.has_preserved_node_meta():
        yield
        return
    from torch._functorch import config

    # A region may have a budget of its own, which torch keeps among a node's annotations.
    budgets = [config.activation_memory_budget, *traceback.current_meta.get("custom", {}).values()]
    policy = CheckpointPolicy.PREFER_RECOMPUTE if 0 in budgets else CheckpointPolicy.MUST_SAVE
    with traceback.preserve_node_meta():
        traceback.current_meta["recompute"] = policy
        yield


def _words_of(source: Any) -> tuple[Tensor, Any]:
    """Return the key and the region of what decided a call in eager mode."""
    return (key_tensor(source), None) if type(source) is Key else _parts(source)


def _parts(mask: Mask | BlockMask) -> tuple[Tensor, Any]:
    """Return the key and the region of a mask that the operator is given."""
    if not isinstance(mask, Mask):
        raise TypeError(
            f"mask must be a Mask in a compiled or transformed function, got {type(mask).__name__}"
        )
    whole, _, key, start, shape = mask.parts
    return key_tensor(key), (list(whole), list(start), list(shape))


def _arguments(how: How, words: Tensor, region: Any, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    operation, p, shared, scale, shift, fill, block, dtype = how
    whole, start, shape = region or (None, None, None)
    three = (*inputs, None, None)[:3]
    return (
        operation, *three, words, p, list(shared), scale, shift, fill, list(block),
        whole, start, shape, dtype,
    )  # fmt: skip


def _operate(how: How, words: Tensor, region: Any, inputs: tuple[Tensor, ...]) -> Any:
    """Call the operator, on the result of its activation where that must be taken apart."""
    if how.operation in _ACTIVATIONS and (
        _transforms_are_active() or forward_ad._current_level >= 0
    ):
        how, inputs = how.linear, (_ACTIVATIONS[how.operation][0](*inputs),)
    return torch.ops.fastdrop.forward(*_arguments(how, words, region, inputs))


def _parsed(
    operation: str, first: Tensor, second: Tensor | None, third: Tensor | None, words: Tensor,
    p: float, shared: list[int], scale: float, shift: float, fill: float, block: list[int],
    whole: Any, start: Any, shape: Any, dtype: torch.dtype | None = None,
) -> tuple[How, Tensor, Any, tuple[Tensor, ...]]:  # fmt: skip
    """Do the opposite of `_arguments`."""
    how = How(operation, p, tuple(shared), scale, shift, fill, tuple(block), dtype)
    inputs = tuple(x for x in (first, second, third) if x is not None)
    return how, words, None if whole is None else (whole, start, shape), inputs


def _on_cpu(*arguments: Any) -> Tensor:
    how, words, region, inputs = _parsed(*arguments)
    key = _key_of(words.contiguous())
    if region is None:
        return compute(how, key, inputs)
    whole, start, shape = (tuple(lengths) for lengths in region)
    return compute(how, make_mask(whole, how.p, key).region(start, shape), inputs)


def _below_autograd(keyset: Any, arguments: tuple[Any, ...]) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        y: Tensor = _OPERATOR.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
    return y


def _with_autograd(keyset: Any, *arguments: Any) -> Any:
    how, words, region, inputs = _parsed(*arguments)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if wanted or forward_ad._current_level >= 0:
        return _Recorded.record(how, region, keyset, words, False, *inputs)
    return _below_autograd(keyset, arguments)


def _batched(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    """Compute a batch under `torch.vmap`: with one mask for all, or with a key for each."""
    how, words, region, inputs = _parsed(*arguments)
    dims, key_dim = in_dims[1 : 1 + len(inputs)], in_dims[4]
    ndim = next(x.dim() - (dim is not None) for x, dim in zip(inputs[:1], dims[:1], strict=True))
    how = how._replace(dtype=_dtype(how, inputs, tuple(dim is not None for dim in dims)))
    rows = []
    for x, dim in zip(inputs, dims, strict=True):
        row = x.unsqueeze(0) if dim is None else x.movedim(dim, 0)
        missing = ndim + 1 - row.dim()
        rows.append(row.reshape(row.shape[0], *(1,) * missing, *row.shape[1:]))
    rows[0] = rows[0].expand(info.batch_size, *rows[0].shape[1:])
    if key_dim is not None or how.block:
        keys = words.movedim(key_dim, 0) if key_dim is not None else [words] * info.batch_size
        results = [
            _operate(how, key, region, tuple(row[min(n, len(row) - 1)] for row in rows))
            for n, key in enumerate(keys)
        ]
        return torch.stack(results), 0
    shared = (0, *(axis + 1 for axis in how.shared))
    return _operate(how._replace(shared=shared), words, region, tuple(rows)), 0


def _drawn_words(generator: torch.Generator | None) -> Tensor:
    """Draw a key by an operator of torch, which is drawn for each example under `torch.vmap`."""
    return torch.randint(-(2**63), 2**63 - 1, (2,), generator=generator, device="cpu")


def _draw_at_place() -> Tensor:
    with _saved():
        if _transforms_are_active():
            return _drawn_words(None)
        words: Tensor = torch.ops.fastdrop.draw_key(next(_places), device=torch.device("cpu"))
    return words


def _take_at_place(keys: Tensor) -> Tensor:
    with _saved():
        words: Tensor = torch.ops.fastdrop.take_key(keys, next(_places))
    return words


def _draw_in_order(place: int, *, device: torch.device) -> Tensor:
    return draw(None)


def _take_in_order(keys: Tensor, place: int) -> Tensor:
    return words_of_call(keys)


_library.impl("forward", _on_cpu, "CPU")
_library.impl("forward", _with_autograd, "Autograd", with_keyset=True)
_library.impl("key", _draw_at_place, "CompositeImplicitAutograd")
_library.impl("key", _draw_at_place, "FuncTorchDynamicLayerFrontMode")
_library.impl("draw_key", _draw_in_order, "CompositeExplicitAutograd")
_library.impl("call_key", _take_at_place, "CompositeImplicitAutograd")
_library.impl("take_key", _take_in_order, "CompositeExplicitAutograd")
torch.library.register_vmap("fastdrop::forward", _batched, lib=_library)


@torch.library.register_fake("fastdrop::forward", lib=_library)
def _(*arguments: Any) -> Tensor:
    how, words, _, inputs = _parsed(*arguments)
    first = inputs[0]
    if words.device != first.device and not first.is_meta:
        raise RuntimeError(f"key must be on the CPU, got a tensor on {words.device}")
    for x in inputs[1:]:
        if x.device != first.device:
            raise RuntimeError("the tensors of a call must be of one device")
        if torch.broadcast_shapes(x.shape, first.shape) != first.shape:
            raise RuntimeError(f"{x.shape} must broadcast to the shape of input, {first.shape}")
    return torch.empty_like(first, dtype=_dtype(how, inputs))


@torch.library.register_fake("fastdrop::draw_key", lib=_library)
def _(place: int, *, device: torch.device) -> Tensor:
    return torch.empty(2, dtype=torch.int64, device=device)


@torch.library.register_fake("fastdrop::take_key", lib=_library)
def _(keys: Tensor, place: int) -> Tensor:
    return keys.new_empty(2)
