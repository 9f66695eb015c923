"""Layers with one decision for many elements: each says which; the rest is `Dropout`."""

from collections.abc import Sequence
from typing import ClassVar

from numpy.typing import ArrayLike

from fastdrop._core import Mask
from fastdrop._validate import (
    Mode,
    Per,
    as_arrays,
    as_axis,
    as_axis_number,
    check_flag,
    check_mode,
    check_per,
    feature_dims,
)
from fastdrop.functional.core import Array, dropout
from fastdrop.functional.shared import path_dims, weight_drop
from fastdrop.layers.base import Layer
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
            [2., 2., 2.]]], dtype=float32)
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
    array([[2., 2., 0., 0.]], dtype=float32)
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
    array([[2., 2., 0., 0.]], dtype=float32)
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
    array([[2., 2., 0., 0.],
           [2., 2., 0., 0.]], dtype=float32)
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
           [2., 2., 2.],
           [0., 0., 0.],
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


class EmbeddingDropout(Dropout):
    """Drop whole words in training: rows of an embedding table.

    A call takes the table, of shape (vocabulary, dimension), and returns the one to look words up
    in; `backward` takes the gradient with respect to that.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a word, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the table has not two axes.

    See Also
    --------
    embedding_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.EmbeddingDropout(0.5, rng=0)(np.ones((4, 2), dtype=np.float32))
    array([[2., 2.],
           [2., 2.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    """

    _of_weights = True

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, mode: Mode = "inverted", rng: RNG = None
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 2:
            raise ValueError(f"x must have 2 axes, (vocabulary, dimension), got shape {shape}")
        return (shape[0], 1)


class DropConnect(Dropout):
    """Drop connections in training: single weights, one mask for all examples of a call.

    A call takes the weights, of any shape, and returns those to use; `backward` takes the gradient
    with respect to these.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    drop_connect : the function, with the formula and the paper.
    DropConnectLinear : a mask for each example.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.DropConnect(0.5, rng=0)(np.ones((2, 3), dtype=np.float32))
    array([[2., 2., 0.],
           [0., 0., 0.]], dtype=float32)
    """

    _of_weights = True

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, mode: Mode = "inverted", rng: RNG = None
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)


class WeightDrop(Layer[list[Mask]]):
    """Drop connections of recurrent weights, once for all time steps of a sequence.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    weight_drop : the function, with the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.WeightDrop(0.5, rng=0)
    >>> forget, update = drop([np.ones((2, 2)), np.ones((2, 2))])
    >>> np.array_equal(drop.backward([np.ones((2, 2))] * 2)[1], update)
    True
    """

    _of_weights = True

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.mode: Mode = mode
        self._shapes: list[tuple[int, ...]] | None = None
        self._last: tuple[bool, float, Mode] = (True, 0.0, mode)

    def __call__(self, weights: Sequence[ArrayLike]) -> list[Array]:
        """Drop connections of all arrays.

        Parameters
        ----------
        weights : sequence of array_like
            Of any shapes and the dtypes of `Dropout`.

        Returns
        -------
        list of ndarray
            The weights to use; those given, where there is nothing to do.

        Raises
        ------
        TypeError, ValueError
            If they are none of these; the call does not count then.
        """
        key = self._key.fold_in(self._calls)
        arrays = as_arrays(weights, "weights")
        dropped = weight_drop(arrays, self._p, training=self.training, mode=self.mode, rng=key)
        self._mask = None
        if self.training:
            self._mask = [
                Mask(array.shape, self._p, key.fold_in(n)) for n, array in enumerate(arrays)
            ]
            self._count()
        self._shapes = [array.shape for array in arrays]
        self._last = (self.training, self._p, self.mode)
        return dropped

    def backward(self, gradients: Sequence[ArrayLike]) -> list[Array]:
        """Return the gradients with respect to the weights of the last call.

        Parameters
        ----------
        gradients : sequence of array_like
            With respect to the returned weights, in their shapes.

        Returns
        -------
        list of ndarray

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If they are of other shapes.
        """
        if self._shapes is None:
            raise RuntimeError("backward needs a forward call before it")
        arrays = as_arrays(gradients, "gradients")
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            raise ValueError(
                f"gradients must have the shapes of the weights, {self._shapes}, got {shapes}"
            )
        training, p, mode = self._last
        masks: Sequence[Mask | None] = self._mask or [None] * len(arrays)
        return [
            dropout(array, p, training=training, mode=mode, mask=mask)
            for array, mask in zip(arrays, masks, strict=True)
        ]

    def _options(self) -> str:
        return "" if self.mode == "inverted" else f", mode={self.mode!r}"
