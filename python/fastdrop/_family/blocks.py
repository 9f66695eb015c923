"""Dropout of contiguous blocks of sequences, images and volumes (DropBlock), at an exact rate.

A `BlockMask` is the recipe: a `Mask` of the places where blocks start, and the size of a block. The
compiled core draws the decisions; this module spreads them over the blocks.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Never, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._base.arguments import (
    INVERTED,
    Array,
    Lengths,
    as_array,
    as_axis,
    as_finite,
    as_flag,
    as_lengths,
    probability,
    refuse,
)
from fastdrop._base.keys import RNG, Key
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Drawable, Mask, inverse_keep, make_mask
from fastdrop._base.members import Member, as_channel_axis, channel_axes
from fastdrop._base.plans import run_recipe, select
from fastdrop._base.states import Checked

CHUNK = 1 << 20
"""Elements of a mask that are made at a time."""


@dataclass(frozen=True)
class BlockMask(Checked, Drawable):
    """A recipe that tells which elements are kept when whole blocks are dropped.

    `seeds` is a `Mask` with one decision for every place where a block fits; a dropped place starts
    a block. `block` has the lengths of a block, one for each axis of `seeds`. `p` is the expected
    fraction of dropped elements; `drop_block2d` makes `seeds` that fit it.

    >>> mask = fd.BlockMask(fd.Mask((2, 4), 0.3, fd.Key(2)), (2, 3), 0.5)
    >>> mask.seeds.to_numpy().astype(int)
    array([[0, 1, 1, 0],
           [1, 1, 0, 1]])
    >>> mask.to_numpy().astype(int)
    array([[0, 0, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 1]])
    """

    seeds: Mask
    block: tuple[int, ...]
    p: float

    def __post_init__(self) -> None:
        if not isinstance(self.seeds, Mask):
            raise TypeError(f"seeds must be a Mask, got {type(self.seeds).__name__}")
        object.__setattr__(self, "block", as_lengths(self.block, self.seeds.ndim, "block"))
        object.__setattr__(self, "p", probability(self.p))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the mask; it broadcasts to the shape of the array it is applied to."""
        return tuple(
            places + length - 1 for places, length in zip(self.seeds.shape, self.block, strict=True)
        )

    @property
    def key(self) -> Key:
        """Key of `seeds`."""
        return self.seeds.key

    def to_numpy(self) -> NDArray[np.bool_]:
        """Return the mask as an array, True where an element is kept."""
        kept, seeds = np.empty(self.shape, dtype=np.bool_), self.seeds.to_numpy()
        # Process maps in chunks, so that they stay in cache and Ctrl-C is handled between chunks.
        alone = next((axis for axis, size in enumerate(self.block) if size > 1), len(self.block))
        count = math.prod(self.shape[:alone])
        maps = kept.reshape(count, *self.shape[alone:])
        seeds = seeds.reshape(count, *seeds.shape[alone:])
        rows = max(1, CHUNK // max(1, math.prod(maps.shape[1:])))
        for first in range(0, count, rows):
            some = slice(first, first + rows)
            _spread(seeds[some], self.block[alone:], maps[some])
        return kept

    def apply(
        self, x: ArrayLike, out: Array | None = None, *, scale: SupportsFloat | None = None
    ) -> Array:
        """Return ``x * scale`` where kept, else +0.0; `scale` is 1 / (1 - p) if not given."""
        factor = inverse_keep(self.p) if scale is None else as_finite(scale, "scale")
        return select(as_array(x, "x"), self.to_numpy(), factor, out)


def _spread(seeds: NDArray[np.bool_], block: tuple[int, ...], kept: NDArray[np.bool_]) -> None:
    """Mark in the maps `kept` the elements that no block covers; axis 0 counts the maps."""
    kept[:] = True
    kept[(slice(None), *map(slice, seeds.shape[1:]))] = seeds
    flat = kept.reshape(-1)
    # The last block - 1 elements of an axis start no block. So shifting the flat array never moves
    # a decision into the next row.
    stride = 1
    for length, size in zip(kept.shape[:0:-1], block[::-1], strict=True):
        reach = 1
        while reach < size and flat.size:
            step = min(reach, size - reach)
            flat[step * stride :] &= flat[: -step * stride]
            reach += step
        stride *= length


@lru_cache(maxsize=256)
def seed_rate(p: float, lengths: tuple[int, ...], block: tuple[int, ...]) -> float:
    r"""Return the probability that a place starts a block for which a fraction `p` is dropped.

    An element that :math:`n_e` blocks can cover is kept if none of them starts. So this solves

    .. math:: \frac{1}{E} \sum_{e=1}^{E} 1 - (1 - \gamma)^{n_e} = p

    for :math:`\gamma`; :math:`n_e` is a product over the axes. In :math:`\lambda = -\log(1 -
    \gamma)` all terms are exponentials, so no digits are lost for a small or a large `p`.
    `lengths` and `block` are the lengths of the map and of a block (at most as long), for each
    axis.
    """
    if p in (0.0, 1.0) or 0 in lengths:
        return p
    cover, weight = coverage(lengths, block)
    most = -math.log1p(-p)  # if every element were covered once
    low, high = most / float(cover.max()), most
    with np.errstate(under="ignore"):
        while low < (middle := low + (high - low) / 2) < high:
            if p < 0.5:
                little = float(weight @ -np.expm1(-middle * cover)) < p
            else:
                little = float(weight @ np.exp(-middle * cover)) > 1.0 - p
            low, high = (middle, high) if little else (low, middle)
    return -math.expm1(-high)


def coverage(
    lengths: tuple[int, ...], block: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numbers of blocks that can cover an element, and the fraction of elements for each."""
    cover, weight = np.ones(1), np.ones(1)
    for length, size in zip(lengths, block, strict=True):
        place = np.arange(length)
        first, last = np.maximum(place - size + 1, 0), np.minimum(place, length - size)
        number, count = np.unique(last - first + 1, return_counts=True)
        cover = np.multiply.outer(cover, number).reshape(-1)
        weight = np.multiply.outer(weight, count / length).reshape(-1)
    return cover, weight


class Places(NamedTuple):
    """Where blocks start in arrays of a shape."""

    shape: tuple[int, ...]
    """Shape of the decisions whether a block starts."""
    sizes: tuple[int, ...]
    """Lengths of a block along all axes."""
    lengths: tuple[int, ...]
    block: tuple[int, ...]
    """Lengths of a map and of a block along the axes of a map."""


def block_places(
    shape: tuple[int, ...], block: tuple[int, ...], shared: bool = False, channel_axis: int = 1
) -> Places:
    """Return where blocks, clipped to the size of a map, start."""
    ndim = len(block) + 2
    axes = channel_axes(ndim)(shape, channel_axis)
    lengths = tuple(shape[axis] for axis in axes)
    clipped = tuple(max(1, min(pair)) for pair in zip(block, lengths, strict=True))
    places, sizes = list(shape), [1] * ndim
    for axis, length, size in zip(axes, lengths, clipped, strict=True):
        places[axis] = max(0, length - size + 1)
        sizes[axis] = size
    if shared:
        places[as_axis(channel_axis, ndim, "channel_axis")] = 1
    return Places(tuple(places), tuple(sizes), lengths, clipped)


def block_mask(
    shape: tuple[int, ...],
    p: float,
    key: Key,
    block: tuple[int, ...],
    shared: bool = False,
    channel_axis: int = 1,
) -> BlockMask:
    """Return the mask for arrays of this shape."""
    places = block_places(shape, block, shared, channel_axis)
    rate = seed_rate(p, places.lengths, places.block)
    return BlockMask(make_mask(places.shape, rate, key), places.sizes, p)


def _blocks(ndim: int) -> Member:
    """Return the record for blocks with this many axes."""

    def draw(shape: tuple[int, ...], p: float, key: Key, option: Any) -> BlockMask:
        block_size, shared, channel_axis = option
        block = as_lengths(block_size, ndim, "block_size")
        return block_mask(shape, p, key, block, as_flag(shared, "shared"), channel_axis)

    return Member(
        f"drop_block{ndim}d",
        "Ghiasi et al., NeurIPS 2018",
        options=("block_size", "shared", "channel_axis"),
        recipe=BlockMask,
        draw=draw,
    )


BLOCKS_1D, BLOCKS_2D, BLOCKS_3D = map(_blocks, (1, 2, 3))


def _mode(scale_by_keep: bool) -> str | None:
    return INVERTED if as_flag(scale_by_keep, "scale_by_keep") else None


def drop_block1d(
    x: ArrayLike,
    p: float,
    block_size: Lengths,
    *,
    training: bool = True,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    rng: RNG = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Drop stretches of sequences: `drop_block2d` for `x` of shape (batch, channels, length).

    `block_size` is the length of a block. All else is as for `drop_block2d`.

    >>> fd.drop_block1d(np.ones((1, 2, 10), dtype=np.float32), 0.5, 3, rng=1)[0]
    array([[0., 0., 0., 2., 2., 2., 2., 0., 0., 0.],
           [2., 2., 2., 2., 2., 2., 2., 2., 2., 2.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, drop_block1d)
    request = p, training, _mode(scale_by_keep), rng, mask, return_mask, out
    return run_recipe(BLOCKS_1D, x, request, (block_size, shared, channel_axis))


def drop_block2d(
    x: ArrayLike,
    p: float,
    block_size: Lengths,
    *,
    training: bool = True,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    rng: RNG = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop rectangular blocks of images (DropBlock).

    A block starts with probability :math:`\gamma` at each place where a whole block fits. Elements
    that any block covers are set to +0.0, and the others are divided by :math:`1 - p`:

    .. math:: y_{n c i j} = x_{n c i j} \, / (1 - p) \prod_{u < h, v < w} m_{n c, i - u, j - v},
              \qquad m \sim Bernoulli(1 - \gamma)

    for blocks of height h and width w. :math:`\gamma` is such that an element is dropped with
    probability `p` on average over the map, exactly: it accounts for overlaps of blocks and for the
    borders, which fewer blocks cover. For the gradient, apply the function to dy with the same key
    or mask.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, height, width)
        Input of any dtype of `dropout`, in any memory layout.
    p : float
        Expected fraction of the elements to DROP, in [0, 1].
    block_size : int or sequence of two int
        Height and width of a block, each at least 1, clipped to the size of the map.
    shared : bool, default False
        Whether the channels of a sample share their blocks.
    channel_axis : int, default 1
        Axis of the channels; -1 for (batch, height, width, channels). The batch is axis 0.
    scale_by_keep : bool, default True
        Whether to divide kept elements by 1 - p. Evaluation never changes `x`.
    mask : BlockMask, optional
        Mask to apply instead of drawing one from `rng`; `p` and `block_size` are then not used.
    training, rng, return_mask, out
        See `dropout`. Returns the same.

    Notes
    -----
    Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
    2018, with two differences. Their :math:`\gamma` is an estimate that drops less than `p`, all
    the more for large p. And they scale by the number of elements that happen to be left in the
    batch: a value then depends on all other samples and on the batch size, the layer is not linear,
    and the result is NaN if nothing is left. Here the factor is its expectation, the constant
    :math:`1 / (1 - p)`.

    Examples
    --------
    >>> fd.drop_block2d(np.ones((1, 1, 5, 8), dtype=np.float32), 0.5, 3, rng=1)[0, 0]
    array([[0., 0., 0., 2., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [2., 0., 0., 0., 2., 2., 2., 2.],
           [2., 2., 2., 2., 2., 2., 2., 2.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, drop_block2d)
    request = p, training, _mode(scale_by_keep), rng, mask, return_mask, out
    return run_recipe(BLOCKS_2D, x, request, (block_size, shared, channel_axis))


def drop_block3d(
    x: ArrayLike,
    p: float,
    block_size: Lengths,
    *,
    training: bool = True,
    shared: bool = False,
    channel_axis: int = 1,
    scale_by_keep: bool = True,
    rng: RNG = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Drop blocks of volumes: `drop_block2d` for `x` with five axes.

    `x` has shape (batch, channels, depth, height, width); `block_size` is an int, or depth, height
    and width. All else is as for `drop_block2d`.

    >>> y = fd.drop_block3d(np.ones((1, 1, 2, 3, 6), dtype=np.float32), 0.5, (2, 3, 2), rng=1)
    >>> y[0, 0, 0]
    array([[0., 0., 2., 2., 0., 0.],
           [0., 0., 2., 2., 0., 0.],
           [0., 0., 2., 2., 0., 0.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, drop_block3d)
    request = p, training, _mode(scale_by_keep), rng, mask, return_mask, out
    return run_recipe(BLOCKS_3D, x, request, (block_size, shared, channel_axis))


class _DropBlock(ElementwiseLayer[BlockMask]):
    """Dropout of blocks, for inputs with a fixed number of axes."""

    _ndim: ClassVar[int]

    def __init__(
        self,
        p: float,
        block_size: Lengths,
        inplace: bool = False,
        *,
        shared: bool = False,
        channel_axis: int = 1,
        scale_by_keep: bool = True,
        rng: RNG = None,
    ) -> None:
        self.block_size = as_lengths(block_size, self._ndim - 2, "block_size")
        self.inplace, self.shared = as_flag(inplace, "inplace"), as_flag(shared, "shared")
        self.channel_axis = as_channel_axis(channel_axis, self._ndim)
        self.scale_by_keep = as_flag(scale_by_keep, "scale_by_keep")
        super().__init__(p, rng)

    @property
    def mode(self) -> str | None:
        """Whether training scales elements ("inverted") or nothing does (None)."""
        return _mode(self.scale_by_keep)


class DropBlock1d(_DropBlock):
    """Drop stretches of sequences in training: `DropBlock2d` for three axes.

    >>> fd.DropBlock1d(0.5, 3, rng=8)(np.ones((1, 1, 10), dtype=np.float32))[0]
    array([[2., 2., 0., 0., 0., 0., 2., 2., 2., 2.]], dtype=float32)
    """

    _member, _ndim = BLOCKS_1D, 3


class DropBlock2d(_DropBlock):
    """Drop rectangular blocks of images in training; the layer of `drop_block2d`.

    ``p``, ``block_size``, ``shared``, ``channel_axis`` and ``scale_by_keep`` are as for
    `drop_block2d`, ``inplace`` and ``rng`` as for `Dropout`. ``mask`` is a `BlockMask`.

    >>> drop = fd.DropBlock2d(0.5, (2, 3), rng=5)
    >>> drop(np.ones((1, 1, 4, 6), dtype=np.float32))[0, 0]
    array([[2., 0., 0., 0., 2., 2.],
           [2., 0., 0., 0., 2., 2.],
           [2., 2., 0., 0., 0., 2.],
           [2., 2., 0., 0., 0., 2.]], dtype=float32)
    """

    _member, _ndim = BLOCKS_2D, 4


class DropBlock3d(_DropBlock):
    """Drop blocks of volumes in training: `DropBlock2d` for five axes.

    >>> drop = fd.DropBlock3d(0.5, 2, rng=0)
    >>> drop(np.ones((1, 1, 2, 3, 4), dtype=np.float32))[0, 0, 0]
    array([[2., 2., 2., 2.],
           [0., 0., 0., 2.],
           [0., 0., 0., 2.]], dtype=float32)
    """

    _member, _ndim = BLOCKS_3D, 5
