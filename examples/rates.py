"""Which p is best? Errors over the share of units that is kept, for two ways to compare.

    python examples/rates.py

repeats figure 9 of Srivastava et al. (JMLR 15, 2014) on 1,000 digits, for two hidden layers. The
first curve fixes the number of units, so a small share leaves a thin network. The second fixes the
expected number of kept units, so a small share needs a large layer. In the paper, which calls the
kept share p, the first curve is flat from 0.4 to 0.8. The second has its lowest test error at about
0.6, and is lower than the first at small shares.

Only hidden units are dropped, and weights are not bounded. All networks use one learning rate; with
a larger one, networks that keep a tenth of their units do not learn at all.
"""

import argparse

import numpy as np
import study
from matplotlib.figure import Figure
from network import CLASSES, Rates, Training, error, prepare

QUICK = {"seeds": 2, "epochs": 2, "units": 64, "kept_units": 16}
KEPT = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
FLAT = (0.4, 0.8)  # in the paper, with the number of units fixed


def errors_of(
    share: float, units: int, seed: int, options: argparse.Namespace, tick: study.Tick
) -> tuple[float, float]:
    """Train one network; return its training and its test error in percent."""
    experiment = prepare(
        seed, [units, units], Rates(0.0, 1 - share), train_size=options.train_size, test_size=2000
    )
    study.learn(experiment, Training(options.epochs, learning_rate=options.learning_rate), tick)
    network, train_set, test_set, _ = experiment
    return error(network, train_set), error(network, test_set)


def plot(errors: study.Array, options: argparse.Namespace, paper: bool = True) -> Figure:
    """Draw the errors, of shape (2 ways, shares, seeds, 2), and where the paper's curve is flat."""
    figure = Figure(figsize=(study.WIDTH, 7), layout="constrained")
    panels = figure.subplots(2, 1, sharey=True)
    titles = (
        f"{options.units} units in each layer",
        f"{options.kept_units} kept units expected in each layer",
    )
    for axes, title, of_way in zip(panels, titles, errors, strict=True):
        study.draw_band(
            axes, KEPT, of_way[..., 1].T, color=study.WITH, marker="o", label="test error"
        )
        study.draw_band(
            axes, KEPT, of_way[..., 0].T, color=study.WITHOUT, marker="s", label="training error"
        )
        axes.set(
            xlabel="share of hidden units kept, 1 - p",
            ylabel="misclassified (%)",
            title=title,
            ylim=(-0.5, 2.5 * np.median(errors[..., 1])),
        )
        axes.grid(alpha=0.3)
    if paper:
        panels[0].axvspan(*FLAT, color="grey", alpha=0.15, label="flat here in the paper")
    panels[0].legend()
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5, epochs=60)
    own.add_argument("--learning-rate", type=float, default=0.05, help="at the start, for all")
    own.add_argument("--units", type=int, default=512, help="per layer, in the first curve")
    own.add_argument(
        "--kept-units", type=int, default=128, help="expected per layer, in the second"
    )
    own.add_argument("--train-size", type=int, default=1000, help="digits to train on")
    options = study.parse(own, QUICK)
    sizes = np.array([np.full(KEPT.shape, options.units), np.rint(options.kept_units / KEPT)])
    jobs = [
        (float(share), int(units), seed)
        for of_way in sizes
        for share, units in zip(KEPT, of_way, strict=True)
        for seed in range(options.seeds)
    ]
    found = study.run(
        lambda job, tick: errors_of(*job, options, tick), jobs, steps=len(jobs) * options.epochs
    )
    errors = np.array(found).reshape(2, len(KEPT), options.seeds, 2)
    rows = [
        {
            "fixed": way,
            "kept": f"{share:.1f}",
            "p": f"{1 - share:.1f}",
            "units": f"{units:.0f}",
            "training %": study.spread(of_share[:, 0]),
            "test %": study.spread(of_share[:, 1]),
        }
        for way, of_way, errors_of_way in zip(("units", "units kept"), sizes, errors, strict=True)
        for share, units, of_share in zip(KEPT, of_way, errors_of_way, strict=True)
    ]
    chance = 100 - 100 / CLASSES
    title = f"Errors: mean ± standard deviation, {options.seeds} seeds (chance: {chance:.0f} %)"
    study.save_table(rows, title, options.output / "rates.csv")
    study.too_short(options)
    study.save_figure(plot(errors, options, not options.quick), options.output / "rates.png")


if __name__ == "__main__":
    main()
