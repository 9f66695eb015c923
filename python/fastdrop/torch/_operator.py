"""The operator ``fastdrop::forward``, through which torch traces, exports, batches and transforms.

A key is a tensor of two int64, which an operator draws. In a graph, `key` becomes `draw_key` with
another number at each place, so that no pass merges two draws.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import traceback
from torch.utils.checkpoint import CheckpointPolicy

from fastdrop import _core
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.members import Numbers
from fastdrop.torch._autograd import Recorded, below_autograd, by_operator, record, wants_gradient
from fastdrop.torch._call import RELAXED, How, dtype_of, in_core
from fastdrop.torch._direct import call_directly
from fastdrop.torch._keys import CallKeys, draw, key_tensor, words_of_call

_transforms_are_active = torch._C._are_functorch_transforms_active

_SCHEMA = (
    "forward(str operation, Tensor input, Tensor? second, Tensor? third, Tensor key, float p, "
    "int[] shared, float scale, float shift, float fill, int[] block, "
    "SymInt[]? whole, SymInt[]? start, SymInt[]? shape, ScalarType? dtype=None) -> Tensor"
)

LIBRARY = torch.library.Library("fastdrop", "FRAGMENT")
LIBRARY.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.define("key() -> Tensor")
LIBRARY.define("call_key(Tensor keys) -> Tensor")
LIBRARY.define("child_key(Tensor key, int index) -> Tensor")
LIBRARY.define(
    "draw_key(int place, *, Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
)
LIBRARY.define(
    "take_key(Tensor keys, int place) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
)
_places = itertools.count()


def key_of(words: Tensor) -> Key:
    """Return the key of an operator's argument."""
    key: Key = _core.tensor_key(words.contiguous())
    return key


def mask_part(words: Tensor, p: float, region: Any) -> Mask:
    """Return the mask of an operator's arguments; `parts_of` is the inverse."""
    whole, start, shape = (tuple(lengths) for lengths in region)
    return make_mask(whole, p, key_of(words)).region(start, shape)


def words_for(source: Key | Tensor | CallKeys | torch.Generator | None) -> Tensor:
    """Return the key of a call as an argument of the operator."""
    words: Tensor
    if source is None:
        words = torch.ops.fastdrop.key()
    elif isinstance(source, Tensor):
        words = source
    elif isinstance(source, CallKeys):
        words = torch.ops.fastdrop.call_key(source.words)
    elif isinstance(source, Key):
        words = key_tensor(source)
    else:
        words = _drawn_words(source)
    return words


@contextmanager
def _saved() -> Iterator[None]:
    """Make the partitioner of compiled code save what is drawn here.

    To save memory, it may recompute what the backward pass needs, and another draw would give
    another key. With a budget of 0 it saves nothing, but restores the generator for nodes that are
    marked for recomputation.
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


def _parsed(
    operation: str, first: Tensor, second: Tensor | None, third: Tensor | None, words: Tensor,
    p: float, shared: list[int], scale: float, shift: float, fill: float, block: list[int],
    whole: Any, start: Any, shape: Any, dtype: torch.dtype | None = None,
) -> tuple[How, Tensor, Any, tuple[Tensor, ...]]:  # fmt: skip
    """Inverse of `arguments_of`."""
    how = How(operation, p, tuple(shared), Numbers(scale, shift, fill), tuple(block), dtype)
    inputs = tuple(x for x in (first, second, third) if x is not None)
    return how, words, None if whole is None else (whole, start, shape), inputs


def _on_cpu(*arguments: Any, **dtype: Any) -> Tensor:
    how, words, region, inputs = _parsed(*arguments, **dtype)
    source = key_of(words) if region is None else mask_part(words, how.p, region)
    return in_core(how, source, inputs)


def _with_autograd(keyset: Any, *arguments: Any) -> Any:
    how, words, region, inputs = _parsed(*arguments)
    if wants_gradient(*inputs) or forward_ad._current_level >= 0:
        return record(Recorded, how, region, keyset, words, False, *inputs)
    return below_autograd(keyset, torch.ops.fastdrop.forward, arguments)


def _batched(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    """Compute a batch under `torch.vmap`, with one mask for all examples or a key for each."""
    how, words, region, inputs = _parsed(*arguments)
    dims, key_dim = in_dims[1 : 1 + len(inputs)], in_dims[4]
    ndim = next(x.dim() - (dim is not None) for x, dim in zip(inputs[:1], dims[:1], strict=True))
    how = how._replace(dtype=dtype_of(how, inputs, tuple(dim is not None for dim in dims)))
    rows = []
    for x, dim in zip(inputs, dims, strict=True):
        row = x.unsqueeze(0) if dim is None else x.movedim(dim, 0)
        missing = ndim + 1 - row.dim()
        rows.append(row.reshape(row.shape[0], *(1,) * missing, *row.shape[1:]))
    rows[0] = rows[0].expand(info.batch_size, *rows[0].shape[1:])
    several_logits = how.operation == RELAXED and dims[1] is not None
    if key_dim is not None or how.block or several_logits:
        keys = words.movedim(key_dim, 0) if key_dim is not None else [words] * info.batch_size
        results = [
            by_operator(how, key, region, tuple(row[min(n, len(row) - 1)] for row in rows))
            for n, key in enumerate(keys)
        ]
        return torch.stack(results), 0
    shared = (0, *(axis + 1 for axis in how.shared))
    return by_operator(how._replace(shared=shared), words, region, tuple(rows)), 0


def _drawn_words(generator: torch.Generator | None) -> Tensor:
    """Draw a key with a torch operator, so that `torch.vmap` draws one per example."""
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


def _child_key(words: Tensor, index: int) -> Tensor:
    return key_tensor(key_of(words).fold_in(index))


def _child_keys(info: Any, in_dims: Any, words: Tensor, index: int) -> tuple[Tensor, int]:
    rows = words.movedim(in_dims[0], 0)
    return torch.stack([torch.ops.fastdrop.child_key(row, index) for row in rows]), 0


LIBRARY.impl("forward", _on_cpu, "CPU")
LIBRARY.impl("forward", _with_autograd, "Autograd", with_keyset=True)
LIBRARY.impl("key", _draw_at_place, "CompositeImplicitAutograd")
LIBRARY.impl("key", _draw_at_place, "FuncTorchDynamicLayerFrontMode")
LIBRARY.impl("draw_key", _draw_in_order, "CompositeExplicitAutograd")
LIBRARY.impl("child_key", _child_key, "CompositeExplicitAutograd")
LIBRARY.impl("call_key", _take_at_place, "CompositeImplicitAutograd")
LIBRARY.impl("take_key", _take_in_order, "CompositeExplicitAutograd")
for _name, _kernel in (
    ("forward", _on_cpu),
    ("draw_key", _draw_in_order),
    ("child_key", _child_key),
    ("take_key", _take_in_order),
):
    call_directly(_name, _kernel)
torch.library.register_vmap("fastdrop::forward", _batched, lib=LIBRARY)
torch.library.register_vmap("fastdrop::child_key", _child_keys, lib=LIBRARY)


@torch.library.register_fake("fastdrop::forward", lib=LIBRARY)
def _(*arguments: Any) -> Tensor:
    how, words, _, inputs = _parsed(*arguments)
    first = inputs[0]
    if words.device != first.device and not first.is_meta:
        raise RuntimeError(f"key must be on the CPU, got a tensor on {words.device}")
    for x in inputs[1:]:
        if x.device != first.device:
            raise RuntimeError("the tensors of a call must be on one device")
        if torch.broadcast_shapes(x.shape, first.shape) != first.shape:
            raise RuntimeError(f"{x.shape} must broadcast to the shape of input, {first.shape}")
    return torch.empty_like(first, dtype=dtype_of(how, inputs))


@torch.library.register_fake("fastdrop::draw_key", lib=LIBRARY)
def _(place: int, *, device: torch.device) -> Tensor:
    return torch.empty(2, dtype=torch.int64, device=device)


@torch.library.register_fake("fastdrop::child_key", lib=LIBRARY)
def _(words: Tensor, index: int) -> Tensor:
    return torch.empty_like(words)


@torch.library.register_fake("fastdrop::take_key", lib=LIBRARY)
def _(keys: Tensor, place: int) -> Tensor:
    return keys.new_empty(2)
