"""The exact case: on the inputs of linear regression, dropout is ridge regression.

Srivastava et al., JMLR 15, 2014, section 9.1: the weight is p / (1 - p) on diag(X'X), p the
probability to drop.
"""

from __future__ import annotations

import fastdrop as fd
import numpy as np
import pytest

pytestmark = pytest.mark.once

COUNTS = [4, 16, 64, 256, 1024]
SEEDS = 20


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_dropout_on_inputs_approaches_ridge_regression(p: float) -> None:
    """The distance falls as the root of the number of masks.

    The slope is that of a line through five means of 20 distances each, whose logarithms have a
    deviation of about 0.25: its standard error is below 0.02, so 0.1 are five of them. A biased
    limit bends the line: at 1,024 masks the distance is a sixteenth of that at four.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)) * [1, 2, 0.5, 1, 1, 3] + rng.standard_normal((200, 1))
    y = x @ rng.standard_normal(6) + rng.standard_normal(200)
    gram = x.T @ x
    ridge = np.linalg.solve(gram + p / (1 - p) * np.diag(np.diag(gram)), x.T @ y)
    distances = np.empty((SEEDS, len(COUNTS)))
    for seed in range(SEEDS):
        layer = fd.Dropout(p, rng=seed)
        gram, moment, found = np.zeros((6, 6)), np.zeros(6), []
        for copy in range(COUNTS[-1]):
            dropped = layer(x)
            gram += dropped.T @ dropped
            moment += dropped.T @ y
            if copy + 1 in COUNTS:
                found.append(np.linalg.norm(np.linalg.solve(gram, moment) - ridge))
        distances[seed] = found
    slope = np.polyfit(np.log(COUNTS), np.log(distances).mean(axis=0), 1)[0]
    assert abs(slope + 0.5) < 0.1
    assert distances[:, -1].mean() < distances[:, 0].mean() / 10
