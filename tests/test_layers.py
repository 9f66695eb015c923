"""The layer: train, evaluate, go backward, save, restore and copy."""

from __future__ import annotations

import itertools
import json
import sys
from importlib import import_module
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import DTYPES, KEY, as_key, assert_same, values

pytestmark = pytest.mark.once

SHAPE = (2, 64, 7, 7)


def call_key(call: int, root: ref.Key = KEY) -> ref.Key:
    """Return the key of a layer's training call."""
    return ref.fold_in(root, call)


def layer(p: float = 0.5, **kwargs: Any) -> fd.Dropout:
    return fd.Dropout(p, rng=as_key(KEY), **kwargs)


# --- Forward -------------------------------------------------------------------------------------


def test_the_tutorial_example_works() -> None:
    """Half of a batch of feature maps goes, the other half is doubled, and x stays as it is."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    before = x.copy()
    drop = fd.Dropout(0.5, inplace=False)
    y = drop(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert_same(x, before)
    np.testing.assert_array_equal(y[y != 0], 2 * x[y != 0])
    # 5 sigma of a binomial of 6272 fair coins: 198; false alarm 6e-7, and the seed is not fixed.
    assert abs(np.count_nonzero(y) - x.size // 2) < 198
    assert drop.eval()(x) is x


def test_only_training_calls_count() -> None:
    """Would catch a layer that counts evaluation calls."""
    drop = layer(0.3)
    x = values((300,), np.float32)
    drop(x)
    drop.eval()
    drop(x)
    drop(x)
    assert drop.calls == 1
    drop.train()
    assert_same(drop(x), ref.dropout(x, 0.3, call_key(1)))
    drop.p = 0.0
    assert drop(x) is x
    assert drop.calls == 3
    drop.p = 0.3
    assert_same(drop(x), ref.dropout(x, 0.3, call_key(3)))


def test_train_and_eval_switch_and_return_the_layer() -> None:
    drop = layer()
    assert drop.training is True
    assert drop.eval() is drop
    assert drop.training is False
    assert drop.train() is drop
    assert drop.training is True
    assert drop.train(False) is drop
    assert drop.training is False


def test_the_mask_is_that_of_the_last_call() -> None:
    """Would catch a mask that outlives its call: an evaluation has none."""
    drop = layer(0.3)
    assert drop.mask is None
    x = np.ones((4, 500))
    y = drop(x)
    np.testing.assert_array_equal(drop.mask.to_numpy(), y != 0)
    drop.p = 0.0
    drop(x)
    assert drop.mask.p == 0.0
    assert drop.mask.shape == (4, 500)
    drop.eval()(x)
    assert drop.mask is None


def test_layers_agree_on_a_seed_and_differ_on_a_generator() -> None:
    x = np.ones(500)
    assert_same(fd.Dropout(rng=3)(x), fd.Dropout(rng=3)(x))
    rng = np.random.default_rng(3)
    first, second = fd.Dropout(rng=rng), fd.Dropout(rng=rng)
    assert first.key != second.key
    assert first.key == fd.Key(3)
    assert fd.Dropout().key != fd.Dropout().key


# --- Backward ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_uses_the_mask_of_its_call(
    level: str, dtype: np.dtype[Any], mode: str, p: float
) -> None:
    drop = layer(p, mode=mode, broadcast_dims=(2,))
    x, dy = values((3, 40, 50), dtype, seed=1), values((3, 40, 50), dtype, seed=2)
    for call in range(2):
        expected = [
            ref.dropout(array, p, call_key(call), mode=mode, broadcast_dims=(2,))
            for array in (x, dy)
        ]
        assert_same(drop(x), expected[0] if p else x)
        for _ in range(2):  # it may be asked for twice
            assert_same(drop.backward(dy), expected[1] if p else dy)


def test_backward_of_evaluation_does_not_mask() -> None:
    x, dy = values((50,), np.float32, seed=1), values((50,), np.float32, seed=2)
    inverted, standard = layer(0.3), layer(0.3, mode="standard")
    for drop in (inverted, standard):
        drop(x)
        drop.eval()(x)
    assert inverted.backward(dy) is dy
    assert_same(standard.backward(dy), ref.multiply(dy, 1.0 - 0.3))


def test_backward_follows_the_call_and_not_the_switch() -> None:
    """Would catch a backward that reads p and the training flag as they are now."""
    x, dy = values((50,), np.float32, seed=1), values((50,), np.float32, seed=2)
    drop = layer(0.3)
    drop(x)
    drop.eval()
    drop.p = 0.9
    assert_same(drop.backward(dy), ref.dropout(dy, 0.3, call_key(0)))


def test_backward_goes_by_logical_index_in_any_layout() -> None:
    drop = layer(0.3)
    dy = values((30, 40), np.float32)
    drop(np.asfortranarray(np.ones((30, 40), np.float32)))
    assert_same(drop.backward(np.asfortranarray(dy)), ref.dropout(dy, 0.3, call_key(0)))


# --- In place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "standard"])
def test_in_place_writes_into_x(level: str, mode: str) -> None:
    numbers = values(SHAPE, np.float32)
    drop = layer(0.3, inplace=True, mode=mode)
    x = numbers.copy()
    assert drop(x) is x
    assert_same(x, ref.dropout(numbers, 0.3, call_key(0), mode=mode))
    x = numbers.copy()
    assert drop.eval()(x) is x
    assert_same(x, ref.dropout(numbers, 0.3, KEY, mode=mode, training=False))


def test_in_place_refuses_read_only_and_overlapping_arrays() -> None:
    read_only = np.ones((3, 4))
    read_only.flags.writeable = False
    row = np.ones(4)
    broadcast = np.broadcast_to(row, (3, 4))
    writeable = np.lib.stride_tricks.as_strided(row, (3, 4), (0, 8))
    for x in (read_only, broadcast, writeable):
        with pytest.raises(ValueError, match="in place"):
            layer(inplace=True)(x)
        assert (x == 1.0).all()
    with pytest.raises(TypeError):
        layer(inplace=True)([1.0, 2.0])


# --- Hold ----------------------------------------------------------------------------------------


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


def test_only_a_held_layer_is_a_context_manager() -> None:
    with pytest.raises(RuntimeError, match="held"), fd.Dropout():
        pass


# --- State ---------------------------------------------------------------------------------------


GOOD = {
    "stream": 2, "key": bytes(16).hex(), "calls": 9, "held": False, "held_call": False, "p": 0.25
}  # fmt: skip


def test_a_saved_state_resumes_where_it_was() -> None:
    x = np.ones(500)
    drop = layer(0.3)
    drop(x)
    state = drop.state_dict()
    assert state == {**GOOD, "key": KEY.hex(), "calls": 1, "p": 0.3}
    assert json.loads(json.dumps(state)) == state
    expected = drop(x)
    other = fd.Dropout(0.9, rng=77)
    other.load_state_dict(state)
    assert_same(other(x), expected)
    assert other.p == 0.3
    assert state["calls"] == 1


# --- Parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calls", "mask"])
def test_calls_and_mask_are_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(layer(), name, 1)


def test_the_repr_shows_what_is_not_default() -> None:
    assert repr(fd.Dropout()) == "Dropout(p=0.5, inplace=False)"
    assert repr(fd.Dropout(0.1, True)) == "Dropout(p=0.1, inplace=True)"
    odd = repr(fd.Dropout(0.1, mode="standard", broadcast_dims=(1, 2)))
    assert odd == "Dropout(p=0.1, inplace=False, mode='standard', broadcast_dims=(1, 2))"


def test_in_place_returns_the_very_array_even_a_subclass() -> None:
    class Sub(np.ndarray):
        pass

    x = np.ones(8, np.float32).view(Sub)
    assert fd.Dropout(0.5, inplace=True, rng=0)(x) is x


def test_a_subclass_with_its_own_constructor_works() -> None:
    """Would catch a repr that takes every parameter for an attribute."""

    class Scheduled(fd.Dropout):
        def __init__(self, rates: list[float], **options: Any) -> None:
            super().__init__(rates[0], **options)

    drop = Scheduled([0.25, 0.5], mode="standard", rng=as_key(KEY))
    assert repr(drop).startswith("Scheduled(p=0.25")
    x = values((300,), np.float32)
    assert_same(drop.forward(x), ref.dropout(x, 0.25, call_key(0), mode="standard"))


def test_a_handler_that_calls_the_layer_in_any_step_of_a_call_leaves_one_of_both() -> None:
    """A tracer stands for the handler: it comes before instruction n of the layers' modules."""
    layer = fd.DropoutAdd(0.5, rng=0)
    files = {
        import_module(f"fastdrop.{name}").__file__ for name in ("_base.layers", "_family.fused")
    }
    outer, inner = np.ones((2, 3)), np.ones((4, 3))

    def meets(at: int) -> bool:
        """Return whether there is such an instruction."""
        came, steps = False, itertools.count()

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal came
            if frame.f_code.co_filename not in files:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(steps) == at:
                came = True
                sys.settrace(None)
                layer(inner, np.ones((4, 1)))
            return trace

        sys.settrace(trace)
        try:
            layer(outer, np.ones(3))
        finally:
            sys.settrace(None)
        return came

    at = 0
    while meets(at):
        mask = layer.mask
        assert mask is not None
        of_residual = {(2, 3): (3,), (4, 3): (4, 1)}[mask.shape]
        dx, dresidual = layer.backward(np.ones(mask.shape))
        assert (dx.shape, dresidual.shape) == (mask.shape, of_residual)
        at += 1
    assert at > 50
