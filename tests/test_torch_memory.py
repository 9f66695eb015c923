"""Memory that is kept for large tensors. Needs PyTorch."""

from __future__ import annotations

import os
import signal
import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastdrop.torch import _call, functional  # noqa: E402
from fastdrop.torch._memory import Blocks  # noqa: E402

pytestmark = pytest.mark.once


def test_a_block_is_lent_again_only_when_nobody_holds_it() -> None:
    blocks = Blocks(1 << 30)
    first, new = blocks.lend(10_000)
    assert new
    view = first[10:20]
    address = first.ctypes.data
    del first
    second, new = blocks.lend(10_000)
    assert new
    del view
    third, new = blocks.lend(9_999)
    assert not new
    assert third.size == 9_999
    assert third.ctypes.data == address
    assert second.ctypes.data != address


def test_blocks_beyond_the_limit_go_back_to_the_system() -> None:
    blocks = Blocks(25_000)
    lent = [blocks.lend(size)[0] for size in (8192, 10240, 12288)]
    for _ in range(3):
        lent.pop(0)
    assert not lent
    again = [blocks.lend(size) for size in (8192, 10240, 12288)]
    assert [new for _, new in again] == [True, False, False]


def test_a_child_that_is_forked_while_memory_returns_does_not_wait() -> None:
    """The thread that held the lock is not there to let it go.

    The child calls nothing of torch that uses its threads, since those do not survive a fork.
    """
    x = torch.ones(1 << 21)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with _call._blocks._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        functional.dropout(x, 0.5)
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


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


def test_a_result_outlives_everything_but_its_last_view() -> None:
    y = functional.dropout(torch.ones(1 << 21), 0.5, generator=torch.Generator().manual_seed(1))
    expected = y.clone()
    array = y.numpy()
    del y
    others = [functional.dropout(torch.zeros(1 << 21), 0.5) for _ in range(4)]
    assert torch.equal(torch.from_numpy(array), expected)
    del others
