"""Multilayer perceptrons with dropout, as estimators of scikit-learn.

>>> from sklearn.datasets import load_digits
>>> from fastdrop.sklearn import DropoutMLPClassifier
>>> X, y = load_digits(return_X_y=True)
>>> model = DropoutMLPClassifier((64,), dropout=0.2, max_iter=60, random_state=0)
>>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.9
True
"""

from collections.abc import Iterator
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Never, Self

import numpy as np

import fastdrop as fd
from fastdrop._base.arguments import Array, shown

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import (
        check_classification_targets,
        type_of_target,
        unique_labels,
    )
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "fastdrop.sklearn needs scikit-learn 1.6 or newer, which is not installed"
    ) from error

__all__ = ["DropoutMLPClassifier", "DropoutMLPRegressor"]

DECAY = (0.9, 0.999)
"""Decay rates of Adam's averages of gradients and their squares."""


class _DropoutMLP(BaseEstimator):
    """A perceptron of rectified units, trained by Adam with dropout."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        *,
        dropout: float = 0.2,
        input_dropout: float = 0.0,
        alpha: float = 1e-4,
        batch_size: Any = "auto",
        learning_rate: float = 1e-3,
        max_iter: int = 200,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool = False,
        warm_start: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, **unknown: Never) -> Self:
        """Train from new weights, or from the last ones with `warm_start`; return the estimator.

        `X`, an array or a sparse matrix, has shape (samples, features). Training ends after
        `max_iter` epochs, or when the loss has not improved by `tol` for `n_iter_no_change` epochs.
        With `early_stopping`, the score of held-out samples replaces the loss, and the weights with
        the best score are kept.
        """
        _refuse(unknown)
        self._check_parameters()
        goes_on = self.warm_start and hasattr(self, "coefs_")
        X, targets = self._validated(X, y, reset=not goes_on)
        if not goes_on:
            self._initialize(X, targets.shape[1])
        self.n_iter_ = 0
        held_out = None
        if self.early_stopping:
            X, held, targets, held_targets = train_test_split(
                X,
                targets,
                test_size=self.validation_fraction,
                random_state=self._random.randint(2**31 - 1),
            )
            held_out = held, held_targets
        best, best_weights, waited = -np.inf, None, 0
        for epoch in range(self.max_iter):
            self._epoch(X, targets)
            merit = -self.loss_ if held_out is None else self._merit(*held_out)
            if self.verbose:
                scored = "" if held_out is None else f", validation score {merit:.4f}"
                print(f"epoch {epoch + 1} of {self.max_iter}: loss {self.loss_:.5f}{scored}")
            waited = 0 if merit > best + self.tol else waited + 1
            if merit > best:
                best = merit
                if held_out is not None:
                    best_weights = [weight.copy() for weight in self._weights]
            if waited >= self.n_iter_no_change:
                break
        if best_weights is not None:
            for weight, kept in zip(self._weights, best_weights, strict=True):
                weight[...] = kept
        return self

    def _check_parameters(self) -> None:
        for name, (must, is_valid) in _RULES.items():
            _check(getattr(self, name), name, must, is_valid)
        sizes = tuple(len(bias) for bias in getattr(self, "intercepts_", ()))[:-1]
        if self.warm_start and hasattr(self, "coefs_") and sizes != self._hidden():
            raise ValueError(
                f"hidden_layer_sizes must stay {sizes} to continue with warm_start, "
                f"got {self.hidden_layer_sizes!r}"
            )

    def _hidden(self) -> tuple[int, ...]:
        return _sizes(self.hidden_layer_sizes)

    def _initialize(self, X: Array, outputs: int) -> None:
        """Draw weights, uniform as in Glorot and Bengio (2010), and the key of all masks."""
        self._random = check_random_state(self.random_state)
        sizes = (X.shape[1], *self._hidden(), outputs)
        self.coefs_: list[Array] = []
        self.intercepts_: list[Array] = []
        for inputs, units in pairwise(sizes):
            bound = np.sqrt(6.0 / (inputs + units))
            weight = self._random.uniform(-bound, bound, (inputs, units))
            self.coefs_.append(weight.astype(X.dtype))
            self.intercepts_.append(np.zeros(units, dtype=X.dtype))
        self._key = fd.Key(self._random.randint(0, 2**31 - 1, 8).tolist())
        self._averages = [(np.zeros_like(w), np.zeros_like(w)) for w in self._weights]
        self.t_, self.n_iter_ = 0, 0
        self.loss_curve_: list[float] = []
        self.n_layers_, self.n_outputs_ = len(sizes), outputs

    @property
    def _weights(self) -> list[Array]:
        return [*self.coefs_, *self.intercepts_]

    def _epoch(self, X: Any, targets: Array) -> None:
        """Train on all samples once, in a new order."""
        count = X.shape[0]
        size = min(200 if self.batch_size == "auto" else self.batch_size, count)
        order = self._random.permutation(count)
        total = 0.0
        for first in range(0, count, size):
            batch = order[first : first + size]
            total += self._step(_dense(X[batch]), targets[batch]) * len(batch)
        self.loss_ = total / count
        self.loss_curve_.append(self.loss_)
        self.n_iter_ += 1

    def _step(self, X: Array, targets: Array) -> float:
        """Update the weights by the gradient of a batch; return the loss before the update."""
        keys = self._key.fold_in(self.t_).split(len(self.coefs_))
        inputs = [fd.dropout(X, self.input_dropout, rng=keys[0])]
        sums: list[Array] = []
        for layer, key in enumerate(keys[1:]):
            sums.append(inputs[-1] @ self.coefs_[layer] + self.intercepts_[layer])
            inputs.append(fd.relu_dropout(sums[-1], self.dropout, rng=key))
        outputs = inputs[-1] @ self.coefs_[-1] + self.intercepts_[-1]
        loss, delta = self._loss(outputs, targets)
        loss += 0.5 * self.alpha * sum(float((w * w).sum()) for w in self.coefs_) / len(X)
        gradients: list[Array] = [None] * len(self._weights)  # type: ignore[list-item]
        for layer in range(len(keys) - 1, -1, -1):
            coefficients = self.coefs_[layer]
            gradients[layer] = inputs[layer].T @ delta + self.alpha * coefficients / len(X)
            gradients[len(keys) + layer] = delta.sum(axis=0)
            if layer:
                delta = fd.relu_dropout_backward(
                    delta @ coefficients.T, sums[layer - 1], self.dropout, rng=keys[layer]
                )
        self.t_ += 1
        slow, fast = DECAY
        rate = self.learning_rate * np.sqrt(1.0 - fast**self.t_) / (1.0 - slow**self.t_)
        for weight, gradient, (mean, square) in zip(
            self._weights, gradients, self._averages, strict=True
        ):
            mean += (1.0 - slow) * (gradient - mean)
            square += (1.0 - fast) * (gradient * gradient - square)
            weight -= rate * mean / (np.sqrt(square) + 1e-8)
        return loss

    def _outputs(self, X: Any) -> Array:
        """Return the outputs of the network with dropout off."""
        for weight, bias in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            X = np.maximum(X @ weight + bias, 0)
        return X @ self.coefs_[-1] + self.intercepts_[-1]

    def _samples(self, X: Any, n_samples: int, random_state: Any) -> Iterator[Array]:
        """Yield the outputs of thinned networks (Gal and Ghahramani, ICML 2016)."""
        _check(n_samples, "n_samples", *_COUNT)
        _check(random_state, "random_state", *_RULES["random_state"])
        root = fd.Key(check_random_state(random_state).randint(0, 2**31 - 1, 8).tolist())
        X = _dense(X)
        for sample in range(n_samples):
            keys = root.fold_in(sample).split(len(self.coefs_))
            hidden = fd.dropout(X, self.input_dropout, rng=keys[0])
            for layer, key in enumerate(keys[1:]):
                sums = hidden @ self.coefs_[layer] + self.intercepts_[layer]
                hidden = fd.relu_dropout(sums, self.dropout, rng=key)
            yield hidden @ self.coefs_[-1] + self.intercepts_[-1]

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self, "coefs_")
        array = validate_data(self, X, reset=False, **_TAKES)
        return array.astype(self.coefs_[0].dtype, copy=False)

    def _std(self, values: Iterator[Array]) -> Array:
        deviation: Array = np.std(np.stack(list(values)), axis=0, dtype=np.float64)
        return deviation

    def _validated(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        """Return checked samples, and targets of shape (samples, outputs)."""
        raise NotImplementedError

    def _loss(self, outputs: Array, targets: Array) -> tuple[float, Array]:
        """Return the mean loss of a batch and its gradient with respect to the outputs."""
        raise NotImplementedError

    def _merit(self, X: Any, targets: Array) -> float:
        """Return the score of held-out samples."""
        raise NotImplementedError

    def _partial(self, X: Any, y: Any, unknown: Any, classes: Any = None) -> Self:
        _refuse(unknown)
        self._check_parameters()
        if self.early_stopping:
            raise ValueError("early_stopping must be False for partial_fit, got True")
        first = not hasattr(self, "coefs_")
        X, targets = self._validated(X, y, first, classes)
        if first:
            self._initialize(X, targets.shape[1])
        self._epoch(X, targets)
        return self

    def _same(self, X: Any, targets: Array, reset: bool) -> tuple[Any, Array]:
        """Return samples and targets in the dtype of the weights, or of the samples if `reset`."""
        dtype = X.dtype if reset else self.coefs_[0].dtype
        if not reset and targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} outputs, got {targets.shape[1]}")
        return X.astype(dtype, copy=False), targets.astype(dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class DropoutMLPClassifier(ClassifierMixin, _DropoutMLP):
    """A classifier: a multilayer perceptron with dropout, softmax, and Monte Carlo uncertainty.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Number of rectified units of each hidden layer.
    dropout, input_dropout : float, default 0.2 and 0.0
        Probabilities to DROP a hidden unit and an input, in [0, 1).
    alpha : float, default 1e-4
        Strength of the L2 penalty, as in `sklearn.neural_network.MLPClassifier`.
    batch_size : int or "auto", default "auto"
        Number of samples per step; "auto" is 200, or all if there are fewer.
    learning_rate : float, default 1e-3
        Step size of Adam (Kingma and Ba, ICLR 2015).
    max_iter, tol, n_iter_no_change : default 200, 1e-4, 10
        When training ends: see `fit`.
    early_stopping, validation_fraction : default False, 0.1
        Whether to hold out this fraction of the samples and keep the weights that do best there.
    random_state : int, RandomState or None
        Source of weights, batches and masks.
    verbose : bool, default False
        Whether to print the loss of every epoch.
    warm_start : bool, default False
        Whether `fit` continues from the weights and averages of the last fit.

    Attributes
    ----------
    classes_ : ndarray
        The labels; for an indicator matrix, the numbers of its columns.
    coefs_, intercepts_ : list of ndarray
        Weights, of shape (inputs, units), and biases of the layers.
    loss_curve_ : list of float
        Mean loss of each epoch, with dropout.
    n_iter_ : int
        Number of epochs.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DropoutMLPClassifier(dropout=0.2, max_iter=300, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:1]).shape, model.predict_std(X[:1], n_samples=50).shape
    ((1, 3), (1, 3))
    """

    def partial_fit(self, X: Any, y: Any, classes: Any = None, **unknown: Never) -> Self:
        """Train for one epoch on more samples.

        The first call needs `classes`, unless `y` has all of them.
        """
        return self._partial(X, y, unknown, classes)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, of shape (samples, classes)."""
        return self._probabilities(self._outputs(self._checked(X)))

    def predict(self, X: Any) -> Array:
        """Return the most probable labels, or an indicator matrix."""
        outputs = self._outputs(self._checked(X))
        if self._multilabel:
            return (outputs > 0.0).astype(np.int64)
        labels: Array = self.classes_[outputs.argmax(axis=1)]
        return labels

    def predict_std(self, X: Any, n_samples: int = 30, random_state: Any = 0) -> Array:
        """Return the standard deviation of the probabilities over networks with units dropped."""
        samples = self._samples(self._checked(X), n_samples, random_state)
        return self._std(self._probabilities(outputs) for outputs in samples)

    def _probabilities(self, outputs: Array) -> Array:
        return 0.5 + 0.5 * np.tanh(0.5 * outputs) if self._multilabel else _softmax(outputs)

    def _validated(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        X, y = validate_data(self, X, y, reset=reset, multi_output=True, **_TAKES)
        y = _dense(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        multilabel = y.ndim == 2
        if multilabel and type_of_target(y) != "multilabel-indicator":
            raise ValueError("y must be one label per sample, or an indicator matrix of 0 and 1")
        if multilabel:
            known = np.arange(y.shape[1])
        else:
            known = unique_labels(y if classes is None else classes)
        if reset:
            self._multilabel, self.classes_ = multilabel, known
        elif classes is not None and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes must be those of the first call, {self.classes_}")
        if multilabel != self._multilabel:
            kind = "an indicator matrix" if self._multilabel else "one label per sample"
            raise ValueError(f"y must be {kind}, as in the first call")
        if not multilabel:
            unknown = np.setdiff1d(y, self.classes_)
            if unknown.size:
                raise ValueError(f"y must have labels of classes {self.classes_}, got {unknown}")
            y = y[:, np.newaxis] == self.classes_
        return self._same(X, y, reset)

    def _loss(self, outputs: Array, targets: Array) -> tuple[float, Array]:
        probabilities = self._probabilities(outputs)
        if self._multilabel:
            losses = (np.logaddexp(0.0, outputs) - targets * outputs).sum(axis=1)
        else:
            chosen = (probabilities * targets).sum(axis=1)
            losses = -np.log(np.maximum(chosen, np.finfo(outputs.dtype).tiny))
        return float(losses.mean()), (probabilities - targets) / len(targets)

    def _merit(self, X: Any, targets: Array) -> float:
        outputs = self._outputs(X)
        if self._multilabel:
            return float(((outputs > 0.0) == (targets > 0.0)).all(axis=1).mean())
        return float((outputs.argmax(axis=1) == targets.argmax(axis=1)).mean())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class DropoutMLPRegressor(RegressorMixin, _DropoutMLP):
    """A regressor: a multilayer perceptron with dropout, and Monte Carlo uncertainty.

    Parameters and attributes are those of `DropoutMLPClassifier`, apart from ``classes_``; the loss
    is half of the squared error.

    >>> X = np.linspace(-1, 1, 200)[:, np.newaxis]
    >>> model = DropoutMLPRegressor(max_iter=500, random_state=0).fit(X, X[:, 0] ** 2)
    >>> model.predict_std([[0.5]], n_samples=50).shape
    (1,)
    """

    def partial_fit(self, X: Any, y: Any, **unknown: Never) -> Self:
        """Train for one epoch on more samples."""
        return self._partial(X, y, unknown)

    def predict(self, X: Any) -> Array:
        """Return predictions, of the shape of the targets."""
        return self._shaped(self._outputs(self._checked(X)))

    def predict_std(self, X: Any, n_samples: int = 30, random_state: Any = 0) -> Array:
        """Return the standard deviation of predictions over networks with units dropped."""
        samples = self._samples(self._checked(X), n_samples, random_state)
        return self._shaped(self._std(samples))

    def _shaped(self, outputs: Array) -> Array:
        return outputs[:, 0] if self._flat else outputs

    def _validated(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Array]:
        X, y = validate_data(self, X, y, reset=reset, multi_output=True, y_numeric=True, **_TAKES)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if reset:
            self._flat = y.ndim == 1
        return self._same(X, y[:, np.newaxis] if y.ndim == 1 else y, reset)

    def _loss(self, outputs: Array, targets: Array) -> tuple[float, Array]:
        error = outputs - targets
        return float(0.5 * (error * error).mean()), error / error.size

    def _merit(self, X: Any, targets: Array) -> float:
        residual = ((self._outputs(X) - targets) ** 2).sum()
        spread = ((targets - targets.mean(axis=0)) ** 2).sum()
        return float(1.0 - residual / spread) if spread else -float(residual)


_TAKES: dict[str, Any] = {"dtype": [np.float64, np.float32], "accept_sparse": "csr"}


def _dense(X: Any) -> Array:
    """Return a sparse matrix as an array, and an array as it is."""
    array: Array = X.toarray() if hasattr(X, "toarray") else X
    return array


def _refuse(unknown: dict[str, Any]) -> None:
    """Raise TypeError for arguments that other estimators take in `fit`."""
    if "sample_weight" in unknown:
        raise TypeError(
            "sample_weight is not supported, because repeated samples draw masks of their own: "
            "resample X and y by weight instead"
        )
    if unknown:
        raise TypeError(
            f"there is no argument {', '.join(unknown)}: pass parameters to the constructor"
        )


def _real(value: Any) -> float:
    """Return a number as a float; NaN for anything else."""
    return np.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def _count(value: Any) -> int:
    """Return an integer as an int; 0 for anything else."""
    return 0 if isinstance(value, bool) or not isinstance(value, Integral) else int(value)


def _sizes(value: Any) -> tuple[int, ...]:
    """Return the lengths of hidden layers; (0,) for anything else."""
    try:
        return tuple(map(_count, (value,) if isinstance(value, Integral) else value))
    except TypeError:
        return (0,)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_seed(value: Any) -> bool:
    try:
        check_random_state(value)
    except ValueError:
        return False
    return not _is_flag(value)


_RATE = "a number in [0, 1)", lambda value: 0.0 <= _real(value) < 1.0
_LEAST = "a finite number of at least 0", lambda value: 0.0 <= _real(value) < np.inf
_COUNT = "an int of at least 1", lambda value: _count(value) >= 1
_FLAG = "True or False", _is_flag
_RULES: dict[str, tuple[str, Any]] = {
    "hidden_layer_sizes": (
        "an int of at least 1, or a sequence of them",
        lambda value: min(_sizes(value), default=1) >= 1,
    ),
    "dropout": _RATE,
    "input_dropout": _RATE,
    "alpha": _LEAST,
    "batch_size": (
        "'auto' or an int of at least 1",
        lambda value: _count(value) >= 1 or (isinstance(value, str) and value == "auto"),
    ),
    "learning_rate": ("a finite number above 0", lambda value: 0.0 < _real(value) < np.inf),
    "max_iter": _COUNT,
    "tol": _LEAST,
    "n_iter_no_change": _COUNT,
    "early_stopping": _FLAG,
    "validation_fraction": ("a number in (0, 1)", lambda value: 0.0 < _real(value) < 1.0),
    "random_state": ("None, an int of at least 0 or a RandomState", _is_seed),
    "verbose": ("a bool or an int", lambda value: _is_flag(value) or isinstance(value, Integral)),
    "warm_start": _FLAG,
}
"""The requirement of each parameter, and its check."""


def _check(value: Any, name: str, must: str, is_valid: Any) -> None:
    if not is_valid(value):
        raise ValueError(f"{name} must be {must}, got {shown(value)}")


def _softmax(outputs: Array) -> Array:
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    odds = np.exp(shifted)
    probabilities: Array = odds / odds.sum(axis=1, keepdims=True)
    return probabilities
