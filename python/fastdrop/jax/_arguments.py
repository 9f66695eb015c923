"""Arguments that the functions share: p, keys, and the place of a part in the whole."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.export import is_symbolic_dim

import fastdrop as fd
from fastdrop._base.arguments import MOST_AXES, as_shape, probability, shown
from fastdrop.jax._keys import is_ours, words_of
from fastdrop.jax._partition import UNKNOWN


def as_rate(p: Any, name: str = "p") -> tuple[Array | None, float | None]:
    """Return p as an array that may be traced, or else as a number."""
    if not isinstance(p, Array):
        return None, probability(p, name)
    return jax.lax.stop_gradient(as_scalar(p, name)), None


def as_scalar(number: Array, name: str) -> Array:
    """Return an array of one number in float32 or float64."""
    if number.shape != () or not jnp.issubdtype(number.dtype, jnp.floating):
        got = shown(number)
        raise TypeError(f"{name} must be a number or a float array of shape (), got {got}")
    return number if number.dtype == jnp.float64 else number.astype(jnp.float32)


def as_place(
    whole: Any, start: Any, shape: tuple[Any, ...], name: str = "x"
) -> tuple[tuple[Any, ...], Array | None]:
    """Return the shape of the whole, and the position of a part of this shape in it."""
    checked = shape if whole is None else _as_lengths(whole, "whole")
    if len(checked) != len(shape) or any(map(_exceeds, shape, checked)):
        raise ValueError(f"whole must contain {name} of shape {shape}, got shape {checked}")
    if math.prod(n for n in checked if not is_symbolic_dim(n)) >= 2**63:
        raise ValueError(f"whole must have at most 2**63 - 1 elements, got {checked}")
    return checked, None if start is None else _as_start(start, shape, checked, name)


def known_at_last(whole: tuple[Any, ...]) -> tuple[tuple[int, ...], Array | None]:
    """Return a shape with `UNKNOWN` for each symbolic length, and an array of these."""
    unknown = [n for n in whole if is_symbolic_dim(n)]
    lengths = _stacked(unknown) if unknown else None
    return tuple(UNKNOWN if is_symbolic_dim(n) else n for n in whole), lengths


def as_key(key: Any, name: str = "key") -> tuple[Any, Any]:
    """Return the words of a `fastdrop.Key` and None, or None and a JAX key or None."""
    if isinstance(key, fd.Key):
        return words_of(key), None
    if key is not None:
        _check_key(key, name)
    return None, key


def drawn_words(words: Any, key: Any) -> Any:
    """Return the four words of a key, given one of the results of `as_key`."""
    if words is not None:
        return words
    if is_ours(key):
        return jax.random.key_data(key)
    return jax.random.bits(key, (4,), jnp.uint32)


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


def _as_start(start: Any, shape: tuple[Any, ...], whole: tuple[Any, ...], name: str) -> Any:
    """Return the position of the first element, checked if it is known."""
    if isinstance(start, Array):
        if start.shape != (len(shape),) or not jnp.issubdtype(start.dtype, jnp.integer):
            raise TypeError(f"start must be {len(shape)} integers, got {shown(start)}")
        return start if start.dtype in (jnp.int32, jnp.int64) else start.astype(int)
    several = list(itertools.islice(start, MOST_AXES + 1)) if hasattr(start, "__iter__") else start
    if isinstance(several, list) and any(
        isinstance(first, Array) or is_symbolic_dim(first) for first in several
    ):
        return _as_start(_stacked(several), shape, whole, name)
    first = as_shape(several, "start")
    if len(first) != len(shape) or any(
        _exceeds(at + n, most) for at, n, most in zip(first, shape, whole, strict=True)
    ):
        raise ValueError(
            f"start must place {name} of shape {shape} inside shape {whole}, got {first}"
        )
    most = jnp.iinfo(jax.dtypes.canonicalize_dtype(int)).max
    if any(at > most for at in first):
        raise ValueError(f"start must be at most {most} without jax_enable_x64, got {first}")
    return jnp.asarray(first, int)


def _check_key(key: Any, name: str) -> None:
    """Raise TypeError unless `key` is one JAX key."""
    try:
        data = jax.random.key_data(key)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a fastdrop.Key or a JAX key, got {key!r}") from None
    if data.ndim != 1:
        raise TypeError(
            f"{name} must be one key, got an array of shape {data.shape[:-1]}: use vmap"
        )
