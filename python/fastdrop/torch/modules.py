"""Modules: those of `torch.nn` and others, over the functions of `fastdrop.torch.functional`.

They have the constructors of torch's modules, and neither parameters nor buffers. A key comes from
torch's generator, or from `set_keys`. For tensors that fastdrop has no kernels for, such as those
on other devices, subclasses of torch's modules do what torch's do.
"""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._base.arguments import as_flag, as_lengths, check_choice
from fastdrop._base.keys import RNG, Key, as_key
from fastdrop._family.activations import Activation, activation_member
from fastdrop._family.fused import Approximate
from fastdrop.torch import functional
from fastdrop.torch._autograd import native
from fastdrop.torch._call import takes
from fastdrop.torch._keys import CallKeys, drop, left_to_torch


class _Module(_DropoutNd):
    """A module that draws with torch's generator, or with the keys that `set_keys` gives it."""

    _fastdrop_keys: CallKeys | None = None

    @property
    def key(self) -> Key | None:
        """Key of the module; None while it draws with torch's generator.

        It can be set to anything that `rng` of `fastdrop.Dropout` takes. The calls are then
        numbered from 0, and draw the masks of a layer with this key. None returns to torch's
        generator.
        """
        return None if self._fastdrop_keys is None else self._fastdrop_keys.key

    @key.setter
    def key(self, rng: RNG) -> None:
        self._fastdrop_keys = None if rng is None else CallKeys(as_key(rng), numbered=True)

    @property
    def calls(self) -> int:
        """Number of calls that drew with the module's key."""
        return 0 if self._fastdrop_keys is None else self._fastdrop_keys.calls

    def hold(self) -> Self:
        """Use the key of the next call for all calls until `release`, and return the module.

        ``with module.hold():`` releases it at the end of the block.

        >>> module, x = fastdrop.torch.Dropout(0.5), torch.ones(8)
        >>> with module.hold():
        ...     first, second = module(x), module(x)
        >>> torch.equal(first, second)
        True
        """
        if self._fastdrop_keys is None:
            self._fastdrop_keys = CallKeys(None)
        self._fastdrop_keys.hold()
        return self

    def release(self) -> Self:
        """End `hold`: the next call gets a new key. Return the module."""
        if self._fastdrop_keys is not None:
            self._fastdrop_keys.release()
            if self._fastdrop_keys.key is None:
                del self._fastdrop_keys
        return self

    def __enter__(self) -> Self:
        if self._fastdrop_keys is None or not self._fastdrop_keys.held:
            raise RuntimeError("a module must be held in a with statement: with module.hold():")
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _call(self, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Call a function with the module's p, mode and key."""
        if isinstance(inputs[0], Proxy):
            return self._traced(function, inputs, options)
        return drop(self, self._fastdrop_keys, function, *inputs, **options)

    def _traced(
        self, function: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Record the module as a leaf, as `torch.fx` does with modules of torch."""
        tracer = inputs[0].tracer
        if tracer.root is self:
            options = {"p": self.p, "training": self.training, **options}
            return tracer.create_proxy("call_function", function, inputs, options)
        return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})


class _Replacement(_Module):
    """A subclass of one of torch's modules, which takes over where fastdrop has no kernels."""

    _function: Callable[..., Any]

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training; return `input` in evaluation."""
        y: Tensor
        if native.ready and type(input) is Tensor and self._fastdrop_keys is None:
            y = super().forward(input)  # torch then calls our kernel, without Python
        elif type(input) is Tensor and self._fastdrop_keys is None and takes(input):
            y = type(self)._function(input, self.p, self.training, self.inplace)
        elif isinstance(input, Proxy) or not self.training or takes(input):
            y = self._call(type(self)._function, input, inplace=self.inplace)
        else:
            y = left_to_torch(self, self._fastdrop_keys, super().forward, input)
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
        return self._call(functional.feature_dropout, input, inplace=self.inplace)


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
        return self._call(
            functional.drop_path, input, inplace=self.inplace, scale_by_keep=self.scale_by_keep
        )

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
        return self._call(
            functional.locked_dropout, input, inplace=self.inplace, time_axis=self.time_axis
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
        return self._call(functional.dropout_add, input, residual)


class BiasDropoutAdd(_Fused):
    """Add a bias, drop in training, and add a residual: `functional.bias_dropout_add`."""

    def forward(self, input: Tensor, bias: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input + bias)``."""
        return self._call(functional.bias_dropout_add, input, bias, residual)


class ReluDropout(_Fused):
    """Rectify, then drop in training: `functional.relu_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(relu(input))``."""
        return self._call(functional.relu_dropout, input)


class GeluDropout(_Fused):
    """Apply GELU, then drop in training: `functional.gelu_dropout`."""

    def __init__(self, p: float = 0.5, *, approximate: Approximate = "none") -> None:
        super().__init__(p)
        check_choice(approximate, "approximate", "none", "tanh")
        self.approximate: Approximate = approximate

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(gelu(input))``."""
        return self._call(functional.gelu_dropout, input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class SiluDropout(_Fused):
    """Apply SiLU, then drop in training: `functional.silu_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(silu(input))``."""
        return self._call(functional.silu_dropout, input)


class ActivationDropout(_Fused):
    """Apply an activation, then drop in training: `functional.activation_dropout`.

    >>> fastdrop.torch.ActivationDropout(0.1, activation="leaky_relu", negative_slope=0.2)
    ActivationDropout(p=0.1, activation='leaky_relu', negative_slope=0.2)
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        activation: Activation,
        negative_slope: float | None = None,
        alpha: float | None = None,
    ) -> None:
        super().__init__(p)
        activation_member(activation, negative_slope, alpha)
        self.activation: Activation = activation
        self.negative_slope = negative_slope
        self.alpha = alpha

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(activation(input))``."""
        return self._call(functional.activation_dropout, input, **self._options())

    def _options(self) -> dict[str, Any]:
        names = "activation", "negative_slope", "alpha"
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def extra_repr(self) -> str:
        """Return the arguments."""
        options = (f"{name}={value!r}" for name, value in self._options().items())
        return ", ".join([super().extra_repr(), *options])


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
        return self._call(
            type(self)._function, input, block_size=self.block_size, inplace=self.inplace,
            scale_by_keep=self.scale_by_keep,
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
