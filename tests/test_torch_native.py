"""Dropout that torch's own node differentiates, by kernels in machine code. Needs PyTorch."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as ft  # noqa: E402
from fastdrop import _core  # noqa: E402
from fastdrop._base.members import Numbers  # noqa: E402
from fastdrop.torch import _install  # noqa: E402
from fastdrop.torch._autograd import native  # noqa: E402
from fastdrop.torch._keys import draw_key  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own
]

P = 0.3


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with ft.installed():
        yield


def seeded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return function(*arguments, **options)


def dropped(x: Any) -> Any:
    return theirs.dropout(x, P)


REPLACED = ft.replace(torch.nn.Dropout(P))

CALLS: dict[str, Callable[[Any], Any]] = {
    "dropout": dropped,
    "feature_dropout": lambda x: torch.feature_dropout(x, P, True),
    "dropout2d": lambda x: theirs.dropout2d(x, P),
    "alpha_dropout": lambda x: theirs.alpha_dropout(x, P, True),
    "feature_alpha_dropout": lambda x: theirs.feature_alpha_dropout(x, P, True),
    "function": lambda x: ft.functional.dropout(x, P),
    "module": lambda x: ft.LockedDropout(P)(x),
    "replaced module": lambda x: REPLACED(x),
    "replacement": lambda x: ft.Dropout(P)(x),
}

LAYOUTS: dict[str, Callable[[], Any]] = {
    "contiguous": lambda: torch.randn(3, 4, 5, 6),
    "channels last": lambda: torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(3, 5, 4, 6).transpose(1, 2),
    "every other": lambda: torch.randn(3, 4, 5, 12)[..., ::2],
    "expanded": lambda: torch.randn(3, 1, 5, 1).expand(3, 4, 5, 6),
    "one": lambda: torch.randn(1, 1, 1, 1),
}


def results(call: Callable[[Any], Any], x: Any) -> list[Any]:
    """Return a result, its gradient, and what the generator gives next."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = seeded(call, leaf * 1)
    (dx,) = torch.autograd.grad(y, leaf, torch.full_like(y, 2.0))
    return [y, dx, torch.rand(3)]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_both_paths_give_the_same_bits_in_the_same_layout(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.ready
    for make in LAYOUTS.values():
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            x = make().to(dtype)
            monkeypatch.setattr(native, "ready", True)
            ours = results(call, x)
            assert "NativeDropoutBackward" in type(ours[0].grad_fn).__name__
            monkeypatch.setattr(native, "ready", False)
            expected = results(call, x)
            for actual, wanted in zip(ours, expected, strict=True):
                assert torch.equal(actual, wanted)
                assert actual.stride() == wanted.stride()


def test_results_lie_as_torch_lays_out_what_is_like_their_input() -> None:
    leaf = torch.randn(60, requires_grad=True)
    views = [
        leaf[:5].unsqueeze(1).expand(4, 5, 6),
        leaf[:6].expand(2, 6),
        leaf.as_strided((3, 1, 2), (2, 7, 1)),
        leaf.as_strided((3, 4), (1, 3)),
        leaf.as_strided((4, 3, 2), (3, 1, 24)),
        leaf.as_strided((3, 3), (2, 1)),
        leaf.as_strided((2, 2, 3), (1, 1, 4)),
        leaf.as_strided((), ()),
    ]
    for x in views:
        assert dropped(x).stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("p", [1e-9, 0.5, 1.0])
def test_every_p_and_value_is_dropped_as_without_gradients(p: float) -> None:
    x = torch.tensor([float("nan"), float("inf"), -1.0, 2.0] * 100)
    expected = seeded(theirs.dropout, x, p)
    leaf = x.clone().requires_grad_()
    y = seeded(theirs.dropout, leaf, p)
    assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0))
    y.backward(x)
    assert torch.equal(leaf.grad.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_gradients_of_every_order_and_direction(call: Any) -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: seeded(call, x * 1), x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x: seeded(call, x * 1) ** 2,
        x,
        check_batched_grad=True,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
    )


def test_a_gradient_may_be_sparse_or_of_a_batch_or_forward() -> None:
    weight = torch.randn(9, 4, requires_grad=True)
    y = seeded(dropped, weight)
    theirs.embedding(torch.tensor([1, 3, 3]), y, sparse=True).sum().backward()
    mask = (y != 0).float() / (1 - P)
    wanted = torch.zeros(9, 4)
    wanted[[1, 3]] = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(weight.grad, wanted * mask)

    y = seeded(dropped, weight)
    rows = torch.randn(5, 9, 4)
    (batched,) = torch.autograd.grad(y, weight, rows, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(batched, rows * mask)
    mapped = torch.func.vmap(lambda row: torch.autograd.grad(y, weight, row, retain_graph=True)[0])
    torch.testing.assert_close(mapped(rows), rows * mask)
    again = torch.func.vmap(
        lambda row: torch.autograd.grad(y, weight, row, retain_graph=True, create_graph=True)[0]
    )
    torch.testing.assert_close(again(rows), rows * mask)
    with forward_ad.dual_level():
        row = forward_ad.make_dual(rows[0], rows[1])
        (gradient,) = torch.autograd.grad(y, weight, row, create_graph=True)
        torch.testing.assert_close(forward_ad.unpack_dual(gradient).tangent, rows[1] * mask)


def test_what_is_kept_is_a_few_words_that_hooks_may_move() -> None:
    x = torch.randn(1000, requires_grad=True)
    kept: list[Any] = []

    def stored(words: Any) -> Any:
        kept.append(words)
        memory = io.BytesIO()
        torch.save(words, memory)
        return memory

    def loaded(memory: Any) -> Any:
        memory.seek(0)
        return torch.load(memory)

    with torch.autograd.graph.saved_tensors_hooks(stored, loaded):
        y = seeded(dropped, x)
    y.sum().backward()
    assert [(words.dtype, words.numel()) for words in kept] == [(torch.int64, 7)]
    assert torch.equal(x.grad == 0, y == 0)


def test_a_graph_outlives_uninstall() -> None:
    x = torch.randn(3, 7, requires_grad=True)
    y = seeded(dropped, x)
    mask = (y != 0).float() / (1 - P)
    ft.uninstall()
    (dx,) = torch.autograd.grad(y, x, torch.ones(3, 7), retain_graph=True)
    torch.testing.assert_close(dx, mask)
    (dx,) = torch.autograd.grad(y, x, mask, create_graph=True)
    torch.testing.assert_close(dx, mask * mask)
    z = theirs.dropout(x, P)  # torch's own
    (dx,) = torch.autograd.grad(z, x, torch.ones(3, 7))
    assert torch.equal(dx, (z != 0) / torch.tensor(1 - P))
    assert not torch.equal(seeded(dropped, x), y)


def requested(x: Any, p: float) -> bool:
    return _core.request_receipt(x, fd.Key(1), "select", p, (), Numbers(2.0))


def test_native_dropout_called_by_others_returns_a_mask() -> None:
    x = torch.randn(50, 4, requires_grad=True)
    y = seeded(dropped, x)
    for train in (None, True):
        again, mask = seeded(torch.native_dropout, x, P, train)
        assert torch.equal(again, y)
        assert torch.equal(mask, y != 0)
        again.sum().backward()
        torch.testing.assert_close(x.grad, mask / (1 - P) if train else mask * 1.0)
        x.grad = None
    # A request that its call did not follow, as after Ctrl-C, is no other call's.
    other = x.detach().clone().requires_grad_()
    for unmet, p in ((other, P), (x, 0.9)):
        assert requested(unmet, p)
        assert torch.native_dropout(x, P, None)[1].dtype is torch.bool
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        torch.native_dropout(x, 1.5, True)
    with ThreadPoolExecutor(1) as pool:
        assert requested(x, P)
        assert pool.submit(torch.native_dropout, x, P, None).result()[1].dtype is torch.bool


class Seen(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return function(*arguments, **(options or {}))


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        raise ZeroDivisionError


def under(mode: Any, x: Any) -> Any:
    with mode:
        return dropped(x)


def of_dual(x: Any) -> Any:
    with forward_ad.dual_level():
        y, tangent = forward_ad.unpack_dual(dropped(forward_ad.make_dual(x, torch.ones_like(x))))
        torch.testing.assert_close(tangent, (y != 0) / (1 - P))
        return y


def hooked(x: Any) -> Any:
    y = x * 1
    y.register_hook(lambda dy: dy)
    return y


@pytest.mark.parametrize(
    ("call", "runs_python"),
    [
        pytest.param(dropped, False, id="plain"),
        pytest.param(lambda x: torch.no_grad()(dropped)(x), False, id="without autograd"),
        pytest.param(lambda x: dropped(x.detach()), False, id="no gradient wanted"),
        pytest.param(lambda x: torch.inference_mode()(dropped)(x), False, id="inference"),
        pytest.param(lambda x: dropped(x.T.contiguous().T), False, id="transposed"),
        pytest.param(lambda x: dropped(x.bfloat16()).float(), False, id="bfloat16"),
        pytest.param(lambda x: under(torch.autocast("cpu"), x), False, id="autocast"),
        pytest.param(lambda x: theirs.dropout(x * 1, P, inplace=True), False, id="in place"),
        pytest.param(
            lambda x: theirs.dropout(x.detach(), P, inplace=True), False, id="overwritten"
        ),
        pytest.param(
            lambda x: theirs.dropout((x * 1)[:], P, inplace=True), True, id="view in place"
        ),
        pytest.param(
            lambda x: theirs.dropout(hooked(x), P, inplace=True), True, id="hook in place"
        ),
        pytest.param(lambda x: under(Seen(), x), True, id="dispatch mode"),
        pytest.param(of_dual, True, id="forward mode"),
        pytest.param(lambda x: torch.vmap(dropped, randomness="different")(x), True, id="vmap"),
        pytest.param(lambda x: torch.func.grad(lambda x: dropped(x).sum())(x), True, id="grad"),
        pytest.param(lambda x: dropped(torch._neg_view(x)), True, id="negative view"),
        pytest.param(lambda x: dropped(x.expand(1 << 16, 50, 4))[0], True, id="large result"),
    ],
)
def test_only_calls_that_something_watches_run_python(
    call: Callable[[Any], Any], runs_python: bool
) -> None:
    x = torch.randn(50, 4, requires_grad=True)
    call(x.clone())  # the first call may import something
    ran: set[str] = set()
    sys.setprofile(lambda frame, event, _: ran.add(frame.f_code.co_filename))
    try:
        y = seeded(call, x)
    finally:
        sys.setprofile(None)
    assert any("fastdrop/torch" in file for file in ran) is runs_python
    if not runs_python:
        mask = torch.as_tensor(fd.dropout(torch.ones(50, 4).numpy(), P, rng=seeded(draw_key, None)))
        assert torch.equal(y != 0, mask != 0)


def test_calls_that_drop_nothing_return_their_input() -> None:
    x = torch.ones(3, requires_grad=True)
    for p, train in ((0.0, True), (P, False)):
        for function in (torch.dropout, torch.dropout_, torch.feature_dropout):
            assert function(x, p, train) is x
    assert x._version == 0


def watch_in_place(dropout_: Callable[[Any], Any], prepare: Callable[[Any], Any]) -> Any:
    """Return what a program can see of a call in place, but for its mask."""
    x = torch.ones(2, 3, requires_grad=True)
    seen: list[Any] = []
    y = prepare(x * 2)
    if y.requires_grad:
        y.register_hook(lambda dy: seen.append(("before", dy.shape)))
    base, version = y._base, y._version
    z = dropout_(y)
    seen += [z is y, z._version > version, z.requires_grad, z.is_leaf, z._base is base]
    if z.requires_grad:
        z.retain_grad()
        z.register_hook(lambda dy: seen.append(("after", dy.shape)))
        (z * z.detach()).sum().backward()
        assert torch.equal(z.grad, z)
        assert x.grad is None or torch.equal(x.grad != 0, z.reshape(2, 3) != 0)
    return seen


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda x: x, id="result"),
        pytest.param(lambda x: x.view(3, 2), id="view"),
        pytest.param(lambda x: (x.retain_grad(), x)[1], id="retained"),
        pytest.param(lambda x: x.detach(), id="detached"),
    ],
)
def test_a_call_in_place_leaves_the_history_that_torchs_does(prepare: Any) -> None:
    ours = watch_in_place(lambda x: torch.dropout_(x, P, True), prepare)
    ft.uninstall()
    assert ours == watch_in_place(lambda x: torch.dropout_(x, P, True), prepare)


def test_a_result_saved_before_a_call_in_place_is_missed() -> None:
    for function in (torch.dropout_, torch.feature_dropout_):
        y = torch.ones(2, 3, requires_grad=True).exp()
        function(y, P, True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    with torch.inference_mode():
        x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        torch.dropout_(x, P, True)
    assert torch.equal(x, torch.ones(2, 3))


def test_exceptions_from_below_autograd_pass_through() -> None:
    x = torch.randn(50, 4, requires_grad=True)

    def refuse(saved: Any) -> Any:
        raise ZeroDivisionError

    with (
        torch.autograd.graph.saved_tensors_hooks(refuse, refuse),
        pytest.raises(ZeroDivisionError),
    ):
        dropped(x)
    assert torch.native_dropout(x, P, None)[1].dtype is torch.bool  # no request is left
    wrapped = torch.Tensor._make_wrapper_subclass(Wrapper, (3,), requires_grad=True)
    with pytest.raises(ZeroDivisionError):
        dropped(wrapped)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(RuntimeError, match="between 0 and 1"):
            torch.dropout(x, p, True)


def test_type_as_is_torchs_for_all_other_tensors() -> None:
    x = torch.arange(7).requires_grad_(False)
    for other in (
        torch.ones(3, dtype=torch.float16),
        torch.ones(2),
        torch.ones(1, dtype=torch.int8),
    ):
        y = x.type_as(other)
        assert y.dtype is other.dtype
        assert torch.equal(y.long(), x)
    assert x.type_as(torch.ones(2, dtype=torch.long)).data_ptr() == x.data_ptr()
    leaf = torch.ones(7, requires_grad=True)
    leaf.type_as(torch.ones(1, dtype=torch.float64)).sum().backward()
    assert torch.equal(leaf.grad, torch.ones(7))
    ones = torch.ones(2, 7)
    assert torch.equal(torch.vmap(lambda x: x.type_as(leaf))(ones.long()), ones)
    compiled = torch.compile(lambda x, y: x.type_as(y), backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(x, leaf), x.float())
    assert x.type_as(torch.ones(1, device="meta")).is_meta


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_draws_the_mask_again(use_reentrant: bool) -> None:
    x = torch.randn(50, 4, requires_grad=True)
    seeded(lambda x: dropped(x).square(), x).sum().backward()
    expected, x.grad = x.grad, None
    again = seeded(checkpoint, lambda x: dropped(x).square(), x, use_reentrant=use_reentrant)
    again.sum().backward()
    assert torch.equal(x.grad, expected)


def test_threads_and_forked_children_have_kernels() -> None:
    x = torch.randn(3000, requires_grad=True)

    def is_right(_: int) -> bool:
        y = dropped(x)
        (dx,) = torch.autograd.grad(y, x, torch.ones(3000))
        return torch.equal(dx == 0, y == 0)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(400)))
    child = os.fork()
    if child == 0:
        os._exit(0 if is_right(0) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("reason", ["torch lacks a function", "torch computes something else"])
def test_without_them_the_kernels_are_those_in_python(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(50, 4, requires_grad=True)
    y = seeded(dropped, x)
    ft.uninstall()
    if reason == "torch lacks a function":
        monkeypatch.setattr(_core, "native_kernels", lambda in_python: False)
    else:
        monkeypatch.setattr(_install, "_is_right", lambda: False)
    ft.install()
    assert not native.ready
    again = seeded(dropped, x)
    assert "Recorded" in type(again.grad_fn).__name__
    assert torch.equal(again, y)
    assert torch.equal(seeded(torch.native_dropout, x, P, True)[1], y != 0)
