"""Compiled, exported and transformed functions of tensors: the operator. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastdrop as fd
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from tensors import drawn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:.*tensor cores"),
]

F = ft.functional
KEY = fd.Key(3)
WORDS = ft.key_tensor(KEY)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Compile anew in each test: what was kept on disk may be of another version."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    ft.uninstall()


class Called(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("operation", "shapes", "region"),
    [
        ("select", [(3, 4)], None),
        ("affine", [(3, 4)], None),
        ("add", [(3, 4), (4,)], None),
        ("bias_add", [(3, 4), (1, 4), (3, 1)], None),
        ("gelu", [(3, 4)], ([6, 4], [3, 0], [3, 4])),
    ],
)
def test_the_operator_passes_the_checks_of_torch(
    operation: str, shapes: Any, region: Any, gradient: bool
) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64]  # promoted
    inputs = [
        torch.randn(shape, dtype=dtype, requires_grad=gradient)
        for shape, dtype in zip(shapes, dtypes, strict=False)
    ]
    region = region or (None, None, None)
    three = (*inputs, None, None)[:3]
    arguments = (operation, *three, WORDS, 0.5, [], 2.0, 0.0, 0.0, [], *region)
    torch.library.opcheck(torch.ops.fastdrop.forward.default, arguments)


def test_compiled_and_eager_functions_give_the_same_mask_for_a_key() -> None:
    compiled = torch.compile(lambda x, key: F.dropout(x, 0.5, key=key), fullgraph=True)
    x = torch.randn(8, 16, requires_grad=True)
    y = compiled(x, WORDS)
    assert torch.equal(y, F.dropout(x, 0.5, key=KEY))
    y.sum().backward()
    assert torch.equal(x.grad, F.dropout(torch.ones(8, 16), 0.5, key=KEY))


@pytest.mark.parametrize("installed", [False, True])
def test_compiled_and_eager_models_draw_the_same_masks_from_the_generator(installed: bool) -> None:
    """For torch's own dropout they do not."""
    if installed:
        ft.install()
    kind = torch.nn.Dropout if installed else ft.Dropout
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), kind(), torch.nn.Linear(16, 16), kind())
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(8, 16, requires_grad=True)
    results = []
    for function in (model, compiled):
        y = drawn(function, x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        results.append((y.detach(), gradient))
    torch.testing.assert_close(*results)


def test_equal_calls_of_a_compiled_function_draw_their_own_masks() -> None:
    """A pass that removes equal operations would make them one."""

    def function(x: Any) -> Any:
        return F.dropout(x, 0.5), F.dropout(x, 0.5)

    compiled = torch.compile(function, fullgraph=True)
    x = torch.ones(1000, requires_grad=True)
    first, second = drawn(compiled, x)
    assert not torch.equal(first, second)
    for mine, eager in zip((first, second), drawn(function, x), strict=True):
        assert torch.equal(mine, eager)
    (first + 2 * second).sum().backward()
    assert torch.equal(x.grad, (first + 2 * second).detach())
    again, _ = compiled(x)
    assert not torch.equal(again, first)


def test_checkpoints_in_compiled_functions_draw_the_same_mask_again() -> None:
    def block(x: Any) -> Any:
        return F.dropout(x, 0.5) * x

    def function(x: Any) -> Any:
        return checkpoint(block, x.sin(), use_reentrant=False)

    x = torch.rand(1000) + 0.5
    gradients = []
    for run in (function, torch.compile(function, fullgraph=True)):
        leaf = x.clone().requires_grad_()
        y = drawn(run, leaf)
        y.sum().backward()
        assert torch.equal(leaf.grad == 0, y == 0)
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_keys_can_change_without_a_new_compilation() -> None:
    model = torch.nn.Sequential(ft.Dropout(0.5))
    compiled = torch.compile(model, fullgraph=True)
    x = torch.ones(100)
    ft.set_keys(model, KEY)
    compiled(x)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for step in range(3):
        ft.set_keys(model, KEY.fold_in(step))
        y = compiled(x)
        ft.set_keys(model, KEY.fold_in(step))
        assert torch.equal(y, model(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_compiled_shapes_can_change() -> None:
    compiled = torch.compile(
        lambda x, key: F.feature_dropout(x, 0.5, key=key), fullgraph=True, dynamic=True
    )
    for n in (3, 5, 8):
        x = torch.randn(n, 2 * n, 4)
        assert torch.equal(compiled(x, WORDS), F.feature_dropout(x, 0.5, key=KEY))


def test_fused_operations_compile() -> None:
    def function(x: Any, r: Any, key: Any) -> Any:
        return F.dropout_add(F.gelu_dropout(x, 0.3, key=key), r, 0.3, key=key)

    x, r = torch.randn(4, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    results = []
    for run in (function, torch.compile(function, fullgraph=True)):
        y = run(x, r, WORDS)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, r))))
    torch.testing.assert_close(*results)
    evaluated = torch.compile(lambda x: F.relu_dropout(x, 0.3, False), fullgraph=True)(x)
    assert torch.equal(evaluated, torch.relu(x))


def test_dtypes_are_promoted_as_in_eager_calls() -> None:
    """Compiled, exported, on meta tensors and under each transform; gradients and tangents, too."""

    def function(x: Any, bias: Any, r: Any, key: Any) -> Any:
        y = F.bias_dropout_add(x, bias, r, 0.3, key=key)
        return y, F.dropout_add(x, r, 0.3, False)

    inputs = [torch.randn(4, 6).bfloat16(), torch.randn(6).half(), torch.randn(4, 6)]
    inputs = [x.requires_grad_() for x in inputs]
    results = []
    exported = torch.export.export(Called(function), (*inputs, WORDS)).module()
    for run in (function, torch.compile(function, fullgraph=True), exported):
        y, z = run(*inputs, WORDS)
        gradients = torch.autograd.grad(y.square().sum(), inputs)
        assert [gradient.dtype for gradient in gradients] == [x.dtype for x in inputs]
        results.append((y.detach(), z.detach(), *gradients))
    y = results[0][0]
    assert y.dtype == torch.float32
    for others in results[1:]:
        torch.testing.assert_close(others, results[0], rtol=0, atol=0)
    meta = function(*(x.detach().to("meta") for x in inputs), WORDS)
    assert [z.dtype for z in meta] == [torch.float32] * 2
    primals = tuple(x.detach() for x in inputs)
    of_key = lambda *inputs: function(*inputs, WORDS)[0]  # noqa: E731
    gradients = torch.func.grad(lambda *inputs: of_key(*inputs).square().sum(), (0, 1, 2))(*primals)
    one = torch.autograd.grad(of_key(*inputs).square().sum(), inputs)
    torch.testing.assert_close(gradients, one, rtol=0, atol=0)
    for which in range(3):  # the other tangents are zeros
        tangents = tuple(x if n == which else 0 * x for n, x in enumerate(primals))
        result, tangent = torch.func.jvp(of_key, primals, tangents)
        assert torch.equal(result, y)
        of_x, of_bias, of_r = tangents
        expected = of_r + F.dropout(of_x.float() + of_bias, 0.3, key=KEY)
        torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)


def test_a_gradient_is_converted_in_the_pass_that_drops_it() -> None:
    called = []

    class Recording(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(f)
            return f(*args, **(kwargs or {}))

    x, r = torch.randn(50).bfloat16().requires_grad_(), torch.randn(50)
    y = F.dropout_add(x, r, 0.3, key=KEY)
    with Recording():
        y.backward(r)
    assert torch.equal(x.grad, F.dropout(r, 0.3, key=KEY).bfloat16())
    assert torch.ops.fastdrop.forward.default in called
    assert torch.ops.aten._to_copy.default not in called


def test_a_batch_has_the_dtypes_of_its_examples() -> None:
    """A residual that has an axis only in the batch promotes no other tensor."""
    x, r = torch.randn(5, 3, 4).bfloat16(), torch.randn(5, dtype=torch.float64)
    for others in (r, r.float()[:, None], r[:, None]):
        results = torch.vmap(lambda x, r: F.dropout_add(x, r, 0.5, key=WORDS))(x, others)
        one = [F.dropout_add(*both, 0.5, key=KEY) for both in zip(x, others, strict=True)]
        assert torch.equal(results, torch.stack(one))
        assert results.dtype == one[0].dtype


def test_meta_and_fake_tensors_have_results_without_memory() -> None:
    x = torch.empty(3, 4, device="meta").t()
    y = F.dropout(x, 0.5)
    assert y.is_meta
    assert y.stride() == torch.empty_like(x).stride()
    with torch._subclasses.FakeTensorMode():
        y = F.dropout_add(torch.empty(3, 4), torch.empty(4), 0.5)
        assert y.shape == (3, 4)


# torch.func


@pytest.mark.parametrize("function", [F.dropout, F.gelu_dropout, F.relu_dropout])
def test_derivatives_of_derivatives_are_those_of_autograd(function: Any) -> None:
    """In every order of forward and reverse mode."""

    def loss(x: Any) -> Any:
        return function(x, 0.4, key=KEY).square().sum()

    x = torch.randn(6, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), gradient)
    hessian = torch.autograd.functional.hessian(loss, x)
    assert bool(hessian.any())
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev, torch.func.grad):
            torch.testing.assert_close(outer(inner(loss))(x), hessian)


def test_the_tangent_of_a_linear_call_is_the_call() -> None:
    x, t = torch.randn(100), torch.randn(100)
    _, tangent = torch.func.jvp(lambda x: F.dropout(x, 0.5, key=WORDS), (x,), (t,))
    assert torch.equal(tangent, F.dropout(t, 0.5, key=KEY))
    result, tangent = torch.func.jvp(lambda x: F.dropout(x, 0.5), (torch.ones(100),) * 1, (t,))
    assert torch.equal(tangent == 0, result == 0)


@pytest.mark.parametrize("installed", [False, True])
def test_both_modes_of_randomness_under_vmap(installed: bool) -> None:
    if installed:
        ft.install()
    dropout = theirs.dropout if installed else F.dropout
    x = torch.ones(5, 40)

    def run(randomness: str, function: Any = lambda x: dropout(x, 0.5)) -> Any:
        return torch.func.vmap(function, randomness=randomness)(x)

    assert len(run("same").unique(dim=0)) == 1
    assert len(run("different").unique(dim=0)) == 5
    with pytest.raises(RuntimeError, match="randomness"):
        run("error")
    torch.manual_seed(0)
    gradient = torch.func.grad(lambda x: dropout(x, 0.5).sum())(x[0])
    torch.manual_seed(0)
    assert torch.equal(gradient, F.dropout(x[0], 0.5))
    gradients = run("different", torch.func.grad(lambda x: dropout(x, 0.5).sum()))
    assert len(gradients.unique(dim=0)) == 5


def test_vmap_over_each_input() -> None:
    x, r = torch.randn(5, 3, 4), torch.randn(5, 4)
    keys = torch.stack([ft.key_tensor(KEY.fold_in(n)) for n in range(5)])

    def add(x: Any, r: Any, key: Any) -> Any:
        return F.dropout_add(x, r, 0.5, key=key)

    for dims, arguments in [
        ((0, 0, None), (x, r, WORDS)),
        ((None, 0, None), (x[0], r, WORDS)),
        ((1, None, None), (x.transpose(0, 1), r[0], WORDS)),
        ((0, 0, 0), (x, r, keys)),
        ((None, None, 0), (x[0], r[0], keys)),
    ]:
        results = torch.func.vmap(add, in_dims=dims)(*arguments)
        for n, result in enumerate(results):
            one = [
                argument if dim is None else argument.select(dim, n)
                for argument, dim in zip(arguments, dims, strict=True)
            ]
            assert torch.equal(result, add(*one)), dims
    channels = torch.func.vmap(lambda x: F.feature_dropout(x, 0.5, key=WORDS))(x[..., None])
    assert torch.equal(channels[1], F.feature_dropout(x[1][..., None], 0.5, key=KEY))
    blocks = torch.func.vmap(lambda x: F.drop_block1d(x[None], 0.3, 2, key=WORDS))(x)
    assert torch.equal(blocks[1], F.drop_block1d(x[1][None], 0.3, 2, key=KEY))


def test_calls_in_place_are_transformed_too() -> None:
    def function(x: Any) -> Any:
        return F.dropout(x * 1, 0.5, inplace=True, key=WORDS)

    x = torch.ones(40)
    expected = F.dropout(x, 0.5, key=KEY)
    assert torch.equal(torch.func.grad(lambda x: function(x).sum())(x), expected)
    assert torch.equal(torch.compile(function, fullgraph=True)(x), expected)


@pytest.mark.parametrize("function", [F.dropout, F.gelu_dropout])
def test_batched_gradients_are_those_of_each(function: Any) -> None:
    """They come as tensors without memory, of a vmap that is older than `torch.func`."""
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    y = function(x, 0.4, key=KEY)
    (rows,) = torch.autograd.grad(y, x, torch.eye(6), is_grads_batched=True, retain_graph=True)
    for row, unit in zip(rows, torch.eye(6), strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(y, x, unit, retain_graph=True)[0])
    loss = lambda x: function(x, 0.4, key=KEY).square().sum()  # noqa: E731
    torch.testing.assert_close(
        torch.autograd.functional.hessian(loss, x, vectorize=True),
        torch.autograd.functional.hessian(loss, x),
    )
    assert torch.autograd.gradcheck(
        lambda x: function(x, 0.4, key=KEY), x, check_batched_grad=True, check_forward_ad=True
    )


def test_a_trace_records_the_call() -> None:
    """A trace does not see what the core does to memory by itself."""
    traced = torch.jit.trace(ft.Dropout(0.5), torch.ones(100), check_trace=False)
    assert torch.equal(drawn(traced, torch.ones(100)), drawn(F.dropout, torch.ones(100)))


def test_zeros_without_memory_stay_zeros() -> None:
    assert not F.dropout(torch._efficientzerotensor(100), 0.5).any()


def test_masks_are_not_returned_from_where_they_are_not_known() -> None:
    with pytest.raises(
        RuntimeError, match="return_mask must be False in a compiled or transformed"
    ):
        torch.func.grad(lambda x: F.dropout(x, return_mask=True)[0].sum())(torch.ones(3))
