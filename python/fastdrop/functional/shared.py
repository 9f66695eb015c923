"""Dropout with one decision for many elements: channels, time steps, samples.

Each function says which axes share a decision; the rest is `dropout`. They are linear in their
input: the gradient is the same function of the output's gradient, with the same key.
"""

from collections.abc import Sequence
from typing import overload

from numpy.typing import ArrayLike

from fastdrop._validate import (
    Mode,
    Per,
    as_axis,
    as_count,
    as_counts,
    check_flag,
    check_per,
    feature_dims,
    float_array,
    probability,
)
from fastdrop.functional.core import Array, dropout
from fastdrop.random import RNG


def dropout1d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop whole channels of sequences.

    Channel c of sample n is set to +0.0 with probability `p`:

    .. math:: y_{n c l} = m_{n c} \, x_{n c l} / (1 - p), \qquad m_{n c} \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, length)
        Input of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    training, mode, rng, out
        As for `dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, length, channels). The batch is axis 0.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        If `x` has another number of axes, or as for `dropout`.

    Notes
    -----
    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.dropout1d(np.ones((1, 4, 3), dtype=np.float32), 0.5, rng=1)
    array([[[0., 0., 0.],
            [2., 2., 2.],
            [0., 0., 0.],
            [0., 0., 0.]]], dtype=float32)
    """
    return _feature_dropout(x, 3, p, training, mode, channel_axis, rng, out)


def dropout2d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    """Drop whole channels of images.

    The formula and all parameters are those of `dropout1d`, for four axes.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, height, width)
        Input of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    training, mode, rng, out
        As for `dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, height, width, channels). The batch is axis 0.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        If `x` has another number of axes, or as for `dropout`.

    Notes
    -----
    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> y = fd.dropout2d(np.ones((1, 4, 8, 8), dtype=np.float32), 0.5, rng=1)
    >>> y.mean(axis=(2, 3))
    array([[0., 2., 0., 0.]], dtype=float32)
    """
    return _feature_dropout(x, 4, p, training, mode, channel_axis, rng, out)


def dropout3d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    """Drop whole channels of volumes.

    The formula and all parameters are those of `dropout1d`, for five axes.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, depth, height, width)
        Input of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    training, mode, rng, out
        As for `dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, depth, height, width, channels). The batch is axis 0.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        If `x` has another number of axes, or as for `dropout`.

    Notes
    -----
    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> y = fd.dropout3d(np.ones((1, 2, 2, 8, 4), dtype=np.float32), 0.5, channel_axis=3, rng=1)
    >>> y.mean(axis=(1, 2, 4))
    array([[0., 2., 0., 0., 0., 2., 2., 0.]], dtype=float32)
    """
    return _feature_dropout(x, 5, p, training, mode, channel_axis, rng, out)


def _feature_dropout(
    x: ArrayLike,
    ndim: int,
    p: float,
    training: bool,
    mode: Mode,
    channel_axis: int,
    rng: RNG,
    out: Array | None,
) -> Array:
    array = float_array(x, "x")
    dims = feature_dims(array.shape, ndim, channel_axis)
    return dropout(array, p, training=training, mode=mode, broadcast_dims=dims, rng=rng, out=out)


def locked_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    time_axis: int = 0,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop the same elements at every time step (variational dropout).

    .. math:: y_{t b h} = m_{b h} \, x_{t b h} / (1 - p), \qquad m_{b h} \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float or complex, shape (time, batch, features) or any other
        Input of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training, mode, rng, out
        As for `dropout`.
    time_axis : int, default 0
        The axis along which the decisions are shared.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    Notes
    -----
    Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016; "locked" is the word of Merity et al., "Regularizing and optimizing LSTM
    language models", ICLR 2018.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.locked_dropout(np.ones((2, 1, 6), dtype=np.float32), 0.5, rng=1)[:, 0]
    array([[0., 2., 0., 0., 0., 2.],
           [0., 2., 0., 0., 0., 2.]], dtype=float32)
    """
    array = float_array(x, "x")
    dims = (as_axis(time_axis, array.ndim, "time_axis"),)
    return dropout(array, p, training=training, mode=mode, broadcast_dims=dims, rng=rng, out=out)


def drop_path(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    per: Per = "sample",
    batch_axis: int = 0,
    scale_by_keep: bool = True,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop the whole residual branch of a sample (stochastic depth).

    .. math:: y_n = m_n \, x_n / (1 - p), \qquad m_n \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, ...)
        Output of the branch, of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP the branch, in [0, 1].
    training, rng, out
        As for `dropout`.
    per : {"sample", "batch"}, default "sample"
        Whether each sample has a decision of its own, or the batch has one.
    batch_axis : int, default 0
        The axis of the samples.
    scale_by_keep : bool, default True
        Whether what is kept is divided by 1 - p.

    Returns
    -------
    ndarray
        Of the shape, dtype and memory layout of `x`, as for `dropout`; in evaluation `x` itself.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    See Also
    --------
    drop_path_rates : the list of p over the depth of a network.

    Notes
    -----
    Huang et al., "Deep networks with stochastic depth", ECCV 2016. (There p is the probability to
    survive, and evaluation scales; here training does.)

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.drop_path(np.ones((4, 3), dtype=np.float32), 0.5, rng=1)
    array([[0., 0., 0.],
           [2., 2., 2.],
           [0., 0., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    array = float_array(x, "x")
    check_flag(training, "training")
    check_flag(scale_by_keep, "scale_by_keep")
    dims = path_dims(array.ndim, per, batch_axis)
    mode: Mode = "inverted" if scale_by_keep or not training else "standard"
    return dropout(array, p, training=training, mode=mode, broadcast_dims=dims, rng=rng, out=out)


def path_dims(ndim: int, per: Per, batch_axis: int) -> tuple[int, ...]:
    """Return the axes along which `drop_path` shares a decision."""
    check_per(per)
    if per == "batch":
        return tuple(range(ndim))
    batch = as_axis(batch_axis, ndim, "batch_axis")
    return tuple(axis for axis in range(ndim) if axis != batch)


@overload
def drop_path_rates(p: float, depth: int, *, stagewise: bool = False) -> list[float]: ...
@overload
def drop_path_rates(
    p: float, depth: Sequence[int], *, stagewise: bool = False
) -> list[list[float]]: ...
def drop_path_rates(
    p: float, depth: int | Sequence[int], *, stagewise: bool = False
) -> list[float] | list[list[float]]:
    r"""Return the rates for the blocks of a network: from 0 at the first to `p` at the last.

    Block i of n has the rate :math:`p \, i / (n - 1)`, counted from 0; a single block has rate p.

    Parameters
    ----------
    p : float
        Rate of the last block, in [0, 1].
    depth : int or sequence of int
        Number of blocks; or that of each stage, and then the rates come stage by stage.
    stagewise : bool, default False
        Whether the rate grows from stage to stage only, and is the same for all blocks of one.

    Returns
    -------
    list of float, or of lists of float
        One rate per block, or a list per stage.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; if there are no stages to go by.

    Notes
    -----
    Huang et al., "Deep networks with stochastic depth", ECCV 2016, section 3: the linear decay
    rule. (There the first block has the rate p / n; here, as in most programs, 0.)

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.drop_path_rates(0.5, 3)
    [0.0, 0.25, 0.5]
    >>> fd.drop_path_rates(0.5, [2, 1], stagewise=True)
    [[0.0, 0.0], [0.5]]
    """
    p = probability(p)
    check_flag(stagewise, "stagewise")
    if isinstance(depth, Sequence):
        counts = as_counts(depth, "depth")
        if stagewise:
            rates = _linear(p, len(counts))
            return [[rate] * count for rate, count in zip(rates, counts, strict=True)]
        blocks = iter(_linear(p, sum(counts)))
        return [[next(blocks) for _ in range(count)] for count in counts]
    if stagewise:
        raise ValueError(f"depth must be a sequence of int if stagewise is True, got {depth!r}")
    return _linear(p, as_count(depth, "depth"))


def _linear(p: float, n: int) -> list[float]:
    return [p * (block / (n - 1)) for block in range(n)] if n > 1 else [p] * n
