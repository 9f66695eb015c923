"""The term of the loss that the probability of concrete dropout is learned against."""

import math
from typing import SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._calls import apply
from fastdrop._validate import as_count, as_number, float_array
from fastdrop.functional.concrete import parts, probability_of
from fastdrop.functional.core import Array

MOST_ODDS = 100 * math.log(2.0)
"""The logit from which on the regularization takes 1 / (1 - p) for 2^100, which float32 holds."""


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
    array = float_array(weight, "weight")
    a = as_number(logit, "logit", -math.inf)
    count = as_number(as_count(inputs, "inputs"), "inputs", 0.0)
    w = as_number(weight_regularizer, "weight_regularizer", 0.0)
    d = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
    odds = math.exp(min(a, MOST_ODDS))
    p, kept = probability_of(a), probability_of(-a)
    entropy = slope = 0.0
    with np.errstate(all="ignore"):
        squares = sum(float(_squares(part).sum()) for part in parts(array))
        if math.isfinite(a):
            entropy = -p * float(np.logaddexp(0.0, -a)) - kept * float(np.logaddexp(0.0, a))
            slope = a * p * kept
    value = w * squares * (1.0 + odds) + d * count * entropy
    dweight = apply(None, array, 2.0 * w * (1.0 + odds))
    return value, dweight, w * squares * odds + d * count * slope
