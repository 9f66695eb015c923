"""Zoneout: units of a state that keep their previous value."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.zoneout import ZONEOUT
from fastdrop.torch._arguments import run
from fastdrop.torch._modules import OutOfPlace


def zoneout(
    new: Tensor,
    previous: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Keep the previous state of some units in training; in evaluation, take the expectation.

    See `fastdrop.zoneout`. `previous` broadcasts to the shape of `new`. `p` is the probability to
    keep the PREVIOUS value of a unit. Dtypes are promoted as in `dropout_add`.

    >>> F.zoneout(torch.ones(6), torch.zeros(6), 0.5, key=fd.Key(1))
    tensor([0., 1., 0., 0., 0., 1.])
    >>> F.zoneout(torch.ones(4), torch.zeros(4), 0.25, training=False)
    tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(ZONEOUT, (new, previous), request, (), "standard")


class Zoneout(OutOfPlace):
    """Keep the previous state of some units in training: `functional.zoneout`.

    In evaluation the state is the expectation.
    """

    _takes_rows = False

    def forward(self, new: Tensor, previous: Tensor) -> Any:
        """Return the next state."""
        return self._call(zoneout, new, previous)
