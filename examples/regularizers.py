"""Dropout against other regularizers, and together with them.

    python examples/regularizers.py

trains the network of `overfitting.py` on 1,000 digits with L2, a max-norm constraint, both or
neither, each without and with dropout, as Srivastava et al. did on MNIST (JMLR 15, 2014, table 9).
Each row uses the strengths and the learning rate, out of a grid of 3 to 12 settings, with the
lowest mean error on 1,000 validation digits. The table shows errors on 3,000 others. Seeds draw
their digits from the same 5,000, so digits that validate one seed may test another.
"""

import argparse
from itertools import product

import numpy as np
import study
from matplotlib.figure import Figure
from network import DROPOUT, NO_DROPOUT, Digits, Training, percent_wrong, prepare

VALIDATION, TEST = 1000, 3000
LEARNING_RATES = (0.1, 0.2, 0.3)
L2S = (1e-4, 3e-4)
NORMS = (1.0, 1.4)
QUICK = {"seeds": 2, "epochs": 2, "hidden": [32, 32], "train_size": 200}

# Rows of the table: their names, the strengths they try, and the paper's errors in percent without
# and with dropout.
ROWS = (
    ("nothing", (0.0,), (None,), None, None),
    ("L2", L2S, (None,), 1.62, 1.25),
    ("max-norm", (0.0,), NORMS, 1.35, 1.05),
    ("L2 + max-norm", L2S, NORMS, None, None),
)


def errors_of(
    dropout: bool, how: Training, seed: int, options: argparse.Namespace, tick: study.Tick
) -> tuple[float, float]:
    """Train one network; return its errors on validation and test digits, in percent."""
    experiment = prepare(
        seed,
        options.hidden,
        DROPOUT if dropout else NO_DROPOUT,
        train_size=options.train_size,
        test_size=VALIDATION + TEST,
    )
    study.learn(experiment, how, tick)
    digits: Digits = experiment.test_set
    scores = experiment.network.outputs(digits.images)
    return (
        percent_wrong(scores[:VALIDATION], digits.labels[:VALIDATION]),
        percent_wrong(scores[VALIDATION:], digits.labels[VALIDATION:]),
    )


def choose(validation: study.Array) -> int:
    """Return which setting has the lowest mean of errors, of shape (settings, seeds)."""
    return int(validation.mean(axis=1).argmin())


def plot(names: list[str], chosen: list[list[study.Array]]) -> Figure:
    """Draw test errors, `chosen[row][dropout]` of shape (seeds,), a bar each."""
    figure = Figure(figsize=(study.WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    study.draw_bars(axes, np.swapaxes(chosen, 0, 1), ("without dropout", "with dropout"))
    axes.set(ylabel="test error (%)")
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5, epochs=40, hidden=[512, 512])
    own.add_argument("--train-size", type=int, default=1000, help="digits to train on")
    options = study.parse(own, QUICK)
    grid = {
        (name, dropout): [
            Training(options.epochs, learning_rate=rate, l2=l2, max_norm=norm)
            for rate, l2, norm in product(
                LEARNING_RATES[: 1 if options.quick else None], l2s, norms
            )
        ]
        for name, l2s, norms, _, _ in ROWS
        for dropout in (False, True)
    }
    jobs = [
        (dropout, how, seed)
        for (_, dropout), settings in grid.items()
        for how in settings
        for seed in range(options.seeds)
    ]
    found = iter(
        study.run(
            lambda job, tick: errors_of(*job, options, tick), jobs, len(jobs) * options.epochs
        )
    )
    best = {}
    for case, settings in grid.items():
        errors = np.array([[next(found) for _ in range(options.seeds)] for _ in settings])
        index = choose(errors[..., 0])
        best[case] = settings[index], errors[index, :, 1]

    rows, chosen = [], []
    for name, _, _, *paper in ROWS:
        chosen.append([best[name, dropout][1] for dropout in (False, True)])
        for dropout in (False, True):
            how, test = best[name, dropout]
            strengths = [f"rate {how.learning_rate:g}"]
            strengths += [f"L2 {how.l2:g}"] if how.l2 else []
            strengths += [f"norm {how.max_norm:g}"] if how.max_norm else []
            rows.append(
                {
                    "regularizer": name,
                    "dropout": "with" if dropout else "without",
                    "test %": study.spread(test),
                    "chosen": ", ".join(strengths),
                }
            )
            if not options.quick:
                rows[-1]["paper %"] = f"{paper[dropout]:.2f}" if paper[dropout] else ""
    title = f"Test error: mean ± standard deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "regularizers.csv")
    study.too_short(options)
    study.save_figure(
        plot([name for name, *_ in ROWS], chosen), options.output / "regularizers.png"
    )


if __name__ == "__main__":
    main()
