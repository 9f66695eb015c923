"""The family beside NumPy: noise, fused operations, bits, a mask for each example.

    python benches/family.py [--rounds 9] [--seconds 0.02]

Each row has the ratios of times from the same rounds, in both directions. float32, one thread;
fastdrop writes into a given output where NumPy does.
"""

import argparse
from collections.abc import Iterator

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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare the family with NumPy.")
    parser.add_argument("--rounds", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.02, help="of a turn, at least (default: %(default)s)"
    )
    options = parser.parse_args()
    fd.set_num_threads(1)
    table = Table("elements", "NumPy", "fastdrop", "NumPy / fastdrop", "fastdrop / NumPy")
    rows = [*noise(1 << 17), *noise(1 << 22)]
    for exponent in (20, 24):
        for p in (0.5, 0.1):
            rows += fused(1 << exponent, p)
    for size, theirs, numpy, ours, fastdrop in [*rows, *others()]:
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
