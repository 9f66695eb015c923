"""The stream: the block, keys and single mask bits, against the reference and outside oracles.

These are the known answers published with Random123, and the AES of the `cryptography` package.
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
import reference as ref
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fastdrop import _core
from support import KEY, as_key

VECTORS = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))

# Rounds, counter, key and block, as 32-bit words.
KNOWN_ANSWERS = [
    (7, "00000001 00000000 00000000 00000000", "00000001 00000000 00000000 00000000",
     "3523162b dc14d20c 79184077 72184193"),
    (7, "886a3f24 d308a385 2e8a1913 44737003", "00000000 00000000 00000000 80000000",
     "31e3f0cc 92d1e3cc a2fdaa6c 902c741b"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0 082efa98 ec4e6c89",
     "a516e7d6 8357ad74 5b59b3ec 8763fff3"),
]  # fmt: skip


def from_words(text: str) -> bytes:
    return np.array([int(word, 16) for word in text.split()], dtype="<u4").tobytes()


def as_block(data: bytes) -> ref.Bytes:
    return np.frombuffer(data, dtype=np.uint8)


# --- The block -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "counter", "key", "block"), KNOWN_ANSWERS)
def test_the_block_is_that_of_random123(rounds: int, counter: str, key: str, block: str) -> None:
    expected = from_words(block)
    drawn = ref.ars(from_words(key), as_block(from_words(counter)), rounds)
    assert drawn.tobytes() == expected
    if rounds == ref.ROUNDS:
        assert bytes(_core.ars(from_words(key), from_words(counter))) == expected


def test_the_rounds_of_the_reference_are_those_of_aes() -> None:
    """Ten of them, under the round keys of FIPS 197, are AES-128 as an outside package has it."""
    rng = np.random.default_rng(1)
    key, blocks = rng.bytes(16), as_block(rng.bytes(16 * 256)).reshape(-1, 16)
    words = [as_block(key[at : at + 4]) for at in range(0, 16, 4)]
    constant = 1
    for i in range(4, 44):
        word = words[i - 1]
        if i % 4 == 0:
            word = ref.SBOX[np.roll(word, -1)]
            word[0] ^= constant
            constant = ref.double(constant)
        words.append(words[i - 4] ^ word)
    round_keys = np.concatenate(words).reshape(11, 16)
    state = blocks ^ round_keys[0]
    for round_key in round_keys[1:-1]:
        state = ref.mix_columns(ref.SBOX[state][..., ref.SHIFTED]) ^ round_key
    state = ref.SBOX[state][..., ref.SHIFTED] ^ round_keys[-1]
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    assert state.tobytes() == encryptor.update(blocks.tobytes())


def test_the_block_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        key, counter = rng.bytes(16), rng.bytes(16)
        assert bytes(_core.ars(key, counter)) == ref.ars(key, as_block(counter)).tobytes()


@pytest.mark.parametrize("first", [1, 2**32 - 5, 2**40])
def test_masks_of_few_digits_are_logical_functions_of_planes(level: str, first: int) -> None:
    """At p = 1/2, 1/4 and 3/4 the mask is plane 0, planes 0 or 1, and planes 0 and 1."""
    groups = np.uint64(first) + np.arange(9, dtype=np.uint64)
    one, two = (
        np.unpackbits(ref.block(KEY, groups, plane), bitorder="little").astype(np.bool_)
        for plane in (0, 1)
    )
    for p, expected in [(0.5, one), (0.25, one | two), (0.75, one & two)]:
        whole = fd.Mask((2**56,), p, as_key(KEY))
        part = whole.region((first * 128,), (len(groups) * 128,))
        np.testing.assert_array_equal(part.to_numpy(), expected)


# --- Golden vectors ------------------------------------------------------------------------------


def test_the_committed_vectors_are_up_to_date() -> None:
    assert make_vectors.PATH.read_bytes() == make_vectors.render(make_vectors.vectors()).encode()


@pytest.mark.parametrize("vector", VECTORS["ars"])
def test_blocks_match_golden_vectors(vector: dict[str, Any]) -> None:
    key, counter = bytes.fromhex(vector["key"]), bytes.fromhex(vector["counter"])
    assert bytes(_core.ars(key, counter)).hex() == vector["block"]


@pytest.mark.parametrize("vector", VECTORS["seeds"], ids=lambda v: v["seed"])
def test_seeds_match_golden_vectors(vector: dict[str, Any]) -> None:
    assert bytes(fd.Key(int(vector["seed"]))).hex() == vector["key"]


@pytest.mark.parametrize("vector", VECTORS["fold_in"], ids=lambda v: v["index"])
def test_children_of_fold_in_match_golden_vectors(vector: dict[str, Any]) -> None:
    child = as_key(bytes.fromhex(vector["key"])).fold_in(int(vector["index"]))
    assert bytes(child).hex() == vector["child"]


@pytest.mark.parametrize("vector", VECTORS["split"])
def test_children_of_split_match_golden_vectors(vector: dict[str, Any]) -> None:
    children = as_key(bytes.fromhex(vector["key"])).split(len(vector["children"]))
    assert [bytes(child).hex() for child in children] == vector["children"]


def test_masks_match_golden_vectors(level: str) -> None:
    assert len(VECTORS["masks"]) > 100
    for vector in VECTORS["masks"]:
        whole = fd.Mask((2**63 - 1,), vector["p"], as_key(bytes.fromhex(vector["key"])))
        start, count = int(vector["start_index"]), vector["count"]
        count = min(count, 2**63 - 1 - start)  # no array has an element at the very last index
        expected = np.unpackbits(
            np.frombuffer(bytes.fromhex(vector["kept"]), dtype=np.uint8), bitorder="little"
        )[:count]
        actual = whole.region((start,), (count,)).to_numpy()
        np.testing.assert_array_equal(actual, expected.astype(np.bool_), err_msg=str(vector))


@pytest.mark.parametrize("vector", VECTORS["normals"], ids=lambda v: v["start_index"])
def test_normals_match_golden_vectors(level: str, vector: dict[str, Any]) -> None:
    """Through factors 1 + z; the Rust tests compare z itself."""
    whole = fd.Mask((2**63 - 1,), 0.5, as_key(bytes.fromhex(vector["key"])))
    start, count = int(vector["start_index"]), vector["count"]
    count = min(count, 2**63 - 1 - start)
    bits = [int(vector["bits"][at : at + 8], 16) for at in range(0, 8 * count, 8)]
    z = np.array(bits, dtype=np.uint32).view(np.float32).astype(np.float64)
    drawn = fd.Noise(whole.region((start,), (count,))).to_numpy()
    np.testing.assert_array_equal(drawn, 1.0 + z)


# --- Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 2**40, [1, 2, 3], np.random.SeedSequence(5)])
def test_a_seed_is_used_as_default_rng_does(seed: Any) -> None:
    assert bytes(fd.Key(copy.deepcopy(seed))) == ref.key_from_seed(copy.deepcopy(seed))


@pytest.mark.parametrize("wrap", [lambda b: b, np.random.Generator], ids=["bits", "generator"])
@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.SFC64])
def test_a_generator_is_advanced_by_two_draws(kind: Any, wrap: Any) -> None:
    ours, theirs = wrap(kind(3)), np.random.Generator(kind(3))
    assert bytes(fd.Key(ours)) == ref.key_from_rng(theirs)
    assert bytes(fd.Key(ours)) == ref.key_from_rng(theirs), "the second key repeats the first"


def test_keys_without_a_seed_differ() -> None:
    assert len({fd.Key() for _ in range(8)}) == 8
    assert fd.Key(None) != fd.Key(None)


@pytest.mark.parametrize("index", [-1, 2**64])
def test_fold_in_refuses_an_index_outside_64_bits(index: int) -> None:
    with pytest.raises(ValueError, match="index"):
        fd.Key(0).fold_in(index)


def test_split_refuses_a_negative_count() -> None:
    assert fd.Key(0).split(0) == []
    with pytest.raises(ValueError, match="n must be"):
        fd.Key(0).split(-1)


@pytest.mark.parametrize("data", [bytes(15), bytes(17), b""])
def test_from_bytes_refuses_another_length(data: bytes) -> None:
    with pytest.raises(ValueError, match="data must be 16 bytes, got b"):
        fd.Key.from_bytes(data)


@pytest.mark.parametrize("data", [None, "0" * 16, bytearray(16), [0] * 16])
def test_from_bytes_refuses_what_is_not_bytes(data: Any) -> None:
    with pytest.raises(TypeError, match="data must be 16 bytes, got"):
        fd.Key.from_bytes(data)


@pytest.mark.parametrize("seed", ["seed", 1.5, object()])
def test_a_seed_of_another_type_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be"):
        fd.Key(seed)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed must be an int >= 0.* got -1"):
        fd.Key(-1)


def test_a_key_and_its_children_differ() -> None:
    """Parent, fold_in and split families are apart: 1 + 300 + 300 keys, all different."""
    parent = fd.Key(9)
    family = [parent, *(parent.fold_in(i) for i in range(300)), *parent.split(300)]
    assert len(set(family)) == len(family)


def test_copies_and_pickles_of_a_key_equal_it() -> None:
    key = as_key(KEY)
    assert bytes(key) == KEY
    for twin in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert twin == key
        assert hash(twin) == hash(key)
        assert bytes(twin) == KEY
    assert eval(repr(key), {"Key": fd.Key}) == key
    assert KEY.hex() in repr(key)
    assert key != as_key(bytes(16))
    assert key != KEY


# --- Uniforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 129, 8193])
def test_uniforms_match_the_reference(level: str, size: int) -> None:
    """Would catch digits in another order."""
    drawn = _core.uniforms((size,), as_key(KEY))
    np.testing.assert_array_equal(drawn, ref.uniforms(KEY, np.arange(size)))


def test_uniforms_of_many_elements_go_on() -> None:
    """Past a check for interrupts, the elements keep their indices."""
    size = (1 << 20) + 300
    drawn = _core.uniforms((2, size // 2), as_key(KEY)).reshape(-1)
    last = np.arange(size - 400, size)
    np.testing.assert_array_equal(drawn[last], ref.uniforms(KEY, last))
