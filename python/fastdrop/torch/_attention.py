"""Attention with dropout, fused for plain tensors and in torch's graphs.

`_Recorded` computes a call on plain tensors and its gradient. Where torch traces, the operators
``fastdrop::attention`` and ``fastdrop::attention_backward`` do. Everything else (forward-mode
differentiation, gradients of gradients, DTensors) takes `_unfused`: the formula in operations of
torch's, with the same mask.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn import functional
from torch.nn.attention.bias import CausalBias

from fastdrop import _core
from fastdrop._base.masks import Mask, make_mask
from fastdrop._family.attention import causal_offset
from fastdrop._family.dropout import DROPOUT
from fastdrop.torch._autograd import (
    below,
    below_autograd,
    by_operator,
    parts_of,
    record,
    wants_gradient,
)
from fastdrop.torch._call import (
    NO_MASK,
    How,
    empty,
    empty_like,
    is_distributed,
    is_plain,
    leaves_process,
    lent,
)
from fastdrop.torch._direct import call_directly
from fastdrop.torch._dispatch import Source, decide, dispatch, no_key
from fastdrop.torch._operator import LIBRARY, key_of, mask_part, words_for

WIDEST: int = _core.WIDEST
"""The most features of a query, a key or a value."""

_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


class Settings(NamedTuple):
    """Settings of a call, without its tensors and key."""

    p: float
    scale: float
    causal: int | None
    """With a causal mask: how many more keys than its own number a query sees."""


def attention(
    inputs: tuple[Any, Any, Any, Any],
    p: float,
    is_causal: Any = False,
    scale: float | None = None,
    grouped: bool = False,
    source: Source = None,
    return_mask: bool = False,
) -> Any:
    """Compute a call on tensors of any shapes that torch takes.

    The inputs are queries, keys, values, and what is added to scores or None. The first three are
    tensors that fastdrop has kernels for.
    """
    query, key, value, bias = inputs
    if isinstance(bias, CausalBias):
        if is_causal is not False:
            raise ValueError("is_causal must be False with a CausalBias, got True")
        is_causal, bias = bias.variant.name.lower(), None
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        query, key, value = (x if x.dtype is torch.float64 else x.to(low) for x in inputs[:3])
    for x, name in ((key, "key"), (value, "value")):
        if x.dtype is not query.dtype:
            raise TypeError(f"{name} must have the dtype of query, {query.dtype}, got {x.dtype}")
    causal = causal_offset(is_causal, query.shape[-2], key.shape[-2])
    drawn = source is None or p == 0.0
    if drawn and leaves_process():
        return _exported((query, key, value, bias), p, causal, scale, grouped)
    factor = 1.0 / math.sqrt(max(1, query.shape[-1])) if scale is None else scale
    settings = Settings(p, factor, causal)
    if (
        2 < query.dim() < 5
        and (grouped or query.shape[-3] == key.shape[-3])
        and query.shape[:-3] == key.shape[:-3] == value.shape[:-3]
        and key.shape[-3] == value.shape[-3]
    ):
        return attend(settings, (query, key, value, bias), source, return_mask)
    if return_mask or isinstance(source, Mask):
        raise ValueError(
            "query, key and value must have the same 3 or 4 axes, and as many heads, for a mask to "
            f"be given or returned, got shapes {tuple(query.shape)}, {tuple(key.shape)} and "
            f"{tuple(value.shape)}"
        )
    batch, folded = _folded((query, key, value, bias), grouped)
    y = attend(settings, folded, source).reshape(*batch, *query.shape[-3:-1], value.shape[-1])
    return y


def _folded(inputs: Any, grouped: bool) -> Any:
    """Broadcast inputs to the same batch and heads, along four axes or less.

    Return the axes of the batch as well.
    """
    three = [x if x.dim() > 2 else x.unsqueeze(0) for x in inputs[:3]]
    bias = inputs[3]
    batch = torch.broadcast_shapes(*(x.shape[:-3] for x in three))
    heads = [x.shape[-3] for x in three]
    if not grouped:
        heads = list(torch.broadcast_shapes(*((n,) for n in heads))) * 3
    three = [x.expand(*batch, n, *x.shape[-2:]) for x, n in zip(three, heads, strict=True)]
    if len(batch) > 1:
        three = [x.flatten(0, -4) for x in three]
        if bias is not None and bias.dim() > 3:
            bias = bias.expand(*batch, *bias.shape[-3:]).flatten(0, -4)
    return batch, (*three, bias)


def _exported(inputs: Any, p: float, causal: int | None, scale: float | None, grouped: bool) -> Any:
    """Compute a call with torch's operator, for programs that leave this process."""
    query, key, value, bias = inputs
    if causal not in (None, 0) or (causal == 0 and bias is not None):
        sees = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril(causal)
        causal = None
        if bias is None or bias.dtype is torch.bool:
            bias = sees if bias is None else sees & bias
        else:
            bias = bias.masked_fill(~sees, -torch.inf)
    return functional.scaled_dot_product_attention(
        query, key, value, bias, p, causal == 0, scale=scale, enable_gqa=grouped
    )


def attend(
    settings: Settings,
    inputs: tuple[Tensor | None, ...],
    source: Source = None,
    return_mask: bool = False,
) -> Any:
    """Return the result of a call, and its mask if `return_mask`.

    The inputs are queries, keys and values, of the same three or four axes, and what is added to
    scores, or None.
    """
    tensors = tuple([x for x in inputs if x is not None])
    if settings.p == 0.0 and not isinstance(source, Mask):
        source = no_key()
    if is_plain(tensors):
        with suppress(BufferError):
            _core.check_attention(lent(*inputs), threads=1)  # raises before a key is drawn
        recipe = decide(source)
        if type(recipe) is not Mask:
            recipe = make_mask(_weights(*inputs[:2]), settings.p, recipe)
        y = _eager(settings, recipe, inputs)
        return (y, recipe) if return_mask else y
    if return_mask:
        raise RuntimeError(NO_MASK)
    if forward_ad._current_level >= 0 or any(map(is_distributed, tensors)):
        how = How.of(DROPOUT, settings.p)
        return _unfused(settings, lambda weights: dispatch(how, (weights,), source), *inputs)
    if isinstance(source, Mask):
        return _by_operator(settings, *parts_of(source), inputs)
    return _by_operator(settings, words_for(source), None, inputs)


def _weights(query: Any, key: Any) -> tuple[int, ...]:
    """Return the shape of the weights."""
    return (*query.shape[:-1], key.shape[-2])


# --- Plain tensors -------------------------------------------------------------------------------


def _eager(settings: Settings, recipe: Mask, inputs: tuple[Any, ...]) -> Any:
    """Compute a call on plain tensors, and record it if a gradient is wanted."""
    try:
        if _grad_enabled():
            for x in inputs:
                if x is not None and x.requires_grad:
                    return _Recorded.apply(settings, recipe, *inputs)
        return _forward(settings, recipe, inputs)[0]
    except BufferError:  # a tensor without memory of its own, such as a batch of gradients
        return _by_operator(settings, *parts_of(recipe), inputs)


class _Recorded(torch.autograd.Function):
    """A call on plain tensors in the graph of autograd."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, recipe: Mask, *inputs: Any) -> Tensor:
        """Compute the call."""
        y, lse = _forward(settings, recipe, inputs)
        ctx.save_for_backward(*inputs, y, lse)
        ctx.call = settings, recipe
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs."""
        settings, recipe = ctx.call
        *inputs, y, lse = ctx.saved_tensors
        if dy.layout is not torch.strided:
            dy = dy.to_dense()
        wanted = ctx.needs_input_grad[5]
        gradients: Any = None
        if is_plain((dy, y, lse, *(x for x in inputs if x is not None))) and not _grad_enabled():
            with suppress(BufferError):
                gradients = _backward(settings, recipe, dy, inputs, y, lse, wanted)
        if gradients is None:
            words, region = parts_of(recipe)
            gradients = _gradients(settings, words, region, dy, inputs, y, lse, wanted)
        return None, None, *gradients[:3], gradients[3] if wanted else None


def _forward(settings: Settings, recipe: Mask, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the result, and the logarithms that the gradient needs."""
    results = _results(inputs[0], inputs[2])
    y, lse = (empty(*result)[0] for result in results)
    options = (settings.scale, settings.causal, _threads())
    _core.attention(lent(*inputs), options, recipe, *lent(y, lse))
    return y, lse


def _results(query: Tensor, value: Tensor) -> Any:
    """Return shape, strides and dtype of the result and of its logarithms.

    The heads of a query lie side by side, so that merging them needs no copy.
    """
    *batch, heads, queries, _ = query.shape
    width = value.shape[-1]
    line = heads * width
    shape, rows = (*batch, heads, queries, width), (*batch, heads, queries)
    stride, steps = (queries * line, width, line, 1), (heads * queries, queries, 1)
    dtype = query.dtype if query.dtype.itemsize == 8 else torch.float32
    return (shape, stride[-len(shape) :], query.dtype), (rows, steps[-len(rows) :], dtype)


def _backward(
    settings: Settings,
    recipe: Mask,
    dy: Tensor,
    inputs: Any,
    y: Tensor,
    lse: Tensor,
    wanted: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of queries, keys and values, and that of the bias if `wanted`."""
    bias = inputs[3]
    gradients = [empty_like(x, y.dtype)[0] for x in inputs[:3]]
    outputs, arrays = lent(dy, y, lse), lent(*inputs)
    options = (settings.scale, settings.causal, _threads())
    _core.attention_backward(outputs, arrays, options, recipe, lent(*gradients))
    if wanted:
        of_bias = torch.zeros(bias.shape, dtype=lse.dtype)
        _core.attention_bias_gradient(outputs, arrays, options, recipe, *lent(of_bias))
        gradients.append(of_bias.to(bias.dtype))
    return tuple(gradients)


# --- The formula in torch's operations -----------------------------------------------------------


def _unfused(
    settings: Settings,
    drop: Callable[[Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Compute a call with all weights in memory, in operations that torch can differentiate."""
    dtype = query.dtype
    if dtype.itemsize == 2:
        query, key, value = query.float(), key.float(), value.float()
    group = query.shape[-3] // max(1, key.shape[-3])
    if group != 1:
        key, value = (x.repeat_interleave(group, -3) for x in (key, value))
    scores = (query * settings.scale) @ key.transpose(-1, -2)
    if settings.causal is not None:
        sees = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~sees.tril(settings.causal), -torch.inf)
    if bias is not None and bias.dtype is torch.bool:
        scores = scores.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        scores = scores + bias.to(scores.dtype)
    # A softmax that gives 0 to queries that see no key.
    most = scores.detach().amax(-1, keepdim=True) if scores.shape[-1] else scores.sum(-1, True)
    exponentials = (scores - most.masked_fill(most == -torch.inf, 0.0)).exp()
    total = exponentials.sum(-1, keepdim=True)
    weights = exponentials / total.masked_fill(total == 0.0, 1.0)
    if settings.p > 0.0:
        weights = drop(weights)
    return (weights @ value).to(dtype)


def _unfused_gradients(
    settings: Settings, words: Tensor, region: Any, dy: Tensor, inputs: Any, wanted: bool
) -> tuple[Tensor, ...]:
    """Return what `_backward` returns, in operations that torch can differentiate."""
    drop = _again(settings, words, region)
    bias = inputs[3]

    def call(query: Tensor, key: Tensor, value: Tensor, varied: Any = bias) -> Tensor:
        return _unfused(settings, drop, query, key, value, varied)

    gradients: tuple[Tensor, ...] = torch.func.vjp(call, *inputs[: 3 + wanted])[1](dy)
    return gradients


def _again(settings: Settings, words: Tensor, region: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that drops weights as a call did."""
    how = How.of(DROPOUT, settings.p)
    return lambda weights: by_operator(how, words, region, (weights,))


# --- The operators -------------------------------------------------------------------------------

_REST = (
    "Tensor words, float p, float scale, SymInt? causal, "
    "SymInt[]? whole, SymInt[]? start, SymInt[]? shape"
)
_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor? bias"
LIBRARY.define(
    f"attention({_INPUTS}, {_REST}) -> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,)
)
LIBRARY.define(
    f"attention_backward(Tensor dy, {_INPUTS}, Tensor y, Tensor lse, bool wanted, {_REST})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _by_operator(settings: Settings, words: Tensor, region: Any, inputs: Any) -> Any:
    return torch.ops.fastdrop.attention(*inputs, *_rest(settings, words, region))[0]


def _rest(settings: Settings, words: Tensor, region: Any) -> tuple[Any, ...]:
    """Return the arguments after the tensors."""
    return words, *settings, *(region or (None, None, None))


def _parsed(
    words: Tensor, p: float, scale: float, causal: int | None, whole: Any, start: Any, shape: Any
) -> tuple[Settings, Tensor, Any]:
    """Inverse of `_rest`."""
    return Settings(p, scale, causal), words, None if whole is None else (whole, start, shape)


def _recipe(settings: Settings, words: Tensor, region: Any, inputs: Any) -> Mask:
    if region is None:
        return make_mask(_weights(*inputs[:2]), settings.p, key_of(words))
    return mask_part(words, settings.p, region)


def _on_cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs, (settings, words, region) = arguments[:4], _parsed(*arguments[4:])
    return _forward(settings, _recipe(settings, words, region, inputs), inputs)


def _backward_on_cpu(dy: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, (y, lse, wanted) = arguments[:4], arguments[4:7]
    settings, words, region = _parsed(*arguments[7:])
    recipe = _recipe(settings, words, region, inputs)
    gradients = _backward(settings, recipe, dy, inputs, y, lse, wanted)
    return (*gradients, *(() if wanted else (y.new_empty(0),)))


def _gradients(
    settings: Settings,
    words: Tensor,
    region: Any,
    dy: Tensor,
    inputs: Any,
    y: Tensor,
    lse: Tensor,
    wanted: bool,
) -> tuple[Tensor, ...]:
    if forward_ad._current_level >= 0:
        return _unfused_gradients(settings, words, region, dy, inputs, wanted)
    rest = _rest(settings, words, region)
    gradients: tuple[Tensor, ...] = torch.ops.fastdrop.attention_backward(
        dy, *inputs, y, lse, wanted, *rest
    )
    return gradients


class _Operator(_SingleLevelFunction):
    """The operator in the graph of autograd."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, *arguments: Any) -> Any:
        """Compute the call."""
        y, lse = below(keyset, torch.ops.fastdrop.attention, arguments)
        inputs, (ctx.settings, words, ctx.region) = arguments[:4], _parsed(*arguments[4:])
        ctx.save_for_backward(*inputs, y, lse, words)
        ctx.mark_non_differentiable(lse)
        return y, lse

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs."""
        *inputs, y, lse, words = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4]
        gradients = _gradients(ctx.settings, words, ctx.region, dy, inputs, y, lse, wanted)
        return None, *gradients[:3], gradients[3] if wanted else None, *(None,) * 7


class _OperatorBackward(_SingleLevelFunction):
    """The operator of the gradients in the graph of autograd."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, *arguments: Any) -> Any:
        """Compute the gradients."""
        gradients = below(keyset, torch.ops.fastdrop.attention_backward, arguments)
        dy, *inputs = arguments[:5]
        ctx.wanted = arguments[7]
        ctx.settings, words, ctx.region = _parsed(*arguments[8:])
        ctx.save_for_backward(dy, *inputs, words)
        return gradients

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to dy and the inputs."""
        dy, *inputs, words = ctx.saved_tensors
        wanted, bias = ctx.wanted, inputs[3]

        def gradients(dy: Tensor, *varied: Tensor) -> tuple[Tensor, ...]:
            all_inputs = (*varied[:3], varied[3] if wanted else bias)
            return _unfused_gradients(ctx.settings, words, ctx.region, dy, all_inputs, wanted)

        pull = torch.func.vjp(gradients, dy, *inputs[: 3 + wanted])[1]
        found = pull(cotangents[: 3 + wanted])
        return None, *found[:4], found[4] if wanted else None, *(None,) * 10


def _recorded(function: Any, operator: Any, inputs: slice) -> Callable[..., Any]:
    """Return the kernel of an operator for autograd."""

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if wants_gradient(*arguments[inputs]):
            return record(function, keyset, *arguments)
        return below_autograd(keyset, operator, arguments)

    return kernel


def _each(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule of `torch.vmap` for an operator: one example after another."""

    def rule(info: Any, in_dims: Any, *arguments: Any) -> Any:
        dims = [dim if isinstance(dim, int) else None for dim in in_dims]
        rows = [
            [x if dim is None else x.select(dim, n) for x, dim in zip(arguments, dims, strict=True)]
            for n in range(info.batch_size)
        ]
        results = tuple(map(torch.stack, zip(*(operator(*row) for row in rows), strict=True)))
        return results, (0,) * len(results)

    return rule


for _name, _kernel, _function, _inputs in (
    ("attention", _on_cpu, _Operator, slice(4)),
    ("attention_backward", _backward_on_cpu, _OperatorBackward, slice(5)),
):
    _operator = getattr(torch.ops.fastdrop, _name)
    LIBRARY.impl(_name, _kernel, "CPU")
    call_directly(_name, _kernel)
    LIBRARY.impl(_name, _recorded(_function, _operator, _inputs), "Autograd", with_keyset=True)
    torch.library.register_vmap(f"fastdrop::{_name}", _each(_operator), lib=LIBRARY)


@torch.library.register_fake("fastdrop::attention", lib=LIBRARY)
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    results = _results(query, value)
    y, lse = (
        torch.empty_strided(*layout, dtype=dtype, device=query.device) for *layout, dtype in results
    )
    return y, lse


@torch.library.register_fake("fastdrop::attention_backward", lib=LIBRARY)
def _(
    dy: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    y: Tensor,
    lse: Tensor,
    wanted: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_bias = query.new_empty(bias.shape, dtype=bias.dtype) if wanted and bias is not None else None
    return (
        *map(torch.empty_like, (query, key, value)),
        query.new_empty(0) if of_bias is None else of_bias,
    )
