"""Memory: every layout of x and of `out`, in place, overlapping, and arrays that must not change.

The mask goes by logical index, so no layout may change a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop import _core
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from support import DTYPES, KEY, SWAPPABLE, as_key, assert_same, running_on, values

Array = NDArray[Any]
SHAPE = (3, 70, 131)  # rows that are not a multiple of a block, and more than one tile of them


def place(view: Array, x: Array) -> Array:
    view[...] = x
    return view


def unaligned(x: Array) -> Array:
    """Return a copy whose elements start one byte off."""
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = raw.view(x.dtype).reshape(x.shape)
    return place(view, x)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x.copy(),
    "Fortran": lambda x: np.asfortranarray(x),
    "permuted": lambda x: x.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    "swapped last axes": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "every second": lambda x: place(np.zeros((3, 70, 262), x.dtype)[:, :, ::2], x),
    "every third row": lambda x: place(np.zeros((3, 210, 131), x.dtype)[:, ::3, :], x),
    "part of rows": lambda x: place(np.zeros((5, 71, 140), x.dtype)[1:4, 1:, 5:136], x),
    "reversed": lambda x: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "reversed rows": lambda x: x[:, ::-1].copy()[:, ::-1],
    "reversed every second": lambda x: place(np.zeros((3, 70, 262), x.dtype)[:, :, ::-2], x),
    "unaligned": unaligned,
}


@pytest.fixture(params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Callable[[Array], Array]:
    """Give a function that puts equal values into another layout."""
    arrange: Callable[[Array], Array] = request.param
    return arrange


def inner_strides(x: Array) -> list[int]:
    """Return the strides that say something: those of axes with two elements or more."""
    return [stride for stride, length in zip(x.strides, x.shape, strict=True) if length > 1]


# --- Input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mask_goes_by_logical_index(
    level: str, layout: Callable[[Array], Array], dtype: np.dtype[Any]
) -> None:
    """And the output takes the layout of x."""
    c_order = values(SHAPE, dtype)
    x = layout(c_order)
    y = fd.dropout(x, 0.3, rng=as_key(KEY))
    assert_same(y, ref.dropout(c_order, 0.3, KEY))
    assert_same(x, c_order)
    assert inner_strides(y) == inner_strides(np.empty_like(x, order="K"))


@pytest.mark.parametrize("dims", [(0,), (1,), (-1,), (0, 2), (1, 2)])
def test_shared_decisions_go_by_logical_index(
    level: str, layout: Callable[[Array], Array], dims: tuple[int, ...]
) -> None:
    c_order = values(SHAPE, np.float32)
    y = fd.dropout(layout(c_order), 0.3, broadcast_dims=dims, rng=as_key(KEY))
    assert_same(y, ref.dropout(c_order, 0.3, KEY, broadcast_dims=dims))


@pytest.mark.parametrize("shape", [(70, 131), (3, 1, 131), (3, 70, 1), (), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(np.float64)], ids=str)
def test_repeated_values_have_decisions_of_their_own(
    level: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """A broadcast input repeats its values; the mask does not repeat."""
    x = np.broadcast_to(values(shape, dtype), SHAPE)
    y = fd.dropout(x, 0.3, rng=as_key(KEY))
    assert_same(y, ref.dropout(x, 0.3, KEY))
    assert y.flags.writeable
    assert inner_strides(y) == inner_strides(np.empty_like(x, order="K"))


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("dtype", SWAPPABLE, ids=str)
def test_swapped_bytes_are_read_as_such(
    level: str, layout: Callable[[Array], Array], dtype: np.dtype[Any], mode: str
) -> None:
    swapped = values((3, 70, 131), dtype).astype(dtype.newbyteorder("S"))
    y = fd.dropout(layout(swapped), 0.3, mode=mode, rng=as_key(KEY))
    assert_same(y, ref.dropout(swapped, 0.3, KEY, mode=mode))
    evaluated = fd.dropout(layout(swapped), 0.3, mode="standard", training=False)
    assert_same(evaluated, ref.multiply(swapped, 0.7))


def test_read_only_input_is_accepted() -> None:
    x = values(SHAPE, np.float32)
    x.flags.writeable = False
    y = fd.dropout(x, 0.3, rng=as_key(KEY))
    assert_same(y, ref.dropout(x, 0.3, KEY))
    assert y.flags.writeable


def as_is(x: Array) -> Array:
    return x


# A thread begins in the middle of memory, of a column, of a row, of short rows, or of their copies.
LARGE: list[tuple[tuple[int, ...], Any, tuple[int, ...], Callable[[Array], Array]]] = [
    (((1 << 20) + 77,), np.float32, (), as_is),
    (((1 << 20) + 77,), np.complex128, (), as_is),
    ((1100, 1301), np.float32, (), np.asfortranarray),
    ((1100, 1301), np.float32, (), LAYOUTS["reversed rows"]),
    *[((12, 250, 401), np.float32, d, as_is) for d in [(0,), (1,), (2,), (0, 2), (1, 2)]],
    ((400_000, 3), np.float32, (0,), as_is),
    ((400_000, 3), np.float32, (1,), as_is),
]


@pytest.mark.parametrize(("shape", "dtype", "dims", "arrange"), LARGE)
def test_threads_change_nothing_wherever_they_begin(
    shape: Any, dtype: Any, dims: Any, arrange: Callable[[Array], Array]
) -> None:
    """Of drawn masks and given ones, into new memory and in place."""
    x = arrange(values(shape, dtype))
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=dims)
    keep = np.asarray(ref.mask(KEY, 0.3, ref.shared_shape(shape, dims)))
    for threads in (1, 2, 3):
        with running_on(threads=threads):
            assert_same(fd.dropout(x, 0.3, broadcast_dims=dims, rng=as_key(KEY)), expected)
            assert_same(fd.dropout(x, 0.3, mask=keep), expected)
            same = x.copy(order="K")
            fd.dropout(same, 0.3, broadcast_dims=dims, rng=as_key(KEY), out=same)
            assert_same(same, expected)


@pytest.mark.parametrize("ndim", [5, 12, 32, 64])
def test_up_to_64_dimensions_are_accepted(level: str, ndim: int) -> None:
    x = values((1,) * (ndim - 5) + (2, 3, 4, 5, 6), np.float32)
    expected = ref.dropout(x, 0.3, KEY)
    assert_same(fd.dropout(x, 0.3, rng=as_key(KEY)), expected)
    assert_same(fd.dropout(np.asfortranarray(x), 0.3, rng=as_key(KEY)), expected)


# --- Output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_is_written_in_logical_order(
    level: str, layout: Callable[[Array], Array], dtype: np.dtype[Any]
) -> None:
    x = values(SHAPE, dtype)
    for source in (x, np.asfortranarray(x)):
        out = layout(np.ones_like(x))
        assert fd.dropout(source, 0.3, rng=as_key(KEY), out=out) is out
        assert_same(out, ref.dropout(x, 0.3, KEY))


@pytest.mark.parametrize("dtype", SWAPPABLE, ids=str)
def test_out_may_be_of_the_other_byte_order(level: str, dtype: np.dtype[Any]) -> None:
    x = values(SHAPE, dtype)
    swapped = dtype.newbyteorder("S")
    expected = ref.dropout(x, 0.3, KEY)
    for source, target in [(dtype, swapped), (swapped, dtype), (swapped, swapped)]:
        out = np.ones(SHAPE, target)
        fd.dropout(x.astype(source), 0.3, rng=as_key(KEY), out=out)
        assert_same(out, expected.astype(target))


def test_writing_to_a_slice_leaves_its_surroundings_alone(level: str) -> None:
    for dtype in DTYPES:
        frame = np.full((6, 600), 7, dtype)
        x = values((4, 500), dtype)
        expected = frame.copy()
        expected[1:5, 50:550] = ref.dropout(x, 0.3, KEY)
        fd.dropout(x, 0.3, rng=as_key(KEY), out=frame[1:5, 50:550])
        assert_same(frame, expected)


def test_in_place_works_in_every_layout(level: str, layout: Callable[[Array], Array]) -> None:
    for dtype in DTYPES:
        c_order = values(SHAPE, dtype)
        x = layout(c_order)
        assert fd.dropout(x, 0.3, rng=as_key(KEY), out=x) is x
        assert_same(x, ref.dropout(c_order, 0.3, KEY))


@pytest.mark.parametrize("shift", [1, 8, 127, 128, 8192, 100_000])
def test_out_may_overlap_x_in_part(level: str, threads: int, shift: int) -> None:
    """Would catch elements that are written before they are read."""
    numbers = values((300_000,), np.float32)
    for x_part, out_part in [
        (slice(0, -shift), slice(shift, None)),
        (slice(shift, None), slice(0, -shift)),
    ]:
        buffer = numbers.copy()
        expected = numbers.copy()
        expected[out_part] = ref.dropout(numbers[x_part], 0.3, KEY)
        fd.dropout(buffer[x_part], 0.3, rng=as_key(KEY), out=buffer[out_part])
        assert_same(buffer, expected)


def test_out_may_be_x_in_another_order(level: str) -> None:
    numbers = values((200, 200), np.float32)
    for turn in (lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1].T):
        buffer = numbers.copy()
        fd.dropout(buffer, 0.3, rng=as_key(KEY), out=turn(buffer))
        assert_same(turn(buffer), ref.dropout(numbers, 0.3, KEY))


def test_a_mask_inside_the_output_is_read_first(level: str) -> None:
    keep = np.random.default_rng(1).random(20_000) < 0.5
    x = values((20_000,), np.float32)
    out = np.zeros(20_000, np.float32)
    inside = out.view(np.bool_)[:20_000]
    inside[...] = keep
    fd.dropout(x, 0.5, mask=inside, out=out)
    assert_same(out, ref.select(keep, x, 2.0))


def test_out_that_overlaps_itself_is_the_same_for_every_number_of_threads(level: str) -> None:
    """Would catch two threads that write the same element."""
    x = values((2000, 1000), np.float32)

    def result(threads: int) -> Array:
        memory = np.zeros(1_002_000, np.float32)
        with running_on(threads=threads):
            fd.dropout(x, 0.5, rng=as_key(KEY), out=as_strided(memory, x.shape, (2000, 4)))
        return memory

    expected = result(1)
    for _ in range(20):
        assert_same(result(4), expected)


def test_a_mask_that_took_another_shape_is_refused() -> None:
    """Would catch a gradient that reads beyond the end of the mask."""
    x, keep = np.ones((4, 6), np.float32), np.ones(6, np.bool_)
    _, plan = _core.forward("select", (x,), None, keep, 0.0, (), 2.0)
    keep.resize((2, 3), refcheck=False)
    with pytest.raises(ValueError, match="broadcast"):
        plan.backward(x)


# --- What must not change ------------------------------------------------------------------------


def frozen(x: Array) -> Array:
    x.flags.writeable = False
    return x


BAD_OUTPUTS: dict[str, Array] = {
    "too short": np.full((3, 4), 7.0),
    "broadcastable": np.full((1, 5), 7.0),
    "too large": np.full((2, 3, 5), 7.0),
    "float32": np.full((3, 5), 7.0, np.float32),
    "integer": np.full((3, 5), 7),
    "read-only": frozen(np.full((3, 5), 7.0)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("out", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_a_wrong_out_is_refused_and_left_alone(out: Array, p: float, training: bool) -> None:
    with pytest.raises((ValueError, TypeError), match="out"):
        fd.dropout(np.ones((3, 5)), p, training=training, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("out", [[1.0, 2.0], 3.0, "out"])
def test_an_out_that_is_not_an_array_is_refused(out: Any) -> None:
    with pytest.raises(TypeError, match="out"):
        fd.dropout(np.ones(2), 0.5, out=out)


def test_an_output_with_zero_strides_is_refused() -> None:
    """Two threads could write the same element."""
    out = as_strided(np.full(5, 7.0), (4, 5), (0, 8))
    with pytest.raises(ValueError, match="out"):
        fd.dropout(np.ones((4, 5)), 0.5, out=out)
    assert (out == 7.0).all()
