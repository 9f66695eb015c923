"""Does dropout reduce overfitting? A small network on few digits, trained without and with it.

    python examples/overfitting.py

trains the same fully connected network on 1,000 MNIST digits, once without dropout and once with it
(0.2 of the inputs, 0.5 of the hidden units, and the max-norm constraint that the papers pair it
with), for several seeds. It prints the errors on those digits and on 4,000 others, and plots them
over the epochs. Within a seed both networks have the same digits, initial weights and mini-batches.

One learning rate serves both, and it is not the best for each. Test errors without and with dropout
(5 seeds): 9.6 and 7.9 % started at 0.05, 9.0 and 7.4 at 0.1 (the default), 8.3 and 7.9 at 0.2. So
with its better rate each, dropout is ahead by 0.9 points. `--learning-rate` is there to try.

Seeds draw their digits from the same 5,000, so their spread understates that of fresh data.

The papers: Hinton et al., arXiv:1207.0580, 2012; Srivastava et al., JMLR 15, 2014.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from matplotlib.figure import Figure
from network import Training, load_digits, prepare, train
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

Errors = NDArray[np.float64]  # in percent

DIGITS = 5000
QUICK = {"seeds": 2, "epochs": 20, "train_size": 500, "hidden": [64, 64]}

# A difference of the means is called clear from this many standard errors on. By chance that comes
# in 4 of 100 runs of five seeds (Student's t, 4 degrees of freedom).
CLEAR = 3

# Percent of the 10,000 MNIST test digits, after training on all 60,000 others: the best standard
# network that the papers compare with, and theirs with dropout on inputs and hidden units and
# max-norm.
PAPERS = "1.60 % without, 1.10 % (Hinton 2012) and 1.06 % (Srivastava 2014) with dropout"


@dataclass(frozen=True)
class Variant:
    """One of the two networks that are compared; `p_*` are probabilities to drop."""

    name: str
    colour: str
    p_input: float = 0.0
    p_hidden: float = 0.0
    max_norm: float | None = None


# The colours are from Okabe and Ito's palette, made to be told apart by colour-blind readers too.
WITHOUT = Variant("without dropout", "#D55E00")
WITH = Variant("with dropout", "#0072B2", p_input=0.2, p_hidden=0.5, max_norm=2.0)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; an option given beside --quick wins over it."""
    parser = argparse.ArgumentParser(
        description="Train a network on few digits without and with dropout; compare the errors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds: 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training digits")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="at the start, for both")
    parser.add_argument(
        "--train-size", type=int, default=1000, help="digits to train on; the rest tests"
    )
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[512, 512], help="units of each hidden layer"
    )
    parser.add_argument("--output", type=Path, default=Path("overfitting.png"), help="the plot")
    parser.add_argument("--quick", action="store_true", help="a run of seconds, to see it work")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(arguments)

    # Found out now rather than after the training.
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, to have a spread, got {options.seeds}")
    if not options.learning_rate > 0:
        parser.error(f"--learning-rate must be above 0, got {options.learning_rate}")
    if options.epochs < 1 or min(options.hidden) < 1:
        parser.error("--epochs and --hidden must be at least 1")
    if options.train_size not in range(10, DIGITS, 10):
        parser.error(
            f"--train-size must be a multiple of 10 below {DIGITS}, got {options.train_size}"
        )
    if not options.output.resolve().parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.resolve().parent}")
    return options


def learn(
    variant: Variant, seed: int, options: argparse.Namespace, progress: Progress, stop: Event
) -> Errors:
    """Train one network and return its training and test error, in percent, shape (epochs, 2)."""
    experiment = prepare(
        seed,
        options.hidden,
        p_input=variant.p_input,
        p_hidden=variant.p_hidden,
        train_size=options.train_size,
        test_size=DIGITS - options.train_size,
    )
    how = Training(options.epochs, learning_rate=options.learning_rate, max_norm=variant.max_norm)
    task = progress.add_task(f"seed {seed}, {variant.name:15}", total=options.epochs, error=100.0)
    errors = []
    for epoch in train(experiment, how):
        errors.append((100 * epoch.train_error, 100 * epoch.test_error))
        progress.update(task, advance=1, error=errors[-1][1])
        if stop.is_set():
            break
    return np.array(errors)


def compare(options: argparse.Namespace, console: Console) -> tuple[Errors, Errors]:
    """Train both networks from every seed; each result has shape (seeds, epochs, 2).

    One network at a time for each processor, with the matrix products on one thread: matrices of
    this size gain little from more, and the numbers then do not depend on how many there are.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, test error {task.fields[error]:.1f} %"),
    )
    jobs = [(variant, seed) for seed in range(options.seeds) for variant in (WITHOUT, WITH)]
    stop = Event()  # lets Ctrl-C end the threads
    pool = ThreadPoolExecutor(os.cpu_count())
    with console.status("loading the digits"):
        load_digits()
    with threadpool_limits(1), Progress(*columns, console=console) as progress:
        try:
            errors = list(
                pool.map(lambda job: learn(job[0], job[1], options, progress, stop), jobs)
            )
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return np.array(errors[0::2]), np.array(errors[1::2])


def spread(values: Errors, sign: str = "") -> str:
    """Write the mean and the standard deviation of values that come one from each seed."""
    return f"{values.mean():{sign}.2f} ± {values.std(ddof=1):.2f}"


def tabulate(without: Errors, with_dropout: Errors) -> Table:
    """Make the table of the errors after the last epoch, from arrays of shape (seeds, 2)."""
    seeds = len(without)
    table = Table(
        title=f"Error after the last epoch, in %: mean ± standard deviation over {seeds} seeds",
        title_justify="left",
    )
    table.add_column("")
    for heading in (WITHOUT.name, WITH.name, "paired\ndifference", "lower with\ndropout"):
        table.add_column(heading.replace(" dropout", "\ndropout"), justify="right", no_wrap=True)
    rows = {
        "training": (without[:, 0], with_dropout[:, 0]),
        "test": (without[:, 1], with_dropout[:, 1]),
        "test - training": (without[:, 1] - without[:, 0], with_dropout[:, 1] - with_dropout[:, 0]),
    }
    for name, (a, b) in rows.items():
        won = f"{np.count_nonzero(b < a)} of {seeds} seeds"
        table.add_row(name, spread(a), spread(b), spread(b - a, "+"), won)
    return table


def conclude(without: Errors, with_dropout: Errors) -> str:
    """Say what the test errors of the last epoch, arrays of shape (seeds,), show."""
    difference = with_dropout - without
    mean = difference.mean()
    error_of_mean = difference.std(ddof=1) / np.sqrt(len(difference))
    won = np.count_nonzero(difference < 0)
    clear = abs(mean) > CLEAR * error_of_mean
    verdict = "With dropout" if clear else "No clear difference between the two: with dropout"
    return (
        f"{verdict} the test error was {abs(mean):.2f} points {'lower' if mean < 0 else 'higher'} "
        f"on average (standard error {error_of_mean:.2f}), and lower in {won} of "
        f"{len(difference)} seeds."
    )


def plot(without: Errors, with_dropout: Errors, options: argparse.Namespace) -> None:
    """Save the curves, from arrays of shape (seeds, epochs, 2)."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, options.epochs + 1)
    for variant, errors in ((WITHOUT, without), (WITH, with_dropout)):
        mean, deviation = errors.mean(axis=0), errors.std(axis=0, ddof=1)
        for i, (name, style) in enumerate((("training", "--"), ("test", "-"))):
            low, high = mean[:, i] - deviation[:, i], mean[:, i] + deviation[:, i]
            label = f"{name} error, {variant.name}"
            axes.plot(epochs, mean[:, i], style, color=variant.colour, label=label)
            axes.fill_between(epochs, low, high, color=variant.colour, alpha=0.2, linewidth=0)
    axes.set(
        xlabel="epoch (passes over the training digits)",
        ylabel="misclassified digits (%)",
        xlim=(1, options.epochs),
        ylim=(0, None),
        title=f"{options.train_size:,} training and {DIGITS - options.train_size:,} test digits of "
        f"MNIST: mean ± standard deviation, {options.seeds} seeds",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.output, dpi=150)


def main() -> None:
    """Run the comparison and report it."""
    options = parse()
    console = Console()
    without, with_dropout = compare(options, console)
    last_without, last_with = without[:, -1], with_dropout[:, -1]
    console.print(tabulate(last_without, last_with))
    console.print(conclude(last_without[:, 1], last_with[:, 1]), soft_wrap=True)
    console.print(
        f"{options.train_size:,} training digits, here: {last_without[:, 1].mean():.2f} % without, "
        f"{last_with[:, 1].mean():.2f} % with dropout. 60,000, the papers: {PAPERS}.",
        soft_wrap=True,
    )
    plot(without, with_dropout, options)
    console.print(f"Curves: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
