"""Dropout as functions: no state. Each module is one way to drop; `core` is what they share."""

from fastdrop.functional.bits import (
    bernoulli,
)
from fastdrop.functional.blocks import (
    BlockMask,
    drop_block2d,
    drop_block3d,
)
from fastdrop.functional.concrete import (
    ConcreteMask,
    concrete_dropout,
    concrete_dropout_backward,
)
from fastdrop.functional.connect import (
    drop_connect_linear,
    drop_connect_linear_backward,
)
from fastdrop.functional.core import (
    dropout,
)
from fastdrop.functional.fused import (
    bias_dropout_add,
    dropout_add,
    gelu_dropout,
    gelu_dropout_backward,
    relu_dropout,
    relu_dropout_backward,
)
from fastdrop.functional.gaussian import (
    Noise,
    gaussian_dropout,
)
from fastdrop.functional.patches import (
    PatchMask,
    patch_dropout,
    patch_dropout_backward,
)
from fastdrop.functional.recurrent import (
    zoneout,
    zoneout_backward,
)
from fastdrop.functional.regularization import (
    concrete_regularization,
)
from fastdrop.functional.selfnorm import (
    alpha_dropout,
    feature_alpha_dropout,
)
from fastdrop.functional.shared import (
    drop_path,
    drop_path_rates,
    dropout1d,
    dropout2d,
    dropout3d,
    locked_dropout,
)
from fastdrop.functional.weights import (
    drop_connect,
    embedding_dropout,
    weight_drop,
)

__all__ = [
    "BlockMask",
    "ConcreteMask",
    "Noise",
    "PatchMask",
    "alpha_dropout",
    "bernoulli",
    "bias_dropout_add",
    "concrete_dropout",
    "concrete_dropout_backward",
    "concrete_regularization",
    "drop_block2d",
    "drop_block3d",
    "drop_connect",
    "drop_connect_linear",
    "drop_connect_linear_backward",
    "drop_path",
    "drop_path_rates",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gelu_dropout",
    "gelu_dropout_backward",
    "locked_dropout",
    "patch_dropout",
    "patch_dropout_backward",
    "relu_dropout",
    "relu_dropout_backward",
    "weight_drop",
    "zoneout",
    "zoneout_backward",
]
