"""The whole at once: random shapes, layouts, dtypes, p, modes and machines, bit for bit."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import DTYPES, LEVELS, SWAPPABLE, as_key, assert_same, running_on, values

pytestmark = pytest.mark.once

MAX_SIZE = 20_000  # two tiles and a half

LENGTHS = st.one_of(
    st.integers(0, 9), st.sampled_from([31, 32, 33, 127, 128, 129, 1023, 1025, 8191, 8193])
)
KEYS = st.binary(min_size=16, max_size=16)
PROBABILITIES = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 5e-324, 2.0**-64, 1e-6, 1 - 2.0**-53]),
    st.integers(1, 64).flatmap(lambda n: st.integers(0, 2**n).map(lambda k: k / 2**n)),
    st.floats(0.0, 1.0),
    st.floats(0.05, 0.95),
)
SHAPES = (
    st.one_of(st.lists(LENGTHS, max_size=4), st.lists(st.sampled_from([1, 1, 1, 2]), max_size=64))
    .filter(lambda shape: math.prod(max(length, 1) for length in shape) <= MAX_SIZE)
    .map(tuple)
)


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Draw an array of this shape: axes permuted in memory, stepped over, reversed, repeated."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in shape]
    repeat = [draw(st.integers(0, 7)) == 0 for _ in shape]
    lengths = [max(0, (n - 1) * abs(step) + 1) for n, step in zip(shape, steps, strict=True)]
    memory = [1 if repeat[axis] else lengths[axis] for axis in order]
    source = values(memory, dtype, seed=draw(st.integers(0, 2**32)))
    if draw(st.integers(0, 3)) == 0:  # one byte off, as in a packed record
        raw = np.zeros(source.nbytes + 1, np.uint8)[1:].view(dtype).reshape(source.shape)
        raw[...] = source
        source = raw
    view = source.transpose(np.argsort(order))
    stepped = view[(*(slice(None, None, step) for step in steps), ...)]
    x = np.broadcast_to(stepped, shape)
    x = x if any(repeat) else stepped
    assert x.shape == shape
    return x


@st.composite
def machines(draw: st.DrawFn) -> tuple[str, int]:
    return draw(st.sampled_from(LEVELS)), draw(st.sampled_from([1, 2, 3]))


def dims_of(shape: tuple[int, ...]) -> st.SearchStrategy[list[int]]:
    """Draw some axes, each once, counted from either end."""
    if not shape:
        return st.just([])
    axes = st.lists(st.integers(0, len(shape) - 1), unique=True)
    return st.tuples(axes, st.booleans()).map(
        lambda drawn: [axis - len(shape) if drawn[1] else axis for axis in drawn[0]]
    )


thorough = settings(
    max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@thorough
@given(
    data=st.data(),
    shape=SHAPES,
    dtype=st.sampled_from(DTYPES),
    p=PROBABILITIES,
    key=KEYS,
    mode=st.sampled_from(["inverted", "standard"]),
    machine=machines(),
)
def test_dropout_matches_the_reference(
    data: st.DataObject,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    p: float,
    key: ref.Key,
    mode: str,
    machine: tuple[str, int],
) -> None:
    if dtype in SWAPPABLE and data.draw(st.integers(0, 4)) == 0:
        dtype = dtype.newbyteorder("S")
    x = data.draw(arrays(shape, dtype))
    dims = data.draw(dims_of(shape))
    note(f"strides {x.strides}")
    before = x.copy()
    expected = ref.dropout(before, p, key, mode=mode, broadcast_dims=dims)
    with running_on(*machine):
        y = fd.dropout(x, p, mode=mode, broadcast_dims=dims, rng=as_key(key))
        assert_same(y, expected if p else before)
        assert_same(x, before)

        out = data.draw(arrays(shape, dtype)).copy(order="K")
        fd.dropout(x, p, mode=mode, broadcast_dims=dims, rng=as_key(key), out=out)
        assert_same(out, expected if p else before)

        in_place = x.copy(order="K")
        drop = fd.Dropout(p, inplace=True, mode=mode, broadcast_dims=dims, rng=as_key(key))
        assert drop(in_place) is in_place
        child = ref.fold_in(key, 0)
        moved = ref.dropout(before, p, child, mode=mode, broadcast_dims=dims)
        assert_same(in_place, moved if p else before)


@thorough
@given(data=st.data(), p=PROBABILITIES, key=KEYS, machine=machines())
def test_a_region_matches_the_reference(
    data: st.DataObject, p: float, key: ref.Key, machine: tuple[str, int]
) -> None:
    """A small box anywhere in an array of up to 2**62 elements."""
    bit_lengths = data.draw(
        st.lists(st.integers(0, 40), max_size=4).filter(lambda bits: sum(bits) <= 62)
    )
    whole = tuple(data.draw(st.integers(1, 2**length)) for length in bit_lengths)
    shape = tuple(data.draw(st.integers(0, min(length, 12))) for length in whole[:-1])
    shape += tuple(data.draw(st.integers(0, min(length, 300))) for length in whole[-1:])
    start = tuple(
        data.draw(st.integers(0, length - part)) for length, part in zip(whole, shape, strict=True)
    )
    if math.prod(shape) > MAX_SIZE:
        shape = (1,) * (len(shape) - 1) + shape[-1:]
    expected = ref.mask(key, p, whole, start, shape)
    with running_on(*machine):
        region = fd.Mask(whole, p, as_key(key)).region(start, shape)
        np.testing.assert_array_equal(region.to_numpy(), expected)
        packed = np.packbits(expected, axis=None, bitorder="little")
        np.testing.assert_array_equal(region.packbits(), packed)
        assert region.count() == np.count_nonzero(expected)


@thorough
@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(DTYPES), machine=machines())
def test_a_boolean_mask_is_applied_as_given(
    data: st.DataObject, shape: tuple[int, ...], dtype: np.dtype[Any], machine: tuple[str, int]
) -> None:
    x = data.draw(arrays(shape, dtype))
    mask_shape = ref.shared_shape(shape, data.draw(dims_of(shape)))
    keep = np.asarray(data.draw(arrays(mask_shape, np.dtype(np.float32))) > 0)
    with running_on(*machine):
        assert_same(fd.dropout(x, 0.75, mask=keep), ref.select(keep, x, 4.0))


@st.composite
def windows(
    draw: st.DrawFn, memory: NDArray[np.uint8], dtype: np.dtype[Any], shape: Any
) -> NDArray[Any]:
    """Draw an array anywhere in memory, with strides of any number of bytes."""
    strides = [draw(st.integers(-50, 50)) for _ in shape]
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True) if 0 not in shape]
    below, above = -sum(min(0, far) for far in reach), sum(max(0, far) for far in reach)
    offset = draw(st.integers(below, memory.size - above - dtype.itemsize))
    return np.ndarray(shape, dtype, memory.data, offset, strides)


def places(array: NDArray[Any], memory: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return where in memory each byte of each element lies."""
    at = np.full((*array.shape, array.itemsize), array.ctypes.data - memory.ctypes.data)
    at += np.arange(array.itemsize)
    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        at += (np.arange(length) * stride).reshape(-1, *(1,) * (array.ndim - axis))
    return at.reshape(-1)


@thorough
@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 9), max_size=4),
    dtype=st.sampled_from(DTYPES),
    p=PROBABILITIES,
    key=KEYS,
    machine=machines(),
)
def test_out_may_lie_anywhere_in_the_memory_of_x(
    data: st.DataObject,
    shape: list[int],
    dtype: np.dtype[Any],
    p: float,
    key: ref.Key,
    machine: tuple[str, int],
) -> None:
    """The result is that of a copy of x, and nothing is written around `out`.

    Where elements of `out` share memory, any of them may be the last to be written.
    """
    seed = data.draw(st.integers(0, 2**32))
    memory = np.random.default_rng(seed).integers(0, 256, 8192, np.uint8)
    x = data.draw(windows(memory, dtype, shape))
    out = data.draw(windows(memory, dtype, shape))
    if data.draw(st.booleans()):  # x moved by some bytes, where that is in memory
        first = x.ctypes.data - memory.ctypes.data + data.draw(st.integers(-40, 40))
        with contextlib.suppress(ValueError, TypeError):
            out = np.ndarray(shape, dtype, memory.data, first, x.strides)
    note(f"{x.strides} {out.strides}")
    expected, before = ref.dropout(x.copy(), p, key) if p else x.copy(), memory.copy()
    written = places(out, memory)
    broadcast = any(not step and n > 1 for step, n in zip(out.strides, shape, strict=True))
    with running_on(*machine):
        if broadcast and out.size:
            with pytest.raises(ValueError, match="stride of 0"):
                fd.dropout(x, p, rng=as_key(key), out=out)
            written = written[:0]
        else:
            fd.dropout(x, p, rng=as_key(key), out=out)
            if np.unique(written).size == written.size:
                assert_same(out.copy(), expected)
    around = np.delete(np.arange(memory.size), written)
    np.testing.assert_array_equal(memory[around], before[around])
