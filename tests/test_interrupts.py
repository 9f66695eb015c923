"""Ctrl-C, signal handlers, and arrays that change under a call: see `docs/reliability.md`."""

from __future__ import annotations

import sys

import pytest
from faults import run, tries

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts"),
]

# --- Ctrl-C --------------------------------------------------------------------------------------

# `out` has all its memory, and says at the end how far a call came.
INTERRUPTED = """
N = 1 << int(sys.argv[1])
key = fd.Key(1)
def full(value=1.0, n=N):
    array = np.empty(n, np.float32)
    array.fill(value)
    return array
x, out = full(), full(-7.0)
square, maps = (1 << 13, -1), (16, -1, 64, 64)
given = np.broadcast_to(np.arange(1 << 10) % 3 != 0, (N >> 10, 1 << 10))
both = full(1.0, N + 1) if NAME == "overlapping" else None
CALLS = {
    "plain": lambda: fd.dropout(x, 0.3, rng=key, out=out),
    "transposed": lambda: fd.dropout(
        x.reshape(square).T, 0.3, rng=key, out=out.reshape(square[::-1])),
    "transposed mask": lambda: fd.dropout(
        x.reshape(square).T, 0.3, rng=key, out=out.reshape(square).T),
    "gelu": lambda: fd.gelu_dropout(x, 0.3, rng=key, out=out),
    "gaussian": lambda: fd.gaussian_dropout(x, 0.3, rng=key, out=out),
    "blocks": lambda: fd.drop_block2d(x.reshape(maps), 0.3, 7, rng=key, out=out.reshape(maps)),
    "fused": lambda: fd.bias_dropout_add(
        x.reshape(square), x[: N >> 13], x.reshape(square), 0.3, rng=key, out=out.reshape(square)),
    "given": lambda: fd.dropout(
        x.reshape(given.shape), 0.3, mask=given, out=out.reshape(given.shape)),
    "shared": lambda: fd.dropout(
        x.reshape(square), 0.3, rng=key, broadcast_dims=0, out=out.reshape(square)),
    "overlapping": lambda: fd.dropout(both[:-1], 0.3, rng=key, out=both[1:]),
}
call, written = CALLS[NAME], both if NAME == "overlapping" else out
took = 1e9
for _ in range(3):
    written.fill(-7.0)
    start = time.monotonic()
    call()
    took = min(took, time.monotonic() - start)
right, late, tries = zlib.crc32(written), [], int(sys.argv[2])
for n in range(tries):
    written.fill(-7.0)
    sent, done = [], False
    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(took * 0.4 * random.Random(n).random(), send)
    try:
        timer.start()
        call()
        done = True  # before the signal, if this call was much faster than those above
        timer.join()
        time.sleep(1.0)
        print("lost")
    except KeyboardInterrupt:
        if not done:
            late.append(time.monotonic() - sent[0])
            if written[-1] != -7.0:
                print("the call went on to its end")
    timer.join()
if len(late) < tries / 2:
    print("hardly ever interrupted")
written.fill(-7.0)
call()
if zlib.crc32(written) != right:
    print("other bits")
print(took, max(late))
"""

KINDS = [
    "plain", "transposed", "transposed mask", "gelu", "gaussian", "blocks", "fused", "given",
    "shared", "overlapping",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_stops_a_call_on_gigabytes(kind: str) -> None:
    """In 0.2 s; where the machine is so busy that a call takes seconds, in an eighth of them."""
    size = 28 if tries(0, 200) else 26
    code = f"NAME = {kind!r}\n{INTERRUPTED}"
    output = run(code, size, tries(3, 30), FASTDROP_NUM_THREADS="2")
    took, latest = map(float, output.split())
    print(f"{kind}: {latest:.3f} s, of {took:.2f} s")
    # The copy of an input that overlaps the output takes memory that the system has yet to provide.
    assert latest < max(0.2, took / 8) * (2 if kind == "overlapping" else 1)


# Calls that nobody would wait for: masks themselves, which take no array, and attention.
ENDLESS = """
x = np.broadcast_to(np.float32(1), (1, 32, 2**15, 64))
calls = {
    "attention": lambda: fd.scaled_dot_product_attention(x, x, x),
    "gradients of attention": lambda: fd.scaled_dot_product_attention_backward(
        x, x, x, x, x, x[..., 0], rng=fd.Key(0)
    ),
    "count": fd.Mask((2**50,), 0.3, fd.Key(0)).count,
    "to_numpy": fd.Mask((2**30,), 0.3, fd.Key(0)).to_numpy,
}
sent = []
def send():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
small = fd.Mask(10**6, 0.5, fd.Key(0))
expected, timer = small.count(), threading.Timer(0.1, send)
timer.start()
try:
    calls[NAME]()
    print("the call ended by itself")
except KeyboardInterrupt:
    print(time.monotonic() - sent[0] < 1.5, small.count() == expected)
timer.join()
"""


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("name", ["count", "to_numpy", "attention", "gradients of attention"])
def test_ctrl_c_stops_what_nobody_would_wait_for(name: str, threads: str) -> None:
    """In 0.2 s, and in 1.5 s on a machine that is busy with something else; the pool goes on."""
    output = run(f"NAME = {name!r}\n{ENDLESS}", FASTDROP_NUM_THREADS=threads)
    assert output == "True True\n"


# A signal arrives in the middle of a large call of a layer, again and again.
HANDLERS = """
x = np.ones(1 << 26, np.float32)
small, middle = np.ones(100, np.float32), np.ones(1 << 20, np.float32)
fd.set_num_threads(3)
def digests():
    return [zlib.crc32(fd.dropout(array, 0.3, rng=fd.Key(1))) for array in (small, middle)]
class Stop(Exception):
    pass
armed, seen, expected, out = False, [], digests(), np.ones_like(x)
def expected_call(number):
    return zlib.crc32(fd.dropout(x, 0.5, rng=fd.Key(2).fold_in(number), out=out))
def call(n):  # of the layer, with a signal on the way; the exception that came of it
    global armed
    seen.clear()
    timer = threading.Timer(0.001 * (n % 20), os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    caught = None
    try:
        armed = True
        drop(x)
    except Stop as stop:
        caught = stop
    armed = False
    while not seen:
        time.sleep(0.001)
    timer.join()
    return caught
"""

REENTERED = """
def handler(*_):
    fd.set_num_threads(2)
    seen.append(digests())
    fd.set_num_threads(3)
    seen.append(drop(small))  # a call of the layer that is being called
signal.signal(signal.SIGUSR1, handler)
drop = fd.Dropout(0.5, rng=fd.Key(2))
for n in range(int(sys.argv[1])):
    drop.key = fd.Key(2)
    caught = call(n)
    inner = [zlib.crc32(fd.dropout(small, 0.5, rng=fd.Key(2).fold_in(i))) for i in (0, 1)]
    print(caught is None, drop.calls == 2, seen[0] == expected, zlib.crc32(seen[1]) in inner)
drop.key = fd.Key(2)
signal.signal(signal.SIGUSR1, lambda *_: seen.append(None))
call(5)
print(zlib.crc32(drop(x)) == expected_call(1))
"""

RAISED = """
def handler(*_):
    seen.append(None)
    if armed:
        raise Stop
signal.signal(signal.SIGUSR1, handler)
drop, stopped = fd.Dropout(0.5, rng=fd.Key(2)), 0
for n in range(int(sys.argv[1])):
    before = drop.calls
    caught = call(n)
    stopped += isinstance(caught, Stop)
    print(drop.calls == before + (caught is None), digests() == expected)
number = drop.calls
print(zlib.crc32(drop(x)) == expected_call(number), stopped > 0)
"""


@pytest.mark.parametrize("code", [REENTERED, RAISED], ids=["calls", "raises"])
def test_a_handler_may_call_or_raise(code: str) -> None:
    """What it raises comes out, and the call does not count; the bits of all calls are right."""
    output = run(HANDLERS + code, tries(10, 200))
    assert set(output.split()) == {"True"}, output


# --- What happens to arrays under a call ----------------------------------------------------------

# `out` overlaps `x`, of which a call first makes a copy, and then frees the memory of the copy.
CHANGED = """
from multiprocessing import shared_memory
warnings.simplefilter("ignore", DeprecationWarning)  # of attributes that are set
n, key = 1 << 24, fd.Key(1)
def make(how):  # the arrays, and what changes them
    whole, residual, keep = np.ones(n + 2, np.float32), np.ones(n, np.float32), np.ones(n, bool)
    block = None
    if how == "pages":
        block = shared_memory.SharedMemory(create=True, size=4 * n + 8)
        block.unlink()
        whole = np.ndarray((n + 2,), np.float32, buffer=block.buf)
        whole[:] = 1.0
    x, out, state = whole[2:], whole[:-2], np.ones(1, np.float32).__reduce__()[2]
    keep[::3] = False
    change = {
        "shape": lambda: setattr(out, "shape", (2, n // 2)),
        "dtype": lambda: setattr(out, "dtype", np.complex128),
        "dtype of an input": lambda: setattr(residual, "dtype", np.float64),
        "dtype of the mask": lambda: setattr(keep, "dtype", np.float64),
        "resize x": lambda: whole.resize(1, refcheck=False),
        "resize an input": lambda: residual.resize(1, refcheck=False),
        "resize the mask": lambda: keep.resize(1, refcheck=False),
        "state": lambda: whole.__setstate__(state),
        "pages": lambda: block.close(),
    }[how]
    raw = whole[:-2].view() if "shape" in how or "dtype" in how else None
    return lambda: fd.dropout_add(x, residual, 0.5, mask=keep, out=out), change, raw
"""

CHANGED_IN_HANDLER = """
how, tries = sys.argv[1], int(sys.argv[2])
took, met = 1e9, 0
for _ in range(2):
    call = make("shape")[0]
    start = time.monotonic()
    right = zlib.crc32(call())
    took = min(took, time.monotonic() - start)
seen = []
for part in range(tries):
    call, change, raw = make(how)
    signal.signal(signal.SIGALRM, lambda *_: seen.append(change()))
    signal.setitimer(signal.ITIMER_REAL, took * (0.1 + 0.8 * part / tries))
    try:
        call()
        if raw is not None and zlib.crc32(raw) != right:
            print("other bits")
    except RuntimeError as error:
        met += "must keep their memory" in str(error)
    while not seen:
        time.sleep(0.001)
    seen.clear()
    del call, change, raw
freed = how == "state" or "resize" in how
print("ok" if bool(met) == freed else "not met")
"""


@pytest.mark.parametrize(
    "how",
    [
        *("shape", "dtype", "dtype of an input", "dtype of the mask", "pages"),
        *("state", "resize x", "resize an input", "resize the mask"),
    ],
)
def test_a_handler_may_change_the_arrays_of_a_call(how: str) -> None:
    """A call goes on with the shape and dtype that it found, and stops where memory is gone."""
    assert run(CHANGED + CHANGED_IN_HANDLER, how, tries(6, 30)) == "ok\n"


CHANGED_BY_THREAD = """
whole = np.ones(n + 2, np.float32)
x, out = whole[2:], whole[:-2]
raw = out.view()
expected = zlib.crc32(fd.dropout(np.ones(n, np.float32), 0.5, rng=key))
stop = threading.Event()
def change():
    while not stop.is_set():
        out.dtype = np.complex128
        time.sleep(0.003)
        out.dtype = np.float32
        time.sleep(0.003)
        out.shape = (2, n // 2)
        time.sleep(0.003)
        out.shape = (n,)
        time.sleep(0.003)
thread = threading.Thread(target=change)
thread.start()
for _ in range(int(sys.argv[1])):
    whole[:] = 1.0
    try:
        fd.dropout(x, 0.5, rng=key, out=out)
        print(zlib.crc32(raw) == expected)
    except (TypeError, ValueError):  # it came at the wrong time
        pass
stop.set()
thread.join()
"""


def test_a_thread_may_change_the_shape_and_dtype_of_an_array_during_a_call() -> None:
    assert set(run(CHANGED + CHANGED_BY_THREAD, tries(20, 400)).split()) == {"True"}
