"""Alpha dropout, of elements and channels, for networks with SELU."""

from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import Axes, as_axis_numbers
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA
from fastdrop.torch._arguments import broadcast, channels, run
from fastdrop.torch._modules import Option, Replacement, of_channels


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    As in torch, `training` is False by default. `broadcast_dims` is as for `dropout`.

    >>> F.alpha_dropout(torch.zeros(4), 0.5, True, key=fd.Key(2))
    tensor([-0.7792,  0.7792,  0.7792, -0.7792])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return run(ALPHA, (input,), request, broadcast(input, broadcast_dims))


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    channel_axis: int = 1,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Set whole channels of inputs of shape (N, C, ...) to SELU's lower limit.

    As in torch, `training` is False by default.

    >>> F.feature_alpha_dropout(torch.zeros(1, 2, 2), 0.5, True, key=fd.Key(1))
    tensor([[[-0.7792, -0.7792],
             [ 0.7792,  0.7792]]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return run(CHANNELS_ALPHA, (input,), request, channels(input, channel_axis))


class AlphaDropout(Replacement, nn.AlphaDropout):
    """Set elements to SELU's lower limit in training: `torch.nn.AlphaDropout`.

    `broadcast_dims` is as for `Dropout`.
    """

    _function = staticmethod(alpha_dropout)
    broadcast_dims = Option((), as_axis_numbers)

    def __init__(self, p: float = 0.5, inplace: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inplace)
        self.broadcast_dims = broadcast_dims


class FeatureAlphaDropout(Replacement, nn.FeatureAlphaDropout):
    """Set channels to SELU's lower limit in training: `torch.nn.FeatureAlphaDropout`."""

    _function = staticmethod(feature_alpha_dropout)
    channel_axis = of_channels()

    def __init__(self, p: float = 0.5, inplace: bool = False, *, channel_axis: int = 1) -> None:
        super().__init__(p, inplace)
        self.channel_axis = channel_axis
