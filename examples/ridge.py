"""The exact case: dropout on the inputs of linear regression is ridge regression.

    python examples/ridge.py

Least squares over k copies of a data set, each with another dropout mask on its inputs, is solved
exactly, for k from 1 to 4,096. As k grows, the solution goes to that of ridge regression with
weight p / (1 - p) on diag(X'X), p the probability to drop (Srivastava et al., JMLR 15, 2014,
section 9.1):

    w = argmin |y - X w|^2 + p / (1 - p) |diag(X'X)^(1/2) w|^2

The program prints and plots the distance from it for several seeds. By the law of large numbers it
falls as one over the square root of k. The data are the 442 patients of scikit-learn's diabetes
set, ten standardised features each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import fastdrop as fd
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_diabetes

Array = NDArray[np.float64]

LARGEST, QUICK = 12, 8  # powers of two of k


def load() -> tuple[Array, Array]:
    """Return features and target, both with mean 0, the features with variance 1."""
    data = load_diabetes(scaled=False)
    features = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return features, data.target - data.target.mean()


def ridge(x: Array, y: Array, p: float) -> Array:
    """Solve ridge regression with weight p / (1 - p) on diag(X'X)."""
    gram = x.T @ x
    penalty = p / (1 - p) * np.diag(np.diag(gram))
    return np.linalg.solve(gram + penalty, x.T @ y).astype(np.float64)


def distances(x: Array, y: Array, p: float, counts: Sequence[int], key: fd.Key) -> Array:
    """Return how far least squares over k dropped copies is from ridge regression, for each k.

    Parameters
    ----------
    x, y : ndarray of float64, shapes (examples, features) and (examples,)
        The data.
    p : float
        Probability to drop a feature of an example.
    counts : sequence of int
        The numbers of copies k, rising. Copy i has the mask of ``key.fold_in(i)``.
    key : Key
        Where the masks come from.

    Returns
    -------
    ndarray, shape (len(counts),)
        Norm of the difference over that of the ridge solution.
    """
    exact = ridge(x, y, p)
    gram, moment = np.zeros((x.shape[1],) * 2), np.zeros(x.shape[1])
    found = []
    for copy in range(counts[-1]):
        dropped = fd.dropout(x, p, rng=key.fold_in(copy))
        gram += dropped.T @ dropped
        moment += dropped.T @ y
        if copy + 1 in counts:
            solution = np.linalg.solve(gram, moment)
            found.append(np.linalg.norm(solution - exact) / np.linalg.norm(exact))
    return np.array(found)


def slope(counts: Sequence[int], distance: Array) -> float:
    """Fit the power of k with which distances, of shape (seeds, len(counts)), fall."""
    return float(np.polyfit(np.log(counts), np.log(distance).mean(axis=0), 1)[0])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare dropout with ridge regression.")
    parser.add_argument("--p", type=float, default=0.5, help="to drop (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10, help="of masks (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("ridge.png"), help="the figure (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"stop at {2**QUICK} masks, in a few seconds"
    )
    return parser.parse_args()


def main() -> None:
    """Run the comparison and report it."""
    options = parse()
    console = Console()
    counts = [2**exponent for exponent in range((QUICK if options.quick else LARGEST) + 1)]
    x, y = load()
    distance = np.array(
        [
            distances(x, y, options.p, counts, fd.Key(seed))
            for seed in track(range(options.seeds), "averaging", console=console)
        ]
    )
    mean, deviation = distance.mean(axis=0), distance.std(axis=0, ddof=1)
    table = Table("masks k", "distance from ridge, %", "times sqrt(k)", title=f"p = {options.p}")
    for k, m, d in zip(counts, mean, deviation, strict=True):
        table.add_row(f"{k:,}", f"{100 * m:.2f} ± {100 * d:.2f}", f"{100 * m * k**0.5:.1f}")
    console.print(table)
    power = slope(counts, distance)
    console.print(
        f"The distance falls as k to the power of {power:.3f} (mean of {options.seeds} seeds); "
        "the law of large numbers says -0.5.",
        soft_wrap=True,
    )
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(counts, mean, deviation, fmt="o-", capsize=3, label="dropout on the inputs")
    axes.plot(counts, mean[-1] * np.sqrt(counts[-1] / np.array(counts)), "--", label="$k^{-1/2}$")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="masks k",
        ylabel="distance from ridge regression, relative",
        title=f"Linear regression with dropout, p = {options.p}: mean ± deviation, "
        f"{options.seeds} seeds",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.output, dpi=150)
    console.print(f"Figure: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
