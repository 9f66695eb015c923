"""Dropout as functions: no state. Each module is one way to drop; `core` is what they share."""

from fastdrop.functional.core import dropout
from fastdrop.functional.shared import (
    drop_connect,
    drop_path,
    drop_path_rates,
    dropout1d,
    dropout2d,
    dropout3d,
    embedding_dropout,
    locked_dropout,
    weight_drop,
)

__all__ = [
    "drop_connect",
    "drop_path",
    "drop_path_rates",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "embedding_dropout",
    "locked_dropout",
    "weight_drop",
]
