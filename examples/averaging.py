"""Dropout as an average of many networks: sampled networks against weight scaling.

    python examples/averaging.py

trains the network of `overfitting.py` with dropout on 1,000 digits, then draws thinned networks
from it. Each has its own masks, the same for all digits. The program averages the probabilities of
k thinned networks, or gives each network one vote. Srivastava et al. (JMLR 15, 2014, figure 11)
compare this average with weight scaling, one pass of the whole network; in their network the
average reaches it at about k = 50.
"""

import argparse

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from network import CLASSES, DROPOUT, MAX_NORM, Training, error, percent_wrong, prepare, softmax

QUICK = {"seeds": 2, "epochs": 20, "hidden": [256, 256], "largest": 20, "repeats": 1}
MEETS = 50  # k at which the paper's average is as good as weight scaling
TEST_SIZE = 2000
SHOWN = (1, 2, 5, 10, 20, 50, 100, 120)


def errors_of(
    seed: int, options: argparse.Namespace, tick: study.Tick
) -> tuple[study.Array, float]:
    """Train one network and sample from it.

    Returns
    -------
    sampled : ndarray, shape (2, k)
        Test errors, in percent, of the average and of the vote of 1, ..., k thinned networks, each
        the mean over the repeats.
    scaled : float
        Test error of weight scaling.
    """
    experiment = prepare(seed, options.hidden, DROPOUT, test_size=TEST_SIZE)
    study.learn(experiment, Training(options.epochs, max_norm=MAX_NORM), tick)
    network, _, test_set, _ = experiment
    labels = test_set.labels
    samples = fd.MonteCarlo(network.forward, network.dropouts, rng=fd.Key(seed), shared=True)
    errors = np.zeros((2, options.largest))
    for repeat in range(options.repeats):
        total = np.zeros((len(labels), CLASSES))
        votes = np.zeros((len(labels), CLASSES))
        logits = samples.iter_samples(test_set.images, options.largest, repeat * options.largest)
        for i, one in enumerate(logits):
            total += softmax(one)
            votes[np.arange(len(labels)), one.argmax(axis=1)] += 1
            errors[0, i] += percent_wrong(total, labels)
            # The mean probability, which is below 1, breaks ties between votes.
            errors[1, i] += percent_wrong(votes + total / (i + 1.001), labels)
            tick()
    return errors / options.repeats, error(network, test_set)


def plain_error(seed: int, options: argparse.Namespace, tick: study.Tick) -> float:
    """Train the same network without dropout and return its test error in percent."""
    experiment = prepare(seed, options.hidden, test_size=TEST_SIZE)
    study.learn(experiment, Training(options.epochs), tick)
    return error(experiment.network, experiment.test_set)


def plot(
    sampled: study.Array, scaled: study.Array, plain: study.Array, paper: bool = True
) -> Figure:
    """Draw errors over k, from shapes (seeds, 2, k), (seeds,) and (seeds,)."""
    figure = Figure(figsize=(study.WIDTH, 4.5), layout="constrained")
    axes = figure.subplots()
    k = np.arange(1, sampled.shape[2] + 1)
    study.draw_band(axes, k, sampled[:, 0], color=study.WITH, label="average of k thinned networks")
    axes.plot(k, sampled[:, 1].mean(axis=0), "-.", color=study.THIRD, label="majority vote of k")
    axes.axhline(
        scaled.mean(), color=study.FOURTH, linestyle="--", label="weight scaling, one pass"
    )
    axes.axhline(plain.mean(), color=study.WITHOUT, linestyle=":", label="trained without dropout")
    if paper:
        where = (0.98 * MEETS, 1.02 * MEETS)
        axes.axvspan(*where, color="grey", alpha=0.4, label="where they meet in the paper")
    ticks = [shown for shown in SHOWN[:-1] if shown <= sampled.shape[2]]
    axes.set(
        xscale="log",
        xlabel="thinned networks k",
        ylabel="test error (%)",
        title=f"Mean ± standard deviation, {len(scaled)} networks",
    )
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5, epochs=40, hidden=[512, 512])
    own.add_argument("--largest", type=int, default=120, help="thinned networks k")
    own.add_argument(
        "--repeats", type=int, default=4, help="independent sets of networks to average over"
    )
    options = study.parse(own, QUICK)
    seeds = range(options.seeds)
    per_seed = options.epochs + options.largest * options.repeats
    found = study.run(
        lambda seed, tick: errors_of(seed, options, tick), seeds, steps=options.seeds * per_seed
    )
    sampled = np.array([pair[0] for pair in found])
    scaled = np.array([pair[1] for pair in found])
    plain = np.array(
        study.run(
            lambda seed, tick: plain_error(seed, options, tick),
            seeds,
            steps=options.seeds * options.epochs,
        )
    )
    rows = [
        {
            "k": f"{k}",
            "average %": study.spread(sampled[:, 0, k - 1]),
            "vote %": study.spread(sampled[:, 1, k - 1]),
            "average - scaling": study.spread(sampled[:, 0, k - 1] - scaled, sign="+"),
        }
        for k in SHOWN
        if k <= options.largest
    ]
    rows.append(
        {"k": "scaling", "average %": study.spread(scaled), "vote %": "", "average - scaling": ""}
    )
    rows.append(
        {"k": "no dropout", "average %": study.spread(plain), "vote %": "", "average - scaling": ""}
    )
    title = f"Test error: mean ± standard deviation, {options.seeds} networks"
    study.save_table(rows, title, options.output / "averaging.csv")
    apart = sampled[:, 0] - scaled[:, np.newaxis]
    beyond = np.flatnonzero(np.abs(apart.mean(axis=0)) > apart.std(axis=0, ddof=1))
    last = int(beyond[-1]) + 1 if len(beyond) else 0
    meets = f"from k = {last + 1}" if last < options.largest else f"at no k up to {last}"
    paper = not options.quick
    study.say(
        "The average stays within a standard deviation of weight scaling (that of the paired "
        f"difference) {meets}" + (f"; in the paper at about {MEETS}." if paper else ".")
    )
    study.save_figure(plot(sampled, scaled, plain, paper), options.output / "averaging.png")


if __name__ == "__main__":
    main()
