"""Compiled code in which dropout is fused with its neighbours. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as ft  # noqa: E402
from fastdrop.torch import _operator  # noqa: E402
from fastdrop.torch._autograd import ACTIVATIONS  # noqa: E402
from fastdrop.torch._compiled import _FORMS  # noqa: E402
from torch import nn  # noqa: E402
from torch._inductor.custom_graph_pass import CustomGraphPass  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CONFIG: Any = torch._inductor.config
drop = partial(theirs.dropout, p=0.4)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    ft.install()
    yield
    ft.uninstall()


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operations that compiled code called, in order."""
    names: list[str] = []
    whole = _operator.in_core

    def counted(how: Any, *arguments: Any) -> Any:
        names.append(how.operation)
        return whole(how, *arguments)

    monkeypatch.setattr(_operator, "in_core", counted)
    return names


def backend(graph: Any, inputs: Any) -> Any:
    """Compile as inductor does, without its code in C++."""
    CONFIG.pre_grad_custom_pass(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return torch._dynamo.lookup_backend("aot_eager_decomp_partition")(graph, inputs)


def compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, **{"backend": backend, **options})


def step(function: Any, *inputs: Any) -> list[Any]:
    """Return results and gradients of a step from seed 0, and the generator's next number."""
    torch.manual_seed(0)
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    y = function(*inputs)
    weights = torch.linspace(-1.0, 1.0, y.numel()).view_as(y)
    (y * weights).sum().backward()
    more = list(function.parameters()) if isinstance(function, nn.Module) else []
    gradients = [x.grad for x in (*inputs, *more)]
    for x in more:
        x.grad = None
    return [y.detach(), *gradients, torch.rand(4)]


def check(one: Any, other: Any, *inputs: Any) -> None:
    """Check that both compute the same up to rounding, and draw the same."""
    first, second = step(one, *inputs), step(other, *inputs)
    for ours, plain in zip(first, second, strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-5)
    assert torch.equal(first[0] == 0, second[0] == 0)
    assert first[0].stride() == second[0].stride()


def gelus(x: Any) -> Any:
    x = drop(theirs.gelu(x, approximate="tanh"))
    return drop(theirs.gelu(torch.sin(x)))


class Layers(nn.Module):
    """Activations in place and not, and dropout in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Linear(8, 8), nn.GELU("tanh"), nn.Dropout(0.3, inplace=True),
            nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        y: Any = x + theirs.dropout(self.layers(x), 0.2, self.training)
        return y


def encoder(**options: Any) -> Any:
    torch.manual_seed(1)
    return nn.TransformerEncoderLayer(8, 2, 16, 0.2, **options)


FUSED: dict[str, tuple[Any, list[str]]] = {
    "functions": (lambda x: drop(torch.relu(x)), ["relu"]),
    "methods": (lambda x: torch.dropout(x.relu(), 0.4, True), ["relu"]),
    "gelu": (gelus, ["gelu_tanh", "gelu"]),
    "residual before": (lambda x: x + drop(x.sin()), ["add"]),
    "residual after": (lambda x: torch.add(drop(x.sin()), x), ["add"]),
    "sum by a method": (lambda x: x.add(drop(x.sin())), ["add"]),
    "two dropouts": (lambda x: drop(x.sin()) + drop(x.cos()), ["select", "add"]),
    "activation and residual": (lambda x: x + drop(torch.relu(x)), ["relu"]),
    "modules": (Layers(), ["relu", "gelu_tanh", "relu", "add"]),
    "encoder": (encoder(activation="gelu"), ["add", "gelu", "add"]),
    "norm first": (encoder(norm_first=True), ["add", "relu", "add"]),
}


@pytest.mark.parametrize("name", FUSED)
def test_neighbours_are_fused_with_the_masks_of_eager_mode(
    name: str, operations: list[str]
) -> None:
    function, expected = FUSED[name]
    run = compiled(function)
    # A second length is compiled for any; each operation has a name for which it is tried.
    of_any_length = ("methods", "gelu", "residual before", "encoder")
    for length in (4, 5)[: 1 + (name in of_any_length)]:
        x = torch.randn(length, 3, 8)
        operations.clear()
        torch.manual_seed(0)
        run(x)
        assert operations == expected
        check(run, function, x)


@pytest.mark.parametrize("function", _FORMS, ids=str)
def test_each_activation_is_fused_forward_and_backward(
    function: Any, operations: list[str]
) -> None:
    operation, options = _FORMS[function]
    call: Callable[..., Any] = (
        getattr(torch.Tensor, function) if type(function) is str else function
    )
    numbers = {name: 0.7 for name, value in options.items() if type(value) is float}
    run = lambda x: drop(call(x, **numbers))  # noqa: E731
    check(compiled(run), run, torch.randn(4, 8) * 2)
    assert operations[0] == operation
    if operation == "relu":  # its result tells where it is positive and kept
        assert len(operations) == 1
    else:
        assert operations[1:] == [f"{operation}_gradient"]


def test_each_activation_has_a_form() -> None:
    assert {name for name, _ in _FORMS.values()} == {*ACTIVATIONS} - {"gelu_tanh"}


def between(x: Any) -> Any:
    y = x.sin()
    r = torch.relu(y)
    y.mul_(2)
    return drop(r) * y


def moved(x: Any) -> Any:
    y, z = x.sin(), drop(x.cos())
    y.mul_(2)
    return y + z


def other_draw(x: Any) -> Any:
    r = torch.relu(x)
    y = drop(x.sin())
    return drop(r) * y


def used_twice(x: Any) -> Any:
    r = torch.relu(x)
    return drop(r) * r


def sum_used_twice(x: Any) -> Any:
    y = drop(x.sin())
    return (x + y) * y


def in_place(x: Any) -> Any:
    y = x.sin()
    return drop(theirs.relu(y, inplace=True)) * y


def in_place_of_a_layer(x: Any) -> Any:
    y = theirs.layer_norm(x, (8,))
    return drop(theirs.relu(y, inplace=True)) * y


def dropped_in_place(x: Any) -> Any:
    y = x.sin()
    return x + theirs.dropout(y, 0.4, inplace=True) * y


NOT_FUSED = {
    "changed before dropout": between,
    "changed before the sum": moved,
    "a draw between": other_draw,
    "an activation that is used twice": used_twice,
    "dropout that is used twice": sum_used_twice,
    "an input changed in place": in_place,
    "a layer's result changed in place": in_place_of_a_layer,
    "dropout in place": dropped_in_place,
    "another layout": lambda x: x.transpose(0, 1) + drop(x.transpose(0, 1).contiguous()),
    "another shape": lambda x: drop(x.sin()) + x[0],
    "a factor": lambda x: torch.add(x, drop(x.sin()), alpha=2),
    "twice the same": lambda x: (lambda y: y + y)(drop(x.sin())),
    "a number": lambda x: drop(x.sin()) + 1,
    "no training": lambda x: theirs.dropout(torch.relu(x), 0.4, training=False),
    "p = 0": lambda x: x + theirs.dropout(torch.relu(x), 0.0),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_is_no_pair_stays_as_it_is(name: str, operations: list[str]) -> None:
    function = NOT_FUSED[name]
    check(compiled(function), function, torch.randn(4, 3, 8))
    assert set(operations) <= {"select"}


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_fused_calls_compute_what_fastdrop_has_no_kernels_for() -> None:
    """They are found in the graph, before their tensors are known."""
    for p in (0.0, 1.0):
        for shape in ((0, 3), (2, 3)):
            x = torch.randn(shape)
            y = torch.ops.fastdrop.fused("add", x, x, 0.0, p)
            assert torch.equal(y, 2 * x if p == 0.0 else x)
    parts = [torch.ones(200), -torch.ones(100)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged)
    for operation, second, results in (("relu", None, (0, 2)), ("add", x, (-3, -1, 1, 3))):
        y = torch.ops.fastdrop.fused(operation, x, second, 0.0, 0.5).values()
        assert set(y.tolist()) == set(results)


def test_inductor_computes_the_fused_operations(operations: list[str]) -> None:
    model = Layers()
    run = torch.compile(model, fullgraph=True, dynamic=True)  # p is an input of the graph as well
    for length in (4, 5):
        operations.clear()
        x = torch.randn(length, 3, 8)
        first, second = step(run, x), step(model, x)
        for ours, plain in zip(first[:2], second[:2], strict=True):
            torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-5)
        forward = ["relu", "gelu_tanh", "relu", "add"]
        assert operations[: len(forward) + 2] == [*forward, "select", "gelu_tanh_gradient"]


@pytest.mark.parametrize("budget", [0, 0.3, 0.7])
def test_fused_gradients_are_right_at_every_budget_of_memory(budget: float) -> None:
    model = Layers()
    with torch._functorch.config.patch(activation_memory_budget=budget):
        check(compiled(lambda x: model(x)), lambda x: model(x), torch.randn(4, 8))


def test_compiled_checkpoints_repeat_fused_masks(operations: list[str]) -> None:
    """Their graphs are parts of another."""
    model = Layers()
    run = lambda x: checkpoint(model, x, use_reentrant=False)  # noqa: E731
    check(torch.compile(run, fullgraph=True), run, torch.randn(4, 8))
    assert {"relu", "gelu_tanh", "add"} <= set(operations)


def test_transforms_in_compiled_code_are_right(operations: list[str]) -> None:
    each = torch.func.grad(lambda x: (x + drop(torch.relu(x))).square().sum())
    for run in (
        each,
        torch.vmap(each, randomness="same"),
        torch.vmap(each, randomness="different"),
    ):
        torch.manual_seed(0)
        expected = run(torch.ones(3, 8))
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(run)(torch.ones(3, 8)), expected)
    assert operations


# The option of inductor


class Pass(CustomGraphPass):
    """A pass of the user."""

    def __init__(self, id: Any) -> None:
        self.id, self.graphs = id, 0

    def __call__(self, graph: Any) -> None:
        self.graphs += 1

    def uuid(self) -> Any:
        return self.id


def test_passes_of_the_user_run_and_ours_too(operations: list[str]) -> None:
    """Whenever they are set; and uninstalling leaves them."""
    function, one, two = FUSED["functions"][0], Pass("one"), Pass("two")
    ours = CONFIG.pre_grad_custom_pass.uuid()

    def runs(*passes: Pass) -> bool:
        torch._dynamo.reset()
        before = [each.graphs for each in passes]
        operations.clear()
        compiled(function)(torch.ones(8))
        return [each.graphs for each in passes] == [n + 1 for n in before]

    with CONFIG.patch(pre_grad_custom_pass=one):
        assert runs(one)
        assert operations == ["relu"]
        assert CONFIG.pre_grad_custom_pass.uuid() not in (None, ours)
        CONFIG.pre_grad_custom_pass = [one, two]
        assert runs(one, two)
        assert operations == ["relu"]
        CONFIG.pre_grad_custom_pass = (
            CONFIG.pre_grad_custom_pass
        )  # as what saves and restores it does
        ft.uninstall()
        assert CONFIG.pre_grad_custom_pass == [one, two]
        CONFIG.pre_grad_custom_pass = two
        ft.install()
        assert runs(two)
        assert operations == ["relu"]
        CONFIG.pre_grad_custom_pass = lambda graph: two(graph)
        assert runs(two)
        assert CONFIG.pre_grad_custom_pass.uuid() is None  # the caches cannot know it
        two.id = None
        CONFIG.pre_grad_custom_pass = two
        assert CONFIG.pre_grad_custom_pass.uuid() is None
    assert runs()
    assert operations == ["relu"]
    ft.uninstall()
    assert CONFIG.pre_grad_custom_pass is None


def test_fused_code_comes_from_the_caches_on_disk(operations: list[str]) -> None:
    counters = torch._dynamo.utils.counters["aot_autograd"]
    function, x = FUSED["functions"][0], torch.randn(8)
    for hits in (0, 1):
        torch._dynamo.reset()
        counters.clear()
        operations.clear()
        step(torch.compile(function), x)
        assert operations == ["relu"]
        assert counters["autograd_cache_hit"] == hits


# --- Calls in compiled code -----------------------------------------------------------------------


def written(function: Callable[..., Any], *inputs: Any) -> str:
    """Return the code that inductor writes for a function and its gradient."""
    from torch._inductor.utils import run_and_get_code

    def step() -> None:
        torch.compile(function, fullgraph=True)(*inputs).sum().backward()

    return "".join(run_and_get_code(step)[1])


def test_compiled_code_calls_kernels_without_the_dispatcher() -> None:
    x, weight = (torch.randn(8, 4, requires_grad=True) for _ in range(2))
    code = written(lambda x, w: ft.functional.drop_connect_linear(drop(x), w), x, weight)
    for name, count in (("draw_key", 2), ("forward", 2), ("connect", 3)):
        assert code.count(f"torch.ops.fastdrop.{name}.default.kernel(") == count
        assert f"torch.ops.fastdrop.{name}.default(" not in code


def test_compiled_code_draws_shared_decisions_once_and_each_once() -> None:
    """The gradient reads them, and the compiler joins what they apply to with its neighbours."""
    x = torch.randn(8, 4, 16, 16, requires_grad=True)
    code = written(lambda x: ft.functional.dropout2d(x), x)
    assert code.count("torch.ops.fastdrop.forward.default.kernel(") == 1
    key, small = fd.Key(3), ft.functional.dropout2d(torch.ones(2, 3, 1, 1), key=fd.Key(3))
    y = torch.compile(lambda x: ft.functional.dropout2d(x, key=ft.key_tensor(key)))(
        torch.ones(2, 3, 5, 5)
    )
    assert torch.equal(y, small.expand(2, 3, 5, 5))
