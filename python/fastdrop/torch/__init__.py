"""Dropout of fastdrop for PyTorch on CPUs.

>>> import fastdrop.torch
>>> fastdrop.torch.install()    # every dropout of every model, on the CPU, from now on
>>> fastdrop.torch.uninstall()

`install` replaces the kernels of torch's own operators. `replace` lets fastdrop compute the dropout
modules of one model, `fuse` joins them with their neighbours, and `functional` has functions that
take a key for each call.

Masks are a pure function of a key, p and the index of an element, so they do not depend on threads,
memory layout or dtype, and nothing but the key is kept for the gradient. Keys are drawn from
torch's generator: `torch.manual_seed` repeats a run, and checkpointing draws the same masks again.
"""

try:
    import torch
except ImportError as error:
    raise ImportError("fastdrop.torch needs PyTorch, which is not installed") from error

from fastdrop import _core

if not _core.take_tensors(torch.Tensor):
    raise ImportError("fastdrop.torch needs PyTorch 2.10 or newer, got " + torch.__version__)

from fastdrop.torch import functional
from fastdrop.torch._family.activations import ActivationDropout, SiluDropout
from fastdrop.torch._family.alpha import AlphaDropout, FeatureAlphaDropout
from fastdrop.torch._family.blocks import DropBlock1d, DropBlock2d, DropBlock3d
from fastdrop.torch._family.concrete import ConcreteDropout
from fastdrop.torch._family.connect import DropConnectLinear
from fastdrop.torch._family.dropout import Dropout
from fastdrop.torch._family.fused import BiasDropoutAdd, DropoutAdd, GeluDropout, ReluDropout
from fastdrop.torch._family.gaussian import GaussianDropout
from fastdrop.torch._family.patches import PatchDropout
from fastdrop.torch._family.shared import (
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureDropout,
    LockedDropout,
)
from fastdrop.torch._family.weights import DropConnect, EmbeddingDropout, WeightDrop, drop_weights
from fastdrop.torch._family.zoneout import Zoneout
from fastdrop.torch._fuse import fuse
from fastdrop.torch._install import (
    from_environment,
    install,
    installed,
    is_installed,
    uninstall,
)
from fastdrop.torch._keys import key_tensor
from fastdrop.torch._models import replace, restore, set_keys
from fastdrop.torch._report import report

__all__ = [
    "ActivationDropout",
    "AlphaDropout",
    "BiasDropoutAdd",
    "ConcreteDropout",
    "DropBlock1d",
    "DropBlock2d",
    "DropBlock3d",
    "DropConnect",
    "DropConnectLinear",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "GaussianDropout",
    "GeluDropout",
    "LockedDropout",
    "PatchDropout",
    "ReluDropout",
    "SiluDropout",
    "WeightDrop",
    "Zoneout",
    "drop_weights",
    "functional",
    "fuse",
    "install",
    "installed",
    "is_installed",
    "key_tensor",
    "replace",
    "report",
    "restore",
    "set_keys",
    "uninstall",
]

for _name in __all__:
    if _name != "functional":
        globals()[_name].__module__ = __name__

_asked = from_environment()
if _asked is not None:
    install(**_asked)
