"""Estimators of scikit-learn, held to its own checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastdrop.sklearn import DropoutMLPClassifier, DropoutMLPRegressor
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::FutureWarning")]

QUICK: dict[str, Any] = {"max_iter": 60, "random_state": 0}


@parametrize_with_checks(
    [
        DropoutMLPClassifier(dropout=0.1, learning_rate=0.01),
        DropoutMLPRegressor(dropout=0.01, learning_rate=0.02),
    ]
)
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def digits() -> tuple[Any, Any, Any, Any]:
    X, y = load_digits(return_X_y=True)
    return X[:1200] / 16, y[:1200], X[1200:] / 16, y[1200:]


def test_it_learns_digits_as_well_as_the_perceptron_of_scikit_learn() -> None:
    from sklearn.neural_network import MLPClassifier

    X, y, X_test, y_test = digits()
    ours = DropoutMLPClassifier((256,), dropout=0.3, **QUICK).fit(X, y)
    theirs = MLPClassifier((256,), max_iter=300, random_state=0).fit(X, y)
    assert ours.score(X_test, y_test) > theirs.score(X_test, y_test) - 0.01
    probabilities = ours.predict_proba(X_test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_gradients_are_those_of_finite_differences() -> None:
    """With the same key, so the same masks; Adam gets what is compared here."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 5)), rng.integers(0, 3, 12)
    model = DropoutMLPClassifier((7, 6), dropout=0.3, input_dropout=0.2, alpha=0.1, max_iter=1)
    model.fit(X, y)
    targets = (y[:, np.newaxis] == model.classes_).astype(float)
    step, seen = model.t_, []

    def loss() -> float:
        saved = [weight.copy() for weight in model._weights]
        averages = [(a.copy(), b.copy()) for a, b in model._averages]
        model.t_ = step
        value = model._step(X, targets)
        for (mean, _), (before, _) in zip(model._averages, averages, strict=True):
            seen.append((mean - 0.9 * before) / 0.1)
        for weight, kept in zip(model._weights, saved, strict=True):
            weight[...] = kept
        model._averages = averages
        return value

    loss()
    gradients = list(seen)
    for weight, gradient in zip(model._weights, gradients, strict=True):
        for at in [(0,) * weight.ndim, tuple(n - 1 for n in weight.shape)]:
            values = []
            for change in (1e-6, -2e-6):
                weight[at] += change
                values.append(loss())
            weight[at] += 1e-6
            assert abs((values[0] - values[1]) / 2e-6 - gradient[at]) < 1e-6


def test_uncertainty_is_larger_where_nothing_was_learnt() -> None:
    X, y, X_test, _ = digits()
    model = DropoutMLPClassifier((128,), dropout=0.3, **QUICK).fit(X, y)
    known = model.predict_std(X_test, n_samples=20)
    unknown = model.predict_std(np.random.default_rng(0).random(X_test.shape), n_samples=20)
    assert known.shape == (len(X_test), 10)
    assert unknown.mean() > 1.5 * known.mean()
    assert np.array_equal(known, model.predict_std(X_test, n_samples=20))
    assert not np.array_equal(known, model.predict_std(X_test, n_samples=20, random_state=1))
    none = clone(model).set_params(dropout=0.0, max_iter=2).fit(X, y)
    assert none.predict_std(X_test, n_samples=3).max() < 1e-12


def test_early_stopping_keeps_the_best_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, X_test, y_test = digits()
    merit, seen = DropoutMLPClassifier._merit, []

    def recorded(self: Any, *held_out: Any) -> float:
        seen.append((merit(self, *held_out), self.coefs_[0].copy()))
        return seen[-1][0]

    monkeypatch.setattr(DropoutMLPClassifier, "_merit", recorded)
    model = DropoutMLPClassifier(
        (64,), early_stopping=True, n_iter_no_change=3, learning_rate=0.01, verbose=True,
        random_state=0, max_iter=200,
    ).fit(X, y)  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_ < 200
    best = max(range(len(seen)), key=lambda epoch: seen[epoch][0])
    assert best < len(seen) - 1
    assert np.array_equal(model.coefs_[0], seen[best][1])
    assert all("validation score" in line for line in lines)
    assert model.score(X_test, y_test) > 0.85


def test_partial_fit_trains_on_what_comes() -> None:
    X, y, X_test, y_test = digits()
    model = DropoutMLPClassifier((128,), dropout=0.2, random_state=0, batch_size=50)
    for _ in range(15):
        for part in range(3):
            model.partial_fit(X[part::3], y[part::3], classes=range(10))
    assert model.n_iter_ == 45
    assert model.score(X_test, y_test) > 0.85
    with pytest.raises(ValueError, match="y must have labels of classes"):
        model.partial_fit(X[:5], [77] * 5)
    regressor = DropoutMLPRegressor(random_state=0)
    assert regressor.partial_fit(X, y).partial_fit(X, y).n_iter_ == 2


def test_regression_in_a_pipeline() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = make_pipeline(
        StandardScaler(),
        DropoutMLPRegressor((50,), learning_rate=0.05, max_iter=150, random_state=0),
    )
    assert cross_val_score(model, X, y, cv=3).mean() > 0.35
    two = DropoutMLPRegressor(**QUICK).fit(X, np.c_[y, -y])
    assert two.predict(X[:4]).shape == two.predict_std(X[:4]).shape == (4, 2)


def test_a_seed_repeats_the_training_and_float32_stays() -> None:
    X, y, X_test, _ = digits()
    model = DropoutMLPClassifier((32,), random_state=3, max_iter=3)
    first = model.fit(X, y).predict_proba(X_test)
    assert np.array_equal(clone(model).fit(X, y).predict_proba(X_test), first)
    small = clone(model).fit(X.astype(np.float32), y)
    assert {weight.dtype for weight in small._weights} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("dropout", 1.0), ("dropout", "a"), ("input_dropout", -0.1), ("max_iter", 0),
        ("learning_rate", 0.0), ("batch_size", 0), ("hidden_layer_sizes", (0,)),
        ("n_iter_no_change", 1.5),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(parameter: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{parameter} must be .*, got"):
        DropoutMLPClassifier(**{parameter: value}).fit([[0.0], [1.0]], [0, 1])
