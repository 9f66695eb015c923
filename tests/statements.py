"""What members do, stated in plain NumPy on float64, with the masks of `reference.py`.

Blocks, patches, relaxed masks, masks of weights, and attention are stated in their own files.
"""

from __future__ import annotations

import math
from typing import Any

import fastdrop as fd
import numpy as np
import reference as ref
from members import ROWS, Inputs, Member
from numpy.typing import NDArray

Array = NDArray[Any]
ALPHA = -1.7580993408473766


def shared_axes(member: Member, ndim: int) -> tuple[int, ...]:
    """Return the axes along which elements share a decision."""
    layer, options = member.layer, member.options
    every = set(range(ndim))
    if layer is fd.LockedDropout:
        every = {options.get("time_axis", 0)}
    elif layer is fd.DropPath:
        every -= set() if options.get("per") == "batch" else {options.get("batch_axis", 0)}
    elif layer is fd.EmbeddingDropout:
        every = {1}
    elif issubclass(layer, fd.FeatureDropout | fd.FeatureAlphaDropout):
        every -= {0, options.get("channel_axis", 1) % ndim}
    else:
        dims = options.get("broadcast_dims", ())
        every = {dims} if isinstance(dims, int) else set(dims)
    return tuple(sorted(every))


def gelu(x: float, approximate: str) -> float:
    """Return x times the distribution function of a normal, or its approximation by tanh."""
    if approximate == "tanh":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * math.erfc(-x / math.sqrt(2))


ACTIVATIONS: dict[str, Any] = {
    "leaky_relu": lambda x, slope: np.where(x > 0.0, x, slope * x),
    "elu": lambda x, alpha: np.where(x > 0.0, x, alpha * np.expm1(x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
}


def statement(member: Member, inputs: Inputs, p: float, key: ref.Key) -> Array:
    """Return the result of a training call."""
    layer, options, x = member.layer, member.options, inputs[0]
    shape = ref.shared_shape(x.shape, shared_axes(member, x.ndim))
    keep = np.broadcast_to(ref.mask(key, p, shape), x.shape)
    only_drops = options.get("mode") == "standard" or not options.get("scale_by_keep", True)
    scale = 1.0 if p == 1.0 or only_drops else 1.0 / (1.0 - p)
    if layer in (fd.AlphaDropout, fd.FeatureAlphaDropout):
        if p == 1.0:
            return np.zeros_like(x)
        a = ((1 - p) * (1 + p * ALPHA**2)) ** -0.5
        return a * np.where(keep, x, ALPHA) - a * p * ALPHA
    if layer is fd.GaussianDropout:
        z = ref.normals(key, np.arange(math.prod(shape)).reshape(shape)).astype(np.float64)
        return np.zeros_like(x) if p == 1.0 else x * (1 + math.sqrt(p / (1 - p)) * z)
    if layer is fd.Zoneout:
        return np.where(keep, x, inputs[1])
    if layer is fd.ReluDropout:
        x = np.maximum(x, 0.0)
    elif layer is fd.GeluDropout:
        x = np.vectorize(gelu)(x, options.get("approximate", "none"))
    elif layer is fd.SiluDropout:
        x = x * ACTIVATIONS["sigmoid"](x)
    elif layer is fd.ActivationDropout:
        parameters = [options[name] for name in ("negative_slope", "alpha") if name in options]
        x = ACTIVATIONS[options["activation"]](x, *parameters)
    elif layer is fd.BiasDropoutAdd:
        x = x + inputs[1]
    dropped = np.where(keep, x * scale, 0.0)
    return inputs[-1] + dropped if layer in (fd.DropoutAdd, fd.BiasDropoutAdd) else dropped


BLOCKS = (fd.DropBlock1d, fd.DropBlock2d, fd.DropBlock3d)
OTHERS = (
    *BLOCKS,
    fd.ConcreteDropout,
    fd.PatchDropout,
    fd.WeightDrop,
    fd.DropConnectLinear,
    fd.ScaledDotProductAttention,
)
STATED = [row for row in ROWS if row.layer not in OTHERS]
