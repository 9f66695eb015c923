"""Keys of JAX with the stream of `fastdrop.Key`.

Do not rename these functions: stored keys and their dtype refer to them by name.
"""

import contextlib
import copyreg
import math
import sys
from collections.abc import Hashable
from typing import Any

import jax
import jax.extend.random
import numpy as np
from jax import Array
from jax import numpy as jnp

import fastdrop as fd
from fastdrop._base.keys import READERS
from fastdrop.jax._primitive import blocks, varying

_SPLIT, _FOLD_IN, _BITS = 254, 255, 128
"""Tags of the stream: for children, and for bits drawn in sequence."""

_SEEDS = np.frombuffer(b"fastdrop's seeds", "<u4").astype(np.uint32)


def _block(words: Any, index: Array, tag: int) -> Array:
    block: Array = blocks.bind(*varying(jnp.asarray(words), index), tag=tag)
    return block


def words_of(key: fd.Key) -> Any:
    """Return the four words of a key."""
    return np.frombuffer(bytes(key), "<u4").astype(np.uint32)


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


def restored(words: Any) -> Array:
    """Return the JAX key of four words."""
    return jax.random.wrap_key_data(jnp.asarray(words), impl=_IMPLEMENTATION)


def _reduced(key: Any) -> Any:
    """Reduce a key for pickle: ours to its words, in a form that all versions of JAX read."""
    if not is_ours(key):
        return key.__reduce_ex__(4)
    return restored, (np.asarray(jax.random.key_data(key)),)


_NAME, _KIND = "fastdrop", 100
"""Name of the implementation of keys, and its number in exported functions; JAX's own are below 50.
"""


def _registered(specification: Any) -> Hashable:
    """Register an implementation of keys, so that JAX finds it by name, and return the name.

    JAX has no public functions for this. Without its private ones, return the argument: keys then
    work, but cannot be stored by name.
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


def is_ours(key: Any) -> bool:
    """Return whether an object is a JAX key that `key` made, or a child of one."""
    return (
        isinstance(key, Array)
        and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        and jax.random.key_impl(key) == _IMPLEMENTATION
    )


def _bytes_of(key: Any) -> bytes | None:
    """Return the 16 bytes of a JAX key of ours, None for any other object."""
    if not is_ours(key):
        return None
    words = np.asarray(jax.random.key_data(key))
    if words.shape != (4,):
        raise TypeError(f"rng must be one key, got an array of shape {words.shape[:-1]}")
    return words.astype("<u4").tobytes()


READERS.append(_bytes_of)
