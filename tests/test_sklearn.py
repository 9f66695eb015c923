"""Estimators of scikit-learn, held to its own checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastdrop.sklearn import _RULES, DropoutMLPClassifier, DropoutMLPRegressor
from scipy.sparse import csc_matrix, csr_array, csr_matrix
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
    ours = DropoutMLPClassifier((64,), dropout=0.2, max_iter=200, random_state=0).fit(X, y)
    theirs = MLPClassifier((64,), max_iter=1000, random_state=0).fit(X, y)
    assert ours.score(X_test, y_test) > theirs.score(X_test, y_test) - 0.01
    probabilities = ours.predict_proba(X_test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


@pytest.mark.parametrize("multilabel", [False, True])
def test_gradients_are_those_of_finite_differences(multilabel: bool) -> None:
    """With the same key, so the same masks; Adam gets what is compared here."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 5)), rng.integers(0, 3, 12)
    targets = (y[:, np.newaxis] == np.arange(3)).astype(float)
    if multilabel:
        targets[0] = 1.0
    model = DropoutMLPClassifier((7, 6), dropout=0.3, input_dropout=0.2, alpha=0.1, max_iter=1)
    model.fit(X, targets if multilabel else y)
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
    model = DropoutMLPClassifier((64,), dropout=0.3, max_iter=30, random_state=0).fit(X, y)
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
        ("learning_rate", 0.0), ("learning_rate", "adaptive"), ("batch_size", 0),
        ("hidden_layer_sizes", (0,)), ("hidden_layer_sizes", 1.5), ("hidden_layer_sizes", None),
        ("n_iter_no_change", 1.5), ("alpha", -1.0), ("alpha", "0"), ("alpha", np.nan),
        ("tol", None), ("tol", -1.0), ("tol", np.inf), ("early_stopping", "yes"),
        ("early_stopping", None), ("validation_fraction", 0.0), ("validation_fraction", 2),
        ("random_state", -1), ("random_state", "seed"), ("random_state", True), ("verbose", "no"),
        ("warm_start", 1), ("max_iter", True), ("dropout", True), ("batch_size", None),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(parameter: str, value: Any) -> None:
    for kind in (DropoutMLPClassifier, DropoutMLPRegressor):
        model = kind(**{parameter: value})
        for fit in (model.fit, model.partial_fit):
            with pytest.raises(ValueError, match=f"^{parameter} must be .*, got"):
                fit([[0.0], [1.0]], [0, 1])
        assert not hasattr(model, "coefs_")


@pytest.mark.parametrize(
    ("name", "value"), [("n_samples", 0), ("n_samples", 1.5), ("random_state", "x")]
)
def test_bad_arguments_of_samples_are_named(name: str, value: Any) -> None:
    model = DropoutMLPClassifier(max_iter=1).fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(ValueError, match=f"^{name} must be .*, got"):
        model.predict_std([[0.0]], **{name: value})


def test_every_parameter_has_a_rule() -> None:
    """Would catch a parameter that nobody checks."""
    for kind in (DropoutMLPClassifier, DropoutMLPRegressor):
        assert set(_RULES) == set(kind().get_params())


@pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32)])
@pytest.mark.parametrize("kind", [DropoutMLPClassifier, DropoutMLPRegressor])
def test_the_weights_keep_the_dtype_of_the_first_samples(kind: Any, dtypes: Any) -> None:
    X, y, X_test, _ = digits()
    model = kind((16,), input_dropout=0.1, random_state=0)
    same = clone(model)
    for dtype in dtypes:
        model.partial_fit(X.astype(dtype), y)
        same.partial_fit(X.astype(dtype).astype(dtypes[0]), y)
    assert {weight.dtype for weight in model._weights} == {np.dtype(dtypes[0])}
    for dtype in dtypes:
        assert np.array_equal(model.predict(X_test.astype(dtype)), same.predict(X_test))


@pytest.mark.parametrize("sparse", [csr_matrix, csc_matrix, csr_array])
@pytest.mark.parametrize("kind", [DropoutMLPClassifier, DropoutMLPRegressor])
def test_sparse_samples_count_as_the_same_dense_ones(kind: Any, sparse: Any) -> None:
    X, y, X_test, y_test = digits()
    X[X < 0.5] = 0.0
    model = kind((16,), input_dropout=0.2, max_iter=2, early_stopping=True, random_state=0)
    dense, thin = clone(model).fit(X, y), model.fit(sparse(X), y)
    for one, other in zip(dense._weights, thin._weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        thin.predict_std(sparse(X_test), 3), dense.predict_std(X_test, 3), rtol=1e-9, atol=1e-12
    )
    assert thin.score(sparse(X_test), y_test) == pytest.approx(dense.score(X_test, y_test))
    thin.set_params(early_stopping=False).partial_fit(sparse(X[:50]), y[:50])


def test_several_labels_are_learnt_at_once() -> None:
    X = np.random.default_rng(0).standard_normal((400, 6))
    y = (X[:, :3] > 0.0).astype(int)
    model = DropoutMLPClassifier((32,), learning_rate=0.01, early_stopping=True, random_state=0)
    model.set_params(**QUICK).fit(X[:300], y[:300])
    labels, chances = model.predict(X[300:]), model.predict_proba(X[300:])
    assert labels.shape == chances.shape == model.predict_std(X[300:], 3).shape == (100, 3)
    assert np.array_equal(labels, chances > 0.5)
    assert model.score(X[300:], y[300:]) > 0.8
    assert list(model.classes_) == [0, 1, 2]
    with pytest.raises(ValueError, match="y must be an indicator matrix"):
        model.set_params(early_stopping=False).partial_fit(X, y[:, 0])
    with pytest.raises(ValueError, match="y must have 3 outputs, got 2"):
        model.partial_fit(X, y[:, :2])
    with pytest.raises(ValueError, match="y must be one label per sample"):
        model.fit(X, y + np.arange(3))


@pytest.mark.parametrize("kind", [DropoutMLPClassifier, DropoutMLPRegressor])
def test_a_warm_start_goes_on_where_the_last_fit_ended(kind: Any) -> None:
    X, y, _, _ = digits()
    whole = kind((16,), max_iter=4, random_state=0).fit(X, y)
    model = kind((16,), max_iter=2, random_state=0, warm_start=True).fit(X, y).fit(X, y)
    assert model.n_iter_ == 2
    assert np.array_equal(model.coefs_[0], whole.coefs_[0])
    with pytest.raises(ValueError, match=r"^hidden_layer_sizes must stay"):
        model.set_params(hidden_layer_sizes=(8,)).fit(X, y)
    cold = model.set_params(hidden_layer_sizes=(16,), warm_start=False, max_iter=4)
    assert np.array_equal(cold.fit(X, y).coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("kind", [DropoutMLPClassifier, DropoutMLPRegressor])
def test_what_is_missing_is_said(kind: Any) -> None:
    for fit in (kind().fit, kind().partial_fit):
        with pytest.raises(TypeError, match=r"^sample_weight is not supported, because"):
            fit([[0.0], [1.0]], [0, 1], sample_weight=[1, 1])
        with pytest.raises(TypeError, match=r"^there is no argument epochs"):
            fit([[0.0], [1.0]], [0, 1], epochs=3)
    with pytest.raises(ValueError, match=r"^early_stopping must be False for partial_fit"):
        kind(early_stopping=True).partial_fit([[0.0], [1.0]], [0, 1])


def test_classes_stay_those_of_the_first_call() -> None:
    model = DropoutMLPClassifier().partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"^classes must be those of the first call"):
        model.partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1])
