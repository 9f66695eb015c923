"""DropBlock: which blocks go, at what rate, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop._family.blocks import seed_rate
from numpy.typing import NDArray
from support import DTYPES, KEY, SWAPPABLE, as_key, assert_same, values

pytestmark = pytest.mark.once

SHAPE_2D, SHAPE_3D = (3, 4, 13, 10), (2, 3, 6, 9, 8)
BLOCKS_2D: list[Any] = [1, 2, 3, 7, 8, (4, 5), (10, 1), 10, (13, 10), 50]


def covered(seeds: NDArray[np.bool_], block: Sequence[int]) -> NDArray[np.bool_]:
    """What is kept, one block after the other."""
    shape = [places + length - 1 for places, length in zip(seeds.shape, block, strict=True)]
    kept = np.ones(shape, dtype=np.bool_)
    for start in np.argwhere(~seeds):
        kept[tuple(slice(at, at + n) for at, n in zip(start, block, strict=True))] = False
    return kept


def kept_2d(
    shape: tuple[int, ...], p: float, block: Any, key: ref.Key, shared: bool = False
) -> NDArray[np.bool_]:
    """The mask of images in (batch, channels, height, width), as defined."""
    batch, channels, *lengths = shape
    sizes = block if isinstance(block, tuple) else (block, block)
    sizes = [min(size, length) for size, length in zip(sizes, lengths, strict=True)]
    places = [length - size + 1 for size, length in zip(sizes, lengths, strict=True)]
    rate = seed_rate(p, tuple(lengths), tuple(sizes))
    seeds = ref.mask(key, rate, (batch, 1 if shared else channels, *places))
    return np.broadcast_to(covered(seeds, (1, 1, *sizes)), shape)


# --- Which --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("block", BLOCKS_2D, ids=str)
def test_blocks_in_images_match_the_definition(level: str, block: Any, shared: bool) -> None:
    """Would catch blocks that are cut off, shifted or too long."""
    x = values(SHAPE_2D, np.float32)
    expected = ref.select(kept_2d(SHAPE_2D, 0.4, block, KEY, shared), x, 1 / 0.6)
    key = as_key(KEY)
    assert_same(fd.drop_block2d(x, 0.4, block, shared=shared, rng=key), expected)


@pytest.mark.parametrize("seeds", [(7, 5), (1, 6, 3), (2, 1, 4, 3)], ids=str)
def test_a_block_ends_with_its_row(seeds: tuple[int, ...]) -> None:
    """Every block size up to 9, along one axis or all of them; none may wrap around."""
    mask = fd.Mask(seeds, 0.1, as_key(KEY))
    one = [tuple(n if axis == at else 1 for axis in range(len(seeds))) for n in range(2, 10)
           for at in range(len(seeds))]  # fmt: skip
    for block in [*one, *((n,) * len(seeds) for n in range(1, 10))]:
        blocks = fd.BlockMask(mask, block, 0.5)
        expected = covered(mask.to_numpy(), block)
        np.testing.assert_array_equal(blocks.to_numpy(), expected)
        assert blocks.shape == expected.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropped_blocks_are_plus_zero(level: str, dtype: np.dtype[Any]) -> None:
    """In every dtype: multiplying by 0 would leave a NaN or a minus sign."""
    x = values(SHAPE_2D, dtype)
    expected = ref.select(kept_2d(SHAPE_2D, 0.3, 3, KEY), x, 1 / 0.7)
    assert_same(fd.drop_block2d(x, 0.3, 3, rng=as_key(KEY)), expected)


def test_blocks_in_volumes_match_the_definition() -> None:
    """Would catch swapped axes: the block is of another length along each."""
    x = values(SHAPE_3D, np.float32)
    for shared in (False, True):
        block, channels = (2, 5, 3), 1 if shared else 3
        seeds = ref.mask(KEY, seed_rate(0.3, (6, 9, 8), block), (2, channels, 5, 5, 6))
        expected = ref.select(covered(seeds, (1, 1, *block)), x, 1 / 0.7)
        assert_same(fd.drop_block3d(x, 0.3, block, shared=shared, rng=as_key(KEY)), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_channels_may_come_last(shared: bool) -> None:
    """Would catch blocks that spread over the channels."""
    x = np.ones((2, 9, 8, 3))
    y = fd.drop_block2d(x, 0.3, 3, channel_axis=-1, shared=shared, rng=as_key(KEY))
    seeds = ref.mask(KEY, seed_rate(0.3, (9, 8), (3, 3)), (2, 7, 6, 1 if shared else 3))
    assert_same(y, ref.select(covered(seeds, (1, 3, 3, 1)), x, 1 / 0.7))
    volume = fd.drop_block3d(
        np.ones((2, 5, 9, 8, 3)), 0.3, 3, channel_axis=4, shared=shared, rng=as_key(KEY)
    )
    seeds = ref.mask(KEY, seed_rate(0.3, (5, 9, 8), (3, 3, 3)), (2, 3, 7, 6, 1 if shared else 3))
    assert_same(volume, ref.select(covered(seeds, (1, 3, 3, 3, 1)), np.ones(volume.shape), 1 / 0.7))


def test_a_sample_is_independent_of_its_batch() -> None:
    """Would catch the scale of the paper, which counts what is left in the whole batch."""
    x = values((8, 4, 13, 10), np.float32)
    whole = fd.drop_block2d(x, 0.4, 5, rng=as_key(KEY))
    assert_same(fd.drop_block2d(x[:3], 0.4, 5, rng=as_key(KEY)), whole[:3].copy())


def layouts(x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The same numbers in memory in other ways."""
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    made = {
        "F": np.asfortranarray(x),
        "channels last": np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
        "strided": wide[..., ::2],
        "reversed": np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    }
    if x.dtype in SWAPPABLE:
        made["swapped"] = x.astype(x.dtype.newbyteorder())
    return made


@pytest.mark.parametrize("shared", [False, True])
def test_layout_does_not_change_blocks(shared: bool) -> None:
    x = values((16, 32, 30, 31), np.float32)
    drop = fd.DropBlock2d(0.3, 5, shared=shared, rng=as_key(KEY)).hold()
    y, dx = drop(x), drop.backward(x)
    for name, same in layouts(x).items():
        np.testing.assert_array_equal(drop(same), y, err_msg=name)
        np.testing.assert_array_equal(drop.backward(same), dx, err_msg=name)


# --- How many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1e-300, 1e-12, 1e-3, 0.1, 0.3, 0.5, 0.9, 0.999, 1 - 1e-12])
@pytest.mark.parametrize(
    ("lengths", "block"),
    [((14, 14), (7, 7)), ((9, 5), (4, 5)), ((6, 6), (1, 1)), ((7, 7), (7, 7)),
     ((9, 9, 9), (3, 3, 3))],
    ids=str,
)  # fmt: skip
def test_the_seed_rate_is_exact(p: float, lengths: tuple[int, ...], block: tuple[int, ...]) -> None:
    """The seeds cover a fraction p, up to the rounding of gamma; in exact arithmetic."""
    miss = 1 - Fraction(seed_rate(p, lengths, block))
    dropped = Fraction(0)
    for place in itertools.product(*map(range, lengths)):
        starts = 1
        for at, length, size in zip(place, lengths, block, strict=True):
            starts *= sum(start <= at < start + size for start in range(length - size + 1))
        dropped += 1 - miss**starts
    fraction = dropped / int(np.prod(lengths))
    assert abs(fraction - Fraction(p)) <= Fraction(p) * Fraction(2, 10**14)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    ("lengths", "block"),
    [((7, 7), 7), ((8, 8), 7), ((14, 14), 7), ((28, 28), 7), ((16, 12), (2, 5)), ((10, 10), 1),
     ((9, 9), 4)],
    ids=str,
)  # fmt: skip
def test_blocks_in_images_drop_a_fraction_p(p: float, lengths: tuple[int, int], block: Any) -> None:
    """False-alarm rate 35 x 6e-7 = 2e-5 together.

    The blocks of one map overlap, so the spread is measured over the 20000 maps; if fewer than
    100 of them were hit, it would mean little.
    """
    maps = 20_000
    y = fd.drop_block2d(np.ones((maps, 1, *lengths), np.float32), p, block, rng=fd.Key(8))
    dropped = (y == 0).mean(axis=(1, 2, 3))
    assert abs(dropped.mean() - p) < 5 * dropped.std() / np.sqrt(maps)
    assert np.count_nonzero(dropped) >= 100


def test_blocks_in_volumes_drop_a_fraction_p() -> None:
    """False-alarm rate 2 x 6e-7."""
    for shared, channels in ((False, 1), (True, 2)):
        x = np.ones((4000, channels, 6, 7, 8), np.float32)
        dropped = (fd.drop_block3d(x, 0.3, (3, 2, 4), shared=shared, rng=fd.Key(9)) == 0).mean(
            axis=(1, 2, 3, 4)
        )
        assert abs(dropped.mean() - 0.3) < 5 * dropped.std() / np.sqrt(4000)


# --- At the ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_empty_arrays_are_accepted(shape: tuple[int, ...], p: float) -> None:
    drop = fd.DropBlock2d(p, 3, rng=0)
    assert drop(np.ones(shape)).shape == shape
    assert drop.mask.to_numpy().shape == shape
    assert drop.backward(np.ones(shape)).shape == shape


# --- Layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_call_i_and_its_backward_use_child_key_i(shared: bool) -> None:
    x, dy = values(SHAPE_2D, np.float32, seed=1), values(SHAPE_2D, np.float32, seed=2)
    drop = fd.DropBlock2d(0.3, 4, shared=shared, rng=as_key(KEY))
    for call in range(3):
        kept = kept_2d(SHAPE_2D, 0.3, 4, ref.fold_in(KEY, call), shared)
        assert_same(drop(x), ref.select(kept, x, 1 / 0.7))
        assert_same(drop.backward(dy), ref.select(kept, dy, 1 / 0.7))
        np.testing.assert_array_equal(np.broadcast_to(drop.mask.to_numpy(), SHAPE_2D), kept)
        assert_same(drop.mask.apply(x), ref.select(kept, x, 1 / 0.7))


def test_the_repr_shows_what_is_not_default() -> None:
    assert repr(fd.DropBlock2d(0.1, 7)) == "DropBlock2d(p=0.1, block_size=(7, 7), inplace=False)"
    assert repr(fd.DropBlock3d(0.1, (1, 2, 3), True, shared=True, channel_axis=4)) == (
        "DropBlock3d(p=0.1, block_size=(1, 2, 3), inplace=True, shared=True, channel_axis=4)"
    )


# --- Bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((1.5, 3), {}, "p must be"),
        ((0.5, 0), {}, "block_size must be an int of at least 1, got 0"),
        ((0.5, (3, -1)), {}, "block_size must be"),
        ((0.5, (3, 3, 3)), {}, "block_size must be an int or a sequence of 2 ints"),
        ((0.5, 2.0), {}, "block_size must be"),
        ((0.5, "33"), {}, "block_size must be"),
        ((0.5, None), {}, "block_size must be"),
        ((0.5, 3), {"shared": 1}, "shared must be True or False, got 1"),
        ((0.5, 3), {"channel_axis": 0}, "channel_axis must not be"),
        ((0.5, 3), {"channel_axis": 4}, "channel_axis must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(
    arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    """By function and layer alike, before out is written."""
    x = np.ones(SHAPE_2D)
    with pytest.raises((TypeError, ValueError), match=message):
        fd.drop_block2d(x, *arguments, out=x, **keywords)
    with pytest.raises((TypeError, ValueError), match=message):
        fd.DropBlock2d(*arguments, **keywords)
    assert (x == 1).all()


def test_wrong_ranks_and_types_are_refused() -> None:
    """Would catch a refused call that counts."""
    with pytest.raises(ValueError, match="x must have 4 axes"):
        fd.drop_block2d(np.ones((3, 8, 8)), 0.5, 3)
    drop = fd.DropBlock3d(0.5, 3)
    with pytest.raises(ValueError, match="x must have 5 axes"):
        drop(np.ones((3, 4, 8, 8)))
    assert drop.calls == 0
    with pytest.raises(TypeError, match="training must be"):
        fd.drop_block2d(np.ones(SHAPE_2D), 0.5, 3, training=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seeds must be a Mask"):
        fd.BlockMask(np.ones((3, 3), bool), (1, 1), 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="block must be"):
        fd.BlockMask(fd.Mask((3, 3), 0.5, fd.Key(0)), (1,), 0.5)


@pytest.mark.parametrize("p", [1 - 2.0**-53, 1 - 2.0**-40, 2.0**-53, 5e-324])
def test_an_extreme_p_raises_no_floating_point_error(p: float) -> None:
    with np.errstate(all="raise"):
        fd.drop_block2d(np.ones(SHAPE_2D, np.float32), p, (3, 5), rng=1)


def test_blocks_that_are_not_scaled_keep_their_values() -> None:
    y = fd.drop_block2d(np.ones((2, 3, 6, 6)), 0.4, 2, scale_by_keep=False, rng=as_key(KEY))
    assert set(y.flat) == {0.0, 1.0}
