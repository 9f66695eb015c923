"""Gaussian dropout: the normals' distribution into the tails, and the noise as the reference."""

from __future__ import annotations

from statistics import NormalDist

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from numpy.typing import NDArray
from support import DTYPES, KEY, as_key, assert_same, bits, values

MANY = 1 << 23


@pytest.fixture(scope="module")
def normals() -> NDArray[np.float64]:
    """Many normals: the factors of p = 0.5 are 1 + z."""
    return fd.Noise(fd.Mask((MANY,), 0.5, as_key(KEY))).to_numpy() - 1.0


# --- Distribution (the seed is fixed; each bound says how often chance alone passes it) ----------


def within(count: int, total: int, probability: float) -> bool:
    """Whether a binomial count is within 5 standard deviations: false alarm 6e-7."""
    spread = np.sqrt(total * probability * (1 - probability))
    return abs(count - total * probability) < 5 * spread + 1


@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0])
def test_tails_are_those_of_a_normal(normals: NDArray[np.float64], z: float) -> None:
    """Both tails; beyond 5 there are 2.4 of 8 million on either side."""
    tail = NormalDist().cdf(-z)
    assert within(int(np.count_nonzero(normals > z)), MANY, tail)
    assert within(int(np.count_nonzero(normals < -z)), MANY, tail)


def test_the_bulk_is_that_of_a_normal(normals: NDArray[np.float64]) -> None:
    """Chi-square over 256 equally likely bins: 255 +- 22.6, false alarm of 5 sigma about 1e-6."""
    edges = [NormalDist().inv_cdf(k / 256) for k in range(1, 256)]
    counts = np.bincount(np.searchsorted(edges, normals), minlength=256)
    expected = MANY / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("lag", [1, 2, 63, 64, 65, 128])
def test_neighbours_are_uncorrelated(normals: NDArray[np.float64], lag: int) -> None:
    """Of z and of its square (a shared radius would show there): 5 sigma, false alarm 6e-7 each."""
    for z, spread in ((normals, 1.0), (normals**2 - 1.0, 2.0)):
        correlation = np.mean(z[lag:] * z[:-lag]) / spread
        assert abs(correlation) < 5 / np.sqrt(MANY)


def test_moments_are_those_of_a_normal(normals: NDArray[np.float64]) -> None:
    """Each within 5 standard errors of sqrt(E z^2k - (E z^k)^2), false alarm 6e-7."""
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(normals**power) - mean) < 5 * np.sqrt(variance / MANY)


# --- The noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 5000])
def test_every_dtype_and_length_has_the_noise_of_its_elements(
    level: str, dtype: np.dtype, size: int
) -> None:
    x = values((size,), dtype)
    y = fd.gaussian_dropout(x, 0.3, rng=as_key(KEY))
    std = fd.Noise(fd.Mask(size, 0.3, as_key(KEY))).std
    assert_same(y, ref.noise(x, std, ref.normals(KEY, np.arange(size))))


def test_long_arrays_have_the_noise_of_their_elements(level: str) -> None:
    """Longer than two checks for interrupts, and not a whole number of units."""
    size = (1 << 21) + 77
    noise = fd.Noise(fd.Mask(size, 0.5, as_key(KEY))).to_numpy()
    some = np.r_[0:500, (1 << 20) - 200 : (1 << 20) + 200, size - 300 : size]
    np.testing.assert_array_equal(noise[some], 1.0 + ref.normals(KEY, some).astype(np.float64))


@pytest.mark.parametrize("dims", [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_every_layout_has_the_noise_of_its_elements(dims: tuple[int, ...]) -> None:
    shape = (5, 70, 131)
    x = values(shape, np.float64)
    shared = ref.shared_shape(shape, dims)
    z = ref.normals(KEY, np.arange(np.prod(shared)).reshape(shared))
    expected = ref.noise(x, 0.5, np.broadcast_to(z, shape))
    wide = np.zeros((5, 140, 262))
    wide[:, ::2, ::2] = x
    swapped = x.astype(x.dtype.newbyteorder())
    for layout in (x, np.asfortranarray(x), wide[:, ::2, ::2], swapped, x[:, ::-1].copy()[:, ::-1]):
        y = fd.gaussian_dropout(layout, 0.2, broadcast_dims=dims, rng=as_key(KEY))
        np.testing.assert_array_equal(bits(y), bits(expected))
    permuted = np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    y = fd.gaussian_dropout(permuted, 0.2, broadcast_dims=dims, rng=as_key(KEY))
    np.testing.assert_array_equal(bits(y), bits(expected))


def test_a_region_has_the_noise_of_its_whole() -> None:
    whole = fd.Noise(fd.Mask((300, 400), 0.5, as_key(KEY)))
    part = whole.region((17, 33), (40, 129))
    np.testing.assert_array_equal(part.to_numpy(), whole.to_numpy()[17:57, 33:162])
    column = whole.region((17, 33), (200, 1))
    np.testing.assert_array_equal(column.to_numpy(), whole.to_numpy()[17:217, 33:34])
    x = values((40, 129), np.float32)
    y = part.apply(np.asfortranarray(x))
    z = whole.to_numpy()[17:57, 33:162] - 1.0
    assert_same(np.ascontiguousarray(y), ref.noise(x, 1.0, z.astype(np.float32)))


def test_noise_may_be_in_place_or_overlap() -> None:
    x = np.arange(1.0, 1001.0)
    expected = fd.gaussian_dropout(x.copy(), 0.5, rng=as_key(KEY))
    same = x.copy()
    assert fd.gaussian_dropout(same, 0.5, rng=as_key(KEY), out=same) is same
    np.testing.assert_array_equal(same, expected)
    memory = np.r_[x, 0.0]
    fd.gaussian_dropout(memory[:-1], 0.5, rng=as_key(KEY), out=memory[1:])
    np.testing.assert_array_equal(memory[1:], expected)


def test_noise_needs_a_mask() -> None:
    for bad in ("x", None, (2, 3)):
        with pytest.raises(TypeError, match=f"elements must be a Mask, got {type(bad).__name__}"):
            fd.Noise(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_noise_of_another_shape_is_refused(p: float) -> None:
    noise = fd.Noise(fd.Mask((7,), p, as_key(KEY)))
    for shape in ((2, 3), (), (7, 1)):
        with pytest.raises(ValueError, match=r"mask of shape \(7,\) does not broadcast"):
            noise.apply(np.ones(shape))
    assert noise.apply(np.ones((2, 7))).shape == (2, 7)
