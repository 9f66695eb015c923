"""Changes to the dropout modules of a model: replacement, keys, schedules, samples."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, jit, nn
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._base.arguments import as_flag, shown
from fastdrop._base.keys import Key, number_of
from fastdrop._base.layers import Samples, adapt, put_back
from fastdrop.torch._autograd import native
from fastdrop.torch._call import takes
from fastdrop.torch._family.alpha import AlphaDropout, FeatureAlphaDropout
from fastdrop.torch._family.dropout import Dropout
from fastdrop.torch._family.shared import Dropout1d, Dropout2d, Dropout3d
from fastdrop.torch._keys import (
    CallKeys,
    Parts,
    Share,
    as_share,
    drop,
    left_to_torch,
    site_names,
)
from fastdrop.torch._modules import Module

Model = TypeVar("Model", bound=nn.Module)

KEYS = "_fastdrop_keys"
"""Attribute of a module that holds the keys of its calls."""

_FUNCTIONS: dict[type[nn.Module], Callable[..., Any]] = {
    kind.__bases__[-1]: kind._function
    for kind in (Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout)
}
"""The function for each of torch's modules."""


def _forward(function: Callable[..., Any], module: Any, input: Tensor) -> Any:
    """Compute one of torch's modules with a function of fastdrop."""
    keys = vars(module).get(KEYS)
    if keys is None and native.ready:
        return type(module).forward(module, input)  # torch calls our kernel, without Python
    theirs = functools.partial(type(module).forward, module)
    if not module.training or isinstance(input, Proxy):
        return theirs(input)
    if takes(input):
        return drop(module, keys, function, input, inplace=module.inplace)
    return left_to_torch(module, keys, theirs, input)


class _Replaced(functools.partial[Any]):
    """The `forward` of a module after `replace`."""


class _Keyed(functools.partial[Any]):
    """The `forward` of a module that was not replaced, but has keys."""


def check_model(model: object) -> None:
    """Raise TypeError unless `model` is a Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {shown(model)}")


def replace(model: Model) -> Model:
    """Let fastdrop compute torch's dropout modules in a model, in place, and return the model.

    Modules stay the same objects of the same class. They keep their hooks, modes and names, and
    code that looks for `torch.nn.Dropout` still finds it. Subclasses of torch's modules stay as
    they are. `replace` does not reach dropout that is not a module, such as that in attention: see
    `install`.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1))
    >>> type(fastdrop.torch.replace(model)[1]) is torch.nn.Dropout
    True
    >>> _ = fastdrop.torch.restore(model)
    """
    check_model(model)
    for module in model.modules():
        if type(module) in _FUNCTIONS and _can_be_given_forward(module):
            vars(module)["forward"] = _Replaced(_forward, _FUNCTIONS[type(module)], module)
    return model


def restore(model: Model) -> Model:
    """Undo `replace`, `fuse` and `set_keys`, and return the model."""
    check_model(model)
    for module in model.modules():
        if isinstance(vars(module).get("forward"), (_Replaced, _Keyed)):
            del module.forward
        vars(module).pop(KEYS, None)
    return model


def _can_be_given_forward(module: nn.Module) -> bool:
    """Return whether the module's `forward` is that of its class, or ours."""
    if isinstance(module, jit.ScriptModule):  # whose class has no function `forward`
        return False
    forward = vars(module).get("forward")
    is_own = getattr(forward, "__func__", None) is type(module).forward
    return is_own or isinstance(forward, (_Replaced, _Keyed, type(None)))


def _function_of(module: nn.Module) -> Callable[..., Any] | None:
    """Return the function for a module with the `forward` of a class of torch, else None."""
    if not _can_be_given_forward(module):
        return None
    for kind, function in _FUNCTIONS.items():
        if type(module).forward is kind.forward:
            return function
    return None


def _takes_keys(module: nn.Module) -> bool:
    return isinstance(module, Module) or _function_of(module) is not None


def _give_keys(module: nn.Module, keys: CallKeys) -> None:
    """Let the calls of a module take these keys."""
    vars(module)[KEYS] = keys
    if not isinstance(module, Module):
        forward = vars(module).get("forward")
        if not isinstance(forward, (_Replaced, _Keyed)):
            vars(module)["forward"] = _Keyed(_forward, _function_of(module), module)


def set_keys(
    model: nn.Module,
    key: Key | None,
    *,
    rank: int = 0,
    world_size: int = 1,
    interleaved: bool = False,
    numbered: bool = False,
) -> None:
    """Give each dropout module of a model, torch's or fastdrop's, its own key.

    A module's masks then depend only on this key and the module's name. For a run that can be
    repeated from any step, call ``set_keys(model, key.fold_in(step))`` before each step. The module
    draws with ``key.fold_in(h)``, where h is the 8-byte BLAKE2b hash of its name, low byte first.
    The name leaves out wrappers around the model or its modules: those of torch for compiled,
    parallel, sharded, checkpointed and averaged models, and PEFT's.

    A module that runs again applies the same mask, and warns, unless its calls are numbered.
    Activation checkpointing also repeats calls, and they draw the masks they had: set the keys
    before the forward pass, and leave them until the backward pass is over.

    None returns to torch's generator. Dropout that is not a module, such as that in attention,
    always draws from it.

    Parameters
    ----------
    model : Module
        Model with dropout modules.
    key : Key or None
        Key of the step.
    rank, world_size : int, default 0 and 1
        This rank and the number of ranks, if each has an equal part of the batch, along axis 0 of
        each module's input. Its masks are then its part of one mask for the batch, and a run can
        continue with another number of ranks. For masks of the rank's own, leave these out and fold
        the rank into the key.
    interleaved : bool, default False
        Whether rank r has every world_size-th example from r on, as with
        `torch.utils.data.DistributedSampler`, instead of adjacent rows.
    numbered : bool, default False
        Whether call number n since `set_keys` draws with child n of the module's key, as the layers
        of NumPy do: for shared weights, accumulated microbatches and Monte Carlo samples.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Dropout(), fastdrop.torch.Dropout())
    >>> x, results = torch.ones(8), []
    >>> for _ in range(2):
    ...     fastdrop.torch.set_keys(model, fd.Key(0).fold_in(10))
    ...     results.append(model(x))
    >>> torch.equal(*results)
    True
    """
    check_model(model)
    if key is not None and type(key) is not Key:
        raise TypeError(f"key must be a Key or None, got {shown(key)}")
    part, counts = as_share(Share(rank, world_size, interleaved)), as_flag(numbered, "numbered")
    share = part if part.world_size > 1 else None
    sites = site_names(model)
    modules = {name: module for name, module in sites.items() if _takes_keys(module)}
    others = [name for name in sites if name not in modules]
    if not modules:
        raise ValueError(
            "model must have dropout modules to give keys to, got none"
            + (f" but {others}, which have a forward of their own" if others else "")
            + "; other dropout draws from torch's generator: use torch.manual_seed"
        )
    if others and key is not None:
        warnings.warn(
            f"the dropout modules {others} have a forward of their own, and keep drawing from "
            "torch's generator",
            stacklevel=2,
        )
    for module in modules.values() if share is not None else ():
        if getattr(module, "_is_whole", False):
            kind = type(module).__name__
            raise ValueError(f"world_size must be 1 for a model with {kind} modules, got more")
    for name, module in modules.items():
        keys = vars(module).get(KEYS)
        if key is None:
            vars(module).pop(KEYS, None)
            if isinstance(vars(module).get("forward"), _Keyed):
                del module.forward
        elif keys is None:
            own = key.fold_in(number_of(name))
            _give_keys(module, CallKeys(own, _share_of(module, share), counts, name=name))
        else:
            keys.reset(key.fold_in(number_of(name)), _share_of(module, share), counts)


def _share_of(module: nn.Module, share: Share | None) -> Share | None:
    """Return a rank's part of a module's input; all ranks have the same weights."""
    return None if getattr(module, "_of_weights", False) else share


class _ModuleLayer:
    """A dropout module with the interface of a layer that `PSchedule` and `MonteCarlo` need."""

    def __init__(self, module: _DropoutNd) -> None:
        self._module = module
        self._takes_rows = getattr(module, "_takes_rows", True)
        self._of_weights = getattr(module, "_of_weights", False)
        self._keys: CallKeys | None = None
        self._forward: Any = None  # kept for all samples: a new one would be compiled again

    @property
    def p(self) -> float:
        return self._module.p

    @p.setter
    def p(self, p: float) -> None:
        self._module.p = p

    @property
    def inplace(self) -> bool:
        return self._module.inplace

    @contextmanager
    def _sampling(self, samples: Samples) -> Iterator[None]:
        """Draw these samples in any mode; restore the module afterwards."""
        module = self._module
        before = dict(vars(module))
        held = KEYS in before and before[KEYS].held
        each = tuple(CallKeys(key, None, True, held) for key in samples.keys)
        keys = self._keys = each[0]
        if len(each) > 1 or (samples.shared and not self._of_weights):
            keys.parts = Parts(each, samples.rows, samples.shared)
        try:
            if self._forward is not None and "forward" not in before:
                vars(module)["forward"] = self._forward
            _give_keys(module, keys)
            self._forward = vars(module).get("forward")
            module.training = True
            yield
        finally:
            put_back(module, before)

    def __repr__(self) -> str:
        return repr(self._module)

    @property
    def _was_called(self) -> bool:
        """Whether a call took a key; for p = 0, none does."""
        return self.p == 0.0 or (self._keys is not None and self._keys.calls > 0)


def _as_layer(layer: object) -> _ModuleLayer | None:
    """Return a module that takes keys as a layer; None for any other object."""
    return _ModuleLayer(layer) if isinstance(layer, _DropoutNd) and _takes_keys(layer) else None


adapt(_as_layer)
