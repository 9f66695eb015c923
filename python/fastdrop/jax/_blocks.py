"""Dropout of contiguous blocks of sequences, images and volumes (DropBlock)."""

from typing import Any, Unpack

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import Lengths, as_flag, as_lengths
from fastdrop._base.members import Member, channel_axes, drawn_shape
from fastdrop._family.blocks import (
    BLOCKS_1D,
    BLOCKS_2D,
    BLOCKS_3D,
    block_places,
    coverage,
    seed_rate,
)
from fastdrop.jax._call import Call, Draw, Request, as_elements, decide, request_of


def drop_block1d(
    x: Any,
    p: Any,
    block_size: Lengths,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    **call: Unpack[Call],
) -> Array:
    """Drop stretches of sequences: `drop_block2d` for `x` of shape (batch, channels, length).

    `block_size` is the length of a block. All else is as for `drop_block2d`.

    >>> fastdrop.jax.drop_block1d(jax.numpy.ones((1, 2, 10)), 0.5, 3, key=fd.Key(1))[0, 0]
    Array([0., 0., 0., 2., 2., 2., 2., 0., 0., 0.], dtype=float32)
    """
    request = request_of(drop_block1d, p, call)
    return _drop_blocks(BLOCKS_1D, x, request, block_size, shared, channel_axis, scale_by_keep)


def drop_block2d(
    x: Any,
    p: Any,
    block_size: Lengths,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    **call: Unpack[Call],
) -> Array:
    r"""Drop rectangular blocks of images (DropBlock).

    .. math:: y_{n c i j} = x_{n c i j} \, / (1 - p) \prod_{u < h, v < w} m_{n c, i - u, j - v},
              \qquad m \sim Bernoulli(1 - \gamma)

    for blocks of height h and width w. See Ghiasi, Lin and Le, "DropBlock: a regularization method
    for convolutional networks", NeurIPS 2018. As in `fastdrop.drop_block2d`, :math:`\gamma` is such
    that a fraction `p` is dropped.

    Parameters
    ----------
    x : array of float or complex, shape (batch, channels, height, width)
        Input of any dtype of `dropout`. Only the batch may be a symbolic dimension.
    p : float or array of float
        Expected fraction of the elements to DROP, in [0, 1]. For an array, :math:`\gamma` is
        computed in its precision.
    block_size : int or sequence of two int
        Height and width of a block, each at least 1, clipped to the size of the map.
    shared : bool, default False
        Whether the channels of a sample share their blocks.
    channel_axis : int, default 1
        Axis of the channels. The batch is axis 0.
    scale_by_keep : bool, default True
        Whether to divide kept elements by 1 - p.
    key, deterministic, whole, start
        See `dropout`. Returns the same. All rows and columns of the whole must be in `x`.

    Examples
    --------
    >>> fastdrop.jax.drop_block2d(jax.numpy.ones((1, 1, 5, 8)), 0.5, 3, key=fd.Key(1))[0, 0]
    Array([[0., 0., 0., 2., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [2., 0., 0., 0., 2., 2., 2., 2.],
           [2., 2., 2., 2., 2., 2., 2., 2.]], dtype=float32)
    """
    request = request_of(drop_block2d, p, call)
    return _drop_blocks(BLOCKS_2D, x, request, block_size, shared, channel_axis, scale_by_keep)


def drop_block3d(
    x: Any,
    p: Any,
    block_size: Lengths,
    *,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    **call: Unpack[Call],
) -> Array:
    """Drop blocks of volumes: `drop_block2d` for `x` with five axes.

    `x` has shape (batch, channels, depth, height, width); `block_size` is an int, or depth, height
    and width. All else is as for `drop_block2d`.

    >>> x = jax.numpy.ones((1, 1, 2, 3, 6))
    >>> fastdrop.jax.drop_block3d(x, 0.5, (2, 3, 2), key=fd.Key(1))[0, 0, 0, 0]
    Array([0., 0., 2., 2., 0., 0.], dtype=float32)
    """
    request = request_of(drop_block3d, p, call)
    return _drop_blocks(BLOCKS_3D, x, request, block_size, shared, channel_axis, scale_by_keep)


def _drop_blocks(
    member: Member, x: Any, request: Request, block_size: Any, shared: Any, channel_axis: Any,
    scale_by_keep: Any,
) -> Array:  # fmt: skip
    x = as_elements(x, "x")
    ndim = (BLOCKS_1D, BLOCKS_2D, BLOCKS_3D).index(member) + 1
    block = as_lengths(block_size, ndim, "block_size")
    axes = channel_axes(ndim + 2)(x.shape, channel_axis)
    shared, scales = as_flag(shared, "shared"), as_flag(scale_by_keep, "scale_by_keep")
    draw = decide(request, x.shape, (*axes, channel_axis) if shared else axes)
    maps = x.shape if request.whole is None else tuple(request.whole)
    for axis in axes:
        if not isinstance(x.shape[axis], int) or maps[axis] != x.shape[axis]:
            raise ValueError(f"x must have maps of known shape, and all of each map, got {x.shape}")
    if draw.keeps is not None:
        y: Array = draw(x)
        return y
    places = block_places(x.shape, block, shared, channel_axis)
    rate, p = draw.rate, draw.p
    if p is None:
        rate = _seed_rate(rate, places.lengths, places.block)
    else:
        p = seed_rate(p, places.lengths, places.block)
    whole = tuple(
        places.shape[axis] if axis in axes else length for axis, length in enumerate(draw.whole)
    )
    drawn = drawn_shape(places.shape, (channel_axis % x.ndim,) if shared else ())
    seeds = Draw(None, rate, p, draw.operands, whole, drawn)
    scale = draw.scale if scales else 1.0

    @jax.checkpoint  # the mask is drawn again for the gradient
    def apply(x: Any) -> Any:
        kept = _spread(seeds(jnp.ones(seeds.drawn, np.float32), "keep"), places.sizes)
        return jnp.where(kept != 0, (x * scale).astype(x.dtype), 0)

    return apply(x)


def _spread(kept: Array, sizes: tuple[int, ...]) -> Array:
    """Return the smallest of the decisions whose blocks cover an element."""
    for axis, size in enumerate(sizes):
        if size > 1:
            edge = [(size - 1, size - 1) if at == axis else (0, 0) for at in range(kept.ndim)]
            kept = jnp.pad(kept, edge, constant_values=1)
            reach = 1
            while reach < size:
                step = min(reach, size - reach)
                length = kept.shape[axis]
                kept = jnp.minimum(
                    jax.lax.slice_in_dim(kept, 0, length - step, axis=axis),
                    jax.lax.slice_in_dim(kept, step, length, axis=axis),
                )
                reach += step
    return kept


def _seed_rate(p: Array, lengths: tuple[int, ...], block: tuple[int, ...]) -> Array:
    """`seed_rate` of an array, in its precision."""
    if 0 in lengths:
        return p
    cover, weight = (array.astype(p.dtype) for array in coverage(lengths, block))
    most = -jnp.log1p(-jnp.where(p == 1, 0, p))

    def halve(_: Any, limits: Any) -> Any:
        low, high = limits
        middle = low + (high - low) / 2
        little = weight @ -jnp.expm1(-middle * cover) < p
        return jnp.where(little, middle, low), jnp.where(little, high, middle)

    bits = jnp.finfo(p.dtype).nmant + 8
    _, high = jax.lax.fori_loop(0, bits, halve, (most / cover.max(), most))
    return jnp.where(p == 1, p, -jnp.expm1(-high))
