"""What a model draws, and which module: dropout, and random numbers of a library's own.

`ran` calls the model: kernels for torch's dropout, and a dispatch mode for random numbers, note
each draw and the module that calls it. `read` looks into the classes and bytecode of modules.
"""

import dis
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdrop.torch import _install
from fastdrop.torch._call import takes
from fastdrop.torch._models import _function_of, _Replaced
from fastdrop.torch._modules import Module

_INSTALL, _RANDOM, _REPLACE = "install()", "install(random=True)", "replace(model)"
_Settings = _install.Installed | None

_DROPOUTS = tuple(name for name in _install._KERNELS if name != _install._WITH_WEIGHTS)
ATTENTION = _install._ATTENTION
_COVERED = ("bernoulli", "rand", "randn", "uniform", "normal", "exponential", "rand_like")
_METHODS = {f"{name}_" for name in ("bernoulli", "uniform", "normal", "exponential")}
"""Random numbers that `install` can compute, and the methods among them."""

_MEMBERS = {
    "droppath": "DropPath",
    "stochasticdepth": "DropPath",
    "dropblock": "DropBlock2d",
    "patchdropout": "PatchDropout",
    "zoneout": "Zoneout",
    "locked": "LockedDropout",
    "variational": "LockedDropout",
    "embeddingdropout": "EmbeddingDropout",
    "gaussian": "GaussianDropout",
    "weightdrop": "WeightDrop",
    "dropconnect": "DropConnect",
}
"""What computes the same as classes of other libraries, by a part of their names."""


class Found(NamedTuple):
    """A way in which a module draws."""

    name: str
    """Name of the module in the model."""
    kind: str
    """Class of the module."""
    call: str
    """What it calls: an operator of torch, or fastdrop's."""
    p: float | None
    computed_by: str
    """Either "fastdrop" or "PyTorch"."""
    use: str
    """What would let fastdrop compute it; empty if it does, or if nothing would."""


@contextmanager
def kernels(kernel_of: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    """Let kernels of ours compute torch's dropout on the CPU."""
    _install.uninstall()
    library = torch.library.Library("aten", "IMPL")
    try:
        for name in _DROPOUTS:
            for key in _install._KEYS[:-1]:
                library.impl(name, kernel_of(name), key)
        _install._forget()
        yield
    finally:
        library._destroy()
        _install._forget()


def _row(
    settings: _Settings,
    name: str,
    module: nn.Module,
    call: str,
    p: float | None = None,
    takes_it: bool = True,
    shape: tuple[int, ...] = (),
) -> Found:
    """Return a row for a draw: what computes it with these settings, and what to use instead."""
    by, use = "PyTorch", ""
    if call.startswith("fastdrop"):
        by = "fastdrop"
    elif call in _DROPOUTS:
        if takes_it and settings is not None:
            by = "fastdrop"
        elif takes_it:
            can_be_replaced = call != ATTENTION and _function_of(module) is not None
            use = f"{_INSTALL} or {_REPLACE}" if can_be_replaced else _INSTALL
    elif takes_it and call.rstrip("_") in _COVERED:
        if settings is not None and settings.random:
            by = "fastdrop"
        else:
            member = _member(type(module).__name__, call, shape)
            use = f"fastdrop.torch.{member} or {_RANDOM}" if member else _RANDOM
    for attribute in ("p", "drop_prob"):
        p = getattr(module, attribute, None) if p is None else p
    p = float(p) if isinstance(p, (int, float)) else None
    return Found(name, type(module).__name__, call, p, by, use)


def _member(kind: str, call: str, shape: tuple[int, ...]) -> str | None:
    """Return the member that draws as a class does, by its name or by the shape it draws."""
    plain = kind.lower().replace("_", "")
    for part, member in _MEMBERS.items():
        if part in plain:
            return member
    if call.rstrip("_") not in ("bernoulli", "rand", "uniform", "rand_like") or len(shape) < 2:
        return None
    return "DropPath" if shape[0] > 1 and set(shape[1:]) == {1} else None


class _Watch(TorchDispatchMode):
    """Notes each draw, and the module that runs."""

    def __init__(
        self, model: nn.Module, keep: Callable[[object], None], settings: _Settings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self.stack: list[nn.Module] = [model]
        self.rows: dict[Found, None] = {}
        self.keep = keep
        self.is_inside = False

    def note(self, call: str, *how: Any) -> None:
        known = next(one for one in self.stack[::-1] if id(one) in self.names)
        name = self.names[id(known)]
        self.rows[_row(self.settings, name, self.stack[-1], call, *how)] = None

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.stack.append(module)

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self.stack.pop()

    def kernel(self, name: str) -> Callable[..., Any]:
        """Return torch's own kernel of a dropout, with a note of its calls that drop."""
        settings_of = _attention_settings if name == ATTENTION else _dropout_settings

        def run(*arguments: Any, **options: Any) -> Any:
            p, drops, takes_it = settings_of(*arguments, **options)
            if drops and not self.is_inside:
                self.note(name, p, takes_it)
            before, self.is_inside = self.is_inside, True
            try:
                return _install._theirs(name, *arguments, **options)
            finally:
                self.is_inside = before

        return run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.keep(kwargs.get("generator"))
        y = func(*args, **kwargs)
        namespace, _, call = func._schema.name.partition("::")
        if namespace == "fastdrop" and not call.endswith("key"):
            self.note("fastdrop")
        elif not self.is_inside and torch.Tag.nondeterministic_seeded in func.tags:
            first = next(iter(tree_leaves(y)), None)
            if namespace == "aten" and isinstance(first, Tensor):
                self.note(call, None, first.is_cpu, tuple(first.shape))
        return y


def _dropout_settings(input: Tensor, p: float, train: bool) -> tuple[float, bool, bool]:
    """Return p, whether a call drops, and whether fastdrop takes it."""
    return p, train, takes(input)


def _attention_settings(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[float, bool, bool]:
    inputs = query, key, value, attn_mask
    takes_it = _install._takes_attention(inputs, is_causal, enable_gqa)
    return dropout_p, dropout_p > 0.0, takes_it


def ran(model: nn.Module, inputs: Any, named: Any, keep: Callable[[object], None]) -> list[Found]:
    """Run the model once, and return what drew; `keep` gets each generator before its use."""
    watch = _Watch(model, keep, _install._installed)
    with kernels(watch.kernel), eagerly():
        before = hooks.register_module_forward_pre_hook(watch.enter)
        after = hooks.register_module_forward_hook(watch.leave, always_call=True)
        try:
            with watch:
                model(*inputs, **named)
        finally:
            before.remove()
            after.remove()
    return list(watch.rows)


@contextmanager
def eagerly() -> Iterator[None]:
    """Run the body without compiled code."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


# --- What a model's code says --------------------------------------------------------------------

_KNOWN = {
    **{id(getattr(functional, name)): name for name in _DROPOUTS if hasattr(functional, name)},
    **{id(getattr(functional, f"dropout{n}d")): "feature_dropout" for n in (1, 2, 3)},
    **{id(getattr(torch, name)): name for name in ("bernoulli", "rand", "randn", "rand_like")},
}
"""Functions of torch that draw, and the operators that they call."""


def read(model: nn.Module) -> Iterator[Found]:
    """Yield what modules draw, as far as their classes and their code say."""
    settings = _install._installed
    for name, module in model.named_modules():
        if isinstance(module, Module):
            yield _row(settings, name, module, "fastdrop")
        elif _function_of(module) is not None:
            is_replaced = isinstance(vars(module).get("forward"), _Replaced)
            yield _row(settings, name, module, "fastdrop" if is_replaced else _operator(module))
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            if module.dropout > 0.0 and getattr(module, "num_layers", 2) > 1:
                yield _row(settings, name, module, "dropout", module.dropout)
        elif not type(module).__module__.startswith("torch."):
            for call in dict.fromkeys(_calls(type(module).forward, type(module), set())):
                yield _row(settings, name, module, call)


def _operator(module: nn.Module) -> str:
    """Return the operator that one of torch's dropout modules calls."""
    kind = next(one for one in type(module).__mro__ if one.__module__ == nn.Dropout.__module__)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    return re.sub(r"^dropout\dd$", "feature_dropout", name)


def _calls(function: Any, kind: type, seen: set[Any]) -> Iterator[str]:
    """Yield the draws in a function's bytecode, and in functions of its package that it calls."""
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen.add(function)
    root = function.__module__.partition(".")[0]
    value: Any = None
    for step in dis.get_instructions(function):
        operation, name = step.opname, step.argval
        if operation == "LOAD_GLOBAL":
            value = function.__globals__.get(name)
        elif operation.startswith("LOAD_FAST"):
            value = kind if name == "self" else None
        elif operation in ("LOAD_ATTR", "LOAD_METHOD"):
            if name in _METHODS:
                yield name
            value = getattr(value, name, None) if isinstance(value, (ModuleType, type)) else None
        elif operation not in ("CACHE", "PUSH_NULL"):
            value = None
        if id(value) in _KNOWN:
            yield _KNOWN[id(value)]
        elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == root:
            yield from _calls(value, kind, seen)
