"""What sets the p of layers as training goes on. No mathematics here; that is `schedules`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastdrop._validate import as_count, probability
from fastdrop.layers.base import Layer, as_layers


class PSchedule:
    """Set p of layers at every training step.

    Parameters
    ----------
    layers : layer, or iterable of layers
        Whose p is set.
    schedule : Schedule, or function of int to float
        The p of each step, counted from 0.
    factors : iterable of float, optional
        A factor in [0, 1] for each layer: its p is that times the schedule's. With
        ``fd.drop_path_rates(1.0, depth)`` a schedule drives the last of the paths, and the others
        follow in proportion.

    Attributes
    ----------
    layers : tuple
    schedule : Schedule or function
    factors : tuple of float
        As given; 1.0 for all by default.
    steps : int
        Number of steps so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range; if the schedule's first p is.

    Notes
    -----
    The layers are not touched before the first `step`, so call it before each training step, and
    not after.

    Examples
    --------
    >>> import fastdrop as fd
    >>> drop, path = fd.Dropout(0.0), fd.DropPath(0.0)
    >>> driver = fd.PSchedule([drop, path], fd.schedules.Linear(0.0, 0.5, steps=2))
    >>> for batch in range(3):
    ...     p = driver.step()
    ...     print(p, drop.p, path.p)
    0.0 0.0 0.0
    0.25 0.25 0.25
    0.5 0.5 0.5
    """

    def __init__(
        self,
        layers: Layer[Any] | Iterable[Layer[Any]],
        schedule: Callable[[int], float],
        *,
        factors: Iterable[float] | None = None,
    ) -> None:
        self.layers = as_layers(layers)
        if not callable(schedule):
            raise TypeError(f"schedule must be a function of the step, got {schedule!r}")
        if factors is None:
            factors = [1.0] * len(self.layers)
        if not isinstance(factors, Iterable):
            raise TypeError(f"factors must be a sequence of numbers, got {factors!r}")
        several = tuple(factors)
        if len(several) != len(self.layers):
            raise ValueError(
                f"factors must be one for each of {len(self.layers)} layers, got {len(several)}"
            )
        self.schedule = schedule
        self.factors = tuple(probability(factor, "factors") for factor in several)
        self._steps = 0
        self._at(0)

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._steps

    def step(self) -> float:
        """Set p of all layers for the training step to come, and count it.

        Returns
        -------
        float
            The schedule's p.

        Raises
        ------
        TypeError, ValueError
            If the schedule returned no number in [0, 1]; layers and count are unchanged then.
        """
        p = self._at(self._steps)
        self._apply(p)
        self._steps += 1
        return p

    def state_dict(self) -> dict[str, Any]:
        """Return what changes: "steps" (int). The layers have states of their own."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; the layers get the p of the last step done.

        Parameters
        ----------
        state : dict
            With the entry of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it is none; nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping, got {type(state).__name__}")
        if set(state) != {"steps"}:
            raise ValueError(f"state must have the entry steps, got {sorted(map(str, state))}")
        steps = as_count(state["steps"], "steps")
        if steps:
            self._apply(self._at(steps - 1))
        self._steps = steps

    def _at(self, step: int) -> float:
        return probability(self.schedule(step), "what schedule returns")

    def _apply(self, p: float) -> None:
        for layer, factor in zip(self.layers, self.factors, strict=True):
            layer.p = p * factor

    def __repr__(self) -> str:
        return f"PSchedule({list(self.layers)}, {self.schedule!r}, steps={self._steps})"
