"""Fused operations: dropout with a residual, a bias or an activation in one pass over memory.

Each equals its parts in sequence, up to rounding, without intermediate arrays.
"""

from typing import Any, Literal, Never

from numpy.typing import ArrayLike

from fastdrop._base.arguments import Array, Mode, as_array, check_choice, check_mode, refuse
from fastdrop._base.gradients import gradient_of, sum_to
from fastdrop._base.keys import RNG
from fastdrop._base.layers import ElementwiseLayer, Layer
from fastdrop._base.masks import Mask
from fastdrop._base.members import Member
from fastdrop._base.plans import Keep, run, run_backward

ADD = Member("dropout_add", "Vaswani et al., NIPS 2017", operation="add")
BIAS_ADD = Member("bias_dropout_add", "Vaswani et al., NIPS 2017", operation="bias_add")
RELU = Member("relu_dropout", "Nair and Hinton, ICML 2010", operation="relu")
GELU = Member("gelu_dropout", "Hendrycks and Gimpel, 2016", operation="gelu")
GELU_TANH = Member("gelu_dropout", "Hendrycks and Gimpel, 2016", operation="gelu_tanh")

Approximate = Literal["none", "tanh"]


def dropout_add(
    x: ArrayLike,
    residual: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Apply dropout to an array and add another: the end of a residual block.

    .. math:: y_i = residual_i + m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    As in Vaswani et al., "Attention is all you need", NIPS 2017, section 5.4. The gradient with
    respect to `residual` is dy; with respect to `x` it is `dropout` of dy with the same key or
    mask.

    Parameters
    ----------
    x : array_like of float or complex
        Output of the block, of any shape and any dtype of `dropout`.
    residual : array_like
        Input of the block; it broadcasts to the shape of `x`. The result has the dtype that NumPy
        promotes both to. It is computed in the widest precision of all arrays, without converted
        copies, and rounded once.
    p, training, mode, rng, mask, return_mask, out
        See `dropout`. Returns the same; `out` may be `x` or `residual`.

    Examples
    --------
    >>> fd.dropout_add(np.ones(6), np.full(6, 10.0), 0.5, rng=1)
    array([10., 12., 10., 10., 10., 12.])
    """
    if unknown:
        refuse(unknown, dropout_add)
    return run(ADD, (x, residual), (p, training, mode, rng, mask, return_mask, out))


def bias_dropout_add(
    x: ArrayLike,
    bias: ArrayLike,
    residual: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Add a bias, drop, and add another array.

    .. math:: y_i = residual_i + m_i \, (x_i + bias_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    `bias` broadcasts to the shape of `x`. Other parameters and the result are as for `dropout_add`.
    For the gradient with respect to `bias`, sum the gradient with respect to `x` to its shape.

    >>> fd.bias_dropout_add(np.ones((2, 2)), np.array([1.0, 2.0]), np.zeros((2, 2)), 0.5, rng=1)
    array([[0., 6.],
           [0., 0.]])
    """
    if unknown:
        refuse(unknown, bias_dropout_add)
    return run(BIAS_ADD, (x, bias, residual), (p, training, mode, rng, mask, return_mask, out))


def relu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Rectify, then drop.

    .. math:: y_i = m_i \, \max(x_i, 0) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    `x` is real. Other parameters and the result are as for `dropout`.

    >>> fd.relu_dropout(np.array([1.0, 2.0, -3.0, 4.0]), 0.5, rng=1)
    array([0., 4., 0., 0.])
    """
    if unknown:
        refuse(unknown, relu_dropout)
    return run(RELU, x, (p, training, mode, rng, mask, return_mask, out))


def relu_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Return the gradient of `relu_dropout` with respect to `x`; at 0 it is 0.

    All arguments are as for `gelu_dropout_backward`.

    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.relu_dropout_backward(np.ones(4), x, 0.5, rng=fd.Key(1))
    array([0., 2., 0., 0.])
    """
    if unknown:
        refuse(unknown, relu_dropout_backward)
    return run_backward(RELU, dy, x, (p, training, mode, rng, mask, False, out))


def gelu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    approximate: Approximate = "none",
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Apply the Gaussian error linear unit, then drop.

    .. math:: y_i = m_i \, x_i \Phi(x_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Hendrycks and Gimpel, "Gaussian error linear units", arXiv:1606.08415, 2016.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    approximate : {"none", "tanh"}, default "none"
        Whether Phi, the normal distribution function, is exact or the paper's approximation.
    p, training, mode, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> fd.gelu_dropout(np.array([1.0, 2.0, -3.0, 4.0]), 0.5, rng=1).round(4)
    array([0.   , 3.909, 0.   , 0.   ])
    """
    if unknown:
        refuse(unknown, gelu_dropout)
    member = gelu_member(approximate)
    return run(member, x, (p, training, mode, rng, mask, return_mask, out))


def gelu_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    approximate: Approximate = "none",
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Return the gradient of `gelu_dropout` with respect to `x`.

    `dy` is the gradient with respect to the result; its dtype and that of `x` are promoted as in
    `dropout_add`, and `out` may be either array. The other arguments are those of the forward call.
    In training, pass either its `Key` as `rng`, or the mask that it returned as `mask`; anything
    else is refused.

    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.gelu_dropout_backward(np.ones(4), x, 0.5, rng=fd.Key(1)).round(4)
    array([0.    , 2.1705, 0.    , 0.    ])
    """
    if unknown:
        refuse(unknown, gelu_dropout_backward)
    member = gelu_member(approximate)
    return run_backward(member, dy, x, (p, training, mode, rng, mask, False, out))


def gelu_member(approximate: Approximate) -> Member:
    """Return the record of a Gaussian error linear unit."""
    check_choice(approximate, "approximate", "none", "tanh")
    return GELU if approximate == "none" else GELU_TANH


class _Fused(Layer[Mask]):
    """A fused operation."""

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.mode: Mode = mode


class DropoutAdd(_Fused):
    """Apply dropout to an array in training and add another; the layer of `dropout_add`.

    A call takes ``(x, residual, out=None)``; `backward` returns the gradients of both. ``p``,
    ``mode`` and ``rng`` are as for `Dropout`.

    >>> drop = fd.DropoutAdd(0.5, rng=0)
    >>> drop(np.ones(4), np.full(4, 10.0))
    array([12., 10., 12., 10.])
    >>> drop.backward(np.ones(4))
    (array([2., 0., 2., 0.]), array([1., 1., 1., 1.]))
    """

    _member = ADD

    def __call__(
        self,
        x: ArrayLike,
        residual: ArrayLike,
        out: Array | None = None,
        *,
        training: bool | None = None,
        **unknown: Never,
    ) -> Array:
        """Return ``residual + dropout(x)``, as `dropout_add` does."""
        if unknown:
            refuse(unknown, self.__call__)
        return self._combine((x, residual), out, training)

    def backward(self, dy: ArrayLike) -> tuple[Array, Array]:
        """Return the gradients with respect to both inputs of the last call, in their dtypes."""
        array = as_array(dy, "dy")
        plan, (x, residual) = self._last_call()
        return gradient_of(x, plan.backward, array), sum_to(residual, array)


class BiasDropoutAdd(_Fused):
    """Add a bias, drop in training, and add another array; the layer of `bias_dropout_add`.

    A call takes ``(x, bias, residual, out=None)``; `backward` returns the gradients of all three.
    ``p``, ``mode`` and ``rng`` are as for `Dropout`.

    >>> drop = fd.BiasDropoutAdd(0.5, rng=0)
    >>> drop(np.ones((2, 2)), np.array([1.0, 2.0]), np.zeros((2, 2)))
    array([[4., 0.],
           [4., 0.]])
    >>> drop.backward(np.ones((2, 2)))[1]
    array([4., 0.])
    """

    _member = BIAS_ADD

    def __call__(
        self,
        x: ArrayLike,
        bias: ArrayLike,
        residual: ArrayLike,
        out: Array | None = None,
        *,
        training: bool | None = None,
        **unknown: Never,
    ) -> Array:
        """Return ``residual + dropout(x + bias)``, as `bias_dropout_add` does."""
        if unknown:
            refuse(unknown, self.__call__)
        return self._combine((x, bias, residual), out, training)

    def backward(self, dy: ArrayLike) -> tuple[Array, Array, Array]:
        """Return the gradients with respect to all inputs of the last call, in their dtypes."""
        array = as_array(dy, "dy")
        plan, (x, bias, residual) = self._last_call()
        dx = plan.backward(array)  # rounded to the dtypes of x and bias at the end
        return sum_to(x, dx), sum_to(bias, dx), sum_to(residual, array)


class ActivationLayer(_Fused, ElementwiseLayer[Mask]):
    """An activation, whose gradient needs its input."""

    def _run(
        self, inputs: tuple[Array, ...], out: Array | None, training: bool | None, kept: Any = ()
    ) -> Array:
        return super()._run(inputs, out, training, inputs)


class ReluDropout(ActivationLayer):
    """Rectify, then drop in training; the layer of `relu_dropout`.

    ``p``, ``mode`` and ``rng`` are as for `Dropout`. The layer keeps a reference to its input; do
    not change the array before `backward`.

    >>> drop = fd.ReluDropout(0.5, rng=0)
    >>> drop(np.array([1.0, -2.0, 3.0, 4.0]))
    array([2., 0., 6., 0.])
    >>> drop.backward(np.ones(4))
    array([2., 0., 2., 0.])
    """

    _member = RELU


class GeluDropout(ActivationLayer):
    """Apply the Gaussian error linear unit, then drop in training; the layer of `gelu_dropout`.

    ``approximate`` is as for `gelu_dropout`; all else is as for `ReluDropout`.

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
        gelu_member(approximate)
        super().__init__(p, mode=mode, rng=rng)
        self.approximate: Approximate = approximate

    @property
    def _member(self) -> Member:  # type: ignore[override]
        return gelu_member(self.approximate)
