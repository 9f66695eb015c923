"""The stream: the block, keys and single mask bits, against the reference and outside oracles.

These are the known answers published with Random123, and the AES of the `cryptography` package.
"""

from __future__ import annotations

import json
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
