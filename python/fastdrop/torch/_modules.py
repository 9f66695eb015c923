"""The bases of modules: where a call gets its key, and what takes over from torch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._base.arguments import Mode, check_choice, check_mode
from fastdrop._base.keys import RNG, Key, as_key
from fastdrop._base.members import as_channel_axis
from fastdrop.torch._autograd import native
from fastdrop.torch._call import takes
from fastdrop.torch._keys import CallKeys, drop, left_to_torch


class Option:
    """An attribute of a module: an option of its function. Only values that differ are stored."""

    def __init__(self, default: Any, check: Callable[[Any, str], Any]) -> None:
        self.default, self.check = default, check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        return self if module is None else module._options.get(self.name, self.default)

    def __set__(self, module: Any, value: Any) -> None:
        options = {**module._options, self.name: self.check(value, self.name)}
        if options[self.name] == self.default:
            del options[self.name]
        vars(module)["_options"] = options


def of_mode() -> Option:
    """Return the option `mode`."""

    def check(value: Any, name: str) -> Any:
        check_mode(value)
        return value

    return Option("inverted", check)


def of_choice(one: str, other: str) -> Option:
    """Return an option that is one of two strings, the first by default."""

    def check(value: Any, name: str) -> Any:
        check_choice(value, name, one, other)
        return value

    return Option(one, check)


def of_channels(ndim: int | None = None) -> Option:
    """Return the option `channel_axis`, for inputs with `ndim` axes if that is known."""
    return Option(1, lambda value, _: as_channel_axis(value, ndim))


class Module(_DropoutNd):
    """A module that draws with torch's generator, or with the keys that `set_keys` gives it."""

    _function: Callable[..., Any]
    _options: Mapping[str, Any] = MappingProxyType({})
    """Options of the function that differ from their defaults."""
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
            raise RuntimeError(
                "a module must be held in a with statement: use `with module.hold():`"
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def extra_repr(self) -> str:
        """Return the arguments."""
        options = (f"{name}={value!r}" for name, value in self._options.items())
        return ", ".join([*self._first_arguments(), *options])

    def _first_arguments(self) -> list[str]:
        return [f"p={self.p}", f"inplace={self.inplace}"]

    def _call(self, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Call a function with the module's p and key, and whether it trains."""
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

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training; return `input` in evaluation, which "standard" mode scales."""
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


class Plain(Module):
    """A module that torch lacks; it can drop in place."""

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation, which "standard" mode scales."""
        return self._call(type(self)._function, input, inplace=self.inplace, **self._options)


class OutOfPlace(Module):
    """A module that cannot drop in place."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def _first_arguments(self) -> list[str]:
        return [f"p={self.p}"]


class Scaled(OutOfPlace):
    """A module with a mode."""

    mode = of_mode()

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted") -> None:
        super().__init__(p)
        self.mode = mode


class Activated(Scaled):
    """An activation, and dropout."""

    def forward(self, input: Tensor) -> Any:
        """Return the dropped activation; in evaluation the activation, scaled if "standard"."""
        return self._call(type(self)._function, input, **self._options)


def check_probability(p: float) -> None:
    """Raise what torch's modules raise for a p outside of [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
