"""Models in torch's tools: caches, partitioner, export, torch.fx, DTensor. Needs PyTorch."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fastdrop as fd
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from tensors import drawn  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(tensor cores|ONNX|opset|in training mode)"),
]

F = ft.functional
KEY = fd.Key(3)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    ft.uninstall()


# Compiled code and what is installed

PROCESS = """
import sys
import torch
from torch.nn import functional

x = torch.ones(300)

def run(function):
    torch.manual_seed(0)
    return function(x)

def dropped(x):
    return functional.dropout(torch.relu(x), 0.5)

compiled = torch.compile(dropped)
for step in sys.argv[1:]:
    if step == "tag":
        torch.compiler.config.cache_key_tag = "mine"
    elif step != "plain":
        import fastdrop.torch
        getattr(fastdrop.torch, step)()
    y = run(compiled)
    kept = (y != 0).int().tolist()
    same = bool((y == run(dropped)).all())
    print(step, same, int("".join(map(str, kept)), 2))
assert ("fastdrop" in sys.modules) == any("install" in step for step in sys.argv), sys.modules
"""


def test_caches_on_disk_serve_no_process_what_another_installed(tmp_path: Path) -> None:
    """Kernels are replaced below the graphs by which the caches know a function."""
    # In a new folder, inductor would first compile its headers, and a program for each CPU level.
    environment = {
        **os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_VEC_ISA_OK": "0",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }  # fmt: skip
    masks: dict[bool, set[str]] = {True: set(), False: set()}
    for steps in (["plain"], ["install", "tag"], ["plain"], ["tag", "install", "uninstall"]):
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, *steps],
            env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        installed = False
        for line in done.stdout.splitlines():
            step, same, mask = line.split()
            installed = {"install": True, "uninstall": False}.get(step, installed)
            assert not installed or same == "True", (steps, line)
            masks[installed].add(mask)
    assert [len(found) for found in masks.values()] == [1, 1]
    assert masks[True] != masks[False]


def test_what_is_compiled_draws_what_is_installed_now() -> None:
    """In one process, in any order, in other threads, and for every operator."""
    x = torch.ones(4, 16, 2, 2)
    functions = [
        lambda x: theirs.dropout(x, 0.5),
        lambda x: theirs.dropout2d(x, 0.5),
        lambda x: theirs.alpha_dropout(x, 0.5, True),
        lambda x: torch.native_dropout(x, 0.5, True)[0],
        lambda x: theirs.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    ]
    compiled = [torch.compile(function, backend="aot_eager") for function in functions]

    def check() -> None:
        for one, other in zip(functions, compiled, strict=True):
            for mode in (torch.enable_grad, torch.inference_mode):
                with mode():
                    assert torch.equal(drawn(one, x), drawn(other, x))

    ours = drawn(F.dropout, x, 0.5)
    for change in (lambda: None, ft.install, ft.uninstall, ft.install):
        change()
        check()
    assert torch.equal(drawn(compiled[0], x), ours)
    with ft.installed():
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()
    ft.uninstall()
    with ft.installed():
        assert torch.equal(drawn(compiled[0], x), ours)
    assert not torch.equal(drawn(compiled[0], x), ours)


def test_the_tag_of_a_user_stays() -> None:
    config = torch.compiler.config
    with config.patch(cache_key_tag="one"):
        ft.install()
        assert config.cache_key_tag.startswith("one ")
        with config.patch(cache_key_tag="two"):
            assert config.cache_key_tag.startswith("two ")
        config.cache_key_tag = config.cache_key_tag  # as what saves and restores it does
        ft.uninstall()
        assert config.cache_key_tag == "one"


# What compiled code computes again


class Net(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.drops = nn.ModuleList(kind(p) for p in (0.5, 0.3))

    def forward(self, x: Any) -> Any:
        first, second, third = self.layers
        x = self.drops[0](torch.cos(first(x)))
        return third(self.drops[1](torch.sin(second(x)).relu())).sin()


@pytest.mark.parametrize(
    ("budget", "how"),
    [(budget, "ours") for budget in (0, 0.1, 0.5, 0.9, 1)]
    + [(budget, how) for budget in (0, 0.5) for how in ("install", "keys", "vmap")],
)
def test_gradients_are_right_at_every_budget_of_memory(budget: float, how: str) -> None:
    """The partitioner computes again what does not fit; a key must not be among it."""
    net = Net(nn.Dropout if how == "install" else ft.Dropout)
    if how == "install":
        ft.install()
    function: Any = net
    if how == "vmap":
        function = torch.vmap(lambda x: net(x), randomness="same")
    x = torch.randn(8, 16)

    def gradients(function: Any) -> Any:
        if how == "keys":
            ft.set_keys(net, KEY, numbered=True)
        y = drawn(lambda x: function(x).square() + function(x), x)
        return torch.autograd.grad(y.sum(), list(net.parameters()))

    expected = gradients(function)
    with torch._functorch.config.patch(activation_memory_budget=budget):
        compiled = torch.compile(function, backend="aot_eager_decomp_partition", fullgraph=True)
        torch.testing.assert_close(gradients(compiled), expected)


def test_gradients_of_inductor_are_right_without_memory_to_spare() -> None:
    function = lambda x: F.dropout(F.dropout(x, 0.5).sin(), 0.5)  # noqa: E731
    region = torch.autograd.graph.region_activation_memory_budget

    def inside(x: Any) -> Any:
        with region(0.0):
            return function(x)

    x = torch.rand(100, requires_grad=True)
    (expected,) = torch.autograd.grad(drawn(function, x).sum(), x)
    with torch._functorch.config.patch(activation_memory_budget=0):
        (actual,) = torch.autograd.grad(drawn(torch.compile(function), x).sum(), x)
    torch.testing.assert_close(actual, expected)
    compiled = torch.compile(inside, backend="aot_eager_decomp_partition", fullgraph=True)
    (actual,) = torch.autograd.grad(drawn(compiled, x).sum(), x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_selective_checkpoints_keep_or_repeat_the_masks(compiled: bool) -> None:
    from torch.utils.checkpoint import (
        CheckpointPolicy,
        checkpoint,
        create_selective_checkpoint_contexts,
    )

    net, x = Net(ft.Dropout), torch.rand(8, 16)
    expected = torch.autograd.grad(drawn(net, x).sum(), list(net.parameters()))
    ours = ("fastdrop", "aten::random_")
    for saved in (ours, ("aten::addmm", "aten::mm"), ()):

        def policy(
            context: Any, operator: Any, *arguments: Any, saved: Any = saved, **_: Any
        ) -> Any:
            keep = operator.name().startswith(saved)
            return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

        def run(x: Any, policy: Any = policy) -> Any:
            return checkpoint(
                net, x, use_reentrant=False,
                context_fn=partial(create_selective_checkpoint_contexts, policy),
            )  # fmt: skip

        torch._dynamo.reset()
        function = torch.compile(run, backend="aot_eager_decomp_partition") if compiled else run
        actual = torch.autograd.grad(drawn(function, x).sum(), list(net.parameters()))
        torch.testing.assert_close(actual, expected)


# Masks and keys as inputs


@pytest.mark.parametrize("fullgraph", [False, True])
def test_masks_and_keys_are_inputs_of_compiled_functions(fullgraph: bool) -> None:
    def function(x: Any, mask: Any, key: Any) -> Any:
        return F.alpha_dropout(F.gelu_dropout(x, mask=mask), 0.3, True, key=key)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=fullgraph)
    counts = torch._dynamo.utils.counters["stats"]
    graphs = []
    for n in range(4):
        part = fd.Mask((8, 16), 0.5, fd.Key(n)).region((4, 0), (4, 16))
        x = torch.randn(4, 16, requires_grad=True)
        y = compiled(x, part, KEY.fold_in(n))
        assert torch.equal(y, function(x, part, KEY.fold_in(n)))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        (expected,) = torch.autograd.grad(function(x, part, KEY.fold_in(n)).sum(), x)
        assert torch.equal(gradient, expected)
        graphs.append(counts["unique_graphs"])
    assert graphs[-1] == graphs[0]
    held = fd.Mask((8, 16), 0.5, KEY)
    closed = torch.compile(lambda x: F.dropout(x, mask=held), backend="aot_eager")
    assert torch.equal(closed(torch.ones(8, 16)), F.dropout(torch.ones(8, 16), mask=held))


# torch.fx


def test_functions_are_leaves_of_a_trace() -> None:
    def function(x: Any) -> Any:
        return F.dropout2d(F.relu_dropout(x, 0.3), 0.5, training=True)

    traced = torch.fx.symbolic_trace(function)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        F.relu_dropout, F.dropout2d,
    ]  # fmt: skip
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(drawn(traced, x), drawn(function, x))


def test_a_tracer_may_go_into_modules() -> None:
    class Deep(torch.fx.Tracer):
        def is_leaf_module(self, module: Any, name: str) -> bool:
            return False

    model = ft.replace(nn.Sequential(nn.Linear(4, 4), nn.Dropout()))
    targets = [node.target for node in Deep().trace(model).nodes]
    assert theirs.dropout in targets
    by_name = F.dropout
    with pytest.raises(TypeError, match="got Proxy: in a trace, call fastdrop"):
        torch.fx.symbolic_trace(lambda x: by_name(x))


def test_quantization_takes_models_with_our_modules() -> None:
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx, prepare_qat_fx

    def model() -> Any:
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), ft.Dropout(0.5), nn.Linear(4, 4))

    x = torch.randn(2, 4)
    mapping = get_default_qat_qconfig_mapping("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuse_fx(model().eval())(x)
        prepared = prepare_fx(model().eval(), mapping, (x,))
        prepared(x)
        trained = prepare_qat_fx(ft.replace(model()).train(), mapping, (x,))
        trained(x).sum().backward()
        assert convert_fx(trained.eval())(x).shape == (2, 4)


# Programs that leave the process


def test_exported_programs_keep_given_keys() -> None:
    class Given(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.dropout(x, 0.5, key=KEY)

    x = torch.randn(6, 8)
    assert torch.equal(torch.export.export(Given(), (x,)).module()(x), F.dropout(x, 0.5, key=KEY))


def test_onnx_takes_models_in_training() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Dropout(0.5), ft.Dropout(0.5), ft.DropPath(0.5), ft.GeluDropout(0.5))
    x = torch.ones(64, 64)
    ft.install()
    program = torch.onnx.export(
        model, (x,), dynamo=True, training=torch.onnx.TrainingMode.TRAINING, verbose=False
    )
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert 0.85 < (y == 0).mean() < 0.99  # 15 in 16; rows are dropped as a whole


# Other kinds of tensors


class Wrapper(torch.Tensor):
    """A subclass that computes by itself, and knows torch's operators alone."""

    @staticmethod
    def __new__(cls, inner: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert f.namespace == "aten"
        inner = [x.inner if isinstance(x, cls) else x for x in args]
        y = f(*inner, **(kwargs or {}))
        return cls(y) if isinstance(y, torch.Tensor) and y is not inner[0] else args[0]


@pytest.mark.parametrize("kind", [nn.Dropout, ft.Dropout, nn.Dropout1d, ft.Dropout1d])
def test_subclasses_that_compute_by_themselves_go_on(kind: Any) -> None:
    x = Wrapper(torch.ones(10, 4, 100))
    with ft.installed():
        y = kind(0.5)(x)
    assert type(y) is Wrapper
    assert 0.2 < (y.inner == 0).float().mean() < 0.8


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nothing_is_drawn_for_p_0() -> None:
    ft.install()
    state = torch.get_rng_state()
    x = torch.ones(5, requires_grad=True)
    y, mask = torch.native_dropout(x, 0.0, True)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(5))
    assert mask.all()
    jagged = torch.nested.nested_tensor([torch.ones(3, 2), torch.ones(2, 2)], layout=torch.jagged)
    assert torch.equal(theirs.dropout(jagged, 0.0).values(), jagged.values())
    assert torch.equal(state, torch.get_rng_state())
    for gradient in (False, True):
        p = torch.tensor(0.5, requires_grad=gradient)
        for function in (theirs.dropout, F.dropout):
            if gradient:
                with pytest.raises(TypeError):
                    function(x, p)
            else:
                assert function(x, p).shape == (5,)


def _distributed(rank: int, path: str) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    warnings.simplefilter("ignore")
    try:
        mesh = init_device_mesh("cpu", (2,))
        torch.manual_seed(1)
        x, residual, bias = torch.randn(5, 6, 4), torch.randn(5, 6, 4), torch.randn(6, 1)

        def placed(y: Any, like: Any) -> Any:
            is_placed = isinstance(like, DTensor)
            return distribute_tensor(y, mesh, [Replicate()]) if is_placed else y

        functions = [
            lambda x: F.dropout(x, 0.5),
            lambda x: F.dropout1d(x, 0.5, key=KEY),
            lambda x: F.dropout(x, mask=fd.Mask((6, 1), 0.5, KEY)),
            lambda x: F.gelu_dropout(x, 0.5),
            lambda x: F.activation_dropout(x, 0.5, activation="elu", alpha=0.5),
            lambda x: F.gaussian_dropout(x, 0.5, broadcast_dims=1),
            lambda x: F.zoneout(x, placed(residual, x), 0.5),
            lambda x: F.bias_dropout_add(x, placed(bias, x), placed(residual, x), 0.5),
            ft.Dropout(0.5),
            lambda x: theirs.dropout(x, 0.5),
            lambda x: theirs.alpha_dropout(x * 1, 0.5, True, True),
            lambda x: F.dropout(x, 0.5, training=False, mode="standard"),
            lambda x: F.concrete_dropout(x, 0.5),
            lambda x: F.concrete_dropout(x, placed(torch.tensor(0.5), x)),
        ]
        ft.install()
        for placement in (Shard(0), Shard(1), Replicate()):
            leaves = [bias.clone().requires_grad_(), residual[:, :1].clone().requires_grad_()]
            parts = [distribute_tensor(y.detach(), mesh, [Replicate()]) for y in leaves]
            parts = [part.requires_grad_() for part in parts]
            whole = drawn(lambda leaves=leaves: F.bias_dropout_add(x, *leaves, 0.5))
            part = distribute_tensor(x, mesh, [placement])
            y = drawn(lambda part=part, parts=parts: F.bias_dropout_add(part, *parts, 0.5))
            for result in (whole, y):
                result.square().sum().backward()
            for leaf, one in zip(leaves, parts, strict=True):
                torch.testing.assert_close(one.grad.full_tensor(), leaf.grad)
            for function in functions:
                whole = x.clone().requires_grad_()
                drawn(function, whole).square().sum().backward()
                part = distribute_tensor(x, mesh, [placement]).requires_grad_()
                y = drawn(function, part)
                assert y.placements == (placement,)
                y.square().sum().backward()
                assert torch.equal(y.full_tensor(), drawn(function, x))
                torch.testing.assert_close(part.grad.full_tensor(), whole.grad)
        logit = torch.tensor(0.5, requires_grad=True)
        drawn(F.concrete_dropout, x, logit).square().sum().backward()
        for placement in (Shard(0), Replicate()):
            part = distribute_tensor(x, mesh, [placement])
            placed_logit = distribute_tensor(logit.detach(), mesh, [Replicate()]).requires_grad_()
            drawn(F.concrete_dropout, part, placed_logit).square().sum().backward()
            torch.testing.assert_close(placed_logit.grad.full_tensor(), logit.grad)
        for placement in (Shard(0), Shard(2), Replicate()):
            for options in ({"p": 0.5}, {"p": 0.5, "training": False}):
                given = functools.partial(F.patch_dropout, prefix=1, **options)
                whole = x.clone().requires_grad_()
                part = distribute_tensor(x, mesh, [placement]).requires_grad_()
                results = drawn(given, whole), drawn(given, part)
                for y, one in zip(results[1], results[0], strict=True):
                    assert torch.equal(y.full_tensor(), one)
                for y, _ in results:
                    y.square().sum().backward()
                torch.testing.assert_close(part.grad.full_tensor(), whole.grad)
        with pytest.raises(RuntimeError, match="must have all tokens, axis 1, on each rank"):
            F.patch_dropout(distribute_tensor(x, mesh, [Shard(1)]))
        weight = torch.randn(4, 6)
        for own, of_weight in ((0, None), (None, 0), (1, 1), (None, None)):
            for options in ({"key": KEY}, {}, {"mask": fd.Mask((5, 4, 6), 0.3, KEY)}):
                leaves = [
                    y.clone().requires_grad_() for y in (x[..., 0], weight, residual[0, :4, 0])
                ]
                places = [
                    Replicate() if axis is None else Shard(axis)
                    for axis in (own, of_weight, of_weight if of_weight == 0 else None)
                ]
                parts = [
                    distribute_tensor(leaf.detach(), mesh, [place]).requires_grad_()
                    for leaf, place in zip(leaves, places, strict=True)
                ]
                given = functools.partial(F.drop_connect_linear, p=0.3, **options)
                whole, y = drawn(given, *leaves), drawn(given, *parts)
                torch.testing.assert_close(y.full_tensor(), whole)
                for result in (whole, y):
                    result.square().sum().backward()
                for leaf, one in zip(leaves, parts, strict=True):
                    torch.testing.assert_close(one.grad.full_tensor(), leaf.grad)
        with pytest.raises(RuntimeError, match="input and weight must be sharded as for a linear"):
            F.drop_connect_linear(
                distribute_tensor(x[..., 0], mesh, [Shard(1)]),
                distribute_tensor(weight, mesh, [Replicate()]),
            )
        compiled = torch.compile(lambda x: F.dropout(x, 0.5), backend="aot_eager", fullgraph=True)
        part = distribute_tensor(x, mesh, [Shard(1)]).requires_grad_()
        y = drawn(compiled, part)
        y.square().sum().backward()
        assert torch.equal(y.full_tensor(), drawn(F.dropout, x, 0.5))
        expected = drawn(F.dropout, 4 * x, 0.5)  # 2 y / (1 - p)
        torch.testing.assert_close(part.grad.full_tensor(), expected)
        strided = distribute_tensor(torch.ones(4, 6, 8), mesh, [Shard(1)]).flatten(0, 1)
        assert 0.2 < (theirs.dropout(strided, 0.5).to_local() == 0).float().mean() < 0.8
        total = DTensor.from_local(torch.ones(4), mesh, [Partial()])
        assert torch.equal(F.dropout_add(total, total, 0.0).full_tensor(), torch.full((4,), 4.0))
        for bad in (lambda: theirs.dropout(total), lambda: F.dropout_add(total, torch.ones(4))):
            with pytest.raises(RuntimeError, match=r"input must be placed|must be DTensors"):
                bad()
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_a_distributed_tensor_gets_its_part_of_the_mask_of_the_whole(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_distributed, args=(str(tmp_path / "rendezvous"),), nprocs=2)
