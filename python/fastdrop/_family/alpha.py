"""Alpha dropout, for self-normalising networks: dropped elements take SELU's lower limit."""

import math
from typing import Any, Never

from numpy.typing import ArrayLike

from fastdrop._base.arguments import Array, Axes, refuse
from fastdrop._base.keys import RNG
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Mask
from fastdrop._base.members import (
    Member,
    Numbers,
    as_channel_axis,
    broadcast_axes,
    channel_axes,
)
from fastdrop._base.plans import Keep, run

SELU_LIMIT = -1.7580993408473766
"""SELU's lower limit: minus its scale times its alpha (Klambauer et al., section 3)."""


def alpha_numbers(p: float, mode: str | None = None) -> Numbers:
    """Return a, b and the value of dropped elements; zeros for p = 1."""
    scale = 0.0 if p == 1.0 else 1.0 / math.sqrt((1.0 - p) * (1.0 + p * SELU_LIMIT * SELU_LIMIT))
    shift = 0.0 - scale * p * SELU_LIMIT
    return Numbers(scale, shift, scale * SELU_LIMIT + shift)


_PAPER = "Klambauer et al., NIPS 2017"
ALPHA = Member(
    "alpha_dropout", _PAPER, "affine", ("broadcast_dims",), broadcast_axes, alpha_numbers
)
CHANNELS_ALPHA = Member(
    "feature_alpha_dropout", _PAPER, "affine", ("channel_axis",), channel_axes(), alpha_numbers
)


def alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    broadcast_dims: Axes = (),
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    .. math:: y_i = a \, (m_i x_i + (1 - m_i) \, \alpha') + b, \qquad m_i \sim Bernoulli(1 - p)

    with :math:`\alpha' = -1.7581`, :math:`a = ((1 - p)(1 + p \alpha'^2))^{-1/2}` and :math:`b = -a
    \, p \, \alpha'`. See Klambauer et al., "Self-normalizing neural networks", NIPS 2017. The
    gradient is ``mask.apply(dy, scale=a)``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1]. For 1, the result is 0.
    training, broadcast_dims, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal(100_000)
    >>> y = fd.alpha_dropout(x, 0.5, rng=1)
    >>> print(f"{y.mean():.2f} {y.var():.2f}")
    -0.00 1.00
    """
    if unknown:
        refuse(unknown, alpha_dropout)
    return run(ALPHA, x, (p, training, None, rng, mask, return_mask, out), broadcast_dims)


def feature_alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    channel_axis: int = 1,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Set whole channels to SELU's lower limit, and keep mean 0 and variance 1.

    This is `alpha_dropout` with one decision per channel of each sample. `x` has shape (batch,
    channels, ...), and `channel_axis` is as for `feature_dropout`. Other parameters and the result
    are as for `alpha_dropout`.

    >>> fd.feature_alpha_dropout(np.zeros((1, 2, 3)), 0.5, rng=1).round(3)
    array([[[-0.779, -0.779, -0.779],
            [ 0.779,  0.779,  0.779]]])
    """
    if unknown:
        refuse(unknown, feature_alpha_dropout)
    request = p, training, None, rng, mask, return_mask, out
    return run(CHANNELS_ALPHA, x, request, channel_axis)


class AlphaDropout(ElementwiseLayer[Mask]):
    """Set elements to SELU's lower limit in training; the layer of `alpha_dropout`.

    The parameters are those of `Dropout` without ``mode``.

    >>> fd.AlphaDropout(0.5, rng=0)(np.zeros(4)).round(3)
    array([ 0.779, -0.779,  0.779, -0.779])
    """

    _member = ALPHA
    mode = None

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        broadcast_dims: Axes = (),
        rng: RNG = None,
    ) -> None:
        self.inplace, self.broadcast_dims = inplace, broadcast_dims
        super().__init__(p, rng)


class FeatureAlphaDropout(AlphaDropout):
    """Set whole channels to SELU's lower limit in training; the layer of `feature_alpha_dropout`.

    The parameters are those of `FeatureDropout` without ``mode``.

    >>> fd.FeatureAlphaDropout(0.5, rng=0)(np.zeros((2, 2, 2)))[1].round(3)
    array([[ 0.779,  0.779],
           [-0.779, -0.779]])
    """

    _member = CHANNELS_ALPHA

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        channel_axis: int = 1,
        rng: RNG = None,
    ) -> None:
        self.channel_axis = as_channel_axis(channel_axis)
        super().__init__(p, inplace, rng=rng)
