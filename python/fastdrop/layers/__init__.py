"""Dropout as layers: `functional` with the state that training needs. No mathematics here."""

from fastdrop.layers.blocks import (
    DropBlock2d,
    DropBlock3d,
)
from fastdrop.layers.concrete import (
    ConcreteDropout,
)
from fastdrop.layers.connect import (
    DropConnectLinear,
)
from fastdrop.layers.elementwise import (
    Dropout,
)
from fastdrop.layers.fused import (
    BiasDropoutAdd,
    DropoutAdd,
    GeluDropout,
    ReluDropout,
    Zoneout,
)
from fastdrop.layers.noise import (
    AlphaDropout,
    FeatureAlphaDropout,
    GaussianDropout,
)
from fastdrop.layers.patches import (
    PatchDropout,
)
from fastdrop.layers.schedule import (
    PSchedule,
)
from fastdrop.layers.shared import (
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    LockedDropout,
)
from fastdrop.layers.weights import (
    DropConnect,
    EmbeddingDropout,
    WeightDrop,
)

__all__ = [
    "AlphaDropout",
    "BiasDropoutAdd",
    "ConcreteDropout",
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
    "GaussianDropout",
    "GeluDropout",
    "LockedDropout",
    "PSchedule",
    "PatchDropout",
    "ReluDropout",
    "WeightDrop",
    "Zoneout",
]
