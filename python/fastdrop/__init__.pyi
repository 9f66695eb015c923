# Made by tests/make_stubs.py from the package's signatures.

from collections.abc import Sequence
from typing import Any, Literal, Never, Protocol, SupportsFloat, SupportsIndex
from typing import TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._base.arguments import Array, Axes, Lengths, Mode
from fastdrop._base.keys import RNG
from fastdrop._base.members import Per
from fastdrop._base.plans import Keep
from fastdrop._family.activations import Activation
from fastdrop._family.attention import Causal
from fastdrop._family.fused import Approximate

class _OfFloats(Protocol):
    def __array__(self) -> NDArray[np.inexact[Any]]: ...

_Floats: TypeAlias = (
    NDArray[np.inexact[Any]] | _OfFloats | complex | Sequence[complex]
    | Sequence[Sequence[complex]] | Sequence[Sequence[Sequence[complex]]]
    | Sequence[NDArray[np.inexact[Any]]]
)
_F = TypeVar("_F", bound=np.inexact[Any])
_M = TypeVar("_M", bound=Keep)

from fastdrop._base.keys import Key as Key
from fastdrop._base.layers import ElementwiseLayer as ElementwiseLayer
from fastdrop._base.layers import Layer as Layer
from fastdrop._base.masks import Mask as Mask
from fastdrop._base.masks import publish as publish
from fastdrop._config import get_num_threads as get_num_threads
from fastdrop._config import set_num_threads as set_num_threads
from fastdrop._config import show_config as show_config
from fastdrop._config import threads as threads
from fastdrop._core import __version__ as __version__
from fastdrop._family.dropout import Dropout as Dropout
from fastdrop import monte_carlo as monte_carlo
from fastdrop import schedules as schedules
from fastdrop._family.activations import ActivationDropout as ActivationDropout
from fastdrop._family.activations import SiluDropout as SiluDropout
from fastdrop._family.activations import activation_dropout_backward as activation_dropout_backward
from fastdrop._family.activations import silu_dropout_backward as silu_dropout_backward
from fastdrop._family.alpha import AlphaDropout as AlphaDropout
from fastdrop._family.alpha import FeatureAlphaDropout as FeatureAlphaDropout
from fastdrop._family.attention import ScaledDotProductAttention as ScaledDotProductAttention
from fastdrop._family.bernoulli import bernoulli as bernoulli
from fastdrop._family.bits import BitGenerator as BitGenerator
from fastdrop._family.blocks import BlockMask as BlockMask
from fastdrop._family.blocks import DropBlock1d as DropBlock1d
from fastdrop._family.blocks import DropBlock2d as DropBlock2d
from fastdrop._family.blocks import DropBlock3d as DropBlock3d
from fastdrop._family.concrete import ConcreteDropout as ConcreteDropout
from fastdrop._family.concrete import ConcreteMask as ConcreteMask
from fastdrop._family.concrete import concrete_dropout_backward as concrete_dropout_backward
from fastdrop._family.concrete import concrete_regularization as concrete_regularization
from fastdrop._family.connect import DropConnectLinear as DropConnectLinear
from fastdrop._family.connect import drop_connect_linear_backward as drop_connect_linear_backward
from fastdrop._family.fused import BiasDropoutAdd as BiasDropoutAdd
from fastdrop._family.fused import DropoutAdd as DropoutAdd
from fastdrop._family.fused import GeluDropout as GeluDropout
from fastdrop._family.fused import ReluDropout as ReluDropout
from fastdrop._family.fused import gelu_dropout_backward as gelu_dropout_backward
from fastdrop._family.fused import relu_dropout_backward as relu_dropout_backward
from fastdrop._family.gaussian import GaussianDropout as GaussianDropout
from fastdrop._family.gaussian import Noise as Noise
from fastdrop._family.patches import PatchDropout as PatchDropout
from fastdrop._family.patches import PatchMask as PatchMask
from fastdrop._family.patches import patch_dropout_backward as patch_dropout_backward
from fastdrop._family.shared import Dropout1d as Dropout1d
from fastdrop._family.shared import Dropout2d as Dropout2d
from fastdrop._family.shared import Dropout3d as Dropout3d
from fastdrop._family.shared import DropPath as DropPath
from fastdrop._family.shared import FeatureDropout as FeatureDropout
from fastdrop._family.shared import LockedDropout as LockedDropout
from fastdrop._family.shared import drop_path_rates as drop_path_rates
from fastdrop._family.weights import DropConnect as DropConnect
from fastdrop._family.weights import EmbeddingDropout as EmbeddingDropout
from fastdrop._family.weights import WeightDrop as WeightDrop
from fastdrop._family.weights import embedding_dropout_backward as embedding_dropout_backward
from fastdrop._family.zoneout import Zoneout as Zoneout
from fastdrop._family.zoneout import zoneout_backward as zoneout_backward
from fastdrop.monte_carlo import MonteCarlo as MonteCarlo
from fastdrop.schedules import PSchedule as PSchedule

@overload
def dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ...,
    broadcast_dims: Axes = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., broadcast_dims:
    Axes = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ...,
    broadcast_dims: Axes = ..., rng: RNG = ..., mask: None = ..., return_mask:
    Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., broadcast_dims:
    Axes = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., broadcast_dims:
    Axes = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., broadcast_dims:
    Axes = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array
    | None = ..., **unknown: Never
) -> Any: ...
@overload
def activation_dropout(
    x: NDArray[_F], p: float = ..., *, activation: Activation, negative_slope: float | None
    = ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def activation_dropout(
    x: _Floats, p: float = ..., *, activation: Activation, negative_slope: float | None =
    ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None = ...,
    **unknown: Never
) -> Array: ...
@overload
def activation_dropout(
    x: NDArray[_F], p: float = ..., *, activation: Activation, negative_slope: float | None
    = ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def activation_dropout(
    x: _Floats, p: float = ..., *, activation: Activation, negative_slope: float | None =
    ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def activation_dropout(
    x: _Floats, p: float = ..., *, activation: Activation, negative_slope: float | None =
    ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def activation_dropout(
    x: _Floats, p: float = ..., *, activation: Activation, negative_slope: float | None =
    ..., alpha: float | None = ..., training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown:
    Never
) -> Any: ...
@overload
def silu_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def silu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None = ...,
    **unknown: Never
) -> Array: ...
@overload
def silu_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def silu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def silu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def silu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown:
    Never
) -> Any: ...
@overload
def alpha_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ...,
    rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array |
    None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None
    = ..., **unknown: Never
) -> Array: ...
@overload
def alpha_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ...,
    rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[Array, _M]: ...
@overload
def alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ...,
    **unknown: Never
) -> Any: ...
@overload
def feature_alpha_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng:
    RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None
    = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def feature_alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> Array: ...
@overload
def feature_alpha_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng:
    RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def feature_alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[Array, Mask]: ...
@overload
def feature_alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng: RNG =
    ..., mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def feature_alpha_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., channel_axis: int = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ...,
    **unknown: Never
) -> Any: ...
@overload
def scaled_dot_product_attention(
    q: _Floats, k: _Floats, v: _Floats, p: float = ..., *, attn_mask: ArrayLike | None =
    ..., is_causal: Causal = ..., scale: float | None = ..., training: bool = ..., rng: RNG
    = ..., mask: Mask | None = ..., return_lse: Literal[False] = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def scaled_dot_product_attention(
    q: _Floats, k: _Floats, v: _Floats, p: float = ..., *, attn_mask: ArrayLike | None =
    ..., is_causal: Causal = ..., scale: float | None = ..., training: bool = ..., rng: RNG
    = ..., mask: Mask | None = ..., return_lse: Literal[False] = ..., return_mask:
    Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def scaled_dot_product_attention(
    q: _Floats, k: _Floats, v: _Floats, p: float = ..., *, attn_mask: ArrayLike | None =
    ..., is_causal: Causal = ..., scale: float | None = ..., training: bool = ..., rng: RNG
    = ..., mask: Mask | None = ..., return_lse: Literal[True], return_mask: Literal[False] =
    ..., out: Array | None = ..., **unknown: Never
) -> tuple[Array, Array]: ...
@overload
def scaled_dot_product_attention(
    q: _Floats, k: _Floats, v: _Floats, p: float = ..., *, attn_mask: ArrayLike | None =
    ..., is_causal: Causal = ..., scale: float | None = ..., training: bool = ..., rng: RNG
    = ..., mask: Mask | None = ..., return_lse: Literal[True], return_mask: Literal[True],
    out: Array | None = ..., **unknown: Never
) -> tuple[Array, Array, Mask]: ...
@overload
def scaled_dot_product_attention(
    q: _Floats, k: _Floats, v: _Floats, p: float = ..., *, attn_mask: ArrayLike | None =
    ..., is_causal: Causal = ..., scale: float | None = ..., training: bool = ..., rng: RNG
    = ..., mask: Mask | None = ..., return_lse: bool = ..., return_mask: bool = ..., out:
    Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def scaled_dot_product_attention_backward(
    dy: _Floats, q: _Floats, k: _Floats, v: _Floats, y: _Floats, lse: _Floats, p: float =
    ..., *, attn_mask: ArrayLike | None = ..., is_causal: Causal = ..., scale: float | None
    = ..., training: bool = ..., rng: RNG = ..., mask: Mask | None = ..., return_dattn_mask:
    Literal[False] = ..., **unknown: Never
) -> tuple[Array, Array, Array]: ...
@overload
def scaled_dot_product_attention_backward(
    dy: _Floats, q: _Floats, k: _Floats, v: _Floats, y: _Floats, lse: _Floats, p: float =
    ..., *, attn_mask: ArrayLike | None = ..., is_causal: Causal = ..., scale: float | None
    = ..., training: bool = ..., rng: RNG = ..., mask: Mask | None = ..., return_dattn_mask:
    Literal[True], **unknown: Never
) -> tuple[Array, Array, Array, Array]: ...
@overload
def scaled_dot_product_attention_backward(
    dy: _Floats, q: _Floats, k: _Floats, v: _Floats, y: _Floats, lse: _Floats, p: float =
    ..., *, attn_mask: ArrayLike | None = ..., is_causal: Causal = ..., scale: float | None
    = ..., training: bool = ..., rng: RNG = ..., mask: Mask | None = ..., return_dattn_mask:
    bool = ..., **unknown: Never
) -> Any: ...
@overload
def drop_block1d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown:
    Never
) -> NDArray[_F]: ...
@overload
def drop_block1d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def drop_block1d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], BlockMask]: ...
@overload
def drop_block1d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, BlockMask]: ...
@overload
def drop_block1d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def drop_block2d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown:
    Never
) -> NDArray[_F]: ...
@overload
def drop_block2d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def drop_block2d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], BlockMask]: ...
@overload
def drop_block2d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, BlockMask]: ...
@overload
def drop_block2d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def drop_block3d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown:
    Never
) -> NDArray[_F]: ...
@overload
def drop_block3d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def drop_block3d(
    x: NDArray[_F], p: float, block_size: Lengths, *, training: bool = ..., shared: bool =
    ..., channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask
    | None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], BlockMask]: ...
@overload
def drop_block3d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, BlockMask]: ...
@overload
def drop_block3d(
    x: _Floats, p: float, block_size: Lengths, *, training: bool = ..., shared: bool = ...,
    channel_axis: int = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: BlockMask |
    None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def concrete_dropout(
    x: NDArray[_F], logit: SupportsFloat, *, temperature: SupportsFloat = ..., training:
    bool = ..., rng: RNG = ..., mask: ConcreteMask | None = ..., return_mask: Literal[False]
    = ..., out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def concrete_dropout(
    x: _Floats, logit: SupportsFloat, *, temperature: SupportsFloat = ..., training: bool =
    ..., rng: RNG = ..., mask: ConcreteMask | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def concrete_dropout(
    x: NDArray[_F], logit: SupportsFloat, *, temperature: SupportsFloat = ..., training:
    bool = ..., rng: RNG = ..., mask: ConcreteMask | None = ..., return_mask: Literal[True],
    out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], ConcreteMask]: ...
@overload
def concrete_dropout(
    x: _Floats, logit: SupportsFloat, *, temperature: SupportsFloat = ..., training: bool =
    ..., rng: RNG = ..., mask: ConcreteMask | None = ..., return_mask: Literal[True], out:
    Array | None = ..., **unknown: Never
) -> tuple[Array, ConcreteMask]: ...
@overload
def concrete_dropout(
    x: _Floats, logit: SupportsFloat, *, temperature: SupportsFloat = ..., training: bool =
    ..., rng: RNG = ..., mask: ConcreteMask | None = ..., return_mask: bool = ..., out:
    Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def drop_connect_linear(
    x: _Floats, weight: _Floats, bias: ArrayLike | None = ..., p: float = ..., *, training:
    bool = ..., mode: Mode = ..., rng: RNG = ..., mask: Mask | None = ..., return_mask:
    Literal[False] = ..., **unknown: Never
) -> Array: ...
@overload
def drop_connect_linear(
    x: _Floats, weight: _Floats, bias: ArrayLike | None = ..., p: float = ..., *, training:
    bool = ..., mode: Mode = ..., rng: RNG = ..., mask: Mask | None = ..., return_mask:
    Literal[True], **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def drop_connect_linear(
    x: _Floats, weight: _Floats, bias: ArrayLike | None = ..., p: float = ..., *, training:
    bool = ..., mode: Mode = ..., rng: RNG = ..., mask: Mask | None = ..., return_mask: bool
    = ..., **unknown: Never
) -> Any: ...
@overload
def bias_dropout_add(
    x: _Floats, bias: _Floats, residual: _Floats, p: float = ..., *, training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] =
    ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def bias_dropout_add(
    x: _Floats, bias: _Floats, residual: _Floats, p: float = ..., *, training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out:
    Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def bias_dropout_add(
    x: _Floats, bias: _Floats, residual: _Floats, p: float = ..., *, training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def bias_dropout_add(
    x: _Floats, bias: _Floats, residual: _Floats, p: float = ..., *, training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out:
    Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def dropout_add(
    x: _Floats, residual: _Floats, p: float = ..., *, training: bool = ..., mode: Mode =
    ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def dropout_add(
    x: _Floats, residual: _Floats, p: float = ..., *, training: bool = ..., mode: Mode =
    ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def dropout_add(
    x: _Floats, residual: _Floats, p: float = ..., *, training: bool = ..., mode: Mode =
    ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def dropout_add(
    x: _Floats, residual: _Floats, p: float = ..., *, training: bool = ..., mode: Mode =
    ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None
    = ..., **unknown: Never
) -> Any: ...
@overload
def gelu_dropout(
    x: NDArray[_F], p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] =
    ..., out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def gelu_dropout(
    x: _Floats, p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] =
    ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def gelu_dropout(
    x: NDArray[_F], p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out:
    Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def gelu_dropout(
    x: _Floats, p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out:
    Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def gelu_dropout(
    x: _Floats, p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def gelu_dropout(
    x: _Floats, p: float = ..., *, approximate: Approximate = ..., training: bool = ...,
    mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out:
    Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def relu_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def relu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None = ...,
    **unknown: Never
) -> Array: ...
@overload
def relu_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def relu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def relu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def relu_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG = ...,
    mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ..., **unknown:
    Never
) -> Any: ...
@overload
def gaussian_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ...,
    rng: RNG = ..., mask: Noise | None = ..., return_mask: Literal[False] = ..., out: Array
    | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def gaussian_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: Noise | None = ..., return_mask: Literal[False] = ..., out: Array |
    None = ..., **unknown: Never
) -> Array: ...
@overload
def gaussian_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ...,
    rng: RNG = ..., mask: Noise | None = ..., return_mask: Literal[True], out: Array | None
    = ..., **unknown: Never
) -> tuple[NDArray[_F], Noise]: ...
@overload
def gaussian_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: Noise | None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Noise]: ...
@overload
def gaussian_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., broadcast_dims: Axes = ..., rng:
    RNG = ..., mask: Noise | None = ..., return_mask: bool = ..., out: Array | None = ...,
    **unknown: Never
) -> Any: ...
@overload
def patch_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., prefix: SupportsIndex = ...,
    ordered: bool = ..., rng: RNG = ..., mask: PatchMask | None = ..., return_mask:
    Literal[False] = ..., **unknown: Never
) -> tuple[NDArray[_F], NDArray[np.int64]]: ...
@overload
def patch_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., prefix: SupportsIndex = ...,
    ordered: bool = ..., rng: RNG = ..., mask: PatchMask | None = ..., return_mask:
    Literal[False] = ..., **unknown: Never
) -> tuple[Array, NDArray[np.int64]]: ...
@overload
def patch_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., prefix: SupportsIndex = ...,
    ordered: bool = ..., rng: RNG = ..., mask: PatchMask | None = ..., return_mask:
    Literal[True], **unknown: Never
) -> tuple[NDArray[_F], NDArray[np.int64], PatchMask]: ...
@overload
def patch_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., prefix: SupportsIndex = ...,
    ordered: bool = ..., rng: RNG = ..., mask: PatchMask | None = ..., return_mask:
    Literal[True], **unknown: Never
) -> tuple[Array, NDArray[np.int64], PatchMask]: ...
@overload
def patch_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., prefix: SupportsIndex = ...,
    ordered: bool = ..., rng: RNG = ..., mask: PatchMask | None = ..., return_mask: bool =
    ..., **unknown: Never
) -> Any: ...
@overload
def drop_path(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int
    = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def drop_path(
    x: _Floats, p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int =
    ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def drop_path(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int
    = ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: None = ..., return_mask:
    Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def drop_path(
    x: _Floats, p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int =
    ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: None = ..., return_mask:
    Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def drop_path(
    x: _Floats, p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int =
    ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True],
    out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def drop_path(
    x: _Floats, p: float = ..., *, training: bool = ..., per: Per = ..., batch_axis: int =
    ..., scale_by_keep: bool = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    bool = ..., out: Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def dropout1d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def dropout1d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def dropout1d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def dropout1d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def dropout1d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def dropout1d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array |
    None = ..., **unknown: Never
) -> Any: ...
@overload
def dropout2d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def dropout2d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def dropout2d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def dropout2d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def dropout2d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def dropout2d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array |
    None = ..., **unknown: Never
) -> Any: ...
@overload
def dropout3d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def dropout3d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def dropout3d(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def dropout3d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def dropout3d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def dropout3d(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array |
    None = ..., **unknown: Never
) -> Any: ...
@overload
def feature_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def feature_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def feature_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis:
    int = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def feature_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def feature_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def feature_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., channel_axis: int
    = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array |
    None = ..., **unknown: Never
) -> Any: ...
@overload
def locked_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis:
    int = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ...,
    out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def locked_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis: int =
    ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out:
    Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def locked_dropout(
    x: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis:
    int = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array |
    None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def locked_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis: int =
    ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True], out: Array | None =
    ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def locked_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis: int =
    ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array | None = ...,
    **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def locked_dropout(
    x: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., time_axis: int =
    ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None
    = ..., **unknown: Never
) -> Any: ...
@overload
def drop_connect(
    weight: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG
    = ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def drop_connect(
    weight: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> Array: ...
@overload
def drop_connect(
    weight: NDArray[_F], p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG
    = ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def drop_connect(
    weight: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[Array, Mask]: ...
@overload
def drop_connect(
    weight: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def drop_connect(
    weight: _Floats, p: float = ..., *, training: bool = ..., mode: Mode = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ...,
    **unknown: Never
) -> Any: ...
@overload
def embedding_dropout(
    weight: NDArray[_F], p: float = ..., *, indices: ArrayLike | None = ..., training: bool
    = ..., mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> NDArray[_F]: ...
@overload
def embedding_dropout(
    weight: _Floats, p: float = ..., *, indices: ArrayLike | None = ..., training: bool =
    ..., mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask:
    Literal[False] = ..., out: Array | None = ..., **unknown: Never
) -> Array: ...
@overload
def embedding_dropout(
    weight: NDArray[_F], p: float = ..., *, indices: ArrayLike | None = ..., training: bool
    = ..., mode: Mode = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True],
    out: Array | None = ..., **unknown: Never
) -> tuple[NDArray[_F], Mask]: ...
@overload
def embedding_dropout(
    weight: _Floats, p: float = ..., *, indices: ArrayLike | None = ..., training: bool =
    ..., mode: Mode = ..., rng: RNG = ..., mask: None = ..., return_mask: Literal[True],
    out: Array | None = ..., **unknown: Never
) -> tuple[Array, Mask]: ...
@overload
def embedding_dropout(
    weight: _Floats, p: float = ..., *, indices: ArrayLike | None = ..., training: bool =
    ..., mode: Mode = ..., rng: RNG = ..., mask: _M, return_mask: Literal[True], out: Array
    | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def embedding_dropout(
    weight: _Floats, p: float = ..., *, indices: ArrayLike | None = ..., training: bool =
    ..., mode: Mode = ..., rng: RNG = ..., mask: Keep | None = ..., return_mask: bool = ...,
    out: Array | None = ..., **unknown: Never
) -> Any: ...
@overload
def weight_drop(
    weights: Sequence[ArrayLike], p: float = ..., *, training: bool = ..., mode: Mode = ...,
    rng: RNG = ..., mask: Sequence[Keep] | None = ..., return_mask: Literal[False] = ...,
    **unknown: Never
) -> list[Array]: ...
@overload
def weight_drop(
    weights: Sequence[ArrayLike], p: float = ..., *, training: bool = ..., mode: Mode = ...,
    rng: RNG = ..., mask: Sequence[Keep] | None = ..., return_mask: Literal[True],
    **unknown: Never
) -> tuple[list[Array], list[Mask]]: ...
@overload
def weight_drop(
    weights: Sequence[ArrayLike], p: float = ..., *, training: bool = ..., mode: Mode = ...,
    rng: RNG = ..., mask: Sequence[Keep] | None = ..., return_mask: bool = ..., **unknown:
    Never
) -> Any: ...
@overload
def zoneout(
    new: _Floats, previous: _Floats, p: float = ..., *, training: bool = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: Literal[False] = ..., out: Array | None =
    ..., **unknown: Never
) -> Array: ...
@overload
def zoneout(
    new: _Floats, previous: _Floats, p: float = ..., *, training: bool = ..., rng: RNG =
    ..., mask: None = ..., return_mask: Literal[True], out: Array | None = ..., **unknown:
    Never
) -> tuple[Array, Mask]: ...
@overload
def zoneout(
    new: _Floats, previous: _Floats, p: float = ..., *, training: bool = ..., rng: RNG =
    ..., mask: _M, return_mask: Literal[True], out: Array | None = ..., **unknown: Never
) -> tuple[Array, _M]: ...
@overload
def zoneout(
    new: _Floats, previous: _Floats, p: float = ..., *, training: bool = ..., rng: RNG =
    ..., mask: Keep | None = ..., return_mask: bool = ..., out: Array | None = ...,
    **unknown: Never
) -> Any: ...
