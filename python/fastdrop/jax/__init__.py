"""Dropout of JAX arrays on CPUs: in compiled, differentiated, batched and sharded functions.

>>> import jax
>>> import fastdrop.jax
>>> x = jax.numpy.ones((2, 4))
>>> fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))
Array([[2., 2., 2., 0.],
       [2., 0., 2., 0.]], dtype=float32)

A `fastdrop.Key` gives the mask that NumPy's functions draw with it; `key` turns it into a JAX key
for compiled functions. Any other JAX key works as well. Only the key is kept for the gradient.

`fastdrop.jax.nnx` and `fastdrop.jax.linen` have Flax's modules.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

import fastdrop as fd
from fastdrop import _core
from fastdrop._base.arguments import DTYPES, MOST_AXES, Axes, as_flag, as_shape, probability
from fastdrop._base.members import Member, drawn_shape
from fastdrop._family.dropout import DROPOUT

try:
    import jax
    from jax import Array
    from jax import numpy as jnp
    from jax.export import is_symbolic_dim
except ImportError as error:
    raise ImportError("fastdrop.jax needs jax, which is not installed") from error

if jax.__version_info__ < (0, 9):  # their XLA asks handlers for metadata in another way
    raise ImportError(f"fastdrop.jax needs jax 0.9 or newer, got {jax.__version__}")

from fastdrop.jax._keys import is_ours, restored, words_of
from fastdrop.jax._primitive import UNKNOWN, apply, varying

__all__ = ["dropout", "key"]

Request: TypeAlias = tuple[Any, Any, bool, Any, Any]
"""The arguments that all functions share: p, key, deterministic, whole and start."""


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
        Probability to DROP an element, in [0, 1]. A float is exact; a new value recompiles the
        function. An array of shape () may be traced.
    key : Key or JAX key
        Source of the mask, required unless nothing is dropped. A `fastdrop.Key`, or what `key`
        makes of it, draws NumPy's mask. Other keys draw four words with ``jax.random.bits``.
    deterministic : bool, default False
        Whether to return `x` as it is.
    broadcast_dims : int or sequence of int, default ()
        Axes along which elements share a decision.
    whole : sequence of int, optional
        Shape of the whole array of which `x` is a part. Its lengths, like those of `x`, may be
        symbolic dimensions of ``jax.export``.
    start : sequence of int, or array of int, optional
        Position of the first element of `x` in the whole, which may be traced; zeros if not given.

    Returns
    -------
    Array
        Result with the shape and dtype of `x`.

    Examples
    --------
    A shard draws its part of the mask of the whole:

    >>> x = jax.numpy.ones((2, 4))
    >>> y = fastdrop.jax.dropout(x[1:], 0.5, key=fd.Key(0), whole=(2, 4), start=(1, 0))
    >>> bool((y == fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))[1:]).all())
    True
    """
    return _drop(DROPOUT, x, (p, key, deterministic, whole, start), broadcast_dims)


def key(rng: Any = None) -> Array:
    """Return a JAX key with the bits of a `fastdrop.Key`, for compiled functions and Flax.

    `rng` is a `Key`, or anything that `Key` takes. ``jax.random.fold_in`` and ``split`` give the
    same children as `Key.fold_in` and `Key.split`, so a model draws the same masks as in NumPy.
    Other functions of ``jax.random`` draw from blocks that no mask uses.

    >>> k = fastdrop.jax.key(0)
    >>> k
    Array((), dtype=key<fastdrop>) overlaying:
    [3653403231 2735729615 2195314465 1158725112]
    >>> child = jax.random.key_data(jax.random.fold_in(k, 3))
    >>> fd.Key.from_bytes(np.asarray(child).tobytes()) == fd.Key(0).fold_in(3)
    True
    """
    made = rng if isinstance(rng, fd.Key) else fd.Key(rng)
    return restored(words_of(made))


def _drop(member: Member, x: Any, request: Request, option: Any) -> Array:
    """Do the work of a function: check its arguments, and drop."""
    p, key, deterministic, whole, start = request
    assert member.is_linear, "the gradient of the primitive is the call itself"
    x = jnp.asarray(x)
    if str(x.dtype) not in _core.DTYPES:
        raise TypeError(f"x must have dtype {DTYPES}, got {x.dtype}")
    rate, fixed = _as_rate(p)
    axes = member.axes(x.shape, option)
    shape = x.shape if whole is None else _as_lengths(whole, "whole")
    if len(shape) != x.ndim or any(map(_exceeds, x.shape, shape)):
        raise ValueError(f"whole must be a shape that contains x, {x.shape}, got {shape}")
    if math.prod(n for n in shape if not is_symbolic_dim(n)) >= 2**63:
        raise ValueError(f"whole must have at most 2**63 - 1 elements, got {shape}")
    if start is not None:
        start = _as_start(start, x.shape, shape)
    words = words_of(key) if isinstance(key, fd.Key) else None
    if words is None and key is not None:
        _check_key(key)
    if as_flag(deterministic, "deterministic") or fixed == 0.0:
        return x
    if fixed == 1.0:
        return jnp.zeros_like(x)
    if key is None:
        raise TypeError("key must be a fastdrop.Key or a JAX key, got None")
    shared = drawn_shape(shape, axes)
    unknown = [n for n in shared if is_symbolic_dim(n)]
    lengths = _stacked(unknown) if unknown else None
    shared = tuple(UNKNOWN if is_symbolic_dim(n) else n for n in shared)
    if start is not None and axes:
        start = jnp.where(np.isin(np.arange(x.ndim), axes), 0, start)
    y: Array = _dropout(
        x, words, None if words is not None else key, lengths, rate, start, p=fixed, whole=shared
    )
    return y


# --- Arguments -----------------------------------------------------------------------------------


def _as_rate(p: Any) -> tuple[Array | None, float | None]:
    """Return p as an array that may be traced, or else as a number."""
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
    elif is_ours(key):
        words = jax.random.key_data(key)
    else:
        words = jax.random.bits(key, (4,), jnp.uint32)
    others = [operand for operand in (lengths, rate, start) if operand is not None]
    return apply.bind(*varying(x, words, *others), p=p, whole=whole)
