"""Dropout of contiguous blocks of sequences, images and volumes (DropBlock), at an exact rate.

A `BlockMask` is the recipe: a `Mask` of the places where blocks start, and the size of a block. The
decisions come from the compiled core; here they are only spread over the blocks.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arguments import (
    Array,
    Lengths,
    as_array,
    as_axis,
    as_finite,
    as_flag,
    as_lengths,
    feature_axes,
    probability,
)
from fastdrop._key import RNG, Key
from fastdrop._layer import RecipeLayer
from fastdrop._plan import RecipePlan, run_recipe, select
from fastdrop._recipe import Drawable, Mask, inverse_keep, make_mask
from fastdrop.shared import as_channel_axis


@dataclass(frozen=True)
class BlockMask(Drawable):
    """Which elements are kept when whole blocks are dropped: a recipe, not an array.

    Parameters
    ----------
    seeds : Mask
        A decision for every place where a block fits; a dropped one drops the block that starts
        there.
    block : tuple of int
        Lengths of a block, one for each axis of `seeds`.
    p : float
        Fraction of the elements that is dropped, in expectation.

    See Also
    --------
    drop_block2d : makes them, with the right `seeds` for a `p`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> mask = fd.BlockMask(fd.Mask((2, 4), 0.3, fd.Key(2)), (2, 3), 0.5)
    >>> mask.shape
    (3, 6)
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
        """Shape of the mask; it broadcasts to that of the array it is applied to."""
        return tuple(
            places + length - 1 for places, length in zip(self.seeds.shape, self.block, strict=True)
        )

    @property
    def key(self) -> Key:
        """The key that the places are drawn with."""
        return self.seeds.key

    def to_numpy(self) -> NDArray[np.bool_]:
        """Return the mask as an array, True where an element is kept."""
        kept = np.ones(self.shape, dtype=np.bool_)
        kept[tuple(slice(places) for places in self.seeds.shape)] = self.seeds.to_numpy()
        flat = kept.reshape(-1)
        # An axis ends with as many free places as a block is longer than 1, so nothing that is
        # moved along it ever reaches the next row: the array can be moved as if it had one axis.
        stride = 1
        for length, block in zip(self.shape[::-1], self.block[::-1], strict=True):
            reach = 1
            while reach < block and flat.size:
                step = min(reach, block - reach)
                flat[step * stride :] &= flat[: -step * stride]
                reach += step
            stride *= length
        return kept

    def apply(
        self, x: ArrayLike, out: Array | None = None, *, scale: SupportsFloat | None = None
    ) -> Array:
        """Return ``x * scale`` where elements are kept, and +0.0 where they are dropped.

        Parameters
        ----------
        x : array_like of float or complex
            Of a shape that the mask broadcasts to.
        out : ndarray, optional
            Array to write into, of the shape and dtype of `x`.
        scale : float, optional
            1 / (1 - p) if not given.

        Returns
        -------
        ndarray
        """
        factor = inverse_keep(self.p) if scale is None else as_finite(scale, "scale")
        return select(as_array(x, "x"), self.to_numpy(), factor, out)


@lru_cache(maxsize=256)
def seed_rate(p: float, lengths: tuple[int, ...], block: tuple[int, ...]) -> float:
    r"""Return the probability of a place to start a block for which the fraction dropped is `p`.

    An element that :math:`n_e` of the blocks would cover is kept if none of them starts, so

    .. math:: \frac{1}{E} \sum_{e=1}^{E} 1 - (1 - \gamma)^{n_e} = p

    is solved for :math:`\gamma`; :math:`n_e` is a product over the axes. With
    :math:`\lambda = -\log(1 - \gamma)` all terms are exponentials: neither a small nor a large
    `p` loses digits.

    Parameters
    ----------
    p : float
        Fraction to drop, in [0, 1].
    lengths, block : tuple of int
        Lengths of the map and of a block, at most as long, for each axis.

    Returns
    -------
    float

    Examples
    --------
    >>> from fastdrop.blocks import seed_rate
    >>> seed_rate(0.5, (1, 1), (1, 1))
    0.5
    >>> round(seed_rate(0.5, (14, 14), (7, 7)), 6)
    0.052637
    """
    if p in (0.0, 1.0) or 0 in lengths:
        return p
    cover, weight = np.ones(1), np.ones(1)
    for length, size in zip(lengths, block, strict=True):
        place = np.arange(length)
        first, last = np.maximum(place - size + 1, 0), np.minimum(place, length - size)
        number, count = np.unique(last - first + 1, return_counts=True)
        cover = np.multiply.outer(cover, number).reshape(-1)
        weight = np.multiply.outer(weight, count / length).reshape(-1)
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
) -> Any:
    """Drop stretches of sequences, of shape (batch, channels, length).

    As `drop_block2d`, for three axes; `block_size` is an int.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.drop_block1d(np.ones((1, 2, 10), dtype=np.float32), 0.5, 3, rng=1)[0]
    array([[0., 0., 0., 2., 2., 2., 2., 0., 0., 0.],
           [2., 2., 2., 2., 2., 2., 2., 2., 2., 2.]], dtype=float32)
    """
    return _drop_blocks(
        3, x, p, block_size, shared, channel_axis, scale_by_keep,
        training, rng, mask, return_mask, out,
    )  # fmt: skip


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
) -> Any:
    r"""Drop rectangular blocks of images (DropBlock).

    At each place where a whole block fits, a block starts with probability :math:`\gamma`. Elements
    that a block covers are set to +0.0, and the others are divided by :math:`1 - p`:

    .. math:: y_{n c i j} = x_{n c i j} \, / (1 - p) \prod_{u < h, v < w} m_{n c, i - u, j - v},
              \qquad m \sim Bernoulli(1 - \gamma)

    for a block of height h and width w. :math:`\gamma` is such that an element is dropped with
    probability `p` on average over the map, exactly: overlaps of blocks are counted in, and so are
    the borders, which fewer blocks cover. Evaluation is the identity.

    Parameters
    ----------
    x : array_like of float or complex, shape (batch, channels, height, width)
        Input, as for `dropout`.
    p : float
        Fraction of the elements to DROP, in [0, 1].
    block_size : int or sequence of two int
        Height and width of a block, each at least 1; in a smaller map, the whole map is the block.
    training, rng, mask, return_mask, out
        As for `dropout`, also what is returned. The mask is a `BlockMask`.
    shared : bool, default False
        Whether the channels of a sample share their blocks.
    channel_axis : int, default 1
        The axis of the channels; -1 for (batch, height, width, channels). The batch is axis 0.
    scale_by_keep : bool, default True
        Whether to divide kept elements by 1 - p.

    Notes
    -----
    Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks", NeurIPS
    2018, with two differences. Their :math:`\gamma` is an estimate, which drops less than asked
    for, the more so the larger p. And they scale by the number of elements that happen to be kept,
    counted over the batch: then a value depends on all other samples, the layer is not linear, and
    where nothing is kept the result is NaN. Here the factor is its expectation,
    :math:`1 / (1 - p)`, and the function of the output's gradient, with the same key or mask, is
    the gradient.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.drop_block2d(np.ones((1, 1, 5, 8), dtype=np.float32), 0.5, 3, rng=1)[0, 0]
    array([[0., 0., 0., 2., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [0., 0., 0., 0., 2., 2., 2., 2.],
           [2., 0., 0., 0., 2., 2., 2., 2.],
           [2., 2., 2., 2., 2., 2., 2., 2.]], dtype=float32)
    """
    return _drop_blocks(
        4, x, p, block_size, shared, channel_axis, scale_by_keep,
        training, rng, mask, return_mask, out,
    )  # fmt: skip


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
) -> Any:
    """Drop blocks of volumes, of shape (batch, channels, depth, height, width).

    As `drop_block2d`, for five axes; `block_size` is an int or three.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> y = fd.drop_block3d(np.ones((1, 1, 2, 3, 6), dtype=np.float32), 0.5, (2, 3, 2), rng=1)
    >>> y[0, 0, 0]
    array([[0., 0., 2., 2., 0., 0.],
           [0., 0., 2., 2., 0., 0.],
           [0., 0., 2., 2., 0., 0.]], dtype=float32)
    """
    return _drop_blocks(
        5, x, p, block_size, shared, channel_axis, scale_by_keep,
        training, rng, mask, return_mask, out,
    )  # fmt: skip


def _draw(
    shape: tuple[int, ...],
    block: tuple[int, ...],
    shared: bool,
    channel_axis: int,
    p: float,
    key: Key,
) -> BlockMask:
    """Return the mask for arrays of a shape."""
    ndim = len(block) + 2
    axes = feature_axes(shape, channel_axis, ndim)
    lengths = tuple(shape[axis] for axis in axes)
    clipped = tuple(max(1, min(pair)) for pair in zip(block, lengths, strict=True))
    places, sizes = list(shape), [1] * ndim
    for axis, length, size in zip(axes, lengths, clipped, strict=True):
        places[axis] = max(0, length - size + 1)
        sizes[axis] = size
    if shared:
        places[as_axis(channel_axis, ndim, "channel_axis")] = 1
    return BlockMask(make_mask(tuple(places), seed_rate(p, lengths, clipped), key), tuple(sizes), p)


def _scale(scale_by_keep: bool) -> dict[str, float]:
    """Return what a plan passes on to `BlockMask.apply`."""
    return {} if as_flag(scale_by_keep, "scale_by_keep") else {"scale": 1.0}


def _drop_blocks(
    ndim: int,
    x: ArrayLike,
    p: float,
    block_size: Lengths,
    shared: bool,
    channel_axis: int,
    scale_by_keep: bool,
    training: bool,
    rng: RNG,
    mask: BlockMask | None,
    return_mask: bool,
    out: Array | None,
) -> Any:
    array, p = as_array(x, "x"), probability(p)
    block, shared = as_lengths(block_size, ndim - 2, "block_size"), as_flag(shared, "shared")
    feature_axes(array.shape, channel_axis, ndim)

    def make(p: float, key: Key) -> BlockMask:
        return _draw(array.shape, block, shared, channel_axis, p, key)

    options = _scale(scale_by_keep)
    return run_recipe(make, BlockMask, array, p, training, rng, mask, return_mask, out, **options)


class _DropBlock(RecipeLayer[BlockMask]):
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

    def _draw(self, shape: tuple[int, ...], key: Key) -> BlockMask:
        return _draw(shape, self.block_size, self.shared, self.channel_axis, self._p, key)

    def _plan_of(self, recipe: BlockMask, x: Array) -> RecipePlan[BlockMask]:
        return RecipePlan(recipe, x.shape, **_scale(self.scale_by_keep))


class DropBlock1d(_DropBlock):
    """Drop stretches of sequences in training, as `drop_block1d` does.

    The parameters are those of `DropBlock2d`; `block_size` is an int.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.DropBlock1d(0.5, 3, rng=8)(np.ones((1, 1, 10), dtype=np.float32))[0]
    array([[2., 2., 0., 0., 0., 0., 2., 2., 2., 2.]], dtype=float32)
    """

    _ndim = 3


class DropBlock2d(_DropBlock):
    """Drop rectangular blocks of images in training, as `drop_block2d` does.

    Parameters
    ----------
    p : float
        Fraction of the elements to DROP, in [0, 1]; exact in expectation.
    block_size : int or sequence of two int
        Height and width of a block, each at least 1.
    inplace, rng
        As for `Dropout`.
    shared, channel_axis, scale_by_keep
        As for `drop_block2d`.

    Attributes
    ----------
    mask : BlockMask or None
        That of the last call; None before the first and after one in evaluation.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.DropBlock2d(0.5, (2, 3), rng=5)
    >>> drop(np.ones((1, 1, 4, 6), dtype=np.float32))[0, 0]
    array([[2., 0., 0., 0., 2., 2.],
           [2., 0., 0., 0., 2., 2.],
           [2., 2., 0., 0., 0., 2.],
           [2., 2., 0., 0., 0., 2.]], dtype=float32)
    """

    _ndim = 4


class DropBlock3d(_DropBlock):
    """Drop blocks of volumes in training, as `drop_block3d` does.

    The parameters are those of `DropBlock2d`; `block_size` is an int or three.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.DropBlock3d(0.5, 2, rng=0)
    >>> drop(np.ones((1, 1, 2, 3, 4), dtype=np.float32))[0, 0, 0]
    array([[2., 2., 2., 2.],
           [0., 0., 0., 2.],
           [0., 0., 0., 2.]], dtype=float32)
    """

    _ndim = 5
