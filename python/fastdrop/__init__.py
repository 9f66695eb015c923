"""Dropout for NumPy arrays at the speed of memory.

`p` is the probability to DROP an element, everywhere in this package. (The papers that introduced
dropout call the probability to keep p.)

Whether an element is kept is a pure function of a key, of `p` and of the element's C-order index.
So a mask is the same for every number of threads, CPU, memory layout, dtype and chunk. Masks are
not stored: they are drawn again when needed.

All examples assume ``import numpy as np`` and ``import fastdrop as fd``.
"""

import sys as _sys
from importlib import import_module as _import_module

# A free-threaded interpreter has another object layout. It still loads modules of the stable ABI,
# and may crash on them.
if "t" in getattr(_sys, "abiflags", ""):
    from importlib.util import find_spec as _find_spec

    _found = _find_spec("fastdrop._core")
    if _found is not None and str(_found.origin).endswith(".abi3.so"):
        raise ImportError(
            "this build of fastdrop needs a CPython with the GIL, got a free-threaded one: build "
            "fastdrop from source with this interpreter"
        )

from fastdrop._base.keys import Key
from fastdrop._base.layers import ElementwiseLayer, Layer
from fastdrop._base.masks import Mask
from fastdrop._base.masks import publish as _publish
from fastdrop._config import get_num_threads, set_num_threads, show_config, threads
from fastdrop._core import __version__
from fastdrop._family.dropout import Dropout, dropout

# Names that are imported when they are first used, by module. All of them would take a third of
# NumPy's own time, and most programs use few.
_LATER = {
    "fastdrop": (
        "monte_carlo",
        "schedules",
    ),
    "fastdrop._family.activations": (
        "ActivationDropout",
        "SiluDropout",
        "activation_dropout",
        "activation_dropout_backward",
        "silu_dropout",
        "silu_dropout_backward",
    ),
    "fastdrop._family.alpha": (
        "AlphaDropout",
        "FeatureAlphaDropout",
        "alpha_dropout",
        "feature_alpha_dropout",
    ),
    "fastdrop._family.attention": (
        "ScaledDotProductAttention",
        "scaled_dot_product_attention",
        "scaled_dot_product_attention_backward",
    ),
    "fastdrop._family.bernoulli": ("bernoulli",),
    "fastdrop._family.bits": ("BitGenerator",),
    "fastdrop._family.blocks": (
        "BlockMask",
        "DropBlock1d",
        "DropBlock2d",
        "DropBlock3d",
        "drop_block1d",
        "drop_block2d",
        "drop_block3d",
    ),
    "fastdrop._family.concrete": (
        "ConcreteDropout",
        "ConcreteMask",
        "concrete_dropout",
        "concrete_dropout_backward",
        "concrete_regularization",
    ),
    "fastdrop._family.connect": (
        "DropConnectLinear",
        "drop_connect_linear",
        "drop_connect_linear_backward",
    ),
    "fastdrop._family.fused": (
        "BiasDropoutAdd",
        "DropoutAdd",
        "GeluDropout",
        "ReluDropout",
        "bias_dropout_add",
        "dropout_add",
        "gelu_dropout",
        "gelu_dropout_backward",
        "relu_dropout",
        "relu_dropout_backward",
    ),
    "fastdrop._family.gaussian": (
        "GaussianDropout",
        "Noise",
        "gaussian_dropout",
    ),
    "fastdrop._family.patches": (
        "PatchDropout",
        "PatchMask",
        "patch_dropout",
        "patch_dropout_backward",
    ),
    "fastdrop._family.shared": (
        "Dropout1d",
        "Dropout2d",
        "Dropout3d",
        "DropPath",
        "FeatureDropout",
        "LockedDropout",
        "drop_path",
        "drop_path_rates",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "feature_dropout",
        "locked_dropout",
    ),
    "fastdrop._family.weights": (
        "DropConnect",
        "EmbeddingDropout",
        "WeightDrop",
        "drop_connect",
        "embedding_dropout",
        "embedding_dropout_backward",
        "weight_drop",
    ),
    "fastdrop._family.zoneout": (
        "Zoneout",
        "zoneout",
        "zoneout_backward",
    ),
    "fastdrop.monte_carlo": ("MonteCarlo",),
    "fastdrop.schedules": ("PSchedule",),
}
_PLACES = {name: module for module, names in _LATER.items() for name in names}

__all__ = ["__version__", *(name for name in globals() if name[0] != "_"), *_PLACES]

for _name in __all__:
    if callable(globals().get(_name)):
        _publish(globals()[_name])


def __getattr__(name: str) -> object:
    module = _PLACES.get(name)
    if module is None:
        raise AttributeError(f"module 'fastdrop' has no attribute {name!r}")
    if module == "fastdrop":
        return _import_module(f"fastdrop.{name}")
    globals()[name] = found = getattr(_import_module(module), name)
    _publish(found)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
