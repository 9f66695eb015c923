"""The function `dropout`: modes, dtypes, special values, shared decisions, masks, rng and errors.

Memory layouts, `out=` and overlap are in `test_walk.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import BFLOAT16, DTYPES, EDGES, KEY, as_key, assert_same, values

by_name = {"ids": str}


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75, 1 - 2.0**-53, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_every_dtype_matches_the_reference(
    level: str, dtype: np.dtype[Any], p: float, mode: str
) -> None:
    """Would catch a double rounding, a lost NaN or infinity, a minus zero, and a changed input."""
    x = values((9, 1100), dtype)
    before = x.copy()
    y = fd.dropout(x, p, mode=mode, rng=as_key(KEY))
    assert_same(y, ref.dropout(x, p, KEY, mode=mode))
    assert_same(x, before)
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], **by_name)
def test_every_16_bit_value_is_rounded_like_the_reference(level: str, dtype: np.dtype[Any]) -> None:
    """All 65536 bit patterns, so every tie, subnormal, overflow and NaN."""
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    for p in (0.1, 0.3, 1 / 3, 0.9):
        assert_same(fd.dropout(x, p, rng=as_key(KEY)), ref.dropout(x, p, KEY))


@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_a_short_array_is_the_start_of_a_long_one(level: str, dtype: np.dtype[Any]) -> None:
    """Would catch lanes lost at the end of a block, a vector or a tile."""
    x = values((EDGES[-1],), dtype)
    expected = ref.dropout(x, 0.3, KEY)
    for size in EDGES:
        assert_same(fd.dropout(x[:size], 0.3, rng=as_key(KEY)), expected[:size])


@pytest.mark.parametrize("skip", [1, 5, 17])
def test_streaming_stores_stay_within_unaligned_edges(level: str, skip: int) -> None:
    """An output larger than most caches, whose ends are not on a cache line."""
    size = 2**23 + 37
    x = np.full(size, 3.0, np.float32)
    buffer = np.full(size + 64, 7.0, np.float32)
    keep = fd.Mask((size,), 0.5, as_key(KEY)).to_numpy()
    fd.dropout(x, 0.5, rng=as_key(KEY), out=buffer[skip : skip + size])
    assert (buffer[:skip] == 7.0).all()
    assert (buffer[skip + size :] == 7.0).all()
    np.testing.assert_array_equal(buffer[skip : skip + size], np.where(keep, np.float32(6.0), 0))


# --- Evaluation and p = 0 ------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_standard_mode_scales_in_evaluation(level: str, dtype: np.dtype[Any], p: float) -> None:
    x = values((9, 1100), dtype)
    expected = ref.dropout(x, p, KEY, mode="standard", training=False)
    assert_same(fd.dropout(x, p, mode="standard", training=False), expected)
    out = np.empty_like(x)
    assert fd.dropout(x, p, mode="standard", training=False, out=out) is out
    assert_same(out, expected)


# --- Shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [2.5, [1.0, 2.0], [[1.0], [2.0]], (), np.float32(3), np.float64(2)])
def test_lists_and_scalars_are_taken_as_arrays(x: Any) -> None:
    assert_same(fd.dropout(x, 0.5, rng=as_key(KEY)), ref.dropout(np.asarray(x), 0.5, KEY))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (1, 1, 1), (0, 0)])
def test_degenerate_shapes_are_kept(level: str, shape: tuple[int, ...]) -> None:
    for p in (0.0, 0.3, 1.0):
        x = np.ones(shape, np.float32)
        assert_same(fd.dropout(x, p, rng=as_key(KEY)), ref.dropout(x, p, KEY))


@pytest.mark.parametrize(
    "dims", [(), (0,), (1,), (-1,), (2, 3), (-2, -1), (0, 2), [1, 2], (1, 2, 3), (0, 1, 2, 3)]
)
def test_broadcast_dims_share_decisions_along_their_axes(level: str, dims: Any) -> None:
    x = values((6, 5, 30, 31), np.float32)
    y, mask = fd.dropout(x, 0.4, broadcast_dims=dims, rng=as_key(KEY), return_mask=True)
    assert_same(y, ref.dropout(x, 0.4, KEY, broadcast_dims=dims))
    assert mask.shape == ref.shared_shape(x.shape, dims)


@pytest.mark.parametrize("dims", [(2,), (-3,), (0, 5), (0, 0), (0, -2)])
def test_absent_and_repeated_broadcast_dims_are_refused(dims: Any) -> None:
    with pytest.raises(ValueError, match="broadcast_dims"):
        fd.dropout(np.ones((3, 4)), 0.4, broadcast_dims=dims)


# --- Masks given and returned --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, **by_name)
@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("shape", [(6, 700), (6, 1), (700,), (1,), ()])
def test_true_in_a_boolean_mask_means_kept(
    level: str, dtype: np.dtype[Any], mode: str, shape: tuple[int, ...]
) -> None:
    """Would catch an inverted mask, and one broadcast along the wrong axis."""
    x = values((6, 700), dtype)
    keep = np.asarray(np.random.default_rng(2).random(shape) < 0.6)
    scale = 1 / (1 - 0.4) if mode == "inverted" else 1.0
    assert_same(fd.dropout(x, 0.4, mode=mode, mask=keep), ref.select(keep, x, scale))
    assert_same(fd.dropout(x, 0, mask=keep), ref.select(keep, x, 1.0))
    assert_same(fd.dropout(x, 1, mask=keep), np.zeros_like(x))


def test_a_boolean_mask_is_read_in_logical_order(level: str) -> None:
    x = values((60, 70), np.float32)
    keep = np.random.default_rng(2).random((70, 60)) < 0.6
    for view in (keep.T, keep.T[::-1, ::-1], np.asfortranarray(keep.T)):
        assert_same(fd.dropout(x, 0.5, mask=view), ref.select(view, x, 2.0))


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 3, 4), (3, 4, 1)])
def test_a_mask_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    x = np.ones((3, 4))
    for mask in (np.ones(shape, np.bool_), fd.Mask(shape, 0.5, as_key(KEY))):
        with pytest.raises(ValueError, match=r"mask of shape|broadcast"):
            fd.dropout(x, 0.5, mask=mask)


# --- rng -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rng", [0, 7, [1, 2], np.random.SeedSequence(3)])
def test_a_seed_always_gives_the_same_mask(rng: Any) -> None:
    x = np.ones(500)
    expected = ref.dropout(x, 0.5, ref.key_from_seed(copy.deepcopy(rng)))
    for _ in range(2):
        assert_same(fd.dropout(x, 0.5, rng=copy.deepcopy(rng)), expected)


def test_a_generator_gives_a_new_mask_for_each_call() -> None:
    x = np.ones(500)
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(3):
        expected = ref.dropout(x, 0.5, ref.key_from_rng(theirs))
        assert_same(fd.dropout(x, 0.5, rng=ours), expected)


def test_calls_without_rng_differ() -> None:
    first, second = (fd.dropout(np.ones(500), 0.5) for _ in range(2))
    assert np.any(first != second)  # equal with probability 2**-500


# --- Errors --------------------------------------------------------------------------------------


def test_a_subclass_becomes_a_plain_array() -> None:
    class Tagged(np.ndarray):  # type: ignore[type-arg]
        pass

    x = values((20, 30), np.float32)
    assert_same(fd.dropout(x.view(Tagged), 0.5, rng=as_key(KEY)), ref.dropout(x, 0.5, KEY))


@pytest.mark.parametrize("kwargs", [{"p": 2.0}, {"mode": "x"}, {"broadcast_dims": (9,)}])
def test_a_refused_call_leaves_the_generator_alone(kwargs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises((TypeError, ValueError)):
        fd.dropout(np.ones(3), **{"p": 0.5, **kwargs}, rng=rng)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_evaluation_scales_by_the_p_of_a_given_mask() -> None:
    x = np.ones(8, np.float32)
    mask = fd.Mask(8, 0.25, fd.Key(0))
    y = fd.dropout(x, mask=mask, training=False, mode="standard")
    np.testing.assert_array_equal(y, np.float32(0.75))


def test_the_gradient_of_standard_mode_is_not_scaled() -> None:
    """Would catch the 1 / (1 - p) of inverted mode."""
    x = values((5, 9), np.float32)
    y, mask = fd.dropout(np.ones_like(x), 0.3, mode="standard", rng=1, return_mask=True)
    dx = fd.dropout(x, 0.3, mode="standard", mask=mask)
    assert_same(dx, np.where(y == 1, x, np.float32(0)))
