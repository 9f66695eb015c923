"""Attention with dropout of the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from fastdrop._base.arguments import as_finite
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._family.attention import Causal
from fastdrop.torch._arguments import check_tensor, checked, refusal
from fastdrop.torch._attention import attention
from fastdrop.torch._call import takes


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: Causal = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    dropout_key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    dropout_mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Attend with dropout of the weights: `torch.nn.functional.scaled_dot_product_attention`.

    Neither the weights nor the mask are stored. Their mask has the shape (..., queries, keys), and
    is the one that `dropout` applies to a stored softmax with the same key. The result lies in
    memory as (N, L, H, E), so that merging the heads needs no copy. `is_causal` may also be
    "lower_right", and go with an `attn_mask`. Gradients of gradients, forward-mode differentiation
    and DTensors store the weights.

    >>> q = k = v = torch.ones(1, 2, 3, 4)
    >>> F.scaled_dot_product_attention(q, k, v, None, 0.5, dropout_key=fd.Key(1))[0, 0, :, 0]
    tensor([0.6667, 0.6667, 0.6667])
    """
    request = dropout_p, True, False, dropout_key, generator, dropout_mask, return_mask
    p, source = checked(request, "dropout_")
    for x, name in ((query, "query"), (key, "key"), (value, "value")):
        check_tensor(x, name)
        if not takes(x):
            raise refusal(x, name)
        if x.dim() < 2:
            raise RuntimeError(f"{name} must have at least 2 axes, got {x.dim()}")
    if attn_mask is not None and not isinstance(attn_mask, CausalBias):
        check_tensor(attn_mask, "attn_mask")
        if attn_mask.dtype is not torch.bool and not takes(attn_mask):
            raise refusal(attn_mask, "attn_mask")
    p = float(p) if dropout_mask is None else dropout_mask.p
    scale = None if scale is None else as_finite(scale, "scale")
    inputs = query, key, value, attn_mask
    return attention(inputs, p, is_causal, scale, enable_gqa, source, return_mask)
