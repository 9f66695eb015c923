"""Layers with one decision for many elements: each says which; the rest is `Dropout`."""

from typing import ClassVar

from fastdrop._validate import (
    Mode,
    Per,
    as_axis,
    as_axis_number,
    check_flag,
    check_per,
    feature_dims,
)
from fastdrop.functional.shared import path_dims
from fastdrop.layers.elementwise import Dropout
from fastdrop.random import RNG


class _FeatureDropout(Dropout):
    """Dropout of channels, for inputs with a fixed number of axes."""

    _ndim: ClassVar[int]

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        channel_axis: int = 1,
        rng: RNG = None,
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)
        self.channel_axis = channel_axis
        self._mask_shape((1,) * self._ndim)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        shared = feature_dims(shape, self._ndim, self.channel_axis)
        return tuple(1 if axis in shared else length for axis, length in enumerate(shape))

    def _options(self) -> str:
        channels = "" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}"
        return super()._options() + channels


class Dropout1d(_FeatureDropout):
    """Drop whole channels of sequences in training; pass everything through in evaluation.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, length, channels). The batch is axis 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input has not three axes.

    See Also
    --------
    dropout1d : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.Dropout1d(0.5, rng=0)(np.ones((1, 2, 3), dtype=np.float32))
    array([[[2., 2., 2.],
            [0., 0., 0.]]], dtype=float32)
    """

    _ndim = 3


class Dropout2d(_FeatureDropout):
    """Drop whole channels of images in training; pass everything through in evaluation.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, height, width, channels). The batch is axis 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input has not four axes.

    See Also
    --------
    dropout2d : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.Dropout2d(0.5, rng=0)(np.ones((1, 4, 5, 5), dtype=np.float32)).mean(axis=(2, 3))
    array([[2., 0., 2., 0.]], dtype=float32)
    """

    _ndim = 4


class Dropout3d(_FeatureDropout):
    """Drop whole channels of volumes in training; pass everything through in evaluation.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a channel, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, depth, height, width, channels). The batch is axis 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input has not five axes.

    See Also
    --------
    dropout3d : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.Dropout3d(0.5, rng=0)(np.ones((1, 4, 2, 5, 5), dtype=np.float32)).mean(axis=(2, 3, 4))
    array([[2., 0., 2., 0.]], dtype=float32)
    """

    _ndim = 5


class LockedDropout(Dropout):
    """Drop the same elements at every time step in training (variational dropout).

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.
    time_axis : int, default 0
        The axis along which the decisions are shared.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the input has no such axis.

    See Also
    --------
    locked_dropout : the function, with the formula and the papers.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.LockedDropout(0.5, rng=0)(np.ones((2, 4), dtype=np.float32))
    array([[2., 0., 2., 0.],
           [2., 0., 2., 0.]], dtype=float32)
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        time_axis: int = 0,
        rng: RNG = None,
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)
        self.time_axis = as_axis_number(time_axis, "time_axis")

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        time = as_axis(self.time_axis, len(shape), "time_axis")
        return (*shape[:time], 1, *shape[time + 1 :])

    def _options(self) -> str:
        time = "" if self.time_axis == 0 else f", time_axis={self.time_axis}"
        return super()._options() + time


class DropPath(Dropout):
    """Drop the whole residual branch of a sample in training (stochastic depth).

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP the branch, in [0, 1].
    inplace, rng
        As for `Dropout`.
    per : {"sample", "batch"}, default "sample"
        Whether each sample has a decision of its own, or the batch has one.
    batch_axis : int, default 0
        The axis of the samples.
    scale_by_keep : bool, default True
        Whether what is kept is divided by 1 - p. Evaluation is the identity in any case.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    drop_path : the function, with the formula and the paper.
    drop_path_rates : the list of p over the depth of a network.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.DropPath(0.5, rng=0)(np.ones((4, 3), dtype=np.float32))
    array([[2., 2., 2.],
           [0., 0., 0.],
           [2., 2., 2.],
           [0., 0., 0.]], dtype=float32)
    """

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
        check_per(per)
        check_flag(scale_by_keep, "scale_by_keep")
        super().__init__(p, inplace, rng=rng)
        self.per: Per = per
        self.batch_axis = as_axis_number(batch_axis, "batch_axis")
        self.scale_by_keep = scale_by_keep

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        shared = path_dims(len(shape), self.per, self.batch_axis)
        return tuple(1 if axis in shared else length for axis, length in enumerate(shape))

    def _training_mode(self) -> Mode:
        return "inverted" if self.scale_by_keep else "standard"

    def _options(self) -> str:
        options = "" if self.per == "sample" else f", per={self.per!r}"
        options += "" if self.batch_axis == 0 else f", batch_axis={self.batch_axis}"
        return options + ("" if self.scale_by_keep else ", scale_by_keep=False")
