"""Layers whose dropped elements become no zeros: alpha dropout, and Gaussian noise."""

from fastdrop._calls import apply
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Dims, as_axis_number, as_dims, feature_dims, mask_shape
from fastdrop.functional.core import Array
from fastdrop.functional.gaussian import Noise
from fastdrop.functional.selfnorm import alpha, alpha_scale
from fastdrop.layers.base import ElementwiseLayer
from fastdrop.random import RNG, Key


class AlphaDropout(ElementwiseLayer[Mask]):
    """Set elements to SELU's lower limit in training, and keep mean 0 and variance 1.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1]. For 1, the result is 0.
    inplace, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input is complex.

    See Also
    --------
    alpha_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.AlphaDropout(0.5, rng=0)(np.zeros(4)).round(3)
    array([ 0.779, -0.779,  0.779, -0.779])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: RNG = None) -> None:
        super().__init__(p, inplace, rng)

    def _draw(self, shape: tuple[int, ...], key: Key) -> Mask:
        return make_mask(shape, self._p, key)

    def _train(self, x: Array, mask: Mask, out: Array | None) -> Array:
        return alpha(x, mask, out)

    def _gradient(self, dy: Array, mask: Mask | None) -> Array:
        if mask is None or mask.p == 0.0:
            return dy
        return apply(mask, dy, alpha_scale(mask.p), None)


class FeatureAlphaDropout(AlphaDropout):
    """Set whole channels to SELU's lower limit in training, and keep mean 0 and variance 1.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1]. For 1, the result is 0.
    inplace, rng
        As for `Dropout`.
    channel_axis : int, default 1
        Where the channels are. The batch is axis 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input is complex or has fewer than
        two axes.

    See Also
    --------
    feature_alpha_dropout : the function, with the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.FeatureAlphaDropout(0.5, rng=0)(np.zeros((2, 2, 2)))[1].round(3)
    array([[ 0.779,  0.779],
           [-0.779, -0.779]])
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        channel_axis: int = 1,
        rng: RNG = None,
    ) -> None:
        super().__init__(p, inplace, rng=rng)
        self.channel_axis = as_axis_number(channel_axis, "channel_axis")
        if self.channel_axis == 0:
            raise ValueError("channel_axis must not be axis 0, the batch, got 0")

    def _draw(self, shape: tuple[int, ...], key: Key) -> Mask:
        dims = feature_dims(shape, max(2, len(shape)), self.channel_axis)
        return make_mask(mask_shape(shape, dims), self._p, key)

    def _options(self) -> str:
        return "" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}"


class GaussianDropout(ElementwiseLayer[Noise]):
    """Multiply by normal noise in training, with the mean and variance that dropout has.

    Parameters
    ----------
    p : float, default 0.5
        The rate of dropout that the noise stands for, in [0, 1]. For 1, the result is +0.0.
    inplace, broadcast_dims, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    gaussian_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.GaussianDropout(0.2, rng=0)
    >>> drop(np.ones(3)).round(3)
    array([1.524, 1.064, 1.772])
    >>> drop.mask.std
    0.5
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        broadcast_dims: Dims = (),
        rng: RNG = None,
    ) -> None:
        super().__init__(p, inplace, rng)
        self.broadcast_dims = as_dims(broadcast_dims)

    def _draw(self, shape: tuple[int, ...], key: Key) -> Noise:
        return Noise(make_mask(mask_shape(shape, self.broadcast_dims), self._p, key))

    def _train(self, x: Array, mask: Noise, out: Array | None) -> Array:
        return mask.apply(x, out)

    def _gradient(self, dy: Array, mask: Noise | None) -> Array:
        return dy if mask is None else mask.apply(dy)

    def _options(self) -> str:
        return f", broadcast_dims={self.broadcast_dims}" if self.broadcast_dims else ""
