"""Random bits by themselves: those that a mask would drop, as bools and packed."""

from __future__ import annotations

from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import EDGES, KEY, as_key

SHAPES: list[Any] = [*EDGES, (), (3, 0, 2), (3, 5), (2, 3, 11), (129, 1, 7)]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 2 / 3, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_true_is_what_a_mask_keeps(level: str, shape: Any, p: float) -> None:
    whole = (shape,) if isinstance(shape, int) else shape
    bits = fd.bernoulli(shape, p, as_key(KEY))
    assert bits.dtype == np.bool_
    assert bits.shape == whole
    np.testing.assert_array_equal(bits, ~ref.mask(KEY, p, whole))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [*range(18), *SHAPES], ids=str)
def test_unused_bits_of_the_last_byte_are_set(shape: Any, p: float) -> None:
    """Inverting the bytes turns the padding on; the lengths are each remainder by eight."""
    packed = fd.bernoulli(shape, p, as_key(KEY), packed=True)
    bits = fd.bernoulli(shape, p, as_key(KEY))
    np.testing.assert_array_equal(packed, np.packbits(bits, axis=None, bitorder="little"))
    assert packed.dtype == np.uint8


def test_what_is_true_at_a_small_p_is_false_at_a_larger_one() -> None:
    grid = [0.0, 0.01, 0.1, 0.5, 0.50001, 0.9, 1.0]
    drawn = [fd.bernoulli(10_000, p, as_key(KEY)) for p in grid]
    for fewer, more in zip(drawn, drawn[1:], strict=False):
        assert not (fewer & ~more).any()


def test_a_seed_differs_or_a_generator_repeats() -> None:
    np.testing.assert_array_equal(fd.bernoulli(999, 0.3, 7), fd.bernoulli(999, 0.3, 7))
    rng = np.random.default_rng(7)
    first, second = fd.bernoulli(999, 0.3, rng), fd.bernoulli(999, 0.3, rng)
    np.testing.assert_array_equal(first, fd.bernoulli(999, 0.3, fd.Key(7)))
    assert (first != second).any()


def test_the_result_is_read_only() -> None:
    assert fd.bernoulli(10, 0.5, 1).flags.writeable
    assert fd.bernoulli(10, 0.5, 1, packed=True).flags.writeable


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((10, 1.5), ValueError, r"p must be a number in \[0, 1\], got 1.5"),
        ((10, float("nan")), ValueError, "p must be"),
        ((10, "0.5"), TypeError, "p must be"),
        ((-1, 0.5), ValueError, "shape must be"),
        ((2.5, 0.5), TypeError, "shape must be"),
        ((10, 0.5, "seed"), TypeError, "rng must be"),
    ],
)
def test_a_bad_argument_draws_bits(
    arguments: tuple[Any, ...], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        fd.bernoulli(*arguments)


def test_a_shape_given_in_parts_is_taken_for_a_flag() -> None:
    with pytest.raises(TypeError, match="packed must be True or False, got 2"):
        fd.bernoulli(10, 0.5, packed=2)  # type: ignore[call-overload]


def test_the_true_fraction_is_biased() -> None:
    """Two million bits at three p, 5 sigma: false-alarm rate 3 x 6e-7 for choosing the seed."""
    for p in (0.001, 0.3, 0.9):
        count = np.count_nonzero(fd.bernoulli(2_000_000, p, 11))
        assert abs(count - 2e6 * p) < 5 * np.sqrt(2e6 * p * (1 - p))
