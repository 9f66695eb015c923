"""Keys, and the seeds they are drawn from: all entropy that fastdrop uses enters here."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, SupportsIndex, TypeAlias, final

import numpy as np

from fastdrop import _core
from fastdrop._base.arguments import as_unsigned, shown

STREAM_VERSION = 2
"""Version of the random stream, which defines the bits that belong to a key."""


class _Array(Protocol):
    """An array of any library."""

    def __array__(self, *arguments: Any, **options: Any) -> Any: ...


class _TorchGenerator(Protocol):
    """A `torch.Generator`."""

    def initial_seed(self) -> int: ...


RNG: TypeAlias = (
    "Key | SupportsIndex | Sequence[SupportsIndex] | _Array | np.random.SeedSequence | "
    "np.random.BitGenerator | np.random.Generator | _TorchGenerator | None"
)
"""The type of `rng` arguments: a Key, or a seed that `Key` takes."""

_SEED = (
    "an int >= 0, a sequence or array of them, a SeedSequence, BitGenerator, Generator, "
    "torch.Generator or None"
)
_SEED_MUST, _RNG_MUST = f"seed must be {_SEED}", f"rng must be a Key, {_SEED}"


@final
class Key(_core.Key):
    """The name of a stream of random bits: 16 bytes, immutable.

    Parameters
    ----------
    seed : None, int, sequence or array of int, SeedSequence, BitGenerator or Generator, optional
        A seed as for `numpy.random.default_rng`. None takes fresh entropy from the operating
        system. A BitGenerator or Generator is advanced by two draws of 64 bits. A `torch.Generator`
        is accepted and advanced as well. A key of `fastdrop.jax.key` is used as it is; another key
        of JAX, or any object whose `__array__` has integers, counts as an array of int.

    Notes
    -----
    Equal keys give equal masks. ``bytes(key)`` is the key, and `Key.from_bytes` reads it back.
    The generator of the bits is ARS-7, which is not cryptographic: Salmon, Moraes, Dror, Shaw,
    "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> key = fd.Key(42)
    >>> key == fd.Key(42)
    True
    >>> layer_keys = key.split(2)
    >>> step_key = layer_keys[0].fold_in(1000)
    """

    __slots__ = ()

    def __new__(cls, seed: RNG = None) -> Self:
        """Draw the key."""
        return _new(cls, _draw(seed, _SEED_MUST))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the key with these 16 bytes; the inverse of ``bytes(key)``.

        >>> fd.Key.from_bytes(bytes(fd.Key(42))) == fd.Key(42)
        True
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be 16 bytes, got {shown(data)}")
        if len(data) != 16:
            raise ValueError(f"data must be 16 bytes, got {shown(data)}")
        return _new(cls, data)

    def fold_in(self, index: SupportsIndex) -> Self:
        """Derive the child key of a number in [0, 2**64), such as a step, a layer or a rank.

        The child's masks are independent of the masks of this key and of all other children.

        >>> fd.Key(0).fold_in(1) == fd.Key(0).fold_in(2)
        False
        """
        return self._child(as_unsigned(index, "index"))

    def split(self, n: SupportsIndex) -> "list[Key]":
        """Derive `n` child keys, independent of each other, of this key and of `fold_in`'s keys.

        >>> first, second = fd.Key(0).split(2)
        """
        # A list cannot be longer: a larger n runs out of memory as well.
        return self._children(min(as_unsigned(n, "n"), sys.maxsize))

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Key.from_bytes, (bytes(self),)


MOST_SEEDS = 1 << 20
"""Limit for seeds. Longer sequences of integers are refused."""

READERS: list[Callable[[Any], bytes | None]] = []
"""Readers of other libraries' objects that hold a key; each returns None for any other object."""

_new = _core.Key.__new__

NO_KEY = Key.from_bytes(bytes(16))
"""The key of masks that keep everything, which need no entropy."""


def as_key(rng: RNG) -> Key:
    """Return a Key as it is; draw one from any other `rng`."""
    return rng if type(rng) is Key else _new(Key, _draw(rng, _RNG_MUST))


def check_key(key: object) -> None:
    """Raise TypeError unless `key` is a Key."""
    if type(key) is not Key:
        raise TypeError(f"key must be a Key, got {shown(key)}")


def check_rng(rng: RNG) -> None:
    """Raise what `as_key` would raise, and draw nothing."""
    if rng is None or isinstance(rng, (np.random.Generator, np.random.BitGenerator)):
        return
    if not _is_torch(rng):
        as_key(rng)


def _draw(seed: Any, must: str) -> bytes:
    """Draw the 16 bytes of a key; `must` begins the message if `seed` is not a seed.

    The bytes come from the generator's stream, not from its seed sequence. This works for every
    generator, and advances it: its saved state is enough to repeat all that follows.
    """
    if seed is None:
        return os.urandom(16)
    for read in READERS:
        if (data := read(seed)) is not None:
            return data
    if _is_torch(seed):
        torch = sys.modules["torch"]
        octets = torch.randint(256, (16,), generator=seed, device=seed.device)
        return bytes(octets.tolist())
    try:
        rng = np.random.default_rng(_as_seed(seed))
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = ValueError if isinstance(error, ValueError) else TypeError
        raise wrong(f"{must}, got {shown(seed)}") from None
    words = rng.integers(0, 2**64, size=2, dtype=np.uint64)
    return (words if sys.byteorder == "little" else words.byteswap()).tobytes()


def _as_seed(seed: Any) -> Any:
    """Return a seed that NumPy takes; for an array, its integers."""
    if not isinstance(seed, np.generic) and hasattr(seed, "__array__"):
        array = np.asarray(_without_type(seed))
        if array.dtype.kind not in "iu":
            raise TypeError
        seed = array.reshape(-1)
    if hasattr(seed, "__len__") and len(seed) > MOST_SEEDS:
        raise ValueError  # NumPy would make a list of it
    return seed


def _without_type(seed: Any) -> Any:
    """Return the integers of a typed key of JAX, and any other array as it is."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(seed, jax.Array):
        return seed
    typed = jax.numpy.issubdtype(seed.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(seed) if typed else seed


def _is_torch(seed: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(seed, torch.Generator)


def number_of(name: object) -> int:
    """Return the number that a layer's name folds into a key: its BLAKE2b hash of 8 bytes."""
    if not isinstance(name, str):
        raise TypeError(f"layers must have names of type str, got {shown(name)}")
    import hashlib  # takes 2 ms, and few programs need it

    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
