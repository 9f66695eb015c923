"""Checks of arguments. One sentence for every bad one: which, must be what, was what."""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import DTypeLike, NDArray

from fastdrop._core import works_on

Mode = Literal["inverted", "standard"]
Per = Literal["sample", "batch"]
Dims = SupportsIndex | Sequence[SupportsIndex]
Lengths = SupportsIndex | Sequence[SupportsIndex]


def as_array(x: Any, name: str) -> NDArray[Any]:
    """Convert `x` to a plain array.

    Raises
    ------
    TypeError
        For masked arrays and matrices, whose meaning a plain array would lose.
    """
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        raise TypeError(f"{name} must be a plain array, got {type(x).__name__}")
    return np.asarray(x)


def float_array(x: Any, name: str) -> NDArray[Any]:
    """Return `x` as a plain array of a dtype that fastdrop works on; `x` itself if it is one."""
    array = x if type(x) is np.ndarray else as_array(x, name)
    if not works_on(array):
        raise TypeError(
            f"{name} must have dtype float32, float64, float16, bfloat16, complex64 or "
            f"complex128, got {array.dtype}"
        )
    return array


def probability(p: Any, name: str = "p") -> float:
    """Return a probability as a double; -0.0 becomes 0.0."""
    if type(p) is float and 0.0 <= p <= 1.0:
        return p + 0.0
    number = _number(p, f"{name} must be a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)
    return number + 0.0


def as_finite(number: Any, name: str) -> float:
    """Return a finite number as a double."""
    if type(number) is float and -math.inf < number < math.inf:
        return number
    return _number(number, f"{name} must be a finite number", math.isfinite)


def _number(value: Any, must: str, is_valid: Callable[[float], bool]) -> float:
    """Return a real number that is valid as a double; `must` begins the message if it is not."""
    try:
        number = _real(value)
    except TypeError:
        raise TypeError(f"{must}, got {shown(value)}") from None
    except OverflowError:
        raise ValueError(f"{must}, got {shown(value)}") from None
    if not is_valid(number):
        raise ValueError(f"{must}, got {shown(value)}")
    return number


MOST_AXES = 64
"""As in NumPy. A shape is read no further, so that an endless one is refused."""


def as_unsigned(n: Any, name: str) -> int:
    """Return an integer in [0, 2**64)."""
    if type(n) is int and 0 <= n < 2**64:
        return n
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an integer of at least 0, got {n!r}") from None
    if number < 0:
        raise ValueError(f"{name} must be an integer of at least 0, got {shown(n)}")
    if number >= 2**64:
        raise ValueError(f"{name} must be an integer below 2**64, got {shown(n)}")
    return number


def as_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Return a shape, or a position, as a tuple of integers in [0, 2**64)."""
    if type(shape) is tuple and len(shape) <= MOST_AXES:
        return tuple([as_unsigned(length, name) for length in shape])
    if not isinstance(shape, np.ndarray):
        try:
            return (as_unsigned(operator.index(shape), name),)
        except TypeError:
            pass
    try:
        lengths = tuple(itertools.islice(iter(shape), MOST_AXES + 1))
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a sequence of integers, got {shape!r}"
        ) from None
    if len(lengths) > MOST_AXES:
        raise ValueError(f"{name} must have at most {MOST_AXES} axes, got more")
    return tuple(as_unsigned(length, name) for length in lengths)


def as_arrays(several: Any, name: str) -> list[NDArray[Any]]:
    """Return arrays that fastdrop works on as a list.

    Raises
    ------
    TypeError
        If they are one array, or none at all.
    """
    if isinstance(several, np.ndarray) or not isinstance(several, Iterable):
        raise TypeError(f"{name} must be a sequence of arrays, got {type(several).__name__}")
    return [float_array(one, name) for one in several]


def shown(value: Any) -> str:
    """Return how Python shows an argument; an int that fills no line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    return repr(value)


def check_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is one of the two."""
    if mode not in ("inverted", "standard"):
        raise ValueError(f"mode must be 'inverted' or 'standard', got {mode!r}")


def check_per(per: str) -> None:
    """Raise ValueError unless `per` is one of the two."""
    if per not in ("sample", "batch"):
        raise ValueError(f"per must be 'sample' or 'batch', got {per!r}")


def check_flag(value: object, name: str) -> None:
    """Raise TypeError unless `value` is a bool, so that a forgotten keyword is noticed."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def as_dims(broadcast_dims: Dims) -> tuple[int, ...]:
    """Return axes as a tuple.

    Raises
    ------
    TypeError
        If they are not integers.
    """
    if isinstance(broadcast_dims, SupportsIndex) and not isinstance(broadcast_dims, np.ndarray):
        return (operator.index(broadcast_dims),)
    try:
        return tuple(operator.index(axis) for axis in broadcast_dims)
    except TypeError:
        raise TypeError(
            f"broadcast_dims must be an int or a sequence of ints, got {broadcast_dims!r}"
        ) from None


def mask_shape(shape: tuple[int, ...], broadcast_dims: Dims) -> tuple[int, ...]:
    """Return `shape` with 1 along the axes that share one decision.

    Raises
    ------
    TypeError, ValueError
        If an axis is no integer, is not there, or is named twice.
    """
    if isinstance(broadcast_dims, tuple) and not broadcast_dims:
        return shape
    shared = normalize_axis_tuple(as_dims(broadcast_dims), len(shape), argname="broadcast_dims")
    return tuple(1 if axis in shared else length for axis, length in enumerate(shape))


def as_axis_number(axis: SupportsIndex, name: str) -> int:
    """Return an axis as it is counted, of an array that is not there yet.

    Raises
    ------
    TypeError
        If it is no integer.
    """
    try:
        return operator.index(axis)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {axis!r}") from None


def as_axis(axis: SupportsIndex, ndim: int, name: str) -> int:
    """Return an axis counted from the start.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or is not there.
    """
    number = as_axis_number(axis, name)
    if not -ndim <= number < ndim:
        raise ValueError(f"{name} must be an axis of an array with {ndim} of them, got {number}")
    return number % ndim


def feature_dims(shape: tuple[int, ...], ndim: int, channel_axis: SupportsIndex) -> tuple[int, ...]:
    """Return the axes that are neither the batch nor the channels.

    Raises
    ------
    TypeError, ValueError
        If there are not `ndim` axes; if the channels are no axis, or that of the batch.
    """
    if len(shape) != ndim:
        raise ValueError(
            f"x must have {ndim} axes, with the batch first (x[np.newaxis] for one sample), "
            f"got shape {shape}"
        )
    channel = as_axis(channel_axis, ndim, "channel_axis")
    if channel == 0:
        raise ValueError("channel_axis must not be axis 0, the batch, got 0")
    return tuple(axis for axis in range(1, ndim) if axis != channel)


def as_positive(number: Any, name: str) -> float:
    """Return a number above 0 as a double.

    Raises
    ------
    TypeError, ValueError
        If it is no number, not above 0 or not finite.
    """
    must = f"{name} must be a finite number above 0"
    return _number(number, must, lambda value: 0.0 < value < math.inf)


def _real(value: Any) -> float:
    """Return a real number as a double: as float, but not of text or of an array with axes.

    Raises
    ------
    TypeError, OverflowError
        If it is none; if it is an int that is too large.
    """
    if isinstance(value, bool):
        raise TypeError("not a real number")
    if isinstance(value, np.ndarray | np.generic) and (value.ndim or value.dtype.kind in "bcmMSU"):
        raise TypeError("not a real number")
    try:
        return math.fsum((value,))
    except ValueError:
        raise TypeError("not a real number") from None


def as_count(n: SupportsIndex, name: str, least: int = 0) -> int:
    """Return a number of things.

    Raises
    ------
    TypeError, ValueError
        If it is no integer of at least `least`.
    """
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an int of at least {least}, got {n!r}") from None
    if number < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {shown(number)}")
    return number


def as_counts(numbers: Sequence[SupportsIndex], name: str) -> list[int]:
    """Return numbers of things, as `as_count` does."""
    return [as_count(n, name) for n in numbers]


def as_block(block_size: Lengths, ndim: int) -> tuple[int, ...]:
    """Return the lengths of a block along `ndim` axes.

    Raises
    ------
    TypeError, ValueError
        If they are not one integer, or one for each axis, of at least 1.
    """
    if isinstance(block_size, SupportsIndex):
        return (as_count(block_size, "block_size", 1),) * ndim
    try:
        lengths = tuple(block_size)
    except TypeError:
        raise TypeError(
            f"block_size must be an int or a sequence of ints, got {block_size!r}"
        ) from None
    if len(lengths) != ndim:
        raise ValueError(f"block_size must be an int or {ndim} of them, got {block_size!r}")
    return tuple(as_count(length, "block_size", 1) for length in lengths)


def check_indices(indices: Any, shape: tuple[int, int], length: int) -> NDArray[np.int64]:
    """Return indices into an axis of `length`, as an array of `shape`.

    Raises
    ------
    TypeError, ValueError
        If they are no integers, of another shape, or out of range.
    """
    array = as_array(indices, "indices")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"indices must be integers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"indices must have the shape {shape}, got {array.shape}")
    if array.size and not (array.min() >= 0 and array.max() < length):
        raise ValueError(f"indices must be in [0, {length}), got {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def as_number(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """Return a real number.

    Raises
    ------
    TypeError, ValueError
        If it is none in [least, most].
    """
    must = f"{name} must be a number in [{least:g}, {most:g}]"
    try:
        return _number(value, must, lambda number: least <= number <= most)
    except TypeError:
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def as_float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype that fastdrop works on.

    Raises
    ------
    TypeError
        If it is no dtype, or another.
    """
    wanted = "dtype must be float32, float64, float16, bfloat16, complex64 or complex128"
    try:
        made = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"{wanted}, got {dtype!r}") from None
    try:
        same = float_array(np.empty(0, dtype=made), "dtype").dtype == made
    except TypeError:
        same = False
    if not same:
        raise TypeError(f"{wanted}, got {made}")
    return made


def check_weights(saved: Any, own: NDArray[Any] | None, name: str) -> NDArray[Any] | None:
    """Return a saved parameter as an array that fits a layer's own, of the same dtype.

    Raises
    ------
    TypeError, ValueError
        If it is of another shape, or missing, or there is none; if it is no array of floats, or
        complex where the layer's own is real; if that cannot be written.
    """
    if saved is None or own is None:
        if saved is not own:
            wanted = "None" if own is None else f"an array of shape {own.shape}"
            raise ValueError(f"state must have {wanted} as {name}, got {type(saved).__name__}")
        return None
    array = float_array(saved, name)
    if array.shape != own.shape:
        raise ValueError(f"state must have {name} of shape {own.shape}, got {array.shape}")
    if array.dtype.kind == "c" and own.dtype.kind != "c":
        raise TypeError(f"state must have a real {name}, got {array.dtype}")
    if not own.flags.writeable:
        raise ValueError(f"{name} must be writeable to load a state, got a read-only array")
    return array.astype(own.dtype, copy=False)


def check_inplace(x: object, array: NDArray[Any]) -> NDArray[Any]:
    """Return `array`, what became of `x`, if writing into it changes `x`.

    Raises
    ------
    TypeError, ValueError
        If `x` is no array, or cannot be written element by element.
    """
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


def check_broadcast(mask: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a mask of shape `mask` broadcasts to `shape`."""
    fits = len(mask) <= len(shape) and all(
        one in (1, length) for one, length in zip(mask[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"mask of shape {mask} does not broadcast to shape {shape}")


def split_state(
    state: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the entries of a state with these names, and the others.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, or an entry is missing.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping, got {type(state).__name__}")
    others = dict(state)
    for name in names:
        if name not in others:
            raise ValueError(
                f"state must have the entry {name}, got {sorted(map(str, state)) or 'none'}"
            )
    return [others.pop(name) for name in names], others


def check_state(state: Mapping[str, Any]) -> tuple[bytes, int, float]:
    """Return the key, the number of calls and p from what a layer's `state_dict` returned.

    Raises
    ------
    TypeError, ValueError
        If an entry is missing, unknown or out of range.
    """
    split_state(state, ("key", "calls", "p"))
    if len(state) > 3:
        raise ValueError(
            f"state must have the entries key, calls and p, got {sorted(map(str, state))}"
        )
    try:
        key = bytes.fromhex(state["key"])
        calls = operator.index(state["calls"])
    except TypeError:
        raise TypeError(
            "state must have a str as key and an integer as calls, "
            f"got {state['key']!r} and {state['calls']!r}"
        ) from None
    except ValueError:
        key = b""
    if len(key) != 16:
        raise ValueError(f"state must have 32 hexadecimal digits as key, got {state['key']!r}")
    if not 0 <= calls <= 2**64:
        raise ValueError(f"state must have calls in [0, 2**64], got {calls}")
    return key, calls, probability(state["p"])
