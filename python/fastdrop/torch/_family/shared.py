"""Dropout with one decision for many elements: channels, time steps, samples."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import Mode, as_axis_number, as_flag, check_choice
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import Per
from fastdrop._family.shared import CHANNELS, CHANNELS_1D, CHANNELS_2D, CHANNELS_3D, LOCKED, PATH
from fastdrop.torch._arguments import axes_of, channels, mode_of, ndim_of, run
from fastdrop.torch._modules import (
    Module,
    Option,
    Plain,
    Replacement,
    of_channels,
    of_choice,
    of_mode,
)


def feature_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of inputs of shape (N, C, ...): `torch.feature_dropout`.

    >>> F.feature_dropout(torch.ones(1, 2, 3), 0.5, key=fd.Key(1))
    tensor([[[0., 0., 0.],
             [2., 2., 2.]]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return run(CHANNELS, (input,), request, channels(input, channel_axis), mode)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of inputs of shape (N, C, L) or (C, L).

    >>> F.dropout1d(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 0., 0.],
            [2., 2., 2.]])
    """
    if ndim_of(input) not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input"
        )
    request = p, training, inplace, key, generator, mask, return_mask
    axes = channels(input, channel_axis, input.dim() == 3)
    return run(CHANNELS_1D, (input,), request, axes, mode)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of inputs of shape (N, C, H, W).

    An input with three axes is read as (N, C, L) with a warning, as in torch.

    >>> F.dropout2d(torch.ones(1, 4, 5, 5), 0.5, key=fd.Key(1)).mean((2, 3))
    tensor([[0., 2., 0., 0.]])
    """
    if ndim_of(input) == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout "
            "behavior is desired, for shape (N, C, L); for that, use dropout1d",
            stacklevel=2,
        )
    elif input.dim() != 4:
        warnings.warn(
            f"dropout2d: Received a {input.dim()}-D input to dropout2d, which is meant for 4 axes, "
            "(N, C, H, W); for others, use feature_dropout",
            stacklevel=2,
        )
    request = p, training, inplace, key, generator, mask, return_mask
    return run(CHANNELS_2D, (input,), request, channels(input, channel_axis), mode)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    channel_axis: int = 1,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of inputs of shape (N, C, D, H, W) or (C, D, H, W).

    >>> F.dropout3d(torch.ones(4, 2, 5, 5), 0.5, key=fd.Key(1)).mean((1, 2, 3))
    tensor([0., 2., 0., 0.])
    """
    if ndim_of(input) not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, which is meant for 5 axes, "
            "(N, C, D, H, W), or 4 without N; for others, use feature_dropout",
            stacklevel=2,
        )
    request = p, training, inplace, key, generator, mask, return_mask
    axes = channels(input, channel_axis, input.dim() == 5)
    return run(CHANNELS_3D, (input,), request, axes, mode)


def drop_path(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    per: Per = "sample",
    batch_axis: int = 0,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop the whole residual branch of a sample (axis 0): `fastdrop.drop_path`.

    >>> F.drop_path(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 0., 0.],
            [2., 2., 2.]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    shape = tuple(input.shape) if ndim_of(input) else ()
    check_choice(per, "per", "sample", "batch")
    shared = axes_of(PATH, shape, (per, batch_axis)) if shape else ()
    return run(PATH, (input,), request, shared, mode_of(scale_by_keep))


def locked_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    time_axis: int = 0,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop the same elements at every step along an axis: `fastdrop.locked_dropout`.

    >>> F.locked_dropout(torch.ones(2, 6), 0.5, key=fd.Key(1))
    tensor([[0., 2., 0., 0., 0., 2.],
            [0., 2., 0., 0., 0., 2.]])
    """
    shape = tuple(input.shape) if ndim_of(input) else ()
    request = p, training, inplace, key, generator, mask, return_mask
    return run(LOCKED, (input,), request, axes_of(LOCKED, shape, time_axis), mode)


class _Channels(Module):
    """Dropout of channels."""

    mode, channel_axis = of_mode(), of_channels()

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        channel_axis: int = 1,
    ) -> None:
        super().__init__(p, inplace)
        self.mode, self.channel_axis = mode, channel_axis


class FeatureDropout(_Channels, Plain):
    """Drop channels of inputs of shape (N, C, ...) in training: `functional.feature_dropout`."""

    _function = staticmethod(feature_dropout)


class Dropout1d(_Channels, Replacement, nn.Dropout1d):
    """Drop channels of inputs of shape (N, C, L) or (C, L): `torch.nn.Dropout1d`."""

    _function = staticmethod(dropout1d)
    channel_axis = of_channels(3)


class Dropout2d(_Channels, Replacement, nn.Dropout2d):
    """Drop channels of inputs of shape (N, C, H, W): `torch.nn.Dropout2d`."""

    _function = staticmethod(dropout2d)
    channel_axis = of_channels(4)


class Dropout3d(_Channels, Replacement, nn.Dropout3d):
    """Drop channels of inputs of shape (N, C, D, H, W) or (C, D, H, W): `torch.nn.Dropout3d`."""

    _function = staticmethod(dropout3d)
    channel_axis = of_channels(5)


class LockedDropout(Plain):
    """Drop the same elements at every time step in training: `functional.locked_dropout`."""

    _function = staticmethod(locked_dropout)
    mode, time_axis = of_mode(), Option(0, as_axis_number)

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        time_axis: int = 0,
    ) -> None:
        super().__init__(p, inplace)
        self.mode, self.time_axis = mode, time_axis


class DropPath(Plain):
    """Drop the residual branch of a sample in training: `functional.drop_path`.

    >>> fastdrop.torch.DropPath(0.1, scale_by_keep=False)
    DropPath(p=0.1, inplace=False, scale_by_keep=False)
    """

    _function = staticmethod(drop_path)
    per: Any = of_choice("sample", "batch")
    batch_axis: Any = Option(0, as_axis_number)
    scale_by_keep: Any = Option(True, as_flag)

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        per: Per = "sample",
        batch_axis: int = 0,
        scale_by_keep: bool = True,
    ) -> None:
        super().__init__(p, inplace)
        self.per, self.batch_axis, self.scale_by_keep = per, batch_axis, scale_by_keep
