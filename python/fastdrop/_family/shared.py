"""Dropout with one decision for many elements: channels, time steps, samples.

Each member chooses the axes that share a decision; `dropout` does the rest. All are linear: for the
gradient, apply the function to dy with the same key or mask.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Never, overload

from numpy.typing import ArrayLike

from fastdrop._base.arguments import (
    INVERTED,
    Array,
    Mode,
    as_axis_number,
    as_count,
    as_flag,
    check_choice,
    probability,
    refuse,
)
from fastdrop._base.keys import RNG
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Mask
from fastdrop._base.members import (
    Member,
    Per,
    as_channel_axis,
    channel_axes,
    path_axes,
    time_axes,
)
from fastdrop._base.plans import Keep, run
from fastdrop._family.dropout import Dropout

_OF_CHANNELS = "Tompson et al., CVPR 2015"
_BY_CHANNEL = ("channel_axis",)
CHANNELS = Member("feature_dropout", _OF_CHANNELS, options=_BY_CHANNEL, axes=channel_axes())
CHANNELS_1D = Member("dropout1d", _OF_CHANNELS, options=_BY_CHANNEL, axes=channel_axes(3))
CHANNELS_2D = Member("dropout2d", _OF_CHANNELS, options=_BY_CHANNEL, axes=channel_axes(4))
CHANNELS_3D = Member("dropout3d", _OF_CHANNELS, options=_BY_CHANNEL, axes=channel_axes(5))
LOCKED = Member(
    "locked_dropout", "Gal and Ghahramani, NIPS 2016", options=("time_axis",), axes=time_axes
)
PATH = Member("drop_path", "Huang et al., ECCV 2016", options=("per", "batch_axis"), axes=path_axes)


def feature_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop whole channels of inputs with any number of other axes.

    .. math:: y_{n c l} = m_{n c} \, x_{n c l} / (1 - p), \qquad m_{n c} \sim Bernoulli(1 - p)

    for sample n, channel c and the remaining index l. See Tompson et al., "Efficient object
    localization using convolutional networks", CVPR 2015.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, ...)
        Input of any dtype of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    channel_axis : int, default 1
        Axis of the channels; -1 for (batch, ..., channels). The batch is axis 0.
    training, mode, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> fd.feature_dropout(np.ones((1, 2, 3), dtype=np.float32), 0.5, rng=1)
    array([[[0., 0., 0.],
            [2., 2., 2.]]], dtype=float32)
    """
    if unknown:
        refuse(unknown, feature_dropout)
    return run(CHANNELS, x, (p, training, mode, rng, mask, return_mask, out), channel_axis)


def dropout1d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Drop whole channels of sequences: `feature_dropout` for `x` with three axes.

    `x` has shape (batch, channels, length).

    >>> fd.dropout1d(np.ones((1, 2, 3), dtype=np.float32), 0.5, rng=1)
    array([[[0., 0., 0.],
            [2., 2., 2.]]], dtype=float32)
    """
    if unknown:
        refuse(unknown, dropout1d)
    return run(CHANNELS_1D, x, (p, training, mode, rng, mask, return_mask, out), channel_axis)


def dropout2d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Drop whole channels of images: `feature_dropout` for `x` with four axes.

    `x` has shape (batch, channels, height, width).

    >>> y = fd.dropout2d(np.ones((1, 4, 8, 8), dtype=np.float32), 0.5, rng=1)
    >>> y.mean(axis=(2, 3))
    array([[0., 2., 0., 0.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, dropout2d)
    return run(CHANNELS_2D, x, (p, training, mode, rng, mask, return_mask, out), channel_axis)


def dropout3d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Drop whole channels of volumes: `feature_dropout` for `x` with five axes.

    `x` has shape (batch, channels, depth, height, width).

    >>> y = fd.dropout3d(np.ones((1, 2, 2, 8, 4), dtype=np.float32), 0.5, channel_axis=3, rng=1)
    >>> y.mean(axis=(1, 2, 4))
    array([[0., 2., 0., 0., 0., 2., 2., 0.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, dropout3d)
    return run(CHANNELS_3D, x, (p, training, mode, rng, mask, return_mask, out), channel_axis)


class FeatureDropout(Dropout):
    """Drop whole channels in training; the layer of `feature_dropout`.

    ``channel_axis`` is as for `feature_dropout`; ``p``, ``inplace``, ``mode`` and ``rng`` are as
    for `Dropout`.

    >>> fd.FeatureDropout(0.5, rng=0)(np.ones((1, 2, 3), dtype=np.float32))
    array([[[2., 2., 2.],
            [0., 0., 0.]]], dtype=float32)
    """

    _member = CHANNELS
    _ndim: ClassVar[int | None] = None

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        channel_axis: int = 1,
        rng: RNG = None,
    ) -> None:
        self.channel_axis = as_channel_axis(channel_axis, self._ndim)
        super().__init__(p, inplace, mode=mode, rng=rng)


class Dropout1d(FeatureDropout):
    """Drop whole channels of sequences in training: `FeatureDropout` for three axes.

    >>> fd.Dropout1d(0.5, rng=0)(np.ones((1, 2, 3), dtype=np.float32))
    array([[[2., 2., 2.],
            [0., 0., 0.]]], dtype=float32)
    """

    _member, _ndim = CHANNELS_1D, 3


class Dropout2d(FeatureDropout):
    """Drop whole channels of images in training: `FeatureDropout` for four axes.

    >>> fd.Dropout2d(0.5, rng=0)(np.ones((1, 4, 5, 5), dtype=np.float32)).mean(axis=(2, 3))
    array([[2., 0., 2., 0.]], dtype=float32)
    """

    _member, _ndim = CHANNELS_2D, 4


class Dropout3d(FeatureDropout):
    """Drop whole channels of volumes in training: `FeatureDropout` for five axes.

    >>> fd.Dropout3d(0.5, rng=0)(np.ones((1, 4, 2, 5, 5), dtype=np.float32)).mean(axis=(2, 3, 4))
    array([[2., 0., 2., 0.]], dtype=float32)
    """

    _member, _ndim = CHANNELS_3D, 5


def locked_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    time_axis: int = 0,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop the same elements at every time step (variational dropout).

    .. math:: y_{t b h} = m_{b h} \, x_{t b h} / (1 - p), \qquad m_{b h} \sim Bernoulli(1 - p)

    See Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016. Merity et al., "Regularizing and optimizing LSTM language models", ICLR
    2018, call it "locked".

    Parameters
    ----------
    x : array_like of float or complex, shape (time, batch, features) or any other
        Input of any dtype of `dropout`, in any memory layout.
    time_axis : int, default 0
        Axis along which elements share a decision.
    p, training, mode, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> fd.locked_dropout(np.ones((2, 1, 6), dtype=np.float32), 0.5, rng=1)[:, 0]
    array([[0., 2., 0., 0., 0., 2.],
           [0., 2., 0., 0., 0., 2.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, locked_dropout)
    return run(LOCKED, x, (p, training, mode, rng, mask, return_mask, out), time_axis)


class LockedDropout(Dropout):
    """Drop the same elements at every time step in training; the layer of `locked_dropout`.

    ``time_axis`` is as for `locked_dropout`; ``p``, ``inplace``, ``mode`` and ``rng`` are as for
    `Dropout`.

    >>> fd.LockedDropout(0.5, rng=0)(np.ones((2, 4), dtype=np.float32))
    array([[2., 0., 2., 0.],
           [2., 0., 2., 0.]], dtype=float32)
    """

    _member = LOCKED

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        time_axis: int = 0,
        rng: RNG = None,
    ) -> None:
        self.time_axis = as_axis_number(time_axis, "time_axis")
        super().__init__(p, inplace, mode=mode, rng=rng)


def drop_path(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    per: Per = "sample",
    batch_axis: int = 0,
    scale_by_keep: bool = True,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop the whole residual branch of a sample (stochastic depth).

    .. math:: y_n = m_n \, x_n / (1 - p), \qquad m_n \sim Bernoulli(1 - p)

    See Huang et al., "Deep networks with stochastic depth", ECCV 2016. (Their p is the probability
    to survive, and they scale in evaluation.) `drop_path_rates` gives p for each block of a
    network.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, ...)
        Output of the branch, of any dtype of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP the branch, in [0, 1].
    per : {"sample", "batch"}, default "sample"
        Whether to decide for each sample or once for the batch.
    batch_axis : int, default 0
        Axis of the samples.
    scale_by_keep : bool, default True
        Whether to divide kept elements by 1 - p. Evaluation never changes `x`.
    training, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> fd.drop_path(np.ones((2, 3), dtype=np.float32), 0.5, rng=1)
    array([[0., 0., 0.],
           [2., 2., 2.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, drop_path)
    mode = INVERTED if as_flag(scale_by_keep, "scale_by_keep") else None
    return run(PATH, x, (p, training, mode, rng, mask, return_mask, out), (per, batch_axis))


class DropPath(ElementwiseLayer[Mask]):
    """Drop the whole residual branch of a sample in training; the layer of `drop_path`.

    ``p``, ``per``, ``batch_axis`` and ``scale_by_keep`` are as for `drop_path`, ``inplace`` and
    ``rng`` as for `Dropout`.

    >>> fd.DropPath(0.5, rng=0)(np.ones((4, 2), dtype=np.float32)).mean(axis=1)
    array([2., 0., 2., 0.], dtype=float32)
    """

    _member = PATH

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        per: Per = "sample",
        batch_axis: int = 0,
        scale_by_keep: bool = True,
        rng: RNG = None,
    ) -> None:
        check_choice(per, "per", "sample", "batch")
        self.scale_by_keep = as_flag(scale_by_keep, "scale_by_keep")
        self.per: Per = per
        self.batch_axis = as_axis_number(batch_axis, "batch_axis")
        self.inplace = inplace
        super().__init__(p, rng)

    @property
    def mode(self) -> str | None:
        """Whether training scales elements ("inverted") or nothing does (None)."""
        return INVERTED if self.scale_by_keep else None


@overload
def drop_path_rates(p: float, depth: int, *, stagewise: bool = False) -> list[float]: ...
@overload
def drop_path_rates(
    p: float, depth: Sequence[int], *, stagewise: bool = False
) -> list[list[float]]: ...
def drop_path_rates(
    p: float, depth: int | Sequence[int], *, stagewise: bool = False, **unknown: Never
) -> list[float] | list[list[float]]:
    r"""Return the rates for the blocks of a network: from 0 at the first to `p` at the last.

    Block i of n, counted from 0, has the rate :math:`p \, i / (n - 1)`; a single block has rate p.
    This is the linear decay rule of Huang et al. (see `drop_path`), section 3. (There the first
    block has the rate p / n; here, as in most programs, 0.) `depth` is the number of blocks. If it
    is a sequence with the number in each stage, the result has a list per stage. With `stagewise`,
    all blocks of a stage have the same rate.

    >>> fd.drop_path_rates(0.5, 3)
    [0.0, 0.25, 0.5]
    >>> fd.drop_path_rates(0.5, [2, 1], stagewise=True)
    [[0.0, 0.0], [0.5]]
    """
    if unknown:
        refuse(unknown, drop_path_rates)
    p = probability(p)
    as_flag(stagewise, "stagewise")
    if isinstance(depth, Sequence):
        counts = [as_count(blocks, "depth") for blocks in depth]
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
