"""A report on a model: which of its dropouts fastdrop computes, and what a step of training costs.

Without a batch, the model's modules and their code are read. With one, the model runs: kernels for
torch's dropout, and a dispatch mode for random numbers, note each draw and the module that calls
it. Nothing of the model changes.
"""

import dataclasses
import dis
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastdrop._base.arguments import shown
from fastdrop._base.layers import put_back
from fastdrop.torch import _install
from fastdrop.torch._call import takes
from fastdrop.torch._models import KEYS, _function_of, _Keyed, _Replaced
from fastdrop.torch._modules import Module

_INSTALL, _RANDOM, _REPLACE = "install()", "install(random=True)", "replace(model)"
_Settings = Any
"""What `install` keeps: None, or a tuple of its library, `attention` and `random`."""

_DROPOUTS = tuple(name for name in _install._KERNELS if name != _install._WITH_WEIGHTS)
_ATTENTION = _install._ATTENTION
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


class Times(NamedTuple):
    """Seconds of a step of training in every round, in the same rounds for all."""

    torch: tuple[float, ...]
    fastdrop: tuple[float, ...]
    no_dropout: tuple[float, ...]


class Report:
    """What `report` found. Printed, it is a table."""

    def __init__(self, found: Iterable[Found], times: Times | None, ran: bool) -> None:
        self.found = tuple(found)
        """The dropouts and other draws, a `Found` each."""
        self.times = times
        """Times of steps, if the report was given a batch."""
        self.is_installed = _install.is_installed()
        self._ran = ran

    def __str__(self) -> str:
        return "\n".join([*self._lines_of_dropouts(), *self._lines_of_times()])

    __repr__ = __str__

    def _lines_of_dropouts(self) -> Iterator[str]:
        yield f"fastdrop is {'' if self.is_installed else 'not '}installed in this process."
        if not self.found:
            yield "No dropout was found."
        else:
            rows = [("dropout of", "class", "calls", "p", "computed by")]
            alike: dict[Found, list[str]] = {}
            for one in self.found:
                pattern = re.sub(r"\b\d+\b", "*", one.name)
                alike.setdefault(one._replace(name=pattern), []).append(one.name or "(model)")
            for one, names in alike.items():
                name = f"{one.name} ({len(names)})" if len(names) > 1 else names[0]
                by = one.computed_by + (f"; use {one.use}" if one.use else "")
                p = "" if one.p is None else f"{one.p:.3g}"
                rows.append((name, one.kind, one.call, p, by))
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = zip(row, widths, strict=True)
                yield "  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip()
        if not self._ran:
            yield "Only modules were read: report(model, batch) runs the model, and finds the rest."

    def _lines_of_times(self) -> Iterator[str]:
        if self.times is None:
            return
        yield f"{'step of training':<20}{'ms':>8}  over no dropout (quartiles)"
        none = np.array(self.times.no_dropout)
        for name, times in (("PyTorch's dropout", self.times.torch),
                            ("fastdrop's dropout", self.times.fastdrop),
                            ("no dropout, p = 0", self.times.no_dropout)):  # fmt: skip
            low, median, high = np.percentile(np.array(times) / none, [25, 50, 75])
            ratio = f"{median:.2f} ({low:.2f}-{high:.2f})" if times is not self.times[2] else ""
            yield f"{name:<20}{np.median(times) * 1e3:>8.3g}  {ratio}"


def report(model: nn.Module, *inputs: Any, **named: Any) -> Report:
    """Return which dropouts of a model fastdrop computes, and with a batch what a step costs.

    Without a batch, the report lists dropout modules, and draws in the code of other modules. With
    a batch, the model is called with it in training mode, and the report lists all that draws, also
    inside attention and recurrent modules: by torch's dropout, by fastdrop, or by random numbers of
    the library's own. For what fastdrop does not compute, it names what to use.

    It also times a step of training, which is the forward pass and the gradients of all parameters,
    with torch's dropout, with fastdrop's, and at p = 0, in turns. The loss is the result's ``loss``
    if it has one, otherwise the mean square of its tensors. The time of fastdrop's is that of what
    is installed, or of ``install()``, and of what `replace` and `fuse` changed.

    Parameters, gradients, buffers, modes, keys, and the states of generators stay as they are, and
    so does what is installed. Hooks run. Compiled functions are compiled again on their next call.

    Parameters
    ----------
    model : Module
        Model on the CPU. torch's wrappers for compilation and data parallelism are taken off.
    *inputs, **named
        A batch: arguments of the model. Its tensors are copied.

    Returns
    -------
    Report
        `found`, a tuple of named tuples, and `times`; ``print`` shows both as tables.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2))
    >>> print(fastdrop.torch.report(model))
    fastdrop is not installed in this process.
    dropout of  class    calls    p    computed by
    1           Dropout  dropout  0.2  PyTorch; use install() or replace(model)
    Only modules were read: report(model, batch) runs the model, and finds the rest.
    >>> fastdrop.torch.report(model, torch.ones(3, 4)).found[0].call
    'dropout'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {shown(model)}")
    model = _unwrapped(model)
    if not inputs and not named:
        return Report(_read(model), None, ran=False)
    if any(nn.parameter.is_lazy(x) for x in (*model.parameters(), *model.buffers())):
        raise ValueError("model must have all its parameters, got lazy ones: call it once before")
    inputs, named = tree_map_only(Tensor, _copy, (inputs, named))
    with _as_installed_now(), _untouched(model) as untouched:
        found = _ran(model, inputs, named, untouched)
        times = _timed(model, inputs, named)
    return Report(found, times, ran=True)


def _unwrapped(model: nn.Module) -> nn.Module:
    parallel = nn.parallel.DistributedDataParallel, nn.DataParallel
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


# --- What stays as it is -------------------------------------------------------------------------


class _Untouched:
    """States of generators, restored at the end."""

    def __init__(self) -> None:
        self._states: dict[torch.Generator, Tensor] = {}

    def keep(self, generator: object) -> None:
        """Restore this generator at the end, if it is one."""
        if isinstance(generator, torch.Generator) and generator not in self._states:
            self._states[generator] = generator.get_state()

    def restore(self) -> None:
        for generator, state in self._states.items():
            generator.set_state(state)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[_Untouched]:
    """Put the model into training mode with buffers of its own; restore everything afterwards."""
    states, modules = _Untouched(), list(model.modules())
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    renormed = [x for module in modules if getattr(module, "max_norm", None) is not None
                for x in module.parameters(recurse=False)]  # fmt: skip
    weights = [x.detach().clone() for x in renormed]
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002, the state of the model's library
    gpus = sorted({x.device.index for x in model.parameters() if x.is_cuda})
    for module in modules:
        for value in vars(module).values():
            states.keep(value)
    with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.enable_grad():
        try:
            copies: dict[int, Tensor] = {}
            for module in modules:
                vars(module).pop(KEYS, None)
                for name, x in module._buffers.items():
                    if x is not None:
                        module._buffers[name] = copies.setdefault(id(x), x.detach().clone())
            if not model.training:
                model.train()
            yield states
        finally:
            for module, attributes, buffers in before:
                put_back(module, attributes)
                module._buffers.clear()
                module._buffers.update(buffers)
            for x, weight in zip(renormed, weights, strict=True):
                x.detach().copy_(weight)
            states.restore()
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002


@contextmanager
def _as_installed_now() -> Iterator[None]:
    """Let the body install and uninstall, and restore what was installed."""
    before, _install._log.disabled = _install._installed, True
    try:
        yield
    finally:
        _switch(before is not None, before)
        _install._log.disabled = False


def _switch(on: bool, options: Any = None) -> None:
    """Install, with the options of an earlier `install`, or uninstall."""
    if not on:
        _install.uninstall()
    elif options is None:
        _install.install()
    else:
        _install.install(attention=options[1], random=options[2])


@contextmanager
def _kernels(kernel_of: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
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


# --- What draws ----------------------------------------------------------------------------------


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
            can_be_replaced = call != _ATTENTION and _function_of(module) is not None
            use = f"{_INSTALL} or {_REPLACE}" if can_be_replaced else _INSTALL
    elif takes_it and call.rstrip("_") in _COVERED:
        if settings is not None and settings[2]:
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

    def __init__(self, model: nn.Module, untouched: _Untouched, settings: _Settings) -> None:
        super().__init__()
        self.settings = settings
        self.names = {id(module): name for name, module in reversed([*model.named_modules()])}
        self.stack: list[nn.Module] = [model]
        self.rows: dict[Found, None] = {}
        self.untouched = untouched
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
        settings_of = _attention_settings if name == _ATTENTION else _dropout_settings

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
        self.untouched.keep(kwargs.get("generator"))
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


def _ran(model: nn.Module, inputs: Any, named: Any, untouched: _Untouched) -> list[Found]:
    """Run the model once, and return what drew."""
    watch = _Watch(model, untouched, _install._installed)
    with _kernels(watch.kernel), _eagerly():
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
def _eagerly() -> Iterator[None]:
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


def _read(model: nn.Module) -> Iterator[Found]:
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


# --- What a step costs ---------------------------------------------------------------------------


_TURN, _ALL = 0.05, 4.0
"""Seconds for which a case runs in each turn, if its steps are that short, and for all turns."""


def _timed(model: nn.Module, inputs: Any, named: Any) -> Times:
    """Time steps of training in turns."""
    settings = _install._installed
    parameters = [x for x in model.parameters() if x.requires_grad]
    changed = {one: vars(one)["forward"] for one in model.modules()
               if isinstance(vars(one).get("forward"), (_Replaced, _Keyed))}  # fmt: skip
    rates = [(one, name, vars(one)[name]) for one in model.modules()
             if "drop" in type(one).__name__.lower()
             for name in ("p", "drop_prob") if isinstance(vars(one).get(name), float)]  # fmt: skip
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def step() -> float:
        start = clock()
        loss = _loss(model(*inputs, **named))
        if loss is not None and parameters:
            torch.autograd.grad(loss, parameters, allow_unused=True)
        return clock() - start

    def run(case: str, repeats: int) -> float:
        for module, forward in changed.items():
            vars(module).pop("forward", None)
            if case == "fastdrop":
                vars(module)["forward"] = forward
        for module, name, p in rates:
            vars(module)[name] = 0.0 if case == "no_dropout" else p
        with ExitStack() as stack:
            if case == "no_dropout":
                stack.enter_context(_kernels(_without_dropout))
            else:
                _switch(case == "fastdrop", settings)
            stack.enter_context(_eagerly())
            return min([step() for _ in range(repeats)][repeats > 1 :])  # the first fills caches

    seconds = max(run(case, 3) for case in Times._fields)
    repeats = max(1, min(20, int(_TURN / seconds))) if seconds > 0.0 else 20
    rounds = max(3, min(15, int(_ALL / (3 * repeats * max(seconds, 1e-4)))))
    times: dict[str, list[float]] = {case: [] for case in Times._fields}
    for number in range(rounds):
        for turn in range(3):
            case = Times._fields[(number + turn) % 3]
            times[case].append(run(case, repeats + 1))
    return Times(*(tuple(times[case]) for case in Times._fields))


def _without_dropout(name: str) -> Callable[..., Any]:
    """Return the kernel of a dropout for p = 0."""
    if name != _ATTENTION:
        return lambda input, p, train: input

    def attend(*inputs: Any, **options: Any) -> Any:
        return _install._theirs(name, *inputs[:4], 0.0, *inputs[5:], **options)

    return attend


def _loss(result: Any) -> Tensor | None:
    """Return a number to differentiate; None if the result has no gradient."""
    given = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if isinstance(given, Tensor):
        return given.sum() if given.requires_grad else None
    leaves = tree_leaves(result)
    for leaf in leaves:
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            leaves += tree_leaves(vars(leaf))
    terms = [x.float().square().mean() for x in leaves
             if isinstance(x, Tensor) and x.requires_grad and x.is_floating_point()]  # fmt: skip
    return torch.stack(terms).sum() if terms else None
