"""Dropout with one decision for many elements: channels, time steps, samples."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import as_flag
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.shared import CHANNELS, CHANNELS_1D, CHANNELS_2D, CHANNELS_3D, LOCKED, PATH
from fastdrop.torch._arguments import channels, mode_of, ndim_of, run
from fastdrop.torch._modules import Module, Replacement


def feature_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    return run(CHANNELS, (input,), request, channels(input))


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    return run(CHANNELS_1D, (input,), request, channels(input, input.dim() == 3))


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    return run(CHANNELS_2D, (input,), request, channels(input))


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    return run(CHANNELS_3D, (input,), request, channels(input, input.dim() == 5))


def drop_path(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    shared = PATH.axes(tuple(input.shape), ("sample", 0)) if ndim_of(input) else ()
    return run(PATH, (input,), request, shared, mode_of(scale_by_keep))


def locked_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
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
    if not -ndim_of(input) <= time_axis < input.dim():
        raise IndexError(f"time_axis must be an axis of input, got {time_axis}")
    request = p, training, inplace, key, generator, mask, return_mask
    return run(LOCKED, (input,), request, LOCKED.axes(tuple(input.shape), time_axis))


class FeatureDropout(Module):
    """Drop channels of inputs of shape (N, C, ...) in training: `functional.feature_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(feature_dropout, input, inplace=self.inplace)


class Dropout1d(Replacement, nn.Dropout1d):
    """Drop channels of inputs of shape (N, C, L) or (C, L): `torch.nn.Dropout1d`."""

    _function = staticmethod(dropout1d)


class Dropout2d(Replacement, nn.Dropout2d):
    """Drop channels of inputs of shape (N, C, H, W): `torch.nn.Dropout2d`."""

    _function = staticmethod(dropout2d)


class Dropout3d(Replacement, nn.Dropout3d):
    """Drop channels of inputs of shape (N, C, D, H, W) or (C, D, H, W): `torch.nn.Dropout3d`."""

    _function = staticmethod(dropout3d)


class LockedDropout(Module):
    """Drop the same elements at every time step in training: `functional.locked_dropout`."""

    def __init__(self, p: float = 0.5, inplace: bool = False, *, time_axis: int = 0) -> None:
        super().__init__(p, inplace)
        self.time_axis = time_axis

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(locked_dropout, input, inplace=self.inplace, time_axis=self.time_axis)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, time_axis={self.time_axis}"


class DropPath(Module):
    """Drop the residual branch of a sample in training: `functional.drop_path`.

    >>> fastdrop.torch.DropPath(0.1)
    DropPath(p=0.1, inplace=False)
    """

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, scale_by_keep: bool = True
    ) -> None:
        super().__init__(p, inplace)
        self.scale_by_keep = as_flag(scale_by_keep, "scale_by_keep")

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(drop_path, input, inplace=self.inplace, scale_by_keep=self.scale_by_keep)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return super().extra_repr() + ("" if self.scale_by_keep else ", scale_by_keep=False")
