"""Keys of modules: by name, numbered, held, of a rank; schedules and samples. Needs PyTorch."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop.monte_carlo import number_of  # noqa: E402
from fastdrop.torch import _autograd, _call, _dispatch, _keys  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
]

F = ft.functional
KEY = fd.Key(3)
X = torch.ones(6, 40)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    ft.uninstall()


def keyed(model: Any, key: fd.Key | None = KEY, **options: Any) -> Any:
    ft.set_keys(model, key, **options)
    return model


def site(name: str, key: fd.Key = KEY) -> fd.Key:
    """The key of a module by the documents."""
    return key.fold_in(number_of(name))


def small(kind: Any = nn.Dropout) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(40, 40), kind(0.5), nn.Linear(40, 40), kind(0.3))


# Which modules, and by which names


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("how", ["plain", "install", "replace", "ours"])
def test_keys_govern_the_modules_of_torch_and_ours(how: str, compiled: bool) -> None:
    model = nn.Sequential(ft.Dropout(0.5) if how == "ours" else nn.Dropout(0.5), nn.Dropout2d())
    if how == "install":
        ft.install()
    if how == "replace":
        ft.replace(model)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    x = torch.ones(2, 3, 4, 4)
    state = torch.get_rng_state()
    y = [keyed(model) and run(x) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(*y)
    expected = F.dropout2d(F.dropout(x, 0.5, key=site("0")), 0.5, key=site("1"))
    assert torch.equal(y[0], expected)
    assert model.eval()(x) is x
    keyed(model.train(), None)
    assert not torch.equal(run(x), run(x))
    assert type(model[1]) is nn.Dropout2d


def test_modules_without_keys_are_as_they_were() -> None:
    model = small()
    before = [set(vars(module)) for module in model]
    keyed(keyed(model), None)
    assert [set(vars(module)) for module in model] == before
    ft.replace(keyed(model))
    keyed(model, None)
    torch.manual_seed(0)
    y = model[1](X)
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout(X, 0.5))  # still replaced
    ft.restore(model)
    assert [set(vars(module)) for module in model] == before


class _Average(nn.Module):
    """A wrapper that somebody wrote."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = model


def wrapped() -> dict[str, Callable[[Any], Any]]:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    def inside(model: Any) -> Any:
        model[1] = checkpoint_wrapper(model[1])
        return model

    return {
        "compile": lambda model: torch.compile(model, backend="eager"),
        "data parallel": nn.DataParallel,
        "average": lambda model: torch.optim.swa_utils.AveragedModel(model),
        "checkpoint": checkpoint_wrapper,
        "checkpoint inside": inside,
        "own": _Average,
        "several": lambda model: torch.compile(_Average(checkpoint_wrapper(model))),
    }


@pytest.mark.parametrize("name", wrapped())
def test_wrappers_do_not_change_the_keys(name: str) -> None:
    wrapper = wrapped()[name](small())
    keyed(wrapper)
    found = [m for m in wrapper.modules() if isinstance(m, nn.Dropout)]
    for module, path in zip(found, ["1", "3"], strict=True):
        assert torch.equal(module(X), F.dropout(X, module.p, key=site(path)))


def test_names_that_only_wrappers_tell_apart_stay_apart() -> None:
    """Wrapped or not."""
    model = _Average(nn.Dropout())
    model.drop = nn.Dropout()
    outer = nn.ModuleDict({"module": nn.ModuleDict({"a": nn.Dropout()}), "a": nn.Dropout()})
    for wrapper in (lambda model: model, _Average, lambda model: _Average(nn.DataParallel(model))):
        assert set(_keys.site_names(wrapper(outer))) == {"module.a", "a"}
        assert set(_keys.site_names(wrapper(model))) == {"", "drop"}


class _Own(nn.Dropout):
    """A subclass with a behaviour of its own."""

    def forward(self, input: Any) -> Any:
        return input * 2


def test_modules_that_take_no_keys_are_named() -> None:
    model = nn.Sequential(nn.Dropout(), _Own(), nn.Dropout())
    model[0].forward = model[0].forward  # as of hooks that were removed again
    model[2].mark = nn.Identity()
    with pytest.warns(
        UserWarning, match=r"the dropout modules \['1'\] have a forward of their own"
    ):
        ft.set_keys(model, KEY)
    assert torch.equal(model[0](X), F.dropout(X, 0.5, key=site("0")))
    assert torch.equal(model[2](X), F.dropout(X, 0.5, key=site("2")))
    with pytest.raises(ValueError, match="got none but"):
        ft.set_keys(nn.Sequential(_Own()), KEY)


def test_keys_are_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        model = keyed(nn.Sequential(nn.Dropout()))
        x = torch.ones(8, device="cpu")
        y = torch.compile(model, backend="aot_eager")(x)
        added = torch.compile(lambda x: F.dropout_add(x, x, 0.5, False), backend="aot_eager")(x)
    assert torch.equal(y, F.dropout(x, 0.5, key=site("0")))
    assert torch.equal(added, x + x)
    with pytest.raises(TypeError, match=r"on the CPU, got one of torch.int64 on meta"):
        F.dropout(x, key=torch.ones(2, dtype=torch.int64, device="meta"))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_tensors_that_take_no_keys_are_warned_of() -> None:
    x = torch.nested.nested_tensor([torch.ones(30), torch.ones(20)], layout=torch.jagged)
    for model in (nn.Dropout(0.5), ft.Dropout(0.5)):
        keyed(model)
        with pytest.warns(UserWarning, match="draws from torch's generator, not with its key"):
            model(x)
        state = torch.get_rng_state()
        model.p = 0.0
        assert model(x) is x
        assert torch.equal(state, torch.get_rng_state())


def test_keys_stay_in_the_process_that_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a stored program that takes the keys of whatever module has its number."""
    from torch.fx.experimental.proxy_tensor import make_fx

    model = keyed(nn.Sequential(ft.Dropout(0.5)))
    traced = torch.jit.trace(model, X, check_trace=False)
    block = keyed(nn.Sequential(ft.DropBlock1d(0.5, 2)))
    exported = torch.export.export(block, (X[:, None],)).module()
    keyed(block, None)
    for stored, alone, x in (
        (traced, lambda x: F.dropout(x, 0.5), X), (exported, block, X[:, None])
    ):  # fmt: skip
        with ft.installed():  # for the exported program, which has torch's operators
            torch.manual_seed(0)
            y = stored(x)
            torch.manual_seed(0)
            assert torch.equal(y, alone(x))
    graph = make_fx(model)(X)
    keyed(model)
    assert torch.equal(graph(X), F.dropout(X, 0.5, key=site("0")))
    monkeypatch.setattr(_keys, "_all", {})  # as in another process
    with pytest.raises(RuntimeError, match="in the process that set them"):
        graph(X)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, KEY), {}, TypeError, "model must be a Module, got 3"),
        ((small(), 3), {}, TypeError, "key must be a Key or None, got 3"),
        ((small(), torch.ones(2).long()), {}, TypeError, "key must be a Key or None"),
        ((nn.Linear(2, 2), KEY), {}, ValueError, "model must have dropout modules"),
        ((small(), KEY), {"rank": 2, "world_size": 2}, ValueError, "rank must be below world_size"),
        ((small(), KEY), {"numbered": 1}, TypeError, "numbered must be True or False, got 1"),
        ((nn.Sequential(ft.DropBlock2d(0.1, 3)), KEY), {"world_size": 2}, ValueError, "DropBlock"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_set(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ft.set_keys(*arguments, **options)
    modules = arguments[0].modules() if isinstance(arguments[0], nn.Module) else ()
    assert not [module for module in modules if "_fastdrop_keys" in vars(module)]


# Calls again


def test_a_module_that_runs_again_repeats_its_mask_and_warns() -> None:
    for model in (small(), small(ft.Dropout)):
        run = torch.compile(model, backend="aot_eager")
        for function in (model, run):
            y = keyed(model) and function(X)
            with pytest.warns(UserWarning, match="ran again since set_keys"):
                assert torch.equal(function(X), y)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                keyed(model)
                x = X.clone().requires_grad_()
                checkpoint(function, x, use_reentrant=False).sum().backward()  # repeats the call


@pytest.mark.parametrize("compiled", [False, True])
def test_numbered_calls_draw_the_masks_of_a_layer_in_numpy(compiled: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    layer = fd.Dropout(0.5, rng=site("0"))
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    keyed(model, numbered=True)
    for _ in range(3):
        np.testing.assert_array_equal(run(X).numpy(), layer(X.numpy()))


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("way", ["reentrant", "not reentrant", "compiled", "inside compiled"])
def test_checkpoints_repeat_the_masks_of_the_calls_they_repeat(way: str, numbered: bool) -> None:
    """Two microbatches go forward before one comes back, through weights used twice."""
    model = small()
    segment = torch.compile(model, backend="aot_eager") if way == "compiled" else model

    def twice(x: Any, kept: bool) -> Any:
        if kept:
            return segment(segment(x))
        for _ in range(2):
            x = checkpoint(segment, x, use_reentrant=way == "reentrant")
        return x

    def gradients(kept: bool) -> list[Any]:
        function: Any = twice
        if way == "inside compiled":
            function = torch.compile(twice, backend="aot_eager", fullgraph=True)
        keyed(model, numbered=numbered)
        inputs = [torch.rand(4, 40, requires_grad=True) for _ in range(2)]
        for y in [function(x, kept) for x in inputs]:
            y.square().sum().backward()
        return [x.grad for x in inputs]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ran again")
        torch.manual_seed(0)
        expected = gradients(True)
        torch.manual_seed(0)
        actual = gradients(False)
    torch.testing.assert_close(actual, expected)


def test_a_repeated_call_that_cannot_be_told_is_refused() -> None:
    model, x = small(), torch.rand(4, 40, requires_grad=True)
    keyed(model, numbered=True)
    for _ in range(2):
        y = checkpoint(model, x, use_reentrant=False, preserve_rng_state=False)
    with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
        y.sum().backward()
    keyed(model, numbered=True)
    checkpoint(model, x, use_reentrant=False, preserve_rng_state=False).sum().backward()  # one call
    for _ in range(2):
        torch.manual_seed(0)
        y = checkpoint(model, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="a call that the backward pass repeats"):
        y.sum().backward()


def test_copies_keep_keys_and_count_for_themselves() -> None:
    for model in (small(), ft.replace(small()), small(ft.Dropout)):
        keyed(model, numbered=True)
        expected = model(X)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            model(X)
            assert torch.equal(other(X), expected)


def test_a_module_with_a_key_is_a_layer_with_it() -> None:
    module, layer = ft.Dropout2d(0.5), fd.Dropout2d(0.5, rng=KEY)
    x = torch.ones(2, 3, 4, 4)
    assert (module.key, module.calls) == (None, 0)
    for _ in range(2):
        module.key = layer.key = KEY
        for calls in range(3):
            assert module.calls == layer.calls == calls
            np.testing.assert_array_equal(module(x).numpy(), layer(x.numpy()))
    assert module.key == KEY
    module.key = None
    torch.manual_seed(0)
    y = module(x)
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout2d(x, 0.5))
    with pytest.raises(TypeError, match="rng must be"):
        module.key = "seed"


# Held masks


@pytest.mark.parametrize("key", [None, KEY])
def test_a_held_module_applies_one_mask(key: fd.Key | None) -> None:
    module = ft.Dropout(0.5)
    model = nn.Sequential(module)
    if key is not None:
        keyed(model, key, numbered=True)
    with module.hold() as held:
        assert held is module
        first, second = model(X), model(X)
        x = torch.rand(6, 40, requires_grad=True)
        y = checkpoint(model, x, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(first, second)
    assert torch.equal(x.grad, first)
    assert not torch.equal(model(X), first)
    with pytest.raises(RuntimeError, match="held in a with statement"), module:
        pass
    with module.hold(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for numbered in (True, False):
            keyed(model, numbered=numbered)  # the module stays held
            assert torch.equal(model(X), model(X))


# Ranks


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    "module",
    [ft.Dropout(0.5), nn.Dropout(0.5), nn.Dropout1d(), ft.DropPath(), ft.LockedDropout(time_axis=0),
     ft.AlphaDropout(), ft.GeluDropout(), ft.GaussianDropout(broadcast_dims=(0, 2))],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
@pytest.mark.parametrize("compiled", [False, True])
def test_ranks_draw_their_parts_of_the_mask_of_the_batch(
    module: Any, interleaved: bool, compiled: bool
) -> None:
    model = nn.Sequential(module)
    batch = torch.randn(12, 4, 5)
    whole = batch.clone().requires_grad_()
    keyed(model)(whole).square().sum().backward()
    expected = keyed(model)(batch)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for ranks in (2, 3):
        for rank in range(ranks):
            if compiled and (ranks, rank) not in ((2, 1), (3, 1)):
                continue  # each is compiled again
            n = 12 // ranks
            mine = slice(rank, None, ranks) if interleaved else slice(rank * n, (rank + 1) * n)
            x = batch[mine].clone().requires_grad_()
            keyed(model, rank=rank, world_size=ranks, interleaved=interleaved)
            y = run(x)
            y.square().sum().backward()
            assert torch.equal(y, expected[mine])
            torch.testing.assert_close(x.grad, whole.grad[mine])


@pytest.mark.parametrize("interleaved", [False, True])
def test_ranks_share_masks_of_fused_and_overwritten_calls(interleaved: bool) -> None:
    x, r, b = torch.randn(6, 4, 5), torch.randn(6, 4, 5), torch.randn(5)
    fused, other = ft.BiasDropoutAdd(0.5), nn.Dropout(0.5, inplace=True)
    expected = keyed(fused)(x, b, r), keyed(other)(x.clone())
    for rank in range(2):
        mine = slice(rank, None, 2) if interleaved else slice(rank * 3, rank * 3 + 3)
        for model in (fused, other):
            keyed(model, rank=rank, world_size=2, interleaved=interleaved)
        assert torch.equal(fused(x[mine], b, r[mine]), expected[0][mine])
        part = x[mine].clone()
        assert other(part) is part
        assert torch.equal(part, expected[1][mine])


# Schedules and Monte Carlo


MODULES = [ft.Dropout(0.5), nn.Dropout(0.5), ft.Dropout(0.5, inplace=True)]


def test_schedules_drive_modules() -> None:
    model = small(ft.Dropout)
    driver = fd.PSchedule([model[1], model[3]], fd.schedules.Linear(0.0, 0.5, 10), factors=[1, 0.5])
    for _ in range(3):
        driver.step()
    assert (model[1].p, model[3].p) == (0.1, 0.05)
    assert driver.layers == (model[1], model[3])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_samples_of_modules_have_the_masks_of_layers(module: Any, shared: bool) -> None:
    layer = fd.Dropout(0.5).eval()
    x = np.ones((4, 30), np.float32)
    theirs = fd.MonteCarlo(lambda x: layer(layer(x) + 1), layer, rng=5, shared=shared)
    module.eval()
    before = dict(vars(module))
    ours = fd.MonteCarlo(lambda x: module(module(x) + 1), module, rng=5, shared=shared)
    expected = theirs.samples(x, 3)
    np.testing.assert_array_equal(ours.samples(torch.from_numpy(x), 3), expected)
    np.testing.assert_array_equal(ours.batch(torch.from_numpy(x), 3), expected)
    assert vars(module) == before
    assert torch.equal(ours.sample(torch.from_numpy(x), 1), torch.from_numpy(expected[1]))
    assert (x == 1).all()


@pytest.mark.parametrize(
    "module",
    [ft.DropBlock2d(0.3, 2), ft.AlphaDropout(0.5), nn.Dropout2d(), ft.ReluDropout(0.5),
     nn.Dropout(0.5, inplace=True)],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_of_samples_is_the_samples(module: Any, shared: bool) -> None:
    scale = nn.Parameter(torch.ones(1))
    mc = fd.MonteCarlo(lambda x: module(x * scale), module, rng=5, shared=shared)
    x = torch.randn(2, 3, 5, 5)
    samples = mc.samples(x, 3)
    np.testing.assert_array_equal(mc.batch(x, 3), samples)
    assert not (samples[0] == samples[1]).all()
    if shared:
        assert ((samples[:, 0] == 0) == (samples[:, 1] == 0)).mean() > 0.7


@pytest.mark.parametrize("shared", [False, True])
def test_samples_of_a_compiled_model_differ_and_repeat(shared: bool) -> None:
    """Of more samples than a function may be compiled anew for."""
    model = small().eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(X)
    layers = {"one": model[1], "other": model[3]}
    eager = fd.MonteCarlo(model, layers, rng=0, shared=shared).samples(X, 12)
    samples = fd.MonteCarlo(compiled, layers, rng=0, shared=shared).samples(X, 12)
    np.testing.assert_allclose(samples, eager, rtol=1e-4, atol=1e-5)
    assert samples.std(axis=0).mean() > 0.1
    assert torch.equal(compiled(X), model(X))


@pytest.mark.parametrize("unused", [fd.Dropout(), nn.Dropout(), ft.Dropout()], ids=repr)
def test_a_layer_that_the_model_does_not_call_is_an_error(unused: Any) -> None:
    """Its spread would be 0, as if the model were certain."""
    used = ft.Dropout(0.0)
    mc = fd.MonteCarlo(used, [used, unused], rng=0)
    with pytest.raises(ValueError, match="layers must be called by the model, which did not call"):
        mc.samples(torch.ones(3), 2)
    fd.MonteCarlo(used, used, rng=0).samples(torch.ones(3, dtype=torch.bfloat16), 2)


def test_modules_that_drop_in_a_way_of_their_own_are_not_layers() -> None:
    for layer in (_Own(), nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="layers must be layers of fastdrop"):
            fd.MonteCarlo(layer, layer)


# Draws that meet


def test_a_handler_that_draws_inside_any_step_of_a_call_gets_a_key_of_its_own() -> None:
    """A tracer stands for the handler: it comes before instruction n of the modules of a call."""
    files = {module.__file__ for module in (_autograd, _call, _dispatch, _keys)}
    x = torch.ones(64)

    def drawn() -> fd.Key:
        return F.dropout(x, 0.5, return_mask=True)[1].parts[2]

    def meeting(at: int) -> list[fd.Key]:
        """The keys of the handler, if it came, and of the call."""
        found, steps = list[fd.Key](), itertools.count()

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename not in files:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(steps) == at:
                sys.settrace(None)
                found.append(drawn())
            return trace

        torch.manual_seed(at)
        sys.settrace(trace)
        try:
            found.append(drawn())
        finally:
            sys.settrace(None)
        return found

    for at in itertools.count():
        found = meeting(at)
        if len(found) < 2:
            break
        torch.manual_seed(at)
        assert set(found) == {drawn(), drawn()}
    assert at > 100


@pytest.mark.parametrize("name", ["key", "share", "numbered", "held", "name"])
def test_edited_keys_of_a_pickled_module_are_refused(name: str) -> None:
    good: dict[str, Any] = {
        "key": KEY,
        "share": _keys.Share(1, 3, False),
        "numbered": True,
        "held": False,
    }
    assert copy.copy(_keys.CallKeys(**good, name="a")).share == good["share"]
    shares: list[Any] = [(3, 3, False), (-1, 3, False), (0, 0, False), (0, 3, 1), (None, 3, 0)]
    for wrong in ["x", 5, 1.5, [KEY], fd.Mask(3, 0.5, KEY), *(_keys.Share(*s) for s in shares)]:
        if name == "name" and isinstance(wrong, str):
            continue
        make, arguments = _keys.CallKeys(**good).__reduce__()
        edited = dict(zip(("key", "share", "numbered", "held", "name"), arguments, strict=True))
        with pytest.raises((TypeError, ValueError), match=" must be "):
            make(**{**edited, name: wrong})
