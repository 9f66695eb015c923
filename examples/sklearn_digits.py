"""Scikit-learn's perceptron and the one with dropout, on scikit-learn's digits.

    python examples/sklearn_digits.py            # a minute
    python examples/sklearn_digits.py --quick    # a look

Both have two hidden layers of 256 units and train for the same number of epochs. The negative
log-likelihood of the test labels punishes answers that are confident and wrong.
"""

from time import perf_counter
from typing import Any

import numpy as np
import study
from fastdrop.sklearn import DropoutMLPClassifier
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

QUICK = {"seeds": 2, "epochs": 20, "train": 300}
HIDDEN = (256, 256)


def measure(kind: Any, seed: int, options: Any, **own: Any) -> tuple[float, float, float]:
    """Train on a random part of the digits; return error in %, negative log-likelihood, seconds."""
    X, y = load_digits(return_X_y=True)
    split = train_test_split(X / 16, y, train_size=options.train, random_state=seed, stratify=y)
    model = kind(
        HIDDEN, max_iter=options.epochs, n_iter_no_change=options.epochs, random_state=seed, **own
    )
    start = perf_counter()
    model.fit(split[0], split[2])
    seconds = perf_counter() - start
    error = 100.0 * (1.0 - model.score(split[1], split[3]))
    return error, log_loss(split[3], model.predict_proba(split[1])), seconds


def main() -> None:
    """Compare both, and show the table."""
    own = study.parser(__doc__, seeds=6, epochs=100)
    own.add_argument("--p", type=float, default=0.4, help="probability to drop a hidden unit")
    own.add_argument("--train", type=int, default=600, help="digits to learn from")
    options = study.parse(own, QUICK)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "MLPClassifier": (MLPClassifier, {}),
        "DropoutMLPClassifier": (DropoutMLPClassifier, {"dropout": options.p}),
    }
    rows = []
    first = None
    for name, (kind, settings) in kinds.items():
        found = np.array(
            [measure(kind, seed, options, **settings) for seed in range(options.seeds)]
        )
        first = found[:, 2] if first is None else first
        rows.append(
            {
                "": name,
                "test error %": study.spread(found[:, 0]),
                "negative log-likelihood": study.spread(found[:, 1], 3),
                "time": study.spread(found[:, 2] / first),
            }
        )
    title = f"mean ± standard deviation of {options.seeds} seeds, {options.train} digits"
    study.save_table(rows, title, options.output / "sklearn_digits.csv")
    study.too_short(options)


if __name__ == "__main__":
    main()
