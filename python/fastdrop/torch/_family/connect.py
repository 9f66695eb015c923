"""Linear maps with connections dropped for each example."""

from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import Mode, check_mode
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.members import scaled
from fastdrop._family.weights import CONNECTIONS
from fastdrop.torch._arguments import check_tensor, checked, refusal, run
from fastdrop.torch._call import NO_MASK, takes
from fastdrop.torch._connect import linear
from fastdrop.torch._modules import Module, check_probability, of_mode


def drop_connect_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Map linearly, with connections dropped for each example: `fastdrop.drop_connect_linear`.

    `input` has shape (..., inputs), `weight` (outputs, inputs), and the mask (examples, outputs,
    inputs). Neither the mask nor the weights of all examples are stored.

    >>> F.drop_connect_linear(torch.ones(2, 4), torch.ones(3, 4), key=fd.Key(0))
    tensor([[6., 4., 2.],
            [4., 8., 4.]])
    """
    check_tensor(input, "input")
    check_tensor(weight, "weight")
    others = [(weight, "weight")] if bias is None else [(weight, "weight"), (bias, "bias")]
    for x, name in ((input, "input"), *others):
        check_tensor(x, name)
        if not takes(x):
            raise refusal(x, name)
    if weight.dim() != 2:
        raise RuntimeError(f"weight must have 2 axes, (outputs, inputs), got {weight.dim()}")
    if input.shape[-1:] != weight.shape[1:]:
        raise RuntimeError(
            f"input must have the shape (..., {weight.shape[1]}), got {tuple(input.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(
            f"bias must have the shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}"
        )
    p, source = checked((p, training, False, key, generator, mask, return_mask))
    check_mode(mode)
    dtype = input.dtype
    for x, _ in others:
        dtype = torch.promote_types(dtype, x.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    rows, weights = input.reshape(-1, input.shape[-1]).to(wide), weight.to(wide)
    shape = (rows.shape[0], *weight.shape)
    applied: Mask | None
    if mask is not None and mask.shape != shape:
        raise ValueError(f"mask must be of shape {shape}, got {mask.shape}")
    rate = float(p) if mask is None else mask.p
    if training and (mask is not None or p != 0.0):
        y, applied = linear(rows, weights, source, rate, scaled(rate, mode).scale)
    else:
        with torch.autocast("cpu", enabled=False):  # the precision is that of training
            y = rows @ weights.T
        y = run(CONNECTIONS, (y,), (rate, training, False, None, None, None, False), (), mode)
        applied = make_mask(shape, 0.0, NO_KEY) if return_mask else None
    if bias is not None:
        y = y + bias.to(wide)
    y = y.to(dtype).reshape(*input.shape[:-1], weight.shape[0])
    if not return_mask:
        return y
    if applied is None:
        raise RuntimeError(NO_MASK)
    return y, applied


class DropConnectLinear(Module, nn.Linear):
    """Map linearly, with connections dropped for each example: `functional.drop_connect_linear`.

    The parameters are those of `torch.nn.Linear`, and p.

    >>> fastdrop.torch.DropConnectLinear(4, 2, p=0.1)
    DropConnectLinear(in_features=4, out_features=2, bias=True, p=0.1)
    """

    mode = of_mode()
    _takes_rows = False
    _is_whole = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        mode: Mode = "inverted",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        check_probability(p)
        self.p, self.inplace, self.mode = p, False, mode

    def forward(self, input: Tensor) -> Any:
        """Return the linear map."""
        parameters = {"weight": self.weight, "bias": self.bias}
        return self._call(drop_connect_linear, input, **parameters, **self._options)

    def _first_arguments(self) -> list[str]:
        return [nn.Linear.extra_repr(self), f"p={self.p}"]
