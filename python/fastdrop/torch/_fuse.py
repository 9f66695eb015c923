"""Fusion of a model's dropout with the activation before it, or with the residual after it.

The containers are given a `forward`: the `nn.Sequential`, the transformer layers, and modules whose
classes have code of their own, which `_rewrite` changes. Their modules stay as they are. Each call
looks at the modules (`_fused`), and fuses those that nobody observes, so that hooks, slices of a
model and modules that are exchanged later see what they saw before.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import Any, Literal, NamedTuple, overload
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._base.arguments import as_flag, shown
from fastdrop.torch._fused import (
    BLOCKS,
    CALLS,
    DROPOUTS,
    FORWARDS,
    HELPERS,
    IN_PLACE,
    form_of,
    has_own_blocks,
    name_of,
    why_not,
    why_not_activation,
)
from fastdrop.torch._models import Model, _can_be_given_forward, _Replaced, replace
from fastdrop.torch._rewrite import Rewritten, Site, rewrite


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
    return list(_sites(module)), _Fused(FORWARDS[kind], module) if fits else None


_ALONE = "it is in no container that can be fused"
_OWN = "it is in a container with a forward of its own"
_APART = "neither an activation before it nor a sum after it can be fused"


def _kind(module: nn.Module) -> Any:
    """Return the class of `FORWARDS` that computes a module, else None.

    Subclasses may add methods, as those of FSDP do, but not override what ours replaces.
    """
    for kind in FORWARDS:
        if isinstance(module, kind):
            methods = (
                (getattr(kind, name, None), getattr(type(module), name, None))
                for name in ("forward", *BLOCKS)
            )
            return kind if all(one is other for one, other in methods) else None
    return None


def _fits(module: nn.Module) -> bool:
    """Return whether a container computes what its class does."""
    return _can_be_given_forward(module) and not has_own_blocks(module)


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
                    why_not(child) or (f"it {IN_PLACE}" if child.inplace else None),
                )
        before, last = last, child


def _partner(before: Any, activation: Any, dropout: nn.Module) -> tuple[str, str | None]:
    """Return the name of an activation, and why it cannot be fused with a dropout."""
    name = name_of(activation)
    if activation is None:
        return "", "nothing comes before it in its container"
    if form_of(activation) is None:
        return name, f"nothing is fused after {name}"
    return name, why_not(dropout) or why_not_activation(before, activation)


# --- Containers whose class has code of its own ---------------------------------------------------

_CALL = "dropout()"
"""The name in a report for calls of torch's function in the code of a module."""


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
    function = _rewritten_code(original, *names).function or original
    forward = _Rewritten(_run_rewritten, original, function, module)
    forward.names = names
    return forward


def _has_code_of_its_own(module: nn.Module) -> bool:
    """Return whether a module's class has a `forward`, and it is not torch's."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    owner: str = getattr(type(module).forward, "__module__", None) or ""
    return not owner.startswith(("torch.", "fastdrop."))


def _plan_of_code(module: nn.Module) -> tuple[list[tuple[str, str, str | None]], Any]:
    """Do the same as `_plan` for a module whose class has code of its own."""
    attributes = {**vars(module), **module._modules}
    dropouts = frozenset(name for name, one in attributes.items() if type(one) in DROPOUTS)
    activations = frozenset(name for name, one in attributes.items() if form_of(one) is not None)
    if _can_be_given_forward(module):
        done = _rewritten_code(type(module).forward, dropouts, activations)
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
            kind = None if type(child) in DROPOUTS else "only Dropout has fused forms"
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
    reason = None if dropout is None else why_not(dropout)
    if site.partner is None:
        if reason is None and getattr(dropout, "inplace", False):
            reason = f"it {IN_PLACE}"
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
    name = name_of(activation)
    if form_of(called) is None:
        return name, f"nothing is fused after this call of {name}"
    before = getattr(module, site.before, None) if site.before else None
    return name, reason or why_not_activation(before, activation)


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


def _rewritten_code(
    function: Any, dropouts: frozenset[str], activations: frozenset[str]
) -> Rewritten:
    """Rewrite a function whose module has these attributes; once for all modules of a class."""
    known = _rewrites.setdefault(function, {}) if isinstance(function, FunctionType) else {}

    def role(module: str, callee: ast.expr) -> str:
        if isinstance(callee, ast.Attribute):
            owner = callee.value
            if isinstance(owner, ast.Name) and owner.id == module:
                name = callee.attr
                return "dropout" * (name in dropouts) or "activation" * (name in activations)
        called = _value(callee, function)
        if any(called is one for one in CALLS):
            return "dropout"
        return "activation" * (called is not None and form_of(called) is not None)

    if (dropouts, activations) not in known:
        known[dropouts, activations] = rewrite(function, role, HELPERS)
    return known[dropouts, activations]


_rewrites: WeakKeyDictionary[Any, dict[Any, Rewritten]] = WeakKeyDictionary()
