"""Attention for models of the transformers library, which choose theirs by name.

>>> import fastdrop.torch.transformers
>>> from transformers import AutoModel, BertConfig
>>> fastdrop.torch.transformers.register()
>>> config = BertConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1)
>>> model = AutoModel.from_config(config, attn_implementation="fastdrop")
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from fastdrop.torch._attention import WIDEST
from fastdrop.torch._call import takes
from fastdrop.torch.functional import scaled_dot_product_attention

__all__ = ["register"]

_CHANGE_THE_RESULT = ("softcap", "s_aux", "sinks", "indices", "block_indices")
"""Options of some models that only their own attention knows."""


def register() -> None:
    """Make ``attn_implementation="fastdrop"`` a choice in transformers, in this process.

    Models with this choice compute attention by
    `fastdrop.torch.functional.scaled_dot_product_attention`, in training and evaluation, and store
    no weights. They take the masks and position biases that they take with ``"sdpa"``. Tensors that
    fastdrop has no kernels for, such as those on other devices, use ``"sdpa"``. Other dropout in
    the model remains torch's, unless `install` or `replace` takes it over.

    A call raises ValueError if the model asks for attention weights, or for what the fused kernel
    lacks: soft caps, sinks and chosen keys. So does one of a model that does not choose attention
    by name, such as Bloom, if it makes masks; others of these, such as XLNet, ignore the choice.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface, __version__

        if int(__version__.partition(".")[0]) < 5:
            raise ImportError(f"transformers is {__version__}")
    except ImportError as error:
        raise ImportError(
            "fastdrop.torch.transformers needs transformers 5 or newer, which is not installed"
        ) from error
    AttentionInterface.register("fastdrop", _attend)
    AttentionMaskInterface.register("fastdrop", _mask)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers asks for it: (N, H, L, E) in, (N, L, H, E) out."""
    for name in _CHANGE_THE_RESULT:
        if options.get(name) is not None:
            raise ValueError(
                f'attn_implementation must be "eager" for a model with {name}, got "fastdrop"'
            )
    if options.get("output_attentions"):
        raise ValueError(
            'attn_implementation must be "eager" for output_attentions=True, got "fastdrop"'
        )
    if not all(takes(x) and x.shape[-1] <= WIDEST for x in (query, key, value)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        options |= {"is_causal": is_causal, "position_bias": position_bias}
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    # A mask that is needed is given, and has causality in it. One query is the last one.
    causal = False
    if attention_mask is None and query.shape[2] > 1:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    y = scaled_dot_product_attention(
        query, key, value, _both(attention_mask, position_bias), dropout, causal,
        scale=scaling, enable_gqa=True,
    )  # fmt: skip
    return y.transpose(1, 2).contiguous(), None


def _mask(*arguments: Any, config: Any = None, **options: Any) -> Tensor | None:
    """Return which weights count, or None, as for "sdpa"."""
    from transformers.masking_utils import sdpa_mask

    if config is not None and not _choose_by_name(type(config).__module__):
        raise ValueError(
            f'attn_implementation must be "eager" for {config.model_type}, whose models do not '
            'choose attention by name, got "fastdrop"'
        )
    return sdpa_mask(*arguments, **options)


@torch.compiler.assume_constant_result
def _choose_by_name(configurations: str) -> bool:
    """Return whether models choose attention by name, from the module of their configurations.

    Those that do not would add our masks, of bools, to their scores.
    """
    package = sys.modules.get(configurations.rpartition(".")[0])
    for name, module in list(getattr(package, "__dict__", {}).items()):
        if name.startswith("modeling_") and not hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
            for thing in vars(module).values():
                if (
                    isinstance(thing, type)
                    and issubclass(thing, nn.Module)
                    and thing.__module__ == module.__name__
                    and "Attention" in thing.__name__
                ):
                    return False
    return True


def _both(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Return what is added to scores, or which of them count."""
    if mask is None or bias is None:
        return mask if bias is None else bias
    return torch.where(mask, bias, -torch.inf) if mask.dtype is torch.bool else mask + bias
