"""Keys: what makes one, its children, and what it is as an object."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import KEY, as_key, assert_same

pytestmark = pytest.mark.once


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


# --- Seeds of other libraries --------------------------------------------------------------------


class WithArray:
    """A tensor that NumPy can take by `__array__`."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


def test_an_array_of_integers_seeds_like_a_list_of_them() -> None:
    """Such as an old key of JAX."""
    words = np.array([7, 2**32 - 1], dtype=np.uint32)
    assert fd.Key(words) == fd.Key(WithArray(words)) == fd.Key([7, 2**32 - 1])
    assert fd.Dropout(rng=WithArray(words)).key == fd.Key(words)
    for bad in (np.array([0.5]), WithArray(np.array(["7"])), np.array([-1])):
        with pytest.raises((TypeError, ValueError), match="rng must be a Key"):
            fd.dropout(np.ones(3), rng=bad)


def test_an_integer_in_an_array_seeds_like_itself() -> None:
    for seed in (0, 5, 2**63):
        for array in (np.array(seed), np.array(seed, dtype=np.uint64)):
            assert fd.Key(array) == fd.Key(WithArray(array)) == fd.Key([seed]) == fd.Key(seed)
    for bad in (np.array(-1), np.array(5.0), np.array(True), WithArray(np.array("5"))):
        with pytest.raises((TypeError, ValueError), match="rng must be a Key"):
            fd.dropout(np.ones(3), rng=bad)


def test_an_array_of_many_integers_is_no_seed_whatever_its_shape() -> None:
    with pytest.raises(ValueError, match="seed must be an int"):
        fd.Key(np.zeros((2, (1 << 19) + 1), dtype=np.int8))


def test_a_torch_generator_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the two names that are used."""

    class Generator:
        device = "cpu"

        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

    torch: Any = types.ModuleType("torch")
    torch.Generator = Generator
    torch.randint = lambda high, size, generator, device: generator.rng.integers(high, size=size)
    monkeypatch.setitem(sys.modules, "torch", torch)
    generator, x = Generator(), np.ones(50)
    first, second = fd.Key(generator), fd.Key(generator)
    assert first != second
    assert first == fd.Key(Generator())
    generator = Generator()
    assert_same(fd.dropout(x, rng=generator), fd.dropout(x, rng=first))
    fd.dropout(x, rng=generator, training=False)
    fd.dropout(x, 0.0, rng=generator)
    assert_same(fd.dropout(x, rng=generator), fd.dropout(x, rng=second))
