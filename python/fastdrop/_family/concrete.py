"""Concrete dropout: relaxed masks, so that the probability to drop can be learned.

The uniforms come from the same stream as all masks. The relaxation is computed here, in float64,
with logarithms for probabilities close to 0 or 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._base.arguments import (
    INVERTED,
    Array,
    as_count,
    as_number,
    as_shape,
    check_broadcast,
    float_array,
    probability,
    refuse,
)
from fastdrop._base.keys import RNG, Key, as_key, check_key
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Drawable
from fastdrop._base.members import Member
from fastdrop._base.plans import (
    Plan,
    check_forward_mask,
    check_recipe,
    gradient_like,
    run_recipe,
    select,
)
from fastdrop._base.states import Checked, split_state

CHUNK = 2**13
"""Elements per step, so that intermediate results stay in the cache."""


def logit_of(p: float) -> float:
    """Return log(p / (1 - p)), infinite at the ends."""
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return math.log(p) - math.log1p(-p)


def probability_of(logit: float) -> float:
    """Return p = 1 / (1 + exp(-logit)), without overflow."""
    odds = math.exp(-abs(logit))
    return (1.0 if logit >= 0.0 else odds) / (1.0 + odds)


@dataclass(frozen=True)
class ConcreteMask(Checked, Drawable):
    """A recipe of relaxed decisions: each element is kept in part.

    `logit` is log(p / (1 - p)) of the probability p to DROP, and may be infinite. `temperature`, in
    (0, 1], tells how relaxed the decisions are; they become binary towards 0.

    >>> mask = fd.ConcreteMask((6,), logit=0.0, temperature=0.1, key=fd.Key(2))
    >>> mask.p, mask.to_numpy().round(3)
    (0.5, array([0.   , 0.571, 0.99 , 0.   , 0.492, 1.   ]))
    """

    shape: tuple[int, ...]
    logit: float
    temperature: float
    key: Key

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape, "shape"))
        object.__setattr__(self, "logit", as_number(self.logit, "logit"))
        object.__setattr__(self, "temperature", as_temperature(self.temperature))
        check_key(self.key)

    @property
    def p(self) -> float:
        """Probability to drop."""
        return probability_of(self.logit)

    def to_numpy(self) -> NDArray[np.float64]:
        """Return the kept part of each element, 1 - z, between 0 and 1."""
        factor, _ = self.factors()
        with np.errstate(under="ignore"):
            return factor * probability_of(-self.logit) if self.logit < math.inf else factor

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Multiply `x` by the factors, which broadcast to its shape, as in `concrete_dropout`."""
        array = float_array(x, "x")
        check_broadcast(self.shape, array.shape)
        if self.logit == -math.inf:
            return select(array, None, 1.0, out)
        product = _weighted(array, self.factors()[0])
        return product if out is None else select(product, None, 1.0, out)

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the factors (1 - z) / (1 - p), and their derivatives with respect to the logit."""
        if math.isinf(self.logit):
            return np.full(self.shape, float(self.logit < 0.0)), np.zeros(self.shape)
        factor, slope = np.empty(self.shape), np.empty(self.shape)
        uniforms = _core.uniforms(self.shape, self.key).reshape(-1)
        for first in range(0, uniforms.size, CHUNK):
            part = slice(first, first + CHUNK)
            with np.errstate(over="ignore", under="ignore"):  # infinity and 0 are right
                argument = _argument(uniforms[part], self.logit, self.temperature)
                pair = _factors(argument, self.logit, self.temperature)
            factor.reshape(-1)[part], slope.reshape(-1)[part] = pair
        return factor, slope


def _argument(uniforms: NDArray[np.uint64], logit: float, t: float) -> NDArray[np.float64]:
    """Return (logit(p) + logit(u)) / t, the argument of the sigmoid z.

    1 - u = (U + 1/2) 2^-64 for the uniform U; u has the same form for the bitwise complement of U.
    So neither is ever 0, and both are exact to the last bit at both ends.
    """
    odds, below = (~uniforms).astype(np.float64), uniforms.astype(np.float64)
    odds += 0.5
    below += 0.5
    odds /= below
    argument = np.log(odds, out=odds)
    argument += logit
    argument /= t
    return argument


def _factors(
    a: NDArray[np.float64], logit: float, t: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return k = (1 - z) / (1 - p) and its derivative with respect to the logit, k (p - z / t).

    For the argument a of z and the logit l, k is (1 + exp(l)) / (1 + exp(a)). Written with
    exponentials that do not overflow: exp(max(l, 0) - max(a, 0)) (1 + exp(-|l|)) / (1 + exp(-|a|)).
    (As t <= 1, l is below 45.1, the logarithm of 2^65, where a is negative.)
    """
    little = np.exp(-np.abs(a))
    dropped = a > 0.0
    slope = np.where(dropped, 1.0, little)  # z without its denominator
    factor = np.exp(logit - np.maximum(a, 0.0)) if logit > 0.0 else np.where(dropped, little, 1.0)
    little += 1.0
    factor *= 1.0 + math.exp(-abs(logit))
    factor /= little
    slope /= little
    slope /= -t
    slope += probability_of(logit)
    slope *= factor
    return factor, slope


def as_temperature(temperature: SupportsFloat) -> float:
    """Return a temperature in (0, 1]: above 1, most decisions would be near one half."""
    return as_number(temperature, "temperature", np.finfo(np.float64).tiny, 1.0, "(0, 1]")


def _draw(shape: tuple[int, ...], p: float, key: Key, option: tuple[float, float]) -> ConcreteMask:
    logit, temperature = option
    return ConcreteMask(shape, logit if p else -math.inf, temperature, key)


CONCRETE = Member(
    "concrete_dropout",
    "Gal, Hron and Kendall, NIPS 2017",
    options=("logit", "temperature"),
    recipe=ConcreteMask,
    draw=_draw,
)


def concrete_dropout(
    x: ArrayLike,
    logit: SupportsFloat,
    *,
    temperature: SupportsFloat = 0.1,
    training: bool = True,
    rng: RNG = None,
    mask: ConcreteMask | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop elements at random in a relaxed way, so that the probability to drop has a gradient.

    .. math:: y_i = x_i \frac{1 - z_i}{1 - p}, \qquad
              z_i = \sigma\left(\frac{l + \log u_i - \log(1 - u_i)}{t}\right), \qquad
              p = \sigma(l)

    with the logit l, the temperature t, uniform :math:`u_i` and :math:`\sigma(a) = 1 / (1 +
    e^{-a})`. For :math:`t \to 0` it is `dropout` with the same key.

    Parameters
    ----------
    x : array_like of float or complex
        Input of any dtype of `dropout`, in any memory layout.
    logit : float
        log(p / (1 - p)) of the probability p to DROP; minus infinity for 0, infinity for 1.
    temperature : float, default 0.1
        How relaxed the decisions are, in (0, 1].
    mask : ConcreteMask, optional
        Mask to apply instead of drawing one from `rng`; `logit` and `temperature` are then not
        used.
    training, rng, return_mask, out
        See `dropout`. Returns the same.

    Notes
    -----
    Gal, Hron and Kendall, "Concrete dropout", NIPS 2017.

    :math:`1 - u = (U + 1/2) \, 2^{-64}` for the 64-bit uniform U by which `dropout` decides, so the
    elements that `dropout` drops have :math:`z > 1/2`. The factors are computed in float64 and
    rounded once to the precision in which `dropout` computes for the dtype of `x`; where that gives
    0, the result is +0.0 for every `x`. The call needs a few float64 arrays of the size of `x`.

    Examples
    --------
    >>> fd.concrete_dropout(np.ones((2, 4), dtype=np.float32), 0.0, rng=2).round(2)
    array([[0.  , 1.14, 1.98, 0.  ],
           [0.98, 2.  , 0.  , 1.76]], dtype=float32)
    """
    if unknown:
        refuse(unknown, concrete_dropout)
    value, t = as_number(logit, "logit"), as_temperature(temperature)
    p = probability_of(value) or (0.0 if value == -math.inf else math.ulp(0.0))
    request = p, training, INVERTED, rng, mask, return_mask, out
    return run_recipe(CONCRETE, x, request, (value, t))


def concrete_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    logit: SupportsFloat = 0.0,
    *,
    temperature: SupportsFloat = 0.1,
    rng: RNG = None,
    mask: ConcreteMask | None = None,
    **unknown: Never,
) -> tuple[Array, float]:
    r"""Return the gradients of `concrete_dropout` in training with respect to `x` and `logit`.

    .. math:: dx_i = k_i \, dy_i, \qquad dl = \sum_i dy_i \, x_i \, k_i (p - z_i / t), \qquad
              k_i = \frac{1 - z_i}{1 - p}

    `dy` is the gradient with respect to the output; the other arguments are those of the forward
    call. Pass either its `Key` as `rng`, or the mask that it returned as `mask` (`logit` and
    `temperature` are then not used); anything else is refused. dx has the dtype of `dy`. dlogit is
    a float, summed in float64; divide it by p (1 - p) for the gradient with respect to p. For
    complex arrays it is the real part of the sum with dy conjugated.

    >>> key, x = fd.Key(0), np.ones(4)
    >>> dx, dlogit = fd.concrete_dropout_backward(x, x, 0.5, rng=key)
    >>> above, below = (fd.concrete_dropout(x, 0.5 + step, rng=key) for step in (1e-6, -1e-6))
    >>> bool(abs(dlogit - (above - below).sum() / 2e-6) < 1e-8)
    True
    """
    if unknown:
        refuse(unknown, concrete_dropout_backward)
    check_forward_mask(True, rng, mask)
    gradient, array = float_array(dy, "dy"), float_array(x, "x")
    value, t = as_number(logit, "logit"), as_temperature(temperature)
    if mask is None:
        mask = ConcreteMask(array.shape, value, t, as_key(rng))
    else:
        check_recipe(mask, ConcreteMask, rng)
        check_broadcast(mask.shape, array.shape)
    return _gradients(mask, array, gradient)


def _gradients(recipe: ConcreteMask, x: Array, dy: Array) -> tuple[Array, float]:
    """Return the gradients with respect to the input and to the logit."""
    gradient_like(dy, x.shape)
    factor, slope = recipe.factors()
    terms = np.zeros(x.shape)
    with np.errstate(all="ignore"):
        slope[factor.astype(_precision(x)) == 0.0] = 0.0
        for dy_part, x_part in zip(_parts(dy), _parts(x), strict=False):
            product = np.multiply(dy_part, x_part, dtype=np.float64, casting="unsafe")
            np.add(terms, product * slope, out=terms, where=slope != 0.0)
        return _weighted(dy, factor), float(terms.sum())


def _precision(x: Array) -> type[np.float32] | type[np.float64]:
    """Return the precision of products with `x`."""
    return np.float64 if x.real.dtype.itemsize == 8 else np.float32


def _parts(x: Array) -> list[Array]:
    """Return the real part of an array, and the imaginary part if there is one."""
    return [x.real, x.imag] if x.dtype.kind == "c" else [x]


def _weighted(x: Array, factor: NDArray[np.float64]) -> Array:
    """Return ``x * factor``, rounded once, and +0.0 where the factor is 0 in that precision."""
    precision = _precision(x)
    product = np.zeros_like(x)
    with np.errstate(all="ignore"):
        rounded = factor.astype(precision)
        for part, source in zip(_parts(product), _parts(x), strict=True):
            np.multiply(
                source, rounded, out=part, where=rounded != 0.0, dtype=precision, casting="unsafe"
            )
    return product


MOST_ODDS = 100 * math.log(2.0)
"""Logit above which the regularization takes 1 / (1 - p) as 2^100, which float32 can hold."""


def _squares(part: Array) -> NDArray[np.float64]:
    """Return squares in float64 and C order, so that their sum is the same for every layout."""
    wide = np.array(part, dtype=np.float64, order="C")
    return np.square(wide, out=wide)


def concrete_regularization(
    weight: ArrayLike,
    logit: SupportsFloat,
    inputs: SupportsIndex,
    *,
    weight_regularizer: SupportsFloat = 1e-6,
    dropout_regularizer: SupportsFloat = 1e-5,
    **unknown: Never,
) -> tuple[float, Array, float]:
    r"""Return a layer's loss term, without which concrete dropout could learn to drop nothing.

    .. math:: R = \frac{w}{1 - p} \sum W^2 + d \, K (p \log p + (1 - p) \log(1 - p))

    This is the formula of the paper authors' program. (The paper has the factor 1 - p, for dropout
    that does not scale by 1 / (1 - p).) 1 / (1 - p) is limited to 2^100, so that p = 1 does not
    give NaN.

    Parameters
    ----------
    weight : array_like of float or complex
        Weights W of the layer after the dropout, of any shape.
    logit : float
        log(p / (1 - p)) of the probability p to DROP.
    inputs : int
        Number K of inputs that are dropped: features, or channels.
    weight_regularizer, dropout_regularizer : float, default 1e-6 and 1e-5
        w = l^2 / (N tau) and d = 2 / (N tau), with the prior's length scale l, the number N of
        examples and the precision tau of the model.

    Returns
    -------
    value, dweight, dlogit : float, ndarray, float
        R and its gradients with respect to `weight`, in the dtype of `weight`, and to `logit`.

    Examples
    --------
    >>> value, dweight, dlogit = fd.concrete_regularization(np.ones((2, 3)), 0.0, 3)
    >>> round(value, 9), round(float(dweight[0, 0]), 9), round(dlogit, 9)
    (-8.794e-06, 4e-06, 6e-06)
    """
    if unknown:
        refuse(unknown, concrete_regularization)
    array = float_array(weight, "weight")
    a = as_number(logit, "logit")
    count = as_number(as_count(inputs, "inputs"), "inputs", 0.0)
    w = as_number(weight_regularizer, "weight_regularizer", 0.0)
    d = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
    odds = math.exp(min(a, MOST_ODDS))
    p, kept = probability_of(a), probability_of(-a)
    entropy = slope = 0.0
    with np.errstate(all="ignore"):
        squares = sum(float(_squares(part).sum()) for part in _parts(array))
        if math.isfinite(a):
            entropy = -p * float(np.logaddexp(0.0, -a)) - kept * float(np.logaddexp(0.0, a))
            slope = a * p * kept
    value = w * squares * (1.0 + odds) + d * count * entropy
    dweight = _core.forward("select", (array,), None, None, 0.0, (), 2.0 * w * (1.0 + odds))[0]
    return value, dweight, w * squares * odds + d * count * slope


ROUNDING = 1e-12
"""Relative tolerance for p computed from its logit: a logit of up to 745 multiplies rounding."""


class ConcreteDropout(ElementwiseLayer[ConcreteMask]):
    """Drop elements in a relaxed way with a learned probability; the layer of `concrete_dropout`.

    The parameter to learn is `logit`: its gradient is the sum of `grad_logit`, which `backward`
    sets, and the last result of `regularization`. The layer keeps its last input until the next
    call, for `grad_logit`: do not overwrite it before `backward`. For the same reason the layer
    does not work in place.

    Parameters
    ----------
    p : float, default 0.1
        Initial probability to DROP an element, in [0, 1]. (Training never leaves 0 or 1.)
    temperature, weight_regularizer, dropout_regularizer, rng
        See `concrete_dropout`, `concrete_regularization` and `Dropout`.

    Attributes
    ----------
    logit : float
        log(p / (1 - p)), the parameter; can be set between calls. Setting `p` sets it as well.
    grad_logit : float or None
        Gradient with respect to `logit` from the last `backward`; 0 if the call was in evaluation.

    Examples
    --------
    >>> drop = fd.ConcreteDropout(0.5, rng=0)
    >>> dx = drop.backward(drop(np.ones(4)))
    >>> value, dweight, dlogit = drop.regularization(np.ones((2, 4)))
    >>> drop.logit -= 0.1 * (drop.grad_logit + dlogit)
    >>> round(drop.p, 3)
    0.493
    """

    _member = CONCRETE
    grad_logit: float | None

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
        super().__init__(p, rng)
        self.grad_logit = None

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
        self._logit = as_number(logit, "logit")
        self._p = probability_of(self._logit)

    def _plan(self, recipe: ConcreteMask, x: Array) -> Plan:
        return Plan(recipe, partial(_gradients, recipe, x))

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call; set `grad_logit`."""
        plan, _ = self._last_call()
        if plan.recipe is None:
            self.grad_logit = 0.0
            return super().backward(dy)
        dx: Array
        dx, self.grad_logit = plan.backward(float_array(dy, "dy"))
        return dx

    def regularization(
        self, weight: ArrayLike, inputs: SupportsIndex | None = None
    ) -> tuple[float, Array, float]:
        """Return the loss term of this layer and its gradients, as `concrete_regularization` does.

        `weight` has shape (outputs, inputs, ...) and belongs to the next layer. `inputs`, the
        number of inputs that are dropped, is the length of axis 1 if not given.
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

    @classmethod
    def _checked(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        (logit,), _ = split_state(state, ("_logit",))
        return {**super()._checked(state), "_logit": as_number(logit, "logit")}

    def state_dict(self) -> dict[str, Any]:
        """Return `Layer.state_dict` and "logit" (float).

        >>> fd.ConcreteDropout(0.5).state_dict()["logit"]
        0.0
        """
        return {**super().state_dict(), "logit": self._logit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`; where its "p" contradicts its "logit", "logit" decides."""
        (saved,), common = split_state(state, ("logit",))
        logit = as_number(saved, "logit")
        super().load_state_dict(common)
        self._logit = logit
        p = probability_of(logit)
        if not math.isclose(self._p, p, rel_tol=ROUNDING, abs_tol=math.ulp(0.0)):
            self._p = p
        self.grad_logit = None
