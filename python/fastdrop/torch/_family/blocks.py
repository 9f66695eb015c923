"""Dropout of contiguous blocks of sequences, images and volumes."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import as_axis, as_flag, as_lengths
from fastdrop._base.keys import Key
from fastdrop._base.members import Member
from fastdrop._family.blocks import BLOCKS_1D, BLOCKS_2D, BLOCKS_3D, BlockMask
from fastdrop.torch._arguments import Request, channels, mode_of, ndim_of, run
from fastdrop.torch._modules import Option, Plain, of_channels


def drop_block1d(
    input: Tensor,
    p: float,
    block_size: int,
    training: bool = True,
    inplace: bool = False,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop stretches of inputs of shape (N, C, L): `fastdrop.drop_block1d`.

    >>> F.drop_block1d(torch.ones(1, 1, 10), 0.5, 3, key=fd.Key(1))
    tensor([[[0., 0., 0., 2., 2., 2., 2., 0., 0., 0.]]])
    """
    option = block_size, shared, channel_axis
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_1D, 1, input, option, scale_by_keep, request)


def drop_block2d(
    input: Tensor,
    p: float,
    block_size: int | tuple[int, int],
    training: bool = True,
    inplace: bool = False,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop rectangles of inputs of shape (N, C, H, W): `fastdrop.drop_block2d`.

    >>> F.drop_block2d(torch.ones(1, 1, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4])
    """
    option = block_size, shared, channel_axis
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_2D, 2, input, option, scale_by_keep, request)


def drop_block3d(
    input: Tensor,
    p: float,
    block_size: int | tuple[int, int, int],
    training: bool = True,
    inplace: bool = False,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop boxes of inputs of shape (N, C, D, H, W): `fastdrop.drop_block3d`.

    >>> F.drop_block3d(torch.ones(1, 1, 4, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4, 4])
    """
    option = block_size, shared, channel_axis
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_3D, 3, input, option, scale_by_keep, request)


def _drop_blocks(
    member: Member,
    ndim: int,
    input: Tensor,
    option: tuple[Any, Any, Any],
    scale_by_keep: bool,
    request: Request,
) -> Any:
    """Drop blocks; `option` is block_size, shared and channel_axis."""
    block_size, shared, channel_axis = option
    if ndim_of(input) != ndim + 2:
        raise ValueError(f"input must have {ndim + 2} axes, got {input.dim()}")
    lengths = as_lengths(block_size, ndim, "block_size")
    axis = channel_axis
    if axis != 1:
        channels(input, channel_axis)
        axis = as_axis(channel_axis, ndim + 2, "channel_axis")
    axes = (axis,) if as_flag(shared, "shared") else ()
    return run(member, (input,), request, axes, mode_of(scale_by_keep), (axis, *lengths))


class _DropBlock(Plain):
    """Dropout of blocks."""

    _is_whole = True
    _axes: int
    shared: Any = Option(False, as_flag)
    channel_axis: Any
    scale_by_keep: Any = Option(True, as_flag)

    def __init__(
        self,
        p: float,
        block_size: int | tuple[int, ...],
        inplace: bool = False,
        *,
        shared: bool = False,
        channel_axis: int = 1,
        scale_by_keep: bool = True,
    ) -> None:
        super().__init__(p, inplace)
        as_lengths(block_size, self._axes, "block_size")
        self.block_size = block_size
        self.shared, self.channel_axis, self.scale_by_keep = shared, channel_axis, scale_by_keep

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(
            type(self)._function, input, block_size=self.block_size, inplace=self.inplace,
            **self._options,
        )  # fmt: skip

    def _first_arguments(self) -> list[str]:
        return [f"p={self.p}", f"block_size={self.block_size}", f"inplace={self.inplace}"]


class DropBlock1d(_DropBlock):
    """Drop stretches of inputs of shape (N, C, L) in training: `functional.drop_block1d`."""

    _axes, channel_axis = 1, of_channels(3)
    _function = staticmethod(drop_block1d)


class DropBlock2d(_DropBlock):
    """Drop rectangles of inputs of shape (N, C, H, W) in training: `functional.drop_block2d`.

    >>> fastdrop.torch.DropBlock2d(0.1, 7)
    DropBlock2d(p=0.1, block_size=7, inplace=False)
    """

    _axes, channel_axis = 2, of_channels(4)
    _function = staticmethod(drop_block2d)


class DropBlock3d(_DropBlock):
    """Drop boxes of inputs of shape (N, C, D, H, W) in training: `functional.drop_block3d`."""

    _axes, channel_axis = 3, of_channels(5)
    _function = staticmethod(drop_block3d)
