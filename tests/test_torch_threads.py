"""Forks, threads and small stacks in calls on tensors, by OpenMP's threads. Needs PyTorch.

See `docs/reliability.md`. Children run no operator of torch that uses threads: it would wait for
those of the parent.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import run, tries

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own accounts"),
]

CALLS = """
import torch, fastdrop.torch
from fastdrop.torch import functional as F
torch.set_num_threads(1)  # so that what is made here needs no threads
key, n, mine = fd.Key(1), 1 << 20, np.ones(1 << 20, np.float32)
x, gradient = torch.ones(n), torch.ones(n)
leaf = torch.ones(n, requires_grad=True)
def forward():
    return F.dropout(x, 0.3, key=key)
@torch.enable_grad()  # also in a handler inside a recorded call
def backward():
    return torch.autograd.grad(F.dropout(leaf, 0.3, key=key), leaf, gradient)[0]
def digest(call=forward):
    return zlib.crc32(call().detach().numpy())
expected = digest()
assert expected == zlib.crc32(fd.dropout(mine, 0.3, rng=key)) == digest(backward)
torch.set_num_threads(3)
fd.set_num_threads(3)
def check():
    wrong = digest() != expected or digest(backward) != expected
    return wrong or zlib.crc32(fd.dropout(mine, 0.3, rng=key)) != expected
def nested(depth):
    return check() or (depth and ended(fork(lambda: nested(depth - 1))))
tries = int(sys.argv[1])
"""

IN_HANDLERS = """
long = torch.ones(1 << 23)
drop = torch.nn.Dropout(0.3)
fastdrop.torch.install()
installed = lambda: drop(long)
compiled = torch.compile(lambda: F.dropout(long, 0.3, key=key), backend="aot_eager")
many = np.ones(1 << 24, np.float32)
grown = torch.ones(1 << 23, requires_grad=True)
RUNS = {
    "forward": lambda: F.dropout(long, 0.3, key=key),
    "backward": lambda: torch.autograd.grad(F.dropout(grown, 0.3, key=key), grown, long),
    "installed": installed,
    "compiled": compiled,
    "NumPy": lambda: fd.dropout(many, 0.3, rng=key),
}
children = []
def handler(*_):
    children.append(fork(check) if INSIDE else os.fork())
    if children[-1] == 0:
        signal.alarm(100)  # and goes on with the call
    if check():
        print("wrong in the handler")
signal.signal(signal.SIGALRM, handler)
parent = os.getpid()
for name, call in RUNS.items():
    took = 1e9
    for _ in range(3):
        start = time.monotonic()
        call()
        took = min(took, time.monotonic() - start)
    for part in range(1, 1 + tries):
        signal.setitimer(signal.ITIMER_REAL, took * part / (1 + tries))
        call()
        while not children:
            time.sleep(0.001)
        if children[-1] == 0:
            os._exit(check() or nested(1))
        if code := ended(children.pop()):
            print(name, code)
print(check())
"""

FORKS = {
    "after a call": "print({ended(fork(check)) for _ in range(tries)}, check())",
    "by grandchildren": "print({ended(fork(lambda: nested(3))) for _ in range(tries)}, check())",
    "during calls": """
stop = threading.Event()
def loop():
    while not stop.is_set():
        forward()
threads = [threading.Thread(target=loop) for _ in range(2)]
for thread in threads:
    thread.start()
print({ended(fork(check)) for _ in range(4 * tries)})
stop.set()
for thread in threads:
    thread.join()
print(check())
""",
    "in a handler": f"INSIDE = False{IN_HANDLERS}",
    "in a handler, where the child ends": f"INSIDE = True{IN_HANDLERS}",
}


@pytest.mark.parametrize("when", FORKS)
def test_a_fork_keeps_bits(when: str) -> None:
    output = run(f"{CALLS}assert check() == 0\n{FORKS[when]}", tries(2, 30))
    assert set(output.split()) <= {"0", "{0}", "{False}", "False"}, output


def _preloaded(code: str, folder: Path) -> str:
    """Return a library of this C code."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    source, library = folder / "preloaded.c", folder / "preloaded.so"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def test_a_fork_whose_child_has_the_id_of_its_parent_keeps_bits(tmp_path: Path) -> None:
    """As two processes that are the first of their namespaces: both have id 1."""
    library = _preloaded("int getpid(void) { return 1; }", tmp_path)
    output = run(f"{CALLS}print(check(), ended(fork(lambda: nested(2))))", 1, LD_PRELOAD=library)
    assert output == "False 0\n"


# --- Threads -------------------------------------------------------------------------------------

TEAMS = """
tensors = [torch.ones(n) for n in (1 << 10, 1 << 19, 1 << 20, 3 << 19)]
torch.set_num_threads(7)
def threads():
    return set(os.listdir("/proc/self/task"))
for used in (7, 5, 2):
    fd.set_num_threads(used)
    (tensors[-1] + 1, F.dropout(tensors[-1], 0.3, key=key))
    before = threads()
    for _ in range(5):
        for y in tensors:
            F.dropout(y, 0.3, key=key)
            tensors[-1] + 1
    print(threads() == before)
"""


def test_torch_keeps_its_threads_whatever_calls_use() -> None:
    """GCC's runtime ends those that a smaller team leaves over."""
    output = run(CALLS + TEAMS, 1)
    assert set(output.split()) == {"True"}, output


# Counts live threads, as the limits of systems do.
LIMITED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
int allowed_threads = 1 << 30;
typedef void *start(void *);
struct begun { start *run; void *data; };
static void over(void *unused) { __atomic_add_fetch(&allowed_threads, 1, __ATOMIC_SEQ_CST); }
static void *begin(void *data) {
    struct begun begun = *(struct begun *)data;
    void *result;
    free(data);
    pthread_cleanup_push(over, NULL);
    result = begun.run(begun.data);
    pthread_cleanup_pop(1);
    return result;
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, start *run, void *data) {
    static int (*real)(pthread_t *, const pthread_attr_t *, start *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_create");
    struct begun *begun = malloc(sizeof *begun);
    *begun = (struct begun){run, data};
    if (__atomic_sub_fetch(&allowed_threads, 1, __ATOMIC_SEQ_CST) < 0) {
        over(NULL);
        return EAGAIN;
    }
    return real(thread, attr, begin, begun);
}
"""

REFUSED = """
import ctypes
allowed = ctypes.c_int.in_dll(ctypes.CDLL(None), "allowed_threads")
torch.set_num_threads(6)
fd.set_num_threads(6)
def others():
    return len(os.listdir("/proc/self/task")) - before
before, own = len(os.listdir("/proc/self/task")), helpers()
for number in range(5):
    allowed.value = number
    print(all(digest() == expected for _ in range(3)), comes(others, 0))
allowed.value = 5
print(digest() == expected, others() == 5, helpers() == own, bool((x + 1).sum() == 2 * n))
def loop():  # a thread of Python has a team of its own
    print(digest() == expected)
allowed.value = 3
thread = threading.Thread(target=loop)
thread.start()
thread.join()
torch.set_num_threads(9)
print(digest() == expected)
"""


def test_refused_threads_change_no_bit(tmp_path: Path) -> None:
    """OpenMP's runtimes end the process, so their threads must not be the ones refused."""
    output = run(CALLS + REFUSED, 1, LD_PRELOAD=_preloaded(LIMITED, tmp_path))
    assert set(output.split()) == {"True"}, output


# --- Stacks --------------------------------------------------------------------------------------

STACKS = """
square = np.ones((512, 2048))
key = fd.Key(1)
def calls(x):
    y = x.detach().clone().requires_grad_()
    mask = fd.Mask(x.shape, 0.3, key)
    for name in ("dropout", "alpha_dropout", "feature_dropout", "drop_path", "relu_dropout"):
        z = getattr(F, name)(y, 0.3, key=key)
        yield z, torch.autograd.grad(z, y, x)[0]
    for approximate in ("none", "tanh"):
        z = F.gelu_dropout(y, 0.3, approximate=approximate, key=key)
        yield z, torch.autograd.grad(z, y, x)[0]
    yield F.dropout_add(x, y, 0.3, key=key), F.dropout(x, mask=mask)
    yield F.dropout(x.t(), 0.3, key=key), F.dropout(x[:, ::2], 0.3, key=key)
    yield F.bias_dropout_add(x, x[0], x, 0.3, key=key), F.locked_dropout(x[None], 0.3, key=key)
def digests():
    found = []
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = torch.from_numpy(square).to(dtype)
        for pair in calls(x):
            found += [zlib.crc32(z.detach().contiguous().view(torch.uint8).numpy()) for z in pair]
    return found
"""

MEMBERS = """
torch.set_num_threads(1)
expected = digests()
torch.set_num_threads(4)
fd.set_num_threads(4)
print(digests() == expected, digests() == expected, len(expected))
"""


@pytest.mark.parametrize("size", ["16k", "24k", "40k"])
def test_small_stacks_of_openmp_change_no_bit(size: str) -> None:
    output = run(CALLS + STACKS + MEMBERS, 1, OMP_STACKSIZE=size)
    assert output.split()[:2] == ["True", "True"], output


CALLERS = """
fd.set_num_threads(3)
torch.set_num_threads(3)
expected = digests()
def work():
    print(digests() == expected)
for size in (40, 64, 96, 128):
    threading.stack_size(size << 10)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def test_small_stacks_of_callers_change_no_bit() -> None:
    output = run(CALLS + STACKS + CALLERS, 1)
    assert output.split() == ["True"] * 4, output
