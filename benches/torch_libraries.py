"""A training step of libraries' models: torch, torch.compile and JAX, with fastdrop and without.

    python benches/torch_libraries.py
    python benches/torch_libraries.py --models bert vit --rounds 3 --no-compile

The models and data are those of `examples/torch_tasks.py`, and three that are written for torch
(`torch_step.py`) and for JAX alike. Of each model, the steps take turns in one process on one
thread; a factor is the median over rounds of the ratio of two times, with quartiles. "none" is
p = 0. JAX draws dropout as Flax does, with `jax.random.bernoulli`.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries start their threads
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("TQDM_DISABLE", "1")

import fastdrop.torch as ft
import torch
from fastdrop._bench import Times, machine, ratio, take_turns

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import torch_step
from torch_tasks import TASKS

Step = Callable[[], object]


def step_of(model: Any, call: Callable[[], Any], compiled: bool) -> Step:
    """Return a step of training."""
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-4)
    call = torch.compile(call) if compiled else call

    def run() -> None:
        loss = call()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def library_model(name: str, p: float) -> tuple[Any, Callable[[], Any]]:
    """Return a model of `torch_tasks`, and its loss on a batch."""
    task = TASKS[name]
    model, batch = task.build(p), task.batch()
    return model, lambda: model(**batch)["loss"]


def written_model(name: str, p: float) -> tuple[Any, Callable[[], Any]]:
    """Return a model of `torch_step`, and its loss."""
    build, _, size, _ = torch_step.MODELS[name]
    model, call = build(p, size)
    return model, lambda: call().square().mean()


def torch_steps(make: Callable[[float], Any], p: float, compiled: bool) -> dict[str, Step]:
    """Return steps by their names; "fastdrop" in a name means that it is installed."""
    steps: dict[str, Step] = {}
    for case, rate in (("torch", p), ("fastdrop", p), ("none", 0.0)):
        torch.manual_seed(0)
        model, call = make(rate)
        steps[case] = step_of(model, call, compiled)
    return steps


def switch(case: str) -> None:
    """Install for the cases that are fastdrop's."""
    if ("fastdrop" in case) != ft.is_installed():
        (ft.install if "fastdrop" in case else ft.uninstall)()


def timed(steps: dict[str, Step], rounds: int, compiled: bool) -> Times:
    """Alternate the steps, and time each. `torch.compile` compiles again where kernels changed."""

    def before(case: str) -> None:
        switch(case)
        for _ in range(2 * compiled):
            steps[case]()

    seconds = 0.5 if compiled else 0.1
    return take_turns(
        steps, rounds=rounds, seconds=seconds, clock=torch_step.clock(), before=before
    )


# --- JAX -----------------------------------------------------------------------------------------


def jax_steps(name: str, p: float) -> dict[str, Step]:
    """Return compiled steps of a model that is written for JAX as well; none for others."""
    if name not in ("MLP", "CNN", "encoder"):
        return {}
    import fastdrop.jax
    import jax
    import jax.numpy as jnp

    def weights(*shapes: tuple[int, ...]) -> list[Any]:
        keys = jax.random.split(jax.random.key(0), len(shapes))
        return [
            jax.random.normal(key, shape) * 0.05 for key, shape in zip(keys, shapes, strict=True)
        ]

    def bernoulli(x: Any, p: float, key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0) if p else x

    def ours(x: Any, p: float, key: Any) -> Any:
        return fastdrop.jax.dropout(x, p, key=key) if p else x

    def attend(q: Any, k: Any, v: Any, p: float, key: Any, drop: Any) -> Any:
        if drop is ours and p:
            return fastdrop.jax.dot_product_attention(q, k, v, dropout_p=p, dropout_key=key)
        if not p:
            return jax.nn.dot_product_attention(q, k, v)
        scores = jnp.einsum("btnh,bsnh->bnts", q * q.shape[-1] ** -0.5, k)
        return jnp.einsum("bnts,bsnh->btnh", drop(jax.nn.softmax(scores), p, key), v)

    def mlp(w: Any, x: Any, p: float, keys: Any, drop: Any) -> Any:
        for n in range(2):
            x = drop(jax.nn.relu(x @ w[n]), p, keys[n])
        return x @ w[2]

    def cnn(w: Any, x: Any, p: float, keys: Any, drop: Any) -> Any:
        for n in range(2):
            x = drop(jax.nn.relu(jax.lax.conv(x, w[n], (1, 1), "SAME")), p, keys[n])
        return x.reshape(len(x), 32, 4, 8, 4, 8).mean((3, 5)).reshape(len(x), -1) @ w[2]

    def encoder(w: Any, x: Any, p: float, keys: Any, drop: Any) -> Any:
        for n in range(4):
            into, out, wide, narrow = w[4 * n : 4 * n + 4]
            q, k, v = jnp.split((x @ into).reshape(*x.shape[:2], 12, 64), 3, 2)
            y = attend(q, k, v, p, keys[4 * n], drop).reshape(x.shape) @ out
            x = normed(x + drop(y, p, keys[4 * n + 1]))
            y = drop(jax.nn.relu(x @ wide), p, keys[4 * n + 2])
            x = normed(x + drop(y @ narrow, p, keys[4 * n + 3]))
        return x

    def normed(x: Any) -> Any:
        return jax.nn.standardize(x)

    block = [(256, 768), (256, 256), (256, 1024), (1024, 256)]
    model, shape, w = {
        "MLP": (mlp, (128, 784), weights((784, 1024), (1024, 1024), (1024, 10))),
        "CNN": (cnn, (64, 3, 32, 32), weights((32, 3, 3, 3), (32, 32, 3, 3), (512, 10))),
        "encoder": (encoder, (16, 128, 256), weights(*block * 4)),
    }[name]
    x = jax.random.normal(jax.random.key(1), shape)

    def step(p: float, drop: Any, key: Any) -> Step:
        @jax.jit
        def train(w: Any, key: Any) -> Any:
            keys = jax.random.split(key, 16)
            loss = lambda w: (model(w, x, p, keys, drop) ** 2).mean()  # noqa: E731
            return [one - 1e-4 * d for one, d in zip(w, jax.grad(loss)(w), strict=True)]

        return lambda: jax.block_until_ready(train(w, key))

    return {
        "torch": step(p, bernoulli, jax.random.key(0)),
        "fastdrop": step(p, ours, jax.random.key(0)),
        "none": step(0.0, bernoulli, jax.random.key(0)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    written = ["MLP", "CNN", "encoder"]
    parser.add_argument("--rounds", type=int, default=9, help="turns that each step gets")
    parser.add_argument("--models", nargs="+", choices=[*TASKS, *written], help="only these")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile and JAX")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"{machine()}, torch {torch.__version__}\n")
    columns = ["model", "ms", "torch / fastdrop", "none / fastdrop"]
    for tool, theirs in () if options.no_compile else (("compiled", "torch"), ("JAX", "Flax")):
        columns += [f"{tool}: {theirs} / fastdrop", "none / fastdrop"]
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for name in options.models or [*TASKS, *written]:
        if name in TASKS:
            p, shown = TASKS[name].p, f"{TASKS[name].versions}: {TASKS[name].description}"
            make = lambda rate, name=name: library_model(name, rate)  # noqa: E731
        else:
            p, shown = 0.1, f"{name}: {torch_step.MODELS[name][3]}"
            make = lambda rate, name=name: written_model(name, rate)  # noqa: E731
        torch_step.progress(name)
        all_times = [timed(torch_steps(make, p, False), options.rounds, False)]
        if not options.no_compile:
            # torch.compile takes neither strings nor a graph whose number of edges changes.
            taken = name not in ("sentences", "gnn")
            rounds = min(3, options.rounds)
            all_times.append(timed(torch_steps(make, p, True), rounds, True) if taken else {})
            steps = jax_steps(name, p)
            all_times.append(timed(steps, options.rounds, False) if steps else {})
        cells = [f"{sorted(all_times[0]['none'])[options.rounds // 2] * 1e3:.3g}"]
        for times in all_times:
            cells += [f"{ratio(times, other, 'fastdrop'):.2f}" if times else ""
                      for other in ("torch", "none")]  # fmt: skip
        print(f"| {shown} | {' | '.join(cells)} |", flush=True)
        switch("none")


if __name__ == "__main__":
    main()
