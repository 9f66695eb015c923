"""The function `dropout`: modes, dtypes, special values, shared decisions, masks, rng and errors.

Memory layouts, `out=` and overlap are in `test_walk.py`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import fastdrop as fd
import ml_dtypes
import numpy as np
import pytest
import reference as ref
from numpy.typing import NDArray
from support import BFLOAT16, DTYPES, EDGES, KEY, MANY, as_key, assert_same, running_on, values

by_name = {"ids": str}


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75, 1 - 2.0**-53])
@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_every_dtype_matches_the_reference(
    level: str, dtype: np.dtype[Any], p: float, mode: str
) -> None:
    """Would catch a double rounding, a lost NaN or infinity, and a changed input."""
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
def test_every_dtype_has_the_same_mask(dtype: np.dtype[Any]) -> None:
    y = fd.dropout(np.ones(5000, dtype), 0.3, rng=as_key(KEY))
    np.testing.assert_array_equal(y != 0, ref.mask(KEY, 0.3, (5000,)))


@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_a_short_array_is_the_start_of_a_long_one(level: str, dtype: np.dtype[Any]) -> None:
    """Would catch lanes lost at the end of a block, a vector or a tile."""
    x = values((EDGES[-1],), dtype)
    expected = ref.dropout(x, 0.3, KEY)
    for size in EDGES:
        assert_same(fd.dropout(x[:size], 0.3, rng=as_key(KEY)), expected[:size])


@pytest.mark.parametrize("dtype", DTYPES, **by_name)
@pytest.mark.parametrize("bad", [-1.0, -0.0, np.nan, np.inf, -np.inf])
def test_dropped_elements_are_plus_zero(level: str, dtype: np.dtype[Any], bad: float) -> None:
    """Would catch a multiplication by 0 of NaN, infinity or negative numbers."""
    x = np.full(2000, bad, dtype)
    y = fd.dropout(x, 0.5, rng=as_key(KEY))
    keep = ref.mask(KEY, 0.5, (2000,))
    assert_same(y[~keep], np.zeros(np.count_nonzero(~keep), dtype))
    assert_same(y[keep], ref.multiply(x[keep], 2.0))


def test_complex_infinity_does_not_become_nan() -> None:
    """The factor is real: Inf + 0j must not meet Inf * 0."""
    x = np.full(500, complex(np.inf, 0.0), np.complex64)
    y = fd.dropout(x, 0.5, rng=as_key(KEY))
    assert not np.isnan(y.real).any()
    assert not np.isnan(y.imag).any()


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_p_one_gives_zeros(level: str, dtype: np.dtype[Any], mode: str) -> None:
    """Would catch the scale 1 / (1 - p) at its pole."""
    x = values((3000,), dtype)
    assert_same(fd.dropout(x, 1, mode=mode, rng=0), np.zeros(3000, dtype))


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.complex128)], **by_name)
def test_threads_do_not_change_big_arrays(level: str, dtype: np.dtype[Any]) -> None:
    x = np.random.default_rng(0).standard_normal(MANY).astype(dtype)
    keep = fd.Mask((MANY,), 0.3, as_key(KEY)).to_numpy()
    expected = ref.select(keep, x, ref.inverse_keep(0.3))
    for threads in (1, 2, 3):
        with running_on(threads=threads):
            assert_same(fd.dropout(x, 0.3, rng=as_key(KEY)), expected)


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


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_threads_do_not_change_big_shared_decisions(dims: tuple[int, ...]) -> None:
    x = values((12, 250, 1001), np.float32)
    expected = ref.dropout(x, 0.3, KEY, broadcast_dims=dims)
    keep = np.asarray(ref.mask(KEY, 0.3, ref.shared_shape(x.shape, dims)))
    for threads in (1, 2, 3):
        with running_on(threads=threads):
            assert_same(fd.dropout(x, 0.3, broadcast_dims=dims, rng=as_key(KEY)), expected)
            assert_same(fd.dropout(x, 0.3, mask=keep), expected)


# --- Evaluation and p = 0 ------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{"training": False}, {"p": 0}, {"p": 0.0, "mode": "standard"}])
def test_the_identity_returns_x_itself(kwargs: dict[str, Any]) -> None:
    """Or writes to out, if there is one."""
    x = values((40, 50), np.float32)
    assert fd.dropout(x, **kwargs) is x
    out = np.empty_like(x)
    assert fd.dropout(x, **kwargs, out=out) is out
    assert_same(out, x)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, **by_name)
def test_standard_mode_scales_in_evaluation(level: str, dtype: np.dtype[Any], p: float) -> None:
    x = values((9, 1100), dtype)
    expected = ref.dropout(x, p, KEY, mode="standard", training=False)
    assert_same(fd.dropout(x, p, mode="standard", training=False), expected)
    out = np.empty_like(x)
    assert fd.dropout(x, p, mode="standard", training=False, out=out) is out
    assert_same(out, expected)


def test_evaluation_leaves_the_generator_alone() -> None:
    rng = np.random.default_rng(0)
    state = copy.deepcopy(rng.bit_generator.state)
    fd.dropout(np.ones(9), 0.5, training=False, rng=rng)
    assert rng.bit_generator.state == state


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


def test_the_returned_mask_is_the_one_used(level: str) -> None:
    x = values((30, 40), np.float64)
    y, mask = fd.dropout(x, 0.3, rng=as_key(KEY), return_mask=True)
    assert mask == fd.Mask((30, 40), 0.3, as_key(KEY))
    assert_same(y, mask.apply(x))
    assert_same(fd.dropout(x, 0.9, mask=mask), y)  # the mask's own p scales


def test_the_mask_of_evaluation_drops_nothing() -> None:
    x = np.ones((3, 4))
    y, mask = fd.dropout(x, 0.3, training=False, return_mask=True)
    assert y is x
    assert (mask.shape, mask.p) == ((3, 4), 0.0)


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


@pytest.mark.parametrize("kwargs", [{"rng": 3}, {"broadcast_dims": (0,)}])
def test_rng_and_broadcast_dims_are_refused_beside_a_mask(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mask must not be given"):
        fd.dropout(np.ones((3, 4)), 0.5, mask=np.ones((3, 4), np.bool_), **kwargs)


@pytest.mark.parametrize("mask", [np.ones(3), np.ones(3, np.uint8), "mask", 3])
def test_a_mask_that_is_not_boolean_is_refused(mask: Any) -> None:
    with pytest.raises(TypeError):
        fd.dropout(np.ones(3), 0.5, mask=mask)


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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan, math.inf, -5e-324, 1 + 2.0**-52, 2**1024])
def test_p_outside_the_unit_interval_is_refused(p: float, training: bool) -> None:
    with pytest.raises(ValueError, match=r"p must be a number in \[0, 1\], got"):
        fd.dropout(np.ones(3), p, training=training)


@pytest.mark.parametrize(
    "p", ["0.5", None, [0.5], 0.5j, object(), True, np.True_, np.array("0.5"), np.complex128(0.5)]
)
def test_p_that_is_not_a_real_number_is_refused(p: Any) -> None:
    with pytest.raises(TypeError, match=r"p must be a number in \[0, 1\], got"):
        fd.dropout(np.ones(3), p)


@pytest.mark.parametrize("p", [np.float32(0.5), np.float64(0.5), np.float16(0.5)])
def test_a_numpy_p_is_accepted(p: Any) -> None:
    assert_same(fd.dropout(np.ones(300), p, rng=1), fd.dropout(np.ones(300), 0.5, rng=1))


BAD_INPUTS: list[NDArray[Any]] = [
    np.arange(3),
    np.ones(3, np.uint8),
    np.ones(3, np.bool_),
    np.array([1.0, None], dtype=object),
    np.array(["a", "b"]),
    np.array(["2020-01-01"], dtype="M8[D]"),
    np.zeros(3, dtype=[("a", np.float32)]),
    np.zeros(3, dtype="V4"),
    np.zeros(3, dtype=ml_dtypes.float8_e5m2),
    np.zeros(3, dtype=np.longdouble),
]


@pytest.mark.parametrize("x", BAD_INPUTS, ids=lambda x: str(x.dtype))
def test_other_dtypes_are_refused(x: NDArray[Any]) -> None:
    """Would catch bytes of an unknown dtype that are read as floats."""
    with pytest.raises(TypeError, match="float32, float64, float16, bfloat16, complex64"):
        fd.dropout(x, 0.5)


def test_masked_arrays_and_matrices_are_refused() -> None:
    matrix = np.ones((2, 2)).view(np.matrix)
    for x in (np.ma.masked_array([1.0, 2.0], [True, False]), matrix):
        with pytest.raises(TypeError):
            fd.dropout(x, 0.5)


def test_a_subclass_becomes_a_plain_array() -> None:
    class Tagged(np.ndarray):  # type: ignore[type-arg]
        pass

    x = values((20, 30), np.float32)
    assert_same(fd.dropout(x.view(Tagged), 0.5, rng=as_key(KEY)), ref.dropout(x, 0.5, KEY))


def test_a_misspelt_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode"):
        fd.dropout(np.ones(3), 0.5, mode="inverse")


@pytest.mark.parametrize("rng", ["seed", 1.5, object()])
def test_a_senseless_rng_is_refused(rng: Any) -> None:
    with pytest.raises(TypeError):
        fd.dropout(np.ones(3), 0.5, rng=rng)


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


@pytest.mark.parametrize("training", ["no", 2, None])
def test_training_must_be_a_bool(training: Any) -> None:
    with pytest.raises(TypeError, match="training must be True or False"):
        fd.dropout(np.ones(3), training=training)


def test_a_masked_array_is_refused_as_mask() -> None:
    with pytest.raises(TypeError, match="mask must be a plain array"):
        fd.dropout(np.ones(3), mask=np.ma.masked_array([True, False, True]))
