"""The stream: the block, keys and single mask bits, against the reference and two outside oracles.

The outside oracles are the known answers published with Random123 and the `randomgen` package.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import fastdrop as fd
import make_vectors
import numpy as np
import pytest
import randomgen
import reference as ref
from fastdrop import _core
from numpy.typing import NDArray
from support import KEY, as_key

VECTORS = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))

KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def outside_planes(key: ref.Words, groups: range, plane: int) -> NDArray[np.bool_]:
    """One bit-plane of consecutive groups, from randomgen: it steps the counter, then draws."""
    k0, k1, n0, n1 = key
    counter = groups.start | plane << 56 | n0 << 64 | n1 << 96
    source = randomgen.Philox(counter=(counter - 1) % 2**128, key=k0 | k1 << 32, number=4, width=32)
    words = source.random_raw(4 * len(groups)).astype("<u4")
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)


# --- The block -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_the_block_is_not_philox4x32_10(counter: str, key: str, output: str) -> None:
    assert list(_core.philox(hexes(counter), hexes(key))) == hexes(output)
    assert [int(word) for word in ref.philox(hexes(counter), hexes(key))] == hexes(output)


def test_the_block_differs_from_the_reference_somewhere() -> None:
    rng = np.random.default_rng(1)
    for words in rng.integers(0, 2**32, size=(200, 6)).tolist():
        expected = [int(word) for word in ref.philox(words[:4], words[4:])]
        assert list(_core.philox(words[:4], words[4:])) == expected


@pytest.mark.parametrize("plane", [0, 1, 31, 63])
@pytest.mark.parametrize("first", [1, 2**24 - 1, 2**32 - 1, 2**56 - 3])
def test_the_reference_lays_out_counters_in_its_own_way(first: int, plane: int) -> None:
    groups = range(first, first + 2)
    indices = np.arange(256, dtype=np.uint64) + np.uint64(first * 128)
    bit = ref.uniforms(KEY, indices) >> np.uint64(63 - plane) & np.uint64(1)
    np.testing.assert_array_equal(bit.astype(np.bool_), outside_planes(KEY, groups, plane))


@pytest.mark.parametrize("first", [1, 2**24 - 1, 2**32 - 5, 2**40])
def test_one_bit_masks_are_not_the_bits_of_philox(level: str, first: int) -> None:
    """At p = 1/2, 1/4 and 3/4 the mask is plane 0, planes 0 or 1, and planes 0 and 1."""
    groups = range(first, first + 9)
    one, two = (outside_planes(KEY, groups, plane) for plane in (0, 1))
    for p, expected in [(0.5, one), (0.25, one | two), (0.75, one & two)]:
        whole = fd.Mask((2**56,), p, as_key(KEY))
        part = whole.region((first * 128,), (len(groups) * 128,))
        np.testing.assert_array_equal(part.to_numpy(), expected)


# --- Golden vectors ------------------------------------------------------------------------------


def test_the_committed_vectors_are_stale() -> None:
    assert make_vectors.PATH.read_bytes() == make_vectors.render(make_vectors.vectors()).encode()


@pytest.mark.parametrize("vector", VECTORS["philox"])
def test_golden_blocks(vector: dict[str, Any]) -> None:
    assert list(_core.philox(vector["counter"], vector["key"])) == vector["output"]


@pytest.mark.parametrize("vector", VECTORS["seeds"], ids=lambda v: v["seed"])
def test_golden_seeds(vector: dict[str, Any]) -> None:
    assert list(fd.Key(int(vector["seed"])).words) == vector["words"]


@pytest.mark.parametrize("vector", VECTORS["fold_in"], ids=lambda v: v["index"])
def test_golden_children_of_fold_in(vector: dict[str, Any]) -> None:
    child = as_key(vector["key"]).fold_in(int(vector["index"]))
    assert list(child.words) == vector["words"]


@pytest.mark.parametrize("vector", VECTORS["split"])
def test_golden_children_of_split(vector: dict[str, Any]) -> None:
    children = as_key(vector["key"]).split(len(vector["children"]))
    assert [list(child.words) for child in children] == vector["children"]


def test_golden_masks(level: str, threads: int) -> None:
    assert len(VECTORS["masks"]) > 100
    for vector in VECTORS["masks"]:
        whole = fd.Mask((2**63 - 1,), vector["p"], as_key(vector["key"]))
        start, count = int(vector["start_index"]), vector["count"]
        count = min(count, 2**63 - 1 - start)  # the very last index is no array's element
        expected = np.unpackbits(
            np.frombuffer(bytes.fromhex(vector["kept"]), dtype=np.uint8), bitorder="little"
        )[:count]
        actual = whole.region((start,), (count,)).to_numpy()
        np.testing.assert_array_equal(actual, expected.astype(np.bool_), err_msg=str(vector))


@pytest.mark.parametrize("vector", VECTORS["normals"], ids=lambda v: v["start_index"])
def test_golden_normals(level: str, vector: dict[str, Any]) -> None:
    """Through factors 1 + z; the Rust tests compare z itself."""
    whole = fd.Mask((2**63 - 1,), 0.5, as_key(vector["key"]))
    start, count = int(vector["start_index"]), vector["count"]
    count = min(count, 2**63 - 1 - start)
    bits = [int(vector["bits"][at : at + 16], 16) for at in range(0, 16 * count, 16)]
    z = np.array(bits, dtype=np.uint64).view(np.float64)
    drawn = fd.Noise(whole.region((start,), (count,))).to_numpy()
    np.testing.assert_array_equal(drawn, 1.0 + z)


# --- Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 2**40, [1, 2, 3], np.random.SeedSequence(5)])
def test_a_seed_gives_other_words_than_default_rng(seed: Any) -> None:
    assert fd.Key(copy.deepcopy(seed)).words == ref.words_from_seed(copy.deepcopy(seed))


@pytest.mark.parametrize("wrap", [lambda b: b, np.random.Generator], ids=["bits", "generator"])
@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.SFC64])
def test_a_generator_is_reseeded_or_not_advanced(kind: Any, wrap: Any) -> None:
    ours, theirs = wrap(kind(3)), np.random.Generator(kind(3))
    assert fd.Key(ours).words == ref.words_from_rng(theirs)
    assert fd.Key(ours).words == ref.words_from_rng(theirs), "the second key repeats the first"


def test_keys_without_a_seed_repeat() -> None:
    assert len({fd.Key().words for _ in range(8)}) == 8
    assert fd.Key(None) != fd.Key(None)


@pytest.mark.parametrize("index", [-1, 2**56, 2**64])
def test_fold_in_wraps_an_index_outside_56_bits(index: int) -> None:
    with pytest.raises(ValueError, match="index"):
        fd.Key(0).fold_in(index)


def test_split_accepts_a_negative_count() -> None:
    assert fd.Key(0).split(0) == []
    with pytest.raises(ValueError, match="n must be"):
        fd.Key(0).split(-1)


@pytest.mark.parametrize("words", [(-1, 0, 0, 0), (0, 2**32, 0, 0), (0, 0, 0, 2**64)])
def test_from_words_truncates_a_word(words: ref.Words) -> None:
    with pytest.raises(ValueError, match="must be"):
        fd.Key.from_words(*words)


@pytest.mark.parametrize("seed", ["seed", 1.5, object()])
def test_a_key_is_made_of_nonsense(seed: Any) -> None:
    with pytest.raises(TypeError):
        fd.Key(seed)


def test_a_negative_seed_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"non-negative|must be"):
        fd.Key(-1)


def test_children_collide() -> None:
    """Parent, fold_in and split families are apart: 1 + 300 + 300 keys, all different."""
    parent = fd.Key(9)
    family = [parent, *(parent.fold_in(i) for i in range(300)), *parent.split(300)]
    assert len({key.words for key in family}) == len(family)


def test_keys_change_identity_when_copied_or_pickled() -> None:
    key = as_key(KEY)
    assert key.words == KEY
    for twin in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert twin == key
        assert hash(twin) == hash(key)
        assert twin.words == KEY
    assert eval(repr(key), {"Key": fd.Key}) == key
    assert key != as_key((1, 2, 3, 4))
    assert key != KEY


def test_a_key_can_be_changed() -> None:
    key = as_key(KEY)
    with pytest.raises(AttributeError):
        key.words = (1, 2, 3, 4)  # type: ignore[misc]


# --- Uniforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 129, 8193])
def test_uniforms_have_their_digits_in_another_order(level: str, threads: int, size: int) -> None:
    drawn = _core.uniforms(size, as_key(KEY))
    np.testing.assert_array_equal(drawn, ref.uniforms(KEY, np.arange(size)))


def test_uniforms_of_many_elements_start_again() -> None:
    """Past one look at the interrupt, the elements keep their indices."""
    size = (1 << 20) + 300
    drawn = _core.uniforms((2, size // 2), as_key(KEY)).reshape(-1)
    last = np.arange(size - 400, size)
    np.testing.assert_array_equal(drawn[last], ref.uniforms(KEY, last))
