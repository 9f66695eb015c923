"""Do hidden units co-adapt less under dropout? Features, activations, correlations.

    python examples/features.py

trains an autoencoder with one layer of 256 ReLU units on 4,000 digits, without dropout and with
p = 0.5 for hidden units, as Srivastava et al. did on MNIST (JMLR 15, 2014, section 7). It draws
the features of units that are ever active (figure 7: noise against spots, strokes and edges) and
the histogram of activations on 1,000 other digits (figure 8: with dropout few are high, and most
are near zero). The table has the share of silent units, which no digit activates. For the other
units it has the mean activation, the share of activations near zero, and the mean absolute
correlation of two units. It has the same for the hidden layers of the classifier of
`overfitting.py`, and the autoencoder's squared error, summed over pixels.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import study
from matplotlib.figure import Figure
from network import DROPOUT, MAX_NORM, NO_DROPOUT, Floats, Labels, Network, Rates, Training, prepare
from numpy.typing import NDArray

PIXELS, SIDE = 784, 28
SHOWN = (4, 8)  # rows and columns of features
QUICK = {"seeds": 2, "epochs": 2, "units": 64, "train_size": 500}
PAPER = ("2.0", "0.7")  # mean activation without and with dropout, figure 8
NEAR_ZERO = 0.01
CLASSIFIER_EPOCHS = 40


class Autoencoder(Network):
    """A network that reproduces its images, with a sigmoid and cross-entropy."""

    def gradients(self, images: Floats, labels: Labels) -> list[Floats]:
        """Return the gradients of the cross-entropy, summed over pixels, for all `parameters`."""
        logits = self.forward(images)
        return self.backward((sigmoid(logits) - images) / np.float32(len(images)))


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    half = np.float32(0.5)
    return np.asarray(half + half * np.tanh(half * x))


@dataclass(frozen=True)
class Layer:
    """Measurements of a hidden layer on test digits.

    `activations` has shape (digits, units).
    """

    name: str
    activations: Floats

    def alive(self) -> NDArray[np.bool_]:
        """Return which units are active for any digit, shape (units,)."""
        return np.asarray(self.activations.any(axis=0))

    def silent(self) -> float:
        """Return the percentage of units that are not alive. The methods below ignore these."""
        return float(100 * np.mean(~self.alive()))

    def mean_activation(self) -> float:
        """Return the mean over digits and units."""
        return float(self.activations[:, self.alive()].mean())

    def near_zero(self) -> float:
        """Return the percentage of activations below `NEAR_ZERO`."""
        return float(100 * np.mean(self.activations[:, self.alive()] < NEAR_ZERO))

    def correlation(self) -> float:
        """Return the mean absolute correlation of two units."""
        active = self.activations[:, self.alive()]
        between = np.asarray(np.corrcoef(active.astype(np.float64), rowvar=False))
        return float(np.abs(between[np.triu_indices(len(between), 1)]).mean())


@dataclass(frozen=True)
class Measured:
    """Hidden layers, and the autoencoder's features and error, for one seed and kind."""

    layers: list[Layer]
    features: Floats
    reconstruction: float


def measure(dropout: bool, seed: int, options: argparse.Namespace, tick: study.Tick) -> Measured:
    """Train an autoencoder and a classifier and measure them."""
    rates = DROPOUT if dropout else NO_DROPOUT
    experiment = prepare(
        seed,
        [options.units],
        Rates(0.0, rates.hidden),
        train_size=options.train_size,
        kind=Autoencoder,
        outputs=PIXELS,
    )
    study.learn(experiment, Training(options.epochs, learning_rate=options.learning_rate), tick)
    autoencoder, _, test_set, _ = experiment
    output = sigmoid(autoencoder.outputs(test_set.images))
    layers = [Layer("autoencoder", autoencoder.inputs[1])]

    classes = prepare(seed, [512, 512], rates, train_size=options.train_size)
    epochs = min(options.epochs, CLASSIFIER_EPOCHS)
    study.learn(classes, Training(epochs, max_norm=MAX_NORM if dropout else None), tick)
    classes.network.outputs(classes.test_set.images)
    for i, inputs in enumerate(classes.network.inputs[1:], 1):
        layers.append(Layer(f"classifier, layer {i}", inputs))
    return Measured(
        layers,
        autoencoder.weights[0].T[layers[0].alive()].reshape(-1, SIDE, SIDE),
        float(np.square(output - test_set.images).sum(axis=1).mean()),
    )


def mosaic(features: Floats) -> study.Array:
    """Put the first features side by side, each with the range of its weights as grey levels."""
    rows, columns = SHOWN
    tiles = features[: rows * columns]
    tiles = tiles / np.abs(tiles).max(axis=(1, 2), keepdims=True)
    missing = rows * columns - len(tiles)
    padded = np.pad(tiles, ((0, missing), (1, 1), (1, 1)), constant_values=1)
    size = padded.shape[1]
    table = padded.reshape(rows, columns, size, size).transpose(0, 2, 1, 3)
    return np.asarray(table.reshape(rows * size, columns * size), np.float64)


def plot(without: Measured, with_dropout: Measured) -> Figure:
    """Draw features and histograms of one seed."""
    figure = Figure(figsize=(study.WIDTH, 9), layout="constrained")
    *mosaics, histogram = figure.subplots(3, 1)
    layers = [kind.layers[0] for kind in (without, with_dropout)]
    activations = [layer.activations[:, layer.alive()].ravel() for layer in layers]
    edges = np.linspace(0, max(float(values.max()) for values in activations), 60)
    for axes, kind, values, name, colour, line in zip(
        mosaics,
        (without, with_dropout),
        activations,
        ("without dropout", "with dropout"),
        (study.WITHOUT, study.WITH),
        ("-", "--"),
        strict=True,
    ):
        axes.imshow(mosaic(kind.features), cmap="gray", vmin=-1, vmax=1)
        axes.set_axis_off()
        axes.set_title(f"features, {name}")
        label = f"{name}, mean {values.mean():.2f}"
        study.draw_histogram(histogram, values, edges, color=colour, linestyle=line, label=label)
    histogram.set(yscale="log", xlabel="hidden activation", ylabel="density")
    histogram.yaxis.set_major_formatter("{x:g}")
    histogram.grid(alpha=0.3)
    histogram.legend()
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=3, epochs=100)
    own.add_argument("--learning-rate", type=float, default=0.005, help="of the autoencoder")
    own.add_argument("--units", type=int, default=256, help="of the autoencoder")
    own.add_argument("--train-size", type=int, default=4000, help="digits to train on")
    options = study.parse(own, QUICK)
    jobs = [(dropout, seed) for dropout in (False, True) for seed in range(options.seeds)]
    steps = len(jobs) * (options.epochs + min(options.epochs, CLASSIFIER_EPOCHS))
    found = study.run(lambda job, tick: measure(*job, options, tick), jobs, steps)
    rows = []
    for dropout in (False, True):
        kinds = found[options.seeds :] if dropout else found[: options.seeds]
        for i, layer in enumerate(kinds[0].layers):
            layers = [kind.layers[i] for kind in kinds]
            rows.append(
                {
                    "layer": layer.name,
                    "dropout": "with" if dropout else "without",
                    "silent %": study.spread([one.silent() for one in layers], 1),
                    "mean": study.spread([one.mean_activation() for one in layers]),
                    **({} if options.quick else {"paper": PAPER[dropout] if i == 0 else ""}),
                    "near zero %": study.spread([one.near_zero() for one in layers], 1),
                    "correlation": study.spread([one.correlation() for one in layers], 3),
                    "squared error": study.spread([kind.reconstruction for kind in kinds], 1)
                    if i == 0
                    else "",
                }
            )
    rows.sort(key=lambda row: row["layer"])
    title = f"Hidden layers on test digits: mean ± standard deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "features.csv")
    study.too_short(options)
    study.save_figure(plot(found[0], found[options.seeds]), options.output / "features.png")


if __name__ == "__main__":
    main()
