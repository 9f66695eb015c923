"""Members that do more than drop: SELU's lower limit, sums, activations, and previous states.

Each is a composition of linear calls, so XLA fuses the rest with what surrounds it.
"""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import Axes
from fastdrop._base.members import Member
from fastdrop._family.activations import PARAMETERS, SIGMOID, SILU, Activation, activation_member
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA, SELU_LIMIT, alpha_numbers
from fastdrop._family.fused import ADD, BIAS_ADD, RELU, Approximate, gelu_member
from fastdrop._family.zoneout import ZONEOUT
from fastdrop.jax._call import Call, Request, as_inputs, decide, request_of


def alpha_dropout(
    x: Any, p: Any = 0.5, *, broadcast_dims: Axes = (), **call: Unpack[Call]
) -> Array:
    r"""Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    .. math:: y_i = a \, (m_i x_i + (1 - m_i) \, \alpha') + b, \qquad m_i \sim Bernoulli(1 - p)

    with :math:`\alpha' = -1.7581`, :math:`a = ((1 - p)(1 + p \alpha'^2))^{-1/2}` and :math:`b = -a
    \, p \, \alpha'`. See Klambauer et al., "Self-normalizing neural networks", NIPS 2017. `x` is
    real. All parameters are as for `dropout`; for p = 1, the result is 0.

    >>> y = fastdrop.jax.alpha_dropout(jax.numpy.zeros(4), 0.5, key=fd.Key(0))
    >>> np.asarray(y).round(3)
    array([ 0.779,  0.779,  0.779, -0.779], dtype=float32)
    """
    return _alpha(ALPHA, x, request_of(alpha_dropout, p, call), broadcast_dims)


def feature_alpha_dropout(
    x: Any, p: Any = 0.5, *, channel_axis: int = 1, **call: Unpack[Call]
) -> Array:
    """Set whole channels to SELU's lower limit, and keep mean 0 and variance 1.

    This is `alpha_dropout` with one decision per channel of each sample. `x` and `channel_axis` are
    as for `feature_dropout`.

    >>> y = fastdrop.jax.feature_alpha_dropout(jax.numpy.zeros((1, 2, 3)), 0.5, key=fd.Key(1))
    >>> np.asarray(y).round(3)
    array([[[-0.779, -0.779, -0.779],
            [ 0.779,  0.779,  0.779]]], dtype=float32)
    """
    return _alpha(CHANNELS_ALPHA, x, request_of(feature_alpha_dropout, p, call), channel_axis)


def zoneout(new: Any, previous: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    r"""Keep the previous state of some units; if deterministic, take the expectation.

    .. math:: h_i = m_i \, new_i + (1 - m_i) \, previous_i, \qquad m_i \sim Bernoulli(1 - p)

    See Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR
    2017. `previous` broadcasts to the shape of `new`, and the result has the dtype that JAX
    promotes both to. `p` is the probability to keep the PREVIOUS value. Other parameters are as for
    `dropout`.

    >>> new, previous = jax.numpy.ones(6), jax.numpy.zeros(6)
    >>> fastdrop.jax.zoneout(new, previous, 0.5, key=fd.Key(1))
    Array([0., 1., 0., 0., 0., 1.], dtype=float32)
    """
    (new, previous), dtype = as_inputs(ZONEOUT, new, previous)
    request = request_of(zoneout, p, call)
    draw = decide(request, new.shape, name="new")
    previous = jnp.broadcast_to(previous, new.shape)
    if request.deterministic:
        rate: Any = draw.p if draw.rate is None else draw.rate.astype(new.real.dtype)
        return _cast((1 - rate) * new + rate * previous, dtype)
    return _cast(draw(new, "keep") + draw(previous, "complement"), dtype)


def dropout_add(x: Any, residual: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    r"""Apply dropout to an array and add another: the end of a residual block.

    .. math:: y_i = residual_i + m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    As in Vaswani et al., "Attention is all you need", NIPS 2017, section 5.4. `residual` broadcasts
    to the shape of `x`. The result has the dtype that JAX promotes both to; it is computed in at
    least float32, and rounded once. Other parameters are as for `dropout`.

    >>> fastdrop.jax.dropout_add(jax.numpy.ones(6), 10.0, 0.5, key=fd.Key(1))
    Array([10., 12., 10., 10., 10., 12.], dtype=float32)
    """
    (x, residual), dtype = as_inputs(ADD, x, residual)
    return _cast(residual + decide(request_of(dropout_add, p, call), x.shape)(x), dtype)


def bias_dropout_add(x: Any, bias: Any, residual: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    r"""Add a bias, drop, and add another array.

    .. math:: y_i = residual_i + m_i \, (x_i + bias_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    `bias` and `residual` broadcast to the shape of `x`. All else is as for `dropout_add`.

    >>> x, bias = jax.numpy.ones((2, 2)), jax.numpy.array([1.0, 2.0])
    >>> fastdrop.jax.bias_dropout_add(x, bias, 0.0, 0.5, key=fd.Key(1))
    Array([[0., 6.],
           [0., 0.]], dtype=float32)
    """
    (x, bias, residual), dtype = as_inputs(BIAS_ADD, x, bias, residual)
    draw = decide(request_of(bias_dropout_add, p, call), x.shape)
    return _cast(residual + draw(x + bias), dtype)


def relu_dropout(x: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    r"""Rectify and drop.

    .. math:: y_i = m_i \, \max(x_i, 0) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    `x` is real. All parameters are as for `dropout`.

    >>> fastdrop.jax.relu_dropout(jax.numpy.array([1.0, 2.0, -3.0, 4.0]), 0.5, key=fd.Key(1))
    Array([0., 4., 0., 0.], dtype=float32)
    """
    return _activated(RELU, x, request_of(relu_dropout, p, call), jax.nn.relu)


def gelu_dropout(
    x: Any, p: Any = 0.5, *, approximate: Approximate = "none", **call: Unpack[Call]
) -> Array:
    r"""Apply the Gaussian error linear unit, and drop.

    .. math:: y_i = m_i \, x_i \Phi(x_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Hendrycks and Gimpel, "Gaussian error linear units", arXiv:1606.08415, 2016. `x` is real.
    `approximate`, "none" or "tanh", tells whether Phi, the normal distribution function, is exact.
    Other parameters are as for `dropout`.

    >>> x = jax.numpy.array([1.0, 2.0, -3.0, 4.0])
    >>> fastdrop.jax.gelu_dropout(x, 0.5, key=fd.Key(1)).round(4)
    Array([0.   , 3.909, 0.   , 0.   ], dtype=float32)
    """
    member = gelu_member(approximate)
    request = request_of(gelu_dropout, p, call)
    return _activated(member, x, request, _ACTIVATIONS[member.operation])


def silu_dropout(x: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    r"""Apply the sigmoid-weighted linear unit (SiLU, Swish), and drop.

    .. math:: y_i = m_i \, x_i / (1 + e^{-x_i}) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Elfwing et al., "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", Neural Networks 2018. `x` is real. All parameters are as for `dropout`.

    >>> x = jax.numpy.array([1.0, 2.0, -3.0, 4.0])
    >>> fastdrop.jax.silu_dropout(x, 0.5, key=fd.Key(1)).round(2)
    Array([0.  , 3.52, 0.  , 0.  ], dtype=float32)
    """
    return _activated(SILU, x, request_of(silu_dropout, p, call), jax.nn.silu)


def activation_dropout(
    x: Any,
    p: Any = 0.5,
    *,
    activation: Activation,
    negative_slope: float | None = None,
    alpha: float | None = None,
    **call: Unpack[Call],
) -> Array:
    r"""Apply an activation, and drop.

    .. math:: y_i = m_i \, f(x_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    `activation`, `negative_slope` and `alpha` are as for `fastdrop.activation_dropout`. `x` is
    real. Other parameters are as for `dropout`.

    >>> x = jax.numpy.array([1.0, 2.0, -3.0, 4.0])
    >>> fastdrop.jax.activation_dropout(x, 0.5, activation="tanh", key=fd.Key(1)).round(4)
    Array([0.   , 1.9281, 0.   , 0.   ], dtype=float32)
    """
    member, parameter = activation_member(activation, negative_slope, alpha)
    function = _ACTIVATIONS[activation]
    if activation in PARAMETERS:
        function = functools.partial(function, **{PARAMETERS[activation][0]: parameter})
    return _activated(member, x, request_of(activation_dropout, p, call), function)


_ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu6": jax.nn.relu6,
    "hardswish": jax.nn.hard_swish,
}
"""Functions of the operations."""


def _activated(
    member: Member, x: Any, request: Request, activation: Callable[[Array], Array]
) -> Array:
    """Apply an activation, and drop."""
    (x,), dtype = as_inputs(member, x)
    draw = decide(request, x.shape)
    # A dropped element never reaches the activation, so its gradient is 0 even where x is NaN.
    y = activation(draw(x, "keep"))
    if member is SIGMOID:  # the others are 0 at 0
        y = draw(y, "keep")
    return _cast(y * draw.scale, dtype)


def _cast(y: Array, dtype: Any) -> Array:
    return y.astype(dtype)


def _alpha(member: Member, x: Any, request: Request, option: Any) -> Array:
    given = x
    (x,), dtype = as_inputs(member, x)
    draw = decide(request, x.shape, member.axes(x.shape, option))
    if draw.keeps is not None:
        return jnp.asarray(given) if draw.keeps else _cast(draw(x), dtype)
    scale, shift, fill = _numbers(draw.rate) if draw.p is None else alpha_numbers(draw.p)
    if not draw.shares:
        return _cast(draw(x - SELU_LIMIT, "keep") * scale + fill, dtype)

    @jax.checkpoint  # decisions are drawn again for the gradient
    def affine(x: Array) -> Array:
        kept = draw(jnp.ones(draw.drawn, x.dtype), "keep")
        return jnp.where(kept != 0, x * scale + shift, fill)

    return _cast(affine(x), dtype)


def _numbers(rate: Any) -> tuple[Any, Any, Any]:
    """`alpha_numbers` of an array."""
    rest = jnp.where(rate == 1, 1, 1 - rate)
    scale = jnp.where(rate == 1, 0, 1 / jnp.sqrt(rest * (1 + rate * SELU_LIMIT**2)))
    shift = -scale * rate * SELU_LIMIT
    return scale, shift, scale * SELU_LIMIT + shift
