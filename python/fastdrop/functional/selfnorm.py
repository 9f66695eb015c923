"""Alpha dropout, for self-normalising networks: dropped elements take SELU's lower limit."""

import math

from numpy.typing import ArrayLike

from fastdrop._calls import fused
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import check_flag, feature_dims, float_array, mask_shape, probability
from fastdrop.functional.core import Array, scaled
from fastdrop.random import RNG, as_key

ALPHA = -1.7580993408473766
"""The limit of SELU far below 0: minus its scale times its alpha (Klambauer et al., section 3)."""


def alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    .. math:: y_i = a \, (m_i x_i + (1 - m_i) \, \alpha') + b, \qquad m_i \sim Bernoulli(1 - p)

    with :math:`\alpha' = -1.7581`, :math:`a = ((1 - p)(1 + p \alpha'^2))^{-1/2}` and
    :math:`b = -a \, p \, \alpha'`.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1]. For 1, the result is 0.
    training, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`; `x` itself in evaluation and for p = 0.

    Raises
    ------
    TypeError, ValueError
        If `x` is not of these dtypes, or as for `dropout`.

    Notes
    -----
    Klambauer et al., "Self-normalizing neural networks", NIPS 2017. The gradient is that of
    `dropout` with the same key, but for the factor: ``mask.apply(dy, scale=a)``.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal(100_000)
    >>> y = fd.alpha_dropout(x, 0.5, rng=1)
    >>> print(f"{y.mean():.2f} {y.var():.2f}")
    -0.00 1.00
    """
    array = float_array(x, "x")
    return _drop(array, array.shape, p, training, rng, out)


def feature_alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    channel_axis: int = 1,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    """Set whole channels to SELU's lower limit, and keep mean 0 and variance 1.

    The formula is that of `alpha_dropout`, with one decision for a channel of a sample.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, shape (batch, channels, ...)
        Input with at least two axes, in any memory layout.
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1]. For 1, the result is 0.
    training, rng, out
        As for `dropout`.
    channel_axis : int, default 1
        Where the channels are. The batch is axis 0.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`; `x` itself in evaluation and for p = 0.

    Raises
    ------
    TypeError, ValueError
        If `x` is not of these dtypes, has fewer axes, or as for `dropout`.

    Notes
    -----
    Klambauer et al., "Self-normalizing neural networks", NIPS 2017.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.feature_alpha_dropout(np.zeros((1, 2, 3)), 0.5, rng=1).round(3)
    array([[[-0.779, -0.779, -0.779],
            [ 0.779,  0.779,  0.779]]])
    """
    array = float_array(x, "x")
    dims = feature_dims(array.shape, max(2, array.ndim), channel_axis)
    return _drop(array, mask_shape(array.shape, dims), p, training, rng, out)


def _drop(
    x: Array,
    shape: tuple[int, ...],
    p: float,
    training: bool,
    rng: RNG,
    out: Array | None,
) -> Array:
    p = probability(p)
    check_flag(training, "training")
    if not training or p == 0.0:
        return scaled(x, 1.0, out)
    return alpha(x, make_mask(shape, p, as_key(rng)), out)


def alpha_scale(p: float) -> float:
    """Return what kept elements, and the gradient, are multiplied by; 0 for p = 1."""
    return 0.0 if p == 1.0 else 1.0 / math.sqrt((1.0 - p) * (1.0 + p * ALPHA * ALPHA))


def alpha(x: Array, mask: Mask, out: Array | None) -> Array:
    """Apply a mask as alpha dropout does."""
    if mask.p == 0.0:
        return scaled(x, 1.0, out)
    scale = alpha_scale(mask.p)
    shift = -scale * mask.p * ALPHA
    return fused("affine", mask, [("x", x)], scale, shift, scale * ALPHA + shift, out)
