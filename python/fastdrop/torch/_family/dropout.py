"""Dropout of elements, or with one decision along given axes."""

from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import Axes, Mode, as_axis_numbers
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.dropout import DROPOUT
from fastdrop.torch._arguments import broadcast, run
from fastdrop.torch._modules import Option, Replacement, of_mode


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    mode: Mode = "inverted",
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop elements at random: `torch.nn.functional.dropout`.

    A dropped element is +0.0, even where the input is infinite or NaN. For p = 1 all are dropped.
    Elements share a decision along the axes `broadcast_dims`; negative ones count from the end.

    >>> y, mask = F.dropout(torch.ones(2, 4), 0.5, key=fd.Key(0), return_mask=True)
    >>> y
    tensor([[2., 2., 2., 0.],
            [2., 0., 2., 0.]])
    >>> bool((mask.apply(torch.ones(2, 4)) == y.numpy()).all())
    True
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return run(DROPOUT, (input,), request, broadcast(input, broadcast_dims), mode)


class Dropout(Replacement, nn.Dropout):
    """Drop elements in training: `torch.nn.Dropout`.

    Elements share a decision along the axes `broadcast_dims`: (2, 3) drops channels of images.

    >>> fastdrop.torch.Dropout(0.2)
    Dropout(p=0.2, inplace=False)
    >>> isinstance(fastdrop.torch.Dropout(), torch.nn.Dropout)
    True
    """

    _function = staticmethod(dropout)
    mode = of_mode()
    broadcast_dims = Option((), as_axis_numbers)

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        broadcast_dims: Axes = (),
    ) -> None:
        super().__init__(p, inplace)
        self.mode, self.broadcast_dims = mode, broadcast_dims
