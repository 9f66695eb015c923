"""Dropout fused with a residual, a bias, ReLU and GELU."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import Mode
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.fused import ADD, BIAS_ADD, RELU, Approximate, gelu_member
from fastdrop.torch._arguments import run
from fastdrop.torch._modules import Activated, Scaled, of_choice


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop, and add another tensor, which broadcasts to the shape of `input`.

    The result has the dtype of ``residual + dropout(input)``. It is computed in the widest
    precision of all tensors, in one pass, and rounded once; a gradient has its tensor's dtype.

    >>> F.dropout_add(torch.ones(4), torch.full((4,), 10.0), 0.5, key=fd.Key(0))
    tensor([12., 12., 12., 10.])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(ADD, (input, residual), request, (), mode)


def bias_dropout_add(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Add a bias, drop, and add another tensor; both broadcast to the shape of `input`.

    Dtypes are promoted as in `dropout_add`.

    >>> F.bias_dropout_add(torch.ones(4), torch.ones(4), torch.zeros(4), 0.5, key=fd.Key(0))
    tensor([4., 4., 4., 0.])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(BIAS_ADD, (input, bias, residual), request, (), mode)


def relu_dropout(
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
    """Rectify, then drop.

    >>> F.relu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([2., 0., 6., 0.])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(RELU, (input,), request, (), mode)


def gelu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    approximate: Approximate = "none",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply the Gaussian error linear unit, then drop.

    >>> F.gelu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([ 1.6827, -0.0910,  5.9919,  0.0000])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(gelu_member(approximate), (input,), request, (), mode)


class DropoutAdd(Scaled):
    """Drop in training, and add a residual: `functional.dropout_add`.

    >>> fastdrop.torch.DropoutAdd(0.1)
    DropoutAdd(p=0.1)
    """

    _takes_rows = False

    def forward(self, input: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input)``."""
        return self._call(dropout_add, input, residual, **self._options)


class BiasDropoutAdd(Scaled):
    """Add a bias, drop in training, and add a residual: `functional.bias_dropout_add`."""

    _takes_rows = False

    def forward(self, input: Tensor, bias: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input + bias)``."""
        return self._call(bias_dropout_add, input, bias, residual, **self._options)


class ReluDropout(Activated):
    """Rectify, then drop in training: `functional.relu_dropout`."""

    _function = staticmethod(relu_dropout)


class GeluDropout(Activated):
    """Apply GELU, then drop in training: `functional.gelu_dropout`."""

    _function = staticmethod(gelu_dropout)
    approximate = of_choice("none", "tanh")

    def __init__(
        self,
        p: float = 0.5,
        *,
        approximate: Approximate = "none",
        mode: Mode = "inverted",
    ) -> None:
        super().__init__(p, mode=mode)
        self.approximate = approximate
