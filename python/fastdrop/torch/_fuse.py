"""Fusion of a model's dropout with the activation before it, or with the residual after it.

The containers are given a `forward`: the `nn.Sequential`, the transformer layers, and modules whose
classes have code of their own, which `_rewrite` changes. Their modules stay as they are. Each call
looks at the modules, and fuses those that nobody observes, so that hooks, slices of a model and
modules that are exchanged later see what they saw before.
"""

import ast
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any, Literal, NamedTuple, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as theirs
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _has_any_global_hook

from fastdrop._base.arguments import as_flag, shown
from fastdrop.torch import functional
from fastdrop.torch._autograd import native
from fastdrop.torch._call import is_distributed, takes
from fastdrop.torch._family.dropout import Dropout
from fastdrop.torch._keys import drop
from fastdrop.torch._models import (
    KEYS,
    Model,
    _can_be_given_forward,
    _forward,
    _Replaced,
    replace,
)
from fastdrop.torch._rewrite import ACTIVATED, ADDED, ADDED_LEFT, PARTIAL, Rewritten, Site, rewrite

_DROPOUTS = (nn.Dropout, Dropout)

_BLOCKS = ("_sa_block", "_mha_block", "_ff_block")
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

    An activation and the dropout directly after it become one pass over memory, and so do a dropout
    and the residual it is added to: in `torch.nn.Sequential`, in
    `torch.nn.TransformerEncoderLayer` and `torch.nn.TransformerDecoderLayer`, and in the code of
    your own classes. Activations are those of `functional.activation_dropout`, as modules or as
    functions of torch. Dropout is `torch.nn.Dropout`, `Dropout`, or in your own code
    `torch.nn.functional.dropout`.

    Code is read from the source of a class's `forward`: expressions such as
    ``self.drop(F.relu(self.fc(x)))`` and ``x + self.drop(y)``, and the same in two adjacent
    statements. The rest of the code runs as it is, branches and loops included. Code without source
    and decorated functions are left alone, and so is a sum that broadcasts what is dropped.

    The model keeps its modules, names and state. Dropout that is fused is also replaced, see
    `replace`; other dropout stays torch's. Masks are those of `replace`, or of `install` for
    functions, from the same keys, and results and gradients differ by rounding. In evaluation, for
    p = 0, where a module has hooks, and for tensors that fastdrop has no kernels for, all runs one
    by one; small tensors do so where it is faster. `restore` undoes `fuse`.

    Parameters
    ----------
    model : Module
        Model with dropout modules.
    report : bool, default False
        Whether to return ``(model, list)`` instead. The list has a named tuple for each dropout
        module: `name`, `fused`, and in `note` what it is fused with, or why it is not. Functions
        that are fused in the code of a module are listed as its ``dropout()``.

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
        sites, forward = _plan(module)
        found += [
            Fusion(prefix + child, not reason, reason or partner)
            for child, partner, reason in sites
        ]
        if forward is not None:
            for child, _, reason in sites:
                if not reason and child != _CALL:
                    replace(module.get_submodule(child))
            vars(module)["forward"] = forward
    if isinstance(model, _DropoutNd):
        found.append(Fusion("", False, _ALONE))
    return (model, found) if report else model


def _plan(module: nn.Module) -> tuple[list[tuple[str, str, str | None]], Any]:
    """Return the sites of a module, as `_sites`, and the `forward` that fuses them, if any."""
    kind = _kind(module)
    if kind is None and _has_code_of_its_own(module):
        return _plan_of_code(module)
    fits = kind is not None and _fits(module)
    return list(_sites(module)), _Fused(_FORWARDS[kind], module) if fits else None


_ALONE = "it is in no container that can be fused"
_OWN = "it is in a container with a forward of its own"
_APART = "neither an activation before it nor a sum after it can be fused"
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
    name = _name_of(activation)
    if activation is None:
        return "", "nothing comes before it in its container"
    if _form(activation) is None:
        return name, f"nothing is fused after {name}"
    return name, _why_not(dropout) or _why_not_activation(before, activation)


def _form(activation: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
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


# --- Containers whose class has code of its own ---------------------------------------------------

_CALL = "dropout()"
"""The name in a report for calls of torch's function in the code of a module."""

_CALLS = (theirs.dropout, functional.dropout)


class _Rewritten(_Fused):
    """The `forward` of a module whose class has code of its own: a function with fused calls.

    Python cannot pickle the function; what unpickles this rewrites the code again.
    """

    names: tuple[frozenset[str], frozenset[str]]
    """The module's attributes that are dropouts, and those that are activations."""

    def __reduce__(self) -> Any:
        """Return how to make the same for a copy of the module."""
        return _rewritten_forward, (self.args[2], self.names)

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of the class's `forward`."""
        original, _, module = self.args
        return inspect.signature(original.__get__(module))


def _run_rewritten(original: Any, rewritten: Any, module: Any, *inputs: Any, **options: Any) -> Any:
    """Compute a module with its rewritten code, unless its class has meanwhile other code."""
    function = rewritten if type(module).forward is original else type(module).forward
    return function(module, *inputs, **options)


def _rewritten_forward(module: Any, names: tuple[frozenset[str], frozenset[str]]) -> Any:
    """Return the `forward` of a module, or of a copy that may not have its children yet."""
    original = type(module).forward
    function = _rewrite(original, *names).function or original
    forward = _Rewritten(_run_rewritten, original, function, module)
    forward.names = names
    return forward


def _has_code_of_its_own(module: nn.Module) -> bool:
    """Return whether a module's class has a `forward`, and it is not torch's."""
    owner: str = getattr(type(module).forward, "__module__", None) or ""
    return not owner.startswith(("torch.", "fastdrop."))


def _plan_of_code(module: nn.Module) -> tuple[list[tuple[str, str, str | None]], Any]:
    """Do the same as `_plan` for a module whose class has code of its own."""
    attributes = {**vars(module), **module._modules}
    dropouts = frozenset(name for name, one in attributes.items() if type(one) in _DROPOUTS)
    activations = frozenset(name for name, one in attributes.items() if _form(one) is not None)
    if _can_be_given_forward(module):
        done = _rewrite(type(module).forward, dropouts, activations)
    else:
        done = Rewritten(None, [], _OWN)
    partners: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for site in done.sites:
        partner, reason = _judged(module, site)
        if reason is None:
            partners.setdefault(site.dropout or _CALL, []).append(partner)
        else:
            reasons[site.dropout] = reason
    sites: list[tuple[str, str, str | None]] = []
    for name, child in module._modules.items():
        if name in partners:
            sites.append((name, _listed(partners[name]), None))
        elif isinstance(child, _DropoutNd):
            kind = None if type(child) in _DROPOUTS else "only Dropout has fused forms"
            sites.append((name, "", kind or reasons.get(name) or done.reason or _APART))
    if _CALL in partners:
        sites.append((_CALL, _listed(partners[_CALL]), None))
    if done.function is None or not partners:
        return sites, None
    return sites, _rewritten_forward(module, (dropouts, activations))


def _listed(partners: list[str]) -> str:
    """Return names without repetitions."""
    return ", ".join(dict.fromkeys(partners))


def _judged(module: nn.Module, site: Site) -> tuple[str, str | None]:
    """Return the partner at a place in a module's code, and why it cannot be fused."""
    dropout = getattr(module, site.dropout) if site.dropout else None
    reason = None if dropout is None else _why_not(dropout)
    if site.partner is None:
        if reason is None and getattr(dropout, "inplace", False):
            reason = f"it {_IN_PLACE}"
        return "residual", reason
    activation = _value(site.partner, type(module).forward, module)
    called = activation
    if site.keywords:
        constants = {
            one.arg or "": one.value.value
            for one in site.keywords
            if isinstance(one.value, ast.Constant)
        }
        called = partial(activation, **constants)
    name = _name_of(activation)
    if _form(called) is None:
        return name, f"nothing is fused after this call of {name}"
    before = getattr(module, site.before, None) if site.before else None
    return name, reason or _why_not_activation(before, activation)


def _value(node: ast.expr, function: Any, module: Any = None) -> Any:
    """Return what a dotted name in a function's code stands for, or None.

    `module` is the value of the first argument.
    """
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, function, module), node.attr, None)
    if not isinstance(node, ast.Name):
        return None
    code = function.__code__
    if node.id in (*code.co_varnames, *code.co_cellvars):
        return module if node.id == code.co_varnames[0] else None
    closed = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    if node.id in closed:
        try:
            return closed[node.id].cell_contents
        except ValueError:  # not assigned yet
            return None
    return function.__globals__.get(node.id)


def _rewrite(function: Any, dropouts: frozenset[str], activations: frozenset[str]) -> Rewritten:
    """Rewrite a function whose module has these attributes; once for all modules of a class."""
    if not isinstance(function, FunctionType):
        return rewrite(function, lambda _: _no_role, {})
    known = _rewrites.setdefault(function, {})

    def role_in(module: str) -> Callable[[ast.expr], str]:
        def role(callee: ast.expr) -> str:
            owner = callee.value if isinstance(callee, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id == module:
                name = callee.attr  # type: ignore[attr-defined]
                return "dropout" * (name in dropouts) or "activation" * (name in activations)
            called = _value(callee, function)
            if any(called is one for one in _CALLS):
                return "dropout"
            return "activation" * (called is not None and _form(called) is not None)

        return role

    if (dropouts, activations) not in known:
        known[dropouts, activations] = rewrite(function, role_in, _HELPERS)
    return known[dropouts, activations]


def _no_role(callee: ast.expr) -> str:
    return ""


_rewrites: WeakKeyDictionary[Any, dict[Any, Rewritten]] = WeakKeyDictionary()


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


def _computed(*inputs: Any) -> bool:
    """Return whether fastdrop has kernels for all inputs."""
    return all(isinstance(x, Tensor) and takes(x) and not is_distributed(x) for x in inputs)


def _dropped(dropper: Any, x: Any) -> Any:
    """Call a dropout in rewritten code: a module, or a function with its other arguments."""
    if type(dropper) is tuple:
        function, arguments, options = dropper
        return function(x, *arguments, **options)
    return dropper(x)


def _activated(before: Any, activation: Any, dropper: Any, x: Any) -> Any:
    """Return ``dropout(activation(x))`` in rewritten code."""
    if type(dropper) is not tuple:
        return _activate(before, activation, dropper, x)
    form, p = _form(activation), _rate(dropper)
    if form is None or p is None or _why_not_activation(before, activation) or not _computed(x):
        return _dropped(dropper, activation(x))
    function, options = form
    if not _pays(function, x):
        return _dropped(dropper, activation(x))
    return function(x, p=p, **options)


def _sum(residual: Any, dropper: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` if it can be fused, and None else.

    A residual of another shape may lead to a larger sum, and one of another layout to another
    layout.
    """
    if not _computed(x, residual):
        return None
    if x.shape != residual.shape or x.stride() != residual.stride():
        return None
    if type(dropper) is not tuple:
        return _fused_sum(residual, dropper, x)
    p = _rate(dropper)
    if p is None or not _pays(functional.dropout_add, x):
        return None
    return functional.dropout_add(x, residual, p)


def _added(residual: Any, dropper: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` in rewritten code."""
    y = _sum(residual, dropper, x)
    return residual + _dropped(dropper, x) if y is None else y


def _added_left(dropper: Any, x: Any, residual: Any) -> Any:
    """Return ``dropout(x) + residual`` in rewritten code."""
    y = _sum(residual, dropper, x)
    return _dropped(dropper, x) + residual if y is None else y


_HELPERS: dict[str, Callable[..., Any]] = {
    ACTIVATED: _activated, ADDED: _added, ADDED_LEFT: _added_left, PARTIAL: partial,
}  # fmt: skip


# --- What can be fused ----------------------------------------------------------------------------


def _name_of(activation: Any) -> str:
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


def _why_not(dropout: Any) -> str | None:
    """Return why a dropout cannot be part of a fused call, or None."""
    if type(dropout) not in _DROPOUTS:
        return "only Dropout has fused forms"
    if getattr(dropout, "_options", {}):
        return f"{' and '.join(dropout._options)} has no fused form"
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


def _pays(function: Callable[..., Any], x: Tensor) -> bool:
    """Return whether a fused call is faster than its parts; both draw the same mask."""
    if torch.compiler.is_compiling() or not native.ready or x.numel() >= LEAST:
        return True
    return function is functional.gelu_dropout  # torch's own GELU takes longer


def _activate(before: Any, activation: Any, dropout: Any, x: Any) -> Any:
    """Return ``dropout(activation(x))``."""
    form = _form(activation)
    if (
        form is None
        or not (isinstance(x, Tensor) and _pays(form[0], x))
        or _why_not_activation(before, activation)
        or not _drops(dropout, x)
    ):
        return dropout(activation(x))
    function, options = form
    return drop(dropout, vars(dropout).get(KEYS), function, x, **options)


def _add(residual: Any, dropout: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)``."""
    y = _fused_sum(residual, dropout, x)
    return residual + dropout(x) if y is None else y


def _fused_sum(residual: Any, dropout: Any, x: Any) -> Any:
    """Return ``residual + dropout(x)`` from one call, or None if it must be two."""
    if not _drops(dropout, x, residual) or dropout.inplace:
        return None
    keys = vars(dropout).get(KEYS)
    if keys is not None and keys.parts is not None:  # samples have no residual
        return None
    if not _pays(functional.dropout_add, x):
        return None
    return drop(dropout, keys, functional.dropout_add, x, residual)


def _sequential(container: nn.Sequential, input: Any) -> Any:
    """Compute an `nn.Sequential`."""
    before, activation = None, None
    for module in container._modules.values():
        if activation is None:
            activation = module
        elif type(module) in _DROPOUTS:
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
