"""Gaussian dropout: multiplication by normal noise, and the recipe of this noise."""

import math
from dataclasses import dataclass
from typing import Any, Never

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import _core
from fastdrop._base.arguments import INVERTED, Array, Axes, Lengths, as_array, as_out, refuse
from fastdrop._base.keys import RNG, Key
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Drawable, Mask, make_mask
from fastdrop._base.members import Member, broadcast_axes, drawn_shape
from fastdrop._base.plans import run_recipe, select
from fastdrop._base.states import Checked


@dataclass(frozen=True)
class Noise(Checked, Drawable):
    """A recipe of normal factors with mean 1. It has a few hundred bytes for an array of any size.

    The mask ``elements`` gives their shape, key and p. Their variance is p / (1 - p); for p = 1
    they are 0.

    >>> fd.Noise(fd.Mask((2, 3), 0.5, fd.Key(0))).to_numpy().round(3)
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
        """The equivalent rate of dropout, which sets the variance."""
        return self.elements.p

    @property
    def key(self) -> Key:
        """Key of `elements`."""
        return self.elements.key

    @property
    def std(self) -> float:
        """Standard deviation of the factors, sqrt(p / (1 - p)); 0 for p = 1."""
        return 0.0 if self.p == 1.0 else math.sqrt(self.p / (1.0 - self.p))

    def region(self, start: Lengths, shape: Lengths) -> "Noise":
        """Return the noise of a box: its elements get the same factors as in the whole."""
        return Noise(self.elements.region(start, shape))

    def to_numpy(self) -> Array:
        """Draw the factors as an array of float64."""
        return self.apply(np.ones(self.shape))

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Multiply `x` by the factors, which broadcast to its shape, as in `gaussian_dropout`."""
        array = as_array(x, "x")
        if self.p in (0.0, 1.0):
            return select(array, self.elements, 1.0, out)
        y = _core.noise(self.elements, array, self.std, None if out is None else as_out(out))
        return y if out is None else out


def _draw(shape: tuple[int, ...], p: float, key: Key, broadcast_dims: Axes) -> Noise:
    shared = broadcast_axes(shape, broadcast_dims)
    return Noise(make_mask(drawn_shape(shape, shared), p, key))


GAUSSIAN = Member(
    "gaussian_dropout",
    "Srivastava et al., JMLR 2014",
    operation="noise",
    options=("broadcast_dims",),
    axes=broadcast_axes,
    recipe=Noise,
    draw=_draw,
)


def gaussian_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    broadcast_dims: Axes = (),
    rng: RNG = None,
    mask: Noise | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Multiply by normal noise with the mean and variance of dropout.

    .. math:: y_i = x_i \, (1 + \sqrt{p / (1 - p)} \, z_i), \qquad z_i \sim N(0, 1)

    See Srivastava et al., JMLR 15, 2014, section 10. For the gradient, apply the function to dy
    with the same key or mask. The normals are float32 numbers for every dtype of `x`, the same for
    every number of threads, CPU and memory layout; the factor is computed in the precision of the
    product.

    Parameters
    ----------
    x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
        Input of any shape and memory layout.
    p : float, default 0.5
        The equivalent rate of dropout, in [0, 1]. For 1, where the variance is infinite, the result
        is +0.0.
    broadcast_dims : int or sequence of int, default ()
        Axes along which elements share a factor; negative ones count from the end.
    mask : Noise, optional
        Noise to apply instead of drawing it from `rng`; `p` is then not used.
    training, rng, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> fd.gaussian_dropout(np.ones(4), 0.5, rng=0).round(3)
    array([0.314, 0.455, 0.604, 0.342])
    """
    if unknown:
        refuse(unknown, gaussian_dropout)
    request = p, training, INVERTED, rng, mask, return_mask, out
    return run_recipe(GAUSSIAN, x, request, broadcast_dims)


class GaussianDropout(ElementwiseLayer[Noise]):
    """Multiply by normal noise in training; the layer of `gaussian_dropout`.

    ``p`` is as for `gaussian_dropout`; ``inplace``, ``broadcast_dims`` and ``rng`` are as for
    `Dropout`. ``mask`` is a `Noise`.

    >>> drop = fd.GaussianDropout(0.2, rng=0)
    >>> drop(np.ones(3)).round(3)
    array([1.524, 1.064, 1.772])
    >>> drop.mask.std
    0.5
    """

    _member = GAUSSIAN

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
