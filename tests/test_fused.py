"""Operations of several inputs, each in a layout of its own, beside plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from numpy.typing import NDArray
from support import BFLOAT16, DTYPES, KEY, MANY, as_key, assert_same, bits, running_on

Array = NDArray[Any]


def reverse(x: Array) -> Array:
    return x[::-1, ..., ::-1].copy()[::-1, ..., ::-1]


def strided(x: Array) -> Array:
    wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1] + 1), dtype=x.dtype)
    wide[..., 1::3] = x
    return wide[..., 1::3]


def permuted(x: Array) -> Array:
    axes = (*range(1, x.ndim), 0)
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def one_value_per_row(x: Array) -> Array:
    return np.ascontiguousarray(x[..., :1])


def one_row(x: Array) -> Array:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1])[0])


LAYOUTS: list[Callable[[Array], Array]] = [
    np.ascontiguousarray,
    np.asfortranarray,
    permuted,
    reverse,
    strided,
    lambda x: x.astype(x.dtype.newbyteorder()),
]
SHARED: list[Callable[[Array], Array]] = [*LAYOUTS, one_value_per_row, one_row]
# Short and long rows, as rows and as columns; several blocks of transposed ones, and a rest.
SHAPES = [(1, 1), (3, 5), (40, 3), (3, 700), (1030, 67), (67, 2100), (4, 6, 130)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_each_input_is_read_in_its_own_layout(
    level: str, threads: int, layout: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(shape) + layout)
    x, a, b = rng.standard_normal((3, *shape)).astype(np.float32)
    keep = ref.mask(KEY, 0.3, shape)
    scale = np.float32(1 / 0.7)
    key = as_key(KEY)
    first = LAYOUTS[layout](x)
    for second in range(len(SHARED)):
        bias, residual = SHARED[second](a), SHARED[-1 - second](b)
        out = LAYOUTS[second % 4](np.zeros_like(x))
        expected = np.where(keep, residual + (x + bias) * scale, residual)
        fd.bias_dropout_add(first, bias, residual, 0.3, rng=key, out=out)
        np.testing.assert_array_equal(bits(out), bits(expected), err_msg=f"{second}")
        y = fd.zoneout(first, bias, 0.3, rng=key)
        np.testing.assert_array_equal(bits(y), bits(np.where(keep, x, bias)), err_msg=f"{second}")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex64], ids=str)
def test_elements_of_every_size_are_read_in_every_layout(dtype: Any) -> None:
    shape = (130, 300)
    x, a = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    keep = ref.mask(KEY, 0.3, shape)
    for make in LAYOUTS:
        for other in SHARED:
            previous = other(a)
            y = fd.zoneout(make(x), previous, 0.3, rng=as_key(KEY))
            expected = np.where(keep, x, previous).astype(dtype)
            np.testing.assert_array_equal(bits(y), bits(expected))


@pytest.mark.parametrize("start", [0, 1, 15])
def test_long_columns_are_read_right_across_blocks(level: str, start: int) -> None:
    """Columns of whole cache lines that begin inside one: blocks are counted from before them."""
    shape = (37, 2064)
    x, residual = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    memory = np.zeros(x.size + 32, dtype=np.float32)
    first = -memory.ctypes.data // 4 % 16 + start
    out = memory[first : first + x.size].reshape(shape)
    fd.dropout_add(x.T, residual.T, 0.3, rng=as_key(KEY), out=out.T)
    keep = ref.mask(KEY, 0.3, shape[::-1]).T
    expected = np.where(keep, residual + x * np.float32(1 / 0.7), residual)
    np.testing.assert_array_equal(bits(out), bits(expected))


def added(keep: Array, x: Array, bias: Array, residual: Array) -> Array:
    """Return ``residual + dropout(x + bias)`` for p = 0.3, in the dtype of NumPy's sum.

    It is computed in the widest precision, at least float32, and rounded once.
    """
    empty = [np.empty(0, dtype=array.dtype) for array in (x, bias, residual)]
    dtype = (empty[0] + empty[1] + empty[2]).dtype
    wide = np.result_type(dtype, np.float32)
    x, bias, residual = (array.astype(wide) for array in (x, bias, residual))
    scale = np.zeros(1, wide).real + 1 / 0.7
    return np.where(keep, residual + (x + bias) * scale, residual).astype(dtype)


PROMOTED = [
    (one, other) for one in DTYPES for other in DTYPES if {one, other} != {np.dtype("f2"), BFLOAT16}
]


@pytest.mark.parametrize(("first", "second"), PROMOTED, ids=str)
def test_dtypes_are_promoted_and_results_rounded_once(level: str, first: Any, second: Any) -> None:
    """In every layout and byte order of either array; would catch a float16 rounded on the way."""
    shape = (37, 131)
    x, a, b = np.random.default_rng(0).standard_normal((3, *shape))
    x, a, b = x.astype(first), a.astype(second), b.astype(second)
    keep = ref.mask(KEY, 0.3, shape)
    for number, other in enumerate(SHARED):
        if BFLOAT16 in (first, second) and LAYOUTS[-1] in (other, LAYOUTS[number % len(LAYOUTS)]):
            continue  # NumPy cannot swap bfloat16
        make, bias, residual = LAYOUTS[number % len(LAYOUTS)], other(a), SHARED[number - 1](b)
        if second == BFLOAT16:
            residual = b
        expected = added(keep, x, bias, residual)
        y = fd.bias_dropout_add(make(x), bias, residual, 0.3, rng=as_key(KEY))
        np.testing.assert_array_equal(y, expected, err_msg=f"{number}")
        assert y.dtype.newbyteorder("=") == expected.dtype
        out = np.zeros(shape, expected.dtype, order="F")
        fd.bias_dropout_add(make(x), bias, residual, 0.3, rng=as_key(KEY), out=out)
        np.testing.assert_array_equal(out, expected)


def test_three_dtypes_meet_in_the_widest() -> None:
    shape = (3, 100)
    x, bias, residual = np.random.default_rng(0).standard_normal((3, *shape))
    keep = ref.mask(KEY, 0.3, shape)
    for dtypes in (("f2", "f4", "f8"), (BFLOAT16, "c8", "f8"), ("f8", BFLOAT16, "f4")):
        arrays = [a.astype(dtype) for a, dtype in zip((x, bias, residual), dtypes, strict=True)]
        y = fd.bias_dropout_add(*arrays, 0.3, rng=as_key(KEY))
        np.testing.assert_array_equal(y, added(keep, *arrays))
        assert y.dtype == added(keep, *arrays).dtype


def test_large_arrays_of_two_dtypes_are_the_same_on_any_number_of_threads() -> None:
    x = np.random.default_rng(0).standard_normal(MANY, dtype=np.float32).astype(BFLOAT16)
    residual, none = np.arange(MANY, dtype=np.float32), np.zeros((), np.float32)
    expected = added(ref.mask(KEY, 0.3, x.shape), x, none, residual)
    for threads in (1, 3):
        with running_on(threads=threads):
            assert_same(fd.dropout_add(x, residual, 0.3, rng=as_key(KEY)), expected)


def test_an_output_may_overlap_an_input_of_another_dtype() -> None:
    residual = np.arange(1000.0)
    for start in (0, 3, 500):
        memory = residual.copy()
        x = memory.view(np.float32)[start : start + 1000]
        x[:] = np.random.default_rng(0).standard_normal(1000)
        expected = fd.dropout_add(x.copy(), residual, 0.3, rng=as_key(KEY))
        fd.dropout_add(x, residual, 0.3, rng=as_key(KEY), out=memory)
        assert_same(memory, expected)
    assert fd.dropout_add(np.ones(1000, "f2"), residual, 0.3, rng=1, out=residual) is residual
