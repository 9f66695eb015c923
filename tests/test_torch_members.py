"""The family in PyTorch: each property for every row of `members.py`. Needs PyTorch.

Attention has torch's signature, and tests of its own.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from fastdrop._base.members import Member as MemberRecord
from fastdrop._family.concrete import logit_of
from members import ROWS, Inputs, Member
from support import KEY, as_key, assert_same, values

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop.torch._autograd import ACTIVATIONS  # noqa: E402
from tensors import DTYPES, as_numpy, as_tensor, drawn  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

F = ft.functional
KEY_ = as_key(KEY)


def function_of(row: Member) -> Any:
    return getattr(F, row.function.__name__)


DOOR = [row for row in ROWS if row.layer is not fd.ScaledDotProductAttention]
IDS = {
    id(row): row.layer.__name__ + "".join(f"-{value}" for value in row.options.values())
    for row in DOOR
}
SUMS = (fd.DropConnectLinear,)
"""Members whose results are sums, which round."""
OF_OTHER_DRAWS = (fd.GaussianDropout, fd.ConcreteDropout, fd.PatchDropout, fd.WeightDrop)
"""Members whose exported programs do not draw with `torch.dropout`, or draw one key for several
tensors."""
BLOCKS = (fd.DropBlock1d, fd.DropBlock2d, fd.DropBlock3d)


def path_of(row: Member) -> tuple[Any, ...]:
    """Return what decides the operators of a row's call."""
    layer, options = row.make(), row.options
    record = getattr(layer, "_member", None)
    module = getattr(ft, row.layer.__name__)
    if not isinstance(record, MemberRecord) or record.draw is not None:
        return module, *map(options.get, ("broadcast_dims", "shared", "scale_by_keep"))
    takes_shift = options.keys() & {"negative_slope", "alpha"}
    operation = "activation" if record.operation in ACTIVATIONS else record.operation
    shares = bool(record.axes(row.inputs()[0].shape, record.read(layer)))
    scales = options.get("mode"), options.get("scale_by_keep")
    return module.forward, operation, bool(takes_shift), shares, *scales


_FIRST_OF = {
    key: row for row in reversed(DOOR) for key in (path_of(row), (row.function, *path_of(row)))
}


def some(condition: Callable[[Member], bool]) -> Any:
    """Run a test for the rows that meet a condition."""
    rows = [pytest.param(row, id=IDS[id(row)]) for row in DOOR if condition(row)]
    return pytest.mark.parametrize("row", rows)


every_row = some(lambda row: True)
one_of_a_path = some(lambda row: row is _FIRST_OF[path_of(row)])
"""The rows whose calls differ for what traces them: in the operators, not only in their numbers."""
one_of_a_function = some(lambda row: row is _FIRST_OF[row.function, *path_of(row)])
with_module = some(lambda row: row.layer is not fd.WeightDrop)  # its module wraps another


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    ft.uninstall()


def does_more(row: Member) -> bool:
    """Return whether a row does more than drop, and so changes its input in evaluation."""
    record = getattr(row.make(), "_member", None)
    return (
        row.layer is fd.DropConnectLinear
        or row.options.get("mode") == "standard"
        or (record is not None and record.fuses)
    )


def each(change: Callable[[Any], Any], inputs: Any) -> Any:
    if isinstance(inputs, tuple | list):
        return type(inputs)(each(change, one) for one in inputs)
    return change(inputs)


def flat(result: Any) -> list[Any]:
    """Return all tensors or arrays of a result."""
    if isinstance(result, tuple | list):
        return [one for part in result for one in flat(part)]
    return [result]


def tensors(row: Member, dtype: Any = torch.float32, seed: int = 0, gradient: bool = False) -> Any:
    """Return inputs of a row's function."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(x).to(dtype).requires_grad_(gradient)

    return each(tensor, row.inputs(seed))


class _Linear:
    """Parameters of `drop_connect_linear`, which a layer has."""

    def __init__(self, row: Member, dtype: Any) -> None:
        rng = np.random.default_rng(8)
        outputs, inputs = row.arguments[::-1] if row.arguments else (1, 1)
        self.weight, self.bias = (
            as_tensor(rng.standard_normal(shape)).to(dtype).requires_grad_()
            for shape in ((outputs, inputs), (outputs,))
        )

    def arrays(self) -> Any:
        other = copy.copy(self)
        other.weight, other.bias = as_numpy(self.weight), as_numpy(self.bias)
        return other


def call(row: Member, inputs: Inputs, p: float = 0.4, layer: Any = None, **more: Any) -> Any:
    """Call torch's function."""
    if "training" not in row.options:
        more.setdefault("training", True)
    if row.layer is fd.ConcreteDropout:
        more.setdefault("logit", getattr(layer, "logit", logit_of(p)))
    layer = layer or _Linear(row, flat(inputs)[0].dtype)
    return row.call(layer, inputs, p, function=function_of(row), **more)


def module_of(row: Member, p: float = 0.4) -> Any:
    options = {"dtype": torch.float64} if row.layer is fd.ConcreteDropout else {}
    return getattr(ft, row.layer.__name__)(*row.arguments, p=p, **row.options, **options)


def assert_equal(results: Any, expected: Any) -> None:
    for one, other in zip(flat(results), flat(expected), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def total(result: Any) -> Any:
    """Return a sum of all floating-point results, whose gradients differ."""
    return sum(
        (y.double() * torch.arange(1, y.numel() + 1).reshape(y.shape)).sum()
        for y in flat(result)
        if y.is_floating_point()
    )


def test_every_member_is_in_the_door() -> None:
    layers = {row.layer for row in ROWS} - {fd.ScaledDotProductAttention}
    assert {layer.__name__ for layer in layers} <= set(ft.__all__)


# Options

OTHERWISE = {
    "rng": "`key` or `generator`",
    "out": "`inplace`, or torch's own functions with `out`",
    "unknown": "names of other libraries, explained; in torch a TypeError",
}
"""Options of NumPy's functions that all of torch's have in another form."""

LACKING = {
    (fd.ScaledDotProductAttention, "training"): "torch's function has none: dropout_p = 0",
    (fd.ScaledDotProductAttention, "return_lse"): "has no gradient",
    (fd.EmbeddingDropout, "inplace"): "a weight that is learned cannot be overwritten",
    (fd.DropConnect, "inplace"): "a weight that is learned cannot be overwritten",
}
"""Options that torch lacks, each with the reason."""

RENAMED = {
    fd.ScaledDotProductAttention: {
        "q": "query", "k": "key", "v": "value", "p": "dropout_p", "mask": "dropout_mask"
    },
}  # fmt: skip
"""Options that have the names of torch's own function."""

OTHER_VALUES: dict[str, list[Any]] = {
    "mode": ["standard"], "channel_axis": [-1], "per": ["batch"], "batch_axis": [1],
    "shared": [True], "scale_by_keep": [False], "time_axis": [-1], "broadcast_dims": [(-1,)],
    "ordered": [False], "prefix": [2], "block_size": [3], "approximate": ["tanh"],
    "temperature": [0.7], "negative_slope": [], "alpha": [], "activation": [], "indices": [],
    "training": [False],
}  # fmt: skip
"""A value of each option that is not the default; none where rows have several."""


def options_of(function: Any) -> set[str]:
    """Return the options of a function or constructor: what follows p, and is not shared by all."""
    others = {"p", "mask", "return_mask", "rng", "out", "unknown", "self", "inplace"}
    parameters = inspect.signature(function).parameters.values()
    return {
        one.name
        for one in parameters
        if one.name not in others and (one.kind is one.KEYWORD_ONLY or one.name == "block_size")
    }


def test_torch_has_every_option_of_numpy() -> None:
    """In functions and in modules; but for those that stand in a list, with the reason."""
    for row in ROWS:
        theirs = [(row.function, getattr(F, row.function.__name__))]
        if row.layer is not fd.ScaledDotProductAttention:
            theirs.append((row.layer, getattr(ft, row.layer.__name__)))
        for one, other in theirs:
            first = next(iter(inspect.signature(one).parameters))
            for name in inspect.signature(one).parameters:
                renamed = RENAMED.get(row.layer, {}).get(name, name)
                known = name in OTHERWISE or (row.layer, name) in LACKING
                is_input = name == first and one is row.function
                there = renamed in inspect.signature(other).parameters
                assert known or there or is_input, f"{other.__name__} lacks {name}"


@some(lambda row: row is next(one for one in DOOR if one.function is row.function))
def test_every_option_gives_the_result_and_the_mask_of_arrays(row: Member) -> None:
    """In training and in evaluation; the defaults are NumPy's as well."""
    inputs, layer = tensors(row), _Linear(row, torch.float32)
    arrays = each(as_numpy, inputs)
    for name in options_of(row.function):
        for value in OTHER_VALUES[name]:
            given: dict[str, Any] = {name: value}
            for training in (True, False) if name != "training" else (False,):
                given = {**row.options, **given, "training": training}
                plain = Member(row.layer, row.function, row.shapes, given, row.arguments)
                *results, mask = call(plain, inputs, layer=layer, key=KEY_, return_mask=True)
                *expected, drawn = plain.call(layer.arrays(), arrays, rng=KEY_, return_mask=True)
                if training:
                    assert mask == drawn
                else:
                    assert all(one.p == 0.0 for one in flat([mask]))
                    assert type(mask) is type(drawn)
                for y, one in zip(flat(results), flat(expected), strict=True):
                    torch.testing.assert_close(y, as_tensor(one))
                    if row.layer not in SUMS:
                        assert_same(as_numpy(y), one)


# Numbers


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_row
def test_tensors_and_arrays_give_the_same_bits(row: Member, dtype: Any, p: float) -> None:
    """Of awkward numbers too; sums to rounding."""
    layer = _Linear(row, dtype)
    arrays = each(lambda x: values(x.shape, DTYPES[dtype]), row.inputs())
    if row.layer in SUMS:
        arrays = each(lambda x: x.astype(DTYPES[dtype]), row.inputs())
    expected = row.call(layer.arrays(), arrays, p, rng=KEY_)
    results = call(row, each(as_tensor, arrays), p, layer, key=KEY_)
    for y, one in zip(flat(results), flat(expected), strict=True):
        if row.layer in SUMS or (row.layer is fd.ConcreteDropout and dtype is torch.float64):
            assert y.dtype == dtype
            torch.testing.assert_close(y, as_tensor(one), equal_nan=True)
        else:
            assert_same(as_numpy(y), one)


@pytest.mark.parametrize("p", [0.3, 1.0])
@some(does_more)
def test_evaluation_is_that_of_arrays(row: Member, p: float) -> None:
    layer, inputs = _Linear(row, torch.float32), tensors(row)
    expected = row.call(layer.arrays(), each(as_numpy, inputs), p, training=False)
    y = call(row, inputs, p, layer, training=False)
    torch.testing.assert_close(y.detach(), as_tensor(expected))


@some(lambda row: not does_more(row))
def test_evaluation_and_p_0_return_the_input_itself(row: Member) -> None:
    """And draw nothing."""
    inputs, state = tensors(row), torch.get_rng_state()
    for options in ({"training": False}, {"p": 0.0}):
        for y, x in zip(flat(call(row, inputs, **options)), flat(inputs), strict=False):
            assert y is x
    assert torch.equal(torch.get_rng_state(), state)


@every_row
def test_the_returned_mask_is_that_of_arrays_and_gives_the_same_result(row: Member) -> None:
    inputs, layer = tensors(row), _Linear(row, torch.float32)
    *results, mask = call(row, inputs, layer=layer, key=KEY_, return_mask=True)
    assert_equal(call(row, inputs, 0.9, layer, mask=mask), results)
    arrays = each(as_numpy, inputs)
    assert mask == row.call(layer.arrays(), arrays, rng=KEY_, return_mask=True)[-1]
    in_evaluation = call(row, inputs, layer=layer, training=False, return_mask=True)[-1]
    assert all(one.p == 0.0 for one in flat(in_evaluation))


# Gradients


@every_row
def test_gradients_are_those_of_finite_differences(row: Member) -> None:
    """Those of gradients, of forward mode, and of all inputs as well; away from ReLU's corner."""
    inputs = each(lambda x: x[..., :4] if x.dim() < 4 else x, tensors(row, torch.float64))
    if row.layer in (fd.DropConnectLinear, fd.ConcreteDropout):
        inputs = tensors(row, torch.float64)
    inputs = each(lambda x: (x + 0.01 * x.sign()).detach().requires_grad_(), inputs)
    layer = _Linear(row, torch.float64)
    names = {fd.DropConnectLinear: ("weight", "bias"), fd.ConcreteDropout: ("logit",)}
    parameters = names.get(row.layer, ())
    if "logit" in parameters:
        layer.logit = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    several = isinstance(inputs[0], list)

    def run(*given: Any) -> Any:
        given, values = given[: len(flat(inputs))], given[len(flat(inputs)) :]
        vars(layer).update(zip(parameters, values, strict=True))
        result = call(row, (list(given),) if several else given, layer=layer, key=KEY_)
        return tuple(y for y in flat(result) if y.is_floating_point())

    given = (*flat(inputs), *(getattr(layer, name) for name in parameters))
    forward = not isinstance(layer, BLOCKS)
    assert torch.autograd.gradcheck(run, given, check_forward_ad=forward, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, given, fast_mode=True)


@some(lambda row: row.layer in (fd.Dropout, fd.Zoneout, fd.GaussianDropout, fd.DropConnectLinear))
def test_what_is_dropped_passes_no_nan_back(row: Member) -> None:
    inputs = tensors(row, gradient=True)
    y = call(row, inputs, 1.0, key=KEY_)
    y.backward(torch.full_like(y, torch.nan))
    assert torch.equal(inputs[0].grad, torch.zeros_like(inputs[0]))


@pytest.mark.parametrize("reentrant", [True, False])
@every_row
def test_checkpoints_draw_the_same_mask_again(row: Member, reentrant: bool) -> None:
    inputs, layer = tensors(row, gradient=True), _Linear(row, torch.float32)

    def run(*given: Any) -> Any:
        given = (list(given),) if isinstance(inputs[0], list) else given
        return total(call(row, given, layer=layer))

    def gradients(function: Any) -> Any:
        return torch.autograd.grad(drawn(function), flat(inputs))

    expected = gradients(lambda: run(*flat(inputs)))
    assert_equal(gradients(lambda: run(*flat(inputs))), expected)
    again = drawn(lambda: checkpoint(run, *flat(inputs), use_reentrant=reentrant))
    torch.manual_seed(5)
    again.backward()
    assert_equal([x.grad for x in flat(inputs)], expected)


@pytest.mark.parametrize("training", [True, False])
@every_row
def test_autocast_changes_nothing(row: Member, training: bool) -> None:
    inputs, layer = tensors(row), _Linear(row, torch.float32)
    options = {"layer": layer, "training": training, "key": KEY_}
    expected = call(row, inputs, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(call(row, inputs, **options), expected)


# Compiled, exported and transformed functions


@one_of_a_function
def test_compiled_functions_draw_the_masks_of_eager_ones(row: Member) -> None:
    """With a key or from the generator, backward as well."""
    inputs, layer = tensors(row, gradient=True), _Linear(row, torch.float32)

    def run(*inputs: Any) -> Any:
        return call(row, inputs, layer=layer, key=KEY_), call(row, inputs, layer=layer)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    results = [drawn(function, *inputs) for function in (run, compiled)]
    torch.testing.assert_close(results[1], results[0])
    for which in range(2):
        gradients = [
            torch.autograd.grad(total(one[which]), flat(inputs), retain_graph=True)
            for one in results
        ]
        torch.testing.assert_close(*gradients)


@every_row
def test_both_modes_of_randomness_under_vmap(row: Member) -> None:
    inputs, layer = tensors(row), _Linear(row, torch.float32)
    batch = each(lambda x: torch.stack([x] * 5), inputs)

    def run(*inputs: Any) -> Any:
        return call(row, inputs, layer=layer)

    same = drawn(torch.vmap(run, randomness="same"), *batch)
    expected = drawn(run, *inputs)
    for y, one in zip(flat(same), flat(expected), strict=True):
        for part in y:
            torch.testing.assert_close(part, one)
    different = flat(drawn(torch.vmap(run, randomness="different"), *batch))
    assert any(not torch.equal(y[0], one) for y in different for one in y[1:])


@every_row
def test_transformed_gradients_are_those_of_autograd(row: Member) -> None:
    inputs, layer = tensors(row, torch.float64, gradient=True), _Linear(row, torch.float64)

    def run(inputs: Any) -> Any:
        return total(call(row, inputs, layer=layer, key=KEY_))

    expected = torch.autograd.grad(run(inputs), flat(inputs))
    plain = each(lambda x: x.detach(), inputs)
    torch.testing.assert_close(flat(torch.func.grad(run)(plain)), list(expected))
    batch = each(lambda x: torch.stack([x, 2 * x]), plain)
    rows = torch.vmap(torch.func.grad(run))(batch)
    torch.testing.assert_close([x[0] for x in flat(rows)], list(expected))


# Modules


class Around(nn.Module):
    """A module between others."""

    def __init__(self, drop: Any, inputs: int) -> None:
        super().__init__()
        self.drop, self.inputs = drop, inputs

    def forward(self, x: Any, second: Any = None, third: Any = None) -> Any:
        first = x if isinstance(x, list) else x * 1
        return self.drop(first, *(second, third)[: self.inputs - 1])


class Weights(nn.Module):
    """A module that drops given weights; `WeightDrop` has its own."""

    def forward(self, weights: Any) -> Any:
        return F.weight_drop(weights, 0.4, self.training)


def wrapped(row: Member) -> tuple[Any, Inputs]:
    """Return a row's module in a model, and inputs."""
    inputs = tensors(row)
    module = Weights() if row.layer is fd.WeightDrop else module_of(row)
    return Around(module, len(inputs)), inputs


@pytest.mark.parametrize("training", [False, True])
@with_module
def test_modules_are_leaves_of_a_trace(row: Member, training: bool) -> None:
    model, inputs = wrapped(row)
    traced = torch.fx.symbolic_trace(model.train(training))
    assert ("call_module", "drop") in [(node.op, node.target) for node in traced.graph.nodes]
    for mode in (training, not training):
        model.train(mode)
        traced.train(mode)
        assert_equal(drawn(traced, *inputs), drawn(model, *inputs))


@one_of_a_path
def test_exported_programs_have_the_operators_of_torch(row: Member) -> None:
    """A program that loads one may not know fastdrop; where it is installed, it draws its masks."""
    model, inputs = wrapped(row)
    programs = [torch.export.export(model.train(training), inputs) for training in (False, True)]
    torch.testing.assert_close(programs[0].module()(*inputs), model.eval()(*inputs))
    for one in (*programs, programs[1].run_decompositions()):
        assert not [node for node in one.graph.nodes if "fastdrop" in str(node.target)]
    ft.install()
    y, expected = drawn(programs[1].module(), *inputs), drawn(model.train(), *inputs)
    for one, other in zip(flat(y), flat(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    if row.layer not in OF_OTHER_DRAWS:
        torch.testing.assert_close(y, expected)


@some(lambda row: row.layer in (fd.Dropout, fd.AlphaDropout, fd.Zoneout) and not row.options)
def test_programs_exported_while_installed_have_them_as_well(row: Member) -> None:
    model, inputs = wrapped(row)
    ft.install()
    program = torch.export.export(model, inputs).run_decompositions()
    assert not [node for node in program.graph.nodes if "fastdrop" in str(node.target)]


@with_module
def test_modules_call_their_function(row: Member) -> None:
    module, inputs = module_of(row), tensors(row)
    y = drawn(module, *inputs)
    layer = module if row.layer in (fd.DropConnectLinear, fd.ConcreteDropout) else None
    assert_equal(y, drawn(call, row, inputs, layer=layer))
    assert eval(repr(module), {**vars(nn), **vars(ft)}).p == pytest.approx(module.p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert_equal(drawn(copied, *inputs), y)
    in_evaluation = drawn(call, row, inputs, layer=layer, training=False)
    assert_equal(module.eval()(*inputs), in_evaluation)


@with_module
def test_a_module_with_a_key_is_the_layer_with_it(row: Member) -> None:
    """Call for call; and held."""
    module, layer, inputs = module_of(row), row.make(rng=KEY_), tensors(row)
    if row.layer is fd.DropConnectLinear:
        layer.weight, layer.bias = as_numpy(module.weight), as_numpy(module.bias)
    module.key = KEY_
    arrays = each(as_numpy, inputs)
    for _ in range(2):
        for y, one in zip(flat(module(*inputs)), flat(layer(*arrays)), strict=True):
            torch.testing.assert_close(y.detach(), as_tensor(one))
    assert module.calls == 2
    with module.hold():
        assert_equal(module(*inputs), module(*inputs))


@with_module
def test_set_keys_reaches_the_module(row: Member) -> None:
    model, inputs = nn.ModuleDict({"drop": module_of(row)}), tensors(row)
    ft.set_keys(model, KEY_)
    first = model["drop"](*inputs)
    ft.set_keys(model, KEY_)
    assert_equal(model["drop"](*inputs), first)
    others = []
    for n in range(5):
        ft.set_keys(model, KEY_.fold_in(n))
        others += zip(flat(model["drop"](*inputs)), flat(first), strict=True)
    assert any(not torch.equal(y, one) for y, one in others)
    ft.set_keys(model, None)


@with_module
def test_a_schedule_sets_p_of_the_module(row: Member) -> None:
    module, inputs = module_of(row, 0.0), tensors(row)
    schedule = fd.PSchedule(module, fd.schedules.Linear(0.0, 0.5, steps=1))
    schedule.step()
    schedule.step()
    other = module_of(row, 0.5)
    other.load_state_dict(module.state_dict())
    assert module.p == other.p == 0.5
    assert_equal(drawn(module, *inputs), drawn(other, *inputs))


@some(lambda row: row.layer in (fd.EmbeddingDropout, fd.DropConnect))
def test_all_ranks_drop_the_same_weights(row: Member) -> None:
    model, inputs = nn.ModuleDict({"drop": module_of(row)}), tensors(row)
    results = []
    for rank in range(2):
        ft.set_keys(model, KEY_, rank=rank, world_size=2)
        results.append(model["drop"](*inputs))
    assert_equal(*results)


@pytest.mark.parametrize("shared", [False, True])
@with_module
def test_samples_of_modules_are_those_of_layers(row: Member, shared: bool) -> None:
    """In one run as well; or both are refused."""
    module, layer, inputs = module_of(row), row.make(), tensors(row)
    if row.layer is fd.DropConnectLinear:
        layer.weight, layer.bias = as_numpy(module.weight), as_numpy(module.bias)
    arrays = each(as_numpy, inputs)

    def outcome(drop: Any, first: Any, *others: Any) -> Any:
        def model(x: Any) -> Any:
            return flat(drop(x, *others))[0]

        results = []
        for name in ("samples", "batch"):
            try:
                run = fd.MonteCarlo(model, drop, rng=5, shared=shared)
                results.append(getattr(run, name)(first, 3))
            except TypeError as error:
                results.append(str(error)[:40])
        return results

    expected, before = outcome(layer, *arrays), dict(vars(module))
    for one, other in zip(outcome(module.eval(), *inputs), expected, strict=True):
        if isinstance(other, str):
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5)
    assert vars(module) == {**before, "training": False}


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.int(), TypeError, "must have dtype .*, got torch.int32"),
        (lambda x: x.to_sparse(), ValueError, "must be dense, got .*sparse_coo"),
        (lambda x: x.numpy(), TypeError, "must be a tensor, got ndarray"),
    ],
)
@every_row
def test_a_bad_tensor_is_named(row: Member, change: Any, error: Any, message: str) -> None:
    inputs, state = tensors(row), torch.get_rng_state()
    layer = _Linear(row, torch.float32)
    first, *_ = row.call(layer, inputs, function=lambda *given, **_: given)
    name = next(iter(inspect.signature(function_of(row)).parameters))
    bad = [change(first[0]), *first[1:]] if isinstance(first, list) else change(first)
    with pytest.raises(error, match=rf"^{name}.* {message}") as caught:
        call(row, (bad, *inputs[1:]), layer=layer)
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": 3}, TypeError, "key must be a Key or a tensor of 2 int64, got 3"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, got 3"),
        ({"mask": 3}, TypeError, "mask must be a .*, got"),
        (
            {"key": KEY_, "generator": torch.Generator()},
            ValueError,
            "at most one of key, generator",
        ),
    ],
)
@every_row
def test_a_bad_source_is_named(row: Member, options: Any, error: Any, message: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(error, match=message) as caught:
        call(row, tensors(row), **options)
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


@some(lambda row: row.layer is not fd.ConcreteDropout)
def test_a_bad_p_is_named(row: Member) -> None:
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"p must be a number in \[0, 1\], got"):
            call(row, tensors(row), p)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            module_of(row, p) if row.layer is not fd.WeightDrop else ft.DropConnect(p)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("mode", "scaled", ValueError, "mode must be 'inverted' or 'standard', got 'scaled'"),
        (
            "channel_axis",
            7,
            IndexError,
            "channel_axis must be an axis of .*, got 7",
        ),
        ("channel_axis", 0, IndexError, "channel_axis must not be axis 0, the batch, got 0"),
        ("channel_axis", "C", TypeError, "channel_axis must be an int, got 'C'"),
        ("per", "row", ValueError, "per must be 'sample' or 'batch', got 'row'"),
        ("batch_axis", 9, IndexError, "batch_axis must be an axis of an array with . axes, got 9"),
        ("time_axis", 9, IndexError, "time_axis must be an axis of an array with . axes, got 9"),
        ("time_axis", None, TypeError, "time_axis must be an int, got None"),
        ("shared", 2, TypeError, "shared must be True or False, got 2"),
    ],
)
def test_a_bad_option_is_named(name: str, value: Any, error: Any, message: str) -> None:
    """By every function that has the option, and nothing is drawn."""
    rows = [row for row in DOOR if name in inspect.signature(function_of(row)).parameters]
    assert rows
    for row in rows:
        options = {"per": "sample"} if name == "batch_axis" else {}
        bad = Member(
            row.layer, row.function, row.shapes, {**row.options, **options, name: value},
            row.arguments,
        )  # fmt: skip
        state = torch.get_rng_state()
        with pytest.raises(error, match=message):
            call(bad, tensors(row))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "gaussian_dropout"])
def test_bad_axes_are_named(name: str) -> None:
    x, function = torch.ones(2, 3), getattr(F, name)
    for dims, message in ((2, "must be an axis of an array with 2 axes, got 2"),
                          ((0, -2), "must not name an axis twice")):  # fmt: skip
        with pytest.raises(IndexError, match=f"broadcast_dims {message}"):
            function(x, 0.5, True, broadcast_dims=dims)
    with pytest.raises(TypeError, match="broadcast_dims must be an int or a sequence of ints"):
        function(x, 0.5, True, broadcast_dims="a")
    *_, mask = function(x, 0.5, True, return_mask=True)
    with pytest.raises(ValueError, match="mask must not be given together with broadcast_dims"):
        function(x, 0.5, True, broadcast_dims=0, mask=mask)
