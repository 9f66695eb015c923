"""Schedules: p as a function of the training step.

A schedule is a small immutable object; a call with the number of a step, counted from 0, returns
the p of this step. Schedules keep no count: `PSchedule` counts steps and sets p in layers.

>>> schedule = fd.schedules.Linear(0.0, 0.5, steps=1000)
>>> [schedule(step) for step in (0, 500, 1000, 2000)]
[0.0, 0.25, 0.5, 0.5]
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastdrop._base.arguments import (
    MOST_ARRAYS,
    as_count,
    as_flag,
    as_positive,
    explained,
    probability,
    shown,
)
from fastdrop._base.layers import Layer, as_layers
from fastdrop._base.states import Checked, split_state

__all__ = ["Constant", "Curriculum", "Early", "Late", "Linear", "Schedule"]


class Schedule:
    """Base class of the schedules: a call with the number of a step returns its p.

    Any function from int to float can replace a schedule. Schedules check their arguments, and can
    be compared, hashed and pickled.
    """

    def __call__(self, step: int) -> float:
        """Return p, the probability to DROP, at a step, counted from 0."""
        return self._at(as_count(step, "step"))

    def _at(self, step: int) -> float:
        raise NotImplementedError

    def _set(self, **fields: float) -> None:
        """Replace fields by their checked values."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Constant(Checked, Schedule):
    """One p, the probability to DROP, at every step.

    >>> fd.schedules.Constant(0.5)(1000)
    0.5
    """

    p: float

    def __post_init__(self) -> None:
        self._set(p=probability(self.p, "p"))

    def _at(self, step: int) -> float:
        return self.p


@dataclass(frozen=True)
class Linear(Checked, Schedule):
    r"""A line from one p to another; constant afterwards.

    .. math:: p(t) = p_0 + (p_1 - p_0) \min(t / n, 1)

    with :math:`p_0` = `start`, :math:`p_1` = `stop` and n = `steps`. With 0 steps, p is always
    `stop`. Ghiasi et al., NeurIPS 2018, section 3, train DropBlock with a p that rises from 0.

    >>> schedule = fd.schedules.Linear(0.5, 0.0, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        self._set(
            start=probability(self.start, "start"),
            stop=probability(self.stop, "stop"),
            steps=as_count(self.steps, "steps"),
        )

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return self.stop
        return self.start + (self.stop - self.start) * (step / self.steps)


@dataclass(frozen=True)
class Early(Checked, Schedule):
    r"""Early dropout: p for the first `steps` steps, then 0; for models that underfit.

    .. math:: p(t) = p \, [t < n] \quad \text{or, if falling,} \quad p(t) = p \max(1 - t / n, 0)

    with n = `steps`. See Liu et al., "Dropout reduces underfitting", ICML 2023. (In their program a
    falling p reaches 0 one step earlier, at the last of the n steps.)

    >>> schedule = fd.schedules.Early(0.1, steps=2)
    >>> [schedule(step) for step in range(4)]
    [0.1, 0.1, 0.0, 0.0]
    """

    p: float
    steps: int
    falling: bool = False

    def __post_init__(self) -> None:
        as_flag(self.falling, "falling")
        self._set(p=probability(self.p, "p"), steps=as_count(self.steps, "steps"))

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return 0.0
        return self.p * ((self.steps - step) / self.steps) if self.falling else self.p


@dataclass(frozen=True)
class Late(Checked, Schedule):
    """Late dropout: 0 for the first `steps` steps, then p; for models that overfit.

    The counterpart of `Early`, from the same paper.

    >>> schedule = fd.schedules.Late(0.1, steps=2)
    >>> [schedule(step) for step in range(4)]
    [0.0, 0.0, 0.1, 0.1]
    """

    p: float
    steps: int

    def __post_init__(self) -> None:
        self._set(p=probability(self.p, "p"), steps=as_count(self.steps, "steps"))

    def _at(self, step: int) -> float:
        return self.p if step >= self.steps else 0.0


@dataclass(frozen=True)
class Curriculum(Checked, Schedule):
    r"""Curriculum dropout: from 0 towards p, fast at first.

    .. math:: p(t) = p \, (1 - e^{-\gamma t})

    `gamma` is above 0 and finite; the paper uses 10 / (number of all steps). See Morerio et al.,
    "Curriculum dropout", ICCV 2017. (They schedule the probability to keep,
    (1 - k) exp(-gamma t) + k with k = 1 - p.)

    >>> schedule = fd.schedules.Curriculum(0.5, gamma=10 / 1000)
    >>> [round(schedule(step), 3) for step in (0, 100, 200, 1000)]
    [0.0, 0.316, 0.432, 0.5]
    """

    p: float
    gamma: float

    def __post_init__(self) -> None:
        self._set(p=probability(self.p, "p"), gamma=as_positive(self.gamma, "gamma"))

    def _at(self, step: int) -> float:
        if step >= 2**1023:  # too large for a double
            return self.p
        return -self.p * math.expm1(-self.gamma * step)


class PSchedule:
    """Set p of layers at every training step.

    Call `step` before each training step, not after: the first call sets p for the first time. The
    attribute `steps` counts the calls.

    Parameters
    ----------
    layers : layer, or iterable of layers
        Layers to set p in.
    schedule : Schedule, or function of int to float
        The p of each step, counted from 0.
    factors : iterable of float, optional
        A factor in [0, 1] for each layer, 1.0 by default; it multiplies the schedule's p. With
        ``fd.drop_path_rates(1.0, depth)`` the last path follows the schedule, and the others follow
        it in proportion.

    Examples
    --------
    >>> drop, path = fd.Dropout(0.0), fd.DropPath(0.0)
    >>> driver = fd.PSchedule([drop, path], fd.schedules.Linear(0.0, 0.5, steps=2))
    >>> for batch in range(3):
    ...     p = driver.step()
    ...     print(p, drop.p, path.p)
    0.0 0.0 0.0
    0.25 0.25 0.25
    0.5 0.5 0.5
    """

    __module__ = "fastdrop"

    @explained
    def __init__(
        self,
        layers: Layer[Any] | Iterable[Layer[Any]],
        schedule: Callable[[int], float],
        *,
        factors: Iterable[float] | None = None,
    ) -> None:
        self._set(layers, schedule, factors, 0)
        self._at(0)

    def _set(self, layers: Any, schedule: Any, factors: Any, steps: Any) -> None:
        given, adapted = as_layers(layers)
        if not callable(schedule):
            raise TypeError(f"schedule must be a function of the step, got {shown(schedule)}")
        if factors is None:
            factors = [1.0] * len(given)
        if not isinstance(factors, Iterable):
            raise TypeError(f"factors must be a sequence of numbers, got {shown(factors)}")
        several = tuple(itertools.islice(factors, MOST_ARRAYS + 1))
        if len(several) != len(given):
            got = "more" if len(several) > MOST_ARRAYS else len(several)
            raise ValueError(f"factors must have length {len(given)}, one per layer, got {got}")
        checked = tuple(probability(factor, "factors") for factor in several)
        self._steps = as_count(steps, "steps")
        self.layers, self._layers, self.schedule, self.factors = given, adapted, schedule, checked

    def __setstate__(self, state: Any) -> None:
        names = ("layers", "schedule", "factors", "_steps")
        fields, others = split_state(state, names)
        self._set(*fields)
        vars(self).update(others, _layers=self._layers)

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._steps

    def step(self) -> float:
        """Set p of all layers for the next training step, count it, and return the schedule's p."""
        p = self._at(self._steps)
        self._apply(p)
        self._steps += 1
        return p

    def state_dict(self) -> dict[str, Any]:
        """Return "steps" (int); save the states of the layers separately."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`, and set the layers' p to that of the last step."""
        (number,), others = split_state(state, ("steps",))
        if others:
            raise ValueError(f"state must have the entry steps, got {sorted(map(str, state))}")
        steps = as_count(number, "steps")
        if steps:
            self._apply(self._at(steps - 1))
        self._steps = steps

    def _at(self, step: int) -> float:
        return probability(self.schedule(step), "schedule(step)")

    def _apply(self, p: float) -> None:
        for layer, factor in zip(self._layers, self.factors, strict=True):
            layer.p = p * factor

    def __repr__(self) -> str:
        return f"PSchedule({list(self.layers)}, {self.schedule!r}, steps={self._steps})"
