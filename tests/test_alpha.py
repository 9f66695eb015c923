"""Alpha dropout: the moments that it keeps."""

from __future__ import annotations

import math

import fastdrop as fd
import numpy as np
import pytest

pytestmark = pytest.mark.once


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    """A million standard normals: 5 standard errors, false alarm 6e-7 each; the seed is fixed.

    The fourth moment of the result is below 3 + alpha'^4 a^4 < 40 for these p.
    """
    x = np.random.default_rng(0).standard_normal(1_000_000)
    y = fd.alpha_dropout(x, p, rng=0)
    assert abs(y.mean()) < 5e-3
    assert abs(y.var() - 1.0) < 5 * math.sqrt(40 / 1e6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="x must have at least 2 axes"):
        fd.feature_alpha_dropout(np.zeros(4))
    with pytest.raises(TypeError, match="x must have a real dtype"):
        fd.alpha_dropout(np.zeros(4, np.complex64), rng=1)
