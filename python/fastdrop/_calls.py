"""Calls of the compiled core on checked values: it takes plain arrays, and returns one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop import _core
from fastdrop._validate import as_array

Array = NDArray[Any]
_apply, _fused = _core.apply, _core.fused
KeepBits = _core.Mask | NDArray[np.bool_] | None


def as_out(out: Array | None) -> Array | None:
    """Return `out` as a plain array over the same memory."""
    if out is None or type(out) is np.ndarray:
        return out
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    return as_array(out, "out")


def apply(mask: KeepBits, x: Array, scale: float, out: Array | None = None) -> Array:
    """Return ``kept ? x * scale : 0``; a mask of None keeps all."""
    if isinstance(mask, np.ndarray):
        mask = as_array(mask, "mask")
    if out is None or type(out) is np.ndarray:
        return _apply(mask, x, scale, out)
    _apply(mask, x, scale, as_out(out))
    return out


def fused(
    name: str,
    mask: KeepBits,
    inputs: Sequence[tuple[str, Any]],
    scale: float = 1.0,
    shift: float = 0.0,
    fill: float = 0.0,
    out: Array | None = None,
) -> Array:
    """Return the result of a fused operation; a mask of None keeps all."""
    if isinstance(mask, np.ndarray):
        mask = as_array(mask, "mask")
    for label, array in inputs:
        if type(array) is not np.ndarray:
            inputs = [(label, as_array(array, label)) for label, array in inputs]
            break
    y = _fused(name, mask, inputs, scale, shift, fill, as_out(out))
    return y if out is None else out


def noise(mask: _core.Mask, x: Array, std: float, out: Array | None = None) -> Array:
    """Return ``x * (1 + std * z)`` with the normals z of the mask's elements."""
    y = _core.noise(mask, x, std, as_out(out))
    return y if out is None else out
