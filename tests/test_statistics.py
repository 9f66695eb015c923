"""Statistical sanity of the masks: fractions and correlations.

These would catch a stream that is wrong in both the library and the reference. Every seed is
fixed, so a test passes always or never; the false-alarm rate named is that of choosing the seed.
For z-scores the limit is 5 sigma, 6e-7 a comparison.
"""

from __future__ import annotations

import itertools

import fastdrop as fd
import numpy as np
import pytest
from numpy.typing import NDArray
from support import KEY, as_key

SIZE = 2**22
LIMIT = 5.0


def kept(p: float, key: fd.Key, size: int = SIZE) -> NDArray[np.bool_]:
    return fd.Mask(size, p, key).to_numpy()


def correlation_z(a: NDArray[np.bool_], b: NDArray[np.bool_], p: float) -> float:
    """Correlation of two masks in standard deviations of its value for independent ones."""
    both = np.count_nonzero(a & b)
    expected = (1 - p) * (np.count_nonzero(a) + np.count_nonzero(b)) - a.size * (1 - p) ** 2
    return float((both - expected) / (np.sqrt(a.size) * p * (1 - p)))


@pytest.mark.parametrize("p", [1e-4, 0.01, 0.1, 0.25, 0.3, 0.5, 2 / 3, 0.9, 0.999])
def test_the_kept_fraction_is_biased(p: float) -> None:
    """False-alarm rate 9 x 6e-7."""
    count = fd.Mask(SIZE, p, fd.Key(1)).count()
    assert abs(count - SIZE * (1 - p)) < LIMIT * np.sqrt(SIZE * p * (1 - p))


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_lanes_are_biased(p: float) -> None:
    """Each of the 128 lanes, false-alarm rate 256 x 6e-7 = 1.5e-4 together."""
    lanes = kept(p, fd.Key(2)).reshape(-1, 128).sum(axis=0)
    z = (lanes - SIZE / 128 * (1 - p)) / np.sqrt(SIZE / 128 * p * (1 - p))
    assert np.abs(z).max() < LIMIT


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_correlated(p: float) -> None:
    """Lanes of a word, words of a block, blocks, vectors, tiles: 28 x 6e-7 together."""
    mask = kept(p, fd.Key(3))
    for lag in [1, 2, 3, 31, 32, 33, 64, 96, 127, 128, 129, 1024, 8192, 2**16]:
        assert abs(correlation_z(mask[:-lag], mask[lag:], p)) < LIMIT, lag


def test_lanes_are_correlated() -> None:
    """All 8128 pairs of lanes, false-alarm rate 5e-3 together."""
    signs = kept(0.5, fd.Key(4)).reshape(-1, 128) * 2.0 - 1.0
    z = signs.T @ signs / np.sqrt(len(signs))
    assert np.abs(z[np.triu_indices(128, 1)]).max() < LIMIT


@pytest.mark.parametrize("family", ["seeds", "fold_in", "split", "bits"])
def test_keys_are_correlated(family: str) -> None:
    """All 120 pairs of 16 related keys, false-alarm rate 4 x 7e-5 together."""
    keys = {
        "seeds": [fd.Key(seed) for seed in range(16)],
        "fold_in": [fd.Key(5).fold_in(call) for call in range(16)],
        "split": fd.Key(5).split(16),
        "bits": [
            as_key(bytes([KEY[0] ^ 1 << i % 8, KEY[1] ^ i // 8]) + KEY[2:]) for i in range(16)
        ],
    }[family]
    signs = np.stack([kept(0.5, key, 2**18) for key in keys]) * np.float32(2) - np.float32(1)
    z = signs @ signs.T / np.sqrt(signs.shape[1])
    assert np.abs(z[np.triu_indices(len(keys), 1)]).max() < LIMIT


def test_calls_of_a_layer_are_correlated() -> None:
    """Successive training calls, false-alarm rate 6e-7 each of 9."""
    drop = fd.Dropout(0.3, rng=6)
    x = np.ones(2**18, np.float32)
    masks = [drop(x) != 0 for _ in range(10)]
    for before, after in itertools.pairwise(masks):
        assert abs(correlation_z(before, after, 0.3)) < LIMIT


def test_planes_are_correlated() -> None:
    """Second and later bits are fair given the first ones, 6 x 6e-7 together."""
    for bits in range(1, 7):
        p = 2.0**-bits
        dropped = ~kept(p, fd.Key(7))
        n = np.count_nonzero(dropped)
        halves = np.count_nonzero(dropped & ~kept(p / 2, fd.Key(7)))
        assert abs(halves - n / 2) < LIMIT * np.sqrt(n) / 2


def test_the_mean_is_shifted() -> None:
    """Inverted dropout keeps the mean: sum of y against the sum of x, 2 x 6e-7."""
    x = np.random.default_rng(8).standard_normal(SIZE)
    for p in (0.2, 0.5):
        shift = (fd.dropout(x, p, rng=8) - x).sum()
        assert abs(shift) < LIMIT * np.sqrt(np.sum(x * x) * p / (1 - p))
