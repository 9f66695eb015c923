"""Concrete dropout: a relaxed mask, whose probability to drop can be learned.

The uniforms are those of the stream; the relaxation is here, in float64, and in logarithms where
a probability is next to 0 or 1.
"""

import math
from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._core import Key
from fastdrop._validate import as_count, as_number, check_flag
from fastdrop.functional.core import NO_KEY, Array, scaled
from fastdrop.random import RNG, as_key

MOST_ODDS = 100 * math.log(2.0)
"""The logit from which on the regularization takes 1 / (1 - p) for 2^100, which float32 holds."""


def logit_of(p: float) -> float:
    """Return log(p / (1 - p)), infinite at the ends."""
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return math.log(p) - math.log1p(-p)


def probability_of(logit: float) -> float:
    """Return p = 1 / (1 + exp(-logit)), without overflow."""
    odds = math.exp(-abs(logit))
    return (1.0 if logit >= 0.0 else odds) / (1.0 + odds)


def log_sigmoid(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 / (1 + exp(-a)))."""
    return -np.logaddexp(0.0, -a)


@dataclass(frozen=True)
class ConcreteMask:
    """A relaxed mask: a recipe, not an array.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array it is for.
    logit : float
        log(p / (1 - p)) of the probability to DROP; may be infinite.
    temperature : float
        How relaxed: towards 0, an element is kept or dropped.
    key : Key
        What the numbers are a function of.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    concrete_dropout : the formula.

    Examples
    --------
    >>> import fastdrop as fd
    >>> mask = fd.ConcreteMask((6,), 0.0, 0.1, fd.Key(0))
    >>> mask.p
    0.5
    >>> mask.to_numpy().round(3)
    array([0.984, 0.008, 1.   , 1.   , 1.   , 1.   ])
    """

    shape: tuple[int, ...]
    logit: float
    temperature: float
    key: Key

    def __post_init__(self) -> None:
        object.__setattr__(self, "logit", as_number(self.logit, "logit", -math.inf))
        object.__setattr__(self, "temperature", as_temperature(self.temperature))
        if not isinstance(self.key, Key):
            raise TypeError(f"key must be a Key, got {type(self.key).__name__}")

    @property
    def p(self) -> float:
        """Probability to drop."""
        return probability_of(self.logit)

    def _argument(self) -> NDArray[np.float64]:
        """Return (logit(p) + logit(u)) / t, of which z is the sigmoid.

        1 - u = (U + 1/2) 2^-64 for the uniform U; u is the same of U with all bits turned, so
        neither is ever 0 and both are exact to the last bit at both ends.
        """
        uniforms = _core.uniforms(self.shape, self.key)
        below, above = uniforms.astype(np.float64), (~uniforms).astype(np.float64)
        below += 0.5
        above += 0.5
        with np.errstate(over="ignore"):  # to infinity, which is right
            return (self.logit + (np.log(above) - np.log(below))) / self.temperature

    def to_numpy(self) -> NDArray[np.float64]:
        """Return what is kept of each element, 1 - z, between 0 and 1."""
        if math.isinf(self.logit):
            return np.full(self.shape, float(self.logit < 0.0))
        return np.exp(log_sigmoid(-self._argument()))

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what elements are multiplied by, and its derivative by the logit.

        With k = (1 - z) / (1 - p), these are k and k (p - z / t).
        """
        if math.isinf(self.logit):
            factor = self.to_numpy()
            return factor, np.zeros_like(factor)
        argument = self._argument()
        factor = np.exp(log_sigmoid(-argument) + np.logaddexp(0.0, self.logit))
        slope = np.exp(log_sigmoid(argument))
        slope /= -self.temperature
        slope += self.p
        slope *= factor
        return factor, slope


def as_temperature(temperature: SupportsFloat) -> float:
    """Return a temperature as a float.

    Raises
    ------
    TypeError, ValueError
        If it is no number in (0, 1]. (Above 1 a relaxed decision is rather half than whole.)
    """
    number = as_number(temperature, "temperature", 0.0, 1.0)
    if number < np.finfo(np.float64).tiny:
        raise ValueError(f"temperature must be a number in (0, 1], got {temperature!r}")
    return number


def concrete_dropout(
    x: ArrayLike,
    logit: SupportsFloat,
    *,
    temperature: SupportsFloat = 0.1,
    training: bool = True,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop elements at random, nearly, so that the probability to drop has a gradient.

    .. math:: y_i = x_i \frac{1 - z_i}{1 - p}, \qquad
              z_i = \sigma\left(\frac{l + \log u_i - \log(1 - u_i)}{t}\right), \qquad
              p = \sigma(l)

    with the logit l, the temperature t, uniform :math:`u_i` and :math:`\sigma(a) = 1 / (1 +
    e^{-a})`. For :math:`t \to 0` it is `dropout` with the same key.

    Parameters
    ----------
    x : array_like of float or complex
        Input of any of the dtypes of `dropout`, in any memory layout.
    logit : float
        log(p / (1 - p)) of the probability p to DROP; minus infinity for 0, infinity for 1.
    temperature : float, default 0.1
        How relaxed the decisions are, in (0, 1].
    training, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`; in evaluation `x` itself.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range. No array is changed then.

    See Also
    --------
    ConcreteDropout : the layer.
    concrete_dropout_grad : the gradients.
    concrete_regularization : the term of the loss that p is learned against.

    Notes
    -----
    Gal, Hron and Kendall, "Concrete dropout", NIPS 2017.

    :math:`1 - u = (U + 1/2) \, 2^{-64}` for the 64-bit uniform U of an element, by which `dropout`
    decides: what it drops has :math:`z > 1/2`. The factors are computed in float64 and rounded once
    to the precision in which `dropout` computes for the dtype of `x`; where that gives 0, the
    result is +0.0 whatever `x` is. It takes a few arrays of float64 of the size of `x`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.concrete_dropout(np.ones((2, 4), dtype=np.float32), 0.0, rng=0).round(2)
    array([[1.97, 0.02, 2.  , 2.  ],
           [2.  , 2.  , 0.  , 2.  ]], dtype=float32)
    """
    check_flag(training, "training")
    array = _core.float_array(x, "x")
    value = as_number(logit, "logit", -math.inf)
    draws = value > -math.inf and training
    key = as_key(rng) if draws or isinstance(rng, Key) else NO_KEY
    mask = ConcreteMask(array.shape, value, as_temperature(temperature), key)
    return relaxed(array, mask, out) if training else scaled(array, 1.0, out)


def relaxed(x: Array, mask: ConcreteMask, out: Array | None) -> Array:
    """Return `x` times the factors of a mask; for p = 0, `x` itself or its copy in `out`."""
    if mask.logit == -math.inf:
        return scaled(x, 1.0, out)
    product = _weighted(x, mask.factors()[0])
    return product if out is None else _core.apply(None, product, 1.0, out)


def concrete_dropout_grad(
    dy: ArrayLike,
    x: ArrayLike,
    logit: SupportsFloat,
    *,
    temperature: SupportsFloat = 0.1,
    rng: Key,
) -> tuple[Array, float]:
    r"""Return the gradients of `concrete_dropout` in training.

    .. math:: dx_i = k_i \, dy_i, \qquad dl = \sum_i dy_i \, x_i \, k_i (p - z_i / t), \qquad
              k_i = \frac{1 - z_i}{1 - p}

    Parameters
    ----------
    dy : array_like of float or complex
        Gradient with respect to the output, of the shape of `x`.
    x : array_like of float or complex
        The input.
    logit, temperature
        As they were given to `concrete_dropout`.
    rng : Key
        The key that was given to `concrete_dropout`.

    Returns
    -------
    dx : ndarray
        Gradient with respect to `x`, of the dtype of `dy`.
    dlogit : float
        Gradient with respect to `logit`, summed in float64. (That with respect to p is ``dlogit /
        (p * (1 - p))``.) Of complex arrays, the real part of the sum with dy conjugated.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    concrete_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> key, x = fd.Key(0), np.ones(4)
    >>> dx, dlogit = fd.concrete_dropout_grad(x, x, 0.5, rng=key)
    >>> above, below = (fd.concrete_dropout(x, 0.5 + step, rng=key) for step in (1e-6, -1e-6))
    >>> bool(abs(dlogit - (above - below).sum() / 2e-6) < 1e-8)
    True
    """
    gradient, array = _core.float_array(dy, "dy"), _core.float_array(x, "x")
    if gradient.shape != array.shape:
        raise ValueError(f"dy must have the shape of x, {array.shape}, got {gradient.shape}")
    if not isinstance(rng, Key):
        raise TypeError(f"rng must be the Key of the forward call, got {type(rng).__name__}")
    value = as_number(logit, "logit", -math.inf)
    mask = ConcreteMask(array.shape, value, as_temperature(temperature), rng)
    factor, slope = mask.factors()
    slope[factor.astype(_precision(array)) == 0.0] = 0.0
    terms = np.zeros(array.shape)
    with np.errstate(all="ignore"):
        for dy_part, x_part in zip(_parts(gradient), _parts(array), strict=False):
            product = np.multiply(dy_part, x_part, dtype=np.float64, casting="unsafe")
            np.add(terms, product * slope, out=terms, where=slope != 0.0)
        return _weighted(gradient, factor), float(terms.sum())


def _precision(x: Array) -> type[np.float32] | type[np.float64]:
    """Return what products with `x` are computed in."""
    return np.float64 if x.real.dtype.itemsize == 8 else np.float32


def _parts(x: Array) -> list[Array]:
    """Return the real part of an array, and the imaginary one if it has one."""
    return [x.real, x.imag] if x.dtype.kind == "c" else [x]


def _weighted(x: Array, factor: NDArray[np.float64]) -> Array:
    """Return ``x * factor``, rounded once, and +0.0 where the factor is 0 in that precision."""
    precision = _precision(x)
    rounded = factor.astype(precision)
    product = np.zeros_like(x)
    with np.errstate(all="ignore"):
        for part, source in zip(_parts(product), _parts(x), strict=True):
            np.multiply(
                source, rounded, out=part, where=rounded != 0.0, dtype=precision, casting="unsafe"
            )
    return product


def _squares(part: Array) -> NDArray[np.float64]:
    """Return squares in float64 and C order, so that their sum is that of any layout."""
    wide = np.array(part, dtype=np.float64, order="C")
    return np.square(wide, out=wide)


def concrete_regularization(
    weight: ArrayLike,
    logit: SupportsFloat,
    inputs: SupportsIndex,
    *,
    weight_regularizer: SupportsFloat = 1e-6,
    dropout_regularizer: SupportsFloat = 1e-5,
) -> tuple[float, Array, float]:
    r"""Return the term of the loss that keeps concrete dropout from dropping nothing.

    .. math:: R = \frac{w}{1 - p} \sum W^2 + d \, K (p \log p + (1 - p) \log(1 - p))

    with the two regularizers w and d and K inputs; it is for one layer.

    Parameters
    ----------
    weight : array_like of float or complex
        Weights of the layer behind the dropout, of any shape.
    logit : float
        log(p / (1 - p)) of the probability p to DROP.
    inputs : int
        Number of inputs that are dropped: features, or channels.
    weight_regularizer : float, default 1e-6
        l^2 / (N tau) of the prior's length scale, the number of examples and the precision of the
        model.
    dropout_regularizer : float, default 1e-5
        2 / (N tau).

    Returns
    -------
    value : float
    dweight : ndarray
        Its gradient with respect to `weight`, of the same dtype.
    dlogit : float
        Its derivative by `logit`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    concrete_dropout : the function.

    Notes
    -----
    Gal, Hron and Kendall, "Concrete dropout", NIPS 2017, as in the authors' program. (The paper
    has the factor 1 - p, for weights that are not made up for by 1 / (1 - p).) 1 / (1 - p) is taken
    for 2^100 where it is larger, so that p = 1 gives no NaN.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> value, dweight, dlogit = fd.concrete_regularization(
    ...     np.ones((2, 3)), 0.0, 3, weight_regularizer=0.5, dropout_regularizer=1.0
    ... )
    >>> round(value, 6), dlogit
    (3.920558, 3.0)
    >>> dweight
    array([[2., 2., 2.],
           [2., 2., 2.]])
    """
    array = _core.float_array(weight, "weight")
    a = as_number(logit, "logit", -math.inf)
    count = as_count(inputs, "inputs")
    w = as_number(weight_regularizer, "weight_regularizer", 0.0)
    d = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
    odds = math.exp(min(a, MOST_ODDS))
    p, kept = probability_of(a), probability_of(-a)
    squares = sum(float(_squares(part).sum()) for part in _parts(array))
    entropy = slope = 0.0
    if math.isfinite(a):
        entropy = -p * float(np.logaddexp(0.0, -a)) - kept * float(np.logaddexp(0.0, a))
        slope = a * p * kept
    value = w * squares * (1.0 + odds) + d * count * entropy
    dweight = _core.apply(None, array, 2.0 * w * (1.0 + odds))
    return value, dweight, w * squares * odds + d * count * slope
