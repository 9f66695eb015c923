"""What the test files share: bitwise comparison, awkward inputs, and the choice of machine.

Nothing here knows how a mask is drawn; that is `reference.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastdrop as fd
import ml_dtypes
import numpy as np
import reference as ref
from fastdrop import _core
from numpy.typing import NDArray

# A run with FASTDROP_SIMD set tests that level alone.
FORCED_LEVEL = os.environ.get("FASTDROP_SIMD")
LEVELS: list[str] = [FORCED_LEVEL] if FORCED_LEVEL else list(_core.simd_levels())

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES: list[np.dtype[Any]] = [
    np.dtype(np.float32),
    np.dtype(np.float64),
    np.dtype(np.float16),
    BFLOAT16,
    np.dtype(np.complex64),
    np.dtype(np.complex128),
]
SWAPPABLE = [dtype for dtype in DTYPES if dtype != BFLOAT16]  # NumPy cannot swap bfloat16

# Each size breaks something that its neighbours do not: one block of 128 lanes; one vector of
# eight blocks; one tile of mask bits; 16-bit counters.
EDGES = [0, 1, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 8191, 8192, 8193, 65535, 65536, 65537]

# Large enough that every thread of a small pool has many tiles, and a whole number of nothing.
MANY = 3_000_017

KEY: ref.Key = bytes.fromhex("243f6a8885a308d313198a2e03707344")


def as_key(key: ref.Key) -> fd.Key:
    """Return the library's key with these bytes."""
    return fd.Key.from_bytes(key)


@contextmanager
def running_on(level: str | None = None, threads: int | None = None) -> Iterator[None]:
    """Run the body at one SIMD level and with one number of threads."""
    level_before, threads_before = _core.simd(), fd.get_num_threads()
    try:
        if level is not None:
            _core.set_simd(level)
        if threads is not None:
            fd.set_num_threads(threads)
        yield
    finally:
        _core.set_simd(level_before)
        fd.set_num_threads(threads_before)


def parts(array: NDArray[Any]) -> NDArray[Any]:
    """Return a flat C-order copy in native byte order; complex numbers become two real ones."""
    flat = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return the bit patterns, except that every NaN counts as the same one."""
    flat = parts(array)
    pattern = flat.view(f"u{flat.dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        pattern[np.isnan(flat)] = np.iinfo(pattern.dtype).max
    return pattern


def assert_same(actual: Any, expected: NDArray[Any]) -> None:
    """Compare type, dtype, shape and bits: +0.0 and -0.0 differ, 1 ulp differs."""
    assert type(actual) is np.ndarray
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(bits(actual), bits(expected))


def values(shape: Any, dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Every sort of number: everyday ones, any bit pattern at all, and the special ones."""
    dtype = np.dtype(dtype)
    real = np.zeros((), dtype=dtype).real.dtype
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape, dtype=int)) * (dtype.itemsize // real.itemsize)
    flat = rng.standard_normal(size).astype(real)
    anything = np.frombuffer(rng.bytes(size * real.itemsize), dtype=real)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], dtype=real)
    sort = rng.integers(0, 4, size=size)
    flat[sort == 1] = anything[sort == 1]
    flat[sort == 2] = special[rng.integers(0, len(special), size=size)][sort == 2]
    return flat.view(dtype).reshape(shape)
