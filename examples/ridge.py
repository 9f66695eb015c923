"""The exact case: dropout on the inputs of linear regression is ridge regression.

    python examples/ridge.py

solves least squares exactly over k copies of a data set, each with another dropout mask on its
inputs, for k from 1 to 4,096. As k grows, the solution approaches that of ridge regression with
weight p / (1 - p) on diag(X'X), where p is the probability to drop (Srivastava et al., JMLR 15,
2014, section 9.1):

    w = argmin |y - X w|^2 + p / (1 - p) |diag(X'X)^(1/2) w|^2

The program prints and plots the distance between the two for several seeds. By the law of large
numbers it falls as one over the square root of k. The data are the 442 patients of scikit-learn's
diabetes set, with ten standardised features each.
"""

from collections.abc import Sequence

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from rich.progress import track
from sklearn.datasets import load_diabetes

QUICK = {"largest": 256, "seeds": 3}


def load() -> tuple[study.Array, study.Array]:
    """Return features and target, both with mean 0, the features with variance 1."""
    data = load_diabetes(scaled=False)
    features = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return features, data.target - data.target.mean()


def ridge(x: study.Array, y: study.Array, p: float) -> study.Array:
    """Solve ridge regression with weight p / (1 - p) on diag(X'X)."""
    gram = x.T @ x
    penalty = p / (1 - p) * np.diag(np.diag(gram))
    return np.linalg.solve(gram + penalty, x.T @ y).astype(np.float64)


def distances(
    x: study.Array, y: study.Array, p: float, counts: Sequence[int], key: fd.Key
) -> study.Array:
    """Return the distance of least squares over k dropped copies from ridge regression.

    Parameters
    ----------
    x, y : ndarray of float64, shapes (examples, features) and (examples,)
        The data.
    p : float
        Probability to drop a feature of an example.
    counts : sequence of int
        The numbers of copies k, in ascending order. Copy i has the mask of ``key.fold_in(i)``.
    key : Key
        Key of the masks.

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


def slope(counts: Sequence[int], distance: study.Array) -> float:
    """Fit the power of k with which distances, of shape (seeds, len(counts)), fall."""
    return float(np.polyfit(np.log(counts), np.log(distance).mean(axis=0), 1)[0])


def plot(counts: Sequence[int], distance: study.Array, p: float) -> Figure:
    """Draw distances, of shape (seeds, len(counts)), and the law of large numbers."""
    figure = Figure(figsize=(study.WIDTH, 4.5), layout="constrained")
    axes = figure.subplots()
    study.draw_band(
        axes, counts, distance, color=study.WITH, marker="o", label="dropout on the inputs"
    )
    expected = distance[:, -1].mean() * np.sqrt(counts[-1] / np.array(counts))
    axes.plot(counts, expected, "--", color=study.WITHOUT, label="one over the root of k")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="masks k",
        ylabel="distance from ridge regression, relative",
        title=f"Dropout with p = {p} in linear regression:\n"
        f"mean ± standard deviation, {len(distance)} seeds",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=10)
    own.add_argument("--p", type=float, default=0.5, help="probability to drop a feature")
    own.add_argument(
        "--largest", type=int, default=4096, help="masks k, rounded down to a power of 2"
    )
    options = study.parse(own, QUICK)
    if options.p >= 1:
        own.error(f"--p must be below 1, got {options.p}")
    if options.largest < 2:
        own.error(f"--largest must be at least 2, got {options.largest}")
    counts = [2**exponent for exponent in range(options.largest.bit_length())]
    x, y = load()
    seeds = track(range(options.seeds), "averaging", console=study.console)
    try:
        distance = np.array([distances(x, y, options.p, counts, fd.Key(seed)) for seed in seeds])
    except np.linalg.LinAlgError:
        raise SystemExit(f"error: --p {options.p} drops all of a feature, try less") from None
    rows = [
        {
            "masks k": f"{k:,}",
            "distance from ridge, %": study.spread(100 * of_k),
            "times sqrt(k)": study.spread(100 * of_k * k**0.5, 1),
        }
        for k, of_k in zip(counts, distance.T, strict=True)
    ]
    title = f"p = {options.p}: mean ± standard deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "ridge.csv")
    study.say(
        f"The distance falls as k to the power of {slope(counts, distance):.3f} (mean of "
        f"{options.seeds} seeds); the law of large numbers says -0.5."
    )
    study.save_figure(plot(counts, distance, options.p), options.output / "ridge.png")


if __name__ == "__main__":
    main()
