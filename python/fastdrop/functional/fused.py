"""Dropout together with what stands beside it in a network, in one pass over memory.

Each is the same as its parts one after the other, up to rounding; nothing is stored in between.
"""

from typing import Literal

from numpy.typing import ArrayLike

from fastdrop._calls import fused
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Mode, check_flag, check_mode, float_array, probability
from fastdrop.functional.core import (
    NO_KEY,
    Array,
    all_dropped,
    evaluation_scale,
    training_scale,
)
from fastdrop.random import RNG, as_key

Approximate = Literal["none", "tanh"]


def dropout_add(
    x: ArrayLike,
    residual: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Add dropout of one array to another: the end of a residual block.

    .. math:: y_i = residual_i + m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float or complex
        Output of the block, of any shape and any of the dtypes of `dropout`.
    residual : array_like
        What went around the block, of the dtype of `x`; it broadcasts to its shape.
    p : float, default 0.5
        Probability to DROP an element of `x`, in [0, 1].
    training, mode, rng
        As for `dropout`.
    out : ndarray, optional
        Array to write into, of the shape and dtype of `x`; may be `x` or `residual`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not go together, or as for `dropout`.

    Notes
    -----
    The gradient with respect to `residual` is that of the result; with respect to `x` it is
    `dropout` of that with the same key. As in "Attention is all you need", Vaswani et al., 2017,
    section 5.4.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.dropout_add(np.ones(6), np.full(6, 10.0), 0.5, rng=1)
    array([10., 12., 10., 10., 10., 12.])
    """
    array = float_array(x, "x")
    mask, scale = decision(array.shape, p, training, mode, rng)
    return fused("add", mask, [("x", array), ("residual", residual)], scale, out=out)


def bias_dropout_add(
    x: ArrayLike,
    bias: ArrayLike,
    residual: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Add a bias, drop, and add another array.

    .. math:: y_i = residual_i + m_i \, (x_i + bias_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float or complex
        Output of the block, of any shape and any of the dtypes of `dropout`.
    bias, residual : array_like
        Of the dtype of `x`; they broadcast to its shape.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training, mode, rng
        As for `dropout`.
    out : ndarray, optional
        Array to write into, of the shape and dtype of `x`; may be `x` or `residual`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not go together, or as for `dropout`.

    Notes
    -----
    As `dropout_add`; the gradient with respect to `bias` is that of `x`, summed to its shape.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.bias_dropout_add(np.ones((2, 2)), np.array([1.0, 2.0]), np.zeros((2, 2)), 0.5, rng=1)
    array([[0., 6.],
           [0., 0.]])
    """
    array = float_array(x, "x")
    mask, scale = decision(array.shape, p, training, mode, rng)
    inputs = [("x", array), ("bias", bias), ("residual", residual)]
    return fused("bias_add", mask, inputs, scale, out=out)


def relu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Rectify, then drop.

    .. math:: y_i = m_i \, \max(x_i, 0) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training, mode, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.relu_dropout(np.array([1.0, 2.0, -3.0, 4.0]), 0.5, rng=1)
    array([0., 4., 0., 0.])
    """
    array = float_array(x, "x")
    mask, scale = decision(array.shape, p, training, mode, rng)
    return fused("relu", mask, [("x", array)], scale, out=out)


def relu_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of `relu_dropout` with respect to `x`; at 0 it is 0.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16
        Gradient with respect to the result.
    x : array_like
        The input, of the dtype of `dy`.
    p, training, mode
        As they were.
    rng : Key
        As it was: a `Key`, so that the decisions are the same.
    out : ndarray, optional
        Array to write into; may be `dy` or `x`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `dy`.

    Raises
    ------
    TypeError, ValueError
        As for `relu_dropout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.relu_dropout_backward(np.ones(4), x, 0.5, rng=fd.Key(1))
    array([0., 2., 0., 0.])
    """
    return _backward("relu_gradient", dy, x, p, training, mode, rng, out)


def gelu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    approximate: Approximate = "none",
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Apply the Gaussian error linear unit, then drop.

    .. math:: y_i = m_i \, x_i \Phi(x_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    approximate : {"none", "tanh"}, default "none"
        Whether Phi, the normal distribution function, is exact or the paper's approximation.
    training, mode, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    Notes
    -----
    Hendrycks and Gimpel, "Gaussian error linear units", arXiv:1606.08415, 2016.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.gelu_dropout(np.array([1.0, 2.0, -3.0, 4.0]), 0.5, rng=1).round(4)
    array([0.   , 3.909, 0.   , 0.   ])
    """
    array = float_array(x, "x")
    mask, scale = decision(array.shape, p, training, mode, rng)
    return fused(gelu_name(approximate), mask, [("x", array)], scale, out=out)


def gelu_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    approximate: Approximate = "none",
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of `gelu_dropout` with respect to `x`.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16
        Gradient with respect to the result.
    x : array_like
        The input, of the dtype of `dy`.
    p, approximate, training, mode
        As they were.
    rng : Key
        As it was: a `Key`, so that the decisions are the same.
    out : ndarray, optional
        Array to write into; may be `dy` or `x`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `dy`.

    Raises
    ------
    TypeError, ValueError
        As for `gelu_dropout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.gelu_dropout_backward(np.ones(4), x, 0.5, rng=fd.Key(1)).round(4)
    array([0.    , 2.1705, 0.    , 0.    ])
    """
    name = gelu_name(approximate) + "_gradient"
    return _backward(name, dy, x, p, training, mode, rng, out)


def gelu_name(approximate: Approximate) -> str:
    """Return the core's name of a Gaussian error linear unit.

    Raises
    ------
    ValueError
        If `approximate` is neither of the two.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh"


def decision(
    shape: tuple[int, ...], p: float, training: bool, mode: Mode, rng: RNG
) -> tuple[Mask | None, float]:
    """Return the mask, if one is needed, and what kept elements are multiplied by."""
    p = probability(p)
    check_flag(training, "training")
    check_mode(mode)
    if not training:
        return evaluation(shape, p, mode)
    return make_mask(shape, p, as_key(rng) if p else NO_KEY), training_scale(p, mode)


def evaluation(shape: tuple[int, ...], p: float, mode: Mode) -> tuple[Mask | None, float]:
    """Return the same in evaluation, where a mask is needed only if all is dropped."""
    scale = evaluation_scale(p, mode)
    return (all_dropped(shape), 1.0) if scale == 0.0 else (None, scale)


def _backward(
    name: str,
    dy: ArrayLike,
    x: ArrayLike,
    p: float,
    training: bool,
    mode: Mode,
    rng: RNG,
    out: Array | None,
) -> Array:
    array = float_array(dy, "dy")
    mask, scale = decision(array.shape, p, training, mode, rng)
    return fused(name, mask, [("dy", array), ("x", x)], scale, out=out)
