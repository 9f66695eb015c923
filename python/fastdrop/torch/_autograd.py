"""The gradient of a call. A linear call is its own gradient, so only the key is kept.

`eager` computes a call on plain tensors and records it. `by_operator` leaves both to the operator
(`_operator`), which torch can trace and take apart; it records the same gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn import functional

from fastdrop import _core
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import OPERATIONS
from fastdrop._family.blocks import BlockMask
from fastdrop.torch._call import LARGE, RELAXED, How, in_core, is_plain
from fastdrop.torch._keys import key_tensor

_transforms_are_active = torch._C._are_functorch_transforms_active
_grad_enabled = torch.is_grad_enabled


def eager(how: How, source: Any, inputs: tuple[Tensor, ...], inplace: bool = False) -> Any:
    """Compute a call on plain tensors, and record it if a gradient is wanted."""
    try:
        if _grad_enabled():
            for x in inputs:
                if x.requires_grad:
                    if native.ready and not inplace and _announced(how, source, inputs):
                        return torch.native_dropout(x, how.p, None)[0]
                    return record(Recorded, how, source, None, None, inplace, *inputs)
        y = in_core(how, source, inputs, inplace)
    except BufferError:  # a tensor without memory of its own, such as a batch of gradients
        y = by_operator(how, *words_of(source), inputs)
        return inputs[0].copy_(y) if inplace else y
    if inplace and not y.is_inference():
        torch.autograd.graph.increment_version(y)
    return y


class Native:
    """Whether torch's own node for ``native_dropout`` records calls; `_install` decides."""

    ready = False


native = Native()


def _announced(how: How, source: Any, inputs: tuple[Tensor, ...]) -> bool:
    """Announce a call to the kernel of ``native_dropout``, if it takes the call."""
    operation, p, shared, numbers, block, dtype = how
    x = inputs[0]
    return (
        len(inputs) == 1
        and type(source) is Key
        and operation in ("select", "affine")
        and not block
        and dtype is None
        and x.numel() * x.itemsize < LARGE
        and _core.request_receipt(x, source, operation, p, shared, numbers)
    )


class Recorded(_SingleLevelFunction):
    """A call in the graph of autograd.

    In eager mode `source` is the key or the mask. For the operator, `source` is the region, `words`
    the key, and `keyset` the dispatch keys of the call.
    """

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
            y = in_core(how, source, inputs, inplace)
        else:
            y = below(keyset, torch.ops.fastdrop.forward, arguments_of(how, words, source, inputs))
        if inplace:
            ctx.mark_dirty(x)
        if how.operation == RELAXED:
            kept = inputs
        elif how.operation in ACTIVATIONS:
            kept = (y,) if _tells(how, words) else (x,)
        else:
            kept = ()
        if words is not None or kept:
            ctx.save_for_backward(words, *kept)
            ctx.save_for_forward(words, *kept)
        linear = how.linear
        if y.dtype is not x.dtype:
            linear = linear._replace(dtype=x.dtype)
        ctx.call = linear, source, how, [other.shape for other in inputs[1:]]
        ctx.shape, ctx.dtype = y.shape, y.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to the inputs; torch converts them to their dtypes."""
        linear, source, how, shapes = ctx.call
        words, *kept = ctx.saved_tensors or (None,)
        x = kept[0] if kept else None
        if dy.layout is not torch.strided:
            dy = dy.to_dense()  # the gradient of an embedding may be sparse
        if x is None and not shapes:
            return None, None, None, None, None, with_same_mask(linear, source, words, (dy,))
        needs = ctx.needs_input_grad[5:]
        gradients: list[Any]
        if how.operation == RELAXED:
            gradients = _relaxed_gradients(how, source, words, dy, kept, needs)
            return (None,) * 5 + tuple(gradients)
        gradients = [None] * len(needs)
        total = dy
        if how.operation == "bias_add" and needs[1]:
            # The gradient with respect to x + bias, not yet rounded to the dtype of either.
            gradients[0] = total = with_same_mask(
                linear._replace(dtype=dy.dtype), source, words, (dy,)
            )
        elif needs[0]:
            if x is None:
                gradients[0] = with_same_mask(linear, source, words, (dy,))
            elif _tells(how, words):
                gradients[0] = torch.where(x <= 0, 0.0, dy * linear.numbers.scale)
            elif torch.is_grad_enabled():
                passed = with_same_mask(linear, source, words, (dy,))
                gradients[0] = ACTIVATIONS[how.operation][1](passed, x, how.numbers.shift)
            else:
                gradient = how._replace(operation=OPERATIONS[how.operation].gradient)
                gradients[0] = with_same_mask(gradient, source, words, (dy, x))
        for which, shape in enumerate(shapes, 1):
            if needs[which]:
                part, call = dy, how.gradient(which)
                if how.operation == "bias_add" and which == 1:
                    part = total
                elif call is not None:
                    part = with_same_mask(call, source, words, (dy,))
                gradients[which] = part.sum_to_size(shape)
        return (None,) * 5 + tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Return the tangent of the result; `by_operator` has taken activations apart."""
        _, source, how, _ = ctx.call
        words, *kept = ctx.saved_tensors
        if how.operation == RELAXED:
            return _relaxed_tangent(how, source, words, kept, tangents[5:])
        total = None
        for which, tangent in enumerate(tangents[5:]):
            if tangent is None:
                continue
            part, call = tangent, how.gradient(which)
            if call is not None:
                whole = tangent.expand(ctx.shape)
                part = with_same_mask(call._replace(dtype=ctx.dtype), source, words, (whole,))
            total = part if total is None else total + part
        assert total is not None, "torch calls this for tangents"
        return total.to(ctx.dtype)


def _tells(how: How, words: Tensor | None) -> bool:
    """Return whether the operator's result tells what is kept and positive.

    Compiled code then keeps neither the input nor draws again, and joins the gradient with its
    neighbours.
    """
    return words is not None and how.operation == "relu"


def _steeper(how: How) -> How:
    """Return the settings of the derivative of relaxed decisions with respect to the logit."""
    if how.numbers.fill == 2.0:
        raise RuntimeError("logit must be differentiated at most twice in concrete_dropout")
    return how._replace(numbers=how.numbers._replace(fill=how.numbers.fill + 1.0))


def _relaxed_gradients(
    how: How, source: Any, words: Tensor | None, dy: Tensor, inputs: Any, needs: Any
) -> list[Tensor | None]:
    """Return the gradients of relaxed decisions with respect to input and logit."""
    x, logit = inputs
    wide = torch.promote_types(x.dtype, torch.float32)
    dx = terms = None
    if all(needs) and words is None and how.numbers.fill == 0.0 and not _grad_enabled():
        dx, terms = _both_in_core(how, source, dy, x.to(wide), logit)
    if terms is None:
        dx = with_same_mask(how, source, words, (dy, logit)) if needs[0] else None
        if not needs[1]:
            return [dx, None]
        product = dy.to(wide) * x.to(wide)
        call = _steeper(how)._replace(dtype=wide)
        terms = with_same_mask(call, source, words, (product, logit))
    total = terms.sum(dtype=torch.float64)
    return [dx, total.to(logit.dtype).reshape(logit.shape)]


def _both_in_core(
    how: How, source: Any, dy: Tensor, x: Tensor, logit: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient for the input and the terms of that for the logit, drawn once."""
    if not is_plain((dy, x, logit)) or not logit.isfinite():
        return None, None
    terms = x.clone(memory_format=torch.contiguous_format)
    try:
        return in_core(how, source, (dy, logit, terms)), terms
    except BufferError:  # a tensor without memory of its own
        return None, None


def _relaxed_tangent(
    how: How, source: Any, words: Tensor | None, inputs: Any, tangents: Any
) -> Tensor:
    x, logit = inputs
    dx, dlogit = tangents
    parts = []
    if dx is not None:
        parts.append(with_same_mask(how, source, words, (dx, logit)))
    if dlogit is not None:
        slope = with_same_mask(_steeper(how), source, words, (x, logit))
        parts.append(slope * dlogit.to(slope.dtype))
    total: Tensor = sum(parts[1:], parts[0])
    return total


def with_same_mask(how: How, source: Any, words: Tensor | None, inputs: tuple[Tensor, ...]) -> Any:
    """Compute another call with the same mask."""
    if words is not None:
        return by_operator(how, words, source, inputs)
    if is_plain(inputs):
        return eager(how, source, inputs)
    return by_operator(how, *words_of(source), inputs)


_aten = torch.ops.aten


def _silu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of SiLU; torch's own operator cannot be differentiated."""
    s = torch.sigmoid(x)
    return dy * (s * (1 + x * (1 - s)))


ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (lambda x, _: torch.relu(x), lambda dy, x, _: _aten.threshold_backward(dy, x, 0)),
    "gelu": (lambda x, _: functional.gelu(x), lambda dy, x, _: _aten.gelu_backward(dy, x)),
    "gelu_tanh": (
        lambda x, _: functional.gelu(x, approximate="tanh"),
        lambda dy, x, _: _aten.gelu_backward(dy, x, approximate="tanh"),
    ),
    "silu": (lambda x, _: functional.silu(x), lambda dy, x, _: _silu_backward(dy, x)),
    "leaky_relu": (
        functional.leaky_relu,
        lambda dy, x, slope: _aten.leaky_relu_backward(dy, x, slope, False),
    ),
    "elu": (
        functional.elu,
        lambda dy, x, alpha: _aten.elu_backward(dy, alpha, 1, 1, False, x),
    ),
    "tanh": (
        lambda x, _: torch.tanh(x),
        lambda dy, x, _: _aten.tanh_backward(dy, torch.tanh(x)),
    ),
    "sigmoid": (
        lambda x, _: torch.sigmoid(x),
        lambda dy, x, _: _aten.sigmoid_backward(dy, torch.sigmoid(x)),
    ),
    "relu6": (
        lambda x, _: functional.relu6(x),
        lambda dy, x, _: _aten.hardtanh_backward(dy, x, 0, 6),
    ),
    "hardswish": (
        lambda x, _: functional.hardswish(x),
        lambda dy, x, _: _aten.hardswish_backward(dy, x),
    ),
}
"""Activations and their gradients, as operations that torch can differentiate again. Both also take
`shift` of the operation, the parameter of those that have one."""


def by_operator(how: How, words: Tensor, region: Any, inputs: tuple[Tensor, ...]) -> Any:
    """Call the operator; under a transform, torch computes its activation before it."""
    if how.operation in ACTIVATIONS and (
        _transforms_are_active() or forward_ad._current_level >= 0
    ):
        activate = ACTIVATIONS[how.operation][0]
        how, inputs = how.linear, (activate(*inputs, how.numbers.shift),)
    return torch.ops.fastdrop.forward(*arguments_of(how, words, region, inputs))


def words_of(source: Any) -> tuple[Tensor, Any]:
    """Return the key and the region of a call in eager mode, from its key or mask."""
    return (key_tensor(source), None) if type(source) is Key else parts_of(source)


def parts_of(mask: Mask | BlockMask) -> tuple[Tensor, Any]:
    """Return the key and the region of a mask, as arguments of the operator."""
    if not isinstance(mask, Mask):
        raise TypeError(
            f"mask must be a Mask in a compiled or transformed function, got {type(mask).__name__}"
        )
    whole, _, key, start, shape = mask.parts
    return key_tensor(key), (list(whole), list(start), list(shape))


def arguments_of(
    how: How, words: Tensor, region: Any, inputs: tuple[Tensor, ...]
) -> tuple[Any, ...]:
    operation, p, shared, numbers, block, dtype = how
    whole, start, shape = region or (None, None, None)
    three = (*inputs, None, None)[:3]
    return (
        operation, *three, words, p, list(shared), *numbers, list(block),
        whole, start, shape, dtype,
    )  # fmt: skip


def record(function: Any, *arguments: Any) -> Any:
    """Apply a `_SingleLevelFunction` at the level of `torch.func` that torch has dispatched to."""
    if _transforms_are_active():
        with enable_single_level_autograd_function():
            return function.apply(*arguments)
    return function.apply(*arguments)


def below(keyset: Any, operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Call an operator below autograd, from the function that records it."""
    if _transforms_are_active():
        # An outer transform also records this call, so turn on the gradients that autograd has
        # turned off here.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below_autograd(keyset, operator, arguments)
    return below_autograd(keyset, operator, arguments)


def below_autograd(keyset: Any, operator: Any, arguments: tuple[Any, ...]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.default.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def wants_gradient(*inputs: Tensor | None) -> bool:
    """Return whether autograd records an operator with these inputs."""
    return _grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
