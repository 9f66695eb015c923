"""Dropout with what stands beside it in one pass, and zoneout: layers of several inputs."""

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._calls import apply, fused
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Mode, check_mode, float_array
from fastdrop.functional.core import Array, evaluation_scale, scaled, training_scale
from fastdrop.functional.fused import Approximate, evaluation, gelu_name
from fastdrop.functional.recurrent import switched, unswitched
from fastdrop.layers.base import ElementwiseLayer, Layer
from fastdrop.random import RNG, Key


class _ScalingLayer(Layer[Mask]):
    """A layer of several inputs with a scale that depends on the mode."""

    def __init__(self, p: float, mode: Mode, rng: RNG) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.mode: Mode = mode
        self._scale = 1.0

    def _run(self, name: str, inputs: list[tuple[str, ArrayLike]], out: Array | None) -> Array:
        x = float_array(inputs[0][1], "x")
        if self.training:
            mask: Mask | None = make_mask(x.shape, self._p, self._key.child(self._calls))
            scale = training_scale(self._p, self.mode)
        else:
            mask, scale = evaluation(x.shape, self._p, self.mode)
        y = fused(name, mask, [("x", x), *inputs[1:]], scale, out=out)
        if self.training:
            self._count()
        self._mask = mask if self.training else None
        self._scale = scale if self.training else evaluation_scale(self._p, self.mode)
        self._shape = x.shape
        return y

    def _gradient(self, dy: Array) -> Array:
        if self._mask is None or self._mask.p == 0.0:
            return scaled(dy, self._scale, None)
        return apply(self._mask, dy, self._scale, None)

    def _options(self) -> str:
        return "" if self.mode == "inverted" else f", mode={self.mode!r}"


class DropoutAdd(_ScalingLayer):
    """Add dropout of one array to another: the end of a residual block.

    A call takes ``(x, residual, out=None)``; `backward` returns the gradients of both.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element of x, in [0, 1].
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    dropout_add : the function, with the formula.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.DropoutAdd(0.5, rng=0)
    >>> drop(np.ones(4), np.full(4, 10.0))
    array([12., 10., 12., 10.])
    >>> drop.backward(np.ones(4))
    (array([2., 0., 2., 0.]), array([1., 1., 1., 1.]))
    """

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        super().__init__(p, mode, rng)

    def __call__(self, x: ArrayLike, residual: ArrayLike, out: Array | None = None) -> Array:
        """Return ``residual + dropout(x)``, as `dropout_add` does."""
        y = self._run("add", [("x", x), ("residual", residual)], out)
        self._residual = np.shape(residual)
        return y

    def backward(self, dy: ArrayLike) -> tuple[Array, Array]:
        """Return the gradients with respect to `x` and `residual` of the last call."""
        array = self._check_gradient(dy)
        return self._gradient(array), _sum_to(array, self._residual)


class BiasDropoutAdd(_ScalingLayer):
    """Add a bias, drop, and add another array.

    A call takes ``(x, bias, residual, out=None)``; `backward` returns the gradients of all three.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    bias_dropout_add : the function, with the formula.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.BiasDropoutAdd(0.5, rng=0)
    >>> drop(np.ones((2, 2)), np.array([1.0, 2.0]), np.zeros((2, 2)))
    array([[4., 0.],
           [4., 0.]])
    >>> drop.backward(np.ones((2, 2)))[1]
    array([4., 0.])
    """

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        super().__init__(p, mode, rng)

    def __call__(
        self, x: ArrayLike, bias: ArrayLike, residual: ArrayLike, out: Array | None = None
    ) -> Array:
        """Return ``residual + dropout(x + bias)``, as `bias_dropout_add` does."""
        y = self._run("bias_add", [("x", x), ("bias", bias), ("residual", residual)], out)
        self._bias, self._residual = np.shape(bias), np.shape(residual)
        return y

    def backward(self, dy: ArrayLike) -> tuple[Array, Array, Array]:
        """Return the gradients with respect to `x`, `bias` and `residual` of the last call."""
        array = self._check_gradient(dy)
        dx = self._gradient(array)
        return dx, _sum_to(dx, self._bias), _sum_to(array, self._residual)


class Zoneout(Layer[Mask]):
    """Keep the previous state of some units in training; in evaluation, take the expectation.

    A call takes ``(new, previous, out=None)``; `backward` returns the gradients of both.

    Parameters
    ----------
    p : float, default 0.5
        Probability to keep the PREVIOUS value of a unit, in [0, 1].
    rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    zoneout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.Zoneout(0.5, rng=0)
    >>> drop(np.ones(4), np.zeros(4))
    array([1., 0., 1., 0.])
    >>> drop.backward(np.ones(4))
    (array([1., 0., 1., 0.]), array([0., 1., 0., 1.]))
    """

    def __init__(self, p: float = 0.5, *, rng: RNG = None) -> None:
        super().__init__(p, rng)
        self._last_p = 0.0

    def __call__(self, new: ArrayLike, previous: ArrayLike, out: Array | None = None) -> Array:
        """Return the state to go on with, as `zoneout` does."""
        array = float_array(new, "new")
        mask = None
        if self.training:
            mask = make_mask(array.shape, self._p, self._key.child(self._calls))
        y = switched(array, previous, self._p, mask, out)
        if mask is not None:
            self._count()
        self._mask, self._last_p, self._shape = mask, self._p, array.shape
        self._previous = np.shape(previous)
        return y

    def backward(self, dy: ArrayLike) -> tuple[Array, Array]:
        """Return the gradients with respect to `new` and `previous` of the last call."""
        new, previous = unswitched(self._check_gradient(dy), self._last_p, self._mask)
        return new, _sum_to(previous, self._previous)


class _ActivationDropout(ElementwiseLayer[Mask]):
    """An activation, then dropout; keeps a reference to the input for `backward`."""

    def __init__(self, p: float, mode: Mode, rng: RNG) -> None:
        check_mode(mode)
        super().__init__(p, False, rng)
        self.mode: Mode = mode
        self._scale = 1.0
        self._x: Array | None = None
        self._applied: Mask | None = None

    def _name(self) -> str:
        raise NotImplementedError

    def _draw(self, shape: tuple[int, ...], key: Key) -> Mask:
        return make_mask(shape, self._p, key)

    def _train(self, x: Array, mask: Mask, out: Array | None) -> Array:
        return self._run(x, mask, training_scale(self._p, self.mode), out)

    def _evaluate(self, x: Array, out: Array | None) -> Array:
        return self._run(x, *evaluation(x.shape, self._p, self.mode), out)

    def _run(self, x: Array, mask: Mask | None, scale: float, out: Array | None) -> Array:
        y = fused(self._name(), mask, [("x", x)], scale, out=out)
        self._x, self._applied, self._scale = x, mask, scale
        return y

    def _gradient(self, dy: Array, mask: Mask | None) -> Array:
        assert self._x is not None, "the base has checked that there was a call"
        x = np.asarray(self._x, dtype=dy.dtype)
        inputs = [("dy", dy), ("x", x)]
        return fused(self._name() + "_gradient", self._applied, inputs, self._scale)

    def _options(self) -> str:
        return "" if self.mode == "inverted" else f", mode={self.mode!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self._p}{self._options()})"


class ReluDropout(_ActivationDropout):
    """Rectify, then drop in training.

    Keeps a reference to the input, which must not be changed before `backward`.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input is complex.

    See Also
    --------
    relu_dropout : the function, with the formula.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.ReluDropout(0.5, rng=0)
    >>> drop(np.array([1.0, -2.0, 3.0, 4.0]))
    array([2., 0., 6., 0.])
    >>> drop.backward(np.ones(4))
    array([2., 0., 2., 0.])
    """

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        super().__init__(p, mode, rng)

    def _name(self) -> str:
        return "relu"


class GeluDropout(_ActivationDropout):
    """Apply the Gaussian error linear unit, then drop in training.

    Keeps a reference to the input, which must not be changed before `backward`.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    approximate : {"none", "tanh"}, default "none"
        Whether the normal distribution function is exact or the paper's approximation.
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input is complex.

    See Also
    --------
    gelu_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.GeluDropout(0.5, rng=0)(np.array([1.0, -2.0, 3.0, 4.0])).round(4)
    array([1.6827, 0.    , 5.9919, 0.    ])
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        approximate: Approximate = "none",
        mode: Mode = "inverted",
        rng: RNG = None,
    ) -> None:
        gelu_name(approximate)
        super().__init__(p, mode, rng)
        self.approximate: Approximate = approximate

    def _name(self) -> str:
        return gelu_name(self.approximate)


def _sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an input of this shape was broadcast."""
    if gradient.shape == shape:
        return gradient
    new = gradient.ndim - len(shape)
    axes = tuple(range(new)) + tuple(
        new + axis
        for axis, length in enumerate(shape)
        if length == 1 and gradient.shape[new + axis] != 1
    )
    precise = np.complex128 if gradient.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        total = gradient.sum(axis=axes, dtype=precise)
        return np.asarray(total.reshape(shape).astype(gradient.dtype))
