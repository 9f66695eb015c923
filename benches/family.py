"""The family beside NumPy or PyTorch: noise, fused operations, bits, a mask for each example.

    python benches/family.py [--torch] [--rounds 9] [--seconds 0.02]

Each row has the ratios of times from the same rounds, in both directions. float32, one thread;
fastdrop writes into a given output where NumPy does. With `--torch`, members that PyTorch lacks
stand beside the obvious formula, forward, and forward and backward.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import fastdrop as fd
import numpy as np
from fastdrop._bench import Run, machine, ratio, take_turns
from rich.console import Console
from rich.table import Table

Row = tuple[str, str, Run, str, Run]


def noise(n: int) -> Iterator[Row]:
    """Yield Gaussian dropout beside `rng.normal`."""
    rng, key = np.random.default_rng(0), fd.Key(0)
    x = rng.standard_normal(n, dtype=np.float32)
    out = np.zeros_like(x)
    yield (
        f"2^{n.bit_length() - 1}",
        "x * rng.normal(1, s, x.shape)",
        lambda: x * rng.normal(1, 1.0, x.shape),
        "gaussian_dropout",
        lambda: fd.gaussian_dropout(x, 0.5, rng=key, out=out),
    )


def fused(n: int, p: float) -> Iterator[Row]:
    """Yield fused operations beside the plainest expression over the same arrays."""
    rng, key = np.random.default_rng(0), fd.Key(0)
    x, r = (rng.standard_normal((n // 1024, 1024), dtype=np.float32) for _ in range(2))
    bias = r[0].copy()
    out, y, dy = np.zeros_like(x), np.zeros_like(x), np.ones_like(x)
    zero = np.float32(0)
    size = f"2^{n.bit_length() - 1}, p = {p}"
    add = lambda: np.add(x, r, out=y)  # noqa: E731
    yield size, "np.add", add, "dropout_add", lambda: fd.dropout_add(x, r, p, rng=key, out=out)
    yield (
        size,
        "np.add, twice",
        lambda: np.add(np.add(x, bias, out=y), r, out=y),
        "bias_dropout_add",
        lambda: fd.bias_dropout_add(x, bias, r, p, rng=key, out=out),
    )
    yield (
        size,
        "np.maximum",
        lambda: np.maximum(x, zero, out=y),
        "relu_dropout",
        lambda: fd.relu_dropout(x, p, rng=key, out=out),
    )
    yield (
        size,
        "np.add",
        add,
        "relu_dropout_backward",
        lambda: fd.relu_dropout_backward(dy, x, p, rng=key, out=out),
    )
    yield (
        size,
        "np.tanh",
        lambda: np.tanh(x, out=y),
        "gelu_dropout, tanh",
        lambda: fd.gelu_dropout(x, p, approximate="tanh", rng=key, out=out),
    )
    yield (
        size,
        "np.tanh",
        lambda: np.tanh(x, out=y),
        "gelu_dropout",
        lambda: fd.gelu_dropout(x, p, rng=key, out=out),
    )


def others() -> Iterator[Row]:
    """Yield bits, blocks and a mask for each example."""
    rng, key = np.random.default_rng(0), fd.Key(0)
    n = 1 << 20
    for p in (0.5, 0.1):
        yield (
            f"2^20, p = {p}",
            "rng.random(n) < p",
            lambda p=p: rng.random(n) < p,  # type: ignore[misc]
            "bernoulli",
            lambda p=p: fd.bernoulli(n, p, key),  # type: ignore[misc]
        )
    x = rng.standard_normal((128, 512), dtype=np.float32)
    weight = rng.standard_normal((512, 512), dtype=np.float32)

    def stored() -> object:
        mask = rng.random((128, 512, 512), dtype=np.float32) >= 0.5
        return np.einsum("noi,ni->no", mask * weight, x) * 2

    yield (
        "(128, 512, 512), p = 0.5",
        "a stored mask per example",
        stored,
        "drop_connect_linear",
        lambda: fd.drop_connect_linear(x, weight, None, 0.5, rng=key),
    )
    maps = rng.standard_normal((16, 64, 56, 56), dtype=np.float32)
    copy, out = np.empty_like(maps), np.empty_like(maps)
    yield (
        "(16, 64, 56, 56), p = 0.5, 7",
        "np.copyto",
        lambda: np.copyto(copy, maps),
        "drop_block2d",
        lambda: fd.drop_block2d(maps, 0.5, 7, rng=key, out=out),
    )


def of_torch(n: int) -> Iterator[Row]:
    """Yield members beside the obvious formula in PyTorch."""
    import fastdrop.torch
    import torch
    from torch.nn import functional as theirs

    torch.set_num_threads(1)
    F = fastdrop.torch.functional  # noqa: N806, its usual name
    rows, p, side = n // 256, 0.5, max(16, int((n / 64) ** 0.5))
    x, r = torch.randn(rows, 256), torch.randn(rows, 256)
    images = torch.randn(rows // 16, 16, 16, 16)
    tokens, table, words = torch.randn(n // 65536, 256, 256), torch.randn(rows, 256), rows // 4
    indices = torch.randint(0, rows, (words,))
    examples, weight = torch.randn(64, side), torch.randn(side, side)
    logit = torch.tensor(-1.0)
    formulas = {
        "dropout, broadcast_dims": (
            (images,),
            lambda x: x * torch.empty(x.shape[0], x.shape[1], 1, 1).bernoulli_(1 - p) / (1 - p),
            lambda x: F.dropout(x, p, broadcast_dims=(2, 3)),
        ),
        "gaussian_dropout": (
            (x,),
            lambda x: x * (1 + torch.randn_like(x)),
            lambda x: F.gaussian_dropout(x, p),
        ),
        "zoneout": (
            (x, r),
            lambda x, r: torch.where(torch.rand_like(x) < p, r, x),
            lambda x, r: F.zoneout(x, r, p),
        ),
        "embedding_dropout": (
            (table,),
            lambda w: theirs.embedding(
                indices, w * torch.empty(len(w), 1).bernoulli_(1 - p) / (1 - p)
            ),
            lambda w: F.embedding_dropout(w, p, indices=indices),
        ),
        "drop_connect": (
            (x,),
            lambda w: w * torch.empty_like(w).bernoulli_(1 - p) / (1 - p),
            lambda w: F.drop_connect(w, p),
        ),
        "weight_drop": (
            (x, r),
            lambda *several: sum(theirs.dropout(w, p).sum() for w in several),
            lambda *several: sum(w.sum() for w in F.weight_drop(several, p)),
        ),
        "patch_dropout": (
            (tokens,),
            lambda x: x.gather(
                1,
                torch.rand(x.shape[:2])
                .argsort(1)[:, :128]
                .sort(1)[0]
                .unsqueeze(-1)
                .expand(-1, -1, x.shape[2]),
            ),
            lambda x: F.patch_dropout(x, p)[0],
        ),
        "concrete_dropout": (
            (x, logit),
            _concrete,
            F.concrete_dropout,
        ),
        "drop_connect_linear": (
            (examples, weight),
            lambda x, w: torch.bmm(
                w * (torch.rand(len(x), *w.shape) >= p) / (1 - p), x.unsqueeze(2)
            ).squeeze(2),
            lambda x, w: F.drop_connect_linear(x, w, None, p),
        ),
    }
    for name, (inputs, obvious, ours) in formulas.items():
        size, leaves = f"2^{n.bit_length() - 1}", [x.clone().requires_grad_() for x in inputs]
        yield (
            size, "formula", lambda f=obvious, x=inputs: f(*x),  # type: ignore[misc]
            name, lambda f=ours, x=inputs: f(*x),  # type: ignore[misc]
        )  # fmt: skip

        # A gradient like those of the next layer: that of a sum has one element, repeated.
        dy = torch.randn_like(ours(*inputs))

        def step(function: Any, leaves: Any = leaves, dy: Any = dy) -> None:
            torch.autograd.grad(function(*leaves), leaves, dy)

        yield (
            size, "formula", lambda f=obvious, step=step: step(f),  # type: ignore[misc]
            f"{name}, and backward", lambda f=ours, step=step: step(f),  # type: ignore[misc]
        )  # fmt: skip


def _concrete(x: Any, logit: Any) -> Any:
    """Compute concrete dropout as its authors' program does."""
    import torch

    p, u, little = torch.sigmoid(logit), torch.rand_like(x), 1e-7
    z = torch.log(p + little) - torch.log(1 - p + little)
    z = torch.sigmoid((z + torch.log(u + little) - torch.log(1 - u + little)) / 0.1)
    return x * (1 - z) / (1 - p)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare the family with NumPy or PyTorch.")
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch")
    parser.add_argument("--rounds", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.02, help="of a turn, at least (default: %(default)s)"
    )
    options = parser.parse_args()
    fd.set_num_threads(1)
    peer = "PyTorch" if options.torch else "NumPy"
    table = Table("elements", peer, "fastdrop", f"{peer} / fastdrop", f"fastdrop / {peer}")
    if options.torch:
        rows = [row for exponent in (16, 20) for row in of_torch(1 << exponent)]
    else:
        rows = [*noise(1 << 17), *noise(1 << 22)]
        for exponent in (20, 24):
            for p in (0.5, 0.1):
                rows += fused(1 << exponent, p)
        rows += others()
    for size, theirs, numpy, ours, fastdrop in rows:
        times = take_turns(
            {"numpy": numpy, "fastdrop": fastdrop}, rounds=options.rounds, seconds=options.seconds
        )
        there, back = ratio(times, "numpy", "fastdrop"), ratio(times, "fastdrop", "numpy")
        table.add_row(size, theirs, ours, f"{there:.2f}", f"{back:.2f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
