"""Gaussian dropout: multiplication by normal noise, and the recipe of that noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._calls import apply, noise
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import (
    Dims,
    check_broadcast,
    check_flag,
    float_array,
    mask_shape,
    probability,
)
from fastdrop.functional.core import Array, scaled
from fastdrop.random import RNG, Key, as_key


@dataclass(frozen=True, slots=True)
class Noise:
    """Normal factors of an array, of mean 1: a recipe of a few dozen bytes, whatever its size.

    Parameters
    ----------
    elements : Mask
        Which elements of which stream, and p: the variance is p / (1 - p). For p = 1, the factors
        are 0.

    Raises
    ------
    TypeError
        If it is no `Mask`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> noise = fd.Noise(fd.Mask((2, 3), 0.5, fd.Key(0)))
    >>> noise.to_numpy().round(3)
    array([[ 0.314,  0.455,  0.604],
           [ 0.342,  1.904, -1.428]])
    """

    elements: Mask

    def __post_init__(self) -> None:
        if not isinstance(self.elements, Mask):
            raise TypeError(f"elements must be a Mask, got {type(self.elements).__name__}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of factors."""
        return self.elements.shape

    @property
    def p(self) -> float:
        """The rate that sets the variance."""
        return self.elements.p

    @property
    def key(self) -> Key:
        """The key."""
        return self.elements.key

    @property
    def std(self) -> float:
        """Standard deviation of the factors, sqrt(p / (1 - p)); 0 for p = 1."""
        return 0.0 if self.p == 1.0 else math.sqrt(self.p / (1.0 - self.p))

    def region(
        self,
        start: SupportsIndex | Sequence[SupportsIndex],
        shape: SupportsIndex | Sequence[SupportsIndex],
    ) -> "Noise":
        """Take the part in a box: the same elements of the whole get the same factors."""
        return Noise(self.elements.region(start, shape))

    def to_numpy(self) -> Array:
        """Draw the factors as an array of float64."""
        return self.apply(np.ones(self.shape))

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Multiply an array, to whose shape the factors broadcast, as `gaussian_dropout` does."""
        array = float_array(x, "x")
        if self.p == 1.0:
            return apply(self.elements, array, 1.0, out)
        if self.p == 0.0:
            check_broadcast(self.shape, array.shape)
            return scaled(array, 1.0, out)
        return noise(self.elements, array, self.std, out)


def gaussian_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    broadcast_dims: Dims = (),
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Multiply by normal noise with the mean and variance that dropout has.

    .. math:: y_i = x_i \, (1 + \sqrt{p / (1 - p)} \, z_i), \qquad z_i \sim N(0, 1)

    Parameters
    ----------
    x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
        Input of any shape and memory layout.
    p : float, default 0.5
        The rate of dropout that the noise stands for, in [0, 1]. For 1, whose variance is
        infinite, the result is +0.0.
    training, rng, out
        As for `dropout`.
    broadcast_dims : int or sequence of int, default ()
        Axes along which one factor is shared; negative ones count from the end.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`; `x` itself in evaluation and for p = 0.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    Notes
    -----
    Srivastava et al., JMLR 15, 2014, section 10. The normals are float32 numbers, whatever the
    dtype of `x`, and the same for every number of threads, CPU and memory layout; the factor is
    computed in the precision of the product. The gradient is the same function of the output's
    gradient, with the same key.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.gaussian_dropout(np.ones(4), 0.5, rng=0).round(3)
    array([0.314, 0.455, 0.604, 0.342])
    """
    p = probability(p)
    check_flag(training, "training")
    array = float_array(x, "x")
    shape = mask_shape(array.shape, broadcast_dims)
    if not training or p == 0.0:
        return scaled(array, 1.0, out)
    return Noise(make_mask(shape, p, as_key(rng))).apply(array, out)
