"""Masks that are held: one for all calls, until it is released."""

from __future__ import annotations

import fastdrop as fd
import numpy as np
import reference as ref
from support import KEY, as_key, assert_same, values


def test_held_masks_change_from_call_to_call() -> None:
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


def test_releasing_what_is_not_held_skips_a_mask() -> None:
    drop = fd.Dropout(0.3, rng=as_key(KEY))
    drop(np.ones(3))
    drop.release().release()
    assert drop.calls == 1
    drop.hold().hold().release().release()
    assert drop.calls == 2


def test_held_masks_of_weights_change() -> None:
    drop = fd.WeightDrop(0.3, rng=as_key(KEY)).hold()
    weights = [values((5, 40), np.float32)]
    for _ in range(2):
        key = ref.fold_in(ref.fold_in(KEY, 0), 0)
        assert_same(drop(weights)[0], ref.dropout(weights[0], 0.3, key))
    key = ref.fold_in(ref.fold_in(KEY, 1), 0)
    assert_same(drop.release()(weights)[0], ref.dropout(weights[0], 0.3, key))
