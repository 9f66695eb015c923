"""The process around a call: threads, forks, signals, the environment, and memory that ends."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop import _core
from support import KEY, LEVELS, MANY, as_key, assert_same, running_on

TIMEOUT = 60  # seconds after which a child counts as hung


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


# --- Threads -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_is_kept(count: int) -> None:
    with running_on(threads=count):
        assert fd.get_num_threads() == count


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_a_senseless_number_of_threads_is_refused(count: Any, error: type[Exception]) -> None:
    before = fd.get_num_threads()
    with pytest.raises(error):
        fd.set_num_threads(count)
    assert fd.get_num_threads() == before


@pytest.mark.parametrize("count", [256, 10**6, 2**62, sys.maxsize, 2**64 - 1, 10**30])
@pytest.mark.parametrize("how", ["function", "variable"])
def test_a_call_needs_memory_for_the_threads_that_run_not_for_the_setting(
    count: int, how: str
) -> None:
    """The calls have some 20 units of work; 256 threads would need 48 MiB, and others overflow."""
    code = (
        "import re, resource, fastdrop as fd, numpy as np\n"
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
    done = run(code, **variable)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


# --- Fork ----------------------------------------------------------------------------------------


def fingerprint(size: int) -> tuple[int, bytes]:
    mask = fd.Mask((size,), 0.3, as_key(KEY))
    y = fd.dropout(np.ones(size, np.float32), 0.3, rng=as_key(KEY))
    return mask.count(), np.packbits(y != 0, bitorder="little").tobytes()


def send_fingerprint(pipe: Any, size: int, threads: int | None) -> None:
    if threads is not None:
        fd.set_num_threads(threads)
    pipe.send(fingerprint(size))
    pipe.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("child_threads", [None, 1, 2, 5])
def test_a_forked_child_has_a_pool_of_its_own(child_threads: int | None) -> None:
    """Would catch a child that waits for threads which only its parent has."""
    fork = multiprocessing.get_context("fork")
    with running_on(threads=3):
        expected = fingerprint(MANY)  # the pool exists now
        for _ in range(3):
            receiver, sender = fork.Pipe(duplex=False)
            child = fork.Process(target=send_fingerprint, args=(sender, MANY, child_threads))
            child.start()
            try:
                assert receiver.poll(TIMEOUT), "the child hangs"
                assert receiver.recv() == expected
                child.join(TIMEOUT)
                assert child.exitcode == 0
            finally:
                child.kill()
                child.join()
        assert fingerprint(MANY) == expected, "the parent's pool broke"


COUNT_THREADS = (
    "import re, numpy\n"
    "def threads():\n"
    "    return int(re.search(r'Threads:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    "before = threads()\n"  # NumPy has some of its own
    "import fastdrop as fd\n"
    "fd.set_num_threads(6)\n"
    "for size in range(2, 9):\n    fd.Mask(size << 18, 0.5, fd.Key(0)).count()\n"
    "print(threads() - before)"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts")
def test_calls_of_all_sizes_share_one_pool() -> None:
    assert run(COUNT_THREADS).stdout == "5\n"


MANY_SETTINGS = COUNT_THREADS.rsplit("fd.set_num_threads(6)", 1)[0] + (
    "import time\n"
    "for n in range(2, 102):\n"
    "    fd.set_num_threads(n)\n    fd.Mask(2**22, 0.5, fd.Key(0)).count()\n"
    "fd.set_num_threads(3)\nfd.Mask(2**22, 0.5, fd.Key(0)).count()\n"
    "deadline = time.monotonic() + 20\n"
    "while threads() - before > 2 and time.monotonic() < deadline:\n    time.sleep(0.01)\n"
    "print(threads() - before)"
)


@pytest.mark.once
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts")
def test_threads_of_former_settings_end() -> None:
    """A pool kept for every setting had left 4,952 threads after these hundred."""
    assert run(MANY_SETTINGS).stdout == "2\n"


# --- The end of the interpreter ------------------------------------------------------------------

# The main thread ends while three daemon threads are in this call.
ENDLESS = """
import threading, time
import numpy as np, fastdrop as fd
x, many = np.ones(64, np.float32), np.ones(1 << 16, np.float32)
key, drop = fd.Key(0), fd.Dropout(0.3)
mask = fd.Mask((64,), 0.3, key)
def loop():
    while True:
        try:
            {call}
        except (TypeError, ValueError):
            pass
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.05)
"""

ENTRY_POINTS = [
    "fd.dropout(x, 0.3)",
    "fd.dropout(many, 0.3, rng=key)",
    "fd.dropout([1.0] * 64, 0.3, rng=key)",
    "fd.dropout(x, 0.3, rng=0, out=np.empty_like(x))",
    "fd.dropout(many[:-1], 0.3, rng=key, out=many[1:])",
    "drop(x); drop.backward(x)",
    "fd.Key(0)",
    "fd.Key()",
    "key.split(3)[0].fold_in(np.int64(4))",
    "fd.Mask([64], np.float32(0.3), key).region([np.int64(3)], [5]).to_numpy()",
    "mask.apply([1.0] * 64)",
    "mask.count(); mask.packbits()",
    "mask.apply(np.arange(64))",
    "fd.bernoulli(1 << 16, 0.3, packed=True); fd.concrete_dropout(many, 0.0, rng=key)",
    "fd.dropout(x, 2.0, rng='seed')",
    "fd.dropout_add(x, x, 0.3, rng=key); fd.gelu_dropout(many, 0.3, rng=key)",
    "fd.gaussian_dropout(x, 0.3, rng=key)",
    "fd.drop_block2d(np.ones((2, 3, 8, 8), np.float32), 0.3, 3, rng=key)",
]


@pytest.mark.once
@pytest.mark.parametrize("call", ENTRY_POINTS)
def test_the_interpreter_ends_cleanly_under_daemon_threads(call: str) -> None:
    """Five tries. A thread stopped in Python code called from Rust used to abort the process."""
    for _ in range(5):
        done = run(ENDLESS.format(call=call))
        assert (done.returncode, done.stderr) == (0, "")


# --- Ctrl-C --------------------------------------------------------------------------------------

# What a promise of 0.2 s may take on a machine that is busy with something else.
PATIENCE = 1.5

LONG_CALLS = {
    "count": "fd.Mask((2**50,), 0.3, fd.Key(0)).count()",
    "to_numpy": "fd.Mask((2**30,), 0.3, fd.Key(0)).to_numpy()",
    "dropout": "fd.dropout(np.broadcast_to(np.float16(1), (2**30,)), 0.3, rng=0)",
    "rows": "fd.dropout(np.broadcast_to(np.float16(1), (2**29, 2)), 0.3, rng=0)",
}


@pytest.mark.skipif(os.name == "nt", reason="this system has no SIGINT for one child")
@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("call", LONG_CALLS.values(), ids=LONG_CALLS)
def test_ctrl_c_interrupts_a_long_call(call: str, threads: str) -> None:
    code = (
        "import signal, time, numpy as np, fastdrop as fd\n"
        # A shell starts its background jobs deaf to SIGINT, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('ready', flush=True)\n"
        f"try:\n    {call}\n"
        "except KeyboardInterrupt:\n    print(time.monotonic(), flush=True)\n"
        "print(fd.Mask(10**6, 0.5, fd.Key(0)).count())"  # the pool still works
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTDROP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=TIMEOUT)
    finally:
        child.kill()
        child.wait()
    lines = output.split()
    assert len(lines) == 2, "the call ended by itself, or KeyboardInterrupt was lost"
    assert float(lines[0]) - sent < PATIENCE
    assert int(lines[1]) == np.count_nonzero(ref.kept(ref.key_from_seed(0), 0.5, range(10**6)))


# --- Environment ---------------------------------------------------------------------------------

PRINT_CONFIG = (
    "import fastdrop as fd; from fastdrop import _core; print(_core.simd(), fd.get_num_threads())"
)


@pytest.mark.parametrize("name", LEVELS)
def test_environment_variables_set_level_and_threads(name: str) -> None:
    done = run(PRINT_CONFIG, FASTDROP_SIMD=name, FASTDROP_NUM_THREADS="3")
    assert (done.returncode, done.stdout) == (0, f"{name} 3\n"), done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FASTDROP_SIMD", "mmx"), ("FASTDROP_SIMD", "AVX 2"), ("FASTDROP_NUM_THREADS", "0"),
     ("FASTDROP_NUM_THREADS", "many"), ("FASTDROP_NUM_THREADS", "-2"),
     ("FASTDROP_NUM_THREADS", "2.5"), ("FASTDROP_NUM_THREADS", os.fsdecode(b"2\xff")),
     ("FASTDROP_SIMD", os.fsdecode(b"avx2\xff"))],
    ids=ascii,
)  # fmt: skip
def test_a_wrong_variable_is_an_exception_that_names_it(variable: str, value: str) -> None:
    code = "import fastdrop as fd; fd.dropout([1.0] * 10**6, 0.5)"
    done = run(code, **{"FASTDROP_SIMD": LEVELS[0], variable: value})
    assert done.returncode == 1, "no Python exception"
    last_line = done.stderr.strip().splitlines()[-1]
    assert variable in last_line
    assert value.encode("ascii", "ignore").decode() in last_line
    assert "panic" not in done.stderr.lower()


@pytest.mark.parametrize("name", ["mmx", "", "AVX2", "sse2"])
def test_an_unknown_simd_level_is_refused(name: str) -> None:
    before = _core.simd()
    with pytest.raises(ValueError, match="SIMD"):
        _core.set_simd(name)
    assert _core.simd() == before


def test_show_config_shows_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with running_on(LEVELS[0], 2):
        config = fd.show_config(mode="dicts")
        assert config["simd"] == LEVELS[0]
        assert config["threads"] == 2
        assert config["stream"] == 2
        assert list(config["simd_available"]) == list(_core.simd_levels())
        assert config["version"] == fd.__version__
        fd.show_config()
    shown = capsys.readouterr().out
    assert fd.__version__ in shown
    assert LEVELS[0] in shown


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdrop"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert fd.__version__ in done.stdout


# --- Memory --------------------------------------------------------------------------------------


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


def test_a_long_split_is_a_memory_error_at_once() -> None:
    """The list is refused at once, not after it has grown until nothing is left."""
    with pytest.raises(MemoryError):
        fd.Key(0).split(2**50)


# A child whose address space may grow by a few pages more each time draws with four threads.
LITTLE_MEMORY = """
import os, re, resource, warnings
warnings.simplefilter("ignore")  # of forks: these children have what they need
import numpy as np, fastdrop as fd
fd.set_num_threads(4)
x = np.ones((1 << 10, 1 << 10), np.float32)
out, key = np.ones_like(x), fd.Key(1)
def size():
    return int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
ends = set()
for margin in range(0, 6 << 20, 1 << 17):
    pid = os.fork()
    if pid == 0:
        limit = size() + margin
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            fd.dropout(x, 0.3, rng=key, out=out)
            fd.dropout(x.T, 0.3, rng=key, out=out)
            os._exit(0)
        except MemoryError:
            os._exit(3)
    ends.add(os.waitpid(pid, 0)[1])
print(sorted(ends))
"""


@pytest.mark.once
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts")
def test_too_little_memory_for_threads_is_a_memory_error() -> None:
    """Some of these children aborted: an allocation failed in a thread that had just started."""
    done = run(LITTLE_MEMORY)
    assert done.stdout == f"[0, {3 << 8}]\n", done.stderr


@pytest.mark.parametrize("endless", [itertools.repeat(1), itertools.count(), range(10**9)])
def test_an_endless_shape_is_refused(endless: Any) -> None:
    """Once it was read until memory ended, and the process with it."""
    with pytest.raises(ValueError, match="shape must have at most 64 axes"):
        fd.Mask(endless, 0.5, as_key(KEY))
    with pytest.raises(ValueError, match="start must have at most 64 axes"):
        fd.Mask((2,), 0.5, as_key(KEY)).region(endless, 1)
