"""Where keys come from: all entropy that fastdrop uses enters here."""

import os
from collections.abc import Sequence
from typing import Any, Self, SupportsIndex, TypeAlias, final

import numpy as np

from fastdrop import _core
from fastdrop._validate import as_unsigned, shown

_SEED = "an int >= 0, a sequence of them, a SeedSequence, BitGenerator, Generator or None"

Seed: TypeAlias = (
    int
    | np.integer
    | Sequence[int]
    | np.random.SeedSequence
    | np.random.BitGenerator
    | np.random.Generator
    | None
)


def seed_bytes(seed: Seed) -> bytes:
    """Draw the 16 bytes of a key.

    They are drawn from the generator's stream, not read from its seed sequence. So this works for
    every generator, advances it, and its saved state is enough to repeat all that follows.

    Parameters
    ----------
    seed : None, int, sequence of int, SeedSequence, BitGenerator or Generator
        As for `numpy.random.default_rng`; None takes entropy from the operating system.

    Returns
    -------
    bytes
        Two draws of 64 bits, the low byte of each first.

    Raises
    ------
    TypeError, ValueError
        If `seed` is not one of these.

    Examples
    --------
    >>> from fastdrop.random import seed_bytes
    >>> seed_bytes(42) == seed_bytes(42)
    True
    """
    if seed is None:
        return os.urandom(16)
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"seed must be {_SEED}, got {shown(seed)}") from None
    return rng.integers(0, 2**64, size=2, dtype=np.uint64).astype("<u8", copy=False).tobytes()


@final
class Key(_core.Key):
    """The name of a stream of random bits: 16 bytes, immutable.

    Parameters
    ----------
    seed : None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        As for `numpy.random.default_rng`. `None` draws fresh entropy from the operating system; a
        BitGenerator or Generator is advanced by two draws of 64 bits.

    Notes
    -----
    Equal keys give equal masks. `bytes(key)` is the key itself, and `Key.from_bytes` takes it back.
    Bits are drawn by ARS-7, which is not a cryptographic generator: Salmon, Moraes, Dror, Shaw,
    "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import fastdrop as fd
    >>> key = fd.Key(42)
    >>> key == fd.Key(42)
    True
    >>> layer_keys = key.split(2)
    >>> step_key = layer_keys[0].fold_in(1000)
    """

    __slots__ = ()

    def __new__(cls, seed: Seed = None) -> Self:
        """Draw the key."""
        return _core.Key.__new__(cls, seed_bytes(seed))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the key with these bytes.

        Parameters
        ----------
        data : bytes
            16 bytes, such as `bytes(key)` gives.

        Returns
        -------
        Key

        Examples
        --------
        >>> import fastdrop as fd
        >>> key = fd.Key(42)
        >>> fd.Key.from_bytes(bytes(key)) == key
        True
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be 16 bytes, got {data!r}")
        if len(data) != 16:
            raise ValueError(f"data must be 16 bytes, got {data!r}")
        return _core.Key.__new__(cls, data)

    def fold_in(self, index: SupportsIndex) -> Self:
        """Derive the child key of a number, such as a step, a layer or a rank.

        Parameters
        ----------
        index : int
            Number of the child, in [0, 2**64).

        Returns
        -------
        Key
            A key whose masks are independent of this key's and of the other children's.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Key(0).fold_in(1) == fd.Key(0).fold_in(1)
        True
        >>> fd.Key(0).fold_in(1) == fd.Key(0).fold_in(2)
        False
        """
        return self.child(as_unsigned(index, "index"))

    def split(self, n: SupportsIndex) -> "list[Key]":
        """Derive several child keys at once.

        Parameters
        ----------
        n : int
            How many, at least 0.

        Returns
        -------
        list of Key
            Independent of each other, of this key, and of what `fold_in` gives.

        Examples
        --------
        >>> import fastdrop as fd
        >>> first, second = fd.Key(0).split(2)
        """
        return self.children(as_unsigned(n, "n"))

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Key.from_bytes, (bytes(self),)


Key.__module__ = "fastdrop"

RNG: TypeAlias = Seed | Key


def as_key(rng: RNG) -> Key:
    """Return the key that an `rng` argument stands for: itself, or one drawn from it.

    Parameters
    ----------
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator
        A key is used as it is, all else as in `seed_bytes`.

    Returns
    -------
    Key

    Raises
    ------
    TypeError, ValueError
        If `rng` is not one of these.

    Examples
    --------
    >>> from fastdrop.random import as_key
    >>> as_key(42) == as_key(42)
    True
    """
    return rng if isinstance(rng, Key) else Key(rng)
