"""Models whose dropout is fused with its neighbours. Needs PyTorch."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import pickle
from functools import partial
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop.torch import _arguments, _fused, _keys  # noqa: E402
from fastdrop.torch._autograd import native  # noqa: E402
from fastdrop.torch._family import activations as of_activations  # noqa: E402
from fastdrop.torch._family import fused as of_fused  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = pytest.mark.once


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused functions that were called, in order."""
    names: list[str] = []
    whole = _fused.drop

    def counted(module: Any, keys: Any, function: Any, *inputs: Any, **options: Any) -> Any:
        names.append(function.__name__)
        return whole(module, keys, function, *inputs, **options)

    monkeypatch.setattr(_fused, "drop", counted)
    return names


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small tensors be fused."""
    monkeypatch.setattr(_fused, "LEAST", 0)


def mlp(activation: Any = None, dropout: Any = None) -> Any:
    torch.manual_seed(1)
    middle = activation or nn.ReLU(), dropout or nn.Dropout(0.3)
    return nn.Sequential(nn.Linear(16, 64), *middle, nn.Linear(64, 8))


def elu() -> Any:
    return mlp(nn.ELU(0.5))


def encoder(activation: Any = "relu", **options: Any) -> Any:
    torch.manual_seed(1)
    return nn.TransformerEncoderLayer(16, 4, 32, 0.2, activation, batch_first=True, **options)


def decoder(activation: Any = "relu", **options: Any) -> Any:
    torch.manual_seed(1)
    return nn.TransformerDecoderLayer(16, 4, 32, 0.2, activation, batch_first=True, **options)


def step(model: Any, *inputs: Any, **options: Any) -> list[Any]:
    """Return the result and gradients of a step from seed 0, and the generator's next number."""
    torch.manual_seed(0)
    model.zero_grad()
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    y = model(*inputs, **options)
    (y * torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    gradients = [x.grad for x in (*inputs, *model.parameters())]
    return [y.detach(), *gradients, torch.rand(4)]


def check(fused: Any, unfused: Any, *inputs: Any, **options: Any) -> None:
    """Check that two models compute the same up to rounding, and draw the same."""
    for ours, theirs in zip(
        step(fused, *inputs, **options), step(unfused, *inputs, **options), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


PAIRS = [(one, installed) for one in (nn.Dropout, ft.Dropout) for installed in (False, True)]
FORMS = [
    (nn.ReLU(), "relu_dropout"),
    (nn.ReLU(inplace=True), "relu_dropout"),
    (nn.GELU(), "gelu_dropout"),
    (nn.GELU("tanh"), "gelu_dropout"),
    (nn.SiLU(), "silu_dropout"),
    (nn.LeakyReLU(0.2, inplace=True), "activation_dropout"),
    (nn.ELU(0.7), "activation_dropout"),
    (nn.Tanh(), "activation_dropout"),
    (nn.Sigmoid(), "activation_dropout"),
    (nn.ReLU6(inplace=True), "activation_dropout"),
    (nn.Hardswish(), "activation_dropout"),
]
"""Modules, and the functions that compute them together with dropout."""


@pytest.mark.parametrize(
    ("activation", "name", "dropout", "installed"),
    [(*FORMS[0], *pair) for pair in PAIRS]
    + [(*form, *PAIRS[n % 4]) for n, form in enumerate(FORMS) if n],
)
def test_a_fused_pair_draws_and_learns_as_its_modules_do(
    activation: Any, name: str, dropout: Any, installed: bool, calls: list[str]
) -> None:
    model = mlp(activation, dropout(0.3))
    fused = ft.fuse(copy.deepcopy(model))
    x = torch.randn(32, 16)
    unfused = ft.replace(model)
    if installed:
        ft.restore(model)
        with ft.installed():
            check(fused, unfused, x)
    else:
        check(fused, unfused, x)
    assert calls == [name]


ACTIVATIONS = [
    "relu",
    "gelu",
    nn.GELU("tanh"),
    nn.ReLU(inplace=True),
    nn.functional.silu,
    nn.ELU(0.5),
    partial(nn.functional.gelu, approximate="tanh"),
    torch.tanh,
    nn.functional.mish,
    partial(nn.functional.leaky_relu, negative_slope=0.3, inplace=False),
]
KINDS = [(encoder, False), (encoder, True), (decoder, False), (decoder, True)]
"""Layers, and whether they normalize first."""


@pytest.mark.parametrize(
    ("activation", "build", "norm_first"),
    [("gelu", *kind) for kind in KINDS]
    + [(one, *KINDS[n % 4]) for n, one in enumerate(ACTIVATIONS) if one != "gelu"],
)
def test_fused_transformer_layers_draw_and_learn_as_those_of_torch_do(
    activation: Any, build: Any, norm_first: bool, calls: list[str]
) -> None:
    model = build(activation, norm_first=norm_first)
    fused = ft.replace(ft.fuse(build(activation, norm_first=norm_first)))
    inputs = [torch.randn(4, 6, 16)]
    if build is encoder:
        padding = torch.zeros(4, 6, dtype=torch.bool)
        padding[:, -1] = True
        masks = {"src_mask": torch.ones(6, 6).triu(1).bool(), "src_key_padding_mask": padding}
    else:
        inputs.append(torch.randn(4, 5, 16))
        masks = {
            "tgt_mask": torch.ones(6, 6).triu(1).bool(), "memory_mask": torch.eye(6, 5).bool(),
        }  # fmt: skip
    check(fused, ft.replace(model), *inputs, **masks)
    assert calls.count("dropout_add") == (2 if build is encoder else 3)
    assert len(calls) - calls.count("dropout_add") == (activation is not nn.functional.mish)
    check(fused, model, *inputs)


@pytest.mark.parametrize("build", [mlp, encoder])
def test_small_tensors_are_fused_only_where_it_is_faster(
    build: Any, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own node for dropout beats a fused call there; the masks stay."""
    x, fused = torch.randn(4, 6, 16), ft.fuse(build())
    every = {mlp: ["relu_dropout"], encoder: ["dropout_add", "relu_dropout", "dropout_add"]}[build]
    with ft.installed(), monkeypatch.context() as patch:
        for ready, least, expected in (
            (native.ready, 24 * 16 + 1, ["relu_dropout"] if native.ready else every),
            (native.ready, 24 * 16, every),
            (False, 1 << 20, every),
        ):  # fmt: skip
            patch.setattr(native, "ready", ready)
            patch.setattr(_fused, "LEAST", least)
            calls.clear()
            check(fused, build(), x)
            assert calls == expected


def test_results_in_evaluation_are_those_of_the_modules(calls: list[str]) -> None:
    x = torch.randn(4, 6, 16)
    for model in (mlp(nn.GELU()), encoder(), encoder(nn.functional.mish, norm_first=True)):
        fused = ft.fuse(copy.deepcopy(model)).eval()
        assert torch.equal(fused(x), model.eval()(x))
        with torch.no_grad():
            assert torch.equal(fused(x), model(x))
    model = decoder()
    fused = ft.fuse(copy.deepcopy(model)).eval()
    mask = torch.ones(6, 6).triu(1).bool()
    assert torch.equal(fused(x, x, mask), model.eval()(x, x, mask))
    assert torch.equal(fused(x, x, None, mask), model(x, x, None, mask))
    assert not calls


def test_torchs_fast_path_computes_a_fused_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.TransformerEncoder(ft.fuse(encoder()), 2).eval()
    fast, times = torch._transformer_encoder_layer_fwd, []

    def counted(*arguments: Any) -> Any:
        times.append(1)
        return fast(*arguments)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    with torch.no_grad():
        layer(torch.randn(4, 6, 16))
    assert len(times) == 2


def test_the_rate_and_the_mode_are_those_of_the_dropout_module(calls: list[str]) -> None:
    fused, x = ft.fuse(mlp()), torch.randn(8, 16)
    schedule = fd.PSchedule(fused[2], fd.schedules.Linear(0.0, 0.5, steps=1))
    schedule.step()
    fused(x)
    assert not calls
    schedule.step()
    check(fused, ft.replace(mlp(dropout=nn.Dropout(0.5))), x)
    assert len(calls) == 1
    fused[2].eval()
    assert torch.equal(fused(x), mlp().eval()(x))
    fused.eval()[2].train()
    check(fused, ft.replace(mlp(dropout=nn.Dropout(0.5))), x)


def test_keys_reach_fused_modules() -> None:
    x = torch.randn(4, 6, 16)
    in_standard_mode = mlp(dropout=ft.Dropout(0.3, mode="standard"))
    for build in (mlp, lambda: copy.deepcopy(in_standard_mode), encoder):
        results = []
        for model in (ft.fuse(build()), build()):
            for options in ({}, {"numbered": True}, {"rank": 1, "world_size": 2}):
                ft.set_keys(model, fd.Key(3), **options)
                with ft.installed():
                    results += step(model, x)[:-1]
        half = len(results) // 2
        for ours, theirs in zip(results[:half], results[half:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_a_held_module_repeats_its_mask() -> None:
    model, x = ft.fuse(mlp(dropout=ft.Dropout(0.5))), torch.randn(8, 16)
    with model[2].hold():
        first, second = model(x), model(x)
    assert torch.equal(first, second)
    assert not torch.equal(first, model(x))


def test_monte_carlo_samples_are_those_of_the_modules(calls: list[str]) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3, 16)).astype(np.float32)
    for build, modes in ((mlp, (False, True)), (encoder, (True,))):
        for mode in modes:
            results: list[Any] = []
            for model in (ft.fuse(build()).train(mode), ft.replace(build()).train(mode)):
                layers = [each for each in model.modules() if isinstance(each, nn.Dropout)]
                with ft.installed(), torch.no_grad():
                    runs = fd.MonteCarlo(model, layers, rng=7)
                    for each in (runs.samples, runs.batch):
                        torch.manual_seed(0)
                        results.append(np.asarray(each(torch.tensor(x), 4)))
            for ours, theirs in zip(results[:2], results[2:], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    assert {"relu_dropout", "dropout_add"} == set(calls)


def test_hooks_see_what_they_saw(calls: list[str]) -> None:
    x = torch.randn(8, 16)
    for index in (1, 2):
        seen: list[Any] = []
        for model in (ft.fuse(mlp()), ft.replace(mlp())):
            handle = model[index].register_forward_hook(lambda *those, to=seen: to.append(those))
            torch.manual_seed(0)
            model(x)
            handle.remove()
        assert torch.equal(seen[0][1][0], seen[1][1][0])
        assert torch.equal(seen[0][2], seen[1][2])
    names: list[str] = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: names.append(type(module).__name__)
    )
    ft.fuse(mlp())(x)
    handle.remove()
    assert names == ["Sequential", "Linear", "ReLU", "Dropout", "Linear"]
    assert not calls
    model = ft.fuse(encoder())
    model.dropout1.register_full_backward_hook(lambda *_: None)
    model(torch.randn(2, 3, 16))
    assert calls == ["relu_dropout", "dropout_add"]


def test_slices_and_exchanged_modules_compute_what_they_contain() -> None:
    fused, model, x = ft.fuse(mlp()), mlp(), torch.randn(8, 16)
    assert torch.equal(fused[:2](x), model[:2](x))
    assert torch.equal(fused[1](x), x.relu())
    fused[1] = model[1] = nn.Tanh()
    check(fused, ft.replace(model), x)
    fused[2] = nn.Identity()
    assert torch.equal(fused(x), model.eval()(x))
    layer, theirs = ft.fuse(encoder()), encoder()
    layer.dropout1 = theirs.dropout1 = nn.Identity()
    check(layer, ft.replace(theirs), torch.randn(4, 6, 16))


def test_an_activation_in_place_changes_what_others_hold() -> None:
    x = torch.randn(8, 16)
    for before in ([], [nn.Flatten()], [nn.Identity()]):  # they return their input
        y = x.clone()
        pair = nn.ReLU(inplace=True), nn.Dropout()
        model, report = ft.fuse(nn.Sequential(*before, *pair), report=True)
        model(y)
        assert torch.equal(y, x.relu())
        assert not report[0].fused
        assert "in place" in report[0].note
    layer = encoder()
    layer.dropout1.inplace = True
    assert [line.fused for line in ft.fuse(layer, report=True)[1]] == [True, False, True]
    held: list[Any] = []
    layer.self_attn.register_forward_hook(lambda *those: held.append(those[2][0]))
    layer(torch.randn(2, 3, 16))
    assert bool((held.pop() == 0.0).any())
    model = ft.fuse(mlp(nn.ReLU(inplace=True)))
    model[0].register_forward_hook(lambda *those: held.append(those[2]))
    model(x)
    assert float(held[0].detach().min()) == 0.0


class Unhashable:
    """A callable that compares by value."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody may compare activations by value")

    def __call__(self, x: Any) -> Any:
        """Return the input."""
        return x


@pytest.mark.parametrize(
    "activation",
    [
        nn.LeakyReLU(torch.tensor(0.3)), nn.ELU(float("inf")), nn.Hardtanh(0.0, 6.0), Unhashable(),
        partial(nn.functional.elu, inplace=True), partial(torch.mul, torch.tensor(2.0)),
        partial(nn.functional.hardtanh, min_val=0.0), partial(torch.relu, out=None),
    ],
    ids=repr,
)  # fmt: skip
def test_activations_that_no_fused_function_computes_run_as_they_are(
    activation: Any, calls: list[str]
) -> None:
    fused = ft.fuse(encoder(activation))
    torch.manual_seed(0)
    try:
        fused(torch.randn(2, 3, 16))
    except (RuntimeError, TypeError):  # torch's own
        assert not isinstance(activation, Unhashable)
    assert set(calls) <= {"dropout_add"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int64])
def test_other_dtypes_compute_what_the_modules_do(dtype: Any) -> None:
    x = (8 * torch.randn(8, 16)).to(dtype)
    results = []
    for fusing in (ft.fuse, ft.replace):
        model = fusing(nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))
        torch.manual_seed(0)
        try:
            results.append(model(x))
        except RuntimeError as error:  # torch's own, for dtypes without ReLU or dropout
            results.append(str(error))
    ours, theirs = results
    assert ours == theirs if isinstance(theirs, str) else torch.equal(ours, theirs)


def test_infinite_and_nan_elements_are_dropped_or_kept() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1.0]).repeat(40)
    for activation in (
        nn.ReLU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.ELU(),
        nn.Tanh(),
    ):  # torch's exact GELU of inf is NaN
        results = []
        for fusing in (ft.fuse, ft.replace):
            torch.manual_seed(0)
            results.append(fusing(nn.Sequential(activation, nn.Dropout(0.5)))(x))
        torch.testing.assert_close(*results, equal_nan=True)


def test_restoring_leaves_no_trace() -> None:
    for build in (mlp, encoder, decoder):
        model = build()
        before = [(type(module), dict(vars(module))) for module in model.modules()]
        names = list(model.state_dict()), [name for name, _ in model.named_modules()]
        assert ft.fuse(ft.fuse(model)) is model
        assert names == (list(model.state_dict()), [name for name, _ in model.named_modules()])
        assert vars(model) != before[0][1]
        assert ft.restore(model) is model
        assert before == [(type(module), vars(module)) for module in model.modules()]


def test_copies_and_pickles_are_fused_on_their_own(calls: list[str]) -> None:
    x = torch.randn(4, 6, 16)
    for build in (mlp, encoder):
        fused = ft.fuse(build())
        for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            check(other, fused, x)
            for weight in other.parameters():
                weight.data.zero_()
            assert not torch.equal(other(x), fused(x))
    assert "relu_dropout" in calls
    assert "dropout_add" in calls


def test_checkpoints_draw_the_same_masks_again() -> None:
    x = torch.randn(4, 6, 16)
    for build in (mlp, encoder):
        fused = ft.fuse(build())
        again = copy.deepcopy(fused)

        class Kept(nn.Module):
            def __init__(self, inner: Any) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> Any:
                return checkpoint(self.inner, x, use_reentrant=False)

        check(Kept(again), fused, x)


@pytest.mark.parametrize(("build", "count"), [(mlp, 1), (elu, 1), (encoder, 3), (decoder, 4)])
def test_compiled_models_are_fused_and_draw_the_same_masks(build: Any, count: int) -> None:
    targets: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    fused = ft.fuse(build())
    compiled = torch.compile(fused, fullgraph=True, backend=backend)
    x = torch.randn(4, 6, 16)
    with ft.installed():
        check(compiled, fused, *([x, x] if build is decoder else [x]))
    assert targets.count("fastdrop.forward") == count
    assert not any("relu" in target or "add" in target for target in targets)
    torch._dynamo.reset()


def test_a_trace_holds_the_modules() -> None:
    model = torch.fx.symbolic_trace(ft.fuse(mlp()))
    assert [node.target for node in model.graph.nodes if node.op == "call_module"] == list("0123")


class Layer(nn.TransformerEncoderLayer):
    """A layer with a block of its own."""

    def _ff_block(self, x: Any) -> Any:
        return x


class Sharded(nn.TransformerEncoderLayer):
    """A layer with more methods, as FSDP makes them."""


class Own(nn.Sequential):
    """A container with a forward of its own."""

    def forward(self, x: Any) -> Any:
        """Return the input."""
        return x


def test_the_report_says_what_is_fused_and_why_not() -> None:
    hooked = nn.Sequential(nn.ReLU(), nn.Dropout())
    hooked[0].register_forward_hook(lambda *_: None)
    model = nn.ModuleDict(
        {
            "mlp": mlp(), "mish": mlp(nn.Mish()), "planes": mlp(None, nn.Dropout2d()),
            "first": nn.Sequential(nn.Dropout()), "own": Own(nn.ReLU(), nn.Dropout()),
            "hooked": hooked, "alone": nn.Dropout(), "layer": encoder(nn.GELU()),
            "users": Layer(16, 4), "sharded": Sharded(16, 4),
        }
    )  # fmt: skip
    result, report = ft.fuse(model, report=True)
    assert result is model
    alone = "it is in no container that can be fused"
    apart = "neither an activation before it nor a sum after it can be fused"
    assert [tuple(line) for line in report] == [
        ("alone", False, alone),
        ("mlp.2", True, "ReLU"),
        ("mish.2", False, "nothing is fused after Mish"),
        ("planes.2", False, "only Dropout has fused forms"),
        ("first.0", False, "nothing comes before it in its container"),
        ("own.1", False, apart),
        ("hooked.1", False, "its activation has hooks, or is compiled"),
        ("layer.dropout", True, "GELU"),
        ("layer.dropout1", True, "residual"),
        ("layer.dropout2", True, "residual"),
        ("users.dropout", False, alone),
        ("users.dropout1", False, alone),
        ("users.dropout2", False, alone),
        ("sharded.dropout", True, "relu"),
        ("sharded.dropout1", True, "residual"),
        ("sharded.dropout2", True, "residual"),
    ]
    assert {line.name for line in report} == {
        name for name, module in model.named_modules() if "Dropout" in type(module).__name__
    }
    assert ft.fuse(nn.Dropout(), report=True)[1] == [("", False, alone)]


# --- Containers with code of their own ------------------------------------------------------------


class Block(nn.Module):
    """Modules for the code of the classes below, which differ in `forward` alone."""

    p = 0.3

    def __init__(self, dropout: Any = nn.Dropout) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc, self.out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.drop, self.drop2 = dropout(0.3), dropout(0.2)
        self.act, self.relu = nn.ELU(0.5), nn.ReLU(inplace=True)


class Nested(Block):
    """Calls in calls, and a function's options."""

    def forward(self, x: Any, scale: float = 1.0) -> Any:
        """Compute."""
        y = self.drop(F.leaky_relu(self.fc(x), negative_slope=0.2))
        y = self.out(self.drop(self.relu(self.fc(y)))) * scale
        return self.norm(x + self.drop2(y))


class Bert(Block):
    """Statements, as in models of transformers."""

    def forward(
        self,
        hidden: Any,
    ) -> Any:
        """Compute."""
        x, text = (
            hidden,
            """Lines
begin anywhere.""",
        )
        hidden = self.fc(hidden)
        hidden = self.act(hidden)
        hidden = self.drop(hidden)
        hidden = self.out(hidden)
        hidden = self.drop2(hidden)
        hidden = self.norm(hidden + x)
        return hidden * len(text)


class Functions(Block):
    """Functions instead of modules."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        y = nn.functional.dropout(torch.tanh(self.fc(x)), p=self.p, training=self.training)
        y = F.silu(self.out(y))
        y = F.dropout(y, 0.2, self.training)
        return F.dropout(self.fc(y), training=self.training) + x


class Branches(Block):
    """Code that depends on data, the mode, and closed-over and global names."""

    def forward(self, x: Any, *others: Any, **options: Any) -> Any:
        """Compute."""
        for n in range(2):
            if float(x.detach().sum()) > n or not self.training:
                y = self.fc(x)
                y = self.act(y)
                y = self.drop(y)
            else:
                y = self.out(x)
            with torch.no_grad():
                shift = y.mean() * STATE["scale"]
            x = self.drop2(y) + x + shift
        return x + sum(others)


STATE = {"scale": 1.0}
STYLES = [
    (Nested, ["activation_dropout", "relu_dropout", "dropout_add"]),
    (Bert, ["activation_dropout", "dropout_add"]),
    (Functions, ["activation_dropout", "silu_dropout", "dropout_add"]),
    (Branches, ["activation_dropout", "dropout_add", "activation_dropout", "dropout_add"]),
]
styles = pytest.mark.parametrize(("style", "names"), STYLES)


@pytest.fixture
def functions(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused functions, whether modules or code called them."""
    calls.clear()
    whole = _arguments.run

    def counted(member: Any, *arguments: Any, **options: Any) -> Any:
        if member.fuses:
            calls.append(member.name)
        return whole(member, *arguments, **options)

    for module in (of_activations, of_fused):
        monkeypatch.setattr(module, "run", counted)
    monkeypatch.setattr(_fused, "drop", _keys.drop)
    return calls


@pytest.mark.parametrize("dropout", [nn.Dropout, ft.Dropout])
@styles
def test_code_of_a_class_is_fused_and_draws_and_learns_as_before(
    style: Any, names: list[str], dropout: Any, functions: list[str]
) -> None:
    x = torch.randn(8, 16) + 1.0
    fused, report = ft.fuse(style(dropout), report=True)
    with ft.installed():
        check(fused, style(dropout), x)
    assert functions == names
    assert sum(line.fused for line in report) == (1 if style is Functions else 2)
    assert torch.equal(fused.eval()(x), style(dropout).eval()(x))
    assert functions == names
    assert inspect.signature(fused.forward) == inspect.signature(style().forward)


@styles
def test_copies_of_fused_code_are_fused_on_their_own(
    style: Any, names: list[str], functions: list[str]
) -> None:
    x, fused = torch.randn(8, 16) + 1.0, ft.fuse(style())
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(ft.fuse(style())))):
        check(other, fused, x)
        assert functions == 2 * names
        functions.clear()
        for weight in other.parameters():
            weight.data.zero_()
        assert not torch.equal(other.eval()(x), fused.eval()(x))
        fused.train()


@styles
def test_restored_code_leaves_no_trace(style: Any, names: list[str]) -> None:
    model = style()
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    assert ft.restore(ft.fuse(ft.fuse(model))) is model
    assert before == [(type(module), vars(module)) for module in model.modules()]


@pytest.mark.parametrize(("style", "names"), STYLES[:3])
def test_fused_code_is_compiled_in_one_graph(style: Any, names: list[str]) -> None:
    targets: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    fused, x = ft.fuse(style()), torch.randn(8, 16)
    with ft.installed():
        check(torch.compile(fused, fullgraph=True, backend=backend), fused, x)
    assert targets.count("fastdrop.forward") == len(names)
    torch._dynamo.reset()


@styles
def test_checkpoints_of_fused_code_draw_the_same_masks_again(style: Any, names: list[str]) -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ft.fuse(style())

        def forward(self, x: Any) -> Any:
            return checkpoint(self.inner, x, use_reentrant=False)

    check(Kept(), ft.fuse(style()), torch.randn(8, 16))


def test_fused_code_sees_hooks_names_and_modules_that_change(functions: list[str]) -> None:
    x = torch.randn(8, 16) + 1.0
    fused, model = ft.fuse(Bert()), Bert()
    seen: list[Any] = []
    for each in (fused, model):
        each.act.register_forward_hook(lambda *those: seen.append(those[2]))
        each.drop2 = nn.Identity()
    with ft.installed():
        check(fused, model, x)
        assert torch.equal(*seen)
        for each in (fused, model):
            each.drop2 = nn.Dropout(0.5, inplace=True)
            each.norm.eval()
        check(fused, model, x)
    assert functions == []
    fused, model = ft.fuse(Branches()), Branches()
    STATE["scale"] = 2.0
    try:
        with ft.installed():
            check(fused, model, x)
    finally:
        STATE["scale"] = 1.0


def test_new_code_of_a_class_replaces_fused_code(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = ft.fuse(Bert())
    monkeypatch.setattr(Bert, "forward", lambda self, hidden: hidden + 1.0)
    assert torch.equal(fused(torch.zeros(2)), torch.ones(2))


def test_keys_and_samples_reach_fused_code(functions: list[str]) -> None:
    x, results = torch.randn(8, 16), []
    for model in (ft.fuse(Bert()), ft.replace(Bert())):
        ft.set_keys(model, fd.Key(3), numbered=True)
        results.append(step(model, x)[0])
        ft.set_keys(model, None)
        with torch.no_grad():
            runs = fd.MonteCarlo(model, [model.drop, model.drop2], rng=7)
            results.append(torch.as_tensor(runs.batch(x, 3)))
    torch.testing.assert_close(results[:2], results[2:], rtol=2e-5, atol=2e-5)


class Late(Block):
    """A variable is used again."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        y = self.act(self.fc(x))
        z = self.drop(y)
        w = self.drop2(z)
        v = w + x
        return v + y + w


class Later(Block):
    """Variables are used in the next turn, by augmented assignment, and by a function."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        y = z = x
        for _ in range(2):
            y = self.act(y + z)
            z = self.drop(y)
        w = self.drop2(x)
        v = w + x
        w += 1.0
        u = self.drop2(x)
        t = u + x
        return v + z + t + (lambda: u)()


class Order(Block):
    """Other draws come between."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        y = self.drop(x)
        y = torch.rand(16) * (y + x)
        z = self.drop2(x) + torch.rand(16)
        w = self.act(x)
        return y + z + torch.rand(16) * self.drop(w)


class Caught(Block):
    """Code after an exception sees the variable."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        try:
            y = self.drop(x)
            y = y + self.missing
        except AttributeError:
            pass
        with contextlib.suppress(AttributeError):
            z = self.act(x)
            z = self.missing(self.drop2(z))
        return y + z


class Shapes(Block):
    """Sums that are larger than what is dropped, of another layout, dtype or kind."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        x = x.reshape(8, 4, 4)
        y = x[:, :1] + self.drop(x[:1])
        y = y + self.drop(x.transpose(1, 2)) + 1.0
        return y + (self.drop(x[0, 0, 0].detach()) + 2) + (torch.arange(4) + self.drop2(x))


class InPlace(Block):
    """Functions that change their input, and sums in place."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        y, w = x * 1.0, x * 2.0
        y = self.drop(self.relu(y)) * 1.0
        z = self.drop(F.elu(w, inplace=True)) * w
        x = x * 3.0
        x += self.drop2(y)
        return F.dropout(x * 2.0, 0.5, self.training, True) + x + z


@pytest.mark.parametrize("style", [Late, Later, Order, Caught, Shapes, InPlace])
def test_code_is_left_alone_where_fusion_would_change_what_it_does(
    style: Any, functions: list[str]
) -> None:
    x = torch.randn(8, 16)
    with ft.installed():
        check(ft.fuse(style()), style(), x)
    assert functions == []


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*inputs: Any) -> Any:
        return function(*inputs) + 1.0

    return wrapper


class Decorated(Block):
    """Its forward is another function."""

    @decorated
    def forward(self, x: Any) -> Any:
        """Compute."""
        return x + self.drop(x)


class Wrapped(Bert):
    """The same, in another way."""

    forward = decorated(Bert.forward)


class Inherits(Bert):
    """Its forward calls another."""

    def forward(self, hidden: Any) -> Any:
        """Compute."""
        return super().forward(hidden) + self.drop(hidden)


class Private(Block):
    """A name that Python changes in a class."""

    def forward(self, x: Any) -> Any:
        """Compute."""
        self.__x = x
        return self.__x + self.drop(x)


def test_code_that_cannot_be_rewritten_is_left_alone_with_a_reason() -> None:
    source = """def forward(self, x):
    return x + self.drop(x)
"""
    known: dict[str, Any] = {}
    exec(source, known)
    models: dict[Any, str] = {
        Decorated(): "its container's forward is decorated",
        Wrapped(): "its container's forward is not what its source says",
        Inherits(): "its container's forward uses scopes that cannot be moved",
        Private(): "its container's forward uses scopes that cannot be moved",
        type("Unknown", (Block,), known)():
            "the source of its container's forward is not available",
    }  # fmt: skip
    own = Bert()
    own.forward = lambda x: x
    models[own] = "it is in a container with a forward of its own"
    for model, reason in models.items():
        before = dict(vars(model))
        _, report = ft.fuse(model, report=True)
        assert vars(model) == before
        assert {(line.fused, line.note) for line in report} == {(False, reason)}


def test_the_report_names_what_code_fuses_and_why_not() -> None:
    model = nn.ModuleDict({"nested": Nested(), "functions": Functions(), "order": Order()})
    model["inplace"] = InPlace()
    apart = "neither an activation before it nor a sum after it can be fused"
    assert [tuple(line) for line in ft.fuse(model, report=True)[1]] == [
        ("nested.drop", True, "leaky_relu, ReLU"),
        ("nested.drop2", True, "residual"),
        ("functions.drop", False, apart),
        ("functions.drop2", False, apart),
        ("functions.dropout()", True, "tanh, silu, residual"),
        ("order.drop", False, apart),
        ("order.drop2", False, apart),
        ("inplace.drop", False, "nothing is fused after this call of elu"),
        ("inplace.drop2", False, apart),
    ]


def test_a_layer_with_blocks_of_its_own_is_left_alone(calls: list[str]) -> None:
    layer = encoder()
    layer._ff_block = lambda x: x
    before = dict(vars(layer))
    _, report = ft.fuse(layer, report=True)
    assert vars(layer) == before
    assert not any(line.fused for line in report)
    late = ft.fuse(encoder())
    late._ff_block = lambda x: x
    late(torch.randn(2, 3, 16))
    assert not calls


def test_installing_fuses_nothing(calls: list[str]) -> None:
    with ft.installed():
        mlp()(torch.randn(8, 16))
    assert not calls


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1],), {}, r"model must be a Module, got \[1\]"),
        ((nn.ReLU(),), {"report": 2}, "report must be"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ft.fuse(*arguments, **options)


@pytest.mark.parametrize("change", [ft.replace, ft.restore])
def test_only_models_are_replaced_and_restored(change: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a Module, got \[1\]"):
        change([1])
