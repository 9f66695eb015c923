"""Statistics of Monte Carlo samples: against their formulas, at the edges, and of a known model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from fastdrop.monte_carlo import mean, mutual_information, predictive_entropy, variance
from numpy.typing import NDArray
from support import BFLOAT16, DTYPES, assert_same

pytestmark = pytest.mark.once


def softmax(shape: tuple[int, ...], sharpness: float, seed: int = 0) -> NDArray[np.float64]:
    logits = sharpness * np.random.default_rng(seed).standard_normal(shape)
    each = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(each / each.sum(axis=-1, keepdims=True))


def entropy(p: NDArray[np.float64]) -> float:
    return -sum(float(x) * float(np.log(x)) for x in p if x > 0)


# --- Mean and variance ---------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1, 3])
def test_mean_and_variance_follow_their_formulas(ddof: int) -> None:
    """Would catch another axis or another divisor."""
    samples = np.random.default_rng(0).standard_normal((7, 3, 5))
    np.testing.assert_allclose(mean(samples), sum(samples) / 7, rtol=1e-14)
    off = samples - mean(samples)
    np.testing.assert_allclose(variance(samples, ddof), sum(off * off) / (7 - ddof), rtol=1e-13)
    assert_same(variance(samples), variance(samples, ddof=0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_taken_in_double_precision(dtype: np.dtype[Any]) -> None:
    """4096 + 1 is 4096 in bfloat16, and 65536 is infinite in float16."""
    samples = np.full((4097, 2), 64, dtype=dtype)
    samples[-1] = 1
    exact = (64 * 4096 + 1) / 4097
    assert mean(samples).dtype == (np.complex128 if dtype.kind == "c" else np.float64)
    np.testing.assert_allclose(mean(samples), exact, rtol=1e-15)
    expected = (4096 * (64 - exact) ** 2 + (1 - exact) ** 2) / 4097
    np.testing.assert_allclose(variance(samples), expected, rtol=1e-12)
    assert variance(samples).dtype == np.float64


def test_results_without_axes_are_still_arrays() -> None:
    assert_same(mean([1, 2, 6]), np.array(3.0))
    assert_same(variance([True, False]), np.array(0.25))
    np.testing.assert_allclose(variance(np.array([1 + 1j, 1 - 1j])), 1.0)
    assert_same(mean(np.ones((2, 0))), np.zeros(0))


# --- Doubt about classes -------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 10.0, 1000.0])
def test_entropies_follow_their_formulas(sharpness: float) -> None:
    each = softmax((6, 4, 5), sharpness)
    total, shared = predictive_entropy(each), mutual_information(each)
    assert total.shape == shared.shape == (4,)
    for i in range(4):
        expected = entropy(each[:, i].mean(axis=0))
        within = np.mean([entropy(one) for one in each[:, i]])
        assert total[i] == pytest.approx(expected, rel=1e-13)
        assert shared[i] == pytest.approx(expected - within, abs=1e-14)


def test_certain_classes_give_neither_nan_nor_a_warning() -> None:
    """0 log 0 = 0: samples that are sure, and agree or not."""
    agree = np.tile([1.0, 0.0, 0.0], (4, 2, 1))
    assert_same(predictive_entropy(agree), np.zeros(2))
    assert_same(mutual_information(agree), np.zeros(2))
    disagree = np.eye(3)[:, np.newaxis]
    np.testing.assert_allclose(predictive_entropy(disagree), np.log(3), rtol=1e-15)
    np.testing.assert_allclose(mutual_information(disagree), np.log(3), rtol=1e-15)
    tiny = np.array([[5e-324, 1.0], [0.0, 1.0]])
    assert_same(predictive_entropy(tiny), np.array(0.0))
    assert predictive_entropy(np.ones((3, 2, 1))).tolist() == [0.0, 0.0]


def test_the_entropy_is_in_nats() -> None:
    np.testing.assert_allclose(predictive_entropy(np.full((5, 2, 8), 1 / 8)), np.log(8), rtol=1e-14)


def test_rounding_does_not_make_mutual_information_negative() -> None:
    """Equal samples: the mean of three is rounded, and the difference of entropies with it."""
    one = softmax((1, 5000, 10), 2.0)
    for n in (1, 3, 7):
        found = mutual_information(np.repeat(one, n, axis=0))
        assert found.min() == 0.0
        assert found.max() < 1e-14
        assert not np.signbit(found).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16], ids=str)
def test_probabilities_of_low_precision_are_accepted(dtype: Any) -> None:
    each = softmax((6, 4, 1000), 2.0).astype(dtype)
    exact = each.astype(np.float64)
    assert_same(predictive_entropy(each), predictive_entropy(exact))
    assert_same(mutual_information(each), mutual_information(exact))


# --- What they refuse ----------------------------------------------------------------------------


def test_infinite_and_tiny_samples_do_not_warn() -> None:
    for summary in (mean, variance):
        for samples in ([np.inf, -np.inf], [np.inf, np.inf], [1e308, 1e308, -1e308], [np.nan, 1.0]):
            with np.errstate(all="ignore"):
                expected = summary(samples)
            with np.errstate(all="raise"):
                assert_same(summary(samples), expected)
    assert np.isnan(variance([np.inf, -np.inf]))
    p = np.array([[1e-310, 1.0], [0.0, 1.0]])
    for doubt in (predictive_entropy, mutual_information):
        expected = doubt(p)
        with np.errstate(all="raise"):
            assert_same(doubt(p), expected)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: mean(np.ones((0, 3))), ValueError, "samples must be at least one along axis 0"),
        (lambda: mean(1.0), ValueError, r"samples must be at least one along axis 0, got .* \(\)"),
        (lambda: mean(["a", "b"]), TypeError, "samples must be an array of numbers, got list"),
        (lambda: mean(np.ma.ones((2, 3))), TypeError, "samples must be a plain array"),
        (lambda: variance(np.ones((0, 3))), ValueError, "samples must be"),
        (lambda: variance(np.ones((2, 3)), 2), ValueError, "ddof must be less than the 2 samples"),
        (lambda: variance(np.ones((2, 3)), -1), ValueError, "ddof must be"),
        (lambda: variance(np.ones((2, 3)), 0.5), TypeError, "ddof must be"),
    ],
)  # fmt: skip
def test_bad_samples_are_refused(
    make: Callable[[], Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("function", [predictive_entropy, mutual_information])
@pytest.mark.parametrize(
    ("probabilities", "error", "match"),
    [
        (np.array([0.5, 0.5]), ValueError, r"must be of shape \(n, ..., classes\), got \(2,\)"),
        (np.ones((0, 2, 1)), ValueError, "must be of shape"),
        (np.ones((3, 2, 0)), ValueError, "must be of shape"),
        (np.array([[0.5, 0.4]]), ValueError, "must sum to 1 over the last axis"),
        (np.array([[1.5, -0.5]]), ValueError, r"must be in \[0, 1\], got -0.5 to 1.5"),
        (np.array([[np.nan, 1.0]]), ValueError, r"must be in \[0, 1\], got nan"),
        (np.array([[1j, 1.0]]), TypeError, "must be real numbers, got dtype complex128"),
        (np.array([["a", "b"]]), TypeError, "must be real numbers"),
    ],
)  # fmt: skip
def test_bad_probabilities_are_refused(
    function: Any, probabilities: NDArray[Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match="probabilities " + match):
        function(probabilities)
    assert function(np.ones((3, 0, 2))).shape == (0,)


# --- A model whose answer is known ---------------------------------------------------------------


def test_samples_of_a_linear_model_have_known_mean_and_variance() -> None:
    """y = sum of w x m / (1 - p): mean w x, variance p / (1 - p) sum (w x)^2.

    Ten outputs of 300 inputs each, near enough normal, and 4000 samples: 5 sigma on each mean and
    each variance, a false-alarm rate of 20 x 6e-7 for choosing the seed.
    """
    n, p = 4000, 0.3
    *x, w = np.random.default_rng(0).standard_normal((11, 300))
    drop = fd.Dropout(p).eval()
    samples = fd.MonteCarlo(lambda x: drop(x) @ w, drop, rng=1).batch(x, n)
    expected = p / (1 - p) * np.square(w * x).sum(axis=1)
    off = mean(samples) - x @ w
    assert (np.abs(off) < 5 * np.sqrt(expected / n)).all()
    found = variance(samples, ddof=1)
    assert (np.abs(found / expected - 1) < 5 * np.sqrt(2 / n)).all()
