"""Where dropout helps less: a convolutional network with batch normalization.

    python examples/batchnorm.py

trains two convolutions and a linear layer on 1,000 and on 4,000 digits, without and with batch
normalization. Each has one of four kinds of dropout: none; single elements after each convolution,
with p = 0.5; whole channels there, with p = 0.2; or single elements before the linear layer, after
all normalization, with p = 0.5. Convolutions have few weights, and batch normalization adds noise
of its own, so dropout has less to do. Dropout before a batch normalization also makes the variance
in evaluation differ from the one averaged in training. Li et al. ("Understanding the disharmony
between dropout and batch normalization by variance shift", CVPR 2019) call the ratio of the two the
variance shift. The table has it for the second normalization.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import fastdrop as fd
import numpy as np
import study
from matplotlib.figure import Figure
from network import (
    CLASSES,
    Floats,
    Labels,
    Training,
    cross_entropy_gradient,
    error,
    independent,
    limit_norm,
    load,
    split,
    train,
)
from numpy.lib.stride_tricks import sliding_window_view

SIDE = 28
CHANNELS = (16, 32)
KERNEL, STRIDE = 4, 2  # 28 -> 13 -> 5 pixels
EPSILON, KEPT_OF_AVERAGE = 1e-5, 0.9
TEST_SIZE = 1000
QUICK = {"seeds": 2, "steps": 3, "train_sizes": [100, 300]}


@dataclass(frozen=True)
class Kind:
    """A kind of dropout: p after convolutions, whether of channels, p before the linear layer."""

    name: str
    p_maps: float = 0.0
    channels: bool = False
    p_last: float = 0.0


KINDS = (
    Kind("none"),
    Kind("elements, 0.5", p_maps=0.5, p_last=0.5),
    Kind("channels, 0.2", p_maps=0.2, channels=True, p_last=0.2),
    Kind("last layer, 0.5", p_last=0.5),
)


def patches(x: Floats) -> Floats:
    """Return the kernel-sized windows of maps, (n, h, w, c) -> (n, rows, columns, k * k * c)."""
    windows = sliding_window_view(x, (KERNEL, KERNEL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # the channels last, as in the maps
    return windows.reshape(*windows.shape[:3], -1)


def unpatch(gradient: Floats, shape: tuple[int, ...]) -> Floats:
    """Sum the gradients of overlapping windows into the gradient of maps of the shape."""
    n, rows, columns, _ = gradient.shape
    by_place = gradient.reshape(n, rows, columns, KERNEL, KERNEL, shape[3])
    result = np.zeros(shape, gradient.dtype)
    for i in range(KERNEL):
        for j in range(KERNEL):
            down = slice(i, i + STRIDE * rows, STRIDE)
            right = slice(j, j + STRIDE * columns, STRIDE)
            result[:, down, right] += by_place[:, :, :, i, j]
    return result


class BatchNorm:
    """Normalization over all axes but the channels (Ioffe and Szegedy, ICML 2015), plus a shift.

    It has no scale parameter: after a ReLU the next layer's weights can scale.

    Attributes
    ----------
    shift : ndarray of float32, shape (channels,)
    mean, variance : ndarray of float32, shape (channels,)
        Averages over the mini-batches of training, used in evaluation.
    seen : ndarray of float32, shape (channels,)
        The variance of the input in the last call.
    """

    def __init__(self, channels: int) -> None:
        self.training = True
        self.shift = np.zeros(channels, np.float32)
        self.mean = np.zeros(channels, np.float32)
        self.variance = np.ones(channels, np.float32)
        self.seen = self.variance

    def __call__(self, x: Floats) -> Floats:
        """Normalize maps of shape (n, h, w, channels)."""
        axes = (0, 1, 2)
        mean, self.seen = x.mean(axis=axes), x.var(axis=axes)
        if self.training:
            old, new = np.float32(KEPT_OF_AVERAGE), np.float32(1 - KEPT_OF_AVERAGE)
            self.mean = old * self.mean + new * mean
            self.variance = old * self.variance + new * self.seen
            self.deviation = np.sqrt(self.seen + np.float32(EPSILON))
            self.normal = (x - mean) / self.deviation
            return np.asarray(self.normal + self.shift)
        normal = (x - self.mean) / np.sqrt(self.variance + np.float32(EPSILON))
        return np.asarray(normal + self.shift)

    def backward(self, gradient: Floats) -> Floats:
        """Return the gradient of the input of the last call, which was in training."""
        axes = (0, 1, 2)
        centred = gradient - gradient.mean(axis=axes)
        along = self.normal * (gradient * self.normal).mean(axis=axes)
        return np.asarray((centred - along) / self.deviation)


class ConvolutionalNetwork:
    """Twice a convolution, normalization or bias, ReLU and dropout; then a linear layer.

    A `network.Model`. The biases of the convolutions are the shifts of their normalization.
    """

    def __init__(
        self,
        kind: Kind,
        normalized: bool,
        weights_rng: np.random.Generator,
        dropout_rng: np.random.Generator,
    ) -> None:
        self.normalized = normalized
        side, fan_ins = SIDE, []
        for channels in (1, *CHANNELS[:-1]):
            fan_ins.append(channels * KERNEL**2)
            side = (side - KERNEL) // STRIDE + 1
        fan_ins.append(CHANNELS[-1] * side**2)
        self.weights: list[Floats] = [
            weights_rng.standard_normal((fan_in, units), dtype=np.float32)
            * np.float32(np.sqrt(2 / fan_in))
            for fan_in, units in zip(fan_ins, (*CHANNELS, CLASSES), strict=True)
        ]
        self.norms = [BatchNorm(channels) for channels in CHANNELS]
        self.bias = np.zeros(CLASSES, np.float32)
        self.parameters = [*self.weights, *(norm.shift for norm in self.norms), self.bias]
        self.scales = [1.0] * len(self.weights)
        self.dropouts: list[fd.Dropout | fd.Dropout2d] = []
        for p in (*[kind.p_maps] * (len(CHANNELS) - 1), kind.p_last):
            self.dropouts.append(
                fd.Dropout2d(p, channel_axis=-1, rng=dropout_rng)
                if kind.channels
                else fd.Dropout(p, rng=dropout_rng)
            )

    def train(self, mode: bool = True) -> None:
        """Switch dropout and the statistics of mini-batches on, or off with False."""
        for norm in self.norms:
            norm.training = mode
        for dropout in self.dropouts:
            dropout.train(mode)

    def forward(self, images: Floats) -> Floats:
        """Return the logits, (n, classes), of images of shape (n, pixels)."""
        x = images.reshape(-1, SIDE, SIDE, 1)
        self.shapes, self.columns, self.active = [], [], []
        for weight, norm, dropout in zip(self.weights, self.norms, self.dropouts, strict=False):
            self.shapes.append(x.shape)
            self.columns.append(patches(x))
            x = self.columns[-1] @ weight
            x = norm(x) if self.normalized else x + norm.shift
            self.active.append(x > 0)
            x = dropout(np.maximum(x, 0))
        self.shapes.append(x.shape)
        self.flat = x.reshape(len(x), -1)
        return self.flat @ self.weights[-1] + self.bias

    def gradients(self, images: Floats, labels: Labels) -> list[Floats]:
        """Return the gradients of the mean softmax cross-entropy for all `parameters`."""
        gradient = cross_entropy_gradient(self.forward(images), labels)
        by_bias = gradient.sum(axis=0)
        by_weights, by_shifts = [self.flat.T @ gradient], []
        gradient = (gradient @ self.weights[-1].T).reshape(self.shapes[-1])
        for i in reversed(range(len(self.norms))):
            gradient = self.dropouts[i].backward(gradient) * self.active[i]
            by_shifts.append(gradient.sum(axis=(0, 1, 2)))
            if self.normalized:
                gradient = self.norms[i].backward(gradient)
            columns = self.columns[i].reshape(-1, len(self.weights[i]))
            by_weights.append(columns.T @ gradient.reshape(len(columns), -1))
            if i > 0:
                gradient = unpatch(gradient @ self.weights[i].T, self.shapes[i])
        return [*by_weights[::-1], *by_shifts[::-1], by_bias]

    def limit_norms(self, bound: float) -> None:
        """Shrink the incoming weights of each hidden unit to a Euclidean norm of `bound`."""
        for weight in self.weights[:-1]:
            limit_norm(weight, bound)

    def outputs(self, images: Floats) -> Floats:
        """Return the logits of `images` with dropout off, and leave it off."""
        self.train(False)
        return self.forward(images)


@dataclass(frozen=True)
class Found:
    """Errors in percent, and the variance shift before the second normalization."""

    train_error: float
    test_error: float
    shift: float


def errors_of(
    size: int,
    normalized: bool,
    kind: Kind,
    seed: int,
    options: argparse.Namespace,
    tick: study.Tick,
) -> Found:
    """Train one network and measure it."""
    division, weights, masks, batches = independent(seed)
    train_set, test_set = split(load(), size, TEST_SIZE, division)
    network = ConvolutionalNetwork(kind, normalized, weights, masks)
    how = Training(study.epochs(size, options.steps), learning_rate=options.learning_rate)
    for _ in train(network, train_set, how, batches):
        tick()
    train_error, test_error = error(network, train_set), error(network, test_set)
    norm = network.norms[1]
    return Found(train_error, test_error, float((norm.seen / norm.variance).mean()))


def plot(sizes: Sequence[int], errors: study.Array) -> Figure:
    """Draw test errors, of shape (sizes, without and with normalization, kinds, seeds)."""
    figure = Figure(figsize=(study.WIDTH, 0.5 + 3 * len(sizes)), layout="constrained")
    panels = figure.subplots(len(sizes), 1, squeeze=False)[:, 0]
    for axes, size, of_size in zip(panels, sizes, errors, strict=True):
        names = [f"{how} batch normalization" for how in ("without", "with")]
        study.draw_bars(axes, of_size, names)
        axes.set(xlabel=f"dropout ({size:,} training digits)", ylabel="test error (%)")
        axes.set_xticks(range(len(KINDS)), [kind.name.replace(", ", "\n") for kind in KINDS])
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center")
    return figure


def main() -> None:
    """Run the comparison and report it."""
    own = study.parser(__doc__, seeds=5)
    own.add_argument(
        "--train-sizes", type=int, nargs="+", default=[1000, 4000], help="digits to train on"
    )
    own.add_argument("--steps", type=int, default=600, help="mini-batches of up to 100")
    own.add_argument("--learning-rate", type=float, default=0.05, help="at the start, for all")
    options = study.parse(own, QUICK)
    cases = list(product(options.train_sizes, (False, True), KINDS))
    jobs = [(*case, seed) for case in cases for seed in range(options.seeds)]
    results = iter(
        study.run(
            lambda job, tick: errors_of(*job, options, tick),
            jobs,
            steps=sum(study.epochs(size, options.steps) for size, *_ in jobs),
        )
    )
    found = [[next(results) for _ in range(options.seeds)] for _ in cases]
    rows = [
        {
            "digits": f"{size:,}",
            "batch norm": "with" if normalized else "without",
            "dropout": kind.name,
            "training %": study.spread([one.train_error for one in case]),
            "test %": study.spread([one.test_error for one in case]),
            "variance shift": study.spread([one.shift for one in case]) if normalized else "",
        }
        for (size, normalized, kind), case in zip(cases, found, strict=True)
    ]
    title = f"Errors: mean ± standard deviation, {options.seeds} seeds"
    study.save_table(rows, title, options.output / "batchnorm.csv")
    study.too_short(options)
    errors = np.array([[one.test_error for one in case] for case in found])
    errors = errors.reshape(len(options.train_sizes), 2, len(KINDS), options.seeds)
    study.save_figure(plot(options.train_sizes, errors), options.output / "batchnorm.png")


if __name__ == "__main__":
    main()
