"""The way of a call on tensors: straight to the core, or through the operator.

Plain tensors on the CPU go straight to the compiled core. Everything else (compilation, export, the
transforms of `torch.func`, forward-mode differentiation, fake and meta tensors, subclasses) goes
through one operator, which torch takes apart. Both ways compute the same result and gradient.
"""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastdrop import _core
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, inverse_keep, make_mask
from fastdrop._base.members import Numbers, drawn_shape
from fastdrop._family.blocks import BlockMask, block_mask
from fastdrop.torch._autograd import ACTIVATIONS, by_operator, eager, parts_of
from fastdrop.torch._call import (
    NO_MASK,
    RELAXED,
    How,
    is_distributed,
    is_plain,
    leaves_process,
    recipe_of,
)
from fastdrop.torch._keys import CallKeys, Share, SharedKey, draw, draw_key
from fastdrop.torch._operator import words_for

_key_of = _core.tensor_key
_grad_enabled = torch.is_grad_enabled
_tracing = torch._C._get_tracing_state
_made_by, _DEFAULT = torch._C._autograd._get_creation_meta, torch._C._autograd.CreationMeta.DEFAULT

Source: TypeAlias = Any
"""The source of a mask: a Key or its tensor, the keys of a module, a mask, or a generator; None is
torch's default generator."""

_MASKS = (Mask, BlockMask)


def dispatch(
    how: How,
    inputs: tuple[Tensor, ...],
    source: Source = None,
    inplace: bool = False,
    return_mask: bool = False,
) -> Any:
    """Drop, and return the result; with the mask if `return_mask`."""
    x = inputs[0]
    if inplace:
        _check_inplace(x)
    if type(source) is SharedKey:
        how, source = how._replace(shared=tuple({0, *how.shared})), source.key
    if not is_plain(inputs):
        if return_mask:
            raise RuntimeError(NO_MASK)
        y = _transformed(how, inputs, source)
        return x.copy_(y) if inplace else y
    if type(source) is CallKeys and source.share is not None:
        return _in_share(how, inputs, inplace, source, source.share)
    decided = decide(source)
    y = eager(how, decided, inputs, inplace)
    return (y, recipe_of(how, decided, x.shape)) if return_mask else y


def decide(source: Source) -> Any:
    """Return the key or the mask of a call on plain tensors."""
    if type(source) is CallKeys:
        return source.take()
    if source is None or isinstance(source, torch.Generator):
        return draw_key(source)
    return _key_of(source) if isinstance(source, Tensor) else source


def torch_draws(source: Source) -> bool:
    """Return whether torch draws for a call: in a program that leaves this process, by default."""
    return (source is None or type(source) is CallKeys) and leaves_process()


def children(source: Source, inputs: tuple[Tensor, ...]) -> list[Source]:
    """Return a source for each of several tensors: the children of a call's key."""
    count = range(len(inputs))
    if is_plain(inputs):
        key = decide(source)
        return [key.fold_in(n) for n in count]
    if torch_draws(source):
        return [None for _ in count]
    words = words_for(source)
    return [torch.ops.fastdrop.child_key(words, n) for n in count]


def _transformed(how: How, inputs: tuple[Tensor, ...], source: Source) -> Any:
    """Return the result of a call that does not go straight to the core."""
    is_drawn = source is None or type(source) is CallKeys
    # Tensors come first: from 2.15 on, Dynamo does not trace whether one is a Generator.
    is_free = isinstance(source, Tensor) or not isinstance(source, (*_MASKS, torch.Generator))
    keeps_all = how.p == 0.0 and is_free
    distributed = any(is_distributed(x) for x in inputs)
    if distributed and not keeps_all:
        return _on_ranks(how, inputs, source)
    if (is_drawn or keeps_all) and (distributed or leaves_process()):
        if _tracing() is None:
            return _in_their_operators(how, *inputs)
        if type(source) is CallKeys:
            source = None  # the keys of a module stay in this process
    if type(source) is CallKeys and source.share is not None:
        return _in_share(how, inputs, False, source, source.share)
    if isinstance(source, _MASKS):
        return by_operator(how, *parts_of(source), inputs)
    words = words_for(source)
    is_plain_mask = how.operation == "select" and how.shared and not how.block
    if is_plain_mask and torch.compiler.is_compiling():
        return _by_small_mask(how, words, *inputs)
    return by_operator(how, words, None, inputs)


def _by_small_mask(how: How, words: Tensor, x: Tensor) -> Tensor:
    """Draw one decision for all that share it; the compiler joins the rest with neighbours."""
    ones = torch.ones(drawn_shape(x.shape, how.shared), device=x.device)
    kept = by_operator(how._replace(shared=(), numbers=Numbers(1.0)), words, None, (ones,)) != 0
    return torch.where(kept, x * how.numbers.scale, 0.0)


def _on_ranks(how: How, inputs: tuple[Tensor, ...], source: Source) -> Tensor:
    """Drop in the local part of a DTensor, as one process would in the whole."""
    from fastdrop.torch import _distributed

    x = inputs[0]
    local, start, shape = _distributed.parts(inputs)
    if how.block:
        raise RuntimeError("input of DropBlock must not be a DTensor, got one")
    if type(source) is CallKeys and source.share is not None:
        raise RuntimeError("set_keys must be given no rank for a model of DTensors, got one")
    if isinstance(source, BlockMask):
        raise TypeError("mask must be a Mask for a DTensor, got BlockMask")
    if isinstance(source, Mask):
        last = [axis - source.ndim for axis in range(source.ndim)]
        at = [0 if source.shape[axis] == 1 else start[axis] for axis in last]
        extent = [min(source.shape[axis], shape[axis]) for axis in last]
        y = dispatch(how, local, source.region(at, extent))
    else:
        y = _in_part(how, local, source, start, tuple(x.shape))
    return _distributed.whole(y, x)


def _in_part(
    how: How,
    inputs: tuple[Tensor, ...],
    source: Source,
    start: tuple[int, ...],
    whole: tuple[int, ...],
    inplace: bool = False,
) -> Any:
    """Drop in a part of a whole; `start` is the position of its first element."""
    if how.block:
        raise RuntimeError("a part of a whole must be dropped by elements or axes, not by blocks")
    shape = tuple(inputs[0].shape)
    at = tuple(0 if axis in how.shared else n for axis, n in enumerate(start))
    whole, shape = drawn_shape(whole, how.shared), drawn_shape(shape, how.shared)
    if is_plain(inputs):
        mask = make_mask(whole, how.p, decide(source)).region(at, shape)
        return eager(how, mask, inputs, inplace)
    y = by_operator(how, words_for(source), (list(whole), list(at), list(shape)), inputs)
    return inputs[0].copy_(y) if inplace else y


def _in_share(
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
        return _in_part(how, inputs, keys, start, whole, inplace)
    # Example number i of this rank is number i * ranks + rank of the batch: (n, ranks) in C order.
    others = tuple(y.unsqueeze(1) if y.dim() == x.dim() else y for y in inputs[1:])
    shared = tuple(axis + (axis > 0) for axis in how.shared) + ((1,) if 0 in how.shared else ())
    start, whole = (0, rank, *(0 for _ in rest)), (n, ranks, *rest)
    how = how._replace(shared=shared)
    y = _in_part(how, (x.unsqueeze(1), *others), keys, start, whole, inplace)
    return x if inplace else y.squeeze(1)


def _in_their_operators(how: How, x: Tensor, *others: Tensor) -> Tensor:
    """Compute a call with torch's own operators, for programs that leave this process.

    The operators draw with what is installed where the program runs.
    """
    operation, p, shared, (scale, shift, fill), *_ = how
    if operation in ACTIVATIONS:
        x, shift = ACTIVATIONS[operation][0](x, shift), 0.0
    if operation == "bias_add":
        x, others = x + others[0], others[1:]
    if operation == "mix":
        return x * scale + others[0] * shift
    if operation == RELAXED:
        u = torch.rand(drawn_shape(x.shape, shared), dtype=torch.float64, device=x.device)
        logit = others[0].double()
        kept = torch.sigmoid(-(logit + torch.logit(u, 1e-16)) / shift) * (1.0 + logit.exp())
        return (x * kept).to(x.dtype)
    if operation == "noise" and 0.0 < p < 1.0:
        normals = torch.randn(drawn_shape(x.shape, shared), dtype=x.dtype, device=x.device)
        return x * (1.0 + math.sqrt(p / (1.0 - p)) * normals)
    if how.block and p > 0.0:
        return torch.where(_outside_of_blocks(how, x), x * scale, 0.0)
    if operation == "switch":
        kept = torch.dropout(torch.ones_like(x), p if scale else 1.0, True) != 0
        return torch.where(kept, x, others[0])
    if p > 0.0 and not shared and operation != "affine" and scale == inverse_keep(p):
        x = torch.dropout(x, p, True)
    elif p == 0.0:
        x = x if scale == 1.0 else x * scale
    else:
        kept = torch.dropout(x.new_ones(drawn_shape(x.shape, how.shared)), p, True) != 0
        x = torch.where(kept, x * scale + shift, fill)
    return sum(others, x)


def _outside_of_blocks(how: How, x: Tensor) -> Tensor:
    """Draw where blocks start, and return a tensor of bool, True where no block covers a place."""
    channel_axis, *lengths = how.block
    shape = drawn_shape(x.shape, how.shared)
    blocks = block_mask(shape, how.p, NO_KEY, tuple(lengths), channel_axis=channel_axis)
    seeds = blocks.seeds
    covered = torch.dropout(x.new_ones(seeds.shape), seeds.p, True) == 0
    for axis, size in enumerate(blocks.block):
        if size > 1:
            around = [0, 0] * (x.dim() - axis - 1) + [size - 1, size - 1]
            covered = torch.constant_pad_nd(covered, around).unfold(axis, size, 1).any(-1)
    return ~covered


def dispatch_with_mask(how: How, x: Tensor) -> tuple[Tensor, Tensor]:
    """Drop, and return the result and the mask as a tensor of bool."""
    words = draw(None) if is_plain((x,)) else words_for(None)
    y = dispatch(how, (x,), words)
    with torch.no_grad():
        ones = dispatch(how, (torch.ones_like(x),), words)
    return y, ones != 0


def kept_places(
    how: How, shape: tuple[int, ...], source: Source, like: Tensor
) -> tuple[Tensor, Mask | BlockMask | None]:
    """Return a tensor of bool, True where a call keeps, and the mask if it is known."""
    if is_plain((like,)):
        mask = recipe_of(how, decide(source), shape)
        kept = torch.from_numpy(mask.to_numpy())
        return (kept if kept.dim() == len(shape) else kept.expand(shape)), mask
    ones = torch.ones(shape, device=like.device)
    return dispatch(how._replace(numbers=Numbers(1.0)), (ones,), source) != 0, None


def no_key() -> Key | Tensor:
    """Return a key for calls that keep everything."""
    if torch.compiler.is_compiling():
        return torch.zeros(2, dtype=torch.int64, device="cpu")
    return NO_KEY


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
