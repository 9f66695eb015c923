"""Statistics of the stream: what would be wrong in both the library and the reference.

A statistic is a function of bits that returns p-values, one for each comparison. `CASES` names the
statistics, the bits that each one gets, and the weakened generators that it must reject. One rate
of false alarms holds for the whole file: see `passes`. Every seed is fixed, so a test passes always
or never, and the rate is that of choosing the seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import fastdrop as fd
import ml_dtypes
import numpy as np
import pytest
import reference as ref
from fastdrop import _core
from numpy.typing import ArrayLike, NDArray
from scipy import special
from support import as_key

# Bits are the same at every level and on every number of threads; other files see to that.
pytestmark = pytest.mark.once

Bits = NDArray[np.bool_]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

LANES, PLANES = ref.GROUP, ref.PLANES

# The chance that some test of this file rejects a perfect generator.
FALSE_ALARMS = 1e-3


def passes(p_values: Floats) -> bool:
    """Share the rate of false alarms among the cases, and a case's part among its comparisons."""
    return bool(p_values.min() >= FALSE_ALARMS / len(CASES) / p_values.size)


# --- The library, and weakened generators --------------------------------------------------------


class Generator(Protocol):
    """Where keys and bits come from. A key is its 16 bytes; True is kept."""

    def seed(self, seed: int) -> ref.Key: ...
    def fold_in(self, key: ref.Key, index: int) -> ref.Key: ...
    def split(self, key: ref.Key, count: int) -> list[ref.Key]: ...
    def kept(self, key: ref.Key, shape: Any, p: float = 0.5, start: int = 0) -> Bits: ...
    def uniforms(self, key: ref.Key, size: int, digits: int = PLANES) -> Words: ...
    def dropout(self, key: ref.Key, x: Floats, p: float) -> Floats: ...
    def calls(self, key: ref.Key, count: int, size: int) -> list[Bits]: ...


class Library:
    """fastdrop itself."""

    def seed(self, seed: int) -> ref.Key:
        return bytes(fd.Key(seed))

    def fold_in(self, key: ref.Key, index: int) -> ref.Key:
        return bytes(as_key(key).fold_in(index))

    def split(self, key: ref.Key, count: int) -> list[ref.Key]:
        return [bytes(child) for child in as_key(key).split(count)]

    def kept(self, key: ref.Key, shape: Any, p: float = 0.5, start: int = 0) -> Bits:
        if start == 0:
            return fd.Mask(shape, p, as_key(key)).to_numpy()
        return fd.Mask(2**63 - 1, p, as_key(key)).region(start, shape).to_numpy()

    def uniforms(self, key: ref.Key, size: int, digits: int = PLANES) -> Words:
        return _core.uniforms((size,), as_key(key)) >> np.uint64(PLANES - digits)

    def dropout(self, key: ref.Key, x: Floats, p: float) -> Floats:
        return fd.dropout(x, p, rng=as_key(key))

    def calls(self, key: ref.Key, count: int, size: int) -> list[Bits]:
        layer, x = fd.Dropout(0.5, rng=as_key(key)), np.ones(size, dtype=np.float32)
        return [layer(x) != 0 for _ in range(count)]


class Bfloat16(Library):
    """The library with p rounded to bfloat16 where the mask is decided."""

    def kept(self, key: ref.Key, shape: Any, p: float = 0.5, start: int = 0) -> Bits:
        return super().kept(key, shape, float(ml_dtypes.bfloat16(p)), start)

    def dropout(self, key: ref.Key, x: Floats, p: float) -> Floats:
        return np.where(self.kept(key, x.shape, p), x / (1 - p), 0.0)


@dataclass(frozen=True)
class Weakened:
    """The reference with some of its strength taken away."""

    rounds: int = ref.ROUNDS
    period: int = 2**64  # the index of a block, and a seed, count modulo this
    key_bits: int = 128  # the other bits of a key count as 0
    tags: int = 256  # the tag of a block counts modulo this

    def block(self, key: ref.Key, index: ArrayLike, tag: int) -> ref.Bytes:
        index = np.asarray(index, dtype=np.uint64) & np.uint64(self.period - 1)
        counters = np.stack([index, np.full_like(index, tag % self.tags)], axis=-1)
        key = (int.from_bytes(key, "little") % 2**self.key_bits).to_bytes(16, "little")
        return ref.ars(key, counters.astype("<u8").view(np.uint8), self.rounds)

    def seed(self, seed: int) -> ref.Key:
        return ref.key_from_seed(seed % self.period)

    def fold_in(self, key: ref.Key, index: int) -> ref.Key:
        return self.block(key, index, ref.TAG_FOLD_IN).tobytes()

    def split(self, key: ref.Key, count: int) -> list[ref.Key]:
        return [block.tobytes() for block in self.block(key, np.arange(count), ref.TAG_SPLIT)]

    def planes(self, key: ref.Key, size: int, count: int, start: int = 0) -> Iterator[Bits]:
        groups = start // LANES + np.arange(-(-size // LANES), dtype=np.uint64)
        for plane in range(count):
            blocks = self.block(key, groups, plane)
            yield np.unpackbits(blocks, bitorder="little", count=size).view(np.bool_)

    def kept(self, key: ref.Key, shape: Any, p: float = 0.5, start: int = 0) -> Bits:
        limit = ref.threshold(p)
        digits = PLANES + 1 - (limit & -limit).bit_length()  # up to the last 1
        kept = np.zeros(math.prod(np.atleast_1d(shape)), dtype=np.bool_)
        equal = ~kept
        for digit, plane in enumerate(self.planes(key, kept.size, digits, start)):
            if not equal.any():
                break
            if limit >> (PLANES - 1 - digit) & 1:
                equal &= plane
            else:
                kept |= equal & plane
                equal &= ~plane
        return (kept | equal).reshape(shape)

    def uniforms(self, key: ref.Key, size: int, digits: int = PLANES) -> Words:
        uniforms = np.zeros(size, dtype=np.uint64)
        for plane in self.planes(key, size, digits):
            uniforms = uniforms << np.uint64(1) | plane
        return uniforms

    def dropout(self, key: ref.Key, x: Floats, p: float) -> Floats:
        return np.where(self.kept(key, x.shape, p), x / (1 - p), 0.0)

    def calls(self, key: ref.Key, count: int, size: int) -> list[Bits]:
        return [self.kept(self.fold_in(key, call), size) for call in range(count)]


LIBRARY = Library()

WEAKENED: dict[str, Generator] = {
    "p in bfloat16": Bfloat16(),
    "2 rounds": Weakened(rounds=2),
    "3 rounds": Weakened(rounds=3),
    "4 rounds": Weakened(rounds=4),
    "5-bit index": Weakened(period=2**5),
    "8-bit index": Weakened(period=2**8),
    "16-bit index": Weakened(period=2**16),
    "32-bit index": Weakened(period=2**32),
    "127-bit key": Weakened(key_bits=127),
    "one tag": Weakened(tags=1),
}


# --- p-values, of both tails ---------------------------------------------------------------------


def normal(z: ArrayLike) -> Floats:
    """Of each z-score, and of the sum of their squares.

    The sum sees what is too even: where every count is exactly its mean, all scores are 0.
    """
    z = np.ravel(z)
    return np.append(special.erfc(np.abs(z) / math.sqrt(2)), chi_square(np.sum(z * z), z.size))


def chi_square(x: float, freedom: int) -> float:
    return float(2 * min(special.chdtr(freedom, x), special.chdtrc(freedom, x)))


def binomial(counts: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """Of each count, exact for every n and p."""
    counts = np.ravel(np.asarray(counts, dtype=np.float64))
    at_most = special.bdtr(counts, n, p)
    at_least = np.where(counts > 0, special.bdtrc(np.maximum(counts - 1, 0), n, p), 1.0)
    p_values: Floats = np.minimum(1.0, 2 * np.minimum(at_most, at_least))
    return p_values


def fit(counts: NDArray[np.int64], chances: Floats) -> Floats:
    """Of a table of counts; the rare places count as one."""
    expected = counts.sum() * chances
    common = expected >= 20
    expected = np.append(expected[common], counts.sum() - expected[common].sum())
    observed = np.append(counts[common], counts[~common].sum())
    return np.array([chi_square(np.sum((observed - expected) ** 2 / expected), common.sum())])


# --- Statistics ----------------------------------------------------------------------------------


def rates(masks: Iterable[Bits], p: Sequence[float]) -> Floats:
    """The number of kept elements, of one mask for each p."""
    counts, sizes = zip(*((np.count_nonzero(kept), kept.size) for kept in masks), strict=True)
    return binomial(counts, sizes, 1 - np.array(p))


def shift(drops: Iterable[tuple[Floats, Floats]], p: Sequence[float]) -> Floats:
    """The sum of inverted dropout's output against that of its input, which it keeps on average."""
    z = [
        (y - x).sum() / math.sqrt(np.sum(x * x) * each / (1 - each))
        for (x, y), each in zip(drops, p, strict=True)
    ]
    return normal(z)


def digits(uniforms: Words) -> Floats:
    """How many uniforms begin with k zeros, and with k ones: p = 2^-k and 1 - 2^-k for every k."""
    k = np.arange(1, PLANES + 1)
    limits = ~np.uint64(0) >> k.astype(np.uint64)
    zeros, ones = (
        np.searchsorted(ordered, limits, side="right")
        for ordered in (np.sort(uniforms), np.sort(~uniforms))
    )
    return binomial([zeros, ones], uniforms.size, np.tile(2.0**-k, 2))


def columns(kept: Bits, p: float = 0.5) -> Floats:
    """The mean of each column: one lane of many groups, or one element under many keys."""
    n, counts = len(kept), kept.sum(axis=0)
    spread = normal((counts - n * (1 - p)) / math.sqrt(n * p * (1 - p)))[-1]
    return np.append(binomial(counts, n, 1 - p), spread)


def margins(kept: Bits, p: float) -> Floats:
    """Rows and columns of a matrix: the mean of each, and the correlation with the next."""
    signs = (kept - (1 - p)) / math.sqrt(p * (1 - p))
    return np.concatenate(
        [
            normal(lines.sum(axis=1) / math.sqrt(lines.shape[1]))
            for array in (signs, signs.T)
            for lines in (array, array[1:] * array[:-1])
        ]
    )


def pairs(rows: Bits) -> Floats:
    """The mean of each row of fair bits, and the correlation of each pair of rows."""
    ones = np.ones_like(rows[:1])  # the correlation with these is the mean
    signs = np.concatenate([ones, rows]) * np.float32(2) - np.float32(1)
    dots = (signs @ signs.T)[np.triu_indices(len(signs), 1)].astype(np.float64)
    return normal(dots / math.sqrt(signs.shape[1]))


def lags(kept: Bits, p: float) -> Floats:
    """The correlation of the sequence with itself at lags 1 to 4,096."""
    signs = (kept - (1 - p)) / math.sqrt(p * (1 - p))
    products = np.fft.irfft(np.abs(np.fft.rfft(signs)) ** 2, signs.size)
    return normal(products[1:4097] / math.sqrt(signs.size))


def runs(kept: Bits) -> Floats:
    """The number of runs in fair bits, and their lengths."""
    ends = np.flatnonzero(kept[1:] != kept[:-1])
    lengths = np.bincount(np.diff(ends))[1:]
    chances = np.ldexp(1.0, -np.arange(1, lengths.size + 1))
    return np.append(binomial(ends.size, kept.size - 1, 0.5), fit(lengths, chances))


def popcounts(groups: Bits) -> Floats:
    """How many bits are 1 in a group, and in the sum modulo 2 of neighbouring groups."""
    chances = special.binom(LANES, np.arange(LANES + 1)) / 2.0**LANES
    return np.concatenate(
        [
            fit(np.bincount(bits.sum(axis=1), minlength=LANES + 1), chances)
            for bits in (groups, groups[1:] ^ groups[:-1])
        ]
    )


def sums(groups: Bits) -> Floats:
    """The sum modulo 2 of 256 groups, each lane by itself.

    After up to three rounds, a byte of the block takes every value once where one byte of the index
    does, so the sum is 0. A fourth round ends that.
    """
    return columns(np.bitwise_xor.reduce(groups.reshape(-1, 256, LANES), axis=1))


def repeats(words: Words) -> Floats:
    """How many words of 64 bits occur again.

    This sees four rounds. After two of them, the state is the sum of a term of the group and a
    term of the plane, among 2^16 groups whose indices differ in two bytes. A byte of the block
    depends on four bytes of that sum. Two groups that agree in these, with a chance of 2^-32, agree
    in eight lanes of every plane.
    """
    words = np.sort(words)
    again = np.count_nonzero(words[1:] == words[:-1])
    return np.array([special.pdtrc(again - 1, words.size**2 / 2**65) if again else 1.0])


# --- The bits that statistics get ----------------------------------------------------------------

P = [2.0**-40, 2.0**-20, 1e-5, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.2, 0.25]
P += [0.3, 1 / 3, 0.5, 2 / 3, 0.75, 0.9, 0.99, 0.999, 1 - 2.0**-20, 1 - 2.0**-40]
MIDDLE_P = [p for p in P if 0.01 <= p <= 0.99]  # a mean has to be normal; a count has not


def at_each_p(g: Generator) -> Iterator[Bits]:
    return (g.kept(g.seed(100 + i), 2**24, p) for i, p in enumerate(P))


def dropped_at_each_p(g: Generator) -> Iterator[tuple[Floats, Floats]]:
    x = np.random.default_rng(0).random(2**20)
    return ((x, g.dropout(g.seed(200 + i), x, p)) for i, p in enumerate(MIDDLE_P))


def uniforms(g: Generator) -> Words:
    return g.uniforms(g.seed(1), 2**22)


def elements(g: Generator, p: float = 0.5) -> Bits:
    return g.kept(g.seed(2), 2**22, p)


def groups(g: Generator, p: float = 0.5) -> Bits:
    return g.kept(g.seed(3), 2**23, p).reshape(-1, LANES)


def by_lane(g: Generator) -> Bits:
    return g.kept(g.seed(4), 2**24).reshape(-1, LANES).T


def by_plane(g: Generator) -> Bits:
    octets = g.uniforms(g.seed(5), 2**18).astype(">u8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1).T.view(np.bool_)


def matrix(g: Generator, p: float) -> Bits:
    return g.kept(g.seed(6), (1000, 3000), p)


def first_group(g: Generator, family: str) -> Bits:
    """Elements 0 to 127 under many keys."""
    root, count = g.seed(7), 2**13
    if family == "split":
        keys = g.split(root, count)
    else:
        keys = [g.seed(i) if family == "seed" else g.fold_in(root, i) for i in range(count)]
    kept = {key: g.kept(key, LANES) for key in set(keys)}
    return np.stack([kept[key] for key in keys])


def by_key(g: Generator, keys: Iterable[ref.Key]) -> Bits:
    return np.stack([g.kept(key, 2**16) for key in keys])


def one_bit_apart(number: int, width: int) -> list[int]:
    return [number] + [number ^ 1 << place for place in range(width)]


def keys_one_bit_apart(g: Generator) -> Bits:
    numbers = one_bit_apart(int.from_bytes(g.seed(8), "little"), 128)
    return by_key(g, (number.to_bytes(16, "little") for number in numbers))


def calls_one_bit_apart(g: Generator) -> Bits:
    return by_key(g, (g.fold_in(g.seed(9), call) for call in one_bit_apart(1000, 64)))


def calls(g: Generator) -> Bits:
    """Training calls of a layer."""
    return np.stack(g.calls(g.seed(10), 64, 2**16))


def tree(g: Generator) -> Bits:
    """A key, its children of both families, and the children of these."""

    def children(key: ref.Key) -> list[ref.Key]:
        return [*g.split(key, 5), *(g.fold_in(key, index) for index in range(5))]

    root = g.seed(11)
    family = children(root)
    return by_key(g, [root, *family, *itertools.chain.from_iterable(map(children, family))])


def byte_by_byte(g: Generator) -> Bits:
    """Groups whose index runs through one of its bytes, for each that the index of a mask has."""
    root = g.seed(12)
    return np.concatenate(
        [g.kept(root, 256 * 256 * LANES)]
        + [
            g.kept(root, LANES, start=value * 256**byte * LANES)
            for byte in range(1, 7)
            for value in range(256)
        ]
    ).reshape(-1, LANES)


def eight_lanes(g: Generator) -> Words:
    """The first eight bits of eight elements, as one word."""
    return g.uniforms(g.seed(13), 2**24, 8).astype(np.uint8).view(np.uint64)


# --- The tests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    statistic: Callable[[Any], Floats]
    bits: Callable[[Generator], Any]
    rejected: Sequence[str]  # of WEAKENED


# Nearly every statistic sees two rounds, and is shown three if it sees those. They are seen where
# counters differ in one byte, as those of neighbouring groups and planes do: a sum is 0, or counts
# are too even. Only repeated words show four. The bits of a child key have been through twice the
# rounds, so the cases of children and calls look for two that are the same.
CASES = {
    "rates": Case(partial(rates, p=P), at_each_p, ["p in bfloat16"]),
    "mean": Case(partial(shift, p=MIDDLE_P), dropped_at_each_p, ["p in bfloat16"]),
    "leading digits": Case(digits, uniforms, ["3 rounds"]),
    "lanes": Case(columns, groups, ["3 rounds"]),
    "lanes at p = 0.3": Case(partial(columns, p=0.3), partial(groups, p=0.3), ["3 rounds"]),
    "pairs of lanes": Case(pairs, by_lane, ["3 rounds", "16-bit index"]),
    "pairs of planes": Case(pairs, by_plane, ["3 rounds", "one tag"]),
    "runs": Case(runs, elements, ["2 rounds"]),
    "lags": Case(partial(lags, p=0.5), elements, ["3 rounds"]),
    "lags at p = 0.1": Case(partial(lags, p=0.1), partial(elements, p=0.1), ["3 rounds"]),
    "matrix": Case(partial(margins, p=0.5), partial(matrix, p=0.5), ["2 rounds"]),
    "matrix at p = 0.3": Case(partial(margins, p=0.3), partial(matrix, p=0.3), ["2 rounds"]),
    "popcounts": Case(popcounts, groups, ["3 rounds"]),
    "first group under fold_in": Case(
        columns, partial(first_group, family="fold_in"), ["8-bit index"]
    ),
    "first group under split": Case(columns, partial(first_group, family="split"), ["2 rounds"]),
    "first group under seeds": Case(columns, partial(first_group, family="seed"), ["8-bit index"]),
    "keys one bit apart": Case(pairs, keys_one_bit_apart, ["3 rounds", "127-bit key"]),
    "calls one bit apart": Case(pairs, calls_one_bit_apart, ["2 rounds", "32-bit index"]),
    "calls of a layer": Case(pairs, calls, ["2 rounds", "5-bit index"]),
    "tree of keys": Case(pairs, tree, ["2 rounds", "one tag"]),
    "sums of 256 groups": Case(sums, byte_by_byte, ["3 rounds"]),
    "repeated words": Case(repeats, eight_lanes, ["4 rounds", "16-bit index"]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_stream_passes(name: str) -> None:
    """Would catch a bias or a correlation that the library shares with the reference."""
    case = CASES[name]
    assert passes(case.statistic(case.bits(LIBRARY)))


@pytest.mark.parametrize(
    ("name", "weakened"), [(name, each) for name, case in CASES.items() for each in case.rejected]
)
def test_a_weakened_generator_is_rejected(name: str, weakened: str) -> None:
    """Would catch a statistic that passes whatever bits it gets."""
    case = CASES[name]
    assert not passes(case.statistic(case.bits(WEAKENED[weakened])))
