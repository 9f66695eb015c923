"""Does dropout reduce overfitting? A small network on few digits, trained without and with it.

    python examples/overfitting.py

trains one fully connected network on 1,000 MNIST digits in three ways: without dropout; with
dropout (0.2 of the inputs, 0.5 of the hidden units, and the max-norm constraint that the papers
combine it with); and with dropout in standard mode, which scales in evaluation instead of training.
It plots the errors on these digits and on 4,000 others over the epochs, and saves a table. Within a
seed all networks have the same digits, initial weights and mini-batches. The two modes also have
the same masks, so they are the same network up to rounding.

All use one learning rate, which is not the best for each: try `--learning-rate`. If it is too high,
units go silent: they give 0 for every image, get no gradient, and stay silent. The program warns if
most units of a layer are silent. Seeds draw their digits from the same 5,000, so their spread
understates that of fresh data.

`--data fashion --train-size 60000 --epochs 20 --hidden 1024 1024` is a run of full size.

The papers: Hinton et al., arXiv:1207.0580, 2012; Srivastava et al., JMLR 15, 2014.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import study
from matplotlib.figure import Figure
from network import (
    DROPOUT,
    MAX_NORM,
    NO_DROPOUT,
    SOURCES,
    Mode,
    Rates,
    Training,
    available,
    error,
    load,
    prepare,
    train,
)
from scipy.stats import t

QUICK = {"seeds": 3, "epochs": 40, "train_size": 500, "test_size": 1000, "hidden": [128, 128]}

# A difference of the means is clear if chance gives it in fewer than this share of runs.
CHANCE = 0.04

# Errors in percent on MNIST's 10,000 test digits, after training on the 60,000 others: the paper's
# best standard network, and its network with dropout of inputs and hidden units, ReLU and max-norm
# (Srivastava 2014, table 2).
PAPER_WITHOUT, PAPER_WITH = 1.60, 1.06


@dataclass(frozen=True)
class Variant:
    """One of the networks that are compared."""

    name: str
    colour: str
    marker: str
    lines: tuple[str, str] = ("--", "-")  # of training and test errors
    rates: Rates = DROPOUT
    mode: Mode = "inverted"
    max_norm: float | None = MAX_NORM


VARIANTS = (
    Variant("without dropout", study.WITHOUT, "o", rates=NO_DROPOUT, max_norm=None),
    Variant("with dropout", study.WITH, "s"),
    # Gaps in these lines show the lines of the other mode beneath them.
    Variant("standard mode", study.THIRD, "^", (":", "-."), mode="standard"),
)


def learn(
    variant: Variant, seed: int, options: argparse.Namespace, tick: study.Tick
) -> tuple[study.Array, list[float]]:
    """Train one network.

    Returns
    -------
    errors : ndarray, shape (epochs, 2)
        Training and test errors, in percent.
    silent : list of float
        The percentage of units, of each hidden layer, that are 0 for all training images.
    """
    experiment = prepare(
        seed,
        options.hidden,
        variant.rates,
        mode=variant.mode,
        source=options.data,
        train_size=options.train_size,
        test_size=options.test_size,
    )
    network, train_set, test_set, rng = experiment
    how = Training(options.epochs, learning_rate=options.learning_rate, max_norm=variant.max_norm)
    errors = []
    for _ in train(network, train_set, how, rng):
        errors.append((error(network, train_set), error(network, test_set)))
        tick()
    return np.array(errors), network.silent(train_set.images)


def tabulate(last: study.Array, paper: bool) -> list[dict[str, str]]:
    """Make the rows of the table from errors after the last epoch, shape (variants, seeds, 2).

    `paper` tells whether to add the paper's numbers.
    """
    rows = []
    for variant, errors in zip(VARIANTS, last, strict=True):
        less = last[0, :, 1] - errors[:, 1]
        rows.append(
            {
                "network": variant.name,
                "training %": study.spread(errors[:, 0]),
                "test %": study.spread(errors[:, 1]),
                "test - training": study.spread(errors[:, 1] - errors[:, 0]),
                "gain, points": study.spread(less) if variant is not VARIANTS[0] else "",
            }
        )
        if paper:
            rows[-1]["paper %"] = f"{PAPER_WITH if variant.rates.hidden else PAPER_WITHOUT:.2f}"
    return rows


def conclude(without: study.Array, with_dropout: study.Array) -> str:
    """Return what the test errors of the last epoch, arrays of shape (seeds,), show."""
    difference = with_dropout - without
    mean = difference.mean()
    error_of_mean = difference.std(ddof=1) / np.sqrt(len(difference))
    won = np.count_nonzero(difference < 0)
    clear = abs(mean) > t.ppf(1 - CHANCE / 2, len(difference) - 1) * error_of_mean
    verdict = "With dropout" if clear else "No clear difference between the two: with dropout"
    return (
        f"{verdict} the test error was {abs(mean):.2f} points {'lower' if mean < 0 else 'higher'} "
        f"on average (standard error {error_of_mean:.2f}), and lower in {won} of "
        f"{len(difference)} seeds."
    )


def warning(silent: study.Array) -> str:
    """Return a warning of the layer with most silent units; empty if most of its units are alive.

    `silent` has percentages of silent units, shape (variants, seeds, layers).
    """
    means = silent.mean(axis=1)
    variant, layer = np.unravel_index(means.argmax(), means.shape)
    if means.max() <= 50:
        return ""
    return (
        f"Warning: {VARIANTS[variant].name}, {means.max():.0f} % of the units in hidden layer "
        f"{layer + 1} are 0 for every training image; try a smaller --learning-rate."
    )


def plot(errors: study.Array, options: argparse.Namespace) -> Figure:
    """Draw the curves, from an array of shape (variants, seeds, epochs, 2)."""
    figure = Figure(figsize=(study.WIDTH, 5.5), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, options.epochs + 1)
    apart = -(-options.epochs // 8)  # epochs between two markers of a curve
    for kind, name in enumerate(("training", "test")):
        for i, (variant, of_variant) in enumerate(zip(VARIANTS, errors, strict=True)):
            study.draw_band(
                axes,
                epochs,
                of_variant[:, :, kind],
                color=variant.colour,
                linestyle=variant.lines[kind],
                marker=variant.marker,
                markevery=(i * apart // len(VARIANTS), apart),
                label=f"{name}, {variant.name}",
            )
    axes.set(
        xlabel="epoch (passes over the training set)",
        ylabel="misclassified (%)",
        ylim=(0, np.percentile(errors, 98)),
        title=f"{options.train_size:,} training and {options.test_size:,} test images "
        f"({options.data}):\nmean ± standard deviation, {options.seeds} seeds",
    )
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, handlelength=3)
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5, epochs=40, hidden=[512, 512])
    own.add_argument("--learning-rate", type=float, help="at the start, for all (the data's own)")
    own.add_argument("--data", choices=SOURCES, default="mnist", help="what to learn")
    own.add_argument("--train-size", type=int, default=1000, help="images to train on")
    own.add_argument("--test-size", type=int, help="images to test on (all others)")
    options = study.parse(own, QUICK)
    digits = load(options.data)
    if options.learning_rate is None:
        options.learning_rate = SOURCES[options.data].learning_rate
    if options.test_size is None:
        options.test_size = available(digits) - options.train_size
    name = "overfitting" if options.data == "mnist" else f"overfitting_{options.data}"

    jobs = [(variant, seed) for variant in VARIANTS for seed in range(options.seeds)]
    found = study.run(
        lambda job, tick: learn(*job, options, tick), jobs, len(jobs) * options.epochs, even=True
    )
    curves, silent = zip(*found, strict=True)
    errors = np.array(curves).reshape(len(VARIANTS), options.seeds, options.epochs, 2)
    last = errors[:, :, -1]
    title = f"After the last epoch: mean ± standard deviation, {options.seeds} seeds"
    paper = options.data == "mnist" and not options.quick
    study.save_table(tabulate(last, paper), title, options.output / f"{name}.csv")
    study.say(conclude(last[0, :, 1], last[1, :, 1]))
    apart = np.abs(errors[1] - errors[2])
    study.say(
        f"The two modes: test errors differ by {apart[..., 1].mean():.3f} points on average and by "
        f"{apart[..., 1].max():.2f} at most, from rounding alone."
    )
    if paper:
        study.say("The paper trained on 60,000 digits, and a different network for each number.")
    study.save_figure(plot(errors, options), options.output / f"{name}.png")
    if sentence := warning(np.array(silent).reshape(len(VARIANTS), options.seeds, -1)):
        print(sentence, file=sys.stderr)


if __name__ == "__main__":
    main()
