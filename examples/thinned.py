"""What dropout does to a network: a picture of a standard and a thinned one.

    python examples/thinned.py

draws a small network twice, as in figure 1 of Srivastava et al. (JMLR 15, 2014): whole, and with
the units that its dropout layers drop crossed out. The masks are real; another `--seed` thins the
network in another way.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from numpy.typing import NDArray

UNITS = (5, 6, 6, 3)  # inputs, two hidden layers, outputs
RATES = (0.2, 0.5, 0.5)  # p of inputs and of hidden units; outputs stay

Kept = NDArray[np.bool_]


def masks(seed: int) -> list[Kept]:
    """Call a dropout layer for each layer of units; return which units it kept."""
    rng = np.random.default_rng(seed)
    kept = []
    for units, p in zip(UNITS[:-1], RATES, strict=True):
        layer = fd.Dropout(p, rng=rng)
        kept.append(layer(np.ones(units)) > 0)
    return [*kept, np.ones(UNITS[-1], np.bool_)]


def draw(axes: Any, kept: list[Kept]) -> None:
    """Draw units as circles, connections between kept ones as lines, dropped ones crossed out."""
    places = [np.arange(len(layer)) - (len(layer) - 1) / 2 for layer in kept]
    for level, ((below, above), (kept_below, kept_above)) in enumerate(
        zip(pairwise(places), pairwise(kept), strict=True)
    ):
        for x in below[kept_below]:
            for y in above[kept_above]:
                axes.plot([x, y], [level, level + 1], color="grey", linewidth=0.8, zorder=1)
    for level, (row, layer) in enumerate(zip(places, kept, strict=True)):
        heights = np.full(len(row), level)
        style = {"s": 320, "zorder": 2, "facecolor": "white"}
        axes.scatter(row[layer], heights[layer], edgecolor=study.WITH, linewidth=2, **style)
        axes.scatter(row[~layer], heights[~layer], edgecolor=study.WITHOUT, linestyle="--", **style)
        axes.scatter(row[~layer], heights[~layer], marker="x", s=160, color=study.WITHOUT, zorder=3)
    axes.margins(0.12)
    axes.set_axis_off()


def main() -> None:
    """Draw the picture."""
    own = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    own.add_argument("--seed", type=int, default=8, help="of the masks")
    own.add_argument("--output", type=Path, default=Path("results"), help="folder for the figure")
    own.add_argument("--quick", action="store_true", help="the same: a picture takes a second")
    options = own.parse_args()
    if options.seed < 0:
        own.error(f"--seed must be at least 0, got {options.seed}")
    study.make_folder(own, options.output)
    thin = masks(options.seed)
    figure = Figure(figsize=(study.WIDTH, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    draw(top, [np.ones_like(layer) for layer in thin])
    top.set_title("a standard network")
    draw(bottom, thin)
    bottom.set_title(f"thinned: p = {RATES[0]} below, {RATES[1]} inside")
    study.save_figure(figure, options.output / "thinned.png")


if __name__ == "__main__":
    main()
