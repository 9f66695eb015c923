"""Memory: masks and layers stay small, and a call needs hardly more than its output."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import fastdrop as fd
import numpy as np
import pytest
from support import KEY, as_key

pytestmark = pytest.mark.once

MOST_KEPT = 500  # bytes

# The largest resident size since the mark was reset, as Linux reports it.
MEASURE = """
import numpy as np, fastdrop as fd, re
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
fd.set_num_threads({threads})
x = {array}
out = np.full_like(x, 1)
small = {small}
for _ in range(3):  # what is set up once: threads, stacks, pages of code
    fd.dropout(small, {p}, rng=1, broadcast_dims={dims}, out=np.empty_like(small))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
fd.dropout(x, {p}, rng=1, broadcast_dims={dims}, out=out)
print(peak() - before)
"""

ARRAYS = {
    "C order": ("np.ones(({n}, 1000), np.float32)", ()),
    "Fortran order": ("np.ones(({n}, 1000), np.float32).T", ()),
    "every other": ("np.ones(({n}, 2000), np.float32)[:, ::2]", ()),
    "shared": ("np.ones((10, {n}, 100), np.float32)", (0,)),
}


@pytest.mark.parametrize("shape", [(), (10,), (1000, 1000), (10**6, 10**9), (2, 3, 4, 5, 6)])
def test_a_mask_stays_small_whatever_its_shape(shape: tuple[int, ...]) -> None:
    mask = fd.Mask(shape, 0.3, as_key(KEY))
    assert sys.getsizeof(mask) < MOST_KEPT
    assert len(pickle.dumps(mask)) < MOST_KEPT


def test_a_layer_keeps_neither_input_nor_bits_for_backward() -> None:
    drop = fd.Dropout(0.5, rng=0)
    drop(np.ones((1000, 1000), np.float32))
    assert len(pickle.dumps(drop)) < MOST_KEPT
    assert sys.getsizeof(drop._last.plan_and_inputs[0]) < MOST_KEPT
    assert all(sys.getsizeof(value) < 100 for name, value in vars(drop).items() if name != "_last")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("layout", ARRAYS)
def test_a_call_needs_hardly_more_memory_than_its_output(
    layout: str, p: float, threads: int
) -> None:
    array, dims = ARRAYS[layout]
    code = MEASURE.format(
        array=array.format(n=20_000), small=array.format(n=5000), p=p, dims=dims, threads=threads
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kilobytes = int(re.fullmatch(r"(\d+)\n", done.stdout)[1])  # type: ignore[index]
    # 64 KiB for each thread; and as much again for what the interpreter does meanwhile.
    assert kilobytes <= 64 * threads + 64


OF_TWO_DTYPES = """
import tracemalloc
import numpy as np, fastdrop as fd
x, residual = np.ones((1000, 1000), np.float16), np.ones((1000, 1000), np.float32)
layer = fd.DropoutAdd(0.1, rng=0)
tracemalloc.start()
for run, size in [
    (lambda: fd.dropout_add(x, residual, 0.1), residual.nbytes),
    (lambda: fd.bias_dropout_add(x.T, residual[0], x, 0.1), residual.nbytes),
    (lambda: fd.gelu_dropout_backward(x, residual, 0.1, rng=fd.Key(0)), residual.nbytes),
    (lambda: layer(x, residual), residual.nbytes),
    (lambda: layer.backward(residual), x.nbytes),
]:
    tracemalloc.reset_peak()
    run()
    print(tracemalloc.get_traced_memory()[1] - size)
"""


def test_arrays_of_two_dtypes_are_combined_without_a_converted_copy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OF_TWO_DTYPES], capture_output=True, text=True, check=True
    )
    assert max(map(int, done.stdout.split())) < 100_000


SEEDS_AND_MASK = """
import tracemalloc
import fastdrop as fd
mask = fd.BlockMask(fd.Mask((64, 2, 506, 506), 0.01, fd.Key(0)), (1, 1, 7, 7), 0.3)
tracemalloc.start()
size = mask.to_numpy().nbytes
print(tracemalloc.get_traced_memory()[1] / size)
"""


def test_a_block_mask_takes_no_more_memory_than_itself_and_its_seeds() -> None:
    """A copy of all of it would also be a step of NumPy that Ctrl-C cannot stop."""
    done = subprocess.run(
        [sys.executable, "-c", SEEDS_AND_MASK], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 2.1
