"""Dropout of elements, channels, time steps and samples, and normal noise: linear members."""

from collections.abc import Sequence
from typing import Any, Never, Unpack

from jax import Array

from fastdrop._base.arguments import Axes, as_flag, refuse
from fastdrop._base.members import Per
from fastdrop._family.dropout import DROPOUT
from fastdrop._family.gaussian import GAUSSIAN
from fastdrop._family.shared import (
    CHANNELS,
    CHANNELS_1D,
    CHANNELS_2D,
    CHANNELS_3D,
    LOCKED,
    PATH,
)
from fastdrop.jax._call import Call, Request, drop, request_of


def dropout(
    x: Any,
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    broadcast_dims: Axes = (),
    whole: Sequence[int] | None = None,
    start: Any = None,
    **unknown: Never,
) -> Array:
    r"""Drop elements with probability `p`, and divide the others by 1 - p.

    .. math:: y_i = m_i \, x_i / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR
    2014. It can be differentiated any number of times, forward and backward; `p` is a constant.

    Parameters
    ----------
    x : array of float or complex
        Input, of dtype float32, float64, float16, bfloat16, complex64 or complex128.
    p : float or array of float, default 0.5
        Probability to DROP an element, in [0, 1]. A float is exact; a new value recompiles the
        function. An array of shape () may be traced.
    key : Key or JAX key
        Source of the mask, required unless nothing is dropped. A `fastdrop.Key`, or what `key`
        makes of it, draws NumPy's mask. Other keys draw four words with ``jax.random.bits``.
    deterministic : bool, default False
        Whether to return `x` as it is.
    broadcast_dims : int or sequence of int, default ()
        Axes along which elements share a decision.
    whole : sequence of int, optional
        Shape of the whole array of which `x` is a part. Its lengths, like those of `x`, may be
        symbolic dimensions of ``jax.export``.
    start : sequence of int, or array of int, optional
        Position of the first element of `x` in the whole, which may be traced; zeros if not given.

    Returns
    -------
    Array
        Result with the shape and dtype of `x`.

    Examples
    --------
    A shard draws its part of the mask of the whole:

    >>> x = jax.numpy.ones((2, 4))
    >>> y = fastdrop.jax.dropout(x[1:], 0.5, key=fd.Key(0), whole=(2, 4), start=(1, 0))
    >>> bool((y == fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))[1:]).all())
    True
    """
    if unknown:
        refuse(unknown, dropout)
    return drop(DROPOUT, x, Request(p, key, deterministic, whole, start), broadcast_dims)


def feature_dropout(x: Any, p: Any = 0.5, *, channel_axis: int = 1, **call: Unpack[Call]) -> Array:
    """Drop whole channels of inputs with any number of other axes.

    See Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.
    `x` has shape (batch, channels, ...), and `channel_axis` is the axis of the channels; the batch
    is axis 0. Other parameters are as for `dropout`.

    >>> fastdrop.jax.feature_dropout(jax.numpy.ones((1, 2, 3)), 0.5, key=fd.Key(1))
    Array([[[0., 0., 0.],
            [2., 2., 2.]]], dtype=float32)
    """
    return drop(CHANNELS, x, request_of(feature_dropout, p, call), channel_axis)


def dropout1d(x: Any, p: Any = 0.5, *, channel_axis: int = 1, **call: Unpack[Call]) -> Array:
    """Drop whole channels of sequences: `feature_dropout` for `x` with three axes.

    `x` has shape (batch, channels, length).

    >>> y = fastdrop.jax.dropout1d(jax.numpy.ones((1, 4, 8)), 0.5, key=fd.Key(1))
    >>> y.mean(axis=2)
    Array([[0., 2., 0., 0.]], dtype=float32)
    """
    return drop(CHANNELS_1D, x, request_of(dropout1d, p, call), channel_axis)


def dropout2d(x: Any, p: Any = 0.5, *, channel_axis: int = 1, **call: Unpack[Call]) -> Array:
    """Drop whole channels of images: `feature_dropout` for `x` with four axes.

    `x` has shape (batch, channels, height, width).

    >>> y = fastdrop.jax.dropout2d(jax.numpy.ones((1, 4, 8, 8)), 0.5, key=fd.Key(1))
    >>> y.mean(axis=(2, 3))
    Array([[0., 2., 0., 0.]], dtype=float32)
    """
    return drop(CHANNELS_2D, x, request_of(dropout2d, p, call), channel_axis)


def dropout3d(x: Any, p: Any = 0.5, *, channel_axis: int = 1, **call: Unpack[Call]) -> Array:
    """Drop whole channels of volumes: `feature_dropout` for `x` with five axes.

    `x` has shape (batch, channels, depth, height, width).

    >>> y = fastdrop.jax.dropout3d(jax.numpy.ones((1, 4, 2, 8, 4)), 0.5, key=fd.Key(1))
    >>> y.mean(axis=(2, 3, 4))
    Array([[0., 2., 0., 0.]], dtype=float32)
    """
    return drop(CHANNELS_3D, x, request_of(dropout3d, p, call), channel_axis)


def locked_dropout(x: Any, p: Any = 0.5, *, time_axis: int = 0, **call: Unpack[Call]) -> Array:
    """Drop the same elements at all time steps of sequences.

    See Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016. `time_axis` is the axis of the time steps. Other parameters are as for
    `dropout`.

    >>> fastdrop.jax.locked_dropout(jax.numpy.ones((2, 1, 4)), 0.5, key=fd.Key(1))
    Array([[[0., 2., 0., 0.]],
    <BLANKLINE>
           [[0., 2., 0., 0.]]], dtype=float32)
    """
    return drop(LOCKED, x, request_of(locked_dropout, p, call), time_axis)


def drop_path(
    x: Any,
    p: Any = 0.5,
    *,
    per: Per = "sample",
    scale_by_keep: bool = True,
    batch_axis: int = 0,
    **call: Unpack[Call],
) -> Array:
    """Drop whole samples of a batch: the branches of a residual network (stochastic depth).

    See Huang et al., "Deep networks with stochastic depth", ECCV 2016. With ``per="batch"``, all
    samples share a decision. `scale_by_keep` tells whether kept samples are divided by 1 - p.
    Other parameters are as for `dropout`.

    >>> fastdrop.jax.drop_path(jax.numpy.ones((4, 2)), 0.5, key=fd.Key(1))
    Array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    """
    work = "scale" if as_flag(scale_by_keep, "scale_by_keep") else "keep"
    return drop(PATH, x, request_of(drop_path, p, call), (per, batch_axis), work)


def gaussian_dropout(
    x: Any, p: Any = 0.5, *, broadcast_dims: Axes = (), **call: Unpack[Call]
) -> Array:
    r"""Multiply by normal noise with the mean and variance of dropout.

    .. math:: y_i = x_i \, (1 + \sqrt{p / (1 - p)} \, z_i), \qquad z_i \sim N(0, 1)

    See Srivastava et al., JMLR 15, 2014, section 10. `p` is the equivalent rate of dropout; for 1,
    the result is 0. `broadcast_dims` names the axes along which elements share a factor. Other
    parameters are as for `dropout`.

    >>> y = fastdrop.jax.gaussian_dropout(jax.numpy.ones(4), 0.5, key=fd.Key(0))
    >>> np.asarray(y).round(3)
    array([0.314, 0.455, 0.604, 0.342], dtype=float32)
    """
    return drop(GAUSSIAN, x, request_of(gaussian_dropout, p, call), broadcast_dims, "noise")
