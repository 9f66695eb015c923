"""Layers that drop contiguous blocks (DropBlock). No mathematics here."""

from typing import ClassVar

from fastdrop._validate import Lengths, as_axis, as_block, check_flag, feature_dims
from fastdrop.functional.blocks import BlockMask, draw_blocks, masked
from fastdrop.functional.core import Array
from fastdrop.layers.base import ElementwiseLayer
from fastdrop.random import RNG, Key


class _DropBlock(ElementwiseLayer[BlockMask]):
    """Dropout of blocks, for inputs with a fixed number of axes."""

    _ndim: ClassVar[int]

    def __init__(
        self,
        p: float,
        block_size: Lengths,
        inplace: bool = False,
        *,
        shared: bool = False,
        channel_axis: int = 1,
        rng: RNG = None,
    ) -> None:
        check_flag(shared, "shared")
        feature_dims((1,) * self._ndim, self._ndim, channel_axis)
        super().__init__(p, inplace, rng)
        self.block_size = as_block(block_size, self._ndim - 2)
        self.shared = shared
        self.channel_axis = channel_axis

    def _draw(self, shape: tuple[int, ...], key: Key) -> BlockMask:
        dims = feature_dims(shape, self._ndim, self.channel_axis)
        channel = as_axis(self.channel_axis, self._ndim, "channel_axis") if self.shared else None
        return draw_blocks(shape, dims, self.block_size, channel, self._p, key)

    def _train(self, x: Array, mask: BlockMask, out: Array | None) -> Array:
        return masked(x, mask, out)

    def _gradient(self, dy: Array, mask: BlockMask | None) -> Array:
        return dy if mask is None else masked(dy, mask, None)

    def _options(self) -> str:
        options = f", block_size={self.block_size}"
        options += ", shared=True" if self.shared else ""
        return options + ("" if self.channel_axis == 1 else f", channel_axis={self.channel_axis}")


class DropBlock2d(_DropBlock):
    """Drop rectangular blocks of images in training; pass everything through in evaluation.

    Parameters
    ----------
    p : float
        Fraction of the elements to DROP, in [0, 1]; this fraction exactly, in expectation.
    block_size : int or sequence of two int
        Height and width of a block, each at least 1; a map that is smaller is a block as a whole.
    inplace, rng
        As for `Dropout`.
    shared : bool, default False
        Whether the channels of a sample share their blocks, or each has its own.
    channel_axis : int, default 1
        Where the channels are; -1 for (batch, height, width, channels). The batch is axis 0.

    Attributes
    ----------
    mask : BlockMask or None
        That of the last call; None before the first and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call in training, if the input has not four axes.

    See Also
    --------
    drop_block2d : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.DropBlock2d(0.5, (2, 3), rng=5)
    >>> drop(np.ones((1, 1, 4, 6), dtype=np.float32))[0, 0]
    array([[2., 0., 0., 0., 2., 2.],
           [2., 0., 0., 0., 2., 2.],
           [2., 2., 0., 0., 0., 2.],
           [2., 2., 0., 0., 0., 2.]], dtype=float32)
    >>> drop.mask.seeds.shape
    (1, 1, 3, 4)
    """

    _ndim = 4


class DropBlock3d(_DropBlock):
    """Drop blocks of volumes in training; pass everything through in evaluation.

    Parameters
    ----------
    p : float
        Fraction of the elements to DROP, in [0, 1]; this fraction exactly, in expectation.
    block_size : int or sequence of three int
        Depth, height and width of a block, each at least 1.
    inplace, rng
        As for `Dropout`.
    shared, channel_axis
        As for `DropBlock2d`.

    Attributes
    ----------
    mask : BlockMask or None
        That of the last call; None before the first and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call in training, if the input has not five axes.

    See Also
    --------
    drop_block3d : the function, with the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.DropBlock3d(0.5, 2, rng=0)
    >>> drop(np.ones((1, 1, 2, 3, 4), dtype=np.float32))[0, 0, 0]
    array([[2., 2., 2., 2.],
           [0., 0., 0., 2.],
           [0., 0., 0., 2.]], dtype=float32)
    """

    _ndim = 5
