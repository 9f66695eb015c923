"""Records of the family: the facts about a member that hold in every library.

A record stands beside the function and the layer of its member. NumPy's functions and layers, their
gradients, torch's functions, modules and installed kernels, JAX and Dask read it. Signatures and
docstrings are written by hand for each library.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from fastdrop import _core
from fastdrop._base.arguments import (
    Axes,
    as_axes,
    as_axis,
    as_axis_number,
    check_choice,
)
from fastdrop._base.masks import Mask, inverse_keep

Shape = tuple[int, ...]
Per = Literal["sample", "batch"]

NO_AXES: tuple[int, ...] = ()
_SAMPLE = "sample"


# --- Axes along which elements share a decision ---------------------------------------------------


def no_axes(shape: Shape, option: None = None) -> Shape:
    """Return no axes: each element has a decision of its own."""
    return NO_AXES


def broadcast_axes(shape: Shape, broadcast_dims: Axes) -> Shape:
    """Return the axes that the user names."""
    return as_axes(broadcast_dims, len(shape), "broadcast_dims")


def channel_axes(ndim: int | None = None) -> Callable[[Shape, Any], Shape]:
    """Return the rule for inputs with `ndim` axes: all axes but the batch and the channels."""
    expected = ndim or "at least 2"

    def axes(shape: Shape, channel_axis: Any) -> Shape:
        if len(shape) < 2 or ndim not in (None, len(shape)):
            raise ValueError(
                f"x must have {expected} axes, with the batch first "
                f"(x[np.newaxis] for one sample), got shape {shape}"
            )
        if type(channel_axis) is not int or not 0 < channel_axis < len(shape):
            channel_axis = as_axis(channel_axis, len(shape), "channel_axis")
            as_channel_axis(channel_axis)
        return _all_but(channel_axis, len(shape))[1:]

    return axes


def _all_but(axis: int, ndim: int) -> Shape:
    """Return all axes but one."""
    if ndim < len(_ALL_BUT):
        return _ALL_BUT[ndim][axis]
    return (*range(axis), *range(axis + 1, ndim))


# A table, because ranges are measurable in small calls, and torch does not trace through a cache.
_ALL_BUT = tuple(
    tuple((*range(axis), *range(axis + 1, ndim)) for axis in range(ndim)) for ndim in range(8)
)


def as_channel_axis(channel_axis: Any, ndim: int | None = None) -> int:
    """Return a channel axis as an int, before the array is known."""
    number = as_axis_number(channel_axis, "channel_axis")
    if (number if ndim is None else as_axis(number, ndim, "channel_axis")) == 0:
        raise ValueError("channel_axis must not be axis 0, the batch, got 0")
    return number


def time_axes(shape: Shape, time_axis: Any) -> Shape:
    """Return the axis of time steps."""
    return (as_axis(time_axis, len(shape), "time_axis"),)


def path_axes(shape: Shape, option: tuple[Any, Any]) -> Shape:
    """Return all axes, or all but the batch axis if each sample has a decision of its own."""
    (per, batch_axis), ndim = option, len(shape)
    if per is not _SAMPLE or type(batch_axis) is not int or not 0 <= batch_axis < ndim:
        check_choice(per, "per", "sample", "batch")
        if per == "batch":
            as_axis_number(batch_axis, "batch_axis")
            return tuple(range(ndim))
        batch_axis = as_axis(batch_axis, ndim, "batch_axis")
    return _all_but(batch_axis, ndim)


def drawn_shape(shape: Shape, shared: Shape) -> Shape:
    """Return a shape with length 1 along the axes that share a decision."""
    return tuple(1 if axis in shared else length for axis, length in enumerate(shape))


# --- Records --------------------------------------------------------------------------------------


class Numbers(NamedTuple):
    """Constants of the core's operations; most only multiply kept elements by `scale`."""

    scale: float
    shift: float = 0.0
    fill: float = 0.0


def scaled(p: float, mode: str | None) -> Numbers:
    """Return the factor of kept elements in training; 0 if none is kept."""
    if mode == "inverted":
        return Numbers(inverse_keep(p))
    return Numbers(0.0 if p == 1.0 else 1.0)


class _Operation(NamedTuple):
    """Facts about an operation, from the core."""

    inputs: tuple[str, ...]
    gradient: str | None
    takes_complex: bool


OPERATIONS = {name: _Operation(*facts) for name, facts in _core.operations().items()}


def _nothing(layer: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Member:
    """Record of a member of the family."""

    name: str
    """Name of its functions."""
    paper: str
    """Source of the method: authors, venue and year."""
    operation: str = "select"
    """The core's name of the operation on an element."""
    options: tuple[str, ...] = ()
    """Options that decide what is drawn. `axes` and `draw` take one value or a tuple of several."""
    axes: Callable[[Shape, Any], Shape] = no_axes
    """Function of shape and options that returns the axes along which elements share a decision."""
    numbers: Callable[[float, str | None], Numbers] = scaled
    """Function of p and the mode that returns the constants of the operation in training."""
    expectation: str | None = None
    """Operation in evaluation, if it differs; its `shift` is p."""
    recipe: type[Any] = Mask
    """Type of its masks."""
    draw: Callable[[Shape, float, Any, Any], Any] | None = None
    """Function of shape, p, key and options that returns a recipe that does the work itself."""
    names: tuple[str, ...] = ()
    """Names of its inputs, if they differ from the core's."""
    read: Callable[[Any], Any] = field(init=False)
    """Function that reads what `axes` and `draw` take from the attributes of a layer."""
    combines: bool = field(init=False)
    """Whether it takes several arrays, whose dtypes are promoted."""
    derivative: Any = field(init=False)
    """Record of the gradient, which also takes the input; None if it is "select" of dy alone."""

    def __post_init__(self) -> None:
        known = OPERATIONS[self.operation]
        of_gradient = known.gradient and replace(self, operation=known.gradient, names=())
        object.__setattr__(self, "derivative", of_gradient)
        object.__setattr__(self, "names", self.names or known.inputs)
        object.__setattr__(
            self, "read", operator.attrgetter(*self.options) if self.options else _nothing
        )
        object.__setattr__(self, "combines", len(known.inputs) > 1)

    @property
    def fuses(self) -> bool:
        """Whether it does more than drop, and therefore changes its input in evaluation as well."""
        return self.operation not in ("select", "affine", "noise")

    @property
    def is_linear(self) -> bool:
        """Whether the gradient with respect to the first input is the call itself."""
        return self.operation in ("select", "noise")

    def option(self, values: dict[str, Any]) -> Any:
        """Return what `axes` and `draw` take, from the options as a dict."""
        several = tuple(values[name] for name in self.options)
        return several[0] if len(several) == 1 else several or NO_AXES
