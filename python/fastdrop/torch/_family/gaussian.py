"""Gaussian dropout: multiplication by normal noise."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import Axes, as_axis_numbers
from fastdrop._base.keys import Key
from fastdrop._family.gaussian import GAUSSIAN, Noise
from fastdrop.torch._arguments import broadcast, run
from fastdrop.torch._modules import Option, Plain


def gaussian_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Noise | None = None,
    return_mask: bool = False,
) -> Any:
    """Multiply by normal noise with the mean and variance of dropout: `fastdrop.gaussian_dropout`.

    `mask` is a `Noise`, and `broadcast_dims` is as for `dropout`.

    >>> F.gaussian_dropout(torch.ones(4), 0.5, key=fd.Key(0))
    tensor([0.3145, 0.4553, 0.6043, 0.3420])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return run(GAUSSIAN, (input,), request, broadcast(input, broadcast_dims))


class GaussianDropout(Plain):
    """Multiply by normal noise in training: `functional.gaussian_dropout`.

    >>> fastdrop.torch.GaussianDropout(0.1, broadcast_dims=0)
    GaussianDropout(p=0.1, inplace=False, broadcast_dims=(0,))
    """

    _function = staticmethod(gaussian_dropout)
    broadcast_dims = Option((), as_axis_numbers)

    def __init__(self, p: float = 0.5, inplace: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inplace)
        self.broadcast_dims = broadcast_dims
