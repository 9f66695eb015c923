"""A key's words as a bit generator of NumPy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference

KEY = fd.Key(7)


def generator(seed: Any = KEY) -> np.random.Generator:
    return np.random.Generator(fd.BitGenerator(seed))


def test_words_are_those_of_the_stream() -> None:
    words = reference.words(bytes(KEY), 300)
    np.testing.assert_array_equal(fd.BitGenerator(KEY).random_raw(300), words)
    np.testing.assert_array_equal(generator().random(300), (words >> 11) * 2.0**-53)
    halves = np.stack([words & 0xFFFFFFFF, words >> 32], axis=1).reshape(-1)
    drawn = generator().integers(0, 2**32, 600, dtype=np.uint32)
    np.testing.assert_array_equal(drawn, halves)


def test_a_seed_is_that_of_a_key() -> None:
    assert fd.BitGenerator(7).random_raw() == fd.BitGenerator(KEY).random_raw()
    assert fd.BitGenerator().random_raw() != fd.BitGenerator().random_raw()
    with pytest.raises(TypeError, match=r"seed must be an int .*, got 'one'"):
        fd.BitGenerator("one")  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", [0, 1, 63, 64, 65, 129])
def test_state_and_copies_continue_where_it_was_taken(drawn: int) -> None:
    rng = generator()
    rng.random(drawn)
    rng.integers(0, 2**32, 3, dtype=np.uint32)  # leaves half a word
    state = rng.bit_generator.state
    copies = [copy.deepcopy(rng), pickle.loads(pickle.dumps(rng)), generator(0)]
    copies[-1].bit_generator.state = state
    expected = rng.integers(0, 2**32, 100, dtype=np.uint32)
    for other in copies:
        drawn_again = other.integers(0, 2**32, 100, dtype=np.uint32)
        np.testing.assert_array_equal(drawn_again, expected)


def test_advance_skips_words_in_both_directions() -> None:
    words = fd.BitGenerator(KEY).random_raw(500)
    bits = fd.BitGenerator(KEY)
    for step, position in ((3, 3), (400, 403), (-403, 0), (-1, -1), (1, 0), (2**65, 0), (64, 64)):
        assert bits.advance(step) is bits
        assert position == -1 or bits.state["state"]["position"] == position
    assert bits.random_raw() == words[64]


def test_jumps_are_of_2_to_the_48_words_and_leave_the_generator() -> None:
    bits = fd.BitGenerator(KEY)
    bits.random_raw(5)
    far = bits.jumped(3)
    assert far.state["state"]["position"] == 3 * 2**48 + 5
    assert bits.state["state"]["position"] == 5
    assert far.random_raw() == fd.BitGenerator(KEY).advance(3 * 2**48 + 5).random_raw()


def test_children_differ_and_follow_from_the_key() -> None:
    first, second = (bits.random_raw() for bits in fd.BitGenerator(KEY).spawn(2))
    assert first != second
    parent = fd.BitGenerator(KEY)
    assert parent.spawn(1)[0].random_raw() == first
    assert pickle.loads(pickle.dumps(parent)).spawn(1)[0].random_raw() == second
    assert parent.spawn(1)[0].random_raw() == second


def test_legacy_generators_and_distributions_draw_from_it() -> None:
    old = np.random.RandomState(fd.BitGenerator(KEY))  # type: ignore[arg-type]
    assert 0.45 < old.random_sample(2000).mean() < 0.55
    x = generator().standard_normal(100_000)
    assert abs(x.mean()) < 0.015
    assert abs(x.std() - 1) < 0.015


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (3, TypeError, "state must be a dict, got 3"),
        ({"bit_generator": "PCG64"}, ValueError, "must be for a BitGenerator, got 'PCG64'"),
        ({"state": {"key": 1, "position": 0}}, TypeError, "key must be a Key, got 1"),
        ({"state": {"key": KEY}}, ValueError, "must have a key and a position"),
        ({"state": {"key": KEY, "position": 2**65}}, ValueError, "position must be below"),
        ({"state": {"key": KEY, "position": -1}}, ValueError, "position must be"),
    ],
)
def test_a_bad_state_gets_a_sentence_and_changes_nothing(
    state: Any, error: type[Exception], text: str
) -> None:
    bits = fd.BitGenerator(KEY)
    bits.random_raw(3)
    before = bits.state
    if isinstance(state, dict):
        state = before | state
    with pytest.raises(error, match=text):
        bits.state = state
    assert bits.state == before
