"""Masks that are held: one for all calls, until it is released."""

from __future__ import annotations

from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import KEY, as_key, assert_same, values

pytestmark = pytest.mark.once


def test_a_held_mask_serves_all_calls_until_it_is_released() -> None:
    x, y = values((5, 40), np.float32), values((5, 40), np.float32, seed=1)
    drop = fd.Dropout(0.3, rng=as_key(KEY))
    drop(x)
    assert drop.hold() is drop
    for call in (x, y, x):
        assert_same(drop(call), ref.dropout(call, 0.3, ref.fold_in(KEY, 1)))
        assert_same(drop.backward(y), ref.dropout(y, 0.3, ref.fold_in(KEY, 1)))
    assert drop.eval()(x) is x  # evaluation neither draws nor ends it
    assert_same(drop.train()(x), ref.dropout(x, 0.3, ref.fold_in(KEY, 1)))
    assert drop.release() is drop
    for call in (2, 3):
        assert_same(drop(x), ref.dropout(x, 0.3, ref.fold_in(KEY, call)))
    assert drop.calls == 4


def test_releasing_what_is_not_held_changes_nothing() -> None:
    """Would catch a mask that is skipped."""
    drop = fd.Dropout(0.3, rng=as_key(KEY))
    drop(np.ones(3))
    drop.release().release()
    assert drop.calls == 1
    drop(np.ones(3))
    assert drop.calls == 2


LAYERS = [
    (fd.Dropout, (np.ones((4, 6)),)),
    (fd.ConcreteDropout, (np.ones((4, 6)),)),
    (fd.WeightDrop, ([np.ones((4, 6))],)),
    (fd.PatchDropout, (np.ones((4, 6)),)),
    (fd.DropoutAdd, (np.ones((4, 6)), np.ones((4, 6)))),
    (fd.Zoneout, (np.ones((4, 6)), np.ones((4, 6)))),
    (lambda **keywords: fd.DropConnectLinear(6, 4, **keywords), (np.ones((4, 6)),)),
]


@pytest.mark.parametrize(("make", "x"), LAYERS, ids=lambda made: getattr(made, "__name__", ""))
def test_a_held_mask_counts_as_one_call_and_only_if_drawn(make: Any, x: Any) -> None:
    drop = make(rng=as_key(KEY))
    assert drop.hold().hold().release().release().calls == 0
    drop.hold().eval()(*x)
    assert drop.train().release().calls == 0
    for calls in (1, 2):
        with drop.hold():
            drop(*x)
            drop.hold()(*x)  # still the same
            assert drop.calls == calls - 1
        assert drop.calls == calls
        assert drop.release().calls == calls
    drop.hold()(*x)
    other = make(rng=1)
    other.load_state_dict(drop.state_dict())
    assert other.hold().release().calls == drop.release().calls == 3


def test_only_a_held_layer_is_a_context_manager() -> None:
    with pytest.raises(RuntimeError, match="held"), fd.Dropout():
        pass
