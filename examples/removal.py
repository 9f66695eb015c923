"""What if units are lost? Test errors without some of the hidden units, after training either way.

    python examples/removal.py

trains the network of `overfitting.py` on 1,000 digits without and with dropout. It then removes a
growing share of the hidden units, the same ones for all test digits. The remaining units are
scaled up by 1 / (1 - share), or left as they are. A unit trained with dropout had to be useful
among many random choices of others (Srivastava et al., JMLR 15, 2014, section 2, compare this with
sexual reproduction), so the network should lose less. The paper has no such curve.
"""

import argparse

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from network import CLASSES, DROPOUT, MAX_NORM, NO_DROPOUT, Mode, Training, percent_wrong, prepare

QUICK = {"seeds": 2, "epochs": 25, "hidden": [128, 128], "draws": 2}
SHARES = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
SCALING: tuple[Mode, Mode] = ("inverted", "standard")  # the rest scaled up; left as it is
TEST_SIZE = 2000


def errors_of(
    dropout: bool, seed: int, options: argparse.Namespace, tick: study.Tick
) -> study.Array:
    """Train one network and remove units; return test errors in percent, shape (2, shares)."""
    rates = DROPOUT if dropout else NO_DROPOUT
    experiment = prepare(seed, options.hidden, rates, test_size=TEST_SIZE)
    how = Training(options.epochs, max_norm=MAX_NORM if dropout else None)
    study.learn(experiment, how, tick)
    network, _, test_set, _ = experiment
    errors = np.empty((len(SCALING), len(SHARES)))
    hidden = len(network.dropouts) - 1
    for i, mode in enumerate(SCALING):
        for j, share in enumerate(SHARES):
            # One decision per unit, for all digits. In training, standard mode does not scale.
            loss = fd.Dropout(share, mode=mode, broadcast_dims=(0,), rng=seed)
            network.dropouts = [fd.Dropout(0.0), *[loss] * hidden]
            errors[i, j] = np.mean(
                [
                    percent_wrong(network.forward(test_set.images), test_set.labels)
                    for _ in range(options.draws)
                ]
            )
            tick()
    return errors


def plot(errors: study.Array) -> Figure:
    """Draw the errors, of shape (without and with, seeds, 2, shares)."""
    figure = Figure(figsize=(study.WIDTH, 5), layout="constrained")
    axes = figure.subplots()
    for of_kind, colour, marker, name in zip(
        errors, (study.WITHOUT, study.WITH), "os", ("without", "with"), strict=True
    ):
        for i, (style, rest) in enumerate((("-", "rest scaled up"), ("--", "rest as it is"))):
            label = f"trained {name} dropout, {rest}"
            study.draw_band(
                axes,
                SHARES,
                of_kind[:, i],
                color=colour,
                linestyle=style,
                marker=marker,
                label=label,
            )
    axes.axhline(100 - 100 / CLASSES, color="grey", linewidth=0.8)
    axes.text(0, 100 - 100 / CLASSES - 1, "chance", color="grey", va="top")
    axes.set(
        xlabel="share of hidden units removed at test time",
        ylabel="test error (%)",
        title=f"Mean ± standard deviation, {errors.shape[1]} seeds",
    )
    axes.grid(alpha=0.3)
    axes.legend(handlelength=3)
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5, epochs=40, hidden=[512, 512])
    own.add_argument("--draws", type=int, default=10, help="choices of units to average over")
    options = study.parse(own, QUICK)
    jobs = [(dropout, seed) for dropout in (False, True) for seed in range(options.seeds)]
    found = study.run(
        lambda job, tick: errors_of(*job, options, tick),
        jobs,
        steps=len(jobs) * (options.epochs + len(SCALING) * len(SHARES)),
    )
    errors = np.array(found).reshape(2, options.seeds, len(SCALING), len(SHARES))
    rows = [
        {
            "removed": f"{share:.0%}",
            "without %": study.spread(errors[0, :, 0, j]),
            "with dropout %": study.spread(errors[1, :, 0, j]),
            "unscaled: without %": study.spread(errors[0, :, 1, j]),
            "with %": study.spread(errors[1, :, 1, j]),
        }
        for j, share in enumerate(SHARES)
    ]
    title = f"Test error, rest scaled up: mean ± standard deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "removal.csv")
    half = int(np.searchsorted(SHARES, 0.5))
    more = (errors[:, :, 0, half] - errors[:, :, 0, 0]).mean(axis=1)
    study.say(
        f"Without half of its hidden units, a network trained without dropout loses {more[0]:.2f} "
        f"points, and one trained with it {more[1]:.2f}."
    )
    study.too_short(options)
    study.save_figure(plot(errors), options.output / "removal.png")


if __name__ == "__main__":
    main()
