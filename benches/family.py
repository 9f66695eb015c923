"""The family beside NumPy, PyTorch or JAX: noise, fused operations, bits, a mask for each example.

    python benches/family.py [--torch | --jax] [--rounds 9] [--seconds 0.02]

Each row has the ratios of times from the same rounds, in both directions. float32, one thread;
fastdrop writes into a given output where NumPy does. With `--torch`, members that PyTorch lacks
stand beside the obvious formula, forward, and forward and backward. With `--jax`, all members stand
beside the obvious formula, compiled: the value, and value and gradients.
"""

import argparse
import math
import os
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
        dy = torch.randn_like(ours(*inputs))  # type: ignore[operator]

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


def of_jax(n: int) -> Iterator[Row]:
    """Yield members beside the obvious formula in JAX."""
    import fastdrop.jax as fj
    import jax
    from jax import nn
    from jax import numpy as jnp

    rows, p, side = n // 256, 0.1, max(16, int((n / 64) ** 0.5))

    def normal(*shape: int) -> Any:
        return jax.random.normal(jax.random.key(1), shape)

    x, r, bias, table = normal(rows, 256), normal(rows, 256), normal(256), normal(rows, 256)
    volumes = normal(rows // 16, 4, 4, 16, 16)
    images, sequences = volumes.reshape(-1, 16, 16, 16), volumes.reshape(-1, 16, 256)
    tokens, words = normal(n // 65536, 256, 256), jnp.arange(rows // 4) * 3 % rows
    weight, examples, logit = normal(side, side), normal(64, side), jnp.float32(-1.0)

    def drop(key: Any, x: Any, shape: Any = None) -> Any:
        return jnp.where(jax.random.bernoulli(key, 1 - p, shape or x.shape), x / (1 - p), 0)

    def channels(key: Any, x: Any) -> Any:
        return drop(key, x, (*x.shape[:2], *(1,) * (x.ndim - 2)))

    def alpha(key: Any, x: Any, shape: Any = None) -> Any:
        limit = -1.7580993408473766
        scale = ((1 - p) * (1 + p * limit**2)) ** -0.5
        keep = jax.random.bernoulli(key, 1 - p, shape or x.shape)
        return scale * jnp.where(keep, x, limit) - scale * p * limit

    def blocks(key: Any, x: Any) -> Any:
        """Drop blocks as the paper does, without its factor."""
        sides = x.shape[2:]
        places = [length - 2 for length in sides]
        rate = p / 3 ** len(sides) * math.prod(sides) / math.prod(places)
        seeds = jax.random.bernoulli(key, rate, x.shape)
        window = (1, 1, *(3,) * len(sides))
        covered = jax.lax.reduce_window(seeds, False, jnp.logical_or, window, (1,) * x.ndim, "SAME")
        return jnp.where(covered, 0, x / (1 - p))

    def relaxed(key: Any, x: Any, logit: Any) -> Any:
        u, rate, little = jax.random.uniform(key, x.shape), nn.sigmoid(logit), 1e-7
        z = jnp.log(rate + little) - jnp.log(1 - rate + little)
        z = nn.sigmoid((z + jnp.log(u + little) - jnp.log(1 - u + little)) / 0.1)
        return x * (1 - z) / (1 - rate)

    def patches(key: Any, x: Any) -> Any:
        order = jnp.argsort(jax.random.uniform(key, x.shape[:2]), 1)
        kept = jnp.sort(order[:, : int((1 - p) * x.shape[1])], 1)
        return jnp.take_along_axis(x, kept[..., None], 1)

    def linear(key: Any, x: Any, w: Any) -> Any:
        return jnp.einsum("noi,ni->no", drop(key, jnp.broadcast_to(w, (len(x), *w.shape))), x)

    formulas: dict[str, tuple[Any, Any, Any]] = {
        "dropout": ((x,), drop, {}),
        "feature_dropout": ((images,), channels, {}),
        "dropout1d": ((sequences,), channels, {}),
        "dropout2d": ((images,), channels, {}),
        "dropout3d": ((volumes,), channels, {}),
        "locked_dropout": (
            (sequences,), lambda k, x: drop(k, x, (1, *x.shape[1:])), {}
        ),
        "drop_path": ((images,), lambda k, x: drop(k, x, (len(x), 1, 1, 1)), {}),
        "gaussian_dropout": (
            (x,),
            lambda k, x: x * (1 + (p / (1 - p)) ** 0.5 * jax.random.normal(k, x.shape)),
            {},
        ),
        "alpha_dropout": ((x,), alpha, {}),
        "feature_alpha_dropout": (
            (images,), lambda k, x: alpha(k, x, (*x.shape[:2], 1, 1)), {}
        ),
        "drop_block1d": ((sequences,), blocks, {"block_size": 3}),
        "drop_block2d": ((images,), blocks, {"block_size": 3}),
        "drop_block3d": ((volumes,), blocks, {"block_size": 3}),
        "dropout_add": ((x, r), lambda k, x, r: r + drop(k, x), {}),
        "bias_dropout_add": ((x, bias, r), lambda k, x, b, r: r + drop(k, x + b), {}),
        "relu_dropout": ((x,), lambda k, x: drop(k, nn.relu(x)), {}),
        "gelu_dropout": ((x,), lambda k, x: drop(k, nn.gelu(x, approximate=False)), {}),
        "silu_dropout": ((x,), lambda k, x: drop(k, nn.silu(x)), {}),
        "activation_dropout": (
            (x,), lambda k, x: drop(k, nn.sigmoid(x)), {"activation": "sigmoid"}
        ),
        "zoneout": (
            (x, r), lambda k, x, r: jnp.where(jax.random.bernoulli(k, p, x.shape), r, x), {}
        ),
        "embedding_dropout": (
            (table,),
            lambda k, w: drop(k, w, (rows, 1))[words],
            {"indices": words},
        ),
        "drop_connect": ((x,), drop, {}),
        "weight_drop": (
            ([x, r],), lambda k, w: list(map(drop, jax.random.split(k), w)), {}
        ),
        "patch_dropout": ((tokens,), patches, {}),
        "concrete_dropout": ((x, logit), relaxed, {"p": None}),
        "drop_connect_linear": ((examples, weight), linear, {}),
    }  # fmt: skip
    theirs, own = jax.random.key(0), fj.key(0)
    for name, (inputs, formula, options) in formulas.items():
        given = {name: value for name, value in {"p": p, **options}.items() if value is not None}
        member = getattr(fj, name)
        ours = lambda k, *x, f=member, o=given: f(*x, key=k, **o)  # noqa: E731
        for what, pair in (
            ("", (formula, ours)),
            (", and gradients", (_with_gradients(formula), _with_gradients(ours))),
        ):
            f, g = map(jax.jit, pair)
            yield (
                f"2^{n.bit_length() - 1}", "formula",
                lambda f=f, x=inputs: jax.block_until_ready(f(theirs, *x)),  # type: ignore[misc]
                name + what,
                lambda g=g, x=inputs: jax.block_until_ready(g(own, *x)),  # type: ignore[misc]
            )  # fmt: skip


def _with_gradients(function: Any) -> Any:
    """Return a function of the sum of all results and its gradients."""
    import jax

    def total(inputs: Any, key: Any) -> Any:
        several = jax.tree.leaves(function(key, *inputs))
        return sum(y.sum() for y in several if y.dtype == np.float32)

    return lambda key, *inputs: jax.value_and_grad(total)(inputs, key)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare the family with other libraries.")
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch")
    parser.add_argument("--jax", action="store_true", help="compare with JAX")
    parser.add_argument("--rounds", type=int, default=9, help="turns (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.02, help="of a turn, at least (default: %(default)s)"
    )
    options = parser.parse_args()
    fd.set_num_threads(1)
    peer = "PyTorch" if options.torch else "JAX" if options.jax else "NumPy"
    table = Table("elements", peer, "fastdrop", f"{peer} / fastdrop", f"fastdrop / {peer}")
    if options.jax:  # before it starts
        one = " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + one
    if options.torch or options.jax:
        of = of_torch if options.torch else of_jax
        rows = [row for exponent in (16, 20) for row in of(1 << exponent)]
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
