"""Where keys come from: all entropy that fastdrop uses enters here."""

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from fastdrop._core import Key

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
RNG: TypeAlias = Seed | Key


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
        raise type(error)(f"seed must be {_SEED}, got {seed!r}") from None
    return rng.integers(0, 2**64, size=2, dtype=np.uint64).astype("<u8", copy=False).tobytes()


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
