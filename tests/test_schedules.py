"""p as a function of the step, and what sets it in layers."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop.schedules import Constant, Curriculum, Early, Late, Linear
from support import KEY, as_key, assert_same

pytestmark = pytest.mark.once

SCHEDULES = [
    Constant(0.3),
    Linear(0.1, 0.7, 13),
    Linear(0.7, 0.1, 13),
    Early(0.4, 5),
    Early(0.4, 5, falling=True),
    Late(0.4, 5),
    Curriculum(0.5, 0.1),
]


# --- Schedules -----------------------------------------------------------------------------------


def test_a_constant_does_not_move() -> None:
    assert {Constant(0.3)(step) for step in (0, 1, 10**9)} == {0.3}


@pytest.mark.parametrize(("start", "stop"), [(0.0, 0.5), (0.5, 0.0), (0.1, 0.7), (1.0, 0.0)])
def test_a_line_meets_its_ends_and_its_middle(start: float, stop: float) -> None:
    schedule = Linear(start, stop, 10)
    assert schedule(0) == start
    assert schedule(5) == pytest.approx((start + stop) / 2)
    assert schedule(9) == pytest.approx(start + (stop - start) * 0.9)
    assert schedule(10) == schedule(11) == schedule(10**9) == stop
    assert Linear(start, stop, 0)(0) == stop


def test_early_dropout_ends_after_its_steps() -> None:
    schedule = Early(0.4, 5)
    assert [schedule(step) for step in range(7)] == [0.4] * 5 + [0.0] * 2
    falling = Early(0.4, 4, falling=True)
    assert [falling(step) for step in range(6)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert falling(4) == 0.0
    assert Early(0.4, 0)(0) == Early(0.4, 0, falling=True)(0) == 0.0


def test_late_dropout_starts_after_its_steps() -> None:
    schedule = Late(0.4, 5)
    assert [schedule(step) for step in range(7)] == [0.0] * 5 + [0.4] * 2
    assert Late(0.4, 0)(0) == 0.4


def test_the_curriculum_is_that_of_the_paper() -> None:
    """The paper's keep(t) = (1 - k) exp(-g t) + k, with k the final probability to keep."""
    schedule = Curriculum(0.3, 0.01)
    for step in (0, 1, 10, 100, 1000):
        keep = (1 - 0.7) * math.exp(-0.01 * step) + 0.7
        assert schedule(step) == pytest.approx(1 - keep, abs=1e-15)
    assert schedule(0) == 0.0
    assert schedule(10**9) == schedule(10**400) == 0.3


def test_the_curriculum_is_exact_where_it_starts() -> None:
    """1 - exp(-g t) loses nine digits here."""
    expected = 0.5e-9 * (1 - 0.5e-9)
    assert Curriculum(0.5, 1e-9)(1) == pytest.approx(expected, rel=1e-15, abs=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_p_is_monotonic_within_the_unit_interval(schedule: Callable[[int], float]) -> None:
    drawn = [schedule(step) for step in range(200)]
    assert all(0.0 <= p <= 1.0 for p in drawn)
    assert drawn in (sorted(drawn), sorted(drawn, reverse=True))


def test_rounding_keeps_a_line_between_0_and_1() -> None:
    tiny, almost = 5e-324, 1.0 - 2.0**-53
    some = [0.0, tiny, *np.random.default_rng(0).random(50), 0.1, 0.3, almost, 1.0]
    for end in (0.0, tiny, almost, 1.0):
        for other in some:
            for step in (0, 1, 2, 2**60 - 1):
                assert 0.0 <= Linear(end, other, 2**60)(step) <= 1.0
                assert 0.0 <= Linear(other, end, 2**60)(step) <= 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_is_an_immutable_value(schedule: Any) -> None:
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert [twin(step) for step in range(20)] == [schedule(step) for step in range(20)]
    assert eval(repr(schedule)) == schedule
    with pytest.raises(AttributeError):
        schedule.p = 0.5


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Constant(1.5), ValueError, r"^p must be a number in \[0, 1\], got 1.5$"),
        (lambda: Constant("0.5"), TypeError, "^p must be"),
        (lambda: Linear(-0.1, 0.5, 3), ValueError, r"^start must be .* got -0.1$"),
        (lambda: Linear(0.1, math.nan, 3), ValueError, r"^stop must be .* got nan$"),
        (lambda: Linear(0.1, 0.2, -1), ValueError, "^steps must be an int of at least 0, got -1$"),
        (lambda: Linear(0.1, 0.2, 1.5), TypeError, "^steps must be"),
        (lambda: Early(2.0, 3), ValueError, "^p must be"),
        (lambda: Early(0.5, -3), ValueError, "^steps must be"),
        (lambda: Early(0.5, 3, falling=1), TypeError, "^falling must be"),
        (lambda: Late(2.0, 3), ValueError, "^p must be"),
        (lambda: Late(0.5, "3"), TypeError, "^steps must be"),
        (lambda: Curriculum(2.0, 1.0), ValueError, "^p must be"),
        (lambda: Curriculum(0.5, 0.0), ValueError, "^gamma must be a finite number above 0, got 0"),
        (lambda: Curriculum(0.5, math.inf), ValueError, "^gamma must be"),
        (lambda: Curriculum(0.5, math.nan), ValueError, "^gamma must be"),
        (lambda: Curriculum(0.5, "1"), TypeError, "^gamma must be"),
        (lambda: Curriculum(0.5, 10**400), ValueError, "^gamma must .* an int of 1329 bits$"),
        (lambda: Curriculum(0.5, np.ones(2)), TypeError, "^gamma must be a finite number above 0"),
        (lambda: Curriculum(0.5, True), TypeError, "^gamma must be a finite number above 0"),
        (lambda: Constant(10**5000), ValueError, "^p must be a number in .*, got an int of"),
        (lambda: Linear(0.1, 0.2, -(10**5000)), ValueError, "^steps must be .*, got an int of"),
        (lambda: Constant(0.5)(-1), ValueError, "^step must be an int of at least 0, got -1$"),
        (lambda: Constant(0.5)(1.0), TypeError, "^step must be"),
    ],
)  # fmt: skip
def test_bad_schedules_are_refused_when_made(
    make: Callable[[], object], error: type[Exception], match: str
) -> None:
    """Would catch one that is noticed only at step 1000."""
    with pytest.raises(error, match=match):
        make()


# --- What sets p ---------------------------------------------------------------------------------


def test_each_step_sets_p_in_every_layer() -> None:
    layers = [fd.Dropout(0.9), fd.DropPath(0.9), fd.WeightDrop(0.9)]
    driver = fd.PSchedule(layers, Linear(0.0, 0.5, 5))
    assert [layer.p for layer in layers] == [0.9] * 3  # not touched before the first step
    for count in range(8):
        assert driver.steps == count
        p = driver.step()
        assert p == Linear(0.0, 0.5, 5)(count)
        assert [layer.p for layer in layers] == [p] * 3
    assert driver.layers == tuple(layers)


def test_a_call_uses_the_p_of_the_step_before_it() -> None:
    x = np.ones(1000)
    drop = fd.Dropout(0.9, rng=as_key(KEY))
    driver = fd.PSchedule(drop, Linear(0.1, 0.5, 4))
    for call in range(4):
        p = driver.step()
        assert_same(drop(x), ref.dropout(x, p, ref.fold_in(KEY, call)))


def test_each_layer_gets_its_own_factor() -> None:
    paths = [fd.DropPath() for _ in range(3)]
    driver = fd.PSchedule(paths, Late(0.2, 1), factors=fd.drop_path_rates(1.0, 3))
    assert [driver.step(), *(path.p for path in paths)] == [0.0, 0.0, 0.0, 0.0]
    assert [driver.step(), *(path.p for path in paths)] == [0.2, 0.0, 0.1, 0.2]


def test_any_function_is_accepted_but_its_values_are_checked() -> None:
    """Would catch a bad value that reaches some layers, or counts as a step."""
    drop, other = fd.Dropout(0.5), fd.Dropout(0.6)
    driver = fd.PSchedule([drop, other], lambda step: 0.1 + step)
    driver.step()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"schedule\(step\) must be .* got 1.1"):
            driver.step()
        assert (drop.p, other.p, driver.steps) == (0.1, 0.1, 1)


def test_a_saved_schedule_resumes_where_it_was() -> None:
    drop, driver = (made := fd.Dropout()), fd.PSchedule(made, Linear(0.0, 0.5, 5))
    for _ in range(3):
        driver.step()
    state = driver.state_dict()
    assert state == {"steps": 3}
    later = fd.Dropout(0.9)
    resumed = fd.PSchedule(later, Linear(0.0, 0.5, 5))
    resumed.load_state_dict(state)
    assert later.p == drop.p == Linear(0.0, 0.5, 5)(2)  # of the last step done
    assert resumed.step() == driver.step()
    assert later.p == drop.p
    fresh = fd.Dropout(0.9)
    fd.PSchedule(fresh, Constant(0.1)).load_state_dict({"steps": 0})
    assert fresh.p == 0.9


def test_factors_may_come_from_an_iterator() -> None:
    assert fd.PSchedule(fd.Dropout(), Constant(0.1), factors=iter([0.5])).factors == (0.5,)


def test_a_pickled_schedule_drives_copies_of_its_layers() -> None:
    driver = fd.PSchedule(fd.Dropout(), Late(0.2, 1))
    driver.step()
    twin = pickle.loads(pickle.dumps(driver))
    assert twin.step() == driver.step() == 0.2
    assert twin.layers[0].p == 0.2
    assert twin.layers[0] is not driver.layers[0]


@pytest.mark.parametrize(
    ("state", "error"),
    [(None, TypeError), ({}, ValueError), ({"steps": 1, "p": 0.5}, ValueError),
     ({"steps": -1}, ValueError), ({"steps": 1.5}, TypeError)],
    ids=str,
)  # fmt: skip
def test_a_bad_state_is_refused(state: Any, error: type[Exception]) -> None:
    drop = fd.Dropout(0.9)
    driver = fd.PSchedule(drop, Linear(0.0, 0.5, 5))
    with pytest.raises(error, match="must"):
        driver.load_state_dict(state)
    assert (drop.p, driver.steps) == (0.9, 0)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: fd.PSchedule([], Constant(0.1)), ValueError, "at least one layer"),
        (lambda: fd.PSchedule(3, Constant(0.1)), TypeError, "layers must be .* got 3"),
        (lambda: fd.PSchedule([np.tanh], Constant(0.1)), TypeError, "layers must be layers"),
        (lambda: fd.PSchedule([made := fd.Dropout(), made], Constant(0.1)), ValueError, "twice"),
        (lambda: fd.PSchedule(fd.Dropout(), 0.5), TypeError, "schedule must be a function"),
        (lambda: fd.PSchedule(fd.Dropout(), lambda step: 2.0), ValueError, r"schedule\(step"),
        (lambda: fd.PSchedule(fd.Dropout(), Constant(0.1), factors=[]), ValueError, "factors must"),
        (lambda: fd.PSchedule(fd.Dropout(), Constant(0.1), factors=[2]), ValueError, "factors m"),
        (lambda: fd.PSchedule(fd.Dropout(), Constant(0.1), factors=3), TypeError,
         "factors must be a sequence of numbers, got 3"),
        (lambda: fd.PSchedule(fd.Dropout(), Constant(0.1), factors=iter([0.5, 1.0])), ValueError,
         "factors must have length 1, one per layer, got 2"),
    ],
)  # fmt: skip
def test_a_bad_driver_is_refused_when_made(
    make: Callable[[], object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()
