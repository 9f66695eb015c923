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
def test_bits_are_true_where_a_mask_would_drop(level: str, shape: Any, p: float) -> None:
    """Would catch the mask itself, not inverted, and bits out of order."""
    whole = (shape,) if isinstance(shape, int) else shape
    bits = fd.bernoulli(shape, p, as_key(KEY))
    assert bits.dtype == np.bool_
    assert bits.shape == whole
    np.testing.assert_array_equal(bits, ~ref.mask(KEY, p, whole))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [*range(18), *SHAPES], ids=str)
def test_unused_bits_of_the_last_byte_are_zero(shape: Any, p: float) -> None:
    """Inverting whole bytes would set the padding; lengths cover every remainder modulo 8."""
    packed = fd.bernoulli(shape, p, as_key(KEY), packed=True)
    bits = fd.bernoulli(shape, p, as_key(KEY))
    np.testing.assert_array_equal(packed, np.packbits(bits, axis=None, bitorder="little"))
    assert packed.dtype == np.uint8


def test_bits_are_nested_in_p() -> None:
    """What is true at a small p is true at a larger one."""
    grid = [0.0, 0.01, 0.1, 0.5, 0.50001, 0.9, 1.0]
    drawn = [fd.bernoulli(10_000, p, as_key(KEY)) for p in grid]
    for fewer, more in zip(drawn, drawn[1:], strict=False):
        assert not (fewer & ~more).any()


def test_a_seed_repeats_and_a_generator_advances() -> None:
    np.testing.assert_array_equal(fd.bernoulli(999, 0.3, 7), fd.bernoulli(999, 0.3, 7))
    rng = np.random.default_rng(7)
    first, second = fd.bernoulli(999, 0.3, rng), fd.bernoulli(999, 0.3, rng)
    np.testing.assert_array_equal(first, fd.bernoulli(999, 0.3, fd.Key(7)))
    assert (first != second).any()


def test_the_result_is_writeable() -> None:
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
def test_bad_arguments_are_refused(
    arguments: tuple[Any, ...], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        fd.bernoulli(*arguments)


def test_packed_must_be_a_bool() -> None:
    """Would catch an int that is quietly taken for True."""
    with pytest.raises(TypeError, match="packed must be True or False, got 2"):
        fd.bernoulli(10, 0.5, packed=2)  # type: ignore[call-overload]


def test_the_fraction_of_true_bits_is_p() -> None:
    """Two million bits at three p, 5 sigma: false-alarm rate 3 x 6e-7 for choosing the seed."""
    for p in (0.001, 0.3, 0.9):
        count = np.count_nonzero(fd.bernoulli(2_000_000, p, 11))
        assert abs(count - 2e6 * p) < 5 * np.sqrt(2e6 * p * (1 - p))
