"""Concrete dropout: a relaxed mask, whose probability to drop can be learned.

The uniforms are those of the stream; the relaxation is here, in float64, and in logarithms where
a probability is next to 0 or 1.
"""

import math
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core
from fastdrop._calls import apply
from fastdrop._validate import as_count, as_number, check_flag, float_array
from fastdrop.functional.core import NO_KEY, Array, scaled
from fastdrop.random import RNG, Key, as_key

CHUNK = 2**13
"""Elements that are computed at a time, so that what is computed on the way stays in the cache."""


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
    >>> mask = fd.ConcreteMask((6,), 0.0, 0.1, fd.Key(2))
    >>> mask.p
    0.5
    >>> mask.to_numpy().round(3)
    array([0.   , 0.571, 0.99 , 0.   , 0.492, 1.   ])
    """

    shape: tuple[int, ...]
    logit: float
    temperature: float
    key: Key

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple):
            raise TypeError(f"shape must be a tuple of ints, got {self.shape!r}")
        shape = self.shape
        object.__setattr__(self, "shape", tuple(as_count(length, "shape") for length in shape))
        object.__setattr__(self, "logit", as_number(self.logit, "logit", -math.inf))
        object.__setattr__(self, "temperature", as_temperature(self.temperature))
        if not isinstance(self.key, Key):
            raise TypeError(f"key must be a Key, got {type(self.key).__name__}")

    @property
    def p(self) -> float:
        """Probability to drop."""
        return probability_of(self.logit)

    def to_numpy(self) -> NDArray[np.float64]:
        """Return what is kept of each element, 1 - z, between 0 and 1."""
        factor, _ = self.factors()
        with np.errstate(under="ignore"):
            return factor * probability_of(-self.logit) if self.logit < math.inf else factor

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what elements are multiplied by, (1 - z) / (1 - p), and its slope by the logit."""
        if math.isinf(self.logit):
            return np.full(self.shape, float(self.logit < 0.0)), np.zeros(self.shape)
        factor, slope = np.empty(self.shape), np.empty(self.shape)
        uniforms = _core.uniforms(self.shape, self.key).reshape(-1)
        for first in range(0, uniforms.size, CHUNK):
            part = slice(first, first + CHUNK)
            with np.errstate(over="ignore", under="ignore"):  # to infinity and 0, which is right
                argument = _argument(uniforms[part], self.logit, self.temperature)
                pair = _factors(argument, self.logit, self.temperature)
            factor.reshape(-1)[part], slope.reshape(-1)[part] = pair
        return factor, slope


def _argument(uniforms: NDArray[np.uint64], logit: float, t: float) -> NDArray[np.float64]:
    """Return (logit(p) + logit(u)) / t, of which z is the sigmoid.

    1 - u = (U + 1/2) 2^-64 for the uniform U; u is the same of U with all bits turned, so neither
    is ever 0 and both are exact to the last bit at both ends.
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
    """Return k = (1 - z) / (1 - p) and its derivative by the logit, k (p - z / t).

    For the argument a of z and the logit l, k is (1 + exp(l)) / (1 + exp(a)): in exponentials that
    do not overflow, exp(max(l, 0) - max(a, 0)) (1 + exp(-|l|)) / (1 + exp(-|a|)). (As t <= 1, l is
    below 45.1, the logarithm of 2^65, where a is negative.)
    """
    little = np.exp(-np.abs(a))
    dropped = a > 0.0
    slope = np.where(dropped, 1.0, little)  # z, but for the denominator
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
    concrete_dropout_backward : the gradients.
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
    >>> fd.concrete_dropout(np.ones((2, 4), dtype=np.float32), 0.0, rng=2).round(2)
    array([[0.  , 1.14, 1.98, 0.  ],
           [0.98, 2.  , 0.  , 1.76]], dtype=float32)
    """
    check_flag(training, "training")
    array = float_array(x, "x")
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
    return product if out is None else apply(None, product, 1.0, out)


def concrete_dropout_backward(
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
    >>> dx, dlogit = fd.concrete_dropout_backward(x, x, 0.5, rng=key)
    >>> above, below = (fd.concrete_dropout(x, 0.5 + step, rng=key) for step in (1e-6, -1e-6))
    >>> bool(abs(dlogit - (above - below).sum() / 2e-6) < 1e-8)
    True
    """
    gradient, array = float_array(dy, "dy"), float_array(x, "x")
    if gradient.shape != array.shape:
        raise ValueError(f"dy must have the shape of x, {array.shape}, got {gradient.shape}")
    if not isinstance(rng, Key):
        raise TypeError(f"rng must be the Key of the forward call, got {type(rng).__name__}")
    value = as_number(logit, "logit", -math.inf)
    mask = ConcreteMask(array.shape, value, as_temperature(temperature), rng)
    return relaxed_backward(gradient, array, mask)


def relaxed_backward(dy: Array, x: Array, mask: ConcreteMask) -> tuple[Array, float]:
    """Return the gradients of `relaxed` with respect to `x` and to the mask's logit."""
    factor, slope = mask.factors()
    terms = np.zeros(x.shape)
    with np.errstate(all="ignore"):
        slope[factor.astype(_precision(x)) == 0.0] = 0.0
        for dy_part, x_part in zip(parts(dy), parts(x), strict=False):
            product = np.multiply(dy_part, x_part, dtype=np.float64, casting="unsafe")
            np.add(terms, product * slope, out=terms, where=slope != 0.0)
        return _weighted(dy, factor), float(terms.sum())


def _precision(x: Array) -> type[np.float32] | type[np.float64]:
    """Return what products with `x` are computed in."""
    return np.float64 if x.real.dtype.itemsize == 8 else np.float32


def parts(x: Array) -> list[Array]:
    """Return the real part of an array, and the imaginary one if it has one."""
    return [x.real, x.imag] if x.dtype.kind == "c" else [x]


def _weighted(x: Array, factor: NDArray[np.float64]) -> Array:
    """Return ``x * factor``, rounded once, and +0.0 where the factor is 0 in that precision."""
    precision = _precision(x)
    product = np.zeros_like(x)
    with np.errstate(all="ignore"):
        rounded = factor.astype(precision)
        for part, source in zip(parts(product), parts(x), strict=True):
            np.multiply(
                source, rounded, out=part, where=rounded != 0.0, dtype=precision, casting="unsafe"
            )
    return product
