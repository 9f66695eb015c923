"""A training step of libraries' models: torch, torch.compile and JAX, with fastdrop and without.

    python benches/torch_libraries.py
    python benches/torch_libraries.py --models bert vit --rounds 3 --no-compile

The models and data are those of `examples/torch_tasks.py`, and three of `torch_step.py`;
`jax_models.py` has them in JAX. Of each model, the steps take turns in one process on one thread; a
factor is the median over rounds of the ratio of two times, with quartiles. "none" is p = 0. JAX
draws dropout as Flax does, with `jax.random.bernoulli`, and the LSTM in torch as its authors do.
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
from torch import Tensor, nn
from torch.nn import functional

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
    if name == "lstm" and not ft.is_installed():
        use_formulas(model, p)
    return model, lambda: model(**batch)["loss"]


class Locked(nn.Module):
    """Locked dropout by the formula."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop the same elements at all time steps."""
        return x * x.new_empty(1, *x.shape[1:]).bernoulli_(1 - self.p) / (1 - self.p)


class Words(Locked):
    """Embedding dropout by the formula."""

    def forward(self, weight: Tensor, indices: Tensor) -> Tensor:  # type: ignore[override]
        """Drop rows of the table."""
        kept = weight.new_empty(len(weight), 1).bernoulli_(1 - self.p)
        return functional.embedding(indices, weight * kept / (1 - self.p))


def use_formulas(model: Any, p: float) -> None:
    """Let the LSTM drop with the formulas of its authors instead of fastdrop's modules."""
    if p > 0.0:
        model.of_words, model.locked = Words(p / 2), Locked(p)
        for layer in model.layers:
            layer.parametrizations.weight_hh_l0[0] = nn.Dropout(p)


def written_model(name: str, p: float) -> tuple[Any, Callable[[], Any]]:
    """Return a model of `torch_step`, and its loss."""
    build, _, size, _ = torch_step.MODELS[name]
    model, call = build(p, size)
    return model, lambda: call().square().mean()


def torch_steps(make: Callable[[float], Any], p: float, compiled: bool) -> dict[str, Step]:
    """Return steps by their names; "fastdrop" in a name means that it is installed."""
    steps: dict[str, Step] = {}
    for case, rate in (("torch", p), ("fastdrop", p), ("none", 0.0)):
        switch(case)
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
            # Tokenizers and a changing number of edges split the graph, which compiles for minutes.
            taken = name not in ("sentences", "gnn")
            rounds = min(3, options.rounds)
            all_times.append(timed(torch_steps(make, p, True), rounds, True) if taken else {})
            import jax_models

            steps = jax_models.steps(name, p)
            all_times.append(timed(steps, options.rounds, False) if steps else {})
        cells = [f"{sorted(all_times[0]['none'])[options.rounds // 2] * 1e3:.3g}"]
        for times in all_times:
            cells += [f"{ratio(times, other, 'fastdrop'):.2f}" if times else ""
                      for other in ("torch", "none")]  # fmt: skip
        print(f"| {shown} | {' | '.join(cells)} |", flush=True)
        switch("none")


if __name__ == "__main__":
    main()
