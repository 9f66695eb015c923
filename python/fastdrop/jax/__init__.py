"""Dropout and attention in JAX on CPUs: in compiled, differentiated, batched and sharded functions.

>>> import jax
>>> import fastdrop.jax
>>> x = jax.numpy.ones((2, 4))
>>> fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))
Array([[2., 2., 2., 0.],
       [2., 0., 2., 0.]], dtype=float32)

A `fastdrop.Key` gives the mask that NumPy's functions draw with it; `key` turns it into a JAX key
for compiled functions. Any other JAX key works as well. Masks are not kept for the gradient.

`fastdrop.jax.nnx` and `fastdrop.jax.linen` have Flax's modules.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

import fastdrop as fd
from fastdrop import _core
from fastdrop._base.arguments import DTYPES, Axes, as_flag
from fastdrop._base.members import Member, drawn_shape
from fastdrop._family.dropout import DROPOUT

try:
    import jax
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax needs jax, which is not installed") from error

if jax.__version_info__ < (0, 9):  # their XLA asks handlers for metadata in another way
    raise ImportError(f"fastdrop.jax needs jax 0.9 or newer, got {jax.__version__}")

from fastdrop.jax._arguments import as_key, as_place, as_rate, drawn_words, known_at_last
from fastdrop.jax._attention import dot_product_attention
from fastdrop.jax._keys import restored, words_of
from fastdrop.jax._primitive import apply, varying

__all__ = ["dot_product_attention", "dropout", "key"]

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
    rate, fixed = as_rate(p)
    axes = member.axes(x.shape, option)
    shape, start = as_place(whole, start, x.shape)
    words, key = as_key(key)
    if as_flag(deterministic, "deterministic") or fixed == 0.0:
        return x
    if fixed == 1.0:
        return jnp.zeros_like(x)
    if words is None and key is None:
        raise TypeError("key must be a fastdrop.Key or a JAX key, got None")
    shared, lengths = known_at_last(drawn_shape(shape, axes))
    if start is not None and axes:
        start = jnp.where(np.isin(np.arange(x.ndim), axes), 0, start)
    y: Array = _dropout(x, words, key, lengths, rate, start, p=fixed, whole=shared)
    return y


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
    others = [operand for operand in (lengths, rate, start) if operand is not None]
    return apply.bind(*varying(x, drawn_words(words, key), *others), p=p, whole=whole)
