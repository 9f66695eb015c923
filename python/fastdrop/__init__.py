"""Dropout for NumPy arrays at the speed of memory.

`p` is the probability to DROP an element, everywhere in this package. (The papers that introduced
dropout call the probability to keep p.)

Whether an element is kept is a pure function of a key, of `p` and of the element's C-order index.
So a mask is the same for every number of threads, CPU, memory layout, dtype and chunk. Masks are
not stored: they are drawn again when needed.

All examples assume ``import numpy as np`` and ``import fastdrop as fd``.
"""

import sys as _sys
from importlib.util import find_spec as _find_spec

# A free-threaded interpreter has another object layout. It still loads modules of the stable ABI,
# and may crash on them.
if "t" in getattr(_sys, "abiflags", ""):
    _found = _find_spec("fastdrop._core")
    if _found is not None and str(_found.origin).endswith(".abi3.so"):
        raise ImportError(
            "this build of fastdrop needs a CPython with the GIL, got a free-threaded one: build "
            "fastdrop from source with this interpreter"
        )

from fastdrop import monte_carlo, schedules
from fastdrop._base.keys import Key
from fastdrop._base.layers import ElementwiseLayer, Layer
from fastdrop._base.masks import Mask
from fastdrop._config import get_num_threads, set_num_threads, show_config, threads
from fastdrop._core import __version__
from fastdrop._family.activations import (
    ActivationDropout,
    SiluDropout,
    activation_dropout,
    activation_dropout_backward,
    silu_dropout,
    silu_dropout_backward,
)
from fastdrop._family.alpha import (
    AlphaDropout,
    FeatureAlphaDropout,
    alpha_dropout,
    feature_alpha_dropout,
)
from fastdrop._family.attention import (
    ScaledDotProductAttention,
    scaled_dot_product_attention,
    scaled_dot_product_attention_backward,
)
from fastdrop._family.bernoulli import bernoulli
from fastdrop._family.bits import BitGenerator
from fastdrop._family.blocks import (
    BlockMask,
    DropBlock1d,
    DropBlock2d,
    DropBlock3d,
    drop_block1d,
    drop_block2d,
    drop_block3d,
)
from fastdrop._family.concrete import (
    ConcreteDropout,
    ConcreteMask,
    concrete_dropout,
    concrete_dropout_backward,
    concrete_regularization,
)
from fastdrop._family.connect import (
    DropConnectLinear,
    drop_connect_linear,
    drop_connect_linear_backward,
)
from fastdrop._family.dropout import Dropout, dropout
from fastdrop._family.fused import (
    BiasDropoutAdd,
    DropoutAdd,
    GeluDropout,
    ReluDropout,
    bias_dropout_add,
    dropout_add,
    gelu_dropout,
    gelu_dropout_backward,
    relu_dropout,
    relu_dropout_backward,
)
from fastdrop._family.gaussian import GaussianDropout, Noise, gaussian_dropout
from fastdrop._family.patches import PatchDropout, PatchMask, patch_dropout, patch_dropout_backward
from fastdrop._family.shared import (
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureDropout,
    LockedDropout,
    drop_path,
    drop_path_rates,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_dropout,
    locked_dropout,
)
from fastdrop._family.weights import (
    DropConnect,
    EmbeddingDropout,
    WeightDrop,
    drop_connect,
    embedding_dropout,
    embedding_dropout_backward,
    weight_drop,
)
from fastdrop._family.zoneout import Zoneout, zoneout, zoneout_backward
from fastdrop.monte_carlo import MonteCarlo
from fastdrop.schedules import PSchedule

__all__ = ["__version__", *(name for name in globals() if name[0] != "_")]


def __dir__() -> list[str]:
    return sorted(__all__)


# Public names belong to the package, so that pickles do not depend on the layout of the files.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("fastdrop."):
        globals()[_name].__module__ = "fastdrop"
