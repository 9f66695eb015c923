"""Fusion of a model's dropout with the activation before it, or with the residual after it.

The containers are given a `forward`: the `nn.Sequential` and the transformer layers. Their modules
stay as they are. Each call looks at the modules, and fuses those that nobody observes, so that
hooks, slices of a model and modules that are exchanged later see what they saw before.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as theirs
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _has_any_global_hook

from fastdrop._base.arguments import as_flag, shown
from fastdrop.torch import functional
from fastdrop.torch._call import is_distributed, takes
from fastdrop.torch._keys import drop
from fastdrop.torch._models import (
    KEYS,
    Model,
    _can_be_given_forward,
    _forward,
    _Replaced,
    replace,
)
from fastdrop.torch.modules import Dropout

_DROPOUTS = (nn.Dropout, Dropout)

_BLOCKS = ("_sa_block", "_mha_block", "_ff_block")
"""Methods of transformer layers that `forward` calls, and ours does not."""

_PRODUCERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip
"""Modules whose result is a new tensor. An activation in place changes nothing else there, so
leaving it unchanged is safe."""


class Fusion(NamedTuple):
    """A dropout module in the report of `fuse`."""

    name: str
    fused: bool
    note: str
    """What it is fused with, or why it is not."""


class _Fused(_Replaced):
    """The `forward` of a container after `fuse`; `restore` removes it."""


@overload
def fuse(model: Model, *, report: Literal[False] = False) -> Model: ...
@overload
def fuse(model: Model, *, report: Literal[True]) -> tuple[Model, list[Fusion]]: ...
def fuse(model: Model, *, report: bool = False) -> Model | tuple[Model, list[Fusion]]:
    """Fuse dropout with its neighbours in a model, in place, and return the model.

    In `torch.nn.Sequential`, an activation and the dropout directly after it become one pass over
    memory. In `torch.nn.TransformerEncoderLayer` and `torch.nn.TransformerDecoderLayer`, so do the
    activation and its dropout, and each dropout and the residual it is added to. Activations are
    ReLU and GELU, and dropout is `torch.nn.Dropout` or `Dropout`.

    The model keeps its modules, names and state. Dropout that is fused is also replaced, see
    `replace`; other dropout stays torch's. Masks are those of `replace`, from the same keys, and
    results and gradients differ by rounding. In evaluation, for p = 0, where a module has hooks,
    and for tensors that fastdrop has no kernels for, the modules run one by one. `restore` undoes
    `fuse`.

    Parameters
    ----------
    model : Module
        Model with dropout modules.
    report : bool, default False
        Whether to return ``(model, list)`` instead. The list has a named tuple for each dropout
        module: `name`, `fused`, and in `note` what it is fused with, or why it is not.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Dropout(0.2))
    >>> model, report = fastdrop.torch.fuse(model, report=True)
    >>> for line in report:
    ...     print(*line)
    1 True ReLU
    2 False nothing is fused after Dropout
    >>> _ = fastdrop.torch.restore(model)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {shown(model)}")
    report = as_flag(report, "report")
    found: list[Fusion] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        sites = list(_sites(module))
        found += [
            Fusion(prefix + child, not reason, reason or partner)
            for child, partner, reason in sites
        ]
        kind = _kind(module)
        if kind is not None and _fits(module):
            for child, _, reason in sites:
                if not reason:
                    replace(module.get_submodule(child))
            vars(module)["forward"] = _Fused(_FORWARDS[kind], module)
    if isinstance(model, _DropoutNd):
        found.append(Fusion("", False, _ALONE))
    return (model, found) if report else model


_ALONE = "it is in no container that can be fused"
_OWN = "it is in a container with a forward of its own"
_IN_PLACE = "changes a tensor in place that others may hold"


def _kind(module: nn.Module) -> Any:
    """Return the class of `_FORWARDS` that computes a module, else None.

    Subclasses may add methods, as those of FSDP do, but not override what ours replaces.
    """
    for kind in _FORWARDS:
        if isinstance(module, kind):
            methods = (
                (getattr(kind, name, None), getattr(type(module), name, None))
                for name in ("forward", *_BLOCKS)
            )
            return kind if all(one is other for one, other in methods) else None
    return None


def _fits(module: nn.Module) -> bool:
    """Return whether a container computes what its class does."""
    return _can_be_given_forward(module) and not _has_own_blocks(module)


def _sites(module: nn.Module) -> Iterator[tuple[str, str, str | None]]:
    """Yield the name of each dropout in a module, its partner, and why it cannot be fused."""
    kind, before, last = _kind(module), None, None
    fits = _fits(module)
    for name, child in module._modules.items():
        if isinstance(child, _DropoutNd):
            if kind is None or not fits:
                yield name, "", _ALONE if kind is None else _OWN
            elif kind is nn.Sequential:
                yield name, *_partner(before, last, child)
            elif name == "dropout":
                yield name, *_partner(module.linear1, module.activation, child)
            else:
                yield (
                    name,
                    "residual",
                    _why_not(child) or (f"it {_IN_PLACE}" if child.inplace else None),
                )
        before, last = last, child


def _partner(before: Any, activation: Any, dropout: nn.Module) -> tuple[str, str | None]:
    """Return the name of an activation, and why it cannot be fused with a dropout."""
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is None:
        return "", "nothing comes before it in its container"
    if _form(activation) is None:
        return name, f"nothing is fused after {name}"
    return name, _why_not(dropout) or _why_not_activation(before, activation)


def _form(activation: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the fused function for an activation and its options, or None."""
    kind = type(activation)
    if kind is nn.ReLU or activation is theirs.relu or activation is torch.relu:
        return functional.relu_dropout, {}
    if kind is nn.GELU:
        return functional.gelu_dropout, {"approximate": activation.approximate}
    if activation is theirs.gelu:
        return functional.gelu_dropout, {}
    return None


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


def _why_not(dropout: Any) -> str | None:
    """Return why a dropout cannot be part of a fused call, or None."""
    if type(dropout) not in _DROPOUTS:
        return "only Dropout has fused forms"
    if getattr(dropout, "broadcast_dims", ()):
        return "broadcast_dims has no fused form"
    forward = vars(dropout).get("forward")
    if forward is not None and getattr(forward, "func", None) is not _forward:
        return "it has a forward of its own"  # not isinstance: compiled code sees only partials
    if _is_observed(dropout):
        return "it has hooks, or is compiled"
    return None


def _why_not_activation(before: Any, activation: Any) -> str | None:
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
        return f"its activation {_IN_PLACE}"
    return None


def _drops(dropout: nn.Module, *inputs: Any) -> bool:
    """Return whether a call of a dropout drops, and can be part of a fused call."""
    if _why_not(dropout) is not None or not dropout.training or dropout.p == 0.0:
        return False
    return all(isinstance(x, Tensor) and takes(x) and not is_distributed(x) for x in inputs)


def _activate(before: Any, activation: Any, dropout: Any, x: Any) -> Any:
    """Return ``dropout(activation(x))``."""
    form = _form(activation)
    if form is None or _why_not_activation(before, activation) or not _drops(dropout, x):
        return dropout(activation(x))
    function, options = form
    return drop(dropout, vars(dropout).get(KEYS), function, x, **options)


def _add(residual: Any, dropout: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)``."""
    keys = vars(dropout).get(KEYS)
    in_parts = keys is not None and keys.parts is not None  # samples have no residual
    if in_parts or getattr(dropout, "inplace", False) or not _drops(dropout, x, residual):
        return residual + dropout(x)
    return drop(dropout, keys, functional.dropout_add, x, residual)


def _sequential(container: nn.Sequential, input: Any) -> Any:
    """Compute an `nn.Sequential`."""
    modules: list[Any] = list(container)
    n = 0
    while n < len(modules):
        module, pair = modules[n], modules[n : n + 2]
        if len(pair) == 2 and type(pair[1]) in _DROPOUTS and _form(module) is not None:
            input = _activate(modules[n - 1] if n else None, module, pair[1], input)
            n += 2
        else:
            input = module(input)
            n += 1
    return input


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Compute an `nn.TransformerEncoderLayer`; in evaluation, torch does, on its fast path."""
    if not layer.training or _has_own_blocks(layer):
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
    if not layer.training or _has_own_blocks(layer):
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


def _has_own_blocks(layer: nn.Module) -> bool:
    """Return whether the user gave the layer a block of its own."""
    own = vars(layer)
    return any(name in own for name in _BLOCKS)


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


_FORWARDS: dict[Any, Callable[..., Any]] = {
    nn.Sequential: _sequential,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoderLayer: _decoder_layer,
}
"""The `forward` for each class of containers."""
