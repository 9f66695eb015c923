"""Modules whose weights are dropped: a wrapper, and a parametrization. Needs PyTorch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fastdrop as fd
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from fastdrop._base.keys import number_of  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
]

F = ft.functional
KEY = fd.Key(3)
X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2))
KINDS = [nn.LSTM, nn.GRU, nn.RNN]
every_kind = pytest.mark.parametrize("kind", KINDS)


def recurrent(kind: Any) -> tuple[Any, list[str]]:
    """Return a recurrent module and the names of its hidden-to-hidden weights."""
    torch.manual_seed(0)
    module = kind(3, 4, num_layers=2, bidirectional=True)
    return module, [name for name, _ in module.named_parameters() if "weight_hh" in name]


def with_weights(module: Any, weights: dict[str, Any]) -> Any:
    """Return a copy of a module with other weights."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, weight in weights.items():
            module.get_parameter(name).copy_(weight)
    return module


def gradients(y: Any, module: Any) -> list[Any]:
    return list(torch.autograd.grad(y.sin().sum(), list(module.parameters())))


@every_kind
def test_a_wrapped_module_computes_with_its_weights_dropped(kind: Any) -> None:
    """Would catch recurrent modules, which compute with a list of the weights they began with."""
    plain, names = recurrent(kind)
    rnn = ft.WeightDrop(copy.deepcopy(plain), names, p=0.5)
    rnn.key = KEY
    dropped = F.weight_drop([plain.get_parameter(n) for n in names], 0.5, key=KEY.fold_in(0))
    expected = with_weights(plain, dict(zip(names, dropped, strict=True)))(X)[0]
    y = rnn(X)[0]
    assert torch.equal(y, expected)
    assert torch.equal(rnn.eval()(X)[0], plain(X)[0])
    assert torch.equal(rnn.wrapped(X)[0], plain(X)[0])
    parameter = dict(zip([n for n, _ in plain.named_parameters()], gradients(y, rnn), strict=True))
    for name, weight in zip(names, dropped, strict=True):
        assert ((parameter[name] == 0) >= (weight == 0)).all()
    for again in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        again.train().key = KEY
        assert torch.equal(again(X)[0], y)


@every_kind
def test_a_parametrized_module_computes_with_its_weights_dropped(kind: Any) -> None:
    plain, names = recurrent(kind)
    rnn = ft.drop_weights(copy.deepcopy(plain), names, p=0.5)
    ft.set_keys(rnn, KEY)
    weights = {
        name: F.drop_connect(
            plain.get_parameter(name), 0.5,
            key=KEY.fold_in(number_of(f"parametrizations.{name}.0")),
        )
        for name in names
    }  # fmt: skip
    y = rnn(X)[0]
    assert torch.equal(y, with_weights(plain, weights)(X)[0])
    assert all(gradient is not None for gradient in gradients(y, rnn))
    assert torch.equal(rnn.eval()(X)[0], plain(X)[0])
    for name in names:
        parametrize.remove_parametrizations(rnn, name, leave_parametrized=False)
    assert type(rnn) is kind
    assert torch.equal(rnn.train()(X)[0], plain(X)[0])


@every_kind
def test_a_parametrized_module_draws_once_per_call_and_can_be_copied(kind: Any) -> None:
    """torch reads weights to look for changes, and keeps results that cannot be copied."""
    plain, names = recurrent(kind)
    rnn = ft.drop_weights(plain, names, p=0.5)
    ft.set_keys(rnn, KEY, numbered=True)
    drops = [rnn.parametrizations[name][0] for name in names]
    for call in range(3):
        assert [drop.calls for drop in drops] == [call] * len(drops)
        rnn(X)
    rnn.double().float().flatten_parameters()
    again = copy.deepcopy(rnn)
    assert [drop.calls for drop in drops] == [3] * len(drops)
    ft.set_keys(rnn, KEY)
    ft.set_keys(again, KEY)
    assert torch.equal(again(X)[0], rnn(X)[0])
    rnn.load_state_dict(again.state_dict())


def test_any_module_can_have_its_weights_dropped() -> None:
    x, linear = torch.randn(2, 4), nn.Linear(4, 3)
    model = nn.Sequential(copy.deepcopy(linear), nn.ReLU())
    ft.drop_weights(model, "0.weight", 0.5)
    direct = copy.deepcopy(linear)
    parametrize.register_parametrization(direct, "weight", ft.DropConnect(0.5))
    wrapped = ft.WeightDrop(copy.deepcopy(linear), ["weight", "bias"], 0.5)
    model[0].parametrizations.weight[0].key = direct.parametrizations.weight[0].key = KEY
    wrapped.key = KEY
    weight = F.drop_connect(linear.weight, 0.5, key=KEY.fold_in(0))
    y = nn.functional.linear(x, weight, linear.bias)
    assert torch.equal(model(x), y.relu())
    assert torch.equal(direct(x), y)
    weight, bias = F.weight_drop([linear.weight, linear.bias], 0.5, key=KEY.fold_in(0))
    assert torch.equal(wrapped(x), nn.functional.linear(x, weight, bias))
    compiled = torch.compile(wrapped, backend="aot_eager", fullgraph=True)
    ft.set_keys(wrapped, KEY)
    y = wrapped(x)
    ft.set_keys(wrapped, KEY)
    torch.testing.assert_close(compiled(x), y)


def test_weights_that_a_module_lacks_are_named() -> None:
    for function in (ft.WeightDrop, ft.drop_weights):
        with pytest.raises(ValueError, match=r"weights must name parameters .*, got 'weight_hh'$"):
            function(nn.Linear(2, 2), "weight_hh")
        with pytest.raises(TypeError, match="module must be a Module, got 3"):
            function(3, "weight")
    for weights, message in ((torch.ones(2), "weights must be a sequence of tensors, got Tensor"),
                             ([3], r"weights\[0\] must be a tensor, got int")):  # fmt: skip
        with pytest.raises(TypeError, match=message):
            F.weight_drop(weights)
    with pytest.raises(ValueError, match="mask must have length 2, one per weight, got 1"):
        F.weight_drop([torch.ones(2)] * 2, mask=[fd.Mask(2, 0.5, KEY)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("count", [7, 40])
def test_words_that_are_looked_up_are_rows_of_the_dropped_table(count: int, dtype: Any) -> None:
    """With fewer words than the table has, only their rows are computed."""
    table = torch.randn(20, 5).to(dtype).requires_grad_()
    words = torch.randint(0, 20, (count, 2), dtype=torch.int32)

    def run(table: Any, **source: Any) -> Any:
        return F.embedding_dropout(table, 0.5, indices=words, **source)

    whole, mask = F.embedding_dropout(table, 0.5, key=KEY, return_mask=True)
    expected = whole[words]
    y, returned = run(table, key=KEY, return_mask=True)
    assert returned == mask
    (gradient,) = torch.autograd.grad(expected.float().sin().sum(), table)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    batched = torch.vmap(run, randomness="same")(torch.stack([table, table]), key=KEY)[1]
    for one in (y, run(table, mask=mask), compiled(table, key=KEY), batched):
        assert torch.equal(one, expected)
        (own,) = torch.autograd.grad(one.float().sin().sum(), table)
        torch.testing.assert_close(own, gradient)
    assert torch.equal(F.embedding_dropout(table, 0.5, False, indices=words), table[words])


def test_bad_words_are_named() -> None:
    table = torch.ones(4, 2)
    with pytest.raises(TypeError, match="indices must have dtype int64 or int32"):
        F.embedding_dropout(table, indices=torch.ones(2))
    with pytest.raises(TypeError, match="indices must be a tensor, got list"):
        F.embedding_dropout(table, indices=[1])
    with pytest.raises(RuntimeError, match=r"weight must have 2 axes, .*, got 1"):
        F.embedding_dropout(torch.ones(4))
    with pytest.raises(IndexError, match="out of"):
        F.embedding_dropout(table, indices=torch.tensor([4]))
