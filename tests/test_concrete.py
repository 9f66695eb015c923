"""Concrete dropout: the relaxed mask, its gradients, and the term p is learned against."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop._family import concrete
from numpy.typing import NDArray
from support import DTYPES, KEY, SWAPPABLE, as_key, assert_same, values

pytestmark = pytest.mark.once

SHAPE = (3, 40, 7)
LOGITS = [-30.0, -3.0, -0.5, 0.0, 1.0, 4.0, 30.0]


def uniforms(shape: tuple[int, ...], key: ref.Key = KEY) -> NDArray[np.float64]:
    """u of the formula; 53 bits of it, which only its ends would notice."""
    numbers = ref.uniforms(key, np.arange(math.prod(shape))).reshape(shape)
    return 1.0 - (numbers.astype(np.float64) + 0.5) / 2.0**64


def factors(shape: tuple[int, ...], logit: float, t: float, key: ref.Key = KEY) -> Any:
    """(1 - z) / (1 - p) and the derivative by the logit, as written."""
    p, u = 1 / (1 + np.exp(-logit)), uniforms(shape, key)
    with np.errstate(over="ignore"):
        z = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + np.log(u / (1 - u))) / t))
    factor = (1 - z) / (1 - p)
    # d(1 - z) = -z (1 - z) / t, d(1 / (1 - p)) = p / (1 - p)
    return factor, -z * (1 - z) / t / (1 - p) + factor * p


# --- The function -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_the_mask_follows_the_formula(level: str, logit: float, t: float) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE)
    y = fd.concrete_dropout(x, logit, temperature=t, rng=as_key(KEY))
    expected = x * factors(SHAPE, logit, t)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-8, atol=1e-11)


def test_a_cold_mask_drops_what_dropout_drops() -> None:
    """Would catch an inverted mask, and a temperature that is ignored."""
    mask = fd.ConcreteMask((5000,), 1.0, 1e-3, as_key(KEY))
    hard = fd.Mask((5000,), mask.p, as_key(KEY)).to_numpy()
    np.testing.assert_array_equal(mask.to_numpy() > 0.5, hard)
    assert ((mask.to_numpy() < 0.01) | (mask.to_numpy() > 0.99)).mean() > 0.98


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are_rounded_once_and_dropped_nan_is_zero(dtype: np.dtype[Any]) -> None:
    x, dy = values(SHAPE, dtype, seed=1), values(SHAPE, dtype, seed=2)
    mask = fd.ConcreteMask(SHAPE, 0.5, 0.02, as_key(KEY))
    factor = mask.factors()[0]
    precision = np.float64 if x.real.dtype == np.float64 else np.float32
    expected = []
    for array in (x, dy):
        y = np.zeros(SHAPE, dtype)
        with np.errstate(all="ignore"):
            if dtype.kind == "c":
                y.real, y.imag = (
                    np.where(factor.astype(precision) == 0, 0, part * factor.astype(precision))
                    for part in (array.real, array.imag)
                )
            else:
                product = array.astype(precision) * factor.astype(precision)
                y[...] = np.where(factor.astype(precision) == 0, 0, product).astype(dtype)
        expected.append(y)
    assert (factor == 0).any() or (factor.astype(precision) < 1e-20).any()
    assert_same(fd.concrete_dropout(x, 0.5, temperature=0.02, rng=as_key(KEY)), expected[0])
    dx, _ = fd.concrete_dropout_backward(dy, x, 0.5, temperature=0.02, rng=as_key(KEY))
    assert_same(dx, expected[1])


def test_a_dropped_nan_stays_out_of_the_gradient() -> None:
    """Where the factor is 0 in the precision of x, x is ignored."""
    for dtype in (np.float32, np.float64):
        factor = fd.ConcreteMask((400,), 0.5, 0.001, as_key(KEY)).factors()[0].astype(dtype)
        x = np.where(factor == 0, np.nan, 1.0).astype(dtype)
        clean = np.where(factor == 0, 0.0, 1.0).astype(dtype)
        assert np.isnan(x).any()
        for dirty, fine in ((x, clean), (-x, -clean)):
            keywords: Any = {"temperature": 0.001, "rng": as_key(KEY)}
            y = fd.concrete_dropout(dirty, 0.5, **keywords)
            assert_same(y, fd.concrete_dropout(fine, 0.5, **keywords) + dtype(0.0))
            _, dlogit = fd.concrete_dropout_backward(dirty, dirty, 0.5, **keywords)
            assert dlogit == fd.concrete_dropout_backward(fine, fine, 0.5, **keywords)[1]
            assert math.isfinite(dlogit)


def test_a_fraction_p_is_mostly_dropped() -> None:
    """False-alarm rate 3 x 6e-7. P(z > 1/2) = p whatever the temperature."""
    for p in (0.1, 0.5, 0.8):
        mask = fd.ConcreteMask((2**20,), math.log(p / (1 - p)), 0.1, fd.Key(5))
        dropped = np.count_nonzero(mask.to_numpy() < 0.5)
        assert abs(dropped - 2**20 * p) < 5 * np.sqrt(2**20 * p * (1 - p))


def test_layout_does_not_change_results() -> None:
    """Would catch a gradient of the logit that is summed in the order of memory."""
    rng = np.random.default_rng(0)  # of many sizes, so that the order of a sum is seen in it
    x = np.exp(2 * rng.standard_normal((40, 50, 60))).astype(np.float32)
    wide = np.zeros((40, 100, 60), np.float32)
    wide[:, ::2] = x
    assert x.dtype in SWAPPABLE
    swapped = x.astype(x.dtype.newbyteorder())
    for p in (0.1, 0.3, 0.5, 0.7):  # some orders give the same sum
        drop = fd.ConcreteDropout(p, rng=as_key(KEY)).hold()
        y, dx, slope = drop(x), drop.backward(x), drop.grad_logit
        for same in (np.asfortranarray(x), wide[:, ::2], x[::-1].copy()[::-1], swapped):
            np.testing.assert_array_equal(drop(same), y)
            np.testing.assert_array_equal(drop.backward(same), dx)
            assert drop.grad_logit == slope


# --- Gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.1, 1.0])
@pytest.mark.parametrize("logit", LOGITS)
def test_gradients_are_the_derivatives(logit: float, t: float) -> None:
    """Central differences in float64; y is linear in x, so those are exact for dx."""
    rng = np.random.default_rng(0)
    x, dy, direction = rng.standard_normal((3, *SHAPE))
    keywords: Any = {"temperature": t, "rng": as_key(KEY)}

    def loss(x: NDArray[Any], logit: float) -> float:
        return float(np.sum(dy * fd.concrete_dropout(x, logit, **keywords)))

    dx, dlogit = fd.concrete_dropout_backward(dy, x, logit, **keywords)
    slope = (loss(x + direction, logit) - loss(x - direction, logit)) / 2
    size = np.sum(np.abs(dy * direction * dx)) + 1e-300
    assert abs(slope - np.vdot(direction, dx)) < 1e-12 * max(size, abs(slope))
    h = 1e-4  # error h^2 times a third derivative, which is at most about t^-3
    numeric = (8 * (loss(x, logit + h) - loss(x, logit - h))
               - (loss(x, logit + 2 * h) - loss(x, logit - 2 * h))) / (12 * h)  # fmt: skip
    assert dlogit == pytest.approx(numeric, rel=1e-6, abs=1e-7)
    if abs(logit) < 10:
        expected = float(np.sum(dy * x * factors(SHAPE, logit, t)[1]))
        assert dlogit == pytest.approx(expected, rel=1e-8)


def test_complex_gradients_are_those_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 50, 2)).view(np.complex128)[..., 0]
    dx, dlogit = fd.concrete_dropout_backward(dy, x, 0.3, rng=as_key(KEY))
    parts = [fd.concrete_dropout_backward(g, v, 0.3, rng=as_key(KEY))
             for g, v in ((dy.real, x.real), (dy.imag, x.imag))]  # fmt: skip
    assert_same(dx, parts[0][0] + 1j * parts[1][0])
    assert dlogit == pytest.approx(parts[0][1] + parts[1][1], rel=1e-12)


@pytest.mark.parametrize("logit", [-math.inf, -1e308, -1e3, -50.0, 50.0, 1e3, 1e308, math.inf])
@pytest.mark.parametrize("t", [1e-300, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=str)
def test_extreme_logits_and_temperatures_give_no_nan(dtype: Any, t: float, logit: float) -> None:
    x = np.full(1000, 0.5, dtype)
    y = fd.concrete_dropout(x, logit, temperature=t, rng=as_key(KEY))
    dx, dlogit = fd.concrete_dropout_backward(x, x, logit, temperature=t, rng=as_key(KEY))
    assert_same(y, dx)
    assert not np.isnan(y).any()
    assert not math.isnan(dlogit)
    if logit in (-math.inf, -1e308):
        np.testing.assert_array_equal(y, x)
    if logit == math.inf or (logit == 1e308 and t < 1):  # for t = 1 the limit is (1 - u) / u
        assert_same(y, np.zeros_like(x))
    if abs(logit) > 1e3:
        assert dlogit == 0.0


def test_the_ends_of_the_uniforms_give_finite_factors() -> None:
    """U = 0 and U = 2^64 - 1, which no other test would meet."""
    ends = np.array([0, 2**64 - 1, 1, 2**64 - 2], np.uint64)
    bound = 65 * math.log(2)
    expected = [bound, -bound, bound - math.log(3), -bound + math.log(3)]
    np.testing.assert_allclose(concrete._argument(ends, 0.0, 1.0), expected, rtol=1e-15)
    for logit in (-800.0, 0.0, 44.0, 46.0, 800.0):
        for t in (0.1, 1.0):
            for part in concrete._factors(concrete._argument(ends, logit, t), logit, t):
                assert np.isfinite(part).all()


# --- The term of the loss -----------------------------------------------------------------------


def term(weight: NDArray[Any], logit: float, inputs: int, w: float, d: float) -> float:
    """As in the authors' program."""
    p = 1 / (1 + np.exp(-logit))
    kernel = w * np.sum(np.abs(weight) ** 2) / (1 - p)
    return float(kernel + d * inputs * (p * np.log(p) + (1 - p) * np.log(1 - p)))


@pytest.mark.parametrize("logit", [-6.0, -0.5, 0.0, 2.0])
def test_the_regularization_is_that_of_the_authors(logit: float) -> None:
    """Its gradients are compared with central differences."""
    weight = np.random.default_rng(0).standard_normal((5, 4, 3))
    value, dweight, dlogit = fd.concrete_regularization(
        weight, logit, 4, weight_regularizer=0.01, dropout_regularizer=0.1
    )
    assert value == pytest.approx(term(weight, logit, 4, 0.01, 0.1), rel=1e-12)
    h = 1e-5
    numeric = (term(weight, logit + h, 4, 0.01, 0.1) - term(weight, logit - h, 4, 0.01, 0.1)) / (
        2 * h
    )
    assert dlogit == pytest.approx(numeric, rel=1e-7, abs=1e-9)
    for place in ((0, 0, 0), (4, 3, 2)):
        step = np.zeros_like(weight)
        step[place] = h
        numeric = (term(weight + step, logit, 4, 0.01, 0.1)
                   - term(weight - step, logit, 4, 0.01, 0.1)) / (2 * h)  # fmt: skip
        assert dweight[place] == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("logit", [-math.inf, -1e308, -800.0, 60.0, 800.0, 1e308, math.inf])
def test_regularization_at_extreme_logits_has_no_nan(logit: float, dtype: np.dtype[Any]) -> None:
    weight = np.array([[0.0, 1.0, -2.0]]).astype(dtype)
    value, dweight, dlogit = fd.concrete_regularization(weight, logit, 3)
    assert dweight.dtype == dtype
    assert not math.isnan(value)
    assert not math.isnan(dlogit)
    assert not np.isnan(dweight.astype(np.complex128)).any()
    if logit < -100:
        assert value == pytest.approx(5e-6)
        assert dlogit == 0.0
    else:
        assert value > 1e19
        assert dlogit > 1e19


def test_regularization_takes_complex_weights_in_any_layout() -> None:
    rng = np.random.default_rng(0)
    weight = np.exp(4 * rng.standard_normal((30, 40)) + 1j * rng.standard_normal((30, 40)))
    value = fd.concrete_regularization(weight, 0.3, 40)[0]
    assert value == pytest.approx(term(weight, 0.3, 40, 1e-6, 1e-5), rel=1e-12)
    assert fd.concrete_regularization(np.asfortranarray(weight), 0.3, 40)[0] == value


# --- The layer ----------------------------------------------------------------------------------


def test_p_and_its_logit_follow_each_other() -> None:
    """Also where p is tiny, 0 or 1, and where the logit is more extreme than p can say."""
    drop = fd.ConcreteDropout(0.1, rng=0)
    assert drop.logit == pytest.approx(math.log(0.1 / 0.9))
    drop.logit = 2.0
    assert drop.p == pytest.approx(1 / (1 + math.exp(-2.0)))
    drop.p = 1e-300
    assert drop.logit == pytest.approx(math.log(1e-300))
    for p, logit in ((0.0, -math.inf), (1.0, math.inf)):
        drop.p = p
        assert drop.logit == logit
        drop.logit = logit
        assert drop.p == p
    drop.logit = -800.0
    assert drop.p == 0.0
    assert drop.logit == -800.0


def test_call_i_and_its_backward_use_child_key_i() -> None:
    """Would catch a backward that takes the logit after the step of training, not before."""
    x, dy = values(SHAPE, np.float32, seed=1), values(SHAPE, np.float32, seed=2)
    drop = fd.ConcreteDropout(0.3, 0.2, rng=as_key(KEY))
    for call in range(3):
        key, logit = as_key(KEY).fold_in(call), drop.logit
        assert_same(drop(x), fd.concrete_dropout(x, logit, temperature=0.2, rng=key))
        drop.logit += 1.0  # as training does, after backward
        dx, dlogit = fd.concrete_dropout_backward(dy, x, logit, temperature=0.2, rng=key)
        assert_same(drop.backward(dy), dx)
        np.testing.assert_equal(drop.grad_logit, dlogit)
    assert drop.calls == 3
    assert drop.mask.logit == logit


def test_p_zero_and_evaluation_return_x_and_p_one_zeros() -> None:
    """Would catch a draw from the generator, or a gradient of the logit where it is 0."""
    x, rng = values(SHAPE, np.float32), np.random.default_rng(0)
    assert fd.concrete_dropout(x, -math.inf, rng=rng) is x
    assert fd.concrete_dropout(x, 0.0, training=False, rng=rng) is x
    assert rng.random() == np.random.default_rng(0).random()
    out = np.empty_like(x)
    for logit, training in ((-math.inf, True), (0.0, False)):
        out[...] = 7
        assert fd.concrete_dropout(x, logit, training=training, out=out) is out
        assert_same(out, x)
    drop = fd.ConcreteDropout(0.0, rng=0)
    assert drop(x) is x
    assert drop.backward(x) is x or (drop.backward(x) == x)[~np.isnan(x)].all()
    assert drop.grad_logit == 0.0
    assert drop.calls == 1
    drop.p = 1.0
    assert_same(drop(x), np.zeros_like(x))
    assert_same(drop.backward(x), np.zeros_like(x))
    assert drop.grad_logit == 0.0
    drop.p = 0.5
    drop(x)
    assert drop.eval()(x) is x
    assert drop.backward(x) is x
    assert drop.grad_logit == 0.0
    assert drop.mask is None
    assert drop.calls == 3


def test_saved_and_copied_layers_resume_where_they_were() -> None:
    """Would catch a logit rebuilt from p, and a bad state that is loaded in part."""
    x = np.random.default_rng(0).standard_normal(SHAPE)
    drop = fd.ConcreteDropout(0.3, rng=as_key(KEY))
    drop(x)
    drop.logit = 50.0  # p rounds to 1
    state, twin = drop.state_dict(), pickle.loads(pickle.dumps(drop))
    assert state == {**fd.Dropout(1.0, rng=as_key(KEY)).state_dict(), "calls": 1, "logit": 50.0}
    expected = drop(x)
    assert_same(twin(x), expected)
    other = fd.ConcreteDropout(rng=9)
    other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="forward"):
        other.backward(x)
    assert_same(other(x), expected)
    assert other.state_dict() == drop.state_dict()
    for bad in ({**state, "logit": math.nan}, {**state, "p": 2}, {**state, "logit": "1"},
                {key: value for key, value in state.items() if key != "logit"}, None):  # fmt: skip
        before = other.state_dict()
        with pytest.raises((TypeError, ValueError)):
            other.load_state_dict(bad)  # type: ignore[arg-type]
        assert other.state_dict() == before
    assert repr(fd.ConcreteDropout(0.1)) == "ConcreteDropout(p=0.1)"
    assert repr(fd.ConcreteDropout(0.1, 0.5)) == "ConcreteDropout(p=0.1, temperature=0.5)"


def test_the_error_names_what_a_state_lacks() -> None:
    drop = fd.ConcreteDropout(rng=0)
    state = drop.state_dict()
    with pytest.raises(TypeError, match="state must be a mapping, got int"):
        drop.load_state_dict(3)  # type: ignore[arg-type]
    for name in state:
        less = {key: value for key, value in state.items() if key != name}
        with pytest.raises(ValueError, match=f"state must have the entry {name}, got "):
            drop.load_state_dict(less)
    assert drop.state_dict() == state


def test_a_saved_p_is_restored_to_the_last_bit() -> None:
    """Would catch a p that moves by its rounding through the logit."""
    drop = fd.ConcreteDropout(rng=0)
    for p in (0.03, 0.1, 0.7, 1 - 2**-53, 1e-300, 5e-324, 0.0, 1.0, *np.linspace(0.0, 1.0, 301)):
        saved = fd.ConcreteDropout(float(p), rng=as_key(KEY)).state_dict()
        drop.load_state_dict(saved)
        assert drop.p == p
        assert drop.state_dict() == saved
    drop.load_state_dict({**saved, "p": 0.2, "logit": 0.0})  # the logit decides
    assert (drop.p, drop.logit) == (0.5, 0.0)


def test_the_layer_learns_p() -> None:
    """Small weights raise p to 1/2, large ones lower it to 0."""
    small, large = np.full((4, 30), 1e-3), np.full((4, 30), 3.0)
    for weight, goal in ((small, 0.5), (large, 0.0)):
        drop = fd.ConcreteDropout(0.2, weight_regularizer=0.01, dropout_regularizer=0.1, rng=0)
        for _ in range(300):
            drop.logit -= 0.1 * drop.regularization(weight)[2]
        assert drop.p == pytest.approx(goal, abs=0.05)
    value = drop.regularization(weight)[0]
    expected = fd.concrete_regularization(
        weight, drop.logit, 30, weight_regularizer=0.01, dropout_regularizer=0.1
    )
    assert value == expected[0]
    assert drop.regularization(weight, 7)[0] > value  # less entropy


@pytest.mark.parametrize("logit", [-800.0, -30.0, 0.0, 30.0, 800.0])
def test_underflow_is_silent(logit: float) -> None:
    """Would catch arithmetic under the caller's np.errstate(all="raise")."""
    x, weight, key = values(SHAPE, np.float16), np.full((2, 2), 1e-170), as_key(KEY)
    calls: list[Callable[[], Any]] = [
        lambda: fd.concrete_dropout(x, logit, temperature=0.01, rng=key),
        lambda: fd.concrete_dropout_backward(x, x, logit, temperature=0.01, rng=key),
        fd.ConcreteMask(SHAPE, logit, 0.01, key).to_numpy,
        lambda: fd.concrete_regularization(weight, logit, 2),
    ]
    for call in calls:
        expected = call()
        with np.errstate(all="raise"):
            np.testing.assert_equal(call(), expected)


def test_large_weights_overflow_without_a_warning() -> None:
    value, dweight, dlogit = fd.concrete_regularization(np.full((2, 2), 1e200), 0.0, 2)
    assert (value, dlogit) == (math.inf, math.inf)
    np.testing.assert_allclose(dweight, np.full((2, 2), 4e194))


@pytest.mark.parametrize("temperature", [0.0, -0.1, 1.5, math.nan, "0.1", None, 1e-310])
def test_bad_temperatures_are_refused(temperature: Any) -> None:
    for take in (
        lambda: fd.concrete_dropout(np.ones(3), 0.0, temperature=temperature),
        lambda: fd.ConcreteDropout(0.5, temperature),
        lambda: fd.ConcreteMask((3,), 0.0, temperature, fd.Key(0)),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=r"^temperature must be a number in \(0, 1\], got"
        ):
            take()


def test_bad_arguments_are_refused() -> None:
    """Would catch a check that comes after out is written."""
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"logit must be a number in \[-inf, inf\], got nan"):
        fd.concrete_dropout(x, math.nan, out=x)
    with pytest.raises(TypeError, match="logit must be a number"):
        fd.concrete_dropout(x, "0", out=x)  # type: ignore[arg-type]
    for huge in (10**400, -(10**5000)):
        with pytest.raises(
            ValueError, match=r"logit must be a number in .*, got an int of [0-9]+ b"
        ):
            fd.concrete_dropout(x, huge, out=x)
    with pytest.raises(ValueError, match=r"inputs must be a number in .*, got an int of 1329 bits"):
        fd.concrete_regularization(x, 0.0, 10**400)
    for none in (np.ones(2), True, 1j, np.complex128(1), np.str_("1"), None):
        with pytest.raises(TypeError, match=r"logit must be a number in .*, got"):
            fd.concrete_dropout(x, none, out=x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="training must be"):
        fd.concrete_dropout(x, 0.0, training=1, out=x)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match="out"):
        fd.concrete_dropout(x, 0.0, out=np.ones(4))
    with pytest.raises(ValueError, match="dy must have the shape of x"):
        fd.concrete_dropout_backward(np.ones(4), x, 0.0, rng=fd.Key(0))
    with pytest.raises(TypeError, match="rng must be the Key"):
        fd.concrete_dropout_backward(x, x, 0.0, rng=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a Key"):
        fd.ConcreteMask((3,), 0.0, 0.1, 3)  # type: ignore[arg-type]
    for shape in ((-1,), (2, -3)):
        with pytest.raises(ValueError, match="shape must be an int of at least 0, got -"):
            fd.ConcreteMask(shape, 0.0, 0.1, fd.Key(0))
    for shape in ("3", None, (1.5,)):
        with pytest.raises(TypeError, match="shape must be an int"):
            fd.ConcreteMask(shape, 0.0, 0.1, fd.Key(0))  # type: ignore[arg-type]
    for name in ("weight_regularizer", "dropout_regularizer"):
        for bad in (-1.0, math.nan, "1"):
            with pytest.raises((TypeError, ValueError), match=f"{name} must be a number"):
                fd.ConcreteDropout(0.5, **{name: bad})  # type: ignore[arg-type]
            with pytest.raises((TypeError, ValueError), match=f"{name} must be a number"):
                fd.concrete_regularization(x, 0.0, 3, **{name: bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must have the axes"):
        fd.ConcreteDropout().regularization(x)
    assert (x == 1).all()


def test_backward_of_a_shared_mask_shares_it_too() -> None:
    """Would catch a gradient whose mask is drawn for each row."""
    layer = fd.ConcreteDropout(0.3, rng=as_key(KEY))
    gradients = []

    def model(x: Any) -> Any:
        y = layer(x)
        gradients.append(layer.backward(np.ones_like(x)))
        return y

    mc = fd.MonteCarlo(model, [layer], rng=1, shared=True)
    x = np.random.default_rng(0).standard_normal((5, 40)) + 2.0
    y = mc.sample(x, 0)
    np.testing.assert_allclose(gradients[-1] * x, y, rtol=1e-12)
