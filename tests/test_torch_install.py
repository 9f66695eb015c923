"""Kernels installed for torch's own operators. Needs PyTorch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from tensors import drawn  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own
]

F = ft.functional


@pytest.fixture
def installed() -> Iterator[None]:
    with ft.installed():
        yield


X = torch.randn(4, 6, 5, 3)


# torch's functions, and those of fastdrop that must draw the same mask from the same generator.
OPERATORS = [
    (theirs.dropout, F.dropout, X),
    (theirs.dropout1d, F.dropout1d, X[0]),
    (theirs.dropout1d, F.dropout1d, X[0, 0]),
    (theirs.dropout2d, F.dropout2d, X),
    (theirs.dropout3d, F.dropout3d, X[None]),
    (theirs.dropout3d, F.dropout3d, X),
    (theirs.alpha_dropout, F.alpha_dropout, X),
    (theirs.feature_alpha_dropout, F.feature_alpha_dropout, X),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("their", "ours", "x"), OPERATORS)
def test_installed_kernels_draw_what_the_functions_draw(
    their: Any, ours: Any, x: Any, inplace: bool, installed: None
) -> None:
    expected = drawn(ours, x.clone(), 0.4, True)
    given = x.clone()
    y = drawn(their, given, 0.4, True, inplace)
    assert torch.equal(y, expected)
    assert (y.data_ptr() == given.data_ptr()) == inplace
    leaf = x.clone().requires_grad_()
    drawn(their, leaf * 1, 0.4, True, inplace).sum().backward()
    other = x.clone().requires_grad_()
    drawn(ours, other, 0.4, True).sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    with torch.inference_mode():
        assert torch.equal(drawn(their, x.clone(), 0.4, True, inplace), expected)
    assert their(x, 0.4, False).data_ptr() == x.data_ptr()


def test_native_dropout_returns_its_mask(installed: None) -> None:
    x = torch.randn(50, 4, requires_grad=True)
    y, mask = drawn(torch.native_dropout, x, 0.4, True)
    assert torch.equal(y, drawn(F.dropout, x, 0.4))
    assert torch.equal(mask, y != 0)
    y.sum().backward()
    assert torch.equal(x.grad, mask / torch.tensor(0.6))
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(drawn(torch.native_dropout, x.detach(), 0.4, True)[1], mask)
    y, mask = torch.native_dropout(x, 0.4, False)
    assert torch.equal(y, x)
    assert bool(mask.all())


def test_attention_and_transformers_use_the_kernels(installed: None) -> None:
    """The attention's dropout is called inside torch, by no Python code."""
    q = torch.randn(2, 3, 8, 4)
    y = drawn(theirs.scaled_dot_product_attention, q, q, q, dropout_p=0.5)
    weights = (q @ q.transpose(-1, -2) / 2).softmax(-1)
    assert torch.allclose(y, drawn(F.dropout, weights, 0.5) @ q, atol=1e-6)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 8)
    first = drawn(layer, x)
    assert torch.equal(drawn(layer, x), first)
    ft.uninstall()
    assert not torch.equal(drawn(layer, x), first)


@pytest.mark.parametrize(
    "x", [torch.ones(9, dtype=torch.complex64), torch.ones(9).int(), torch.ones(9).to_sparse()]
)
def test_what_torch_refuses_stays_refused(x: Any, installed: None) -> None:
    """Integers and sparse tensors; complex ones up to PyTorch 2.14."""

    def is_refused() -> bool:
        try:
            theirs.dropout(x, 0.5)
        except (NotImplementedError, RuntimeError, TypeError):
            return True
        return False

    refused = is_refused()
    ft.uninstall()
    assert is_refused() == refused


def test_native_dropout_of_other_dtypes_is_that_of_torch(installed: None) -> None:
    complex_ones, ints = torch.ones(100, dtype=torch.complex64), torch.ones(3, dtype=torch.long)

    def results() -> Any:
        y, mask = drawn(torch.native_dropout, complex_ones, 0.5, True)
        gradient = torch.ops.aten.native_dropout_backward(ints, ints != 0, 2.0)
        return y, mask, gradient, theirs.dropout(ints, 1.0)

    ours = results()
    ft.uninstall()
    for one, other in zip(ours, results(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_uninstalling_gives_back_the_masks_of_torch() -> None:
    x = torch.ones(1000)
    before = drawn(theirs.dropout, x, 0.5)
    with ft.installed():
        with ft.installed():
            inside = drawn(theirs.dropout, x, 0.5)
        assert torch.equal(drawn(theirs.dropout, x, 0.5), inside)
    assert not torch.equal(before, inside)
    assert torch.equal(drawn(theirs.dropout, x, 0.5), before)
    ft.uninstall()


def test_threads_may_install_and_uninstall_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock, an operator is left with a kernel that another thread removed."""
    x = torch.ones(8)
    before = drawn(theirs.dropout, x, 0.5)

    def work(number: int) -> None:
        for turn in range(10):
            [ft.install, ft.uninstall, lambda: ft.install(random=True)][(number + turn) % 3]()
            with ft.installed(attention=turn % 2 == 0):
                assert set(theirs.dropout(x, 0.5).tolist()) <= {0.0, 2.0}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(interval)
        ft.uninstall()
    assert torch.equal(drawn(theirs.dropout, x, 0.5), before)


def test_the_last_of_overlapping_blocks_restores_what_was_installed() -> None:
    """Blocks overlap if threads or generators begin them."""
    first, second, third = ft.installed(), ft.installed(random=True), ft.installed()
    for block in (first, second, third):
        block.__enter__()
    for block in (second, first):
        block.__exit__(None, None, None)
        assert ft.is_installed()
    third.__exit__(None, None, None)
    assert not ft.is_installed()


def test_a_process_knows_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    logger = logging.getLogger("fastdrop.torch")
    monkeypatch.setattr(logger, "info", lambda text, *names: told.append(text % names))
    assert not ft.is_installed()
    with ft.installed():
        assert ft.is_installed()
        assert "alpha_dropout" in told[-1]
        assert "bernoulli" not in told[-1]
        ft.install()
        assert len(told) == 1, "nothing changed"
        ft.install(random=True)
        assert "bernoulli" in told[-1]
    assert not ft.is_installed()


def test_installed_kernels_under_script_and_trace(installed: None) -> None:
    scripted = torch.jit.script(nn.Dropout(0.5))
    x = torch.ones(100)
    assert torch.equal(drawn(scripted, x), drawn(F.dropout, x))
