"""The linear map with a mask of its connections for each example, as one operator.

For one mask, the sum of dy_no W_oi x_ni over kept connections is linear in dy, W and x. The
operator ``fastdrop::connect`` computes the derivative with respect to one of them from the two
others. Its own derivatives are such calls again, so it can be differentiated any number of times.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from fastdrop._base.masks import Mask, make_mask
from fastdrop._family import connect
from fastdrop.torch._autograd import below, below_autograd, parts_of, record, wants_gradient
from fastdrop.torch._call import is_distributed, is_plain
from fastdrop.torch._direct import call_directly
from fastdrop.torch._dispatch import decide, torch_draws
from fastdrop.torch._operator import LIBRARY, key_of, mask_part, words_for

LIBRARY.define(
    "connect(str wanted, Tensor first, Tensor second, Tensor key, float p, SymInt[]? whole, "
    "SymInt[]? start, SymInt[]? shape) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)

_COMPUTE = {
    "outputs": connect.sum_over_inputs,
    "inputs": connect.sum_over_outputs,
    "weights": connect.sum_over_examples,
}
"""What is wanted, from the two others: outputs of (x, weight), gradients of inputs of (dy, weight),
and of weights of (dy, x)."""


def linear(
    input: Tensor, weight: Tensor, source: Any, p: float, scale: float
) -> tuple[Tensor, Any]:
    """Return the linear map of rows with kept connections, and the mask if it is known."""
    shape = (input.shape[0], *weight.shape)
    if is_distributed(input) or is_distributed(weight):
        return _on_ranks(input, weight, source, p, scale), None
    if is_plain((input, weight)):
        source = decide(source)
        mask = source if isinstance(source, Mask) else make_mask(shape, p, source)
    else:
        mask = None
    if scale == 0.0:  # zeros, with gradients of zeros
        return input[:, :0] @ weight[:, :0].T, mask
    if mask is None and torch_draws(source):
        kept = torch.dropout(torch.ones(shape, device=input.device), p, True) != 0
        return torch.einsum("noi,ni->no", torch.where(kept, weight * scale, 0.0), input), None
    given = mask or source
    words, region = parts_of(given) if isinstance(given, Mask) else (words_for(source), None)
    y = _connect("outputs", input, weight, words, p, region)
    return y if scale == 1.0 else y * scale, mask


def _on_ranks(input: Tensor, weight: Tensor, source: Any, p: float, scale: float) -> Tensor:
    """Map the local parts of DTensors, with their part of the whole mask."""
    from fastdrop.torch import _distributed

    whole = [input.shape[0], *weight.shape]
    (x, w), start, placements = _distributed.factors(input, weight)
    if isinstance(source, Mask):
        words, (whole, inner, _) = parts_of(source)
        start = tuple(a + b for a, b in zip(start, inner, strict=True))
    else:
        words = words_for(source)
    region = whole, list(start), [x.shape[0], *w.shape]
    if scale == 0.0:
        y = x[:, :0] @ w[:, :0].T
    else:
        y = _connect("outputs", x, w, words, p, region) * scale
    return _distributed.product(y, input, weight, placements)


def _connect(
    wanted: str, first: Tensor, second: Tensor, words: Tensor, p: float, region: Any
) -> Any:
    return torch.ops.fastdrop.connect(
        wanted, first, second, words, p, *(region or (None, None, None))
    )


def _mask_shape(wanted: str, first: Tensor, second: Tensor) -> tuple[int, int, int]:
    if wanted == "weights":
        return first.shape[0], first.shape[1], second.shape[1]
    return first.shape[0], second.shape[0], second.shape[1]


def _on_cpu(
    wanted: str, first: Tensor, second: Tensor, words: Tensor, p: float, *region: Any
) -> Tensor:
    if region[0] is None:
        mask = make_mask(_mask_shape(wanted, first, second), p, key_of(words))
    else:
        mask = mask_part(words, p, region)
    one, other = (x.detach().contiguous().numpy() for x in (first, second))
    with np.errstate(all="ignore"):
        return torch.from_numpy(_COMPUTE[wanted](one, other, mask))


class _Connected(_SingleLevelFunction):
    """A call in the graph of autograd."""

    @staticmethod
    def forward(
        ctx: Any, wanted: str, p: float, region: Any, keyset: Any, words: Tensor, *inputs: Tensor
    ) -> Any:
        """Compute the call."""
        ctx.call = wanted, p, region
        ctx.save_for_backward(words, *inputs)
        ctx.save_for_forward(words, *inputs)
        arguments = wanted, *inputs, words, p, *region
        return below(keyset, torch.ops.fastdrop.connect, arguments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Return the gradients with respect to both inputs."""
        wanted, p, region = ctx.call
        words, first, second = ctx.saved_tensors
        known = {"dy": dy, "first": first, "second": second}
        gradients = [
            _connect(which, known[one], known[other], words, p, region) if needed else None
            for (which, one, other), needed in zip(
                connect.GRADIENTS[wanted], ctx.needs_input_grad[5:], strict=True
            )
        ]
        return (None,) * 5 + tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        """Return the tangent of the result."""
        wanted, p, region = ctx.call
        words, first, second = ctx.saved_tensors
        pairs = [(tangents[5], second), (first, tangents[6])]
        parts = [
            _connect(wanted, one, other, words, p, region)
            for one, other in pairs
            if one is not None and other is not None
        ]
        return sum(parts[1:], parts[0])


def _with_autograd(keyset: Any, wanted: str, first: Any, second: Any, *others: Any) -> Any:
    words, p, *region = others
    if wants_gradient(first, second) or forward_ad._current_level >= 0:
        return record(_Connected, wanted, p, tuple(region), keyset, words, first, second)
    arguments = (wanted, first, second, *others)
    return below_autograd(keyset, torch.ops.fastdrop.connect, arguments)


def _batched(info: Any, in_dims: Any, wanted: str, *arguments: Any) -> tuple[Tensor, int]:
    """Compute the examples of `torch.vmap` one after another."""
    *tensors, p, whole, start, shape = arguments
    dims = in_dims[1:4]
    results = [
        torch.ops.fastdrop.connect(
            wanted,
            *(x if dim is None else x.select(dim, n) for x, dim in zip(tensors, dims, strict=True)),
            p, whole, start, shape,
        )
        for n in range(info.batch_size)
    ]  # fmt: skip
    return torch.stack(results), 0


LIBRARY.impl("connect", _on_cpu, "CPU")
call_directly("connect", _on_cpu)
LIBRARY.impl("connect", _with_autograd, "Autograd", with_keyset=True)
torch.library.register_vmap("fastdrop::connect", _batched, lib=LIBRARY)


@torch.library.register_fake("fastdrop::connect", lib=LIBRARY)
def _(wanted: str, first: Tensor, second: Tensor, *others: Any) -> Tensor:
    examples, outputs, inputs = _mask_shape(wanted, first, second)
    shapes = {
        "outputs": (examples, outputs), "inputs": (examples, inputs), "weights": (outputs, inputs)
    }  # fmt: skip
    return first.new_empty(shapes[wanted])
