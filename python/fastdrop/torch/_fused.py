"""Calls of dropout fused with its neighbours, and the `forward` of torch's containers.

A call is fused if fastdrop has kernels for its tensors, nobody observes its modules, and it is
faster; otherwise all runs one by one. `_fuse` decides which containers of a model call these.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as theirs
from torch.nn.modules.module import _has_any_global_hook

from fastdrop.torch import functional
from fastdrop.torch._autograd import native
from fastdrop.torch._call import is_distributed, takes
from fastdrop.torch._family.dropout import Dropout
from fastdrop.torch._keys import drop
from fastdrop.torch._models import KEYS, _forward
from fastdrop.torch._rewrite import ACTIVATED, ADDED, ADDED_LEFT, PARTIAL

DROPOUTS = (nn.Dropout, Dropout)

CALLS = (theirs.dropout, functional.dropout)
"""Modules and functions that drop, and can be part of a fused call."""

BLOCKS = ("_sa_block", "_mha_block", "_ff_block")
"""Methods of transformer layers that `forward` calls, and ours does not."""

LEAST = 1 << 16
"""Number of elements from which a fused call is faster than one of torch's activations or sums and
one of dropout, where `install` lets torch's own node record the latter. Python records the former.
"""

_PRODUCERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip
"""Modules whose result is a new tensor. An activation in place changes nothing else there, so
leaving it unchanged is safe."""

IN_PLACE = "changes a tensor in place that others may hold"

# --- What can be fused ----------------------------------------------------------------------------


def form_of(activation: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the fused function for an activation and its options, or None."""
    called, given = activation, {}
    if type(activation) is partial:
        called, given = activation.func, dict(activation.keywords)
        if activation.args or given.pop("inplace", False) is not False:
            return None
    for (kind, *functions), function, name, option in _ACTIVATIONS:
        if type(called) is kind:
            given = {option: getattr(called, option)} if option else {}
        elif not any(called is one for one in functions):
            continue
        if set(given) - {option} or not all(map(_is_constant, given.values())):
            return None
        return function, {"activation": name, **given} if name else given
    return None


def _is_constant(value: Any) -> bool:
    """Return whether an activation's parameter is one that the fused functions take."""
    return (
        value in ("none", "tanh")
        if isinstance(value, str)
        else (type(value) in (int, float) and math.isfinite(value))
    )


_NAMED = functional.activation_dropout

_ACTIVATIONS: tuple[tuple[tuple[Any, ...], Callable[..., Any], str, str], ...] = (
    ((nn.ReLU, theirs.relu, torch.relu), functional.relu_dropout, "", ""),
    ((nn.GELU, theirs.gelu), functional.gelu_dropout, "", "approximate"),
    ((nn.SiLU, theirs.silu), functional.silu_dropout, "", ""),
    ((nn.LeakyReLU, theirs.leaky_relu), _NAMED, "leaky_relu", "negative_slope"),
    ((nn.ELU, theirs.elu), _NAMED, "elu", "alpha"),
    ((nn.Tanh, theirs.tanh, torch.tanh), _NAMED, "tanh", ""),
    ((nn.Sigmoid, theirs.sigmoid, torch.sigmoid), _NAMED, "sigmoid", ""),
    ((nn.ReLU6, theirs.relu6), _NAMED, "relu6", ""),
    ((nn.Hardswish, theirs.hardswish), _NAMED, "hardswish", ""),
)
"""Activations as a module and as functions, their fused function, its name for them, and their
parameter."""


def name_of(activation: Any) -> str:
    """Return the name of an activation: of its class, or of the function."""
    called = activation.func if type(activation) is partial else activation
    name: str = getattr(called, "__name__", type(called).__name__)
    return name


def _is_observed(module: nn.Module) -> bool:
    """Return whether hooks see a module's calls, or something else computes them."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or _has_any_global_hook()
    )


def why_not(dropout: Any) -> str | None:
    """Return why a dropout cannot be part of a fused call, or None."""
    if type(dropout) not in DROPOUTS:
        return "only Dropout has fused forms"
    if getattr(dropout, "_options", {}):
        return f"{' and '.join(dropout._options)} has no fused form"
    forward = vars(dropout).get("forward")
    if forward is not None and getattr(forward, "func", None) is not _forward:
        return "it has a forward of its own"  # not isinstance: compiled code sees only partials
    if _is_observed(dropout):
        return "it has hooks, or is compiled"
    return None


def why_not_activation(before: Any, activation: Any) -> str | None:
    """Return why an activation after the module `before` cannot be part of a fused call."""
    if not isinstance(activation, nn.Module):
        return None
    if "forward" in vars(activation):
        return "its activation has a forward of its own"
    if _is_observed(activation):
        return "its activation has hooks, or is compiled"
    if getattr(activation, "inplace", False) and (
        type(before) not in _PRODUCERS or "forward" in vars(before) or _is_observed(before)
    ):
        return f"its activation {IN_PLACE}"
    return None


# --- Calls ----------------------------------------------------------------------------------------


def _are_computed(*inputs: Any) -> bool:
    """Return whether fastdrop has kernels for all inputs."""
    return all(isinstance(x, Tensor) and takes(x) and not is_distributed(x) for x in inputs)


def _pays(function: Callable[..., Any], x: Any) -> bool:
    """Return whether a fused call is faster than its parts; both draw the same mask."""
    if not isinstance(x, Tensor):
        return False
    if torch.compiler.is_compiling() or not native.ready or x.numel() >= LEAST:
        return True
    return function is functional.gelu_dropout  # torch's own GELU takes longer


def _rate(dropper: tuple[Any, Any, Any]) -> float | None:
    """Return p of a call of a function that drops, and can be part of a fused call."""
    function, arguments, options = dropper
    if not (function is theirs.dropout or function is functional.dropout) or len(arguments) > 3:
        return None
    given = dict(zip(("p", "training", "inplace"), arguments, strict=False))
    if set(given) & set(options) or set(options) - {"p", "training", "inplace"}:
        return None
    given |= options
    p = given.get("p", 0.5)
    if given.get("training", True) is not True or given.get("inplace", False) is not False:
        return None
    return p if type(p) in (int, float) and 0.0 < p <= 1.0 else None


def _called(dropper: Any, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Return a fused call in the place of a dropout's, or None if they must be separate calls.

    The dropout is a module, or a tuple of a function and its other arguments.
    """
    if not _are_computed(*inputs):
        return None
    if type(dropper) is tuple:
        p = _rate(dropper)
        return None if p is None else function(*inputs, p=p, **options)
    if why_not(dropper) is not None or not dropper.training or dropper.p == 0.0:
        return None
    keys = vars(dropper).get(KEYS)
    if len(inputs) > 1 and keys is not None and keys.parts is not None:
        return None  # samples have no residual
    return drop(dropper, keys, function, *inputs, **options)


def _dropped(dropper: Any, x: Any) -> Any:
    """Call a dropout in rewritten code: a module, or a function with its other arguments."""
    if type(dropper) is tuple:
        function, arguments, options = dropper
        return function(x, *arguments, **options)
    return dropper(x)


def _activate(before: Any, activation: Any, dropper: Any, x: Any) -> Any:
    """Return ``dropout(activation(x))``."""
    form = form_of(activation)
    y = None
    if form is not None and _pays(form[0], x) and not why_not_activation(before, activation):
        y = _called(dropper, form[0], x, **form[1])
    return _dropped(dropper, activation(x)) if y is None else y


def _sum(residual: Any, dropper: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` from one call, or None if it must be two."""
    if getattr(dropper, "inplace", False) or not _pays(functional.dropout_add, x):
        return None
    return _called(dropper, functional.dropout_add, x, residual)


def _add(residual: Any, dropout: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` in a layer of torch, whose sums do not broadcast."""
    y = _sum(residual, dropout, x)
    return residual + dropout(x) if y is None else y


def _are_alike(x: Any, residual: Any) -> bool:
    """Return whether a sum has the shape and the layout of what is dropped."""
    if not _are_computed(x, residual):
        return False
    return bool(x.shape == residual.shape and x.stride() == residual.stride())


def _added(residual: Any, dropper: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` in rewritten code."""
    y = _sum(residual, dropper, x) if _are_alike(x, residual) else None
    return residual + _dropped(dropper, x) if y is None else y


def _added_left(dropper: Any, x: Any, residual: Any) -> Any:
    """Return ``dropout(x) + residual`` in rewritten code."""
    y = _sum(residual, dropper, x) if _are_alike(x, residual) else None
    return _dropped(dropper, x) + residual if y is None else y


HELPERS: dict[str, Callable[..., Any]] = {
    ACTIVATED: _activate, ADDED: _added, ADDED_LEFT: _added_left, PARTIAL: partial,
}  # fmt: skip
"""What rewritten code calls, by name."""

# --- Containers of torch --------------------------------------------------------------------------


def _sequential(container: nn.Sequential, input: Any) -> Any:
    """Compute an `nn.Sequential`."""
    before, activation = None, None
    for module in container._modules.values():
        if activation is None:
            activation = module
        elif type(module) in DROPOUTS:
            input = _activate(before, activation, module, input)
            before, activation = module, None
        else:
            input = activation(input)
            before, activation = activation, module
    return input if activation is None else activation(input)


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Compute an `nn.TransformerEncoderLayer`; in evaluation, torch does, on its fast path."""
    if not layer.training or has_own_blocks(layer):
        return type(layer).forward(layer, src, src_mask, src_key_padding_mask, is_causal)
    padding = theirs._canonical_mask(
        mask=src_key_padding_mask, mask_name="src_key_padding_mask",
        other_type=theirs._none_or_dtype(src_mask), other_name="src_mask", target_type=src.dtype,
    )  # fmt: skip
    mask = theirs._canonical_mask(
        mask=src_mask, mask_name="src_mask", other_type=None, other_name="",
        target_type=src.dtype, check_other=False,
    )  # fmt: skip
    x: Tensor = src
    if layer.norm_first:
        y = layer.norm1(x)
        x = _add(x, layer.dropout1, _attend(layer.self_attn, y, y, mask, padding, is_causal))
        return _add(x, layer.dropout2, _feed_forward(layer, layer.norm2(x)))
    y = _attend(layer.self_attn, x, x, mask, padding, is_causal)
    x = layer.norm1(_add(x, layer.dropout1, y))
    return layer.norm2(_add(x, layer.dropout2, _feed_forward(layer, x)))


def _decoder_layer(
    layer: nn.TransformerDecoderLayer,
    tgt: Tensor,
    memory: Tensor,
    tgt_mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    tgt_key_padding_mask: Tensor | None = None,
    memory_key_padding_mask: Tensor | None = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Tensor:
    """Compute an `nn.TransformerDecoderLayer`."""
    own = tgt_mask, tgt_key_padding_mask, tgt_is_causal
    other = memory_mask, memory_key_padding_mask, memory_is_causal
    if not layer.training or has_own_blocks(layer):
        masks = (each for pair in zip(own, other, strict=True) for each in pair)
        return type(layer).forward(layer, tgt, memory, *masks)
    x: Tensor = tgt
    if layer.norm_first:
        y = layer.norm1(x)
        x = _add(x, layer.dropout1, _attend(layer.self_attn, y, y, *own))
        y = _attend(layer.multihead_attn, layer.norm2(x), memory, *other)
        x = _add(x, layer.dropout2, y)
        return _add(x, layer.dropout3, _feed_forward(layer, layer.norm3(x)))
    x = layer.norm1(_add(x, layer.dropout1, _attend(layer.self_attn, x, x, *own)))
    y = _attend(layer.multihead_attn, x, memory, *other)
    x = layer.norm2(_add(x, layer.dropout2, y))
    return layer.norm3(_add(x, layer.dropout3, _feed_forward(layer, x)))


def has_own_blocks(layer: nn.Module) -> bool:
    """Return whether the user gave the layer a block of its own."""
    own = vars(layer)
    return any(name in own for name in BLOCKS)


def _attend(
    attention: Any, x: Tensor, memory: Tensor, mask: Any, padding: Any, is_causal: bool
) -> Tensor:
    y: Tensor = attention(
        x, memory, memory,
        attn_mask=mask, key_padding_mask=padding, is_causal=is_causal, need_weights=False,
    )[0]  # fmt: skip
    return y


def _feed_forward(layer: Any, x: Tensor) -> Any:
    y = _activate(layer.linear1, layer.activation, layer.dropout, layer.linear1(x))
    return layer.linear2(y)


FORWARDS: dict[Any, Callable[..., Any]] = {
    nn.Sequential: _sequential,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoderLayer: _decoder_layer,
}
"""The `forward` for each class of containers."""
