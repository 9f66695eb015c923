"""Training that is interrupted and resumed, and states that are not what they should be."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from members import MEMBERS, ROWS, Member
from support import LEVELS

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
