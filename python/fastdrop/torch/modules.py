"""Modules: those of `torch.nn` and others, over the functions of `fastdrop.torch.functional`.

They have the constructors of torch's modules, and neither parameters nor buffers. A key comes from
torch's generator, or from `set_keys`. For tensors that fastdrop has no kernels for, such as those
on other devices, subclasses of torch's modules do what torch's do.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from fastdrop._base.arguments import (
    Axes,
    as_axis_numbers,
    as_count,
    as_flag,
    as_lengths,
    as_number,
    check_choice,
    shown,
)
from fastdrop._base.keys import RNG, Key, as_key
from fastdrop._family.activations import Activation, activation_member
from fastdrop._family.concrete import as_temperature, logit_of, probability_of
from fastdrop._family.fused import Approximate
from fastdrop.torch import functional
from fastdrop.torch._autograd import native
from fastdrop.torch._call import takes
from fastdrop.torch._keys import CallKeys, drop, left_to_torch


class _Module(_DropoutNd):
    """A module that draws with torch's generator, or with the keys that `set_keys` gives it."""

    _fastdrop_keys: CallKeys | None = None
    _of_weights: ClassVar[bool] = False  # whether inputs are weights, with no examples along axis 0
    _takes_rows: ClassVar[bool] = True  # whether it keeps the rows of its one input
    _is_whole: ClassVar[bool] = False  # whether it cannot drop in a rank's part of a batch

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
            options = {"training": self.training, **options}
            if "logit" not in options:
                options["p"] = self.p
            return tracer.create_proxy("call_function", function, inputs, options)
        return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})


class _Replacement(_Module):
    """A subclass of one of torch's modules, which takes over where fastdrop has no kernels."""

    _function: Callable[..., Any]
    _options: Mapping[str, Any] = MappingProxyType({})
    """Options of the function that torch's module lacks."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training; return `input` in evaluation."""
        y: Tensor
        if (
            native.ready
            and type(input) is Tensor
            and self._fastdrop_keys is None
            and not self._options
        ):
            y = super().forward(input)  # torch then calls our kernel, without Python
        elif type(input) is Tensor and self._fastdrop_keys is None and takes(input):
            y = type(self)._function(input, self.p, self.training, self.inplace, **self._options)
        elif isinstance(input, Proxy) or not self.training or takes(input) or self._options:
            y = self._call(type(self)._function, input, inplace=self.inplace, **self._options)
        else:
            y = left_to_torch(self, self._fastdrop_keys, super().forward, input)
        return y


class _Broadcast(_Replacement):
    """A subclass of one of torch's modules, whose elements may share a decision along axes."""

    broadcast_dims: tuple[int, ...] = ()

    def __init__(self, p: float = 0.5, inplace: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inplace)
        if broadcast_dims != ():
            self.broadcast_dims = as_axis_numbers(broadcast_dims, "broadcast_dims")
            self._options = {"broadcast_dims": self.broadcast_dims}

    def extra_repr(self) -> str:
        """Return the arguments."""
        return super().extra_repr() + _named_axes(self.broadcast_dims)


def _named_axes(broadcast_dims: tuple[int, ...]) -> str:
    return f", broadcast_dims={broadcast_dims}" if broadcast_dims else ""


class Dropout(_Broadcast, nn.Dropout):
    """Drop elements in training: `torch.nn.Dropout`.

    Elements share a decision along the axes `broadcast_dims`: (2, 3) drops channels of images.

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


class AlphaDropout(_Broadcast, nn.AlphaDropout):
    """Set elements to SELU's lower limit in training: `torch.nn.AlphaDropout`.

    `broadcast_dims` is as for `Dropout`.
    """

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


class GaussianDropout(_Module):
    """Multiply by normal noise in training: `functional.gaussian_dropout`.

    >>> fastdrop.torch.GaussianDropout(0.1, broadcast_dims=0)
    GaussianDropout(p=0.1, inplace=False, broadcast_dims=(0,))
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inplace)
        self.broadcast_dims = as_axis_numbers(broadcast_dims, "broadcast_dims")

    def forward(self, input: Tensor) -> Any:
        """Multiply by noise in training; return `input` in evaluation."""
        return self._call(
            functional.gaussian_dropout, input, inplace=self.inplace,
            broadcast_dims=self.broadcast_dims,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the arguments."""
        return super().extra_repr() + _named_axes(self.broadcast_dims)


class _Fused(_Module):
    """An operation that has no form in place."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}"


class _Combines(_Fused):
    """An operation on several tensors."""

    _takes_rows = False


class DropoutAdd(_Combines):
    """Drop in training, and add a residual: `functional.dropout_add`.

    >>> fastdrop.torch.DropoutAdd(0.1)
    DropoutAdd(p=0.1)
    """

    def forward(self, input: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input)``."""
        return self._call(functional.dropout_add, input, residual)


class BiasDropoutAdd(_Combines):
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


class Zoneout(_Combines):
    """Keep the previous state of some units in training: `functional.zoneout`.

    In evaluation the state is the expectation.
    """

    def forward(self, new: Tensor, previous: Tensor) -> Any:
        """Return the next state."""
        return self._call(functional.zoneout, new, previous)


class _OfWeights(_Fused):
    """Dropout of weights, which have no examples along axis 0."""

    _of_weights, _takes_rows = True, False


class EmbeddingDropout(_OfWeights):
    """Drop whole words of an embedding table in training: `functional.embedding_dropout`.

    >>> embedding, drop = torch.nn.Embedding(10, 4), fastdrop.torch.EmbeddingDropout(0.1)
    >>> drop(embedding.weight, torch.tensor([3, 3, 7])).shape
    torch.Size([3, 4])
    """

    def forward(self, weight: Tensor, indices: Tensor | None = None) -> Any:
        """Return the table, or the rows of `indices`."""
        return self._call(functional.embedding_dropout, weight, indices=indices)


class DropConnect(_OfWeights):
    """Drop connections in training, one mask for all examples: `functional.drop_connect`.

    It is also a parametrization, which drops a weight of any module; see `drop_weights`.

    >>> layer = torch.nn.Linear(4, 2)
    >>> _ = torch.nn.utils.parametrize.register_parametrization(
    ...     layer, "weight", fastdrop.torch.DropConnect(0.5)
    ... )
    """

    def forward(self, weight: Tensor) -> Any:
        """Drop in training; return `weight` in evaluation."""
        return self._call(functional.drop_connect, weight)


class WeightDrop(_OfWeights):
    """Run a module with some of its weights dropped in training: `functional.weight_drop`.

    A call drops the parameters `weights` of `module` once, and passes its arguments on: a recurrent
    module uses the same connections at all time steps. The parameters stay where they are.
    `drop_weights` does the same without a wrapper.

    Parameters
    ----------
    module : Module
        Any module, such as `torch.nn.LSTM`.
    weights : str or sequence of str, default "weight_hh_l0"
        Names of parameters.
    p : float, default 0.5
        Probability to DROP a connection.

    Examples
    --------
    >>> rnn = fastdrop.torch.WeightDrop(torch.nn.LSTM(3, 4), "weight_hh_l0", p=0.5)
    >>> output, state = rnn(torch.ones(5, 2, 3))
    >>> output.shape
    torch.Size([5, 2, 4])
    """

    def __init__(
        self, module: nn.Module, weights: str | Sequence[str] = "weight_hh_l0", p: float = 0.5
    ) -> None:
        super().__init__(p)
        self.weights = _parameter_names(module, weights)
        self.wrapped = module

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the module."""
        if not self.training:
            return self.wrapped(*inputs, **options)
        dropped = self._call(
            functional.weight_drop, [self.wrapped.get_parameter(name) for name in self.weights]
        )
        given = dict(zip(self.weights, dropped, strict=True))
        return functional_call(self.wrapped, given, inputs, options)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"weights={self.weights}, {super().extra_repr()}"


def _parameter_names(module: nn.Module, names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of a module's parameters."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a Module, got {shown(module)}")
    several = (names,) if isinstance(names, str) else tuple(names)
    known = dict(module.named_parameters())
    for name in several:
        if name not in known:
            raise ValueError(f"weights must name parameters of module, {list(known)}, got {name!r}")
    return several


def drop_weights(module: Any, weights: str | Sequence[str] = "weight", p: float = 0.5) -> Any:
    """Drop weights of a module in training, in place, and return the module.

    Each of the parameters `weights` gets a `DropConnect` as a parametrization of
    `torch.nn.utils.parametrize`, whose functions list and remove it. The module draws a mask each
    time it reads the weight; a recurrent module reads it once per sequence.

    >>> rnn = fastdrop.torch.drop_weights(torch.nn.GRU(3, 4), ["weight_hh_l0"], p=0.5)
    >>> output, state = rnn(torch.ones(5, 2, 3))
    >>> rnn.parametrizations.weight_hh_l0[0]
    DropConnect(p=0.5)
    """
    for name in _parameter_names(module, weights):
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        parametrize.register_parametrization(owner, own, DropConnect(p), unsafe=True)
        if isinstance(owner, nn.RNNBase):
            kind: Any = type(owner)  # made by `parametrize` for this module alone
            kind.forward = _with_flat_weights(kind.__bases__[0].forward)
            kind._init_flat_weights = _keep_originals
            kind._update_flat_weights = _keep_flat_weights
            owner._init_flat_weights()
    return module


# A recurrent module passes on a list of its weights. Outside of a call it has the parameters
# themselves: results of autograd cannot be copied, and `to` would draw masks.


def _with_flat_weights(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `forward` of a recurrent module, for the weights that it has when it is called."""

    def forward(self: Any, *inputs: Any, **options: Any) -> Any:
        self._flat_weights = [getattr(self, name, None) for name in self._flat_weights_names]
        try:
            return theirs(self, *inputs, **options)
        finally:
            self._init_flat_weights()

    return forward


def _keep_originals(self: Any) -> None:
    known = self.parametrizations
    self._flat_weights = [
        known[name].original if name in known else getattr(self, name, None)
        for name in self._flat_weights_names
    ]
    self._flat_weight_refs = [None if w is None else weakref.ref(w) for w in self._flat_weights]


def _keep_flat_weights(self: Any) -> None:
    """Do nothing, where torch looks whether the list is still that of its parameters."""


class PatchDropout(_Fused):
    """Drop whole tokens in training, and shorten the sequences: `functional.patch_dropout`.

    >>> tokens, indices = fastdrop.torch.PatchDropout(0.5, prefix=1)(torch.ones(2, 5, 8))
    >>> tokens.shape, indices.shape
    (torch.Size([2, 3, 8]), torch.Size([2, 3]))
    """

    _takes_rows = False
    _is_whole = True

    def __init__(self, p: float = 0.5, *, prefix: int = 0, ordered: bool = True) -> None:
        super().__init__(p)
        self.prefix, self.ordered = as_count(prefix, "prefix"), as_flag(ordered, "ordered")

    def forward(self, input: Tensor) -> Any:
        """Return the tokens that stay and their positions."""
        return self._call(functional.patch_dropout, input, prefix=self.prefix, ordered=self.ordered)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, prefix={self.prefix}, ordered={self.ordered}"


class DropConnectLinear(_Module, nn.Linear):
    """Map linearly, with connections dropped for each example: `functional.drop_connect_linear`.

    The parameters are those of `torch.nn.Linear`, and p.

    >>> fastdrop.torch.DropConnectLinear(4, 2, p=0.1)
    DropConnectLinear(in_features=4, out_features=2, bias=True, p=0.1)
    """

    _takes_rows = False
    _is_whole = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        _logit(p)  # raises outside of [0, 1]
        self.p, self.inplace = p, False

    def forward(self, input: Tensor) -> Any:
        """Return the linear map."""
        return self._call(functional.drop_connect_linear, input, weight=self.weight, bias=self.bias)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{nn.Linear.extra_repr(self)}, p={self.p}"


class ConcreteDropout(_Fused):
    """Drop in a relaxed way in training, with a learned probability: `functional.concrete_dropout`.

    The parameter is `logit`. Add the result of `regularization` to the loss.

    Parameters
    ----------
    p : float, default 0.1
        Initial probability to DROP an element, in [0, 1]. (Training never leaves 0 or 1.)
    temperature, weight_regularizer, dropout_regularizer
        See `fastdrop.concrete_dropout` and `fastdrop.concrete_regularization`.
    device, dtype
        Device and dtype of `logit`.

    Examples
    --------
    >>> drop, linear = fastdrop.torch.ConcreteDropout(0.1), torch.nn.Linear(4, 2)
    >>> loss = linear(drop(torch.ones(3, 4))).square().mean() + drop.regularization(linear.weight)
    >>> loss.backward()
    >>> drop.logit.grad.shape
    torch.Size([])
    """

    def __init__(
        self,
        p: float = 0.1,
        temperature: float = 0.1,
        *,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        self.inplace = False
        self.temperature = as_temperature(temperature)
        self.weight_regularizer = as_number(weight_regularizer, "weight_regularizer", 0.0)
        self.dropout_regularizer = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
        self.logit = nn.Parameter(torch.tensor(_logit(p), device=device, dtype=dtype))

    @property
    def p(self) -> float:
        """Probability to drop. Setting it sets the parameter."""
        return probability_of(float(self.logit.detach()))

    @p.setter
    def p(self, p: float) -> None:
        with torch.no_grad():
            self.logit.fill_(_logit(p))

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(
            functional.concrete_dropout, input, logit=self.logit, temperature=self.temperature
        )

    def regularization(self, weight: Tensor, inputs: int | None = None) -> Tensor:
        """Return the loss term of this module, as `functional.concrete_regularization` does.

        `weight` has shape (outputs, inputs, ...) and belongs to the next module. `inputs`, the
        number of inputs that are dropped, is the length of axis 1 if not given.
        """
        if inputs is None:
            if weight.dim() < 2:
                raise RuntimeError(
                    f"weight must have the axes (outputs, inputs, ...), got {weight.dim()}"
                )
            inputs = weight.shape[1]
        return functional.concrete_regularization(
            weight,
            self.logit,
            inputs,
            weight_regularizer=self.weight_regularizer,
            dropout_regularizer=self.dropout_regularizer,
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, temperature={self.temperature}"


def _logit(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return logit_of(p)


class _DropBlock(_Module):
    """Dropout of blocks."""

    _is_whole = True
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
