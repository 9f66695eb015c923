"""How much data does dropout need? Test errors without and with it, for more and more examples.

    python examples/data_size.py

trains the network of `overfitting.py` on 20 to 4,000 digits, without and with dropout. Srivastava
et al. (JMLR 15, 2014, figure 10) used 100 to 50,000 digits of MNIST. They found no gain at 100 and
500 digits, then a gain that grows and, with yet more data, shrinks again.

Every network takes the same number of steps. `--data optical` uses scikit-learn's digits of 8 x 8
pixels (`--sizes 20 50 100 500 1000 --test-size 700`).
"""

import argparse
from collections.abc import Sequence

import numpy as np
import study
from matplotlib.figure import Figure
from network import DROPOUT, MAX_NORM, NO_DROPOUT, SOURCES, Training, error, load, prepare

QUICK = {"seeds": 2, "sizes": [100, 500], "steps": 200, "hidden": [256, 256]}

# The paper's text gives no percentages for figure 10, only this description.
PAPER = {100: "no gain", 500: "no gain", 1000: "gain"}


def test_error(
    size: int, dropout: bool, seed: int, options: argparse.Namespace, tick: study.Tick
) -> float:
    """Train one network on `size` examples and return its test error in percent."""
    experiment = prepare(
        seed,
        options.hidden,
        DROPOUT if dropout else NO_DROPOUT,
        source=options.data,
        train_size=size,
        test_size=options.test_size,
    )
    how = Training(
        study.epochs(size, options.steps),
        learning_rate=SOURCES[options.data].learning_rate,
        max_norm=MAX_NORM if dropout else None,
    )
    study.learn(experiment, how, tick)
    return error(experiment.network, experiment.test_set)


def plot(sizes: Sequence[int], errors: study.Array, source: str, paper: bool = True) -> Figure:
    """Draw the errors, of shape (sizes, 2, seeds), and where the paper finds no gain."""
    figure = Figure(figsize=(study.WIDTH, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    study.draw_band(
        top, sizes, errors[:, 0].T, color=study.WITHOUT, marker="o", label="without dropout"
    )
    study.draw_band(top, sizes, errors[:, 1].T, color=study.WITH, marker="s", label="with dropout")
    top.set(xscale="log", yscale="log", ylabel="test error (%)")
    top.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    top.set_yticks([], minor=True)
    top.legend()
    study.draw_band(bottom, sizes, (errors[:, 1] / errors[:, 0]).T, color=study.WITH, marker="s")
    bottom.axhline(1, color="black", linewidth=0.8)
    if paper:
        bottom.axvspan(100, 500, color="grey", alpha=0.15, label="no gain here in the paper")
        bottom.legend()
    bottom.set(xscale="log", ylabel="error with dropout over that without")
    for axes in (top, bottom):
        axes.set(xlabel=f"training examples ({source})", xticks=sizes)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([str(size) for size in sizes])
        axes.grid(alpha=0.3)
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=10, hidden=[512, 512])
    own.add_argument(
        "--sizes", type=int, nargs="+", default=[20, 50, 100, 500, 1000, 4000], help="to train on"
    )
    own.add_argument("--test-size", type=int, default=1000, help="to test on")
    own.add_argument("--steps", type=int, default=1000, help="mini-batches of up to 100")
    own.add_argument("--data", choices=SOURCES, default="mnist", help="what to learn")
    options = study.parse(own, QUICK)
    load(options.data)
    jobs = [
        (size, dropout, seed)
        for size in options.sizes
        for dropout in (False, True)
        for seed in range(options.seeds)
    ]
    found = study.run(
        lambda job, tick: test_error(*job, options, tick),
        jobs,
        steps=sum(study.epochs(size, options.steps) for size, _, _ in jobs),
    )
    errors = np.array(found).reshape(len(options.sizes), 2, options.seeds)
    paper = options.data == "mnist" and not options.quick
    rows = [
        {
            "examples": f"{size:,}",
            "without %": study.spread(without),
            "with dropout %": study.spread(with_dropout),
            "gain, points": study.spread(without - with_dropout),
            "lower in": f"{np.count_nonzero(with_dropout < without)} of {options.seeds}",
            **({"paper": PAPER.get(size, "")} if paper else {}),
        }
        for size, (without, with_dropout) in zip(options.sizes, errors, strict=True)
    ]
    title = f"Test error: mean ± standard deviation, {options.seeds} seeds"
    name = "data_size" if options.data == "mnist" else f"data_size_{options.data}"
    study.save_table(rows, title, options.output / f"{name}.csv")
    study.too_short(options)
    figure = plot(options.sizes, errors, options.data, paper)
    study.save_figure(figure, options.output / f"{name}.png")


if __name__ == "__main__":
    main()
