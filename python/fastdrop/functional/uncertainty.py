"""What the outputs of a model under many masks say of its doubt: statistics over the first axis.

No state is kept here. The names are public under `fastdrop.monte_carlo`.
"""

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._validate import as_array, as_count
from fastdrop.functional.core import Array

SUM_TOLERANCE = 0.01
"""How far probabilities may be from a sum of 1: bfloat16 rounds each by up to 2^-9 of it."""


def mean(samples: ArrayLike) -> Array:
    """Return the mean over samples: the prediction.

    Parameters
    ----------
    samples : array_like, shape (n, ...)
        Outputs, as `fastdrop.MonteCarlo.samples` returns them.

    Returns
    -------
    ndarray, shape (...)
        Of dtype float64, or complex128.

    Raises
    ------
    TypeError, ValueError
        If there are no samples, or no numbers.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.monte_carlo.mean([[1.0, 2.0], [3.0, 2.0]])
    array([2., 2.])
    """
    array = _as_samples(samples)
    with np.errstate(all="ignore"):
        return np.asarray(array.mean(axis=0, dtype=np.result_type(array.dtype, np.float64)))


def variance(samples: ArrayLike, ddof: SupportsIndex = 0) -> Array:
    r"""Return the variance over samples: what the masks change in the prediction.

    .. math:: \frac{1}{n - ddof} \sum_k |y_k - \bar y|^2

    Parameters
    ----------
    samples : array_like, shape (n, ...)
        Outputs, as `fastdrop.MonteCarlo.samples` returns them.
    ddof : int, default 0
        What to subtract from n; 1 makes it unbiased.

    Returns
    -------
    ndarray of float64, shape (...)
        The variance.

    Raises
    ------
    TypeError, ValueError
        If there are no samples, or no numbers; if `ddof` is not in [0, n).

    Notes
    -----
    Gal and Ghahramani, ICML 2016, section 4. The noise of the data, their 1 / tau, comes on top.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.monte_carlo.variance([[1.0, 2.0], [3.0, 2.0]])
    array([1., 0.])
    >>> fd.monte_carlo.variance([[1.0, 2.0], [3.0, 2.0]], ddof=1)
    array([2., 0.])
    """
    array = _as_samples(samples)
    less = as_count(ddof, "ddof")
    if less >= len(array):
        raise ValueError(f"ddof must be less than the {len(array)} samples, got {less}")
    dtype = np.result_type(array.dtype, np.float64)
    with np.errstate(all="ignore"):
        return np.asarray(array.var(axis=0, dtype=dtype, ddof=less).real)


def predictive_entropy(probabilities: ArrayLike) -> NDArray[np.float64]:
    r"""Return the entropy of the mean of class probabilities: all doubt, in nats.

    .. math:: H[q] = -\sum_c q_c \, \log q_c, \qquad
        q_c = \frac{1}{n} \sum_k p_{k c}

    Parameters
    ----------
    probabilities : array_like of float, shape (n, ..., classes)
        Of each sample, such as the outputs of a softmax.

    Returns
    -------
    ndarray of float64, shape (...)
        From 0 to the logarithm of the number of classes.

    Raises
    ------
    TypeError, ValueError
        If there are no samples or classes; if something is outside [0, 1], or the classes' sum is
        more than 0.01 away from 1.

    Notes
    -----
    Gal, "Uncertainty in deep learning", PhD thesis, University of Cambridge, 2016, section 3.3.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.monte_carlo.predictive_entropy([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    array([0.69314718, 0.69314718])
    """
    each = _as_probabilities(probabilities)
    with np.errstate(under="ignore"):
        return _entropy(each.mean(axis=0))


def mutual_information(probabilities: ArrayLike) -> NDArray[np.float64]:
    r"""Return how much samples disagree on class probabilities, in nats: the model's doubt (BALD).

    .. math:: H[q] - \frac{1}{n} \sum_k H[p_k]

    with the mean q and the entropy H of `predictive_entropy`.

    Parameters
    ----------
    probabilities : array_like of float, shape (n, ..., classes)
        As for `predictive_entropy`.

    Returns
    -------
    ndarray of float64, shape (...)
        From 0, where all samples agree, to `predictive_entropy`.

    Raises
    ------
    TypeError, ValueError
        As for `predictive_entropy`.

    Notes
    -----
    Houlsby et al., "Bayesian active learning for classification and preference learning",
    arXiv:1112.5745, 2011; Gal, "Uncertainty in deep learning", 2016, section 3.3.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.monte_carlo.mutual_information([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    array([0.        , 0.69314718])
    """
    each = _as_probabilities(probabilities)
    with np.errstate(under="ignore"):
        difference = _entropy(each.mean(axis=0)) - _entropy(each).mean(axis=0)
    return np.asarray(np.maximum(difference, 0.0))  # rounding can take it below


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy over the last axis, with 0 log 0 = 0."""
    terms = probabilities * np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    return np.asarray(0.0 - terms.sum(axis=-1))


def _as_samples(samples: ArrayLike) -> Array:
    array = as_array(samples, "samples")
    if not np.can_cast(array.dtype, np.complex128):
        raise TypeError(f"samples must be numbers, got dtype {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"samples must be at least one along axis 0, got shape {array.shape}")
    return array


def _as_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    array = as_array(probabilities, "probabilities")
    if not np.can_cast(array.dtype, np.float64):
        raise TypeError(f"probabilities must be real numbers, got dtype {array.dtype}")
    if array.ndim < 2 or 0 in (len(array), array.shape[-1]):
        raise ValueError(f"probabilities must be of shape (n, ..., classes), got {array.shape}")
    numbers = array.astype(np.float64)
    if not ((numbers >= 0.0) & (numbers <= 1.0)).all():
        raise ValueError(f"probabilities must be in [0, 1], got {numbers.min()} to {numbers.max()}")
    off = np.abs(numbers.sum(axis=-1) - 1.0).max(initial=0.0)
    if off > SUM_TOLERANCE:
        raise ValueError(f"probabilities must sum to 1 over the last axis, got {off} from it")
    return numbers
