"""Argument checks. Public functions turn user input into checked values here, once.

Each error message is one sentence: which argument, what it must be, what it was, and how to mend
it.
"""

import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastdrop import _core
from fastdrop._core import works_on

Array: TypeAlias = NDArray[Any]
Mode = Literal["inverted", "standard"]
Axes = SupportsIndex | Sequence[SupportsIndex]
Lengths = SupportsIndex | Sequence[SupportsIndex]
Function = TypeVar("Function", bound=Callable[..., Any])


def either(names: Sequence[str]) -> str:
    """Return names as the end of a sentence: "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


DTYPES = either(_core.DTYPES)
REAL_DTYPES = tuple(name for name in _core.DTYPES if not name.startswith("complex"))

_ndarray = np.ndarray
_ARRAYS = {np.ndarray}
INVERTED = "inverted"

MOST_AXES = 64
"""NumPy's limit. Longer shapes, and endless iterators, are refused."""

MOST_ARRAYS = 100_000
"""Limit for lists of weights or layers. Longer lists, and endless iterators, are refused."""


# --- Arrays --------------------------------------------------------------------------------------


def plain_array(x: Any, name: str) -> Array:
    """Return `x` as a plain array of any dtype, without a copy if possible."""
    return x if type(x) is _ndarray else _converted(x, name)


def _converted(x: Any, name: str) -> Array:
    """Return an instance of an array subclass, a container or a scalar as a plain array."""
    kind = type(x).__name__
    mend = next((f"{name}.{how}" for has, how in _MENDS.items() if hasattr(type(x), has)), None)
    if isinstance(x, np.matrix):
        mend = f"np.asarray({name})"
    if mend is not None:
        raise TypeError(f"{name} must be a plain array, got {kind}: use {mend}")
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    graph = getattr(type(x), "__dask_graph__", None)
    if graph is not None and graph(x) is not None:
        raise TypeError(
            f"{name} must be in memory, got {kind} of Dask: use fastdrop.dask, or {name}.compute()"
        )
    try:
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            return np.from_dlpack(x)
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        ours = " (or use fastdrop.torch)" if type(x).__module__.startswith("torch") else ""
        raise TypeError(f"{name} must be an array, got {kind}: {reason}{ours}") from None
    if array.dtype.kind in "OSU":
        got = shown(x) if x is None or isinstance(x, str | bytes) else kind
        got += f" of {array.dtype}" if hasattr(x, "__array__") else ""
        raise TypeError(f"{name} must be an array of numbers, got {got}")
    return array


_MENDS = {"filled": "filled(0)", "toarray": "toarray()", "collect": "collect()"}
"""Methods that identify masked, sparse and lazy containers, and the calls that convert these."""


def as_array(x: Any, name: str) -> Array:
    """Return `x` as a plain array. If `x` is one already, the core checks its dtype."""
    return x if type(x) is _ndarray else float_array(x, name)


def as_operands(names: tuple[str, ...], inputs: tuple[Any, ...]) -> tuple[Array, ...]:
    """Return arrays to be combined as plain arrays.

    A Python float or complex takes the dtype of its sum with the first other array, as in NumPy.
    """
    if {*map(type, inputs)} == _ARRAYS:
        return inputs
    several = dict(zip(names, inputs, strict=True))
    for name, x in several.items():
        check_given(x, name, "an array")
    arrays = {name: as_array(x, name) for name, x in several.items()}
    scalars = [name for name, x in several.items() if type(x) in (float, complex)]
    if scalars:
        others = (array for name, array in arrays.items() if name not in scalars)
        dtypes = [array.dtype for array in others if works_on(array)]
        with np.errstate(all="ignore"):  # a number too large for the dtype becomes infinite
            for name in scalars if dtypes else ():
                dtype = np.add(np.empty(0, dtypes[0]), several[name]).dtype
                arrays[name] = np.asarray(several[name], dtype)
    return tuple(arrays.values())


def check_given(x: object, name: str, kind: str) -> None:
    """Raise TypeError if `x` is None, naming the function that takes no such argument."""
    if x is None:
        instead = {
            "bias": "; without a bias, call dropout_add",
            "residual": "; without a residual, call dropout",
        }
        raise TypeError(f"{name} must be {kind}, got None{instead.get(name, '')}")


def float_array(x: Any, name: str) -> Array:
    """Return `x` as a plain array of a supported dtype; `x` itself if it is one."""
    array = x if type(x) is _ndarray else _converted(x, name)
    if works_on(array):
        return array
    numbers = array.dtype.kind in "biufc"
    dtype = str(array.dtype) if numbers else array.dtype.type.__name__.rstrip("_")
    got = dtype if isinstance(x, _ndarray) else f"{type(x).__name__} of {dtype}"
    mend = f"{name}.astype(np.float32)"
    if not hasattr(x, "astype"):
        mend = f"{name} = np.asarray({name}), then {mend}"
    mend = f": use {mend}" if array.dtype.kind in "biufO" else ""
    raise TypeError(f"{name} must have dtype {DTYPES}, got {got}{mend}")


def float_arrays(several: Any, name: str) -> list[Array]:
    """Return a sequence of arrays as a list; a single array is not a sequence."""
    if hasattr(several, "__array__") or not isinstance(several, Iterable):
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
        raise TypeError(f"dtype must be {DTYPES}, got {shown(dtype)}") from None
    empty = np.empty(0, dtype=made)
    if empty.dtype != made or not works_on(empty):
        raise TypeError(f"dtype must be {DTYPES}, got {made}")
    return made


def as_out(out: Any) -> Array:
    """Return `out` as a plain array over the same memory."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    return plain_array(out, "out")


def check_inplace(x: object, array: Array) -> Array:
    """Return `array`, made from `x`; raise an error unless writing into it changes `x`."""
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
    array = plain_array(indices, "indices")
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
    try:
        number = _number(p, f"{name} must be a number in [0, 1]", lambda value: 0.0 <= value <= 1.0)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}{_meant_probability(p)}") from None
    return number + 0.0


def _meant_probability(p: Any) -> str:
    """Return the end of a message: the probability that a text or a percentage stands for."""
    try:
        number = float(p.rstrip(" %")) if isinstance(p, str) else _real(p)
    except (TypeError, ValueError, OverflowError):
        return ""
    number /= 100.0 if number >= 2.0 or (isinstance(p, str) and p.endswith("%")) else 1.0
    return f": is {number:g} meant?" if 0.0 <= number <= 1.0 else ""


def as_finite(number: Any, name: str) -> float:
    """Return a finite number as a double."""
    return _number(number, f"{name} must be a finite number", math.isfinite)


def as_positive(number: Any, name: str) -> float:
    """Return a finite number above 0 as a double."""
    must = f"{name} must be a finite number above 0"
    return _number(number, must, lambda value: 0.0 < value < math.inf)


def as_number(
    value: Any, name: str, least: float = -math.inf, most: float = math.inf, interval: str = ""
) -> float:
    """Return a number in [least, most] as a double; `interval` is how a message writes this."""
    must = f"{name} must be a number in {interval or f'[{least:g}, {most:g}]'}"
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
        raise TypeError(f"{name} must be an int of at least {least}, got {shown(n)}") from None
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
    """Return the `repr` of an argument, or a short description of a huge one."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"an array of shape {value.shape}"
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
        raise TypeError(
            f"{name} must be an int or a sequence of ints, got {shown(shape)}"
        ) from None
    if len(lengths) > MOST_AXES:
        raise ValueError(f"{name} must have at most {MOST_AXES} axes, got more")
    return tuple(as_unsigned(length, name) for length in lengths)


def as_lengths(lengths: Lengths, ndim: int, name: str) -> tuple[int, ...]:
    """Return `ndim` lengths of at least 1, from one int for all axes or one per axis."""
    several = as_shape(lengths, name)
    one = len(several) == 1 and hasattr(lengths, "__index__")
    if len(several) != ndim and not one:
        got = shown(lengths)
        raise ValueError(f"{name} must be an int or a sequence of {ndim} ints, got {got}")
    checked = tuple(as_count(length, name, 1) for length in several)
    return checked * ndim if one else checked


def as_axis_number(axis: Any, name: str) -> int:
    """Return an axis as an int, before the array is known."""
    try:
        return operator.index(axis)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {shown(axis)}") from None


def as_axis_numbers(axes: Axes, name: str) -> tuple[int, ...]:
    """Return axes as a tuple of ints, before the array is known."""
    if type(axes) is tuple and not axes:
        return axes
    if not isinstance(axes, np.ndarray | bool | tuple | list):
        try:
            return (operator.index(axes),)  # type: ignore[arg-type]
        except TypeError:
            pass
    try:
        return tuple(operator.index(axis) for axis in itertools.islice(axes, MOST_AXES + 1))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int or a sequence of ints, got {shown(axes)}") from None


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
        raise ValueError(f"{name} must not name an axis twice, got {shown(axes)}")
    return several


# --- Choices ----------------------------------------------------------------------------------


def as_flag(value: object, name: str) -> bool:
    """Return a bool. Other types are refused, so that a misplaced argument raises an error."""
    if value is True or value is False:
        return value
    if not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_choice(value: object, name: str, one: str, other: str, mend: str = "") -> None:
    """Raise ValueError unless `value` is one of two strings."""
    if not (isinstance(value, str) and value in (one, other)):
        raise ValueError(f"{name} must be {one!r} or {other!r}, got {shown(value)}{mend}")


def check_mode(mode: object) -> None:
    """Raise ValueError unless `mode` is "inverted" or "standard"."""
    if mode is not INVERTED:
        mend = _MODES.get(mode, "") if isinstance(mode, str) else ""
        check_choice(mode, "mode", "inverted", "standard", mend)


_MODES = {
    "upscale_in_train": ": 'inverted' is the same",
    "downscale_in_infer": ": 'standard' is the same",
    **dict.fromkeys(("train", "training"), ": training=True drops"),
    **dict.fromkeys(("eval", "evaluate", "test", "inference", "predict"), ": use training=False"),
}
"""Other libraries' names for modes, and the advice given for them."""


# --- Unknown names -------------------------------------------------------------------------------

_NAMES = [
    ("p", "p is the probability to DROP", "rate ratio prob proba probability drop dropout"),
    ("p", "p is the probability to DROP", "drop_prob drop_rate drop_ratio drop_p p_drop pdrop"),
    ("p", "p is the probability to DROP", "dropout_rate dropout_prob dropout_p dropout_ratio"),
    ("p", "p is the probability to DROP, 1 - {}", "keep_prob keep_rate keep_ratio keep keep_p"),
    ("p", "p is the probability to DROP, 1 - {}", "retain retain_prob survival_prob"),
    ("rng", "rng takes seeds, keys and Generators", "seed key generator random_state prng rngs"),
    ("rng", "rng takes seeds, keys and Generators", "random_seed rng_key rng_collection random"),
    ("key", "key=fd.Key(seed) is meant", "seed rng generator random_state prng random_seed"),
    ("key", "key=fd.Key(seed) is meant", "rngs rng_key dropout_rng"),
    ("dropout_p", "dropout_p is the probability to DROP", "p rate dropout_rate dropout prob"),
    ("dropout_key", "dropout_key=fd.Key(seed) is meant", "rng dropout_rng seed dropout_seed prng"),
    ("dropout_key", "each weight has its own decision", "broadcast_dropout broadcast_dims"),
    ("deterministic", "deterministic is its opposite", "training train is_training is_train"),
    ("deterministic", "deterministic=True drops nothing", "inference test is_test eval"),
    ("training", "training is its opposite", "deterministic inference test is_test eval"),
    ("training", "training=True drops", "train is_training is_train train_mode phase"),
    ("broadcast_dims", "broadcast_dims names all other axes, which share decisions", "axis axes"),
    ("broadcast_dims", "broadcast_dims names its axes of length 1", "noise_shape mask_shape"),
    ("broadcast_dims", "broadcast_dims names the axes that share decisions", "dim dims shared"),
    ("channel_axis", "channel_axis=-1 is for channels last", "data_format channels_last layout"),
    ("out", "out=x works in place", "inplace in_place"),
    ("inplace", "inplace=True works in place", "out in_place"),
    ("prefix", "prefix is this number", "num_prefix_tokens prefix_tokens"),
    ("mode", "mode says when to scale", "scale scaling upscale scale_train scale_by_keep"),
    ("inplace", "train(), eval() and calls decide that", "training train deterministic inference"),
]
"""Other libraries' names for our arguments, and the advice given for them."""


def _meant(name: str, names: list[str]) -> str:
    """Return the end of a message: which of `names` an unknown name probably stands for."""
    for ours, text, theirs in _NAMES:
        if ours in names and name.lower() in theirs.split():
            return text.format(name)
    import difflib  # only for mistakes

    close = difflib.get_close_matches(name.lower(), names, 1)
    return f"is {close[0]} meant?" if close else f"it has {', '.join(names)}"


def refuse(
    unknown: Iterable[str], function: Callable[..., Any], more: Iterable[str] = ()
) -> NoReturn:
    """Raise TypeError for a keyword that `function` does not have, naming the likely one.

    `more` are keywords that it takes and does not name.
    """
    layer = getattr(function, "__self__", None)
    owner = function.__name__ if layer is None else f"a call of {type(layer).__name__}"
    *names, _ = inspect.signature(function).parameters  # the last collects unknown keywords
    refuse_name(next(iter(unknown)), [*names, *more], owner)


def refuse_name(name: str, names: list[str], owner: str) -> NoReturn:
    """Raise TypeError for a keyword that `owner` does not have, naming the likely one."""
    raise TypeError(f"{owner} has no argument {name!r}: {_meant(name, names)}")


def refuse_attribute(name: str, layer: object, names: list[str]) -> NoReturn:
    """Raise AttributeError for an attribute that a layer does not have, naming the likely one."""
    owner = type(layer).__name__
    raise AttributeError(f"{owner} has no attribute {name!r} to set: {_meant(name, names)}")


def explained(function: Function) -> Function:
    """Wrap an `__init__`: an unknown keyword raises an error that names the likely argument.

    The wrapper slows down each call. Functions instead collect unknown keywords for `refuse`.
    """
    code = function.__code__  # `inspect.signature` takes long enough to be measurable at import
    names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])

    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in names:
                refuse_name(name, names[1:], type(self).__name__)
        return function(self, *arguments, **options)

    return call  # type: ignore[return-value]
