"""What the example programs share: gradients, the two modes, the constraint, the split."""

from __future__ import annotations

import sys
from pathlib import Path

import fastdrop as fd
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import batchnorm
import features
import network
from network import Digits, Experiment, Network, Rates, Training

Generators = list[np.random.Generator]


def generators(seed: int, n: int) -> Generators:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def some_digits(n: int, pixels: int, seed: int = 0) -> Digits:
    rng = np.random.default_rng(seed)
    return Digits(rng.random((n, pixels)), rng.integers(0, 10, n))


def dense(kind: type[Network], outputs: int, mode: network.Mode) -> Network:
    weights_rng, dropout_rng = generators(1, 2)
    return kind(
        [12, 9, 8, outputs],
        Rates(0.2, 0.5),
        mode=mode,
        weights_rng=weights_rng,
        dropout_rng=dropout_rng,
    )


def convolutional(kind: batchnorm.Kind, normalized: bool) -> batchnorm.ConvolutionalNetwork:
    return batchnorm.ConvolutionalNetwork(kind, normalized, *generators(2, 2))


def in_double(model: Network | batchnorm.ConvolutionalNetwork) -> None:
    """Make the parameters doubles, whose differences show derivatives to many digits."""
    model.weights = [weight.astype(np.float64) for weight in model.weights]  # type: ignore[misc]
    # Not 0, which is where a ReLU has no derivative if all inputs of a unit are dropped.
    rng = np.random.default_rng(4)
    rest = [rng.standard_normal(other.shape) for other in model.parameters[len(model.weights) :]]
    if isinstance(model, Network):
        model.biases = rest  # type: ignore[assignment]
    else:
        *shifts, model.bias = rest  # type: ignore[assignment]
        for norm, shift in zip(model.norms, shifts, strict=True):
            norm.shift = shift  # type: ignore[assignment]
    model.parameters = [*model.weights, *rest]  # type: ignore[list-item]


def cross_entropy(logits: np.ndarray, digits: Digits) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(logits)), digits.labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())


def pixel_cross_entropy(logits: np.ndarray, digits: Digits) -> float:
    each = np.logaddexp(0, logits) - digits.images * logits
    return float(each.sum(axis=1).mean())


MODELS = {
    "inverted": lambda: dense(Network, 10, "inverted"),
    "standard": lambda: dense(Network, 10, "standard"),
    "autoencoder": lambda: dense(features.Autoencoder, 12, "inverted"),
    "convolution": lambda: convolutional(batchnorm.KINDS[1], False),
    "convolution, channels": lambda: convolutional(batchnorm.KINDS[2], False),
    "batch norm": lambda: convolutional(batchnorm.KINDS[0], True),
    "batch norm, elements": lambda: convolutional(batchnorm.KINDS[1], True),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_is_not_the_derivative_of_the_loss(name: str) -> None:
    """With the masks held, along a random direction of each parameter."""
    model = MODELS[name]()
    in_double(model)
    loss = pixel_cross_entropy if name == "autoencoder" else cross_entropy
    digits = some_digits(7, 12 if isinstance(model, Network) else 784)
    for layer in model.dropouts:
        layer.hold()
    model.train()
    gradients = model.gradients(digits.images, digits.labels)
    rng = np.random.default_rng(3)
    step = 1e-6
    for value, gradient in zip(model.parameters, gradients, strict=True):
        assert gradient.shape == value.shape
        direction = rng.standard_normal(value.shape)
        losses = []
        for sign in (1, -2, 1):
            value += sign * step * direction
            losses.append(loss(model.forward(digits.images), digits))
        slope = (losses[0] - losses[1]) / (2 * step)
        assert np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("how", [Training(3), Training(3, l2=0.01, max_norm=0.8)])
def test_the_two_modes_learn_different_networks(how: Training) -> None:
    """In standard mode the weights are 1 / (1 - p) times as large, and all else is the same."""
    digits = some_digits(200, 12)
    digits = Digits(digits.images.astype(np.float32), digits.labels)
    models = [dense(Network, 10, mode) for mode in ("inverted", "standard")]
    for model in models:
        for _ in network.train(model, digits, how, np.random.default_rng(0)):
            pass
    inverted, standard = models
    for a, b, p in zip(inverted.weights, standard.weights, (0.2, 0.5, 0.5), strict=True):
        np.testing.assert_allclose(b * np.float32(1 - p), a, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        standard.outputs(digits.images), inverted.outputs(digits.images), rtol=1e-3, atol=1e-4
    )


def test_training_forgets_l2_or_max_norm() -> None:
    digits = some_digits(200, 12)
    digits = Digits(digits.images.astype(np.float32), digits.labels)
    norms = {}
    for how in (Training(5), Training(5, l2=0.1), Training(5, max_norm=0.5)):
        model = dense(Network, 10, "inverted")
        for _ in network.train(model, digits, how, np.random.default_rng(0)):
            pass
        norms[how] = [np.linalg.norm(weight, axis=0) for weight in model.weights]
    free, decayed, bounded = norms.values()
    assert all(small.mean() < large.mean() for small, large in zip(decayed, free, strict=True))
    assert max(columns.max() for columns in bounded[:-1]) <= 0.5 * (1 + 1e-6)
    assert bounded[-1].max() > 0.5, "the weights into the outputs are not to be bounded"


def test_a_network_does_not_learn() -> None:
    """Ten clusters, far apart: after training none is taken for another."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    images = rng.standard_normal((10, 12))[labels] * 3 + rng.standard_normal((200, 12)) * 0.1
    digits = Digits(images.astype(np.float32), labels)
    weights_rng, dropout_rng = generators(0, 2)
    model = Network(
        [12, 64, 64, 10], Rates(0.1, 0.3), weights_rng=weights_rng, dropout_rng=dropout_rng
    )
    before = network.error(model, digits)
    how = Training(30, batch_size=20, learning_rate=0.02)
    assert list(network.train(model, digits, how, rng)) == list(range(1, 31))
    assert network.error(model, digits) < 5 < before


def test_a_split_shares_digits_or_prefers_a_class() -> None:
    labels = np.repeat(np.arange(10), 30 + np.arange(10))  # 30 of the rarest class
    digits = Digits(np.arange(len(labels), dtype=np.float32)[:, np.newaxis], labels)
    train_set, test_set = network.split(digits, 200, 100, np.random.default_rng(0))
    assert not np.intersect1d(train_set.images, test_set.images).size
    for part, size in ((train_set, 20), (test_set, 10)):
        np.testing.assert_array_equal(np.bincount(part.labels), [size] * 10)
        np.testing.assert_array_equal(labels[part.images[:, 0].astype(int)], part.labels)
    _, same_test = network.split(digits, 50, 100, np.random.default_rng(0))
    np.testing.assert_array_equal(same_test.images, test_set.images)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((15, 10), "train_size must be a positive multiple of 10, got 15"),
        ((10, 0), "test_size must be a positive multiple of 10, got 0"),
        ((200, 110), "train_size [+] test_size must be at most 300, got 200 [+] 110"),
    ],
)
def test_a_split_of_impossible_sizes(sizes: tuple[int, int], message: str) -> None:
    digits = Digits(np.zeros((300, 1), np.float32), np.arange(300) % 10)
    with pytest.raises(network.SizeError, match=message):
        network.split(digits, *sizes, np.random.default_rng(0))


def test_normalization_in_evaluation_is_not_that_of_training() -> None:
    """The averages over mini-batches go to the data's mean and variance."""
    rng = np.random.default_rng(0)
    norm = batchnorm.BatchNorm(3)
    for _ in range(200):
        norm((rng.standard_normal((50, 2, 2, 3)) * [1, 2, 3] + [0, 5, -5]).astype(np.float32))
    norm.training = False
    x = (rng.standard_normal((5000, 2, 2, 3)) * [1, 2, 3] + [0, 5, -5]).astype(np.float32)
    y = norm(x)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=0.15)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=0.15)
    np.testing.assert_allclose(norm.seen / norm.variance, 1, atol=0.2)


def test_one_seed_gives_networks_that_differ_in_more_than_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = Digits(np.random.default_rng(0).random((300, 4), np.float32), np.arange(300) % 10)
    monkeypatch.setattr(network, "load", lambda source: digits)
    made: list[Experiment] = [
        network.prepare(5, [6], Rates(0.0, p), train_size=100, test_size=100) for p in (0.0, 0.5)
    ]
    for a, b in zip(*(experiment.network.weights for experiment in made), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(made[0].train_set.images, made[1].train_set.images)
    orders = [experiment.batches_rng.permutation(100) for experiment in made]
    np.testing.assert_array_equal(*orders)
    assert isinstance(made[1].network.dropouts[1], fd.Dropout)
