"""Memory that is kept for large tensors. Needs PyTorch."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastdrop.torch import _call, _memory, functional  # noqa: E402
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


def test_blocks_may_return_while_one_is_lent() -> None:
    """The collector may find their holders in any allocation."""
    blocks = Blocks(1 << 16)
    pairs = []  # Python keeps 2,000 unused pairs, whose reuse is no allocation
    before = gc.get_threshold()
    try:
        for n in range(400):
            gc.set_threshold(1 + n % 80)
            pairs.extend([(n, i) for i in range(60)])
            lent = [blocks.lend(4096 + 512 * (n % 3))[0] for _ in range(4)]
            for one in lent:
                cycle: list[object] = [one]
                cycle.append(cycle)
            del one, lent, cycle
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert 0 < sum(block.size for block in blocks._spare.values()) <= 1 << 16


def test_a_handler_may_lend_and_return_inside_any_step() -> None:
    """A tracer stands for the handler: it runs before every 47th instruction of the methods.

    47 is prime, so that in the end it runs before each.
    """
    blocks = Blocks(20_000)
    steps = itertools.count(1)
    inside = False

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal inside
        if frame.f_code.co_filename != _memory.__file__ or inside:
            return None
        frame.f_trace_opcodes = True
        if next(steps) % 47 == 0:
            inside = True
            held = [blocks.lend(4096)[0] for _ in range(6)]
            del held
            inside = False
        return trace

    sys.settrace(trace)
    try:
        for _ in range(200):
            lives = [blocks.lend(4096)[0] for _ in range(5)]
            assert len({one.ctypes.data for one in lives}) == 5
    finally:
        sys.settrace(None)
    assert sum(block.size for block in blocks._spare.values()) <= 20_000


def test_a_forked_child_keeps_no_spare_memory() -> None:
    """It would keep pages that its parent writes, which the system then copies."""
    x = torch.ones(1 << 21)
    functional.dropout(x, 0.5)
    assert _call._blocks._spare
    child = os.fork()
    if child == 0:
        os._exit(len(_call._blocks._spare))
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
