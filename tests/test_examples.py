"""What the example programs share: gradients, the two modes, the constraint, the split."""

from __future__ import annotations

import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import ModuleType

import fastdrop as fd
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
sys.path.insert(0, str(Path(__file__).parent.parent / "benches"))

import averaging
import batchnorm
import data_size
import features
import network
import overfitting
import peers
import rates
import regularizers
import removal
import ridge
import shards
import study
import sweep
import thinned
import uncertainty
from network import Digits, Experiment, Network, Rates, Training

pytestmark = pytest.mark.once

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
    other_train, _ = network.split(digits, 200, 100, np.random.default_rng(1))
    assert not np.array_equal(np.sort(other_train.images), np.sort(train_set.images))
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


def test_evaluation_drops_or_leaves_dropout_off_for_the_next_epoch() -> None:
    """Between epochs, as in `overfitting.py`."""
    digits = some_digits(50, 12)
    digits = Digits(digits.images.astype(np.float32), digits.labels)
    model = dense(Network, 10, "inverted")
    calls = []
    for _ in network.train(model, digits, Training(3, batch_size=50), np.random.default_rng(0)):
        calls.append([dropout.calls for dropout in model.dropouts])
        first = model.outputs(digits.images)
        np.testing.assert_array_equal(model.outputs(digits.images), first)
        assert not any(dropout.training for dropout in model.dropouts)
    assert calls == [[1] * 3, [2] * 3, [3] * 3]


class Recorder:
    """A model of one weight and one bias, whose gradients say which digits a batch held."""

    def __init__(self, scale: float) -> None:
        self.parameters = [np.full(2, 4.0, np.float32), np.full(1, 4.0, np.float32)]
        self.scales = [scale]
        self.batches: list[list[float]] = []
        self.limits = 0

    def train(self, mode: bool = True) -> None:
        assert mode

    def gradients(self, images: network.Floats, labels: network.Labels) -> list[network.Floats]:
        np.testing.assert_array_equal(images[:, 0], labels)
        self.batches.append(images[:, 0].tolist())
        total = np.float32(images.sum())
        return [np.array([total, 1], np.float32), np.array([total], np.float32)]

    def limit_norms(self, bound: float) -> None:
        assert bound == 7.0
        self.limits += 1

    def outputs(self, images: network.Floats) -> network.Floats:
        raise NotImplementedError


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_step_is_not_that_of_momentum_decay_and_l2(scale: float) -> None:
    """Two epochs of seven digits in batches of three, the last one of one digit."""
    digits = Digits(np.arange(7, dtype=np.float32)[:, np.newaxis], np.arange(7))
    how = Training(2, batch_size=3, learning_rate=0.2, momentum=0.5, l2=0.1, max_norm=7.0)
    model = Recorder(scale)
    list(network.train(model, digits, how, np.random.default_rng(8)))

    rng = np.random.default_rng(8)
    weight, bias = np.full(2, 4.0), np.full(1, 4.0)
    weight_step, bias_step = np.zeros(2), np.zeros(1)
    expected = []
    for rate in (0.2, 0.1):
        order = rng.permutation(7)
        for batch in (order[:3], order[3:6], order[6:]):
            expected.append(batch.tolist())
            gradient = np.array([batch.sum(), 1]) + 0.1 / scale**2 * weight
            weight_step = 0.5 * weight_step - rate * scale**2 * gradient
            bias_step = 0.5 * bias_step - rate * batch.sum()
            weight, bias = weight + weight_step, bias + bias_step
    assert model.batches == expected
    assert sorted(model.batches[0] + model.batches[1] + model.batches[2]) == list(range(7))
    assert model.limits == 6
    np.testing.assert_allclose(model.parameters[0], weight, rtol=1e-5)
    np.testing.assert_allclose(model.parameters[1], bias, rtol=1e-5)


def test_weights_masks_and_batches_share_a_stream() -> None:
    streams = network.independent(3)
    assert len(set(map(id, streams))) == 4
    draws = [rng.random() for rng in streams]
    assert len(set(draws)) == 4
    assert draws == [rng.random() for rng in network.independent(3)]
    assert draws != [rng.random() for rng in network.independent(4)]


def test_initial_weights_have_another_variance() -> None:
    """A standard deviation from 300,000 draws: within 1 % in all but one of 10^14 seeds."""
    model = Network(
        [600, 500, 10],
        network.NO_DROPOUT,
        weights_rng=np.random.default_rng(0),
        dropout_rng=np.random.default_rng(1),
    )
    assert model.weights[0].std() == pytest.approx(np.sqrt(2 / 600), rel=0.01)


def test_units_that_no_image_activates_are_silent() -> None:
    """Counted are those that some image leaves at 0, those dropped, or those of another layer.

    The first of three units is active for the first image only, the second never, the third always;
    the one unit of the second layer follows the first.
    """
    rngs = dict(zip(("weights_rng", "dropout_rng"), generators(0, 2), strict=True))
    model = Network([2, 3, 1, 10], Rates(0.0, 0.9), **rngs)
    model.weights[0][:] = [[1, -1, 1], [-1, -1, 1]]
    model.weights[1][:] = [[1], [0], [0]]
    assert model.silent(np.eye(2, dtype=np.float32)) == pytest.approx([100 / 3, 0])


def test_a_warning_names_the_network_and_layer_of_most_silent_units() -> None:
    """The worst layer passes unnoticed, or a network is blamed of which half is alive."""
    silent = np.zeros((len(overfitting.VARIANTS), 2, 3))
    silent[1, :, 0] = 45, 55
    assert overfitting.warning(silent) == ""
    silent[1, :, 1] = 60, 90
    assert "with dropout, 75 % of the units in hidden layer 2" in overfitting.warning(silent)


@pytest.mark.parametrize("name", network.SOURCES)
def test_overfitting_learns_each_data_set_at_its_own_rate(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One rate serves all data; or the warning is lost; or a paper stands beside a quick run."""
    rates = []

    def learn(
        variant: overfitting.Variant, seed: int, options: Namespace, tick: study.Tick
    ) -> tuple[np.ndarray, list[float]]:
        rates.append(options.learning_rate)
        return noise(options.epochs, 2), [80.0, 0.0]

    digits = Digits(np.zeros((1000, 1), np.float32), np.arange(1000) % 10)
    monkeypatch.setattr(overfitting, "load", lambda source: digits)
    monkeypatch.setattr(overfitting, "learn", learn)
    command = ["overfitting.py", "--quick", "--data", name, "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    overfitting.main()
    assert set(rates) == {network.SOURCES[name].learning_rate}
    printed = capsys.readouterr()
    assert printed.err.count("Warning: ") == 1
    assert "paper" not in printed.out
    assert "paper" not in next(tmp_path.glob("*.csv")).read_text(encoding="utf-8")


def test_results_come_in_another_order_than_jobs() -> None:
    """The first job waits for the second; where there is one processor, for its time to be up."""
    second_is_done = threading.Event()

    def work(job: int, tick: study.Tick) -> int:
        if job == 0:
            second_is_done.wait(timeout=1)
        else:
            second_is_done.set()
        tick()
        return job * job

    assert study.run(work, [0, 1, 2, 3], steps=4) == [0, 1, 4, 9]


@pytest.mark.parametrize(("seconds", "said"), [(60.0, "about 5 minutes"), (20.0, "")])
def test_first_steps_tell_how_long_minutes_of_work_take(
    seconds: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A long run says nothing, a short one does, or the two workers are taken for one."""
    monkeypatch.setattr(study.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(study, "monotonic", iter([0.0, seconds]).__next__)
    study.run(lambda job, tick: [tick() for _ in range(5)], [0, 1], steps=10, even=True)
    output = capsys.readouterr().out
    assert said in output
    assert bool(said) == ("minutes" in output)


def test_a_failure_in_one_job_lets_the_others_go_on() -> None:
    other_runs = threading.Event()

    def work(job: int, tick: study.Tick) -> None:
        if job == 0:
            other_runs.wait(timeout=1)
            raise network.SizeError("no such size")
        while True:
            other_runs.set()
            tick()

    with pytest.raises(SystemExit, match="error: no such size"):
        study.run(work, [0, 1], steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2, got 1"),
        (["--epochs", "0"], "--epochs must be above 0, got 0"),
        (["--hidden", "5", "-3"], "--hidden must be above 0, got -3"),
        (["--output", __file__], "--output must be a folder"),
    ],
)
def test_a_bad_option_is_taken(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit):
        study.parse(study.parser("A program.", seeds=2, epochs=3, hidden=[4]), {})
    assert message in capsys.readouterr().err


def test_an_option_beside_quick_loses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", ["program", "--quick", "--epochs", "9", "--output", str(tmp_path / "new")]
    )
    options = study.parse(study.parser("A program.", seeds=5, epochs=40), {"seeds": 2, "epochs": 1})
    assert (options.seeds, options.epochs) == (2, 9)
    assert (tmp_path / "new").is_dir()


@pytest.mark.once
@pytest.mark.parametrize(
    ("program", "work", "found"),
    [(data_size, "test_error", 1.0), (removal, "errors_of", np.ones((2, 10)))],
)
def test_only_a_quick_run_says_that_it_is_too_short(
    program: ModuleType,
    work: str,
    found: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Results of seconds pass for those of a full run."""
    monkeypatch.setattr(program, work, lambda *job: found)
    monkeypatch.setattr(program, "load", lambda source: None, raising=False)
    for quick in ([], ["--quick"]):
        monkeypatch.setattr(sys, "argv", ["program", "--output", str(tmp_path), *quick])
        program.main()
        assert capsys.readouterr().out.count("too short") == len(quick)


@pytest.mark.once
def test_the_picture_takes_the_option_of_the_experiments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["thinned.py", "--quick", "--output", str(tmp_path)])
    thinned.main()
    assert (tmp_path / "thinned.png").is_file()


def test_the_spread_is_not_that_of_a_sample() -> None:
    assert study.spread([1.0, 2.0, 4.0]) == "2.33 ± 1.53"
    assert study.spread([1.0, 2.0, 4.0], 1, "+") == "+2.3 ± 1.5"


def test_the_strength_is_not_that_of_the_lowest_mean() -> None:
    assert regularizers.choose(np.array([[1.0, 9.0], [4.0, 5.0], [0.0, 9.5]])) == 1


def test_measures_of_a_layer_count_silent_units() -> None:
    first = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    layer = features.Layer("", np.stack([first, np.zeros(4, np.float32), 3 - first], axis=1))
    assert layer.silent() == pytest.approx(100 / 3)
    assert layer.mean_activation() == 1.5
    assert layer.near_zero() == 25
    assert layer.correlation() == pytest.approx(1)  # -1, of which the size counts


def test_detection_takes_the_wrong_group_for_strange() -> None:
    familiar = np.array([[0.0, 1.0], [0.0, 1.0], [5.0, 5.0]])  # (measures, images)
    strange = np.array([[2.0, 3.0], [-2.0, -1.0], [5.0, 5.0]])
    areas = uncertainty.detection([familiar, strange])
    assert np.isnan(areas[0]).all()
    np.testing.assert_array_equal(areas[1], [1.0, 0.0, 0.5])


def test_a_convolutional_network_normalizes_by_the_batch_in_evaluation() -> None:
    model = convolutional(batchnorm.KINDS[0], True)
    images = some_digits(8, 784).images.astype(np.float32)
    alone = model.outputs(images[:1])
    np.testing.assert_allclose(model.outputs(images)[:1], alone, rtol=1e-3, atol=1e-4)
    assert not any(norm.training for norm in model.norms)
    model.train()
    assert all(norm.training for norm in model.norms)
    assert not np.allclose(model.forward(images[:1]), model.forward(images)[:1], atol=1e-3)


def noise(*shape: int) -> np.ndarray:
    return 1 + np.random.default_rng(0).random(shape)


def some_features() -> features.Measured:
    return features.Measured([features.Layer("", noise(9, 40))], noise(40, 28, 28), 1.0)


def some_doubt() -> uncertainty.Doubt:
    groups = [noise(3, 5) for _ in uncertainty.GROUPS]
    angles = len(uncertainty.SHOWN_ANGLES)
    votes, digit = noise(2, angles, 10) / 2, noise(angles, 28, 28)
    return uncertainty.Doubt(groups, noise(len(uncertainty.ANGLES), 3), votes, digit)


def some_times() -> dict[tuple[int, float], peers.Times]:
    names = [peers.FLOOR, peers.IDIOM, peers.US, *peers.PEERS]
    return {(size, 0.5): {name: noise(3) for name in names} for size in (14, 17)}


RUN = Namespace(epochs=9, train_size=1000, test_size=4000, data="mnist", seeds=3)
FIGURES: dict[str, Callable[[], Figure]] = {
    "averaging": lambda: averaging.plot(noise(3, 2, 120), noise(3), noise(3)),
    "batchnorm": lambda: batchnorm.plot([1000, 4000], noise(2, 2, len(batchnorm.KINDS), 3)),
    "data size": lambda: data_size.plot([20, 4000], noise(2, 2, 3), "mnist"),
    "features": lambda: features.plot(some_features(), some_features()),
    "overfitting": lambda: overfitting.plot(noise(len(overfitting.VARIANTS), 3, 9, 2), RUN),
    "peers": lambda: peers.plot(some_times(), [0.5]),
    "rates": lambda: rates.plot(noise(2, 10, 3, 2), Namespace(units=512, kept_units=128)),
    "regularizers": lambda: regularizers.plot(["nothing", "L2"], noise(2, 2, 3)),
    "removal": lambda: removal.plot(noise(2, 3, 2, len(removal.SHARES))),
    "ridge": lambda: ridge.plot([1, 4096], noise(3, 2), 0.5),
    "sweep": lambda: sweep.plot(noise(2001), noise(2001), noise(65)),
    "uncertainty": lambda: uncertainty.plot([some_doubt(), some_doubt()]),
}


def without_colour(key: Line2D | Patch) -> tuple[object, ...]:
    """Return what is left of a legend's key in print, beside the shade."""
    if isinstance(key, Line2D):
        return key.get_linestyle(), key.get_marker()
    return key.get_linestyle(), key.get_hatch(), key.get_alpha(), key.get_fill()


@pytest.mark.parametrize("name", FIGURES)
def test_each_key_of_a_legend_is_told_without_its_colour(name: str) -> None:
    """Two lines or bars differ in nothing but the hue, which greys and some eyes do not show."""
    legends = FIGURES[name]().findobj(Legend)
    assert legends
    for legend in legends:
        for one, other in combinations(legend.legend_handles, 2):
            assert without_colour(one) != without_colour(other), legend


@pytest.mark.parametrize("name", FIGURES)
def test_words_of_a_figure_are_legible_on_a_phone(name: str) -> None:
    """Of 400 pixels, a wide figure leaves a letter less than 9, or words reach over the edge."""
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    for text in figure.findobj(Text):
        assert not text.get_text() or text.get_fontsize() / 72 * 400 / width >= 9, text
    words = figure.get_tightbbox()
    assert min(words.x0, words.y0) >= 0
    assert words.x1 <= width
    assert words.y1 <= height


def test_gradients_on_ranks_are_not_the_derivative_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    weights = shards.initial_weights()
    images, labels = rng.random((9, len(weights[0]))), rng.integers(0, 10, 9)
    mask = fd.Mask((9, shards.HIDDEN), shards.P, fd.Key(0))
    _, *gradients = shards.loss_and_gradients(weights, images, labels, mask.apply)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = rng.standard_normal(weight.shape)
        losses = []
        for sign in (1, -2, 1):
            weight += sign * 1e-6 * direction
            losses.append(shards.loss_and_gradients(weights, images, labels, mask.apply)[0])
        slope = (losses[0] - losses[1]) / 2e-6
        assert np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_masks_of_ranks_are_neither_parts_of_one_nor_their_own(ranks: int) -> None:
    """With a number of ranks that does not divide the batch, too."""
    whole = shards.mask_of(shards.SHARED, 7, 0, 1).to_numpy()
    assert whole.shape == (shards.BATCH, shards.HIDDEN)
    parts = [shards.mask_of(shards.SHARED, 7, rank, ranks).to_numpy() for rank in range(ranks)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    own = [shards.mask_of(shards.OWN, 7, rank, ranks) for rank in range(ranks)]
    assert [mask.shape for mask in own] == [part.shape for part in parts]
    assert len({mask.key for mask in own}) == ranks
    assert shards.mask_of(shards.SHARED, 8, 0, 1).key != shards.mask_of(shards.SHARED, 7, 0, 1).key


def test_the_verdict_lets_other_losses_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """With regions of one mask they must be equal, and with masks of each rank's own not."""
    same, other = shards.Result([1.0, 0.5], 3.0), shards.Result([1.0, 0.6], 3.0)
    right = {
        (masks, ranks): other if (masks, ranks) == (shards.OWN, "2") else same
        for masks in (shards.OWN, shards.SHARED)
        for ranks in ("1", "2")
    }
    shards.judge(right)
    assert "the same for every number of ranks" in capsys.readouterr().out
    for wrong in ({(shards.SHARED, "2"): other}, {(shards.OWN, "2"): same}):
        with pytest.raises(SystemExit, match="not true"):
            shards.judge(right | wrong)
