"""PyTorch models with fastdrop's dropout: installed kernels, modules, processes. Needs PyTorch."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own
]

F = ft.functional


@pytest.fixture
def installed() -> Iterator[None]:
    with ft.installed():
        yield


def drawn(function: Any, *arguments: Any, seed: int = 0, **options: Any) -> Any:
    """Call a function after seeding torch."""
    torch.manual_seed(seed)
    return function(*arguments, **options)


X = torch.randn(4, 6, 5, 3)

# torch's functions, and those of fastdrop that must draw the same mask from the same generator.
OPERATORS = [
    (theirs.dropout, F.dropout, X),
    (theirs.dropout1d, F.dropout1d, X[0]),
    (theirs.dropout1d, F.dropout1d, X[0, 0]),
    (theirs.dropout2d, F.dropout2d, X),
    (theirs.dropout3d, F.dropout3d, X[None]),
    (theirs.dropout3d, F.dropout3d, X),
    (theirs.alpha_dropout, F.alpha_dropout, X),
    (theirs.feature_alpha_dropout, F.feature_alpha_dropout, X),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("their", "ours", "x"), OPERATORS)
def test_installed_kernels_draw_what_the_functions_draw(
    their: Any, ours: Any, x: Any, inplace: bool, installed: None
) -> None:
    expected = drawn(ours, x.clone(), 0.4, True)
    given = x.clone()
    y = drawn(their, given, 0.4, True, inplace)
    assert torch.equal(y, expected)
    assert (y.data_ptr() == given.data_ptr()) == inplace
    leaf = x.clone().requires_grad_()
    drawn(their, leaf * 1, 0.4, True, inplace).sum().backward()
    other = x.clone().requires_grad_()
    drawn(ours, other, 0.4, True).sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    with torch.inference_mode():
        assert torch.equal(drawn(their, x.clone(), 0.4, True, inplace), expected)
    assert their(x, 0.4, False).data_ptr() == x.data_ptr()


def test_native_dropout_returns_its_mask(installed: None) -> None:
    x = torch.randn(50, 4, requires_grad=True)
    y, mask = drawn(torch.native_dropout, x, 0.4, True)
    assert torch.equal(y, drawn(F.dropout, x, 0.4))
    assert torch.equal(mask, y != 0)
    y.sum().backward()
    assert torch.equal(x.grad, mask / torch.tensor(0.6))
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(drawn(torch.native_dropout, x.detach(), 0.4, True)[1], mask)
    y, mask = torch.native_dropout(x, 0.4, False)
    assert torch.equal(y, x)
    assert bool(mask.all())


def test_attention_and_transformers_use_the_kernels(installed: None) -> None:
    """The attention's dropout is called inside torch, by no Python code."""
    q = torch.randn(2, 3, 8, 4)
    y = drawn(theirs.scaled_dot_product_attention, q, q, q, dropout_p=0.5)
    weights = (q @ q.transpose(-1, -2) / 2).softmax(-1)
    assert torch.allclose(y, drawn(F.dropout, weights, 0.5) @ q, atol=1e-6)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 8)
    first = drawn(layer, x)
    assert torch.equal(drawn(layer, x), first)
    ft.uninstall()
    assert not torch.equal(drawn(layer, x), first)


@pytest.mark.parametrize(
    "x", [torch.ones(9, dtype=torch.complex64), torch.ones(9).int(), torch.ones(9).to_sparse()]
)
def test_what_torch_refuses_stays_refused(x: Any, installed: None) -> None:
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        theirs.dropout(x, 0.5)
    ft.uninstall()
    with pytest.raises((NotImplementedError, RuntimeError)):
        theirs.dropout(x, 0.5)


def test_native_dropout_of_other_dtypes_is_that_of_torch(installed: None) -> None:
    complex_ones, ints = torch.ones(100, dtype=torch.complex64), torch.ones(3, dtype=torch.long)

    def results() -> Any:
        y, mask = drawn(torch.native_dropout, complex_ones, 0.5, True)
        gradient = torch.ops.aten.native_dropout_backward(ints, ints != 0, 2.0)
        return y, mask, gradient, theirs.dropout(ints, 1.0)

    ours = results()
    ft.uninstall()
    for one, other in zip(ours, results(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_modules_take_nested_tensors_as_those_of_torch_do(layout: Any) -> None:
    x = torch.nested.nested_tensor([torch.ones(30), torch.ones(20)], layout=layout)
    y = ft.Dropout(0.5)(x)
    assert y.is_nested
    with pytest.raises(ValueError, match="input must be dense, got a nested tensor"):
        F.dropout(x)


def test_uninstalling_gives_back_the_masks_of_torch() -> None:
    x = torch.ones(1000)
    before = drawn(theirs.dropout, x, 0.5)
    with ft.installed():
        with ft.installed():
            inside = drawn(theirs.dropout, x, 0.5)
        assert torch.equal(drawn(theirs.dropout, x, 0.5), inside)
    assert not torch.equal(before, inside)
    assert torch.equal(drawn(theirs.dropout, x, 0.5), before)
    ft.uninstall()


def test_installed_kernels_under_script_and_trace(installed: None) -> None:
    scripted = torch.jit.script(nn.Dropout(0.5))
    x = torch.ones(100)
    assert torch.equal(drawn(scripted, x), drawn(F.dropout, x))


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


@pytest.mark.parametrize(
    ("module", "function", "shape"),
    [
        (ft.FeatureDropout(0.3), F.feature_dropout, (3, 4, 5)),
        (ft.DropPath(0.3), F.drop_path, (3, 4)),
        (ft.LockedDropout(0.3, time_axis=1), lambda x, p: F.locked_dropout(x, p, time_axis=1),
         (3, 4)),
        (ft.ReluDropout(0.3), F.relu_dropout, (3, 4)),
        (ft.GeluDropout(0.3, approximate="tanh"),
         lambda x, p: F.gelu_dropout(x, p, approximate="tanh"), (3, 4)),
        (ft.DropBlock2d(0.3, 2), lambda x, p: F.drop_block2d(x, p, 2), (2, 3, 6, 6)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_modules_call_their_function(module: Any, function: Any, shape: Any) -> None:
    x = torch.randn(shape)
    assert torch.equal(drawn(module, x), drawn(function, x, 0.3))
    assert eval(repr(module), vars(ft)).p == 0.3
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(drawn(again, x), drawn(module, x))
    y = again.eval()(x)
    if type(module).__name__ in ("ReluDropout", "GeluDropout"):
        assert not torch.equal(y, x)
    else:
        assert y is x


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


# Processes


class _Masks(torch.utils.data.Dataset[Any]):
    """Items that are masks, drawn in a worker."""

    def __init__(self, key: fd.Key | None) -> None:
        self.key = key

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        key = None if self.key is None else self.key.fold_in(index)
        return F.dropout(torch.ones(64), 0.5, key=key)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_draw_different_masks_or_those_of_a_key(start: str) -> None:
    def batches(key: fd.Key | None, workers: int, seed: int) -> Any:
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(
            _Masks(key),
            num_workers=workers,
            multiprocessing_context=start if workers else None,
        )
        return torch.cat(list(loader))

    drawn_by_workers = batches(None, 2, 0)
    assert len(drawn_by_workers.unique(dim=0)) == 4
    assert torch.equal(batches(None, 2, 0), drawn_by_workers)
    of_a_key = batches(fd.Key(0), 0, 0)
    assert torch.equal(batches(fd.Key(0), 2, 1), of_a_key)


class _Large(torch.utils.data.Dataset):
    """Arrays and tensors that are large enough for several threads."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        fd.set_num_threads(3)
        x, key = np.ones(1 << 20, np.float32), fd.Key(index)
        tensor = F.dropout(torch.from_numpy(x), 0.5, key=key)
        return torch.from_numpy(fd.dropout(x, 0.5, rng=key)), tensor


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_draw_large_masks_like_their_parent(start: str) -> None:
    """The parent's threads are at work before the workers start; none may wait for them."""
    before = fd.get_num_threads()
    data = _Large()
    expected = [data[index] for index in range(len(data))]
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=start, timeout=60
    )
    for actual, (array, tensor) in zip(loader, expected, strict=True):
        assert torch.equal(actual[0], array)
        assert torch.equal(actual[1], tensor)
        assert torch.equal(array, tensor)
    fd.set_num_threads(before)


def _ranked(rank: int, path: str) -> None:
    """One of two processes: shards of a layer, and a replica of a model."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    try:
        key = fd.Key(5)
        torch.manual_seed(1)
        x, weight = torch.randn(6, 8), torch.randn(8, 10)
        whole = fd.Mask((6, 10), 0.4, key)
        # Tensor parallel: each rank has half of the columns. Sequence parallel: half of the rows.
        for axis in (0, 1):
            size = [6, 10][axis] // 2
            start, shape = [0, 0], [6, 10]
            start[axis], shape[axis] = rank * size, size
            shard = (x @ weight).narrow(axis, rank * size, size).contiguous().requires_grad_()
            y = F.dropout(shard, mask=whole.region(start, shape))
            y.sum().backward()
            for part, full in ((y.detach(), x @ weight), (shard.grad, torch.ones(6, 10))):
                parts = [torch.empty_like(part) for _ in range(2)]
                dist.all_gather(parts, part)
                assert torch.equal(torch.cat(parts, axis), F.dropout(full, mask=whole))
        # Data parallel: other masks on every rank, by the key; the same gradients after all_reduce.
        model = nn.Sequential(nn.Linear(8, 16), ft.Dropout(0.5), nn.Linear(16, 1))
        replica = nn.parallel.DistributedDataParallel(model)
        ft.set_keys(model, key.fold_in(0).fold_in(rank))
        replica(x).sum().backward()
        gradients = [torch.empty_like(model[2].weight) for _ in range(2)]
        dist.all_gather(gradients, model[2].weight.grad)
        assert torch.equal(*gradients)
        masks = [torch.empty(64) for _ in range(2)]
        dist.all_gather(masks, model[1](torch.ones(64)))
        assert not torch.equal(*masks)
        ft.set_keys(model, key)
        dist.all_gather(masks, model[1](torch.ones(64)))
        assert torch.equal(*masks)
        dist.barrier()
    finally:
        dist.destroy_process_group()
        # A thread of torch still has the tensors of the last call, and lets go of them only now.
        # It would abort the process if the interpreter ended meanwhile.
        time.sleep(0.5)


def test_ranks_draw_shards_of_one_mask_or_masks_of_their_own(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_ranked, args=(str(tmp_path / "rendezvous"),), nprocs=2)


FORK = """
import os, signal, sys
import torch
torch.set_num_threads(2)
x = torch.randn(1 << 21)
(x * 2).sum()  # starts the threads of torch
if sys.argv[1] == "before":
    import fastdrop.torch
    import fastdrop as fd
    fastdrop.torch.functional.dropout(x, 0.5)
child = os.fork()
if child == 0:
    signal.alarm(60)
    import fastdrop.torch
    import fastdrop as fd
    y = fastdrop.torch.functional.dropout(x, 0.5, key=fd.Key(0))
    expected = fd.dropout(x.numpy(), 0.5, rng=fd.Key(0))
    os._exit(int((y.numpy() != expected).any()))
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_forked_child_does_not_wait_for_threads_it_lacks(imported: str) -> None:
    """OpenMP's runtime would: its threads stay with the parent."""
    done = subprocess.run([sys.executable, "-c", FORK, imported], timeout=120, check=False)
    assert done.returncode == 0
