"""Memory: what is kept, what a call needs, where it ends, and what calls leave behind."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from faults import run, tries
from support import KEY, as_key

pytestmark = pytest.mark.once

MOST_KEPT = 500  # bytes
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads Linux's own accounts"
)

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


@on_linux
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


@on_linux
@pytest.mark.parametrize("count", [256, 10**6, 2**62, sys.maxsize, 2**64 - 1, 10**30])
@pytest.mark.parametrize("how", ["function", "variable"])
def test_a_call_needs_memory_for_the_threads_that_run_not_for_the_setting(
    count: int, how: str
) -> None:
    """The calls have some 20 units of work; 256 threads would need 48 MiB, and others overflow."""
    code = (
        "import resource\n"
        "x, key = np.ones(600_000), fd.Key(1)\n"
        "out, mask = np.empty_like(x), fd.Mask(x.shape, 0.5, key)\n"
        f"if {how == 'function'}: fd.set_num_threads({count})\n"
        "assert fd.get_num_threads() >= 256\n"
        "size = re.search(r'VmSize:\\s+(\\d+) kB', open('/proc/self/status').read())[1]\n"
        "limit = (int(size) << 10) + (24 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))\n"
        "fd.dropout(x, 0.5, rng=key, out=out)\n"
        "fd.dropout(x.reshape(40, -1).T, 0.5, rng=key, out=out.reshape(40, -1).T)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n"
        "fd.dropout(x, 0.5, rng=key, out=out)\n"
        "print(np.array_equal(out != 0, mask.to_numpy()))"
    )
    variable = {"FASTDROP_NUM_THREADS": str(count)} if how == "variable" else {}
    assert run(code, **variable) == "True\n"


# --- Memory that ends ----------------------------------------------------------------------------

# Children whose address space may grow by a number of bytes more, from 0 to what a call needs.
LIMITED = """
import resource
from entries import attempt, entries
def flat(result):
    if isinstance(result, (tuple, list)):
        return sum(map(flat, result), [])
    return [zlib.crc32(np.ascontiguousarray(result))] if isinstance(result, np.ndarray) else []
def limit(margin):
    size = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + margin, resource.RLIM_INFINITY))
def unlimited():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
def limited(call, margin, right, started):  # 0: it was enough; 3: a MemoryError, and a right call
    if started:  # its threads
        attempt(call)
    limit(margin)
    try:
        result = attempt(call)
        code = 0
    except MemoryError:
        code = 3
    unlimited()
    if code:
        result = attempt(call)
    return code if right is None or flat(result) == right else 4
fd.set_num_threads(4)
tries, codes = int(sys.argv[1]), {}
for name, call in entries(1 << 20, 1 << 20).items():
    if "Linear" in name:  # OpenBLAS ends the process where it gets no memory
        continue
    first, second = flat(attempt(call)), flat(attempt(call))
    if "overlapping" in name or name.endswith("layer") or first != second:
        first = None  # other bits in every call
    enough, rng = 1 << 25, random.Random(name)
    for n in range(tries):  # of all sizes, up to what is enough
        margin = int(enough ** rng.random())
        code = ended(fork(lambda: limited(call, margin, first, n % 2)))
        codes.setdefault(code, []).append((name, margin))
        if code == 0:
            enough = max(2, min(enough, 2 * margin))
print(sum(map(len, codes.values())), *(f"{code}: {len(found)}" for code, found in codes.items()))
print([(code, found[:5]) for code, found in codes.items() if code not in (0, 3)])
"""


@on_linux
@pytest.mark.parametrize("memory", ["kept", "returned"])
def test_no_limit_of_memory_aborts_any_call(memory: str) -> None:
    """A MemoryError, and then a call that works; memory of former calls is left or not.

    Where it was left, threads started and found no addresses for heaps of their own.
    """
    # Of the C library: large blocks return to the system, and threads reserve no heaps.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environment = settings if memory == "returned" else {}
    counts, wrong = run(LIMITED, tries(2, 6), **environment).splitlines()
    print(counts)
    assert wrong == "[]"
    assert memory == "kept" or "3:" in counts


LONG = """
import resource
from fastdrop import _core
key, x = fd.Key(1), np.ones(3)
mask, (_, plan) = fd.Mask((4, 5), 0.5, key), _core.forward("select", (x,), None, None, 0.5, (), 1.0)
numbers, arrays = (1,) * (1 << 23), (x,) * (1 << 23)
CALLS = {
    "Mask": lambda: _core.Mask(numbers, 0.5, key),
    "start": lambda: mask.part(numbers, (1, 1)),
    "start, lazy": lambda: mask.part(range(10**9), (1, 1)),
    "shape": lambda: mask.part((1, 1), numbers),
    "shape, lazy": lambda: mask.part((1, 1), range(10**9)),
    "uniforms": lambda: _core.uniforms(numbers, key),
    "uniforms, lazy": lambda: _core.uniforms(range(10**9), key),
    "ars": lambda: _core.ars(numbers, bytes(16)),
    "ars, lazy": lambda: _core.ars(range(10**9), bytes(16)),
    "forward": lambda: _core.forward("select", arrays, None, None, 0.5, (), 1.0),
    "check": lambda: _core.check("select", arrays, None),
    "backward": lambda: plan.backward(*arrays),
}
size = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
# The call of `backward` makes a tuple of 64 MiB. Lists of 64-bit numbers would be as large.
margin = (96 if NAME == "backward" else 32) << 20
resource.setrlimit(resource.RLIMIT_AS, (size + margin, resource.RLIM_INFINITY))
try:
    CALLS[NAME]()
except (TypeError, ValueError):
    print("refused")
"""


@on_linux
@pytest.mark.parametrize(
    "name",
    ["Mask", "start", "start, lazy", "shape", "shape, lazy", "uniforms", "uniforms, lazy", "ars",
     "ars, lazy", "forward", "check", "backward"],
)  # fmt: skip
def test_a_long_argument_of_the_core_is_refused_before_it_takes_memory(name: str) -> None:
    """Rust ends the process where it gets none."""
    assert run(f"NAME = {name!r}{LONG}") == "refused\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda: fd.Mask((2**50,), 0.5, as_key(KEY)).to_numpy(),
        lambda: fd.Mask((2**60,), 0.5, as_key(KEY)).packbits(),
        lambda: fd.Mask((2**50,), 0.5, as_key(KEY)).apply(np.float32(1)),
        lambda: fd.dropout(np.broadcast_to(np.float32(1), (2**50,)), 0.5, rng=0),
        lambda: fd.dropout(np.broadcast_to(np.float32(1), (2**25, 2**25)), 0.5, rng=0),
        lambda: fd.Dropout(0.5, rng=0)(np.broadcast_to(np.float32(1), (2**50,))),
    ],
    ids=["to_numpy", "packbits", "apply", "dropout", "dropout 2-d", "layer"],
)
def test_exhausted_memory_is_a_memory_error(call: Any) -> None:
    with pytest.raises(MemoryError):
        call()
    assert fd.Mask((1000,), 0.5, as_key(KEY)).count() > 0


# --- What calls leave behind ---------------------------------------------------------------------

DRIFT = """
import ctypes
from entries import attempt, entries
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
fd.set_num_threads(1)
calls = entries(1, 1 << 10)
# Not float64, of which NumPy itself loses a reference in np.zeros(3).
held = [None, (), np.ndarray, fd.Key, fd.Mask, fd.Dropout, *map(np.dtype, ["f4", "u8", "?"])]
for call in calls.values():  # whatever the calls hold, too
    held += [cell.cell_contents for cell in call.__closure__ or ()]
def state():
    gc.collect()
    info = mallinfo2()
    resident = int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
    return {
        "resident": resident, "C": info.uordblks + info.hblkhd, "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()), "references": sum(map(sys.getrefcount, held)),
    }
def rounds(n):
    for _ in range(n):
        for call in calls.values():
            attempt(call)
n = max(1, int(sys.argv[1]) // len(calls) // 4)
rounds(max(100, n // 10))  # what is set up once
states = [state()]
for _ in range(4):
    rounds(n)
    states.append(state())
print(4 * n * len(calls), n)
for name in states[0]:
    print(name, *(after[name] - before[name] for before, after in zip(states, states[1:])))
"""


@on_linux
def test_calls_leave_nothing_behind() -> None:
    """No memory, object or reference, whether they were refused or not.

    If one entry point lost an object, a reference or 16 bytes in each call, all four quarters of
    the calls would show it. There are so many calls because the C library's caches settle within
    some kilobytes.
    """
    total, *lines = run(DRIFT, tries(110_000, 2_000_000)).splitlines()
    print(total, *lines, sep="\n")
    rounds = int(total.split()[1])
    for name, *growth in map(str.split, lines):
        least = min(map(int, growth))
        assert least < {"resident": 1 << 19, "C": 16 * rounds}.get(name, rounds), lines
