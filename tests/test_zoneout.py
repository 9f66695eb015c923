"""Zoneout: the previous state where elements drop."""

from __future__ import annotations

import math
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import BFLOAT16, KEY, as_key, assert_same, values

REAL = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [*REAL, np.dtype(np.complex64)], ids=str)
def test_it_takes_the_previous_state_where_it_drops(
    level: str, dtype: np.dtype[Any], p: float
) -> None:
    new, previous = values((40, 33), dtype, 1), values((40, 33), dtype, 2)
    keep = ref.mask(ref.fold_in(KEY, 0), p, (40, 33))
    layer = fd.Zoneout(p, rng=as_key(KEY))
    expected = np.where(keep, new, previous)
    assert_same(layer(new, previous), expected)
    assert_same(fd.zoneout(new, previous, p, rng=as_key(KEY).fold_in(0)), expected)
    dnew, dprevious = layer.backward(new)
    zero = np.zeros((), dtype=dtype)
    assert_same(dnew, np.where(keep, new, zero))
    assert_same(dprevious, np.where(keep, zero, new))
    for got, wanted in zip(
        fd.zoneout_backward(new, p, rng=as_key(KEY).fold_in(0)), (dnew, dprevious), strict=True
    ):
        assert_same(got, wanted)


def test_it_evaluates_to_the_mean() -> None:
    new, previous = np.random.default_rng(0).standard_normal((2, 50, 3))
    layer = fd.Zoneout(0.3, rng=as_key(KEY)).eval()
    np.testing.assert_allclose(layer(new, previous), 0.7 * new + 0.3 * previous, rtol=1e-15)
    dnew, dprevious = layer.backward(new)
    np.testing.assert_allclose(dnew, 0.7 * new, rtol=1e-15)
    np.testing.assert_allclose(dprevious, 0.3 * new, rtol=1e-15)
    many = [fd.zoneout(new, previous, 0.3, rng=key) for key in fd.Key(1).split(4000)]
    # 5 standard errors of at most sqrt(.21 / 4000) |new - previous|: false alarm 6e-7 per element.
    error = np.abs(np.mean(many, axis=0) - layer(new, previous))
    assert np.all(error < 5 * math.sqrt(0.21 / 4000) * np.abs(new - previous))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_gradient_goes_one_way_where_p_is_certain(p: float, training: bool) -> None:
    """Plus zero the other way, also of NaN and infinity."""
    special = np.array([-1.0, np.inf, np.nan, 2.0, -0.0], dtype=np.float32)
    ones, zeros = np.ones_like(special), np.zeros_like(special)
    assert_same(fd.zoneout(special, ones, p, training=training), ones if p else special)
    gradients = fd.zoneout_backward(special, p, training=training, rng=fd.Key(1))
    for gradient, expected in zip(gradients, (special, zeros)[:: -1 if p else 1], strict=True):
        assert_same(gradient, expected)


def test_it_promotes_also_where_it_copies() -> None:
    new, previous = np.float32([0.1, 2.0]), np.array([0.3, 4.0])
    assert_same(fd.zoneout(new, previous, 0.0), new.astype(np.float64))
    assert_same(fd.zoneout(new, previous, 1.0), previous)
    average = 0.75 * new.astype(np.float64) + 0.25 * previous
    assert_same(fd.zoneout(new, previous, 0.25, training=False), average)
    assert fd.zoneout(new, new, 0.0) is new
