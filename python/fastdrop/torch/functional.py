"""Functions of tensors. Each draws its key from torch's generator, or takes a given one.

Arguments, warnings and types of errors are those of torch's functions, where torch has them. All
functions also take:

key : Key or tensor of 2 int64, optional
    Key of the mask. A compiled function takes a tensor, from `key_tensor`.
generator : torch.Generator, optional
    Generator on the CPU to draw the key from, instead of the default one.
mask : Mask, or the recipe that the function returns, optional
    Mask to apply, with its own p, such as a shard's region of the whole mask.
return_mask : bool, default False
    Whether to return the mask as well, for an equal call or for `fastdrop.Mask.apply`.

Only one of `key`, `generator` and `mask` can be given. In evaluation, and for p = 0, the result is
the input itself, and nothing is drawn; in evaluation, `mode` "standard" multiplies it by 1 - p.
Options that torch's functions lack, such as `mode` and `channel_axis`, are those of NumPy's. Masks
depend on an element's index in C order, not on the memory layout. Tensors are float32, float64,
float16 or bfloat16, on the CPU.
"""

import torch.fx

from fastdrop.torch._family.activations import activation_dropout, silu_dropout
from fastdrop.torch._family.alpha import alpha_dropout, feature_alpha_dropout
from fastdrop.torch._family.attention import scaled_dot_product_attention
from fastdrop.torch._family.blocks import drop_block1d, drop_block2d, drop_block3d
from fastdrop.torch._family.concrete import concrete_dropout, concrete_regularization
from fastdrop.torch._family.connect import drop_connect_linear
from fastdrop.torch._family.dropout import dropout
from fastdrop.torch._family.fused import bias_dropout_add, dropout_add, gelu_dropout, relu_dropout
from fastdrop.torch._family.gaussian import gaussian_dropout
from fastdrop.torch._family.patches import patch_dropout
from fastdrop.torch._family.shared import (
    drop_path,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_dropout,
    locked_dropout,
)
from fastdrop.torch._family.weights import drop_connect, embedding_dropout, weight_drop
from fastdrop.torch._family.zoneout import zoneout

__all__ = [
    "activation_dropout",
    "alpha_dropout",
    "bias_dropout_add",
    "concrete_dropout",
    "concrete_regularization",
    "drop_block1d",
    "drop_block2d",
    "drop_block3d",
    "drop_connect",
    "drop_connect_linear",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "embedding_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
    "gaussian_dropout",
    "gelu_dropout",
    "locked_dropout",
    "patch_dropout",
    "relu_dropout",
    "scaled_dot_product_attention",
    "silu_dropout",
    "weight_drop",
    "zoneout",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
    torch.fx.wrap(_name)  # calls of `F.dropout` and the like are leaves of a trace
