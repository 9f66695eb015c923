"""Checks of arguments: from user input to checked values, once, in the public functions.

Each error message is one sentence: which argument, what it must be, what it was. What a function
does with its arguments is not here.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastdrop._core import works_on

Array: TypeAlias = NDArray[Any]
Mode = Literal["inverted", "standard"]
Axes = SupportsIndex | Sequence[SupportsIndex]
Lengths = SupportsIndex | Sequence[SupportsIndex]

DTYPES = "float32, float64, float16, bfloat16, complex64 or complex128"

_ndarray = np.ndarray
INVERTED = "inverted"

MOST_AXES = 64
"""As in NumPy. Longer shapes, even endless iterators, are refused after this many axes."""

MOST_ARRAYS = 100_000
"""Longer lists of weights, even endless iterators, are refused after this many."""


# --- Arrays --------------------------------------------------------------------------------------


def as_array(x: Any, name: str) -> Array:
    """Return `x` as a plain array, without a copy if possible."""
    if type(x) is _ndarray:
        return x
    if isinstance(x, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a plain array, got {type(x).__name__}")
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return np.from_dlpack(x)
    return np.asarray(x)


def float_array(x: Any, name: str) -> Array:
    """Return `x` as a plain array of a supported dtype; `x` itself if it is one."""
    array = as_array(x, name)
    if not works_on(array):
        raise TypeError(f"{name} must have dtype {DTYPES}, got {array.dtype}")
    return array


def float_arrays(several: Any, name: str) -> list[Array]:
    """Return a sequence of arrays as a list; a single array is not a sequence."""
    if isinstance(several, np.ndarray) or not isinstance(several, Iterable):
        raise TypeError(f"{name} must be a sequence of arrays, got {type(several).__name__}")
    arrays = [float_array(one, name) for one in itertools.islice(several, MOST_ARRAYS + 1)]
    if len(arrays) > MOST_ARRAYS:
        raise ValueError(f"{name} must be at most {MOST_ARRAYS} arrays, got more")
    return arrays


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a supported dtype; structured dtypes and subarrays are refused."""
    try:
        made = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"dtype must be {DTYPES}, got {dtype!r}") from None
    empty = np.empty(0, dtype=made)
    if empty.dtype != made or not works_on(empty):
        raise TypeError(f"dtype must be {DTYPES}, got {made}")
    return made


def as_out(out: Any) -> Array:
    """Return `out` as a plain array over the same memory."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    return as_array(out, "out")


def check_inplace(x: object, array: Array) -> Array:
    """Return `array`, made from `x`, if writing into it changes `x`."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a numpy.ndarray to work in place, got {type(x).__name__}")
    if not array.flags.writeable:
        raise ValueError("x must be writeable to work in place, got a read-only array")
    if array.size and any(
        stride == 0 and length > 1
        for stride, length in zip(array.strides, array.shape, strict=True)
    ):
        raise ValueError("x must not have a stride of 0 to work in place, got a broadcast array")
    return array


def as_indices(indices: Any, length: int, shape: tuple[int, ...] | None = None) -> Array:
    """Return indices into an axis of `length` as an int64 array."""
    array = as_array(indices, "indices")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"indices must be integers, got {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"indices must have the shape {shape}, got {array.shape}")
    if array.size and not (array.min() >= 0 and array.max() < length):
        raise ValueError(f"indices must be in [0, {length}), got {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def check_broadcast(mask: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a mask of shape `mask` broadcasts to `shape`."""
    if len(mask) > len(shape) or any(
        one not in (1, length) for one, length in zip(mask[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(f"mask of shape {mask} does not broadcast to shape {shape}")


# --- Numbers -------------------------------------------------------------------------------------


def probability(p: Any, name: str = "p") -> float:
    """Return a probability as a double; -0.0 becomes 0.0."""
    if type(p) is float and 0.0 <= p <= 1.0:
        return p + 0.0
    number = _number(p, f"{name} must be a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)
    return number + 0.0


def as_finite(number: Any, name: str) -> float:
    """Return a finite number as a double."""
    return _number(number, f"{name} must be a finite number", math.isfinite)


def as_positive(number: Any, name: str) -> float:
    """Return a finite number above 0 as a double."""
    must = f"{name} must be a finite number above 0"
    return _number(number, must, lambda value: 0.0 < value < math.inf)


def as_number(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """Return a number in [least, most] as a double."""
    must = f"{name} must be a number in [{least:g}, {most:g}]"
    return _number(value, must, lambda number: least <= number <= most)


def _number(value: Any, must: str, is_valid: Callable[[float], bool]) -> float:
    try:
        number = _real(value)
    except TypeError:
        raise TypeError(f"{must}, got {shown(value)}") from None
    except OverflowError:
        raise ValueError(f"{must}, got {shown(value)}") from None
    if not is_valid(number):
        raise ValueError(f"{must}, got {shown(value)}")
    return number


def _real(value: Any) -> float:
    """Return a real number as `float` does, but refuse text and bool."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, bool) or (isinstance(value, np.generic) and value.dtype.kind in "bcmMSU"):
        raise TypeError
    try:
        return math.fsum((value,))
    except ValueError:
        raise TypeError from None


def as_count(n: Any, name: str, least: int = 0) -> int:
    """Return an integer of at least `least`."""
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an int of at least {least}, got {n!r}") from None
    if number < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {shown(number)}")
    return number


def as_unsigned(n: Any, name: str) -> int:
    """Return an integer in [0, 2**64)."""
    if type(n) is int and 0 <= n < 2**64:
        return n
    number = as_count(n, name)
    if number >= 2**64:
        raise ValueError(f"{name} must be an int below 2**64, got {shown(n)}")
    return number


def shown(value: Any) -> str:
    """Return how Python shows an argument; of a huge int the length, of a long text the start."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]}..."


# --- Shapes and axes -----------------------------------------------------------------------------


def as_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Return a shape, or a position, as a tuple of integers in [0, 2**64)."""
    if not isinstance(shape, np.ndarray):
        try:
            return (as_unsigned(operator.index(shape), name),)
        except TypeError:
            pass
    try:
        lengths = tuple(itertools.islice(iter(shape), MOST_AXES + 1))
    except TypeError:
        raise TypeError(f"{name} must be an int or a sequence of ints, got {shape!r}") from None
    if len(lengths) > MOST_AXES:
        raise ValueError(f"{name} must have at most {MOST_AXES} axes, got more")
    return tuple(as_unsigned(length, name) for length in lengths)


def as_lengths(lengths: Lengths, ndim: int, name: str) -> tuple[int, ...]:
    """Return `ndim` lengths of at least 1, from one int for all axes or one per axis."""
    several = as_shape(lengths, name)
    one = len(several) == 1 and hasattr(lengths, "__index__")
    if len(several) != ndim and not one:
        raise ValueError(f"{name} must be an int or a sequence of {ndim} ints, got {lengths!r}")
    checked = tuple(as_count(length, name, 1) for length in several)
    return checked * ndim if one else checked


def as_axis_number(axis: Any, name: str) -> int:
    """Return an axis as an int, before the array is known."""
    try:
        return operator.index(axis)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {axis!r}") from None


def as_axis_numbers(axes: Axes, name: str) -> tuple[int, ...]:
    """Return axes as a tuple of ints, before the array is known."""
    if type(axes) is tuple and not axes:
        return axes
    if not isinstance(axes, np.ndarray):
        try:
            return (operator.index(axes),)  # type: ignore[arg-type]
        except TypeError:
            pass
    try:
        return tuple(operator.index(axis) for axis in itertools.islice(axes, MOST_AXES + 1))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int or a sequence of ints, got {axes!r}") from None


def as_axis(axis: Any, ndim: int, name: str) -> int:
    """Return an axis of an array with `ndim` axes, counted from the start."""
    number = as_axis_number(axis, name)
    if not -ndim <= number < ndim:
        raise ValueError(
            f"{name} must be an axis of an array with {ndim} axes, got {shown(number)}"
        )
    return number % ndim


def as_axes(axes: Axes, ndim: int, name: str) -> tuple[int, ...]:
    """Return distinct axes of an array with `ndim` axes, counted from the start."""
    several = tuple(as_axis(axis, ndim, name) for axis in as_axis_numbers(axes, name))
    if len(set(several)) != len(several):
        raise ValueError(f"{name} must not name an axis twice, got {axes!r}")
    return several


def feature_axes(
    shape: tuple[int, ...], channel_axis: Any, ndim: int | None = None
) -> tuple[int, ...]:
    """Return all axes except the batch, axis 0, and the channels."""
    if len(shape) < 2 or ndim not in (None, len(shape)):
        raise ValueError(
            f"x must have {ndim or 'at least 2'} axes, with the batch first "
            f"(x[np.newaxis] for one sample), got shape {shape}"
        )
    channel = as_axis(channel_axis, len(shape), "channel_axis")
    if channel == 0:
        raise ValueError("channel_axis must not be axis 0, the batch, got 0")
    return (*range(1, channel), *range(channel + 1, len(shape)))


# --- Choices and states --------------------------------------------------------------------------


def as_flag(value: object, name: str) -> bool:
    """Return a bool; no other type is accepted, so that a forgotten keyword is noticed."""
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(value: object, name: str, one: str, other: str) -> None:
    """Raise ValueError unless `value` is one of two strings."""
    if not (isinstance(value, str) and value in (one, other)):
        raise ValueError(f"{name} must be {one!r} or {other!r}, got {value!r}")


def check_mode(mode: object) -> None:
    """Raise ValueError unless `mode` is "inverted" or "standard"."""
    if mode is not INVERTED:
        check_choice(mode, "mode", "inverted", "standard")


def split_state(
    state: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the entries of a state with these names, and all other entries."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping, got {type(state).__name__}")
    others = dict(state)
    for name in names:
        if name not in others:
            raise ValueError(
                f"state must have the entry {name}, got {sorted(map(str, state)) or 'none'}"
            )
    return [others.pop(name) for name in names], others
