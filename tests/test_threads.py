"""Forks, threads and exits: the same bits, no hang, no abort. See `docs/reliability.md`.

Every program has a watchdog, and inputs large enough for the pool.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from faults import run, tries
from support import KEY, as_key, assert_same, running_on

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts"),
]

LARGE = 1 << 20  # elements


def digest() -> int:
    """Return a digest of a call that one thread does alone."""
    with running_on(threads=1):
        return zlib.crc32(fd.dropout(np.ones(LARGE, np.float32), 0.3, rng=fd.Key(1)))


# --- Fork ----------------------------------------------------------------------------------------

CHECK = """
x, expected = np.ones(1 << 20, np.float32), int(sys.argv[1])
def check():  # 0 if the bits are right, and come with two helpers
    fd.set_num_threads(3)
    wrong = zlib.crc32(fd.dropout(x, 0.3, rng=fd.Key(1))) != expected
    return wrong + 2 * (not comes(helpers, 2))
tries = int(sys.argv[2])
"""

FORKS = {
    "before the first use": "print({ended(fork(check)) for _ in range(tries)}, check())",
    "after it": "print(check(), {ended(fork(check)) for _ in range(tries)}, check())",
    "by grandchildren": """
def nested(depth):
    return check() or (depth and ended(fork(lambda: nested(depth - 1))))
print({nested(3) for _ in range(tries)})
""",
    "during calls": """
stop = threading.Event()
def loop():
    while not stop.is_set():
        fd.dropout(x, 0.3, rng=fd.Key(1))
threads = [threading.Thread(target=loop) for _ in range(3)]
check()
for thread in threads:
    thread.start()
print({ended(fork(check)) for _ in range(tries)})
stop.set()
for thread in threads:
    thread.join()
print(check())
""",
    "while pools are built": """
stop = threading.Event()
small = fd.Mask(3 << 20, 0.3, fd.Key(1))
def rebuild(n):
    while not stop.is_set():
        n = 5 - n
        fd.set_num_threads(n)
        small.count()
threads = [threading.Thread(target=rebuild, args=(n,)) for n in (2, 3)]
for thread in threads:
    thread.start()
print({ended(fork(check)) for _ in range(tries)})
stop.set()
for thread in threads:
    thread.join()
print(check())
""",
    # The child of the handler goes on with the call that was interrupted.
    "in a signal handler": """
mask = fd.Mask(1 << 31, 0.3, fd.Key(1))
fd.set_num_threads(3)
expected_count, children = mask.count(), []
def handler(*_):
    children.append(os.fork())
    if children[-1] == 0:
        signal.alarm(100)
signal.signal(signal.SIGUSR1, handler)
codes = set()
for n in range(tries):
    timer = threading.Timer(0.0005 * (n % 100), os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    right = mask.count() == expected_count
    while len(children) <= n:
        time.sleep(0.001)
    if children[-1] == 0:
        os._exit(4 * (not right) + check())
    timer.join()
    codes.add(right)
print({ended(child) for child in children}, codes, len(children) == tries, check())
""",
}


@pytest.mark.parametrize("when", FORKS)
def test_a_fork_keeps_bits_and_gets_helpers_of_its_own(when: str) -> None:
    output = run(CHECK + FORKS[when], digest(), tries(5, 200))
    assert set(output.split()) <= {"0", "{0}", "{True}", "True"}, output


SPAWNING = """
import multiprocessing, sys, zlib
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import fastdrop as fd

def work(n):
    return zlib.crc32(fd.dropout(np.ones(1 << 20, np.float32), 0.3, rng=fd.Key(1)))

if __name__ == "__main__":
    fd.set_num_threads(3)
    work(0)  # the parent's pool exists
    how, start = sys.argv[1:]
    if how == "joblib":
        import joblib

        results = joblib.Parallel(2, backend=start)(joblib.delayed(work)(n) for n in range(6))
    else:
        context = multiprocessing.get_context(start)
        if how == "pool":
            with context.Pool(2) as pool:
                results = pool.map(work, range(6), chunksize=1)
        else:
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                results = list(pool.map(work, range(6)))
    print(*sorted(set(results)))
"""


@pytest.mark.parametrize(
    ("how", "start"),
    [(how, start) for how in ("pool", "futures") for start in ("fork", "forkserver", "spawn")]
    + [("joblib", backend) for backend in ("loky", "multiprocessing", "threading")],
)
def test_pools_of_processes_draw_the_same_bits(how: str, start: str, tmp_path: Path) -> None:
    if how == "joblib":
        pytest.importorskip("joblib")
    program = tmp_path / "program.py"
    program.write_text(SPAWNING)
    done = subprocess.run(
        [sys.executable, str(program), how, start], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, f"{digest()}\n"), done.stderr


# --- Threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 20_000, 600_000])  # alone, without the interpreter, shared
def test_32_threads_neither_share_nor_skip_a_call(size: int) -> None:
    drop, x = fd.Dropout(0.5, rng=fd.Key(3)), np.ones(size, np.float32)
    calls, results = tries(3, 40), []

    def work() -> None:
        for _ in range(calls):
            results.append(zlib.crc32(drop(x)))

    with running_on(threads=3):
        threads = [threading.Thread(target=work) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [
            zlib.crc32(fd.dropout(x, 0.5, rng=fd.Key(3).fold_in(n))) for n in range(32 * calls)
        ]
    assert drop.calls == 32 * calls
    assert sorted(results) == sorted(expected)


def test_calls_from_several_threads_do_not_mix() -> None:
    """Each calls for itself while another keeps changing the number of threads."""
    x = np.ones(300_000, np.float32)
    keys = [as_key(KEY).fold_in(i) for i in range(24)]
    with running_on(threads=1):
        expected = [fd.dropout(x, 0.3, rng=key) for key in keys]
    stop = threading.Event()

    def fidget() -> None:
        while not stop.is_set():
            for count in (1, 2, 3):
                fd.set_num_threads(count)

    with running_on(), ThreadPoolExecutor(5) as pool:
        fidgeting = pool.submit(fidget)
        try:
            actual = list(pool.map(lambda key: fd.dropout(x, 0.3, rng=key), keys))
        finally:
            stop.set()
        fidgeting.result()
    for got, want in zip(actual, expected, strict=True):
        assert_same(got, want)


def test_the_interpreter_is_free_during_a_long_call() -> None:
    """Another Python thread runs on while one counts some 10**9 elements."""
    mask = fd.Mask((2**30,), 0.3, as_key(KEY))
    worker = threading.Thread(target=mask.count)
    turns = 0
    with running_on(threads=1):
        worker.start()
        while worker.is_alive():
            turns += 1
            time.sleep(0.001)
    assert turns > 10


REFUSING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
int allowed_threads = 1 << 30;
typedef void *start(void *);
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, start *run, void *data) {
    static int (*real)(pthread_t *, const pthread_attr_t *, start *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_create");
    return allowed_threads-- > 0 ? real(thread, attr, run, data) : EAGAIN;
}
"""

REFUSED = """
import ctypes
allowed = ctypes.c_int.in_dll(ctypes.CDLL(None), "allowed_threads")
x, expected = np.ones(1 << 20, np.float32), int(sys.argv[1])
def right():
    return zlib.crc32(fd.dropout(x, 0.3, rng=fd.Key(1))) == expected
fd.set_num_threads(6)
for number in range(5):
    allowed.value = number
    print(all(right() for _ in range(3)), comes(helpers, 0))
allowed.value = 5
print(right(), comes(helpers, 5))
fd.set_num_threads(9)
allowed.value = 3
print(right(), right(), comes(helpers, 5))  # those it had stay
allowed.value = 100
print(right(), comes(helpers, 8))
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_refused_threads_change_no_bit(tmp_path: Path) -> None:
    """Each of five in turn; and once the system grants them, they are used."""
    source, library = tmp_path / "refusing.c", tmp_path / "refusing.so"
    source.write_text(REFUSING)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    output = run(REFUSED, digest(), LD_PRELOAD=str(library))
    assert set(output.split()) == {"True"}, output


STACKS = """
key, square = fd.Key(1), np.ones((512, 512))
def digests():
    found = []
    for dtype in (np.float16, np.float32, np.float64, np.complex64, np.complex128):
        x = square.astype(dtype)
        for y in (x, x.T, x[:, ::2], x[:9, :7], x[:9, :7].T):
            found.append(fd.dropout(y, 0.3, rng=key))
            found.append(fd.dropout(y, 0.3, rng=key, broadcast_dims=0))
            found.append(fd.dropout(y, 0.3, mask=np.ones(y.shape, np.bool_)))
            found.append(fd.dropout_add(y, y, 0.3, rng=key))
            if x.dtype.kind == "f":
                found.append(fd.gaussian_dropout(y, 0.3, rng=key))
                found.append(fd.gelu_dropout(y, 0.3, rng=key))
                found.append(fd.relu_dropout_backward(y, y, 0.3, rng=key))
        y = np.concatenate([x.ravel(), x.ravel()])
        found.append(fd.dropout(y[:-1], 0.3, rng=key, out=y[1:]))  # by way of a copy
    mask = fd.Mask((512, 512), 0.3, key)
    found += [mask.to_numpy(), mask.packbits(), np.array(mask.count())]
    return [zlib.crc32(np.ascontiguousarray(y)) for y in found]
fd.set_num_threads(3)
expected = digests()
def work():
    print(digests() == expected)
for size in (32, 36, 40, 48, 64, 96, 128):
    threading.stack_size(size << 10)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def test_a_small_stack_of_the_caller_changes_no_bit() -> None:
    """From 32 KiB on, the smallest that Python allows."""
    output = run(STACKS)
    assert output.split() == ["True"] * 7, output


AFFINITY = """
x, cpus = np.ones(1 << 22, np.float32), sorted(os.sched_getaffinity(0))
def places():  # the CPUs of this thread, and those of all helpers
    found = [os.sched_getaffinity(0)]
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as file:
            if file.read().startswith("fastdrop-"):
                found.append(os.sched_getaffinity(int(task)))
    return found
def follow():  # a helper may miss a call, but not all
    def same():
        fd.dropout(x, 0.3, rng=fd.Key(1))
        found = places()
        return len(found) == 4 and all(place == found[0] for place in found)
    return comes(same, True)
fd.set_num_threads(4)
print(follow())
for allowed in [{cpus[0]}, {cpus[-1]}, set(cpus), {cpus[-1]}, {cpus[0]}]:
    os.sched_setaffinity(0, allowed)
    print(follow(), os.sched_getaffinity(0) == allowed)
"""

START = "print(fd.get_num_threads() == len(os.sched_getaffinity(0)))"


def test_helpers_stay_on_the_cpus_of_the_call() -> None:
    """Also when those change after the helpers started."""
    output = run(AFFINITY)
    assert set(output.split()) == {"True"}, output


def test_at_first_there_are_as_many_threads_as_cpus_to_run_on() -> None:
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    narrow = f"import os\n{code}os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    for program in (START, narrow):
        output = run(program, "import os, fastdrop as fd\n" + START, FASTDROP_NUM_THREADS="")
        assert output == "True\n"


SETTINGS = """
x, tries, most, peak = np.ones(1 << 20, np.float32), int(sys.argv[1]), 24, 0
def change(seed):
    global peak
    rng = random.Random(seed)
    for _ in range(tries):
        n = rng.randint(1, most)
        if rng.random() < 0.3:
            with fd.threads(n):
                fd.dropout(x, 0.3, rng=fd.Key(1))
        else:
            fd.set_num_threads(n)
            fd.dropout(x, 0.3, rng=fd.Key(1))
        if rng.random() < 0.1:
            try:
                fd.set_num_threads(0)
            except ValueError:
                pass
        peak = max(peak, helpers())
change(0)
alone = peak
threads = [threading.Thread(target=change, args=(seed,)) for seed in range(1, 5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
fd.set_num_threads(7)
fd.dropout(x, 0.3, rng=fd.Key(1))
print(alone, peak, comes(helpers, 6))
"""


def test_the_number_of_threads_stays_bounded() -> None:
    """Over any settings, in one thread and in five: a few pools that are about to end, not all.

    A pool kept for every setting would have some 270 threads, and one for every call thousands.
    """
    alone, together, ended = run(SETTINGS, tries(60, 2000), FASTDROP_NUM_THREADS="4").split()
    print(alone, together)
    assert int(alone) <= 8 * 23
    assert int(together) <= 8 * 23
    assert ended == "True"


# --- The end of the interpreter ------------------------------------------------------------------

# Each child starts three daemon threads in one call, and its main thread ends soon after.
DAEMONS = """
from entries import ENTRIES, attempt
fd.set_num_threads(3)
def end_soon(call, wait):
    def loop():
        while True:
            attempt(call)
    for _ in range(3):
        threading.Thread(target=loop, daemon=True).start()
    time.sleep(wait)
    sys.exit()  # of the interpreter, not of the process at once
for call in ENTRIES.values():
    attempt(call)
gc.collect()
gc.freeze()  # most of a child's time would go into collecting what it shares with its parent
for name, call in ENTRIES.items():
    for n in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            signal.alarm(100)
            end_soon(call, 0.02 * random.Random(name + str(n)).random())
        code = ended(pid)
        if code:
            print(name, code)
print(len(ENTRIES))
"""


def test_daemon_threads_in_any_entry_point_do_not_abort_the_end() -> None:
    output = run(DAEMONS, tries(1, 200))
    names: Any = output.split("\n")[:-2]
    assert not names, output


# --- All at once ---------------------------------------------------------------------------------


def test_the_soak_compares_calls_of_all_kinds() -> None:
    """The program works, for some seconds here; it is there to run for hours (`make soak`)."""
    program = Path(__file__).parent / "soak.py"
    done = subprocess.run(
        [sys.executable, program, "--minutes", "0.1"],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = ["elements", "family", "fused", "layers", "noise", "regions"]
    assert all(f"'{kind}'" in done.stdout for kind in kinds), done.stdout
