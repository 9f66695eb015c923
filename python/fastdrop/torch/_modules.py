"""The bases of modules: where a call gets its key, and what takes over from torch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._base.arguments import Axes, as_axis_numbers
from fastdrop._base.keys import RNG, Key, as_key
from fastdrop.torch._autograd import native
from fastdrop.torch._call import takes
from fastdrop.torch._keys import CallKeys, drop, left_to_torch


class Module(_DropoutNd):
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


class Replacement(Module):
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


class Broadcast(Replacement):
    """A subclass of one of torch's modules, whose elements may share a decision along axes."""

    broadcast_dims: tuple[int, ...] = ()

    def __init__(self, p: float = 0.5, inplace: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inplace)
        if broadcast_dims != ():
            self.broadcast_dims = as_axis_numbers(broadcast_dims, "broadcast_dims")
            self._options = {"broadcast_dims": self.broadcast_dims}

    def extra_repr(self) -> str:
        """Return the arguments."""
        return super().extra_repr() + named_axes(self.broadcast_dims)


def named_axes(broadcast_dims: tuple[int, ...]) -> str:
    return f", broadcast_dims={broadcast_dims}" if broadcast_dims else ""


class Fused(Module):
    """An operation that has no form in place."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}"


class Combines(Fused):
    """An operation on several tensors."""

    _takes_rows = False


def check_probability(p: float) -> None:
    """Raise what torch's modules raise for a p outside of [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
