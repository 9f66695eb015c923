"""A layer whose probability to drop is learned (concrete dropout). No mathematics here."""

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex

from numpy.typing import ArrayLike

from fastdrop._validate import as_number, float_array, probability, split_state
from fastdrop.functional.concrete import (
    ConcreteMask,
    as_temperature,
    logit_of,
    probability_of,
    relaxed,
    relaxed_backward,
)
from fastdrop.functional.core import Array
from fastdrop.functional.regularization import concrete_regularization
from fastdrop.layers.base import ElementwiseLayer, Layer
from fastdrop.random import RNG, Key

ROUNDING = 1e-12
"""A p this close to that of a logit is the same: the rounding of the logit, of up to 745."""


class ConcreteDropout(ElementwiseLayer[ConcreteMask]):
    """Drop elements, nearly, with a learned probability; pass all through in evaluation.

    What is learned is `logit`: move it against the sum of `grad_logit`, which `backward` leaves,
    and the last of what `regularization` returns.

    Parameters
    ----------
    p : float, default 0.1
        Probability to DROP an element at first, in [0, 1]. (0 and 1 stay for ever.)
    temperature : float, default 0.1
        How relaxed the decisions are, in (0, 1].
    weight_regularizer, dropout_regularizer : float, default 1e-6 and 1e-5
        As for `concrete_regularization`.
    rng
        As for `Dropout`.

    Attributes
    ----------
    logit : float
        log(p / (1 - p)), the parameter; can be set between calls.
    p : float
        Probability to drop; follows `logit`, and sets it.
    grad_logit : float or None
        Gradient with respect to `logit`, of the last `backward`; 0 if that was of evaluation.
    mask : ConcreteMask or None
        That of the last call; None before the first and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    concrete_dropout : the function, with the formula and the paper.

    Notes
    -----
    The last input is kept until the next call: `grad_logit` needs it. So it must not be overwritten
    before `backward`, and this layer does not work in place.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.ConcreteDropout(0.5, rng=0)
    >>> y = drop(np.ones(4))
    >>> y.round(3)
    array([2.   , 0.834, 2.   , 0.   ])
    >>> dx = drop.backward(y)
    >>> value, dweight, dlogit = drop.regularization(np.ones((2, 4)))
    >>> drop.logit -= 0.1 * (drop.grad_logit + dlogit)
    >>> round(drop.p, 3)
    0.493
    """

    def __init__(
        self,
        p: float = 0.1,
        temperature: SupportsFloat = 0.1,
        *,
        weight_regularizer: SupportsFloat = 1e-6,
        dropout_regularizer: SupportsFloat = 1e-5,
        rng: RNG = None,
    ) -> None:
        self.temperature = as_temperature(temperature)
        self.weight_regularizer = as_number(weight_regularizer, "weight_regularizer", 0.0)
        self.dropout_regularizer = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
        self.grad_logit: float | None = None
        self._x: Array | None = None
        super().__init__(p, False, rng)

    @property
    def p(self) -> float:
        """Probability to drop."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = probability(p)
        self._logit = logit_of(self._p)

    @property
    def logit(self) -> float:
        """The parameter, log(p / (1 - p))."""
        return self._logit

    @logit.setter
    def logit(self, logit: SupportsFloat) -> None:
        self._logit = as_number(logit, "logit", -math.inf)
        self._p = probability_of(self._logit)

    def _draw(self, shape: tuple[int, ...], key: Key) -> ConcreteMask:
        return ConcreteMask(shape, self._logit, self.temperature, key)

    def _train(self, x: Array, mask: ConcreteMask, out: Array | None) -> Array:
        y = relaxed(x, mask, out)
        self._x = x
        return y

    def _evaluate(self, x: Array, out: Array | None) -> Array:
        self._x = None
        return x

    def _gradient(self, dy: Array, mask: ConcreteMask | None) -> Array:
        if mask is None or self._x is None:
            self.grad_logit = 0.0
            return dy
        dx, self.grad_logit = relaxed_backward(dy, self._x, mask)
        return dx

    def regularization(
        self, weight: ArrayLike, inputs: SupportsIndex | None = None
    ) -> tuple[float, Array, float]:
        """Return the term of the loss that p is learned against, and its gradients.

        Parameters
        ----------
        weight : array_like of float or complex, shape (outputs, inputs, ...)
            Weights of the layer behind this one.
        inputs : int, optional
            Number of inputs that are dropped; the length of axis 1 if not given.

        Returns
        -------
        value : float
        dweight : ndarray
            Its gradient with respect to `weight`.
        dlogit : float
            Its derivative by `logit`.

        Raises
        ------
        TypeError, ValueError
            If an argument is not of these kinds.
        """
        array = float_array(weight, "weight")
        if inputs is None:
            if array.ndim < 2:
                raise ValueError(
                    f"weight must have the axes (outputs, inputs, ...), got shape {array.shape}"
                )
            inputs = array.shape[1]
        return concrete_regularization(
            array,
            self._logit,
            inputs,
            weight_regularizer=self.weight_regularizer,
            dropout_regularizer=self.dropout_regularizer,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training: as for all layers, and "logit" (float).

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.ConcreteDropout(0.5, rng=fd.Key.from_bytes(b"sixteen bytes...")).state_dict()
        {'key': '7369787465656e2062797465732e2e2e', 'calls': 0, 'p': 0.5, 'logit': 0.0}
        """
        return {**super().state_dict(), "logit": self._logit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; where "p" is not that of "logit", this decides."""
        (saved,), common = split_state(state, ("logit",))
        logit = as_number(saved, "logit", -math.inf)
        super().load_state_dict(common)
        self._logit = logit
        p = probability_of(logit)
        if not math.isclose(self._p, p, rel_tol=ROUNDING, abs_tol=math.ulp(0.0)):
            self._p = p
        self._x, self.grad_logit = None, None

    def _options(self) -> str:
        return "" if self.temperature == 0.1 else f", temperature={self.temperature}"

    __repr__ = Layer.__repr__
