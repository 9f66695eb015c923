"""Dropout as layers: `functional` with the state that training needs. No mathematics here."""

from fastdrop.layers.elementwise import Dropout
from fastdrop.layers.shared import (
    DropConnect,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    EmbeddingDropout,
    LockedDropout,
    WeightDrop,
)

__all__ = [
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "EmbeddingDropout",
    "LockedDropout",
    "WeightDrop",
]
