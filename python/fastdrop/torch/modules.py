"""Modules: those of `torch.nn` and others, over the functions of `fastdrop.torch.functional`.

They have the constructors of torch's, and neither parameters nor buffers. Modules do not count
calls: a key comes from torch's generator, so that checkpointing draws the same mask again, or from
`set_keys`. For tensors that fastdrop has no kernels for, as on other devices, subclasses of torch's
modules do what torch's do.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._arguments import as_flag, as_lengths, check_choice
from fastdrop._key import Key
from fastdrop.monte_carlo import number_of
from fastdrop.torch import functional
from fastdrop.torch._call import key_tensor, takes

Model = TypeVar("Model", bound=nn.Module)


class _Module(_DropoutNd):
    """A module that draws with torch's generator, or with the key that `set_keys` gives it."""

    key: Tensor | None = None


class _Replacement(_Module):
    """A subclass of a module of torch, which takes over where fastdrop has no kernels."""

    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training; return `input` in evaluation."""
        if not self.training or takes(input):
            function = type(self)._function
            y: Tensor = function(input, self.p, self.training, self.inplace, key=self.key)
            return y
        y = super().forward(input)
        return y


class Dropout(_Replacement, nn.Dropout):
    """Drop elements in training: `torch.nn.Dropout`.

    >>> fastdrop.torch.Dropout(0.2)
    Dropout(p=0.2, inplace=False)
    >>> isinstance(fastdrop.torch.Dropout(), torch.nn.Dropout)
    True
    """

    _function = staticmethod(functional.dropout)


class Dropout1d(_Replacement, nn.Dropout1d):
    """Drop channels of inputs of shape (N, C, L) or (C, L): `torch.nn.Dropout1d`."""

    _function = staticmethod(functional.dropout1d)


class Dropout2d(_Replacement, nn.Dropout2d):
    """Drop channels of inputs of shape (N, C, H, W): `torch.nn.Dropout2d`."""

    _function = staticmethod(functional.dropout2d)


class Dropout3d(_Replacement, nn.Dropout3d):
    """Drop channels of inputs of shape (N, C, D, H, W) or (C, D, H, W): `torch.nn.Dropout3d`."""

    _function = staticmethod(functional.dropout3d)


class AlphaDropout(_Replacement, nn.AlphaDropout):
    """Set elements to SELU's lower limit in training: `torch.nn.AlphaDropout`."""

    _function = staticmethod(functional.alpha_dropout)


class FeatureAlphaDropout(_Replacement, nn.FeatureAlphaDropout):
    """Set channels to SELU's lower limit in training: `torch.nn.FeatureAlphaDropout`."""

    _function = staticmethod(functional.feature_alpha_dropout)


class FeatureDropout(_Module):
    """Drop channels of inputs of shape (N, C, ...) in training: `functional.feature_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return functional.feature_dropout(input, self.p, self.training, self.inplace, key=self.key)


class DropPath(_Module):
    """Drop the residual branch of a sample in training: `functional.drop_path`.

    >>> fastdrop.torch.DropPath(0.1)
    DropPath(p=0.1, inplace=False)
    """

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, scale_by_keep: bool = True
    ) -> None:
        super().__init__(p, inplace)
        self.scale_by_keep = as_flag(scale_by_keep, "scale_by_keep")

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return functional.drop_path(
            input, self.p, self.training, self.inplace,
            scale_by_keep=self.scale_by_keep, key=self.key,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the arguments."""
        return super().extra_repr() + ("" if self.scale_by_keep else ", scale_by_keep=False")


class LockedDropout(_Module):
    """Drop the same elements at every time step in training: `functional.locked_dropout`."""

    def __init__(self, p: float = 0.5, inplace: bool = False, *, time_axis: int = 0) -> None:
        super().__init__(p, inplace)
        self.time_axis = time_axis

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return functional.locked_dropout(
            input, self.p, self.training, self.inplace, time_axis=self.time_axis, key=self.key
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, time_axis={self.time_axis}"


class _Fused(_Module):
    """A fused operation, which has no form in place."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}"


class DropoutAdd(_Fused):
    """Drop in training, and add a residual: `functional.dropout_add`.

    >>> fastdrop.torch.DropoutAdd(0.1)
    DropoutAdd(p=0.1)
    """

    def forward(self, input: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input)``."""
        return functional.dropout_add(input, residual, self.p, self.training, key=self.key)


class BiasDropoutAdd(_Fused):
    """Add a bias, drop in training, and add a residual: `functional.bias_dropout_add`."""

    def forward(self, input: Tensor, bias: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input + bias)``."""
        return functional.bias_dropout_add(
            input, bias, residual, self.p, self.training, key=self.key
        )


class ReluDropout(_Fused):
    """Rectify, then drop in training: `functional.relu_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(relu(input))``."""
        return functional.relu_dropout(input, self.p, self.training, key=self.key)


class GeluDropout(_Fused):
    """Apply GELU, then drop in training: `functional.gelu_dropout`."""

    def __init__(self, p: float = 0.5, *, approximate: functional.Approximate = "none") -> None:
        super().__init__(p)
        check_choice(approximate, "approximate", "none", "tanh")
        self.approximate: functional.Approximate = approximate

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(gelu(input))``."""
        return functional.gelu_dropout(
            input, self.p, self.training, approximate=self.approximate, key=self.key
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class _DropBlock(_Module):
    """Dropout of blocks."""

    _axes: int
    _function: Callable[..., Any]

    def __init__(
        self,
        p: float,
        block_size: int | tuple[int, ...],
        inplace: bool = False,
        *,
        scale_by_keep: bool = True,
    ) -> None:
        super().__init__(p, inplace)
        as_lengths(block_size, self._axes, "block_size")
        self.block_size = block_size
        self.scale_by_keep = as_flag(scale_by_keep, "scale_by_keep")

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        function = type(self)._function
        return function(
            input, self.p, self.block_size, self.training, self.inplace,
            scale_by_keep=self.scale_by_keep, key=self.key,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the arguments."""
        scaled = "" if self.scale_by_keep else ", scale_by_keep=False"
        return f"p={self.p}, block_size={self.block_size}, inplace={self.inplace}{scaled}"


class DropBlock1d(_DropBlock):
    """Drop stretches of inputs of shape (N, C, L) in training: `functional.drop_block1d`."""

    _axes = 1
    _function = staticmethod(functional.drop_block1d)


class DropBlock2d(_DropBlock):
    """Drop rectangles of inputs of shape (N, C, H, W) in training: `functional.drop_block2d`.

    >>> fastdrop.torch.DropBlock2d(0.1, 7)
    DropBlock2d(p=0.1, block_size=7, inplace=False)
    """

    _axes = 2
    _function = staticmethod(functional.drop_block2d)


class DropBlock3d(_DropBlock):
    """Drop boxes of inputs of shape (N, C, D, H, W) in training: `functional.drop_block3d`."""

    _axes = 3
    _function = staticmethod(functional.drop_block3d)


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    kind.__bases__[1]: kind
    for kind in (Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout)
}


def replace(model: Model) -> Model:
    """Make torch's dropout modules in a model those of fastdrop, in place, and return the model.

    Modules stay the same objects: hooks, modes and names are kept. Subclasses of torch's modules
    are left alone, and so is dropout that is not a module, as inside attention: see `install`.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1))
    >>> type(fastdrop.torch.replace(model)[1]) is fastdrop.torch.Dropout
    True
    >>> type(fastdrop.torch.restore(model)[1]) is torch.nn.Dropout
    True
    """
    for module in model.modules():
        if type(module) in _REPLACEMENTS:
            module.__class__ = _REPLACEMENTS[type(module)]
    return model


def restore(model: Model) -> Model:
    """Undo `replace`, and return the model."""
    kinds = {ours: theirs for theirs, ours in _REPLACEMENTS.items()}
    for module in model.modules():
        if type(module) in kinds:
            vars(module).pop("key", None)
            module.__class__ = kinds[type(module)]
    return model


def set_keys(model: nn.Module, key: Key | None) -> None:
    """Give each dropout module of fastdrop in a model its own key, until the next `set_keys`.

    Masks then depend on this key and the module's name only, not on the order of calls: for a run
    that can be repeated from any step, call ``set_keys(model, key.fold_in(step))`` before each, and
    for other masks on every rank, fold in the rank, too. A module that is called twice in a step
    applies the same mask twice. None goes back to torch's generator.

    Set the keys before the forward pass, and leave them until the backward pass is over: activation
    checkpointing computes parts of the forward pass again.

    >>> model = torch.nn.Sequential(fastdrop.torch.Dropout(), fastdrop.torch.Dropout())
    >>> fastdrop.torch.set_keys(model, fd.Key(0).fold_in(10))
    >>> x = torch.ones(8)
    >>> torch.equal(model(x), model(x))
    True
    """
    for name, module in model.named_modules():
        if isinstance(module, _Module):
            if key is None:
                module.key = None
                continue
            words = key_tensor(key.fold_in(number_of(name)))
            if module.key is None:
                module.key = words
            else:
                with torch.no_grad():
                    module.key.copy_(words)
