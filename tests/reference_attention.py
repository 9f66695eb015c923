"""Attention and its gradients in float64, with all weights and the whole mask stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


@dataclass
class Attention:
    """A result, and what its gradients need."""

    y: Floats
    lse: Floats
    dq: Floats
    dk: Floats
    dv: Floats
    dscores: Floats


def offset_of(is_causal: Any, queries: int, keys: int) -> int | None:
    """Return how many keys beyond its own number a query sees; None if it sees all."""
    if is_causal is False:
        return None
    return keys - queries if is_causal == "lower_right" else 0


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    dy: Floats,
    keep: NDArray[np.bool_],
    p: float,
    *,
    attn_mask: Floats | None = None,
    is_causal: Any = False,
    scale: float | None = None,
) -> Attention:
    """Return everything at once; `keep` has the shape of the weights."""
    group = q.shape[-3] // k.shape[-3] if k.shape[-3] else 1
    heads = k.shape[-3]
    q, k, v, dy = (x.astype(np.float64) for x in (q, k, v, dy))
    k, v = (np.repeat(x, group, axis=-3) for x in (k, v))
    scale = max(1, q.shape[-1]) ** -0.5 if scale is None else scale
    with np.errstate(all="ignore"):
        scores = scale * (q @ k.swapaxes(-1, -2))
        if attn_mask is not None:
            bias = np.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype == bool else attn_mask
            scores = scores + bias.astype(np.float64)
        offset = offset_of(is_causal, *scores.shape[-2:])
        if offset is not None:
            i, j = (np.arange(length) for length in scores.shape[-2:])
            scores = np.where(j <= i[:, np.newaxis] + offset, scores, -np.inf)
        most = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        shifted = np.exp(scores - np.where(np.isneginf(most), 0.0, most))
        total = shifted.sum(axis=-1, keepdims=True)
        w = np.where(total == 0.0, 0.0, shifted / np.where(total == 0.0, 1.0, total))
        factor = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
        dropped = np.where(keep, w * factor, 0.0)
        dw = np.where(keep, (dy @ v.swapaxes(-1, -2)) * factor, 0.0)
        ds = w * (dw - (dw * w).sum(axis=-1, keepdims=True))

    def of_keys(x: Floats) -> Floats:
        """Add up the gradients of the heads that share keys."""
        return x.reshape(*x.shape[:-3], heads, group, *x.shape[-2:]).sum(axis=-3)

    return Attention(
        y=dropped @ v,
        lse=(np.where(np.isneginf(most), 0.0, most) + _log(total))[..., 0],
        dq=scale * (ds @ k),
        dk=scale * of_keys(ds.swapaxes(-1, -2) @ q),
        dv=of_keys(dropped.swapaxes(-1, -2) @ dy),
        dscores=ds,
    )


def _log(x: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(x)


def sum_to(x: Floats, shape: tuple[int, ...]) -> Floats:
    """Return the gradient of an array that was broadcast from `shape`."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    shared = tuple(axis for axis, length in enumerate(shape) if length == 1 != x.shape[axis])
    return x.sum(axis=shared, keepdims=True)
