"""Dropout fused with other activations."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import Mode
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.activations import SILU, Activation, activation_member
from fastdrop.torch._arguments import run
from fastdrop.torch._modules import Activated, Option


def silu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply the sigmoid-weighted linear unit, then drop.

    >>> F.silu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([ 1.4621, -0.4768,  5.7154,  0.0000])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(SILU, (input,), request, (), mode)


def activation_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    activation: Activation,
    negative_slope: float | None = None,
    alpha: float | None = None,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply an activation, then drop: `fastdrop.activation_dropout`.

    >>> x = torch.tensor([1.0, -2.0, 3.0, 4.0])
    >>> F.activation_dropout(x, 0.5, activation="elu", key=fd.Key(0))
    tensor([ 2.0000, -1.7293,  6.0000,  0.0000])
    """
    member, shift = activation_member(activation, negative_slope, alpha)
    request = p, training, False, key, generator, mask, return_mask
    return run(member, (input,), request, (), mode, shift=shift)


class SiluDropout(Activated):
    """Apply SiLU, then drop in training: `functional.silu_dropout`."""

    _function = staticmethod(silu_dropout)


class ActivationDropout(Activated):
    """Apply an activation, then drop in training: `functional.activation_dropout`.

    >>> fastdrop.torch.ActivationDropout(0.1, activation="leaky_relu", negative_slope=0.2)
    ActivationDropout(p=0.1, activation='leaky_relu', negative_slope=0.2)
    """

    _function = staticmethod(activation_dropout)
    activation, negative_slope, alpha = (Option(None, lambda value, _: value) for _ in range(3))

    def __init__(
        self,
        p: float = 0.5,
        *,
        activation: Activation,
        negative_slope: float | None = None,
        alpha: float | None = None,
        mode: Mode = "inverted",
    ) -> None:
        super().__init__(p, mode=mode)
        activation_member(activation, negative_slope, alpha)
        self.activation, self.negative_slope, self.alpha = activation, negative_slope, alpha
