"""Arbitrary arguments and arbitrary sequences of calls: the right answer, or an exception.

`FASTDROP_EXAMPLES` is the number of examples of each test; the default takes about a minute.
"""

from __future__ import annotations

import contextlib
import decimal
import fractions
import inspect
import itertools
import json
import os
import pickle
import time
import warnings
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from members import ROWS
from support import as_key, assert_same, values

pytestmark = pytest.mark.once

EXAMPLES = int(os.environ.get("FASTDROP_EXAMPLES", "600"))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# --- Hostile arguments ---------------------------------------------------------------------------


class Lies:
    """Has an `__array__` that does not return an array, or another one at each call."""

    def __init__(self, *answers: Any) -> None:
        self.answers = itertools.cycle(answers)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __index__(self) -> Any:
        return next(self.answers)

    def __float__(self) -> Any:
        return next(self.answers)

    def __iter__(self) -> Any:
        return self.answers

    def __len__(self) -> int:
        return 3


class Interface:
    """Says by `__array_interface__` what NumPy must refuse."""

    def __init__(self, **lies: Any) -> None:
        memory = np.zeros(8, np.float32)
        self.memory = memory
        self.__array_interface__ = {**memory.__array_interface__, **lies}


class Matrix(np.matrix):
    """A matrix that is made without NumPy's warning."""


class Sub(np.ndarray):
    """A subclass of arrays that changes what it is when it is looked at."""

    def __array_finalize__(self, obj: Any) -> None:
        self.seen = getattr(obj, "seen", 0) + 1


def hostile() -> list[Any]:
    """Return values that no argument wants, or that are wrong for most."""
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    overlapping = np.lib.stride_tricks.as_strided(base, (4, 5), (4, 4))
    unaligned = np.zeros(97, np.uint8)[1:].view(np.float32)
    return [
        None, True, False, 0, -1, 2, 3, 10**400, -(10**400), 2**63, 2**64, 1.5, -0.0, 0.3, 1.0,
        float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, 1j, "", "0.5", "inverted", b"x",
        decimal.Decimal("0.3"), decimal.Decimal("NaN"), decimal.Decimal("sNaN"),
        fractions.Fraction(1, 3), fractions.Fraction(10**400, 3), np.float16(0.3), np.bool_(True),
        np.longdouble("0.3"), np.datetime64("2020"), np.str_("a"), (), [], {}, set(), (0,), [0, 1],
        [[0.5]], (1, 2, 3), ("a",), [None], [[1.0, 2.0], [3.0]], range(5), range(10**12),
        itertools.count(), itertools.repeat(1), iter([]), object(), object, print, ..., slice(3),
        memoryview(b"12345678"), bytearray(8), np.array(0.3), np.array([0.3]), np.array([0.3, 0.4]),
        np.zeros(0, np.float32), np.zeros((0, 3), np.float32), np.ones((1,) * 64, np.float32),
        np.ones((2,) * 12, np.float32).T, base, base[::-1, :, ::2], base.T, overlapping, unaligned,
        np.broadcast_to(np.float32(1), (3, 50)), np.broadcast_to(np.float32(1), (1 << 12, 1 << 9)),
        base.astype(">f4"), base.astype(np.int32), base.astype(bool), base.astype(object),
        base.astype("S3"), base.astype(np.longdouble), base.astype([("a", "f4")]),
        np.array(["2020"], "M8[D]"), np.ma.masked_array([1.0], [True]), base[0].view(Matrix),
        np.full((3, 50), np.float32("nan")), np.array([0x7F800001], np.uint32).view(np.float32),
        base.view(Sub), Lies(base, base[0]), Lies(1), Lies(ValueError("no")), Lies(None, "x"),
        Lies(np.zeros(0)), Interface(shape=(1 << 40,)), Interface(strides=(3,)),
        Interface(typestr="<f3"), Interface(data=None), Interface(shape="x"),
        fd.Key(0), fd.Mask((3, 50), 0.5, fd.Key(0)), fd.Mask(2**40, 0.5, fd.Key(0)),
        fd.Mask((), 0.5, fd.Key(0)), fd.Dropout(), itertools.repeat(fd.Dropout()),
        np.random.default_rng(0), np.random.PCG64(0), np.random.SeedSequence(0),
        np.random.RandomState(0),
    ]  # fmt: skip


COUNT = len(hostile())
ALLOWED = (TypeError, ValueError, MemoryError)
"""What a call may raise. Anything else that is raised is a bug."""


def snapshot(arguments: Any) -> list[tuple[Any, bytes]]:
    """Return the bytes of all arrays among arguments."""
    arrays = [one for one in arguments if isinstance(one, np.ndarray) and one.size < 10**6]
    return [(one, one.tobytes()) for one in arrays if one.dtype != object]


@thorough
@given(row=st.sampled_from(ROWS), data=st.data())
def test_a_function_answers_or_refuses_and_touches_nothing(row: Any, data: Any) -> None:
    things = hostile()
    names = list(inspect.signature(row.function).parameters)
    inputs = row.inputs()
    if row.layer is fd.DropConnectLinear:
        inputs += (row.make().weight, None)
    arguments = {**dict(zip(names, inputs, strict=False)), **row.options, "rng": 3}
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        arguments[name] = things[data.draw(st.integers(0, COUNT - 1))]
    note(f"{row.function.__name__}{arguments}")
    out = arguments.get("out")
    before = snapshot(one for one in arguments.values() if one is not out)
    kept = out.tobytes() if isinstance(out, np.ndarray) and out.dtype != object else None
    start = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("ignore")
        try:
            row.function(**arguments)
        except ALLOWED as error:
            refusal: Exception | None = error
        else:
            refusal = None
    if refusal is not None:
        assert str(refusal) or isinstance(refusal, MemoryError)
        assert kept is None or out.tobytes() == kept
    assert time.perf_counter() - start < 20
    shares = isinstance(out, np.ndarray)
    for array, content in before:
        assert array.tobytes() == content or (shares and np.shares_memory(array, out))


@thorough
@given(
    name=st.sampled_from(
        ["Mask", "Key", "Key.from_bytes", "region", "fold_in", "split", "apply", "seed", "schedule",
         "rates", "bernoulli", "threads", "MonteCarlo", "PSchedule", "BlockMask", "PatchMask",
         "ConcreteMask", "BitGenerator", "state"]
    ),
    data=st.data(),
)  # fmt: skip
def test_constructors_and_methods_answer_or_refuse(name: str, data: Any) -> None:
    things = hostile()

    def draw() -> Any:
        return things[data.draw(st.integers(0, COUNT - 1))]

    mask = fd.Mask((3, 50), 0.5, fd.Key(0))
    calls = {
        "Mask": lambda: fd.Mask(draw(), draw(), data.draw(st.sampled_from([fd.Key(0), draw()]))),
        "Key": lambda: fd.Key(draw()),
        "Key.from_bytes": lambda: fd.Key.from_bytes(draw()),
        "region": lambda: mask.region(draw(), draw()),
        "fold_in": lambda: fd.Key(0).fold_in(draw()),
        "split": lambda: fd.Key(0).split(draw()),
        "apply": lambda: mask.apply(draw(), draw(), scale=draw()),
        "seed": lambda: fd.Dropout(draw(), draw(), mode=draw(), broadcast_dims=draw(), rng=draw()),
        "schedule": lambda: fd.schedules.Linear(draw(), draw(), draw())(draw()),
        "rates": lambda: fd.drop_path_rates(draw(), draw(), stagewise=draw()),
        "bernoulli": lambda: fd.bernoulli(draw(), draw(), rng=draw()),
        "threads": lambda: fd.threads(draw()),
        "MonteCarlo": lambda: fd.MonteCarlo(abs, draw(), shared=draw(), rng=draw()),
        "PSchedule": lambda: fd.PSchedule(fd.Dropout(), abs, factors=draw()),
        "BlockMask": lambda: fd.BlockMask(mask, draw(), draw()),
        "PatchMask": lambda: fd.PatchMask(draw(), draw(), fd.Key(0), draw(), draw()),
        "ConcreteMask": lambda: fd.ConcreteMask(draw(), draw(), draw(), fd.Key(0)),
        "BitGenerator": lambda: fd.BitGenerator(draw()).advance(draw()).jumped(draw()),
        "state": lambda: setattr(
            fd.BitGenerator(0),
            "state",
            {
                "bit_generator": "BitGenerator",
                "state": {"key": fd.Key(0), "position": draw()},
                "has_uint32": draw(),
                "uinteger": draw(),
            },
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(*ALLOWED):
            calls[name]()


@pytest.mark.parametrize("rng", [range(10**12), np.zeros(2**21, int)], ids=["range", "array"])
def test_a_seed_that_would_take_all_memory_is_refused(rng: Any) -> None:
    with pytest.raises(ValueError, match="rng must be a Key, an int"):
        fd.dropout(np.ones(3), rng=rng)


@pytest.mark.parametrize("n", [2**50, 2**62, 2**63, 2**64 - 1])
def test_more_keys_than_fit_into_memory_are_a_memory_error(n: int) -> None:
    with pytest.raises(MemoryError):
        fd.Key(0).split(n)


def test_endless_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be at most 100000 arrays, got more"):
        fd.weight_drop(itertools.repeat(np.ones(3)), rng=0)


# --- Sequences of calls --------------------------------------------------------------------------


class Training(RuleBasedStateMachine):
    """A layer beside a model of what it should be: a key, a count, p, and whether it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.key = bytes(range(16))
        self.layer = fd.Dropout(0.4, rng=as_key(self.key))
        self.p, self.calls, self.held, self.held_call, self.training = 0.4, 0, False, False, True
        self.last: tuple[bytes, float] | None = None
        self.saved: tuple[Any, ...] | None = None

    def number(self) -> int:
        """Return the number of a training call, and count it; calls in a hold count at its end."""
        if self.held:
            self.held_call = True
            return self.calls
        self.calls += 1
        return self.calls - 1

    @rule(
        length=st.integers(0, 300),
        seed=st.integers(0, 99),
        given=st.sampled_from([None, True, False]),
    )
    def call(self, length: int, seed: int, given: bool | None) -> None:
        x = values((length,), np.float32, seed)
        y = self.layer(x, training=given)
        if self.training if given is None else given:
            child = ref.fold_in(self.key, self.number())
            assert_same(y, ref.dropout(x, self.p, child) if self.p else x)
            self.last = child, self.p
        else:
            assert y is x
            self.last = b"", 0.0

    @precondition(lambda self: self.last is not None)
    @rule()
    def backward(self) -> None:
        assert self.last is not None
        x = self.layer.mask
        child, p = self.last
        shape = self.layer._last.plan_and_inputs[0].recipe.shape if x is not None else None
        if shape is None:
            return
        dy = np.ones(shape, np.float32)
        assert_same(self.layer.backward(dy), ref.dropout(dy, p, child) if p else dy)

    @rule(bad=st.sampled_from([np.arange(3), "x", None, [[1.0], [1.0, 2.0]], 1 + 2**70]))
    def refuse(self, bad: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            self.layer(bad)

    @rule(p=st.sampled_from([0.0, 0.25, 0.4, 1.0]))
    def set_p(self, p: float) -> None:
        self.layer.p = self.p = p

    @rule(p=st.sampled_from([2.0, None, "a", float("nan")]))
    def refuse_p(self, p: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            self.layer.p = p

    @rule(data=st.binary(min_size=16, max_size=16))
    def set_key(self, data: bytes) -> None:
        self.layer.key = as_key(data)
        self.key, self.calls, self.held, self.held_call = data, 0, False, False

    @rule(mode=st.booleans())
    def switch(self, mode: bool) -> None:
        self.layer.train(mode)
        self.training = mode

    @rule()
    def hold(self) -> None:
        self.layer.hold()
        if not self.held:
            self.held, self.held_call = True, False

    @rule()
    def release(self) -> None:
        self.layer.release()
        self.calls += self.held_call
        self.held = self.held_call = False

    @rule()
    def save(self) -> None:
        state = json.loads(json.dumps(self.layer.state_dict()))
        self.saved = state, self.key, self.p, self.calls, self.held, self.held_call

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        assert self.saved is not None
        state, self.key, self.p, self.calls, self.held, self.held_call = self.saved
        self.layer.load_state_dict(state)
        self.last = None

    @rule()
    def copy(self) -> None:
        self.layer = pickle.loads(pickle.dumps(self.layer))
        self.last = None

    @invariant()
    def agrees(self) -> None:
        assert bytes(self.layer.key) == self.key
        assert self.layer.calls == self.calls
        assert self.layer.p == self.p
        assert self.layer.training == self.training


Training.TestCase.settings = settings(
    max_examples=max(20, EXAMPLES // 10), stateful_step_count=40, deadline=None
)
TestTraining = Training.TestCase
