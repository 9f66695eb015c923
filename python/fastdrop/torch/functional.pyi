# Made by tests/make_stubs.py from the package's signatures.

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastdrop._base.arguments import Axes, Mode
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import Per
from fastdrop._family.activations import Activation
from fastdrop._family.attention import Causal
from fastdrop._family.blocks import BlockMask
from fastdrop._family.concrete import ConcreteMask
from fastdrop._family.fused import Approximate
from fastdrop._family.gaussian import Noise
from fastdrop._family.patches import PatchMask

@overload
def activation_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, activation: Activation,
    negative_slope: float | None = ..., alpha: float | None = ..., mode: Mode = ..., key:
    Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None =
    ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def activation_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, activation: Activation,
    negative_slope: float | None = ..., alpha: float | None = ..., mode: Mode = ..., key:
    Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None =
    ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def activation_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, activation: Activation,
    negative_slope: float | None = ..., alpha: float | None = ..., mode: Mode = ..., key:
    Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None =
    ..., return_mask: bool = ...
) -> Any: ...
@overload
def silu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def silu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def silu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: bool = ...
) -> Any: ...
@overload
def alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def feature_alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    channel_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def feature_alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    channel_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def feature_alpha_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    channel_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = ..., dropout_p:
    float = ..., is_causal: Causal = ..., *, scale: float | None = ..., enable_gqa: bool =
    ..., dropout_key: Key | Tensor | None = ..., generator: torch.Generator | None = ...,
    dropout_mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = ..., dropout_p:
    float = ..., is_causal: Causal = ..., *, scale: float | None = ..., enable_gqa: bool =
    ..., dropout_key: Key | Tensor | None = ..., generator: torch.Generator | None = ...,
    dropout_mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = ..., dropout_p:
    float = ..., is_causal: Causal = ..., *, scale: float | None = ..., enable_gqa: bool =
    ..., dropout_key: Key | Tensor | None = ..., generator: torch.Generator | None = ...,
    dropout_mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def drop_block1d(
    input: Tensor, p: float, block_size: int, training: bool = ..., inplace: bool = ..., *,
    shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: BlockMask | None =
    ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def drop_block1d(
    input: Tensor, p: float, block_size: int, training: bool = ..., inplace: bool = ..., *,
    shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: BlockMask | None =
    ..., return_mask: Literal[True]
) -> tuple[Tensor, BlockMask]: ...
@overload
def drop_block1d(
    input: Tensor, p: float, block_size: int, training: bool = ..., inplace: bool = ..., *,
    shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: BlockMask | None =
    ..., return_mask: bool = ...
) -> Any: ...
@overload
def drop_block2d(
    input: Tensor, p: float, block_size: int | tuple[int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def drop_block2d(
    input: Tensor, p: float, block_size: int | tuple[int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, BlockMask]: ...
@overload
def drop_block2d(
    input: Tensor, p: float, block_size: int | tuple[int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def drop_block3d(
    input: Tensor, p: float, block_size: int | tuple[int, int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def drop_block3d(
    input: Tensor, p: float, block_size: int | tuple[int, int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, BlockMask]: ...
@overload
def drop_block3d(
    input: Tensor, p: float, block_size: int | tuple[int, int, int], training: bool = ...,
    inplace: bool = ..., *, shared: bool = ..., channel_axis: int = ..., scale_by_keep: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    BlockMask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def concrete_dropout(
    input: Tensor, logit: Tensor | float, temperature: float = ..., training: bool = ..., *,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    ConcreteMask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def concrete_dropout(
    input: Tensor, logit: Tensor | float, temperature: float = ..., training: bool = ..., *,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    ConcreteMask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, ConcreteMask]: ...
@overload
def concrete_dropout(
    input: Tensor, logit: Tensor | float, temperature: float = ..., training: bool = ..., *,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    ConcreteMask | None = ..., return_mask: bool = ...
) -> Any: ...
def concrete_regularization(
    weight: Tensor, logit: Tensor | float, inputs: int, *, weight_regularizer: float = ...,
    dropout_regularizer: float = ...
) -> Tensor: ...
@overload
def drop_connect_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = ..., p: float = ..., training: bool
    = ..., *, mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def drop_connect_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = ..., p: float = ..., training: bool
    = ..., *, mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def drop_connect_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = ..., p: float = ..., training: bool
    = ..., *, mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def bias_dropout_add(
    input: Tensor, bias: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def bias_dropout_add(
    input: Tensor, bias: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def bias_dropout_add(
    input: Tensor, bias: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def dropout_add(
    input: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *, mode: Mode =
    ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask
    | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def dropout_add(
    input: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *, mode: Mode =
    ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask
    | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def dropout_add(
    input: Tensor, residual: Tensor, p: float = ..., training: bool = ..., *, mode: Mode =
    ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask
    | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def gelu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., approximate:
    Approximate = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def gelu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., approximate:
    Approximate = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def gelu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., approximate:
    Approximate = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def relu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def relu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def relu_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: bool = ...
) -> Any: ...
@overload
def gaussian_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Noise | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def gaussian_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Noise | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Noise]: ...
@overload
def gaussian_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *,
    broadcast_dims: Axes = ..., key: Key | Tensor | None = ..., generator: torch.Generator |
    None = ..., mask: Noise | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def patch_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, prefix: int = ..., ordered: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    PatchMask | None = ..., return_mask: Literal[False] = ...
) -> tuple[Tensor, Tensor]: ...
@overload
def patch_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, prefix: int = ..., ordered: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    PatchMask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Tensor, PatchMask]: ...
@overload
def patch_dropout(
    input: Tensor, p: float = ..., training: bool = ..., *, prefix: int = ..., ordered: bool
    = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    PatchMask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def drop_path(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, per: Per =
    ..., batch_axis: int = ..., scale_by_keep: bool = ..., key: Key | Tensor | None = ...,
    generator: torch.Generator | None = ..., mask: Mask | None = ..., return_mask:
    Literal[False] = ...
) -> Tensor: ...
@overload
def drop_path(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, per: Per =
    ..., batch_axis: int = ..., scale_by_keep: bool = ..., key: Key | Tensor | None = ...,
    generator: torch.Generator | None = ..., mask: Mask | None = ..., return_mask:
    Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def drop_path(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, per: Per =
    ..., batch_axis: int = ..., scale_by_keep: bool = ..., key: Key | Tensor | None = ...,
    generator: torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool =
    ...
) -> Any: ...
@overload
def dropout1d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def dropout1d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def dropout1d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def dropout2d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def dropout2d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def dropout2d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def dropout3d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def dropout3d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def dropout3d(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def feature_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def feature_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def feature_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., channel_axis: int = ..., key: Key | Tensor | None = ..., generator:
    torch.Generator | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def locked_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., time_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator
    | None = ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def locked_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., time_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator
    | None = ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def locked_dropout(
    input: Tensor, p: float = ..., training: bool = ..., inplace: bool = ..., *, mode: Mode
    = ..., time_axis: int = ..., key: Key | Tensor | None = ..., generator: torch.Generator
    | None = ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def drop_connect(
    weight: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def drop_connect(
    weight: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def drop_connect(
    weight: Tensor, p: float = ..., training: bool = ..., *, mode: Mode = ..., key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: bool = ...
) -> Any: ...
@overload
def embedding_dropout(
    weight: Tensor, p: float = ..., training: bool = ..., *, indices: Tensor | None = ...,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def embedding_dropout(
    weight: Tensor, p: float = ..., training: bool = ..., *, indices: Tensor | None = ...,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def embedding_dropout(
    weight: Tensor, p: float = ..., training: bool = ..., *, indices: Tensor | None = ...,
    mode: Mode = ..., key: Key | Tensor | None = ..., generator: torch.Generator | None =
    ..., mask: Mask | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def weight_drop(
    weights: Sequence[Tensor], p: float = ..., training: bool = ..., *, mode: Mode = ...,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    Sequence[Mask] | None = ..., return_mask: Literal[False] = ...
) -> list[Tensor]: ...
@overload
def weight_drop(
    weights: Sequence[Tensor], p: float = ..., training: bool = ..., *, mode: Mode = ...,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    Sequence[Mask] | None = ..., return_mask: Literal[True]
) -> tuple[list[Tensor], list[Mask]]: ...
@overload
def weight_drop(
    weights: Sequence[Tensor], p: float = ..., training: bool = ..., *, mode: Mode = ...,
    key: Key | Tensor | None = ..., generator: torch.Generator | None = ..., mask:
    Sequence[Mask] | None = ..., return_mask: bool = ...
) -> Any: ...
@overload
def zoneout(
    new: Tensor, previous: Tensor, p: float = ..., training: bool = ..., *, key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[False] = ...
) -> Tensor: ...
@overload
def zoneout(
    new: Tensor, previous: Tensor, p: float = ..., training: bool = ..., *, key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: Literal[True]
) -> tuple[Tensor, Mask]: ...
@overload
def zoneout(
    new: Tensor, previous: Tensor, p: float = ..., training: bool = ..., *, key: Key |
    Tensor | None = ..., generator: torch.Generator | None = ..., mask: Mask | None = ...,
    return_mask: bool = ...
) -> Any: ...
