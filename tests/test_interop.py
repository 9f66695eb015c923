"""Arrays and seeds of other libraries, by the protocols they speak; none of them is needed."""

from __future__ import annotations

import sys
import types
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from support import KEY, as_key, assert_same, values

pytestmark = pytest.mark.once


class WithArray:
    """A tensor that NumPy can take by `__array__`."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class WithDLPack:
    """A tensor that speaks DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [WithArray, WithDLPack])
def test_a_tensor_gives_an_array_and_is_not_copied(wrap: Any) -> None:
    x = values((30, 40), np.float32)
    key = as_key(KEY)
    expected = fd.dropout(x, 0.3, rng=key)
    assert_same(fd.dropout(wrap(x), 0.3, rng=key), expected)
    assert_same(fd.Mask((30, 40), 0.3, key).apply(wrap(x)), expected)
    assert_same(fd.dropout_add(wrap(x), wrap(x), 0.3, rng=key), fd.dropout_add(x, x, 0.3, rng=key))
    same = fd.dropout(wrap(x), training=False)
    assert type(same) is np.ndarray
    assert np.shares_memory(same, x)
    layer = fd.Dropout(0.3, rng=key)
    assert_same(layer(wrap(x)), fd.dropout(x, 0.3, rng=key.fold_in(0)))
    assert_same(layer.backward(wrap(x)), fd.dropout(x, 0.3, rng=key.fold_in(0)))


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
