"""Command line, progress, tables and figures of the example programs."""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from network import Experiment, SizeError, Training, train
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]
Job = TypeVar("Job")
Result = TypeVar("Result")
Tick = Callable[[], None]
"""Called after each epoch or the like: moves the progress bar, ends the work after Ctrl-C."""

# From Okabe and Ito's palette, which colour-blind readers can tell apart.
WITHOUT, WITH, THIRD, FOURTH = "#D55E00", "#0072B2", "#009E73", "#CC79A7"

# Width of every figure in inches, with panels one above another: letters of 10 points, the smallest
# used, have 10 pixels on a phone 400 pixels wide.
WIDTH = 5.5

console = Console(width=None if sys.stdout.isatty() else 110)  # wide enough for every table


def parser(
    documentation: str | None,
    *,
    seeds: int,
    epochs: int | None = None,
    hidden: Sequence[int] | None = None,
) -> argparse.ArgumentParser:
    """Make a command line with the options that all programs share.

    Parameters
    ----------
    documentation : str
        The program's docstring; its first line is shown as help.
    seeds : int
        The default of ``--seeds``.
    epochs, hidden : int, sequence of int, optional
        The defaults of ``--epochs`` and ``--hidden``, for programs that have these.
    """
    result = argparse.ArgumentParser(
        description=(documentation or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument("--seeds", type=int, default=seeds, help="how many seeds: 0, 1, ...")
    result.add_argument("--output", type=Path, default=Path("results"), help="folder for results")
    result.add_argument("--quick", action="store_true", help="a run of seconds, to see it work")
    if epochs is not None:
        result.add_argument("--epochs", type=int, default=epochs, help="passes over the digits")
    if hidden is not None:
        result.add_argument("--hidden", type=int, nargs="+", default=hidden, help="units per layer")
    return result


def parse(parser: argparse.ArgumentParser, quick: Mapping[str, Any]) -> argparse.Namespace:
    """Read the command line; with --quick, `quick` has the defaults. Make the output folder.

    Numbers must be above 0, and there must be at least two seeds, to have a spread.
    """
    if parser.parse_args().quick:
        parser.set_defaults(**quick)
    options = parser.parse_args()
    for name, value in vars(options).items():
        least = 2 if name == "seeds" else 0
        for number in value if isinstance(value, list) else [value]:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and not (least <= number < np.inf and number > 0):
                bound = f"at least {least}" if least else "above 0"
                parser.error(f"--{name.replace('_', '-')} must be {bound}, got {number}")
    make_folder(parser, options.output)
    return options


def make_folder(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make the folder of --output if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        parser.error(f"--output must be a folder: {failure}")


def run(
    work: Callable[[Job, Tick], Result], jobs: Sequence[Job], steps: int, *, even: bool = False
) -> list[Result]:
    """Run all jobs, as many at a time as there are CPUs; show progress; return the results.

    The matrix products of a job use one thread. Matrices of this size gain little from more, and
    with one the results do not depend on the number of threads.

    Parameters
    ----------
    work : function
        Takes a job, and a `Tick` to call; returns a result.
    jobs : sequence
        The jobs, one for each call of `work`.
    steps : int
        Number of calls of `Tick` by all jobs together.
    even : bool
        Whether all steps take the same time. Then the first ones predict the total, which is
        printed if it is minutes.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    stop = Event()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    workers = min(len(jobs), len(allowed) if allowed else os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    done, start = count(1), monotonic()
    with threadpool_limits(1), Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{len(jobs)} networks", total=steps)

        def tick() -> None:
            progress.advance(task)
            if next(done) == workers and even:
                minutes = (monotonic() - start) * steps / workers / 60
                if minutes >= 2:
                    say(f"All {len(jobs)} networks will take about {minutes:.0f} minutes.")
            if stop.is_set():
                raise InterruptedError("stopped by another thread")

        try:
            return list(pool.map(lambda job: work(job, tick), jobs))
        except SizeError as failure:
            raise SystemExit(f"error: {failure}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # the exit code of programs that Ctrl-C ends
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def epochs(size: int, steps: int) -> int:
    """Return how many epochs of `size` examples make about `steps` mini-batches."""
    return max(1, round(steps / -(-size // Training.batch_size)))


def learn(experiment: Experiment, how: Training, tick: Tick) -> None:
    """Train the experiment's network in place, to the end."""
    for _ in train(experiment.network, experiment.train_set, how, experiment.batches_rng):
        tick()


def spread(values: Sequence[float] | Array, digits: int = 2, sign: str = "") -> str:
    """Format the mean and the standard deviation of values, one for each seed."""
    array = np.asarray(values)
    return f"{array.mean():{sign}.{digits}f} ± {array.std(ddof=1):.{digits}f}"


def too_short(options: argparse.Namespace) -> None:
    """Print, after a quick run, that it does not show what the full one shows."""
    if options.quick:
        say("This run is too short to show what the full one shows: run it without --quick.")


def save_table(rows: Sequence[Mapping[str, str]], title: str, path: Path) -> None:
    """Show rows, which map the columns' headings to cells, and save them as CSV."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    say(f"Table: {path}")


def draw_band(axes: Any, x: Any, values: Array, **style: Any) -> None:
    """Draw the mean of `values`, of shape (seeds, len(x)), in a band of standard deviation."""
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
    axes.plot(x, mean, **style)
    axes.fill_between(
        x, mean - deviation, mean + deviation, color=style.get("color"), alpha=0.2, linewidth=0
    )


def draw_bars(axes: Any, pair: Array, labels: Sequence[str]) -> None:
    """Draw the means of `pair`, of shape (2, places, seeds), with their standard deviations."""
    for side, colour, hatch, values, label in zip(
        (-0.2, 0.2), (WITHOUT, WITH), ("", "//"), pair, labels, strict=True
    ):
        axes.bar(
            np.arange(len(values)) + side,
            values.mean(axis=1),
            0.38,
            yerr=values.std(axis=1, ddof=1),
            color=colour,
            edgecolor="white",
            hatch=hatch,
            capsize=3,
            label=label,
        )


def draw_histogram(axes: Any, values: Any, edges: Any, **style: Any) -> None:
    """Draw the density of `values` between the edges as the outline of their histogram."""
    density, _ = np.histogram(values, edges, density=True)
    axes.step(edges, np.append(density, 0), where="post", linewidth=2, **style)


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure and say where."""
    figure.savefig(path, dpi=150)
    say(f"Figure: {path}")


def say(text: str) -> None:
    """Print a sentence, wrapped between words."""
    console.print(text, soft_wrap=True, highlight=False)
