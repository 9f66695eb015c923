"""A key's words as a bit generator of NumPy, for every distribution that NumPy has."""

import operator
from collections.abc import Mapping
from typing import Any, Never, Self, SupportsIndex

import numpy as np

from fastdrop import _core
from fastdrop._base.arguments import as_count, refuse, shown
from fastdrop._base.keys import RNG, Key, check_key

_PERIOD, _JUMP = 2**65, 2**48


class BitGenerator(np.random.BitGenerator):
    """A bit generator of NumPy that draws the words of a key in sequence.

    With it, `numpy.random.Generator` draws from a key. The words are blocks of their own, so they
    are independent of the key's masks and children. They are those of ``Key::rng`` in Rust.

    Parameters
    ----------
    seed : Key, int, sequence or array of int, SeedSequence, BitGenerator or Generator, optional
        A key, or what `Key` takes.

    Notes
    -----
    A key has 2^65 words of 64 bits. `state` holds the key and the position of the next word.
    ``spawn`` makes generators of keys that follow from this key.

    Examples
    --------
    >>> rng = np.random.Generator(fd.BitGenerator(fd.Key(0)))
    >>> again = np.random.Generator(fd.BitGenerator(fd.Key(0)))
    >>> rng.gamma(2.0) == again.gamma(2.0)
    True
    """

    __module__ = "fastdrop"

    def __init__(self, seed: RNG = None, **unknown: Never) -> None:
        if unknown:
            refuse(unknown, BitGenerator)
        key = seed if isinstance(seed, Key) else Key(seed)
        super().__init__(np.random.SeedSequence(int.from_bytes(bytes(key), "little")))
        self._bits = _core.Bits(key, self.capsule)

    @property
    def state(self) -> Mapping[str, Any]:
        """The key, the position of the next word, and half a word that may be left."""
        with self.lock:
            key, position, half = self._bits.state
        return {
            "bit_generator": type(self).__name__,
            "state": {"key": key, "position": position},
            "has_uint32": int(half is not None),
            "uinteger": half or 0,
        }

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        name = type(self).__name__
        if not isinstance(value, dict):
            raise TypeError(f"state must be a dict, got {shown(value)}")
        if value.get("bit_generator") != name:
            raise ValueError(f"state must be for a {name}, got {shown(value.get('bit_generator'))}")
        inner, names = value.get("state"), ("has_uint32", "uinteger")
        if not isinstance(inner, dict) or not {"key", "position"} <= inner.keys():
            raise ValueError(f"state must have a key and a position, got {shown(inner)}")
        check_key(inner["key"])
        position = as_count(inner["position"], "position")
        has_half, half = (as_count(value.get(name), name) for name in names)
        for what, n, end in (("position", position, 65), ("uinteger", half, 32)):
            if n >= 2**end:
                raise ValueError(f"{what} must be below 2**{end}, got {shown(n)}")
        with self.lock:
            self._bits.seek(inner["key"], position, half if has_half else None)

    def advance(self, delta: SupportsIndex) -> Self:
        """Skip `delta` words, or go back if it is negative; return the generator itself.

        >>> bits = fd.BitGenerator(0)
        >>> x = bits.random_raw(4)
        >>> int(bits.advance(-2).random_raw()) == int(x[2])
        True
        """
        with self.lock:
            key, position, _ = self._bits.state
            self._bits.seek(key, (position + operator.index(delta)) % _PERIOD, None)
        return self

    def jumped(self, jumps: SupportsIndex = 1) -> "BitGenerator":
        """Return a new generator, `jumps` times 2^48 words ahead."""
        with self.lock:
            key, position, _ = self._bits.state
        new = BitGenerator(key)
        return new.advance(position + operator.index(jumps) * _JUMP)

    def __reduce__(self) -> tuple[Any, ...]:
        return BitGenerator, (self.state["state"]["key"],), (self.state, self.seed_seq)

    def __setstate__(self, saved: Any) -> None:
        self.state, seeds = saved
        own: Any = self.seed_seq
        own.spawn(seeds.n_children_spawned)  # the next children are new
