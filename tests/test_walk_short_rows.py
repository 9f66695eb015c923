"""Short rows that follow each other in memory: their bits are packed before they are applied."""

from __future__ import annotations

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from support import KEY, as_key, assert_same, bits, values

LENGTHS = [
    2,
    3,
    63,
    64,
    65,
    130,
    1023,
]  # around a word of bits, over two words, the longest that is packed
MANY_ROWS = 70_000  # elements: more than a unit of one thread, and no whole number of tiles
Array = NDArray[np.float32]


def cut(rows: Array, shape: tuple[int, int, int]) -> Array:
    """Return the same memory, its last axis cut in two."""
    step = rows.itemsize
    return as_strided(rows, shape, (rows.strides[0], shape[2] * step, step))


def both_orders(x: Array) -> list[Array]:
    return [x, np.asfortranarray(x)]


@pytest.mark.parametrize("length", LENGTHS)
def test_elements_of_a_row_may_share_a_decision(level: str, length: int) -> None:
    """Would catch a row that gets the decision of the next."""
    x = values((MANY_ROWS // length, length), np.float32)
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=(1,))
    for view in both_orders(x):
        assert_same(fd.dropout(view, 0.3, broadcast_dims=(1,), rng=as_key(KEY)), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_may_share_their_decisions(level: str, length: int) -> None:
    """Would catch rows that slide against each other."""
    x = values((MANY_ROWS // length, length), np.float32)
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=(0,))
    for view in both_orders(x):
        assert_same(fd.dropout(view, 0.3, broadcast_dims=(0,), rng=as_key(KEY)), expected)


@pytest.mark.parametrize("length", [3, 200])
def test_a_repeated_row_is_not_reused_beyond_its_end(level: str, length: int) -> None:
    """The next block of rows has bits of its own, longer or shorter than what was kept."""
    x = values((3, 20_000 // length, length), np.float32)
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=(1,))
    assert_same(fd.dropout(x, 0.3, broadcast_dims=(1,), rng=as_key(KEY)), expected)
    x = values((500, 1100 // length, length), np.float32)  # repeated, but fewer than a tile
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=(1,))
    assert_same(fd.dropout(x, 0.3, broadcast_dims=(1,), rng=as_key(KEY)), expected)


def test_a_few_repetitions_are_not_taken_for_a_stored_row(level: str) -> None:
    """Rows of 3 come again 2 times; what follows them in memory has other bits."""
    x = values((9_000, 2, 3), np.float32)
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=(1,))
    assert_same(fd.dropout(x, 0.3, broadcast_dims=(1,), rng=as_key(KEY)), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_transposed_rows_are_joined_without_a_gap(level: str, length: int) -> None:
    x = values((length, MANY_ROWS // length), np.float32)
    assert_same(fd.dropout(np.asfortranarray(x), 0.3, rng=as_key(KEY)), ref.dropout(x, 0.3, KEY))


@pytest.mark.parametrize("length", LENGTHS)
def test_transposed_blocks_may_begin_anywhere_in_a_group(level: str, length: int) -> None:
    """Long runs across a short axis, of a region that begins at (1, 1)."""
    shape = (20_000 // length, length)
    whole, start = (shape[0] + 1, length + 1), (1, 1)
    region = fd.Mask(whole, 0.3, as_key(KEY)).region(start, shape)
    kept = ref.kept(KEY, 0.3, ref.element_indices(whole, start, shape))
    x = values(shape, np.float32)
    y = region.apply(np.asfortranarray(x))
    assert_same(y, ref.select(kept, x, ref.inverse_keep(0.3)))


@pytest.mark.parametrize(
    ("length", "width"),
    [
        (length, width)
        for length in (3, 65, 130)
        for width in (5, 131, 140, 400, 3000)
        if length < width
    ],
)
def test_rows_that_lie_apart_in_the_whole_skip_what_is_between(
    level: str, width: int, length: int
) -> None:
    """Near rows are drawn with what lies between them, far ones by themselves."""
    shape = (20_000 // length, length)
    whole, start = (shape[0] + 1, width), (1, 1)
    region = fd.Mask(whole, 0.3, as_key(KEY)).region(start, shape)
    kept = ref.kept(KEY, 0.3, ref.element_indices(whole, start, shape))
    x = values(shape, np.float32)
    assert_same(region.apply(x), ref.select(kept, x, ref.inverse_keep(0.3)))


@pytest.mark.parametrize("width", [2, 130, 300])
def test_shared_decisions_may_lie_apart_in_the_whole(level: str, width: int) -> None:
    """Decisions of the first column: one per row of the whole, at steps of its width."""
    whole, shape = (5_000, width, 1), (5_000, 1, 1)
    kept = ref.kept(KEY, 0.3, ref.element_indices(whole, (0, 0, 0), shape))
    x = values((5_000, 1, 3), np.float32)
    mask = fd.Mask(whole, 0.3, as_key(KEY)).region((0, 0, 0), shape)
    y = fd.dropout(x, 0.3, mask=mask)
    assert_same(y, ref.select(np.broadcast_to(kept, x.shape), x, ref.inverse_keep(0.3)))


@pytest.mark.parametrize("length", [3, 65, 130])
def test_rows_of_a_given_mask_are_packed_afresh(level: str, length: int) -> None:
    """Would catch bits that are left from the rows packed before."""
    x = values((20_000 // length, length), np.float32)
    keep = np.random.default_rng(0).random((len(x), 2 * length + 1)) < 0.5
    for given in (keep[:, 1::2], keep[:, :length], keep[::-1, length:-1], keep[:1, :length]):
        expected = ref.select(np.broadcast_to(given, x.shape), x, 2.0)
        assert_same(fd.dropout(x, 0.5, mask=given), expected)


@pytest.mark.parametrize("dims", [(), (0,), (1,), (2,)])
def test_rows_are_not_joined_across_gaps(level: str, dims: tuple[int, ...]) -> None:
    """Some rows follow each other, then comes memory that is not the array's."""
    numbers = values((70, 9, 3), np.float32)
    expected = ref.dropout(numbers, 0.3, KEY, broadcast_dims=dims)
    packed = np.full((70, 30), 7, np.float32)  # 27 elements, then 3 that must not change
    for turned in (False, True):
        rows = packed[:, :27]
        x = cut(rows, (70, 3, 9)).transpose(0, 2, 1) if turned else cut(rows, (70, 9, 3))
        x[...] = numbers
        fd.dropout(x, 0.3, broadcast_dims=dims, rng=as_key(KEY), out=x)
        assert_same(x, expected)
        assert (packed[:, 27:] == 7).all()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_decisions_are_not_joined_across_gaps(level: str, p: float) -> None:
    frame = values((3, 500, 5), np.float32)
    permuted = frame.transpose(2, 0, 1).copy().transpose(1, 2, 0)
    for x in (frame[:, :, :3], frame[:, :, :3].copy(), permuted):
        assert_same(fd.dropout(x, p, rng=as_key(KEY)), ref.dropout(x, p, KEY))
        scaled = ref.select(np.bool_(p == 0.0), x, 0.5)  # this one reads: p = 0 alone returns x
        assert_same(fd.Mask(x.shape, p, as_key(KEY)).apply(x, scale=0.5), scaled)
        wide = np.full((3, 500, 5), np.float32(7))
        fd.Mask(x.shape, p, as_key(KEY)).apply(x, scale=0.5, out=wide[:, :, : x.shape[2]])
        np.testing.assert_array_equal(bits(wide[:, :, : x.shape[2]]), bits(scaled))
        assert np.all(wide[:, :, x.shape[2] :] == 7)
