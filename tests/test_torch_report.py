"""What `report` says of a model, and that it changes nothing. Needs PyTorch."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop.torch import _report  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own
]

X = torch.randn(3, 6, 16)
EITHER = "install() or replace(model)"
RANDOM = "install(random=True)"
PATH = "fastdrop.torch.DropPath or " + RANDOM


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_report, "_ALL", 0.0)
    yield
    ft.uninstall()


class Calls(nn.Module):
    """Calls a function on its input."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def drop_path(x: Any, p: float) -> Any:
    return x * x.new_empty(len(x), *(1,) * (x.dim() - 1)).bernoulli_(1 - p)


class DropPath(nn.Module):
    """As in timm: a function with random numbers of its own."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Any) -> Any:
        return drop_path(x, self.drop_prob) if self.drop_prob > 0.0 else x


class Code(nn.Module):
    """Code that drops and draws, also in a method."""

    def forward(self, x: Any) -> Any:
        x = theirs.dropout(x, 0.25, self.training)
        return self.noisy(x)

    def noisy(self, x: Any) -> Any:
        return x + torch.randn(x.shape)


def attend(x: Any, p: float = 0.1, features: int = 16) -> Any:
    y = x if features == x.shape[-1] else x[..., :1].expand(*x.shape[:-1], features)
    return theirs.scaled_dot_product_attention(y, y, y, dropout_p=p)[..., :16]


# A module, and rows of the report without the name and the class: call, p, what to use.
MODULES: list[tuple[nn.Module, list[Any]]] = [
    (nn.Dropout(0.1), [("dropout", 0.1, EITHER)]),
    (nn.AlphaDropout(0.1), [("alpha_dropout", 0.1, EITHER)]),
    (nn.Dropout1d(0.2), [("feature_dropout", 0.2, EITHER)]),
    (nn.LSTM(16, 16, 2, dropout=0.3, batch_first=True), [("dropout", 0.3, "install()")]),
    (DropPath(0.2), [("bernoulli_", 0.2, PATH)]),
    (Code(), [("dropout", None, "install()"), ("randn", None, RANDOM)]),
    (ft.LockedDropout(0.2), [("fastdrop", 0.2, "")]),
    (ft.replace(nn.Sequential(nn.Dropout(0.4)))[0], [("fastdrop", 0.4, "")]),
]
# The same for modules of which only a run says what they call.
FUNCTIONS: list[tuple[nn.Module, list[Any]]] = [
    (Calls(attend), [("scaled_dot_product_attention", 0.1, "install()")]),
    (Calls(lambda x: attend(x, 0.0)), []),
    (Calls(lambda x: attend(x, 0.1, 257)), [("scaled_dot_product_attention", 0.1, "")]),
    (Calls(lambda x: x + (torch.rand(3, 1, 1) < 0.5)), [("rand", None, PATH)]),
    (Calls(lambda x: x[torch.randperm(3)]), [("randperm", None, "")]),
    (Calls(lambda x: theirs.dropout(x, 0.0)), [("dropout", 0.0, "install()")]),
    (Calls(lambda x: theirs.dropout(x, 0.5, False)), []),
    (Calls(lambda x: ft.functional.dropout(x, 0.3)), [("fastdrop", None, "")]),
]  # fmt: skip


def rows(report: ft._report.Report) -> list[Any]:
    return [(one.call, one.p, one.use) for one in report.found]


@pytest.mark.parametrize(("module", "expected"), MODULES, ids=lambda x: type(x).__name__)
def test_the_code_of_a_module_says_what_it_calls(module: nn.Module, expected: list[Any]) -> None:
    report = ft.report(nn.Sequential(nn.Linear(16, 16), module))
    assert rows(report) == expected
    assert all(one.name == "1" for one in report.found)
    assert all((one.computed_by == "fastdrop") == (one.call == "fastdrop") for one in report.found)
    assert report.times is None


@pytest.fixture
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report, "_timed", lambda *_: None)


@pytest.mark.usefixtures("_untimed")
@pytest.mark.parametrize(("module", "expected"), MODULES + FUNCTIONS)
def test_a_run_finds_what_draws_and_says_what_to_use(
    module: nn.Module, expected: list[Any]
) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Sequential(module))
    if isinstance(module, Code):  # a run knows p as well
        expected = [("dropout", 0.25, "install()"), *expected[1:]]
    report = ft.report(model, X)
    assert rows(report) == expected
    assert all(one.name == "1.0" for one in report.found)


@pytest.mark.usefixtures("_untimed")
@pytest.mark.parametrize(("module", "expected"), MODULES + FUNCTIONS)
def test_what_the_report_advises_makes_fastdrop_compute_it(
    module: nn.Module, expected: list[Any]
) -> None:
    for random_too in (False, True):
        with ft.installed(random=random_too):
            report = ft.report(module, X)
            assert report.is_installed
            for one, (_, _, use) in zip(report.found, expected, strict=True):
                reached = "install()" in use or one.call == "fastdrop" or (random_too and use)
                assert one.computed_by == ("fastdrop" if reached else "PyTorch"), one
                assert not (reached and one.use)


class Everything(nn.Module):
    """State of every kind that a call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.words = nn.Embedding(5, 16, max_norm=0.1)
        self.norm = nn.BatchNorm1d(16)
        self.frozen = nn.BatchNorm1d(16).eval()
        self.drop = nn.Dropout(0.5)
        self.ours = ft.Dropout(0.5)
        self.held = ft.Dropout(0.5).hold()
        self.numbered = ft.Dropout(0.5)
        self.numbered.key = 3
        self.register_buffer("calls", torch.zeros(1))
        self.times = 0
        self.fails = False

    def forward(self, x: Any) -> Any:
        self.times += 1
        self.calls += 1
        self.last = x
        noise = torch.rand(4, generator=self.generator).sum() + random.random() + np.random.rand()  # noqa: NPY002
        y = self.frozen(self.norm(self.words(x))) * noise
        y = self.numbered(self.held(self.ours(self.drop(y))))
        if self.fails:
            raise RuntimeError("stop")
        return {"loss": y.square().mean(), "y": y}


def state(model: Everything) -> Any:
    grads = [(id(x.grad), x.grad.clone()) for x in model.parameters()]
    tensors = [(id(x), x._version, x.clone()) for x in model.buffers()]
    values = [x.clone() for x in model.parameters()]
    attributes = [sorted(vars(module), key=str) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    keys = [(one.key, one.calls) for one in (model.ours, model.held, model.numbered)]
    counts = model.times, model.drop._fastdrop_keys.calls, model.drop.p
    states = torch.get_rng_state(), model.generator.get_state()
    numbers = random.getstate(), np.random.get_state()[1].tolist(), ft._install._installed  # noqa: NPY002
    return grads, tensors, values, attributes, modes, keys, counts, states, numbers


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, (tuple, list)):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("installed", [False, True])
def test_a_report_leaves_everything_as_it_was(installed: bool, training: bool, fails: bool) -> None:
    """Also where the model raises."""
    if installed:
        ft.install()
    model = Everything()
    x = torch.tensor([0, 1, 2, 1])
    model(x)["loss"].backward()
    ft.set_keys(model, fd.Key(1), numbered=True)
    model.fails = fails
    if not training:
        model.eval()
    with torch.no_grad():
        before = state(model)
        if fails:
            with pytest.raises(RuntimeError, match="stop"):
                ft.report(model, x)
        else:
            assert ft.report(model, x).times is not None
        if not installed:
            assert ft._install._installed is None
        after = state(model)
    assert_equal(before[:-1], after[:-1])
    assert before[-1][:2] == after[-1][:2]
    assert (before[-1][2] is None) == (after[-1][2] is None)
    assert not torch.is_inference_mode_enabled()


def test_a_step_is_timed_with_each_dropout_and_without_any() -> None:
    """At p = 0 nothing drops: not a function, attention, a library's path, or fastdrop's."""
    seen: list[tuple[bool, bool]] = []

    def look(x: Any) -> Any:
        seen.append((bool((x == 1).all()), ft.is_installed()))
        return x

    attention = Calls(lambda x: attend(torch.ones_like(x), 0.5) * x)
    drops = [Calls(lambda x: theirs.dropout(x, 0.5)), attention, DropPath(0.5), nn.Dropout(0.5),
             ft.LockedDropout(0.5)]  # fmt: skip
    for drop in drops:
        seen.clear()
        model = nn.Sequential(drop, Calls(look))
        times = ft.report(model, torch.ones(64, 2, 16)).times
        assert times is not None
        assert len(times.torch) == len(times.fastdrop) == len(times.no_dropout) >= 3
        assert min(min(one) for one in times) >= 0.0
        steps = seen[1:]  # the first is the run that looks for draws
        third = len(steps) // 3
        assert sum(whole for whole, _ in steps) == third, type(drop)
        assert sum(on for _, on in steps) == third
        assert not any(whole for whole, on in steps if on)


def test_a_fused_model_is_timed_as_it_is_and_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5))
    ft.fuse(model)
    forward = vars(model)["forward"]
    calls: list[bool] = []
    model[2].register_forward_hook(lambda *_: calls.append(ft.is_installed()))
    report = ft.report(model, X)
    assert [one.computed_by for one in report.found] == ["fastdrop"]
    assert vars(model)["forward"] is forward


def test_losses_of_any_result_are_differentiated() -> None:
    for result in (lambda x: (x, None), lambda x: {"logits": [x]}, lambda x: x.to(torch.float64)):
        model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(), Calls(result))
        backward: list[Any] = []
        model[0].weight.register_hook(backward.append)
        ft.report(model, X)
        assert backward
        assert model[0].weight.grad is None


def test_alike_rows_are_printed_once() -> None:
    text = str(ft.report(nn.Sequential(*(nn.Sequential(nn.Dropout(0.1)) for _ in range(12)))))
    assert text.count("Dropout") == 1
    assert "*.* (12)" in text
    assert "ms" in str(ft.report(nn.Sequential(nn.Linear(16, 2), nn.Dropout()), X))
    assert "No dropout was found." in str(ft.report(nn.Linear(2, 2)))


@pytest.mark.parametrize("whole", [True, False])
def test_scripted_modules_are_reported_and_stay_as_they_are(whole: bool) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3)))
    model = scripted if whole else nn.Sequential(nn.Linear(16, 16), scripted)
    model.eval()
    children = list(model.modules())
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = ft.report(model, X)
    assert [(one.call, one.p, one.use) for one in report.found] == [("dropout", 0.3, "install()")]
    assert_equal(list(model.state_dict().values()), list(before.values()))
    assert not any(one.training for one in model.modules())
    assert list(model.modules()) == children
    assert ft.report(model).found == ()
    ft.fuse(model)


def test_ranks_of_a_sharded_model_take_the_same_number_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step waits for the other ranks, whose times differ."""
    monkeypatch.setattr(_report, "_ALL", 4.0)

    class Sharded(nn.Linear):
        __module__ = "torch.distributed.fsdp"
        pause = 0.0

        def forward(self, x: Any) -> Any:
            calls.append(x)
            end = time.process_time() + self.pause
            while time.process_time() < end:
                pass
            return super().forward(x)

    counts = []
    for pause in (0.0, 0.01):
        calls: list[Any] = []
        model = Sharded(16, 16)
        model.pause = pause
        ft.report(model, X)
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_wrappers_are_taken_off_and_lazy_models_refused() -> None:
    model = nn.DataParallel(torch.compile(nn.Sequential(nn.Linear(16, 16), nn.Dropout())))
    assert [one.name for one in ft.report(model, X).found] == ["1"]
    with pytest.raises(TypeError, match="model must be a Module, got"):
        ft.report(len)
    with pytest.raises(ValueError, match="model must have no lazy parameters: call it once"):
        ft.report(nn.LazyLinear(3), X)
