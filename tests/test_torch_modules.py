"""Modules, and models whose modules are replaced. Needs PyTorch."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import fastdrop as fd
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from tensors import drawn  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own
]

F = ft.functional


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_modules_take_nested_tensors_as_those_of_torch_do(layout: Any) -> None:
    x = torch.nested.nested_tensor([torch.ones(30), torch.ones(20)], layout=layout)
    y = ft.Dropout(0.5)(x)
    assert y.is_nested
    with pytest.raises(ValueError, match="input must be dense, got a nested tensor"):
        F.dropout(x)


MODULES = [
    (nn.Dropout, ft.Dropout, (3, 4)),
    (nn.Dropout1d, ft.Dropout1d, (3, 4, 5)),
    (nn.Dropout1d, ft.Dropout1d, (4, 5)),
    (nn.Dropout2d, ft.Dropout2d, (3, 4, 5, 2)),
    (nn.Dropout3d, ft.Dropout3d, (3, 4, 5, 2, 2)),
    (nn.Dropout3d, ft.Dropout3d, (4, 5, 2, 2)),
    (nn.AlphaDropout, ft.AlphaDropout, (3, 4)),
    (nn.FeatureAlphaDropout, ft.FeatureAlphaDropout, (3, 4, 5)),
]


@pytest.mark.parametrize(("their", "ours", "shape"), MODULES)
def test_modules_are_those_of_torch(their: Any, ours: Any, shape: tuple[int, ...]) -> None:
    module = ours(0.3, inplace=True)
    assert isinstance(module, their)
    assert repr(module) == repr(their(0.3, inplace=True))
    assert module.state_dict() == {}
    assert pickle.loads(pickle.dumps(module)).p == copy.deepcopy(module).p == 0.3
    assert b"fastdrop.torch." not in pickle.dumps(module)  # the public path alone
    x = torch.randn(shape)
    assert module.eval()(x) is x
    y = ours(0.3)(x)
    assert y.shape == x.shape
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1") as caught:
            ours(p)
        with pytest.raises(ValueError, match=re.escape(str(caught.value))):
            their(p)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6), (2, 4, 5, 6), (2, 4, 5, 6, 2)])
@pytest.mark.parametrize("name", ["Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"])
def test_modules_warn_and_refuse_where_those_of_torch_do(name: str, shape: Any) -> None:
    def outcome(module: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result: Any = tuple(module(torch.ones(shape)).shape)
            except RuntimeError:
                result = RuntimeError
        return result, [warning.category for warning in caught]

    assert outcome(getattr(ft, name)()) == outcome(getattr(nn, name)())


def test_fused_modules_add_in_evaluation() -> None:
    x, r = torch.randn(3, 4), torch.randn(4)
    assert torch.equal(ft.DropoutAdd(0.3).eval()(x, r), x + r)
    assert torch.equal(ft.BiasDropoutAdd(0.3).eval()(x, r, r), x + r + r)
    assert torch.equal(drawn(ft.DropoutAdd(0.3), x, r), drawn(F.dropout, x, 0.3) + r)


def test_replacing_keeps_hooks_modes_and_names() -> None:
    class Own(nn.Dropout):
        """A subclass, whose own behaviour must stay."""

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Sequential(nn.AlphaDropout(), Own()))
    calls: list[int] = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    model[1].eval()
    names = [name for name, _ in model.named_modules()]
    assert ft.replace(model) is model
    assert [type(module) for module in model.modules()][2:] == [
        nn.Dropout, nn.Sequential, nn.AlphaDropout, Own,
    ]  # fmt: skip
    assert [name for name, _ in model.named_modules()] == names
    x = torch.ones(2, 4)
    assert torch.equal(drawn(model[2][0].train(), x), drawn(F.alpha_dropout, x, 0.5, True))
    model(torch.ones(2, 4))
    assert calls == [1]
    assert not model[1].training
    assert model[1].p == 0.2
    ft.set_keys(model, fd.Key(0))
    ft.restore(model)
    assert vars(model[1]).keys() == vars(nn.Dropout()).keys()


def test_a_model_trains_to_the_same_numbers_again() -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        model = ft.replace(
            nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 1))
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x = torch.randn(64, 8)
        history = []
        for _ in range(5):
            loss = (model(x) - x[:, :1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    assert losses() == losses()
