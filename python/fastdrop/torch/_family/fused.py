"""Dropout fused with a residual, a bias, ReLU and GELU."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import check_choice
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.fused import ADD, BIAS_ADD, RELU, Approximate, gelu_member
from fastdrop.torch._arguments import run
from fastdrop.torch._modules import Combines, Fused


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
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
    return run(ADD, (input, residual), request)


def bias_dropout_add(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
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
    return run(BIAS_ADD, (input, bias, residual), request)


def relu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Rectify, then drop.

    >>> F.relu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([2., 0., 6., 0.])
    """
    return run(RELU, (input,), (p, training, False, key, generator, mask, return_mask))


def gelu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
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
    return run(gelu_member(approximate), (input,), request)


class DropoutAdd(Combines):
    """Drop in training, and add a residual: `functional.dropout_add`.

    >>> fastdrop.torch.DropoutAdd(0.1)
    DropoutAdd(p=0.1)
    """

    def forward(self, input: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input)``."""
        return self._call(dropout_add, input, residual)


class BiasDropoutAdd(Combines):
    """Add a bias, drop in training, and add a residual: `functional.bias_dropout_add`."""

    def forward(self, input: Tensor, bias: Tensor, residual: Tensor) -> Any:
        """Return ``residual + dropout(input + bias)``."""
        return self._call(bias_dropout_add, input, bias, residual)


class ReluDropout(Fused):
    """Rectify, then drop in training: `functional.relu_dropout`."""

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(relu(input))``."""
        return self._call(relu_dropout, input)


class GeluDropout(Fused):
    """Apply GELU, then drop in training: `functional.gelu_dropout`."""

    def __init__(self, p: float = 0.5, *, approximate: Approximate = "none") -> None:
        super().__init__(p)
        check_choice(approximate, "approximate", "none", "tanh")
        self.approximate: Approximate = approximate

    def forward(self, input: Tensor) -> Any:
        """Return ``dropout(gelu(input))``."""
        return self._call(gelu_dropout, input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, approximate={self.approximate!r}"
