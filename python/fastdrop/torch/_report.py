"""A report on a model: which of its dropouts fastdrop computes, and what a step of training costs.

`_draws` finds what draws. Here are the tables, the times, and what keeps the model as it is.
"""

import copy
import dataclasses
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastdrop._base.layers import put_back
from fastdrop.torch import _install
from fastdrop.torch._call import is_distributed
from fastdrop.torch._draws import ATTENTION, Found, eagerly, kernels, ran, read
from fastdrop.torch._models import KEYS, _Keyed, _Replaced, check_model


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

    It also times a step of training, which is the forward pass and the gradients of all parameters.
    Steps with torch's dropout, with fastdrop's and at p = 0 alternate. The loss is the result's
    ``loss`` if it has one, otherwise the mean square of its tensors. The time of fastdrop's is that
    of what is installed, or of ``install()``, and of what `replace` and `fuse` changed.

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
    check_model(model)
    model = _unwrapped(model)
    if not inputs and not named:
        return Report(read(model), None, ran=False)
    if any(nn.parameter.is_lazy(x) for x in (*model.parameters(), *model.buffers())):
        raise ValueError("model must have no lazy parameters: call it once on a batch before")
    inputs, named = tree_map_only(Tensor, _copy, (inputs, named))
    with _as_installed_now(), _copied_scripts(model) as model, _untouched(model) as untouched:
        found = ran(model, inputs, named, untouched.keep)
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
def _copied_scripts(model: nn.Module) -> Iterator[nn.Module]:
    """Let copies run in place of scripted modules, whose state Python cannot keep."""
    if isinstance(model, torch.jit.ScriptModule):
        yield copy.deepcopy(model)
        return
    before = [(one._modules, dict(one._modules)) for one in _plain_modules(model)]
    try:
        for children, originals in before:
            for name, child in originals.items():
                if isinstance(child, torch.jit.ScriptModule):
                    children[name] = copy.deepcopy(child)
        yield model
    finally:
        for children, originals in before:
            children.update(originals)


def _plain_modules(model: nn.Module) -> list[nn.Module]:
    return [one for one in model.modules() if not isinstance(one, torch.jit.ScriptModule)]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[_Untouched]:
    """Put the model into training mode with buffers of its own; restore everything afterwards."""
    states, modules = _Untouched(), _plain_modules(model)
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


def _switch(on: bool, options: _install.Installed | None) -> None:
    """Install, with the options of an earlier `install`, or uninstall."""
    if not on:
        _install.uninstall()
    elif options is None:
        _install.install()
    else:
        _install.install(attention=options.attention, random=options.random)


# --- What a step costs ---------------------------------------------------------------------------


_TURN, _ALL = 0.05, 4.0
"""Seconds for which a case runs in each turn, if its steps are that short, and for all turns."""


def _timed(model: nn.Module, inputs: Any, named: Any) -> Times:
    """Alternate the kinds of step, and time each."""
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
                stack.enter_context(kernels(_without_dropout))
            else:
                _switch(case == "fastdrop", settings)
            stack.enter_context(eagerly())
            return min([step() for _ in range(repeats)][repeats > 1 :])  # the first fills caches

    seconds = max(run(case, 3) for case in Times._fields)
    if _is_sharded(model):
        seconds = math.inf  # ranks must take the same number of steps, whatever their times
    repeats = max(1, min(20, int(_TURN / seconds))) if seconds > 0.0 else 20
    rounds = max(3, min(15, int(_ALL / (3 * repeats * max(seconds, 1e-4)))))
    times: dict[str, list[float]] = {case: [] for case in Times._fields}
    for number in range(rounds):
        for turn in range(3):
            case = Times._fields[(number + turn) % 3]
            times[case].append(run(case, repeats + 1))
    return Times(*(tuple(times[case]) for case in Times._fields))


def _is_sharded(model: nn.Module) -> bool:
    """Return whether each step of a model waits for other ranks."""
    kinds = (type(one).__module__ for one in model.modules())
    return any(kind.startswith("torch.distributed.") for kind in kinds) or any(
        is_distributed(x) for x in model.parameters()
    )


def _without_dropout(name: str) -> Callable[..., Any]:
    """Return the kernel of a dropout for p = 0."""
    if name != ATTENTION:
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
