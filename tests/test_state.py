"""Training that is interrupted and resumed, and states that are not what they should be."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from members import MEMBERS, ROWS, Member
from support import LEVELS
from test_fuzz import ALLOWED, hostile

pytestmark = pytest.mark.once
every_member = pytest.mark.parametrize("member", MEMBERS)

STEPS = 6
LARGE = (1 << 20) + 5
"""More elements than a call keeps to one thread."""

# Loads the layers, trains on, and prints the digest of every result.
RESUMED = """
import pickle, sys
sys.path.insert(0, {tests!r})
from test_state import digests
layers, first = pickle.loads(open({file!r}, "rb").read())
if {state!r}:
    import json
    from test_state import new_layers
    states, layers = json.loads(open({state!r}).read()), new_layers(seed=99)
    for layer, state in zip(layers, states):
        layer.load_state_dict(state)
print(*digests(layers, first))
"""


def trained(member: Member) -> bool:
    """Return whether the state of a member fits into JSON: weights are arrays."""
    return member.layer is not fd.DropConnectLinear


def new_layers(seed: int = 0) -> list[Any]:
    """Return a layer of every member, and one whose calls are shared among threads."""
    rows = [row for row in ROWS if trained(row)]
    return [row.make(rng=seed + n) for n, row in enumerate(rows)] + [fd.Dropout(0.1, rng=seed)]


def digests(layers: list[Any], first: int, last: int = STEPS) -> list[str]:
    """Train from one step to another: the hash of all results of each."""
    import hashlib

    inputs = [row.inputs() for row in ROWS if trained(row)] + [(np.ones(LARGE, np.float32),)]
    found = []
    for step in range(first, last):
        total = hashlib.blake2b(str(step).encode(), digest_size=16)
        for layer, arrays in zip(layers, inputs, strict=True):
            if step % 3 == 2:
                layer.hold()
            results = [layer(*arrays), layer(*arrays)]
            layer.release()
            for result in results:
                flat = result if isinstance(result, list | tuple) else [result]
                for array in flat:
                    total.update(array.tobytes())
        found.append(total.hexdigest())
    return found


@pytest.mark.parametrize("form", ["pickle", "state"])
def test_training_resumes_in_another_process_on_another_machine(form: str, tmp_path: Path) -> None:
    """At every step, at every SIMD level, and with other numbers of threads."""
    expected = digests(new_layers(), 0)
    layers = new_layers()
    for first in range(1, STEPS):
        assert digests(layers, first - 1, first) == expected[first - 1 : first]
        pickled, state = tmp_path / "layers", tmp_path / "state"
        pickled.write_bytes(pickle.dumps((layers, first)))
        state.write_text(json.dumps([layer.state_dict() for layer in layers]))
        level, threads = LEVELS[first % len(LEVELS)], 1 + first % 3
        code = RESUMED.format(
            tests=str(Path(__file__).parent),
            file=str(pickled),
            state=str(state) if form == "state" else "",
        )
        environment = {"FASTDROP_SIMD": level, "FASTDROP_NUM_THREADS": str(threads)}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.split() == expected[first:], (level, threads)


WRONG: dict[str, list[Any]] = {
    "stream": [1, "2", None, 2.5],
    "key": [None, 5, "", "ab", "x" * 32, "0" * 31, "0" * 34, b"0" * 32],
    "calls": [-1, 1.5, 2**64, "1", None],
    "held": [0, 1, None, "False"],
    "held_call": [0, None, "True"],
    "p": [-0.1, 1.5, float("nan"), "0.5", None, True, [0.5, 0.5]],
}


@every_member
def test_a_state_with_a_wrong_entry_changes_nothing(member: Member) -> None:
    layer = member.make()
    layer(*member.inputs())
    before = repr(layer.state_dict())
    good = member.make(rng=5).state_dict()
    for name, wrong in WRONG.items():
        if name not in good:
            continue
        for value in wrong:
            with pytest.raises((ValueError, TypeError), match=r"state|p must"):
                layer.load_state_dict({**good, name: value})
        with pytest.raises(ValueError, match=f"state must have the entry {name}"):
            layer.load_state_dict({key: value for key, value in good.items() if key != name})
    for foreign in ({}, {"weight": 1}, {**good, "momentum": 0.9}, [good], None, "state"):
        with pytest.raises((ValueError, TypeError), match="state must"):
            layer.load_state_dict(foreign)
    assert repr(layer.state_dict()) == before


@every_member
def test_every_prefix_of_a_pickle_is_refused(member: Member) -> None:
    layer = member.make()
    layer(*member.inputs())
    masks = layer.mask if isinstance(layer.mask, list) else [layer.mask]
    for thing in (layer, layer.key, *masks):
        data = pickle.dumps(thing)
        assert repr(pickle.loads(data)) == repr(thing)
        for length in range(len(data)):
            with pytest.raises((EOFError, pickle.UnpicklingError)):
                pickle.loads(data[:length])


@every_member
def test_a_pickle_of_another_stream_is_refused(member: Member) -> None:
    """Its layer would go on with other masks."""
    layer = member.make()
    state = layer.__getstate__()
    for other in ({**state, "_stream": 1}, {k: v for k, v in state.items() if k != "_stream"}):
        twin = member.make(rng=3)
        before = repr(twin.state_dict())
        with pytest.raises(ValueError, match="a pickled layer must be of stream 2, got"):
            twin.__setstate__(other)
        assert repr(twin.state_dict()) == before


# --- States that no program wrote ----------------------------------------------------------------

MASK = fd.Mask((2, 4), 0.3, fd.Key(0))
RECORDS: list[Any] = [
    fd.BlockMask(MASK, (2, 3), 0.5),
    fd.Noise(MASK),
    fd.PatchMask((2, 6), 0.5, fd.Key(2), 1, False),
    fd.ConcreteMask((6,), 0.5, 0.1, fd.Key(2)),
    fd.schedules.Constant(0.5),
    fd.schedules.Linear(0.0, 0.5, 3),
    fd.schedules.Early(0.5, 3, True),
    fd.schedules.Late(0.5, 3),
    fd.schedules.Curriculum(0.5, 0.1),
]


def unset(kind: Any, state: Any) -> Any:
    """Return an object as `pickle` makes it of a state."""
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made


def outcome(make: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what was made and None, or None and the error, which must be one that says why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(), None
    except ALLOWED as raised:
        error = raised
    assert str(error) or isinstance(error, MemoryError)
    return None, error


def knot() -> list[Any]:
    """Return a list that contains itself."""
    one: list[Any] = []
    one.append(one)
    return one


def wrong_values() -> Iterator[Any]:
    """Return values for an entry of a state, most of them wrong; iterators are new ones."""
    return itertools.chain(hostile(), [knot(), MASK, range(10**12), float("-inf"), (0, 2), (9, 9)])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_an_edited_pickle_of_a_recipe_is_read_as_the_constructor_would(record: Any) -> None:
    kind: Any = type(record)
    assert unset(kind, vars(record)) == record == copy.copy(record) == copy.deepcopy(record)
    for name in vars(record):
        for one, other in zip(wrong_values(), wrong_values(), strict=True):
            made, error = outcome(partial(kind, **{**vars(record), name: one}))
            read, refusal = outcome(partial(unset, kind, {**vars(record), name: other}))
            assert type(error) is type(refusal), (name, one)
            assert repr(read) == repr(made)
    for foreign in (None, 5, [record], knot()):
        before = repr(record)
        with pytest.raises(TypeError, match="state must be a mapping"):
            record.__setstate__(foreign)
        assert repr(record) == before


@every_member
def test_an_edited_pickle_of_a_layer_is_refused_or_works(member: Member) -> None:
    """An option is read as the constructor would read it."""
    layer = member.make()
    layer(*member.inputs())
    state = layer.__getstate__()
    kind: Any = type(layer)
    given = {name: state[name] for name in kind._options() if name in state}
    for name in state:
        for one, other in zip(wrong_values(), wrong_values(), strict=True):
            read, refusal = outcome(partial(unset, kind, {**state, name: one}))
            if name in given and member.layer is not fd.DropConnectLinear:
                made, error = outcome(partial(kind, p=0.4, **{**given, name: other}))
                assert (error is None) == (refusal is None), (name, one)
                assert error is not None or repr(read) == repr(made)
            if refusal is None:
                assert 0.0 <= read.p <= 1.0
                assert read.state_dict().keys() == layer.state_dict().keys()
                outcome(partial(read, *member.inputs()))
    for name in ("_keys", "_p", "training", *given):
        with pytest.raises(ValueError, match=f"state must have the entry {name}, got"):
            unset(kind, {key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize("wrong", [
    ("x", 0, False, False), (fd.Key(0), -1, False, False), (fd.Key(0), 2**64, False, False),
    (fd.Key(0), 1.5, False, False), (fd.Key(0), 0, 1, False), (fd.Key(0), 0, False, None),
    (fd.Key(0),), (), [fd.Key(0), 0, False, False], None, range(10**12),
])  # fmt: skip
def test_edited_keys_of_calls_are_refused(wrong: Any) -> None:
    state = fd.Dropout(rng=0).__getstate__()
    with pytest.raises((TypeError, ValueError), match=r"key must be a Key|of a state must|_keys"):
        unset(fd.Dropout, {**state, "_keys": wrong})


def test_a_call_that_no_hold_counted_is_not_read_from_a_pickle() -> None:
    state = fd.Dropout(rng=0).__getstate__()
    layer = unset(fd.Dropout, {**state, "_keys": (fd.Key(0), 3, False, True)})
    assert layer.release().calls == 3


def test_an_edited_pickle_of_a_schedule_or_a_run_is_refused_or_works() -> None:
    drop = fd.Dropout(rng=0)
    things = [
        fd.PSchedule(drop, fd.schedules.Constant(0.5)),
        fd.MonteCarlo(drop, {"a": drop}, rng=0),
    ]
    for thing in things:
        kind, state = type(thing), vars(thing)
        assert repr(unset(kind, state)) == repr(thing)
        for name in state:
            for one in wrong_values():
                read, refusal = outcome(partial(unset, kind, {**state, name: one}))
                if refusal is None and kind is fd.PSchedule:
                    outcome(read.step)
                    assert all(0.0 <= factor <= 1.0 for factor in read.factors)
                elif refusal is None and read.model is drop is read.layers[0]:
                    assert type(read.shared) is bool
                    assert read.samples(np.ones(3), 2).shape == (2, 3)
        for name in state.keys() - {"_layers"}:
            with pytest.raises(ValueError, match=f"state must have the entry {name}, got"):
                unset(kind, {key: value for key, value in state.items() if key != name})


def test_endless_layers_factors_and_states_are_refused() -> None:
    class Endless(Mapping[str, Any]):
        def __iter__(self) -> Iterator[str]:
            return map(str, itertools.count())

        def __len__(self) -> int:
            return 1

        def __getitem__(self, name: str) -> Any:
            return drop

    drop, always = fd.Dropout(rng=0), fd.schedules.Constant(0.5)
    with pytest.raises(ValueError, match="layers must be at most 100000, got more"):
        fd.PSchedule(itertools.repeat(drop), always)
    with pytest.raises(ValueError, match="layers must be at most 100000, got more"):
        fd.MonteCarlo(drop, Endless())
    with pytest.raises(ValueError, match="factors must have length 1, one per layer, got more"):
        fd.PSchedule(drop, always, factors=itertools.repeat(0.5))
    for thing in (drop, fd.PSchedule(drop, always)):
        with pytest.raises(ValueError, match="state must have at most 10000 entries, got more"):
            thing.load_state_dict(Endless())


@pytest.mark.parametrize(
    "kind",
    [*{row.layer: None for row in ROWS}, *map(type, RECORDS), fd.PSchedule, fd.MonteCarlo],
    ids=lambda kind: kind.__name__,
)
def test_an_object_that_was_never_made_is_refused_plainly(kind: Any) -> None:
    for name in dir(kind):
        if name in ("__class__", "__init__", "__init_subclass__", "__new__"):
            continue
        made = kind.__new__(kind)
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            attribute = getattr(made, name)
            if callable(attribute):
                attribute()
