"""Dropout of Dask arrays, block by block, with the masks of NumPy.

>>> import dask.array as da
>>> import fastdrop.dask
>>> x = da.ones((6, 8), chunks=(4, 3), dtype="float32")
>>> y = fastdrop.dask.dropout(x, 0.5, rng=fd.Key(0))
>>> np.array_equal(y.compute(), fd.dropout(x.compute(), 0.5, rng=fd.Key(0)))
True

Dask computes nothing before `compute`. The call draws the key, which is part of the graph. So a
mask does not depend on chunks, schedulers, workers, or how often a block is computed. Each block
draws its region of the mask of the whole array, and needs no other block.

The functions have the names and arguments of NumPy's, without `out`. The `mask` they take and
return is a `Mask`. The result for an xarray.DataArray is another with the same coordinates and
attributes.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop._base.arguments import (
    Array,
    as_flag,
    check_broadcast,
    float_array,
    probability,
    refuse_name,
    shown,
)
from fastdrop._base.keys import NO_KEY, RNG
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.members import Member, drawn_shape
from fastdrop._base.plans import draw_key
from fastdrop._family.activations import SILU, TANH
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA
from fastdrop._family.dropout import DROPOUT
from fastdrop._family.fused import GELU, RELU
from fastdrop._family.shared import CHANNELS, CHANNELS_1D, CHANNELS_2D, CHANNELS_3D, LOCKED, PATH
from fastdrop._family.weights import CONNECTIONS

try:
    import dask.array as da
    from dask.tokenize import normalize_token
except ImportError as error:
    raise ImportError("fastdrop.dask needs dask.array, which is not installed") from error

__all__ = [
    "activation_dropout",
    "alpha_dropout",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "feature_dropout",
    "from_mask",
    "gelu_dropout",
    "locked_dropout",
    "relu_dropout",
    "silu_dropout",
]


@normalize_token.register(fd.Key)
def _(key: fd.Key) -> tuple[str, bytes]:
    return "fastdrop.Key", bytes(key)


@normalize_token.register(Mask)
def _(mask: Mask) -> tuple[str, str]:
    return "fastdrop.Mask", repr(mask)


def from_mask(mask: Mask, chunks: Any = "auto") -> Any:
    """Return a mask as a Dask array of bool, True where an element is kept.

    `chunks` is as for ``dask.array.ones``. Blocks are drawn when they are computed.

    >>> mask = fd.Mask((4, 6), 0.5, fd.Key(0))
    >>> np.array_equal(from_mask(mask, chunks=(2, 3)).compute(), mask.to_numpy())
    True
    """
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, got {type(mask).__name__}")
    sizes = da.core.normalize_chunks(chunks, mask.shape, dtype=np.bool_)
    return da.map_blocks(
        _drawn, mask, chunks=sizes, dtype=np.bool_, meta=np.empty((0,) * mask.ndim, np.bool_)
    )


def _drawn(mask: Mask, block_info: Any) -> Array:
    """Draw a block of a mask."""
    return _region(mask, block_info[None]["array-location"]).to_numpy()


def _region(mask: Mask, location: Any) -> Mask:
    """Return the part of a mask for a block of the array, which the mask broadcasts to."""
    if not mask.ndim:
        return mask
    places = [
        (0, 1) if length == 1 else place
        for length, place in zip(mask.shape, location[-mask.ndim :], strict=True)
    ]
    return mask.region([first for first, _ in places], [end - first for first, end in places])


def _applied(
    x: Array, function: Callable[..., Any], mask: Mask, options: Any, block_info: Any
) -> Array:
    """Apply a function of arrays to a block."""
    y: Array = function(x, mask=_region(mask, block_info[0]["array-location"]), **options)
    return y


def _lazy(member: Member) -> Callable[..., Any]:
    """Return the function of a member for Dask arrays."""
    function = getattr(fd, member.name)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("out", "unknown")
    }

    def lazily(
        x: Any,
        p: float = 0.5,
        *,
        training: bool = True,
        rng: RNG = None,
        mask: Mask | None = None,
        return_mask: bool = False,
        **options: Any,
    ) -> Any:
        xarray = sys.modules.get("xarray")
        if xarray is not None and isinstance(x, xarray.DataArray):
            y = lazily(
                x.data, p, training=training, rng=rng, mask=mask, return_mask=return_mask, **options
            )
            return (x.copy(data=y[0]), y[1]) if return_mask else x.copy(data=y)
        if not isinstance(x, da.Array):
            raise TypeError(f"x must be a dask.array.Array, got {type(x).__name__}")
        if np.isnan(x.shape).any():
            raise ValueError(f"x must have a known shape, got {x.shape}")
        rate = probability(p)
        training, return_mask = as_flag(training, "training"), as_flag(return_mask, "return_mask")
        like = float_array(np.empty((0,) * x.ndim, x.dtype), "x")
        for unknown in sorted(options.keys() - defaults.keys()):
            refuse_name(unknown, list(defaults), member.name)
        function(like, rate, training=False, **options)  # checks the options
        if mask is None:
            drawn = drawn_shape(x.shape, member.axes(x.shape, member.option(defaults | options)))
            make_mask(drawn, rate, NO_KEY)  # raises before a Generator advances
            mask = make_mask(drawn, rate, draw_key(rng, training and rate > 0.0))
        elif rng is not None:
            raise ValueError("mask must not be given together with rng")
        elif not isinstance(mask, Mask):
            raise TypeError(f"mask must be a Mask, got {shown(mask)}")
        check_broadcast(mask.shape, x.shape)
        options.pop("broadcast_dims", None)  # the mask already has the shape they lead to
        settings = {**options, "training": training}
        y = da.map_blocks(_applied, x, function, mask, settings, dtype=x.dtype, meta=x._meta)
        if not return_mask:
            return y
        return y, mask if training else make_mask(x.shape, 0.0, NO_KEY)

    lazily.__name__ = lazily.__qualname__ = member.name
    lazily.__doc__ = f"""Apply `fastdrop.{member.name}` to a Dask array.

    Arguments are those of `fastdrop.{member.name}`, apart from ``out``. The call draws the key, not
    `compute`.
    """
    return lazily


dropout = _lazy(DROPOUT)
feature_dropout = _lazy(CHANNELS)
dropout1d = _lazy(CHANNELS_1D)
dropout2d = _lazy(CHANNELS_2D)
dropout3d = _lazy(CHANNELS_3D)
locked_dropout = _lazy(LOCKED)
drop_path = _lazy(PATH)
drop_connect = _lazy(CONNECTIONS)
alpha_dropout = _lazy(ALPHA)
feature_alpha_dropout = _lazy(CHANNELS_ALPHA)
relu_dropout = _lazy(RELU)
gelu_dropout = _lazy(GELU)
silu_dropout = _lazy(SILU)
activation_dropout = _lazy(TANH)  # of any activation
