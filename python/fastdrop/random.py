"""Where keys come from: all entropy that fastdrop uses enters here."""

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


def seed_words(seed: Seed) -> tuple[int, int, int, int]:
    """Draw the four words of a key.

    They are drawn from the generator's stream, not read from its seed sequence. So this works for
    every generator, advances it, and its saved state is enough to repeat all that follows.

    Parameters
    ----------
    seed : None, int, sequence of int, SeedSequence, BitGenerator or Generator
        As for `numpy.random.default_rng`.

    Returns
    -------
    tuple of four int
        The words (k0, k1, n0, n1), each in [0, 2**32).

    Raises
    ------
    TypeError, ValueError
        If `seed` is none of these.

    Examples
    --------
    >>> from fastdrop.random import seed_words
    >>> seed_words(42) == seed_words(42)
    True
    """
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"seed must be {_SEED}, got {seed!r}") from None
    a, b = (int(word) for word in rng.integers(0, 2**64, size=2, dtype=np.uint64))
    return a & 0xFFFFFFFF, a >> 32, b & 0xFFFFFFFF, b >> 32


def as_key(rng: RNG) -> Key:
    """Return the key that an `rng` argument stands for: itself, or one drawn from it.

    Parameters
    ----------
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator
        A key is used as it is, all else as in `seed_words`.

    Returns
    -------
    Key

    Raises
    ------
    TypeError, ValueError
        If `rng` is none of these.

    Examples
    --------
    >>> from fastdrop.random import as_key
    >>> as_key(42) == as_key(42)
    True
    """
    return rng if isinstance(rng, Key) else Key(rng)
