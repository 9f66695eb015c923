"""Workers, ranks and forked children that draw masks of tensors. Needs PyTorch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdrop.torch as ft  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as theirs  # noqa: E402

pytestmark = pytest.mark.once

F = ft.functional
ROOT = Path(__file__).parent.parent


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
import os, signal, sys, threading, time
import torch
torch.set_num_threads(2)
x = torch.randn(1 << 21)
(x * 2).sum()  # starts the threads of torch
if sys.argv[1] == "before":
    import fastdrop.torch
    import fastdrop as fd
    fastdrop.torch.functional.dropout(x, 0.5)
    changing = threading.Event()
    def change():
        with fastdrop.torch._install._lock:
            changing.set()
            time.sleep(0.2)
    threading.Thread(target=change).start()
    changing.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    import fastdrop.torch
    import fastdrop as fd
    fastdrop.torch.install()
    y = fastdrop.torch.functional.dropout(x, 0.5, key=fd.Key(0))
    expected = fd.dropout(x.numpy(), 0.5, rng=fd.Key(0))
    os._exit(int((y.numpy() != expected).any()))
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_forked_child_does_not_wait_for_threads_it_lacks(imported: str) -> None:
    """OpenMP's runtime would: its threads stay with the parent, as does one that installs."""
    done = subprocess.run([sys.executable, "-c", FORK, imported], timeout=120, check=False)
    assert done.returncode == 0


# Processes that install by themselves


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch finds the package's entry points, also without its wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = tmp_path / "site" / "entries-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: entries\nVersion: 0\n")
    lines = [
        f"{name} = {value}" for name, value in project["entry-points"]["torch.backends"].items()
    ]
    (package / "entry_points.txt").write_text("\n".join(["[torch.backends]", *lines]))
    paths = [str(Path(fd.__file__).parent.parent), str(package.parent)]
    variables = {name: text for name, text in os.environ.items() if "FASTDROP_TORCH" not in name}
    return variables | {"PYTHONPATH": os.pathsep.join(paths)}


def ran(environment: dict[str, str], *command: str) -> Any:
    return subprocess.run(
        [sys.executable, *command], env=environment, text=True, capture_output=True, timeout=120
    )


def test_importing_torch_imports_nothing_of_fastdrop_unless_asked(environment: Any) -> None:
    """That is: only the entry point."""
    program = "import sys, torch; print([name for name in sys.modules if 'fastdrop' in name])"
    for variables in ({}, {ft._install.VARIABLE: "0"}):
        done = ran(environment | variables, "-c", program)
        assert done.stdout.strip() == "['_fastdrop_autoload']", done.stderr


@pytest.mark.parametrize("first", ["torch", "fastdrop.torch"])
def test_a_process_that_is_asked_installs_whatever_it_imports_first(
    first: str, environment: Any
) -> None:
    """``import fastdrop.torch`` imports torch, which imports fastdrop.torch."""
    program = f"import {first}, fastdrop.torch as ft, torch; print(ft._install._installed[1:])"
    done = ran(environment | {ft._install.VARIABLE: "random"}, "-c", program)
    assert done.stdout.strip() == "(False, True)", done.stderr


@pytest.mark.parametrize("value", ["yes", "1,randm", "attention random"])
def test_a_wrong_value_in_the_environment_is_named_in_a_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ft._install.VARIABLE, value)
    with pytest.raises(ValueError, match=f"FASTDROP_TORCH_INSTALL must be .*, got '{value}'$"):
        ft._install.from_environment()


PROGRAM = """
import multiprocessing
import sys
import joblib
import torch

def drawn(seed):
    import torch  # joblib's workers would not
    torch.manual_seed(seed)
    return str([torch.nn.functional.dropout(torch.ones(300), 0.5).tolist(), torch.rand(3).tolist()])

class Drawn(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, seed):
        return drawn(seed)

if __name__ == "__main__":
    assert sys.argv[1:] == ["--epochs", "3"], sys.argv
    expected = [drawn(0), drawn(1)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(drawn, [0, 1]) == expected
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(drawn)(seed) for seed in (0, 1)) == expected
    loader = torch.utils.data.DataLoader(
        Drawn(), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert list(loader) == expected
    print(expected[0])
"""


def test_a_program_and_its_workers_run_with_fastdrop(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Workers that are spawned, joblib's and those of a DataLoader draw what the program draws."""
    (tmp_path / "program.py").write_text(PROGRAM)
    program = str(tmp_path / "program.py")
    done = ran(environment, "-m", "fastdrop.torch", "--random", program, "--epochs", "3")
    with ft.installed(random=True):
        torch.manual_seed(0)
        y = theirs.dropout(torch.ones(300), 0.5)
        expected = [y.tolist(), torch.rand(3).tolist()]
    assert done.stdout.strip() == str(expected), done.stderr
    assert done.stderr == ""


def test_the_runner_says_why_children_keep_the_dropout_of_torch(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "site" / "package.py").write_text("import sys; print(__name__, sys.argv[1:])")
    off = environment | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = ran(off, "-m", "fastdrop.torch", "-m", "package", "--random")
    assert "child processes keep PyTorch's dropout: TORCH_DEVICE_BACKEND" in done.stderr
    assert done.stdout == "__main__ ['--random']\n"


@pytest.mark.parametrize("program", [["missing.py"], ["-m", "missing"], ["--random"]])
def test_the_runner_refuses_what_it_cannot_run(
    program: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastdrop.torch", *program])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("fastdrop.torch.__main__").main()
    assert ("program" if program == ["--random"] else "missing") in capsys.readouterr().err
    assert not ft.is_installed()
