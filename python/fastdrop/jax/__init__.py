"""Dropout of JAX arrays on CPUs: in compiled, differentiated, batched and sharded functions.

>>> import jax
>>> import fastdrop.jax
>>> x = jax.numpy.ones((2, 4))
>>> fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))
Array([[2., 2., 2., 0.],
       [2., 0., 2., 0.]], dtype=float32)

A `fastdrop.Key` gives the mask that NumPy's functions draw with it; `key` makes a JAX key of it,
for compiled functions. Any other JAX key works as well. Only the key is kept for the gradient.

`fastdrop.jax.nnx` and `fastdrop.jax.linen` have Flax's modules.
"""

import contextlib
import copyreg
import functools
import itertools
import math
import sys
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop import _core
from fastdrop._base.arguments import (
    DTYPES,
    MOST_AXES,
    Axes,
    as_axes,
    as_flag,
    as_shape,
    probability,
)
from fastdrop._base.keys import READERS

try:
    import jax
    import jax.extend.core
    import jax.extend.random
    from jax import Array
    from jax import numpy as jnp
    from jax.export import is_symbolic_dim
    from jax.interpreters import ad, batching, mlir, xla
except ImportError as error:
    raise ImportError("fastdrop.jax needs jax, which is not installed") from error

if jax.__version_info__ < (0, 9):  # whose XLA asks for metadata in another way
    raise ImportError(f"fastdrop.jax needs jax 0.9 or newer, got {jax.__version__}")

__all__ = ["dropout", "key"]

_UNKNOWN = -1
"""A length in `whole` that is known when the function runs: the next of the operand `lengths`."""

for _name, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(f"fastdrop.{_name}", _handler, platform="cpu")


def dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    broadcast_dims: Axes = (),
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    r"""Drop elements with probability `p`, and divide the others by 1 - p.

    .. math:: y_i = m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR
    2014. It can be differentiated any number of times, forward and backward; `p` is a constant.

    Parameters
    ----------
    x : array of float or complex
        Input, of dtype float32, float64, float16, bfloat16, complex64 or complex128.
    p : float or array of float, default 0.5
        Probability to DROP an element, in [0, 1]. A float is exact, and another one compiles the
        function again; an array of shape () may be traced.
    key : Key or JAX key
        Decides the mask, and must be given unless nothing is dropped. A `fastdrop.Key`, or what
        `key` makes of it, draws NumPy's mask. From other keys, four words are drawn with
        ``jax.random.bits``.
    deterministic : bool, default False
        Whether to return `x` as it is.
    broadcast_dims : int or sequence of int, default ()
        Axes along which elements share a decision.
    whole : sequence of int, optional
        Shape of the array that `x` is a part of; not `x`'s own. Its lengths, as those of `x`, may
        be symbolic dimensions of ``jax.export``.
    start : sequence of int, or array of int, optional
        Position of the first element of `x` in the whole, which may be traced; zeros if not given.

    Returns
    -------
    Array
        Of the shape and dtype of `x`.

    Examples
    --------
    A shard draws its part of the mask of the whole:

    >>> x = jax.numpy.ones((2, 4))
    >>> y = fastdrop.jax.dropout(x[1:], 0.5, key=fd.Key(0), whole=(2, 4), start=(1, 0))
    >>> bool((y == fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))[1:]).all())
    True
    """
    x = jnp.asarray(x)
    if str(x.dtype) not in DTYPES.replace(" or", ",").split(", "):
        raise TypeError(f"x must have dtype {DTYPES}, got {x.dtype}")
    rate, fixed = _as_rate(p)
    axes = as_axes(broadcast_dims, x.ndim, "broadcast_dims")
    shape = x.shape if whole is None else _as_lengths(whole, "whole")
    if len(shape) != x.ndim or any(map(_exceeds, x.shape, shape)):
        raise ValueError(f"whole must be a shape that contains x, {x.shape}, got {shape}")
    if math.prod(n for n in shape if not is_symbolic_dim(n)) >= 2**63:
        raise ValueError(f"whole must have at most 2**63 - 1 elements, got {shape}")
    if start is not None:
        start = _as_start(start, x.shape, shape)
    words = _words_of(key) if isinstance(key, fd.Key) else None
    if words is None and key is not None:
        _check_key(key)
    if as_flag(deterministic, "deterministic") or fixed == 0.0:
        return x
    if fixed == 1.0:
        return jnp.zeros_like(x)
    if key is None:
        raise TypeError("key must be a fastdrop.Key or a JAX key, got None")
    shared = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    unknown = [n for n in shared if is_symbolic_dim(n)]
    lengths = _stacked(unknown) if unknown else None
    shared = tuple(_UNKNOWN if is_symbolic_dim(n) else n for n in shared)
    if start is not None and axes:
        start = jnp.where(np.isin(np.arange(x.ndim), axes), 0, start)
    y: Array = _dropout(
        x, words, None if words is not None else key, lengths, rate, start, p=fixed, whole=shared
    )
    return y


def key(rng: Any = None) -> Array:
    """Return a JAX key with the bits of a `fastdrop.Key`, for compiled functions and Flax.

    `rng` is a `Key`, or anything that `Key` takes. ``jax.random.fold_in`` and ``split`` of it give
    the children that `Key.fold_in` and `Key.split` give, so that a model draws the masks of one in
    NumPy. Other functions of ``jax.random`` draw from blocks that no mask uses.

    >>> k = fastdrop.jax.key(0)
    >>> k
    Array((), dtype=key<fastdrop>) overlaying:
    [3653403231 2735729615 2195314465 1158725112]
    >>> child = jax.random.key_data(jax.random.fold_in(k, 3))
    >>> fd.Key.from_bytes(np.asarray(child).tobytes()) == fd.Key(0).fold_in(3)
    True
    """
    made = rng if isinstance(rng, fd.Key) else fd.Key(rng)
    return _restored(_words_of(made))


# --- Arguments -----------------------------------------------------------------------------------


def _as_rate(p: Any) -> tuple[Array | None, float | None]:
    """Return p as an array that may be traced, or as a number."""
    if not isinstance(p, Array):
        return None, probability(p)
    if p.shape != () or not jnp.issubdtype(p.dtype, jnp.floating):
        raise TypeError(f"p must be a number or an array of shape () of float, got {p}")
    return jax.lax.stop_gradient(p if p.dtype == jnp.float64 else p.astype(jnp.float32)), None


def _as_lengths(lengths: Any, name: str) -> tuple[Any, ...]:
    """Return a shape or position; some of its numbers may be symbolic dimensions."""
    if not isinstance(lengths, (list, tuple)):
        return as_shape(lengths, name)
    known = iter(as_shape([n for n in lengths if not is_symbolic_dim(n)], name))
    return tuple(n if is_symbolic_dim(n) else next(known) for n in lengths)


def _exceeds(length: Any, most: Any) -> bool:
    """Return whether a length is known to exceed another."""
    if is_symbolic_dim(length) or is_symbolic_dim(most):
        return False
    exceeds: bool = length > most
    return exceeds


def _stacked(numbers: Sequence[Any]) -> Array:
    return jnp.stack([jnp.asarray(number, int) for number in numbers])


def _as_start(start: Any, shape: tuple[int, ...], whole: tuple[int, ...]) -> Any:
    """Return the position of the first element, checked if it is known."""
    if isinstance(start, Array):
        if start.shape != (len(shape),) or not jnp.issubdtype(start.dtype, jnp.integer):
            raise TypeError(f"start must be {len(shape)} integers, got {start}")
        return start if start.dtype in (jnp.int32, jnp.int64) else start.astype(int)
    several = list(itertools.islice(start, MOST_AXES + 1)) if hasattr(start, "__iter__") else start
    if isinstance(several, list) and any(
        isinstance(first, Array) or is_symbolic_dim(first) for first in several
    ):
        return _as_start(_stacked(several), shape, whole)
    first = as_shape(several, "start")
    if len(first) != len(shape) or any(
        _exceeds(at + n, most) for at, n, most in zip(first, shape, whole, strict=True)
    ):
        raise ValueError(f"start must place x, {shape}, inside {whole}, got {first}")
    most = jnp.iinfo(jax.dtypes.canonicalize_dtype(int)).max
    if any(at > most for at in first):
        raise ValueError(f"start must be at most {most} without jax_enable_x64, got {first}")
    return jnp.asarray(first, int)


def _check_key(key: Any) -> None:
    """Raise TypeError unless `key` is one JAX key."""
    try:
        data = jax.random.key_data(key)
    except (TypeError, ValueError):
        raise TypeError(f"key must be a fastdrop.Key or a JAX key, got {key!r}") from None
    if data.ndim != 1:
        raise TypeError(f"key must be one key, got {data.shape[:-1]} keys")


def _words_of(key: fd.Key) -> Any:
    return np.frombuffer(bytes(key), "<u4").astype(np.uint32)


# --- The operation -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("p", "whole"), inline=True)
def _dropout(
    x: Any,
    words: Any,
    key: Any,
    lengths: Any,
    rate: Any,
    start: Any,
    *,
    p: float | None,
    whole: tuple[int, ...],
) -> Any:
    if words is not None:
        pass
    elif _is_ours(key):
        words = jax.random.key_data(key)
    else:
        words = jax.random.bits(key, (4,), jnp.uint32)
    others = [operand for operand in (lengths, rate, start) if operand is not None]
    return _apply.bind(*_varying(x, words, *others), p=p, whole=whole)


def _varying(*operands: Any) -> list[Any]:
    """Mark operands as varying over all axes of a mesh that one of them varies over."""
    kinds = [_axes_of(jax.typeof(operand)) for operand in operands]
    union = frozenset[Any]().union(*kinds)
    return [
        jax.lax.pcast(operand, tuple(union - kind), to="varying") if kind != union else operand
        for operand, kind in zip(operands, kinds, strict=True)
    ]


def _axes_of(kind: Any) -> frozenset[Any]:
    """Return the axes of a mesh over which a value varies, by its type."""
    axes: frozenset[Any] = kind.vma if hasattr(kind, "vma") else kind.mat.varying
    return axes


def _primitive(name: str, rank: Any) -> Any:
    """Make a primitive whose operands may have more axes in front, of the result's length or 1.

    `rank` gives the numbers of axes of the operands without them, from the parameters.
    """
    primitive = jax.extend.core.Primitive(f"fastdrop_{name}")

    def result(first: Any, *others: Any, **parameters: Any) -> Any:
        operands = (first, *others)
        inner = rank(len(operands), **parameters)
        fronts = [x.shape[: x.ndim - n] for x, n in zip(operands, inner, strict=True)]
        front = jnp.broadcast_shapes(*fronts)
        return first.update(shape=(*front, *first.shape[first.ndim - inner[0] :]))

    def batched(operands: Any, dims: Any, **parameters: Any) -> Any:
        moved = [
            x[None] if dim is None else jnp.moveaxis(x, dim, 0)
            for x, dim in zip(operands, dims, strict=True)
        ]
        return primitive.bind(*moved, **parameters), 0

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, _lowering(name), platform="cpu")
    return primitive


def _lowering(name: str) -> Any:
    lower = jax.ffi.ffi_lowering(f"fastdrop.{name}")

    def rule(context: Any, *operands: Any, **parameters: Any) -> Any:
        kinds: dict[str, Any] = {
            "p": np.float64,
            "whole": lambda n: np.array(n, np.int64),
            "tag": np.int64,
        }
        attributes = {n: kinds[n](value) for n, value in parameters.items() if value is not None}
        return lower(context, *operands, **attributes)

    return rule


def _ranks(count: int, *, p: float | None, whole: tuple[int, ...]) -> tuple[int, ...]:
    lengths = (1,) if _UNKNOWN in whole else ()
    numbers = () if p is not None else (0,)
    return (len(whole), 1, *lengths, *numbers, 1)[:count]


_apply = _primitive("dropout", _ranks)
_blocks = _primitive("blocks", lambda count, *, tag: (1, 0))


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    # The tangent of x is not zero: the other operands are integers, but for p, which has none.
    y = _apply.bind(*primals, **parameters)
    return y, _apply.bind(tangents[0], *primals[1:], **parameters)


def _transpose(cotangent: Any, x: Any, *others: Any, **parameters: Any) -> Any:
    nothing = [None] * len(others)
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval), *nothing]
    gradient = _apply.bind(cotangent, *others, **parameters)
    front = gradient.ndim - len(parameters["whole"])
    repeated = [n for n in range(front) if x.aval.shape[n] != gradient.shape[n]]
    return [gradient.sum(repeated, keepdims=True) if repeated else gradient, *nothing]


ad.primitive_jvps[_apply] = _jvp
ad.primitive_transposes[_apply] = _transpose


# --- Keys ----------------------------------------------------------------------------------------
# Stored keys and their dtype name these functions, so their names stay.

_SPLIT, _FOLD_IN, _BITS = 254, 255, 128
"""Tags of the stream: of children, and of bits drawn in sequence."""

_SEEDS = np.frombuffer(b"fastdrop's seeds", "<u4").astype(np.uint32)


def _block(words: Any, index: Array, tag: int) -> Array:
    block: Array = _blocks.bind(*_varying(jnp.asarray(words), index), tag=tag)
    return block


def _seed(seed: Array) -> Array:
    return _block(_SEEDS, seed.astype(f"uint{max(32, 8 * seed.dtype.itemsize)}"), _FOLD_IN)


def _fold_in(words: Array, data: Any) -> Array:
    return _block(words, jnp.asarray(data, jnp.uint32), _FOLD_IN)


def _split(words: Array, shape: tuple[int, ...]) -> Array:
    return _children(words, shape, _SPLIT)


def _children(words: Array, shape: tuple[int, ...], tag: int) -> Array:
    index = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(lambda n: _block(words, n, tag))(index).reshape(*shape, 4)


def _bits(words: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    drawn = _children(words, (-(-size * bit_width // 128),), _BITS).reshape(-1)
    # In little-endian order, by shifts: shapes of a bitcast to another width cannot be symbolic.
    if bit_width < 32:
        shifts = jnp.arange(0, 32, bit_width, dtype=jnp.uint32)
        drawn = (drawn[:, None] >> shifts).astype(f"uint{bit_width}").reshape(-1)
    elif bit_width == 64:
        halves = drawn.reshape(-1, 2).astype(jnp.uint64)
        drawn = halves[:, 0] | halves[:, 1] << jnp.uint64(32)
    return drawn[:size].reshape(shape)


def _restored(words: Any) -> Array:
    return jax.random.wrap_key_data(jnp.asarray(words), impl=_IMPLEMENTATION)


def _reduced(key: Any) -> Any:
    """Reduce a key for pickle: ours to its words, in a form that all versions of JAX read."""
    if not _is_ours(key):
        return key.__reduce_ex__(4)
    return _restored, (np.asarray(jax.random.key_data(key)),)


_NAME, _KIND = "fastdrop", 100
"""The implementation of keys: its name, and its number in exported functions, where JAX has less
than 50."""


def _registered(specification: Any) -> Hashable:
    """Make JAX find an implementation of keys where one is stored, and return its name.

    JAX has no public functions for this. Where it lacks these, too, return what was given: it works
    except in what stores names.
    """
    implementation = getattr(specification, "_impl", None)
    prng: Any = sys.modules[type(implementation).__module__]
    if not hasattr(prng, "register_prng"):
        return specification
    if _NAME not in prng.prngs:
        prng.register_prng(implementation)
    copyreg.pickle(prng.PRNGKeyArray, _reduced)
    with contextlib.suppress(ImportError):
        from jax._src.export.serialization import register_dtype_kind

        register_dtype_kind(prng.KeyTy(prng.prngs[_NAME]), _KIND)
    return _NAME


_IMPLEMENTATION = _registered(
    jax.extend.random.define_prng_impl(
        key_shape=(4,),
        seed=_seed,
        split=_split,
        random_bits=_bits,
        fold_in=_fold_in,
        name=_NAME,
        tag=_NAME,
    )
)


def _is_ours(key: Any) -> bool:
    """Return whether an object is a JAX key that `key` made, or a child of one."""
    return (
        isinstance(key, Array)
        and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        and jax.random.key_impl(key) == _IMPLEMENTATION
    )


def _bytes_of(key: Any) -> bytes | None:
    """Return the 16 bytes of such a key, None for any other object."""
    if not _is_ours(key):
        return None
    words = np.asarray(jax.random.key_data(key))
    if words.shape != (4,):
        raise TypeError(f"rng must be one key, got {words.shape[:-1]} keys")
    return words.astype("<u4").tobytes()


READERS.append(_bytes_of)
