"""Memory that is kept for large tensors. Needs PyTorch."""

from __future__ import annotations

import copy
import io
import itertools
import os
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from faults import run, tries

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastdrop.torch import _call, _memory, functional  # noqa: E402
from fastdrop.torch._memory import Storages  # noqa: E402

pytestmark = pytest.mark.once

MANY = 1 << 20
"""Elements of a float32 result whose memory is kept."""


def dropped() -> Any:
    """Return a large result."""
    return functional.dropout(torch.ones(MANY), 0.5)


def lend(storages: Storages, size: int) -> tuple[Any, bool]:
    return storages.lend(size, torch.uint8, (size,), (1,))


# --- A large result is a tensor like any other ----------------------------------------------------


def saved(y: Any) -> int:
    file = io.BytesIO()
    torch.save(y, file)
    return len(file.getvalue())


def written_into(y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have `out` empty
        return torch.add(torch.ones(2 * MANY), 1.0, out=y).sum().item(), y.shape


def freed_and_back(y: Any) -> Any:
    size = y.untyped_storage().nbytes()
    y.untyped_storage().resize_(0)
    y.untyped_storage().resize_(size)
    return y.fill_(3.0).sum().item()


def overwritten_in_graph(y: Any) -> Any:
    z = y.requires_grad_().exp()
    with torch.no_grad():
        z += 1.0
    z.sum().backward()


def marked(y: Any) -> bool:
    before = hasattr(y.untyped_storage(), "mark")
    y.untyped_storage().mark = True
    return before


def with_storage(method: str) -> Callable[[Any], Any]:
    return lambda y: getattr(y.untyped_storage(), method)()


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "version": lambda y: y._version,
    "version of a change": lambda y: y.add_(1.0)._version,
    "version of a view": lambda y: (y.view(2, -1).add_(1.0)._version, y._version),
    "kind": lambda y: (y._is_view(), y._base, y.is_leaf, y.requires_grad, y.grad_fn, type(y)),
    "inference": lambda y: y.is_inference(),
    "layout": lambda y: (y.shape, y.stride(), y.storage_offset(), y.is_contiguous()),
    "bytes": with_storage("nbytes"),
    "resizable": with_storage("resizable"),
    "shared": with_storage("is_shared"),
    "attributes": marked,
    "larger": lambda y: y.resize_(2 * MANY).shape,
    "smaller": lambda y: (y.resize_(3).shape, y.untyped_storage().nbytes()),
    "out of a larger shape": written_into,
    "storage freed and back": freed_and_back,
    "another storage": lambda y: y.set_(torch.zeros(5)).sum().item(),
    "data": lambda y: setattr(y, "data", torch.zeros(5)) or y.sum().item(),
    "shared memory": lambda y: y.share_memory_().is_shared(),
    "array": lambda y: y.numpy().ctypes.data == y.data_ptr(),
    "array, then larger": lambda y: y.numpy() is not None and y.resize_(2 * MANY).shape,
    "DLPack": lambda y: torch.from_dlpack(y).data_ptr() == y.data_ptr(),
    "clone on write": lambda y: torch.equal(torch._lazy_clone(y).add_(1.0), y + 1.0),
    "file": saved,
    "copy": lambda y: torch.equal(copy.deepcopy(y), y),
    "swapped": lambda y: torch.utils.swap_tensors(y, torch.zeros(5)) or y.shape,
    "graph": lambda y: torch.autograd.grad((y.requires_grad_() ** 2).sum(), y)[0].max().item(),
    "overwritten in a graph": overwritten_in_graph,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_does_to_a_large_result_what_it_does_to_any_tensor(name: str) -> None:
    """Also where its memory was that of a result to which the same was done before."""

    def outcome(y: Any) -> Any:
        try:
            return OPERATIONS[name](y)
        except RuntimeError as error:
            return str(error)

    expected = outcome(dropped().clone())
    for _ in range(3):
        y = dropped()
        assert bool(((y == 0.0) | (y == 2.0)).all())
        assert outcome(y) == expected


@pytest.mark.parametrize("again", [False, True])
def test_large_results_are_inference_tensors_in_inference_mode_alone(again: bool) -> None:
    for inference in (again, not again, again):
        with torch.inference_mode(inference):
            assert dropped().is_inference() is inference


def graph_of_a_graph(y: Any) -> Any:
    w = torch.ones(MANY, requires_grad=True)
    return torch.autograd.grad((w * y).exp().sum(), w, create_graph=True)


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "view": lambda y: y[3:5],
    "detached": lambda y: y.detach(),
    "array": lambda y: y.numpy()[:2],
    "DLPack": lambda y: y.__dlpack__(),
    "storage": lambda y: y.untyped_storage(),
    "revived storage": lambda y: torch.UntypedStorage._new_with_weak_ptr(
        y.untyped_storage()._weak_ref()
    ),
    "weak reference": lambda y: weakref.ref(y.untyped_storage()),
    "clone on write": lambda y: torch._lazy_clone(y),
    "graph": lambda y: torch.ones(MANY, requires_grad=True) * y,
    "graph of a graph": graph_of_a_graph,
    "parameter": lambda y: torch.nn.Parameter(y),
    "cycle": lambda y: setattr(y, "itself", [y]) or y.itself,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_memory_of_a_result_is_lent_again_only_when_nothing_holds_it(name: str) -> None:
    y = dropped()
    address, expected = y.data_ptr(), y.clone()
    holder = HOLDERS[name](y)
    del y
    others = [dropped() for _ in range(4)]
    assert address not in [other.data_ptr() for other in others]
    if name == "array":
        assert holder.tolist() == expected[:2].tolist()
    del holder, others


def test_memory_of_a_result_is_lent_again() -> None:
    """At once, and most recent first: it may still be in the cache."""
    storages = Storages(1 << 20)
    first, new = lend(storages, 4096)
    assert new
    address = first.data_ptr()
    second, new = lend(storages, 4096)
    assert new
    del first
    first, new = lend(storages, 4096)
    assert not new
    assert first.data_ptr() == address
    address = second.data_ptr()
    del first, second
    for _ in range(3):
        y, new = lend(storages, 4096)
        assert not new
    assert y.data_ptr() == address or len(storages._spare) == 2
    assert lend(storages, 4095)[1]


def test_no_more_memory_is_kept_than_the_limit_in_use_or_not() -> None:
    storages = Storages(25_000)
    large, new = lend(storages, 25_001)
    assert new
    assert not storages._spare
    lent = [lend(storages, size)[0] for size in (8192, 10240, 12288)]
    assert [known.size for known in storages._spare] == [10240, 12288]
    del large, lent
    assert [lend(storages, size)[1] for size in (12288, 10240, 8192)] == [False, False, True]


def held_by(storages: Storages) -> int:
    return sum(known.size for known in storages._spare)


def test_a_handler_may_make_calls_inside_any_step() -> None:
    """A tracer stands for the handler: it runs before every 47th instruction of the methods.

    47 is prime, so that in the end it runs before each. It keeps one of its results.
    """
    most = 100_000
    storages = Storages(most)
    steps, kept = itertools.count(1), list[Any]()
    inside = False

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal inside
        if frame.f_code.co_filename != _memory.__file__ or inside:
            return None
        frame.f_trace_opcodes = True
        if next(steps) % 47 == 0:
            inside = True
            held = [lend(storages, 4096)[0] for _ in range(4)]
            kept.append(held[0])
            del held
            inside = False
        return trace

    sys.settrace(trace)
    try:
        for _ in range(200):
            lives = [lend(storages, 4096)[0] for _ in range(5)]
            addresses = [y.data_ptr() for y in (*lives, *kept)]
            assert len(set(addresses)) == len(addresses)
            del lives
            kept.clear()
    finally:
        sys.settrace(None)
    assert held_by(storages) <= most


def test_threads_that_meet_between_any_two_steps_do_not_share_memory() -> None:
    """A tracer lets others go on before instructions of the methods that it picks at random."""
    storages = Storages(5 * 4096)
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename != _memory.__file__:
                return None
            frame.f_trace_opcodes = True
            if rng.random() < 0.1:
                time.sleep(0)
            return trace

        sys.settrace(trace)
        try:
            for n in range(300):
                y, _ = lend(storages, 4096)
                y.fill_(seed)
                time.sleep(0)
                if not bool((y == seed).all()):
                    failures.append(f"call {n}")
                del y
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert held_by(storages) <= 5 * 4096


def test_a_forked_child_keeps_no_spare_memory() -> None:
    """It would keep pages that its parent writes, which the system then copies."""
    dropped()
    assert _call._blocks._spare
    child = os.fork()
    if child == 0:
        os._exit(len(_call._blocks._spare))
    assert os.waitpid(child, 0)[1] == 0


def test_where_torch_does_not_count_holders_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory, "_uses", None)
    storages = Storages(1 << 20)
    for _ in range(2):
        y, new = storages.lend(4096, torch.float32, (2, 512), (1, 2))
        assert new
        assert (y.shape, y.stride(), y.untyped_storage().nbytes()) == ((2, 512), (1, 2), 4096)
    assert not storages._spare


def test_results_that_live_do_not_share_memory() -> None:
    """Whichever is dropped first, and in whichever thread."""
    x = torch.ones(1 << 21)
    failures: list[str] = []

    def work(seed: int) -> None:
        kept = []
        for n in range(12):
            y = functional.dropout(x, 0.5, generator=torch.Generator().manual_seed(n))
            kept.append((y, y.clone()))
            if n % 3 == seed % 3:
                kept.pop(len(kept) // 2)
            failures.extend("shared" for y, copy in kept if not torch.equal(y, copy))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- What happens to the memory of a call ---------------------------------------------------------

TENSORS = """
import torch
from fastdrop.torch import functional as F
torch.set_num_threads(2)
n = 1 << 24
x = torch.nn.Parameter(torch.ones(n), requires_grad=False)
module, key = torch.nn.ParameterList([x]), fd.Key(1)
mask, residual = fd.Mask((n,), 0.5, key), torch.zeros(n)
CHANGES = {
    "data": lambda: setattr(x, "data", torch.empty(0)),
    "set_": lambda: x.set_(),
    "resize_": lambda: x.untyped_storage().resize_(0),
    "half": lambda: module.half(),
}
CALLS = {
    "drawn": lambda: F.dropout(x, 0.5, key=key),
    "mask": lambda: F.dropout(x, mask=mask),
    "fused": lambda: F.dropout_add(residual, x, 0.5, key=key),
    "in place": lambda: F.dropout(x, 0.5, inplace=True, key=key),
}
def again():
    x.data = torch.ones(n)
"""

IN_HANDLER = """
seen, met = [], []
def handler(*_):
    seen.append(x.numel())
    CHANGES[HOW]()
signal.signal(signal.SIGALRM, handler)
for name, call in CALLS.items():
    took = 1e9
    for _ in range(2):
        again()
        start = time.monotonic()
        y = call()
        took = min(took, time.monotonic() - start)
    expected = y.clone()
    for part in range(1, 1 + int(sys.argv[1])):
        again()
        signal.setitimer(signal.ITIMER_REAL, took * (0.2 + 0.5 * part / int(sys.argv[1])))
        try:
            y = call()
        except (BufferError, TypeError, ValueError):
            y = None
        while not seen:
            time.sleep(0.001)
        if seen.pop() != n:
            print(name, "late")
        # On a busy machine the handler may come before the core has looked at the tensor.
        if y is None or (y.shape, y.dtype) != (expected.shape, expected.dtype):
            continue
        met.append(name)
        # In place, it is the memory of the result that the handler took.
        if name != "in place" and not torch.equal(y, expected):
            print(name, "wrong")
if not met:
    print("no handler came inside a call")
"""


@pytest.mark.parametrize("how", ["data", "set_", "resize_", "half"])
def test_a_handler_may_take_the_memory_of_a_tensor_in_any_call(how: str) -> None:
    assert run(f"HOW = {how!r}{TENSORS}{IN_HANDLER}", tries(3, 30)) == ""


IN_THREAD = """
stop = threading.Event()
def swap():
    while not stop.is_set():
        again()
        time.sleep(0.005)  # in which nothing lies where the former memory was
thread = threading.Thread(target=swap)
thread.start()
for _ in range(int(sys.argv[1])):
    y = F.dropout(x, 0.5, key=key)
    if not bool(((y == 0) | (y == 2)).all()):
        print("wrong")
stop.set()
thread.join()
"""


def test_another_thread_may_replace_the_memory_of_a_tensor_in_any_call() -> None:
    assert run(TENSORS + IN_THREAD, tries(12, 600)) == ""


CTRL_C = """
def handler(*_):
    seen.append(float(x[-1]))
seen = []
x.data = torch.ones(1 << 26)
F.dropout(x, 0.5, inplace=True, key=key)
last, memory = float(x[-1]), x.numpy()
def send():  # as soon as the call has written
    while memory[0] == 1.0:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    early.append(memory[len(memory) // 2] == 1.0)
for default in (True, False):
    signal.signal(signal.SIGINT, signal.default_int_handler if default else handler)
    wanted = int(sys.argv[1])
    for _ in range(100 * wanted):
        x.fill_(1.0)
        early, stopped = [], False
        sender = threading.Thread(target=send)
        try:
            sender.start()
            F.dropout(x, 0.5, inplace=True, key=key)
            sender.join()
        except KeyboardInterrupt:
            stopped = float(x[-1]) == 1.0
        sender.join()
        right = stopped if default else seen == [last]
        seen.clear()
        if early == [True]:
            print(right)
            wanted -= 1
            if not wanted:
                break
"""


def test_ctrl_c_stops_a_call_and_a_handler_of_it_runs_afterwards() -> None:
    """A try counts if the call was not half done after the signal."""
    n = tries(3, 30)
    assert run(TENSORS + CTRL_C, n).split() == ["True"] * (2 * n)
