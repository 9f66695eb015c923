"""What does a network not know? Monte Carlo dropout on new digits, noise and rotated digits.

    python examples/uncertainty.py

trains the network of `overfitting.py` with dropout on digits of nine classes; each seed leaves out
another class. Then 100 thinned networks vote (Gal and Ghahramani, ICML 2016) on test digits of
these nine classes, digits of the class left out, noise, and test digits turned by 90 degrees. The
table and the figure show three measures of doubt: the entropy of the mean prediction (all doubt),
the mutual information (disagreement of the networks), and the entropy of a single pass with dropout
off. The area under the ROC curve says how well each measure tells strange images from test digits.
The figure also turns one digit step by step, with the predictions of all thinned networks.
"""

import argparse
from dataclasses import dataclass

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from network import CLASSES, DROPOUT, MAX_NORM, Digits, Floats, Network, Training, prepare, softmax
from numpy.typing import NDArray
from scipy.ndimage import rotate
from sklearn.metrics import roc_auc_score

SIDE = 28
TEST_SIZE = 1000
ANGLES = np.arange(0, 181, 15)
SHOWN_ANGLES = ANGLES[:7:2]
SHOWN_DIGIT = 1  # the class of the digit that is turned in the figure
GROUPS = ("test digits", "class left out", "noise", "turned by 90°")
MEASURES = ("entropy", "mutual information", "single pass")
QUICK = {"seeds": 2, "epochs": 5, "hidden": [64, 64], "samples": 10}


@dataclass(frozen=True)
class Doubt:
    """Measures of one network: `groups[group][measure]`, shape (images,); means over angles."""

    groups: list[study.Array]
    angles: study.Array  # (angles, measures), means over test digits
    votes: Floats  # (samples, shown angles, classes), of one digit
    digit: Floats  # (shown angles, SIDE, SIDE)


def turn(images: Floats, angle: float) -> Floats:
    """Turn images of shape (n, pixels) by `angle` degrees about their centre."""
    square = images.reshape(-1, SIDE, SIDE)
    turned = rotate(square, angle, axes=(1, 2), reshape=False, order=1)
    return np.asarray(turned.reshape(images.shape), np.float32)


def probabilities(network: Network, images: Floats, samples: int, key: fd.Key) -> Floats:
    """Return the softmax outputs of thinned networks, shape (samples, images, classes)."""
    thinned = fd.MonteCarlo(network.forward, network.dropouts, rng=key, shared=True)
    return softmax(thinned.samples(images, samples))


def measure(network: Network, images: Floats, samples: int, key: fd.Key) -> study.Array:
    """Return the `MEASURES` of each image, shape (measures, images), in nats."""
    sampled = probabilities(network, images, samples, key)
    single = softmax(network.outputs(images))[np.newaxis]
    return np.array(
        [
            fd.monte_carlo.predictive_entropy(sampled),
            fd.monte_carlo.mutual_information(sampled),
            fd.monte_carlo.predictive_entropy(single),
        ]
    )


def doubts(seed: int, options: argparse.Namespace, tick: study.Tick) -> Doubt:
    """Train one network without one class and measure its doubt."""
    left_out = seed % CLASSES
    experiment = prepare(
        seed,
        options.hidden,
        DROPOUT,
        train_size=options.train_size,
        test_size=TEST_SIZE,
    )
    known = experiment.train_set.take(experiment.train_set.labels != left_out)
    study.learn(
        experiment._replace(train_set=known), Training(options.epochs, max_norm=MAX_NORM), tick
    )
    network, test_set, key = experiment.network, experiment.test_set, fd.Key(seed)

    familiar: Digits = test_set.take(test_set.labels != left_out)
    noise = np.random.default_rng(seed).random(familiar.images.shape, dtype=np.float32)
    strange = test_set.take(test_set.labels == left_out).images
    groups = []
    for images in (familiar.images, strange, noise, turn(familiar.images, 90)):
        groups.append(measure(network, images, options.samples, key))
        tick()
    angles = []
    for angle in ANGLES:
        turned = turn(familiar.images[:200], float(angle))
        angles.append(measure(network, turned, options.samples, key).mean(axis=1))
        tick()
    one = test_set.images[test_set.labels == SHOWN_DIGIT][:1]
    digit = np.concatenate([turn(one, float(angle)) for angle in SHOWN_ANGLES])
    votes = probabilities(network, digit, options.samples, key)
    return Doubt(groups, np.array(angles), votes, digit.reshape(-1, SIDE, SIDE))


def detection(groups: list[study.Array]) -> NDArray[np.float64]:
    """Return areas under the ROC curve, shape (groups, measures), each group against the first."""
    areas = np.full((len(groups), len(MEASURES)), np.nan)
    for i, group in enumerate(groups[1:], 1):
        truth = np.repeat([0, 1], [groups[0].shape[1], group.shape[1]])
        for j, scores in enumerate(np.concatenate([groups[0], group], axis=1)):
            areas[i, j] = roc_auc_score(truth, scores)
    return areas


def plot(found: list[Doubt]) -> Figure:
    """Draw one digit with its votes, entropies of all groups, and doubt over the angle."""
    figure = Figure(figsize=(study.WIDTH, 12), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(5, 7), squeeze=False)[:, 0]
    first = found[0]
    rows = top.subplots(len(SHOWN_ANGLES), 2, sharex="col", width_ratios=(1, 4))
    for i, ((image, axes), angle, digit) in enumerate(
        zip(rows, SHOWN_ANGLES, first.digit, strict=True)
    ):
        image.imshow(digit, cmap="gray_r")
        image.set_axis_off()
        image.set_title(f"{angle}°")
        votes = first.votes[:, i]
        x = np.broadcast_to(np.arange(CLASSES), votes.shape)
        axes.plot(x.ravel(), votes.ravel(), ".", color=study.WITH, alpha=0.15)
        axes.plot(np.arange(CLASSES), votes.mean(axis=0), "_", color=study.WITHOUT, markersize=16)
        axes.set(ylim=(-0.05, 1.05), xticks=range(CLASSES), ylabel="probability")
    rows[-1, 1].set_xlabel("class (dots: each thinned network; bars: their mean)")

    above, below = bottom.subplots(2, 1)
    edges = np.linspace(0, np.log(CLASSES), 40)
    for i, (name, colour, line) in enumerate(
        zip(
            GROUPS,
            (study.WITH, study.WITHOUT, study.THIRD, "black"),
            ("-", "--", ":", "-."),
            strict=True,
        )
    ):
        entropy = np.concatenate([doubt.groups[i][0] for doubt in found])
        study.draw_histogram(above, entropy, edges, color=colour, linestyle=line, label=name)
    above.set(xlabel="entropy of the mean prediction (nats)", ylabel="density")
    for j, (name, colour, marker) in enumerate(
        zip(MEASURES, (study.WITH, study.THIRD, study.WITHOUT), "os^", strict=True)
    ):
        values = np.array([doubt.angles[:, j] for doubt in found])
        study.draw_band(below, ANGLES, values, color=colour, marker=marker, label=name)
    below.set(xlabel="test digits turned by (degrees)", ylabel="mean (nats)", xticks=ANGLES[::3])
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main() -> None:
    """Run the networks and report their doubt."""
    own = study.parser(__doc__, seeds=10, epochs=40, hidden=[512, 512])
    own.add_argument("--train-size", type=int, default=2000, help="digits to train on")
    own.add_argument("--samples", type=int, default=100, help="thinned networks")
    options = study.parse(own, QUICK)
    found = study.run(
        lambda seed, tick: doubts(seed, options, tick),
        range(options.seeds),
        steps=options.seeds * (options.epochs + len(GROUPS) + len(ANGLES)),
    )
    areas = np.array([detection(doubt.groups) for doubt in found])
    rows = []
    for i, name in enumerate(GROUPS):
        row = {"images": name}
        for j, heading in enumerate(MEASURES):
            row[heading] = study.spread([float(doubt.groups[i][j].mean()) for doubt in found])
        for j, heading in enumerate(("ROC entropy", "ROC mutual", "ROC single")):
            row[heading] = study.spread(areas[:, i, j]) if i else ""
        row["entropy - single"] = (
            study.spread(areas[:, i, 0] - areas[:, i, 2], sign="+") if i else ""
        )
        rows.append(row)
    title = f"Doubt in nats, area under the ROC curve: mean ± deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "uncertainty.csv")
    study.too_short(options)
    study.save_figure(plot(found), options.output / "uncertainty.png")


if __name__ == "__main__":
    main()
