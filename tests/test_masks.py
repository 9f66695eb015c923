"""Masks: every bit against the reference, for every size, threshold, region and machine."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import EDGES, KEY, LEVELS, MANY, as_key, assert_same, running_on, values

EVERYDAY = [0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]
EXTREME = [5e-324, 2.0**-65, 2.0**-64, 1e-6, float(np.nextafter(0.5, 0)), 1 - 2.0**-53]

# (whole, start, shape): corners, row ends that cut lanes, and starts whose index or group index
# carries past 31, 32, 39 (2**32 groups) and 56 bits.
REGIONS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ((7, 300), (0, 0), (7, 300)),
    ((7, 300), (3, 127), (4, 129)),
    ((7, 300), (6, 299), (1, 1)),
    ((7, 300), (2, 5), (0, 9)),
    ((40, 41, 42), (3, 4, 5), (6, 7, 8)),
    ((40, 1, 42), (39, 0, 1), (1, 1, 41)),
    ((2**31 + 500,), (2**31 - 100,), (300,)),
    ((2**17, 2**15), (2**16 - 1, 2**15 - 70), (2, 70)),
    ((2**33,), (2**32 - 1,), (257,)),
    ((2**40,), (2**39 - 300,), (700,)),
    ((2**20, 2**19 + 1), (2**19, 3), (3, 200)),
    ((2**57,), (2**56 - 5,), (300,)),
    ((2**21, 2**21, 2**20), (2**21 - 2, 2**21 - 3, 2**20 - 140), (2, 3, 140)),
    ((2**63 - 1,), (2**63 - 1 - 400,), (400,)),
]


def ties() -> list[tuple[int, int, float]]:
    """Elements, their uniforms and the p whose threshold that is: equal down to the last plane.

    Only uniforms of at most 53 significant bits equal the threshold of a double.
    """
    uniforms = ref.uniforms(KEY, np.arange(400_000))
    small = np.flatnonzero(uniforms < 2**53)
    even = np.flatnonzero(uniforms & np.uint64(2**11 - 1) == 0)
    found = [(int(i), int(uniforms[i])) for i in [*small[:40], *even[:40]]]
    assert len(found) == 80
    return [(index, uniform, uniform * 2.0**-64) for index, uniform in found]


# --- Bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", EVERYDAY + EXTREME)
def test_bits_match_the_reference_around_every_edge(level: str, p: float) -> None:
    expected = ref.kept(KEY, p, np.arange(EDGES[-1]))
    for size in EDGES:
        mask = fd.Mask(size, p, as_key(KEY))
        np.testing.assert_array_equal(mask.to_numpy(), expected[:size])
        packed = np.packbits(expected[:size], axis=None, bitorder="little")
        np.testing.assert_array_equal(mask.packbits(), packed)
        assert mask.packbits().dtype == np.uint8
        assert mask.count() == np.count_nonzero(expected[:size])


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5, 1, 7), (2, 3, 4, 5)])
def test_bits_go_by_index_whatever_the_shape(level: str, shape: tuple[int, ...]) -> None:
    mask = fd.Mask(shape, 0.3, as_key(KEY))
    assert (mask.shape, mask.ndim, mask.size) == (shape, len(shape), math.prod(shape))
    np.testing.assert_array_equal(mask.to_numpy(), ref.mask(KEY, 0.3, shape))
    assert mask.to_numpy().shape == shape
    assert mask.to_numpy().dtype == np.bool_


def test_a_tie_with_the_threshold_is_kept(level: str) -> None:
    """Elements are dropped below the threshold; exactly at it they stay."""
    for index, uniform, p in ties():
        assert ref.threshold(p) == uniform
        for q in (math.nextafter(p, 0), p, p * (1 + 2.0**-50)):
            one = fd.Mask((400_000,), q, as_key(KEY)).region((index,), (1,))
            assert bool(one.to_numpy()[0]) is (uniform >= ref.threshold(q))


@pytest.mark.parametrize("exponent", range(1, 65, 9))
def test_short_thresholds_match_the_reference(level: str, exponent: int) -> None:
    """Would catch a comparison that stops a plane too early or too late."""
    for odd in (1, 3, 2**exponent - 1):
        p = odd * 2.0**-exponent
        if p < 1.0:
            mask = fd.Mask(2000, p, as_key(KEY)).to_numpy()
            np.testing.assert_array_equal(mask, ref.kept(KEY, p, np.arange(2000)))


def test_masks_are_nested_in_p(level: str) -> None:
    """What a smaller p drops, a larger one drops too."""
    previous = np.ones(50_000, dtype=np.bool_)
    for p in [0.0, 1e-9, 0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.50001, 0.9, 0.999, 1.0]:
        mask = fd.Mask(50_000, p, as_key(KEY)).to_numpy()
        assert not np.any(mask & ~previous)
        previous = mask
    assert not previous.any()


@pytest.mark.parametrize("byte", range(16))
def test_every_byte_of_the_key_matters(level: str, byte: int) -> None:
    other = bytes(value ^ (at == byte) for at, value in enumerate(KEY))
    mask = fd.Mask(1000, 0.3, as_key(other)).to_numpy()
    np.testing.assert_array_equal(mask, ref.mask(other, 0.3, (1000,)))
    assert np.any(mask != fd.Mask(1000, 0.3, as_key(KEY)).to_numpy())


@pytest.mark.once
def test_threads_and_levels_do_not_change_big_masks() -> None:
    mask = fd.Mask((MANY,), 0.3, as_key(KEY))
    expected = ref.kept(KEY, 0.3, np.arange(MANY))
    packed = np.packbits(expected, bitorder="little")
    for level in LEVELS:
        for threads in (1, 2, 3):
            with running_on(level, threads):
                np.testing.assert_array_equal(mask.to_numpy(), expected)
                np.testing.assert_array_equal(mask.packbits(), packed)
                assert mask.count() == np.count_nonzero(expected)


# --- Regions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("whole", "start", "shape"), REGIONS)
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_a_region_has_the_bits_of_the_whole(
    level: str,
    p: float,
    whole: tuple[int, ...],
    start: tuple[int, ...],
    shape: tuple[int, ...],
) -> None:
    """Would catch an index of 32 bits, and a carry that is lost further up."""
    region = fd.Mask(whole, p, as_key(KEY)).region(start, shape)
    expected = ref.mask(KEY, p, whole, start, shape)
    assert (region.shape, region.size) == (shape, math.prod(shape))
    np.testing.assert_array_equal(region.to_numpy(), expected)
    np.testing.assert_array_equal(
        region.packbits(), np.packbits(expected, axis=None, bitorder="little")
    )
    assert region.count() == np.count_nonzero(expected)
    x = values(shape, np.float32)
    assert_same(region.apply(x), ref.select(expected, x, ref.inverse_keep(p)))


def test_regions_of_regions_count_from_the_whole() -> None:
    whole = fd.Mask((50, 60, 70), 0.4, as_key(KEY))
    inner = whole.region((10, 20, 30), (20, 20, 20)).region((1, 2, 3), (4, 5, 6))
    assert inner == whole.region((11, 22, 33), (4, 5, 6))
    assert hash(inner) == hash(whole.region((11, 22, 33), (4, 5, 6)))
    assert repr(inner) == f"{whole!r}.region((11, 22, 33), (4, 5, 6))"
    assert eval(repr(inner), {"Mask": fd.Mask, "Key": fd.Key}) == inner
    assert pickle.loads(pickle.dumps(inner)) == inner
    expected = whole.to_numpy()[11:15, 22:27, 33:39]
    np.testing.assert_array_equal(inner.to_numpy(), expected)


def test_arguments_of_methods_become_arrays_and_numbers_or_are_named() -> None:
    mask = fd.Mask((3,), 0.5, as_key(KEY))
    assert_same(mask.apply([1.0, 2.0, 3.0]), mask.apply(np.array([1.0, 2.0, 3.0])))
    with pytest.raises(TypeError, match=r"^x must be a plain array, got MaskedArray: use x.fill"):
        mask.apply(np.ma.ones(3))
    with pytest.raises(ValueError, match=r"^scale must be a finite number, got inf$"):
        mask.apply(np.ones(3), scale=math.inf)
    with pytest.raises(TypeError, match=r"^start must be an int or a sequence of ints, got None$"):
        mask.region(None, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^shape must be an int or a sequence of ints, got None$"):
        mask.region(0, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^shape must be an int or a sequence of ints, got None$"):
        fd.Mask(None, 0.5, as_key(KEY))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^key must be a Key, got 3$"):
        fd.Mask(3, 0.5, 3)  # type: ignore[arg-type]


def test_a_region_must_not_leave_a_region() -> None:
    inner = fd.Mask((50, 60), 0.4, as_key(KEY)).region((10, 10), (5, 5))
    with pytest.raises(ValueError, match=r"region|start|shape"):
        inner.region((3, 0), (3, 5))


@pytest.mark.parametrize("cut", [1, 100, 127, 128, 129, 5000])
def test_chunks_join_to_the_whole(level: str, cut: int) -> None:
    whole = fd.Mask((10_000,), 0.3, as_key(KEY))
    starts = range(0, 10_000, cut if cut > 1 else 3333)
    pieces = [
        whole.region((a,), (min(b, 10_000) - a,)).to_numpy()
        for a, b in ((start, start + starts.step) for start in starts)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole.to_numpy())


@pytest.mark.parametrize(
    ("start", "shape"),
    [((-1, 0), (1, 1)), ((0, 0), (5, 9)), ((3, 8), (1, 2)), ((4, 0), (1, 1)), ((0,), (1,)),
     ((0, 0), (1,)), ((0, 0), (-1, 1)), ((2**63, 0), (1, 1)), ((1, 2**63 - 1), (1, 2))],
)  # fmt: skip
def test_a_region_must_not_leave_the_whole(start: Any, shape: Any) -> None:
    with pytest.raises(ValueError, match=r"region|start|shape"):
        fd.Mask((4, 9), 0.5, as_key(KEY)).region(start, shape)


@pytest.mark.once
def test_more_than_2_to_the_32_elements_do_not_wrap() -> None:
    """In one call, not only by index: the whole is counted and packed, then its pieces."""
    size = 2**32 + 2**20
    whole = fd.Mask((size,), 0.5, as_key(KEY))
    cuts = [0, 2**31 + 77, 2**32 - 1, size]
    pieces = [whole.region((a,), (b - a,)).count() for a, b in itertools.pairwise(cuts)]
    assert whole.count() == sum(pieces)
    packed = whole.packbits()
    assert packed.size == size // 8
    for start in (0, 2**31 - 1000, 2**32 - 1000, size - 1000):
        expected = ref.kept(KEY, 0.5, np.arange(1000) + start)
        octets = packed[start // 8 : (start + 1000) // 8]
        np.testing.assert_array_equal(np.unpackbits(octets, bitorder="little"), expected)


# --- The object ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1,), (2**63,), (2**32, 2**31), (3, -1, 0)])
def test_negative_and_overflowing_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        fd.Mask(shape, 0.5, as_key(KEY))


@pytest.mark.parametrize("key", [3, None, KEY, "key"])
def test_a_mask_takes_only_a_key(key: Any) -> None:
    """Would catch a seed that is taken for one."""
    with pytest.raises(TypeError):
        fd.Mask((3,), 0.5, key)


def test_copied_and_pickled_masks_are_equal() -> None:
    """And masks that differ in shape, p, key or start are not."""
    whole = fd.Mask((30, 40), 0.3, as_key(KEY))
    for mask in (whole, whole.region((2, 3), (5, 6))):
        for twin in (copy.copy(mask), copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
            assert twin == mask
            assert hash(twin) == hash(mask)
            assert (twin.shape, twin.p, twin.key) == (mask.shape, 0.3, as_key(KEY))
            np.testing.assert_array_equal(twin.to_numpy(), mask.to_numpy())
    assert whole != fd.Mask((30, 40), 0.4, as_key(KEY))
    assert whole != fd.Mask((40, 30), 0.3, as_key(KEY))
    assert whole != fd.Mask((30, 40), 0.3, as_key(bytes(16)))
    assert whole.region((0, 0), (5, 6)) != whole.region((0, 1), (5, 6))


@pytest.mark.parametrize("name", ["shape", "p", "key", "size"])
def test_a_mask_is_immutable(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(fd.Mask((3,), 0.5, as_key(KEY)), name, 1)


def test_asarray_gives_a_copy_of_the_bits() -> None:
    mask = fd.Mask((30, 40), 0.3, as_key(KEY))
    array = np.asarray(mask)
    np.testing.assert_array_equal(array, mask.to_numpy())
    assert array.dtype == np.bool_
    assert np.asarray(mask, dtype=np.float32).dtype == np.float32
    array[...] = True
    assert mask.count() < 1200
    assert not np.asarray(mask).all()


# --- Mask.apply ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 1.0, -2.5, 0.0])
@pytest.mark.parametrize(
    ("mask_shape", "x_shape"),
    [((3, 1, 50), (4, 1)), ((50,), (3, 50)), ((3, 50), (50,)), ((), (3,)), ((3,), ()),
     ((0,), (1,))],
)  # fmt: skip
def test_apply_broadcasts_as_numpy_does(
    level: str, mask_shape: tuple[int, ...], x_shape: tuple[int, ...], scale: float | None
) -> None:
    mask = fd.Mask(mask_shape, 0.3, as_key(KEY))
    x = values(x_shape, np.float64)
    shape = np.broadcast_shapes(mask_shape, x_shape)
    expected = ref.select(
        np.broadcast_to(mask.to_numpy(), shape),
        np.broadcast_to(x, shape),
        1 / (1 - 0.3) if scale is None else scale,
    )
    assert_same(mask.apply(x, scale=scale), expected)
    out = np.full(shape, 7.0)
    assert mask.apply(x, scale=scale, out=out) is out
    assert_same(out, expected)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 2**1024])
def test_apply_refuses_a_scale_that_is_not_finite(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        fd.Mask(3, 0.5, as_key(KEY)).apply(np.ones(3), scale=scale)


def test_apply_checks_before_it_writes() -> None:
    mask = fd.Mask((4, 5), 0.5, as_key(KEY))
    for x, out in [(np.ones(5), np.ones(5)), (np.ones((4, 5)), np.ones((4, 5), np.float32))]:
        before = out.copy()
        with pytest.raises((ValueError, TypeError)):
            mask.apply(x, out=out)
        assert_same(out, before)
    with pytest.raises(ValueError, match="broadcast"):
        mask.apply(np.ones(3))


def test_a_shape_may_be_an_array_or_a_numpy_int() -> None:
    mask = fd.Mask(np.array([4, 6]), 0.5, as_key(KEY))
    assert mask.shape == (4, 6)
    assert mask.region(np.array([1, 2]), np.array([2, 3])).shape == (2, 3)
    assert fd.Mask(np.int64(3), 0.5, as_key(KEY)).shape == (3,)


def test_keys_and_masks_have_no_public_names_but_those_of_users() -> None:
    """What the core offers to the package alone checks less; `part` and `parts` check enough."""
    keys = {"fold_in", "from_bytes", "split"}
    methods = {"apply", "count", "packbits", "region", "to_numpy"}
    masks = methods | {"key", "ndim", "p", "part", "parts", "shape", "size"}
    for kind, names in [(fd.Key, keys), (fd.Mask, masks)]:
        assert {name for name in dir(kind) if not name.startswith("_")} == names


def test_lists_are_accepted_as_shapes() -> None:
    key = as_key(KEY)
    assert fd.Mask([3, 4], 0.4, key).region([1, 1], [2, 2]) == fd.Mask((3, 4), 0.4, key).region(
        (1, 1), (2, 2)
    )
    assert fd.PatchMask([3, 4], 0.4, key) == fd.PatchMask((3, 4), 0.4, key)
    assert fd.ConcreteMask([3, 4], 0.4, 0.1, key) == fd.ConcreteMask((3, 4), 0.4, 0.1, key)
    seeds = fd.Mask((3, 4), 0.4, key)
    assert fd.BlockMask(seeds, [2, 2], 0.4) == fd.BlockMask(seeds, (2, 2), 0.4)
    np.testing.assert_array_equal(fd.bernoulli([3, 4], 0.4, key), ~seeds.to_numpy())


@pytest.mark.parametrize("endless", [itertools.repeat(1), itertools.count(), range(10**9)])
def test_an_endless_shape_is_refused(endless: Any) -> None:
    """Once it was read until memory ended, and the process with it."""
    with pytest.raises(ValueError, match="shape must have at most 64 axes"):
        fd.Mask(endless, 0.5, as_key(KEY))
    with pytest.raises(ValueError, match="start must have at most 64 axes"):
        fd.Mask((2,), 0.5, as_key(KEY)).region(endless, 1)
