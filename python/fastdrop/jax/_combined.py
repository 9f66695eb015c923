"""Members that do more than drop: SELU's lower limit, sums, activations, and previous states.

Each is a composition of linear calls, so XLA fuses the rest with what surrounds it.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import Axes
from fastdrop._base.members import Member
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA, SELU_LIMIT, alpha_numbers
from fastdrop._family.fused import ADD, BIAS_ADD, RELU, Approximate, gelu_member
from fastdrop._family.zoneout import ZONEOUT
from fastdrop.jax._call import Request, as_inputs, decide


def alpha_dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    broadcast_dims: Axes = (),
    whole: Sequence[int] | None = None,
    start: Any = None,
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
    return _alpha(ALPHA, x, (p, key, deterministic, whole, start), broadcast_dims)


def feature_alpha_dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    channel_axis: int = 1,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    """Set whole channels to SELU's lower limit, and keep mean 0 and variance 1.

    This is `alpha_dropout` with one decision per channel of each sample. `x` and `channel_axis` are
    as for `feature_dropout`.

    >>> y = fastdrop.jax.feature_alpha_dropout(jax.numpy.zeros((1, 2, 3)), 0.5, key=fd.Key(1))
    >>> np.asarray(y).round(3)
    array([[[-0.779, -0.779, -0.779],
            [ 0.779,  0.779,  0.779]]], dtype=float32)
    """
    return _alpha(CHANNELS_ALPHA, x, (p, key, deterministic, whole, start), channel_axis)


def zoneout(
    new: Any,
    previous: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
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
    draw = decide((p, key, deterministic, whole, start), new.shape, name="new")
    previous = jnp.broadcast_to(previous, new.shape)
    if deterministic:
        rate: Any = draw.p if draw.rate is None else draw.rate.astype(new.real.dtype)
        return _cast((1 - rate) * new + rate * previous, dtype)
    return _cast(draw(new, "keep") + draw(previous, "complement"), dtype)


def dropout_add(
    x: Any,
    residual: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    r"""Apply dropout to an array and add another: the end of a residual block.

    .. math:: y_i = residual_i + m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    As in Vaswani et al., "Attention is all you need", NIPS 2017, section 5.4. `residual` broadcasts
    to the shape of `x`. The result has the dtype that JAX promotes both to; it is computed in at
    least float32, and rounded once. Other parameters are as for `dropout`.

    >>> fastdrop.jax.dropout_add(jax.numpy.ones(6), 10.0, 0.5, key=fd.Key(1))
    Array([10., 12., 10., 10., 10., 12.], dtype=float32)
    """
    (x, residual), dtype = as_inputs(ADD, x, residual)
    return _cast(residual + decide((p, key, deterministic, whole, start), x.shape)(x), dtype)


def bias_dropout_add(
    x: Any,
    bias: Any,
    residual: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    r"""Add a bias, drop, and add another array.

    .. math:: y_i = residual_i + m_i \, (x_i + bias_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    `bias` and `residual` broadcast to the shape of `x`. All else is as for `dropout_add`.

    >>> x, bias = jax.numpy.ones((2, 2)), jax.numpy.array([1.0, 2.0])
    >>> fastdrop.jax.bias_dropout_add(x, bias, 0.0, 0.5, key=fd.Key(1))
    Array([[0., 6.],
           [0., 0.]], dtype=float32)
    """
    (x, bias, residual), dtype = as_inputs(BIAS_ADD, x, bias, residual)
    draw = decide((p, key, deterministic, whole, start), x.shape)
    return _cast(residual + draw(x + bias), dtype)


def relu_dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    r"""Rectify and drop.

    .. math:: y_i = m_i \, \max(x_i, 0) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    `x` is real. All parameters are as for `dropout`.

    >>> fastdrop.jax.relu_dropout(jax.numpy.array([1.0, 2.0, -3.0, 4.0]), 0.5, key=fd.Key(1))
    Array([0., 4., 0., 0.], dtype=float32)
    """
    (x,), dtype = as_inputs(RELU, x)
    # A dropped element never reaches the activation, so its gradient is 0 even where x is NaN.
    draw = decide((p, key, deterministic, whole, start), x.shape)
    return _cast(jax.nn.relu(draw(x)), dtype)


def gelu_dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    approximate: Approximate = "none",
    whole: Sequence[int] | None = None,
    start: Any = None,
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
    (x,), dtype = as_inputs(gelu_member(approximate), x)
    draw = decide((p, key, deterministic, whole, start), x.shape)
    # Masked first, for the reason in relu_dropout; the activation of 0 is 0.
    y = jax.nn.gelu(draw(x, "keep"), approximate=approximate == "tanh")
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
    fixed = jnp.where(draw.dropped(), fill, shift).astype(x.dtype)
    return _cast(draw(x, "keep") * scale + fixed, dtype)


def _numbers(rate: Any) -> tuple[Any, Any, Any]:
    """`alpha_numbers` of an array."""
    rest = jnp.where(rate == 1, 1, 1 - rate)
    scale = jnp.where(rate == 1, 0, 1 / jnp.sqrt(rest * (1 + rate * SELU_LIMIT**2)))
    shift = -scale * rate * SELU_LIMIT
    return scale, shift, scale * SELU_LIMIT + shift
