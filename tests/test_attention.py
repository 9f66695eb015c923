"""Attention with dropout: against float64 with all weights and the whole mask stored."""

from __future__ import annotations

import subprocess
import sys
import zlib
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference_attention import Attention, attention, sum_to
from support import BFLOAT16, KEY, LEVELS, as_key, assert_same, running_on

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 3e-3, "bfloat16": 2e-2}
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
CAUSAL = [False, True, "upper_left", "lower_right"]


def numbers(shape: Any, dtype: Any = np.float64, seed: int = 0) -> NDArray[Any]:
    """Return numbers about as large as normal ones, the same with every version of NumPy."""
    count = int(np.prod(shape, dtype=int))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    steps += np.uint64(seed * 0xD1342543DE)
    steps = (steps ^ steps >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    return (
        ((steps >> np.uint64(40)).astype(np.float64) * 2.0**-22 - 2.0).reshape(shape).astype(dtype)
    )


def laid_out(array: NDArray[Any], how: str) -> NDArray[Any]:
    """Return the same numbers in another layout."""
    if how == "heads inside" and array.ndim > 2:
        return np.ascontiguousarray(array.swapaxes(-3, -2)).swapaxes(-3, -2)
    if how == "reversed":
        return np.ascontiguousarray(array[..., ::-1, ::-1])[..., ::-1, ::-1]
    if how == "spread":
        room = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        room[..., ::2] = array
        return room[..., ::2]
    if how == "features first":
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    if how == "other byte order" and array.dtype != BFLOAT16:
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "unaligned":
        octets = np.zeros(array.nbytes + 1, np.uint8)
        room = octets[1:].view(array.dtype).reshape(array.shape)
        room[...] = array
        return room
    return array


LAYOUTS = [
    "plain",
    "heads inside",
    "reversed",
    "spread",
    "features first",
    "other byte order",
    "unaligned",
]


def close(actual: NDArray[Any], expected: NDArray[Any], times: float = 1.0) -> None:
    assert actual.shape == expected.shape
    size = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    tolerance = TOLERANCE[actual.dtype.name] * times
    np.testing.assert_allclose(
        actual.astype(np.float64), expected, rtol=tolerance, atol=tolerance * size
    )


def both(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], dy: NDArray[Any], p: float, **options: Any
) -> tuple[NDArray[Any], ...]:
    """Return y, lse and the gradients, that of `attn_mask` last if it has one."""
    has_gradient = options.get("attn_mask") is not None and options["attn_mask"].dtype != bool
    options.setdefault("rng", as_key(KEY))
    y, lse = fd.scaled_dot_product_attention(q, k, v, p, return_lse=True, **options)
    gradients = fd.scaled_dot_product_attention_backward(
        dy, q, k, v, y, lse, p, return_dattn_mask=has_gradient, **options
    )
    return (y, lse, *gradients)


def check(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], dy: NDArray[Any], p: float, **options: Any
) -> None:
    """Compare with the reference, in values, dtypes and layouts."""
    keep = ref.mask(KEY, p, (*q.shape[:-1], k.shape[-2]))
    expected: Attention = attention(q, k, v, dy, keep, p, **options)
    y, lse, dq, dk, dv, *dbias = both(q, k, v, dy, p, **options)
    # In half precision the gradients begin with a rounded y.
    times = 10.0 if y.dtype.itemsize == 2 else 1.0
    for actual, wanted in ((dq, expected.dq), (dk, expected.dk), (dv, expected.dv)):
        assert actual.dtype == q.dtype.newbyteorder("=")
        close(actual, wanted, times)
    close(y, expected.y)
    assert y.dtype == q.dtype.newbyteorder("=")
    close(lse, expected.lse)
    assert lse.dtype == (np.float64 if y.dtype == np.float64 else np.float32)
    assert y.swapaxes(-3, -2).flags.c_contiguous
    if dbias:
        bias = options["attn_mask"]
        assert dbias[0].dtype == bias.dtype.newbyteorder("=")
        wide = dbias[0].astype(lse.dtype)
        close(wide, sum_to(expected.dscores, bias.shape), 1e4 if y.dtype.itemsize == 2 else 1.0)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays and options of a call."""
    dtype = draw(st.sampled_from(DTYPES))
    batch = draw(st.sampled_from([(), (1,), (2,), (3,)]))
    key_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries = draw(st.sampled_from([1, 2, 17, 63, 64, 65, 130]))
    keys = draw(st.sampled_from([1, 3, 16, 127, 128, 129, 257, 300]))
    features = draw(st.sampled_from([1, 5, 16, 24, 33, 64, 70]))
    width = draw(st.sampled_from([1, 8, 17, 32, 64, 66, 100]))
    seed = draw(st.integers(0, 1000))
    arrays = {
        "q": numbers((*batch, key_heads * group, queries, features), dtype, seed),
        "k": numbers((*batch, key_heads, keys, features), dtype, seed + 1),
        "v": numbers((*batch, key_heads, keys, width), dtype, seed + 2),
        "dy": numbers((*batch, key_heads * group, queries, width), dtype, seed + 3),
    }
    options: dict[str, Any] = {
        name: laid_out(array, draw(st.sampled_from(LAYOUTS))) for name, array in arrays.items()
    }
    options["p"] = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    options["is_causal"] = draw(st.sampled_from(CAUSAL))
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.0, 0.3, -0.2, 1.0]))
    kind = draw(st.sampled_from(["none", "bool", "float", "wide"]))
    if kind != "none":
        whole = (*batch, key_heads * group, queries, keys)
        shape = tuple(length if draw(st.booleans()) else 1 for length in whole)
        shape = shape[draw(st.integers(0, len(shape))) :]
        bias = numbers(shape, np.float64, seed + 4)
        bias = bias > -1.0 if kind == "bool" else np.where(bias > -1.5, bias, -np.inf)
        bias = bias.astype(dtype) if kind == "float" else bias
        options["attn_mask"] = (
            laid_out(bias, draw(st.sampled_from(LAYOUTS))) if bias.ndim > 1 else bias
        )
    return options


@settings(max_examples=100)
@given(calls())
def test_results_and_gradients_are_those_of_stored_weights(options: dict[str, Any]) -> None:
    """Shapes, strides, dtypes, masks: a wrong tile, stride, edge or rescaling would show."""
    check(**options)


@pytest.mark.parametrize("empty", ["batch", "heads", "queries", "keys", "features", "width"])
def test_any_axis_may_be_empty(empty: str) -> None:
    """Without keys, rows see nothing and give 0; without features, all keys count the same."""
    lengths = {"batch": 2, "heads": 3, "queries": 4, "keys": 5, "features": 6, "width": 7, empty: 0}
    batch, heads, queries, keys, features, width = lengths.values()
    q, k = numbers((batch, heads, queries, features)), numbers((batch, heads, keys, features))
    v, dy = numbers((batch, heads, keys, width)), numbers((batch, heads, queries, width))
    for options in ({}, {"is_causal": "lower_right"}, {"attn_mask": np.zeros((1, keys))}):
        check(q, k, v, dy, 0.5, **options)


# --- Bits ---------------------------------------------------------------------------------------

CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "float32": ((2, 4, 2, 150, 300, 40, 24), {}),
    "causal": ((1, 3, 3, 200, 333, 64, 64), {"is_causal": "lower_right", "attn_mask": True}),
    "float64": ((1, 2, 1, 70, 270, 20, 36), {"dtype": np.float64}),
    "bfloat16": ((1, 2, 2, 65, 140, 32, 80), {"dtype": BFLOAT16, "is_causal": True}),
    "one head": ((1, 1, 1, 300, 700, 16, 16), {}),
}


def results(case: str) -> tuple[NDArray[Any], ...]:
    (batch, heads, key_heads, queries, keys, features, width), options = CASES[case]
    dtype = options.get("dtype", np.float32)
    bias = numbers((heads, queries, keys), dtype, 4) if "attn_mask" in options else None
    return both(
        numbers((batch, heads, queries, features), dtype, 0),
        numbers((batch, key_heads, keys, features), dtype, 1),
        numbers((batch, key_heads, keys, width), dtype, 2),
        numbers((batch, heads, queries, width), dtype, 3),
        0.1,
        is_causal=options.get("is_causal", False),
        attn_mask=bias,
    )


@pytest.mark.parametrize("case", CASES)
def test_levels_and_threads_change_no_bit(case: str) -> None:
    """Sums in another order, or units that begin elsewhere, would change the last bits."""
    with running_on(LEVELS[-1], 1):
        expected = results(case)
    for level in LEVELS:
        for threads in (1, 2, 5):
            with running_on(level, threads):
                for actual, wanted in zip(results(case), expected, strict=True):
                    assert_same(actual, wanted)


DIGESTS = {
    "float32": 273852816,
    "causal": 3649495606,
    "float64": 1875633276,
    "bfloat16": 4137858001,
    "one head": 339218515,
}


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_all_machines(case: str) -> None:
    """Also of those whose compilers or libraries compute other exponentials and logarithms."""
    digest = 0
    for array in results(case):
        size = array.dtype.itemsize
        octets = np.ascontiguousarray(array).view(f"u{size}").astype(f"<u{size}")
        digest = zlib.crc32(octets, digest)
    assert digest == DIGESTS[case]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_change_no_bit(dtype: Any) -> None:
    """Elements are copied one by one in some layouts, and as vectors in others."""
    arrays = [numbers((2, 3, 70, 24), dtype, seed) for seed in range(4)]
    expected = both(*arrays, 0.3)
    for layout in LAYOUTS:
        for actual, wanted in zip(
            both(*(laid_out(array, layout) for array in arrays), 0.3), expected, strict=True
        ):
            assert_same(actual, wanted)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_is_computed_in_float32_and_rounded_once(
    level: str, dtype: Any, causal: bool
) -> None:
    """Would catch gradients of queries that are rounded after each part of the keys."""
    arrays = [numbers((1, heads, 300, 40), dtype, seed) for seed, heads in enumerate((4, 2, 2, 4))]
    wide = [array.astype(np.float32) for array in arrays]
    options: dict[str, Any] = {"rng": as_key(KEY), "is_causal": causal}
    for threads in (1, 3):  # with more threads than heads, several add to a gradient
        with running_on(level, threads):
            y, lse, *gradients = both(*arrays, 0.1, **options)
            wide_y, wide_lse = fd.scaled_dot_product_attention(
                *wide[:3], 0.1, return_lse=True, **options
            )
            assert_same(y, wide_y.astype(dtype))
            assert_same(lse, wide_lse)
            wide_gradients = fd.scaled_dot_product_attention_backward(
                wide[3], *wide[:3], y.astype(np.float32), lse, 0.1, **options
            )
            for gradient, wide_gradient in zip(gradients, wide_gradients, strict=True):
                assert_same(gradient, wide_gradient.astype(dtype))


# --- The mask -----------------------------------------------------------------------------------


def test_fused_and_unfused_calls_with_one_key_drop_the_same() -> None:
    q, k, v = (numbers((2, 3, 40, 16), seed=seed) for seed in range(3))
    scores = np.exp(q @ k.swapaxes(-1, -2) / 4.0)
    weights = fd.dropout(scores / scores.sum(axis=-1, keepdims=True), 0.3, rng=as_key(KEY))
    y, mask = fd.scaled_dot_product_attention(q, k, v, 0.3, rng=as_key(KEY), return_mask=True)
    close(y, weights @ v)
    assert mask == fd.Mask((2, 3, 40, 40), 0.3, as_key(KEY))


def test_a_generator_draws_the_key_that_dropout_draws() -> None:
    q = numbers((1, 2, 5, 4))
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    _, mask = fd.scaled_dot_product_attention(q, q, q, 0.4, rng=one, return_mask=True)
    _, unfused = fd.dropout(np.ones((1, 2, 5, 5)), 0.4, rng=other, return_mask=True)
    assert mask == unfused
    fd.scaled_dot_product_attention(q, q, q, 0.4, training=False, rng=one)
    fd.scaled_dot_product_attention(q, q, q, 0.0, rng=one)
    assert one.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize(
    "start", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 64, 0), (1, 1, 70, 0)]
)
def test_a_shard_draws_its_part_of_the_whole(start: tuple[int, ...]) -> None:
    """Would catch an index that starts at 0, or steps of the shard instead of the whole."""
    q, k, v, dy = (numbers((2, 3, 140, 20), np.float32, seed) for seed in range(4))
    whole = fd.Mask((2, 3, 140, 140), 0.3, as_key(KEY))
    b, h, i, _ = start
    part = whole.region(start, (2 - b, 3 - h, 140 - i, 140))
    expected = fd.scaled_dot_product_attention(q, k, v, mask=whole)[b:, h:, i:]
    shard = (q[b:, h:, i:], k[b:, h:], v[b:, h:], dy[b:, h:, i:])
    y, lse = fd.scaled_dot_product_attention(*shard[:3], mask=part, return_lse=True)
    np.testing.assert_array_equal(y, expected)
    dq, *_ = fd.scaled_dot_product_attention_backward(shard[3], *shard[:3], y, lse, mask=part)
    full = attention(q, k, v, dy, whole.to_numpy(), 0.3)
    close(dq, full.dq[b:, h:, i:])


def test_evaluation_and_p_0_keep_all_and_draw_nothing() -> None:
    q = numbers((1, 2, 70, 8), np.float32)
    y = fd.scaled_dot_product_attention(q, q, q, 0.0)
    assert_same(fd.scaled_dot_product_attention(q, q, q, 0.7, training=False), y)
    close(y, attention(q, q, q, q, np.ones((1, 2, 70, 70), bool), 0.0).y)


# --- Special numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1.0, np.nan, np.inf])
def test_p_1_gives_zeros_forward_and_backward(number: float) -> None:
    q = np.full((1, 2, 70, 8), number)
    y, _, *gradients = both(q, q, q, q, 1.0, attn_mask=np.zeros((70, 70)))
    for zeros in (y, *gradients):
        assert_same(zeros, np.zeros(zeros.shape))


@pytest.mark.parametrize("kind", ["bool", "-inf", "causal"])
def test_rows_that_see_nothing_give_0_and_no_gradient(level: str, kind: str) -> None:
    q, k, v = numbers((2, 70, 8)), numbers((2, 33, 8), seed=1), numbers((2, 33, 8), seed=2)
    seen = np.arange(70)[:, np.newaxis] > 36
    options: dict[str, Any] = {"is_causal": "lower_right"}
    if kind != "causal":
        options = {"attn_mask": seen if kind == "bool" else np.where(seen, 0.0, -np.inf)}
    y, lse, dq, *others = both(q, k, v, np.ones((2, 70, 8)), 0.2, **options)
    rows = slice(0, 37)
    assert not y[:, rows].any()
    assert not dq[:, rows].any()
    assert np.isneginf(lse[:, rows]).all()
    assert all(np.isfinite(one).all() for one in (y, dq, *others))
    assert y[:, 37:].all(axis=-1).any()


def test_a_row_of_nan_is_nan_unless_all_its_weights_are_dropped(level: str) -> None:
    """Dropped weights are 0 also where they are NaN."""
    q, k = numbers((1, 400, 8)), numbers((1, 2, 8), seed=1)
    q[:, ::2] = np.nan
    mask = ref.mask(KEY, 0.5, (1, 400, 2))
    y = fd.scaled_dot_product_attention(q, k, k, 0.5, rng=as_key(KEY))
    kept = mask.any(axis=-1)
    assert not y[~kept].any()
    assert np.isnan(y[:, ::2][kept[:, ::2]]).all()
    assert np.isfinite(y[:, 1::2]).all()


@pytest.mark.parametrize("payload", [0x7FC00001, 0x7F800001, 0xFFC12345])
def test_no_bits_of_a_nan_lead_out_of_it(level: str, payload: int) -> None:
    """2^x adds to the exponent what the low bits say."""
    q = numbers((1, 3, 4), np.float32)
    q.view(np.uint32)[0, 1, 2] = payload
    y = fd.scaled_dot_product_attention(
        q, numbers((1, 3, 4), np.float32, 1), q[:, :1].repeat(3, 1), 0.0
    )
    assert np.isnan(y[0, 1]).all()
    assert np.isfinite(y[0, 0]).all()


def test_large_scores_do_not_overflow() -> None:
    """A maximum that is stale, or a rescaling that is left out, would overflow or lose keys."""
    q = np.ones((1, 2, 3, 4))
    line = np.linspace(-300.0, 300.0, 1000)[np.newaxis, np.newaxis, :, np.newaxis]
    for keys in (line, line[:, :, ::-1]):
        keys = np.broadcast_to(keys, (1, 2, 1000, 4))
        check(q, keys, keys, q, 0.2, scale=1.0)


# --- Gradients ----------------------------------------------------------------------------------


def test_gradients_are_finite_differences() -> None:
    arrays = {
        "q": numbers((2, 2, 5, 3)), "k": numbers((2, 1, 6, 3), seed=1),
        "v": numbers((2, 1, 6, 2), seed=2), "attn_mask": numbers((2, 1, 6), seed=3),
    }  # fmt: skip
    dy = numbers((2, 2, 5, 2), seed=4)

    def total(**arrays: Any) -> float:
        y = fd.scaled_dot_product_attention(**arrays, p=0.3, rng=as_key(KEY), is_causal=True)
        return float((y * dy).sum())

    bias = arrays["attn_mask"]
    _, _, *gradients = both(
        *(arrays[name] for name in "qkv"), dy, 0.3, attn_mask=bias, is_causal=True
    )
    for name, gradient in zip(("q", "k", "v", "attn_mask"), gradients, strict=True):
        direction = numbers(arrays[name].shape, seed=5)
        moved = [
            total(**{**arrays, name: arrays[name] + step * direction}) for step in (-1e-6, 1e-6)
        ]
        assert (moved[1] - moved[0]) / 2e-6 == pytest.approx(
            float((gradient * direction).sum()), rel=1e-6
        )


def test_gradients_have_the_layout_of_their_arrays() -> None:
    q, k, v = (laid_out(numbers((2, 3, 40, 8), seed=seed), "heads inside") for seed in range(3))
    _, _, *gradients = both(q, k, v, numbers((2, 3, 40, 8)), 0.1)
    assert all(gradient.strides == q.strides for gradient in gradients)


# --- Output and memory --------------------------------------------------------------------------


def test_out_gets_the_bits_of_a_new_array() -> None:
    """Also where it shares memory with an input, which is still read."""
    q, k, v = (numbers((1, 2, 70, 16), np.float32, seed) for seed in range(3))
    expected = fd.scaled_dot_product_attention(q, k, v, 0.3, rng=as_key(KEY))
    out = np.empty_like(q)
    assert fd.scaled_dot_product_attention(q, k, v, 0.3, rng=as_key(KEY), out=out) is out
    assert_same(out, expected)
    assert fd.scaled_dot_product_attention(q, k, v, 0.3, rng=as_key(KEY), out=v) is v
    assert_same(v, expected)


LONG = """
import resource, sys
import numpy as np
import fastdrop as fd
fd.set_num_threads(2)
x = np.ones((1, 1, 12_000, 16), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y, lse = fd.scaled_dot_product_attention(x, x, x, 0.1, rng=fd.Key(0), return_lse=True)
fd.scaled_dot_product_attention_backward(x, x, x, x, y, lse, 0.1, rng=fd.Key(0))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_number_of_weights() -> None:
    """All weights would be 550 MiB, the mask alone 17."""
    output = subprocess.run(
        [sys.executable, "-c", LONG], capture_output=True, text=True, check=True
    )
    assert int(output.stdout) < 16 << 10  # KiB


# --- Bad input ----------------------------------------------------------------------------------

X = np.ones((2, 4, 5, 6), np.float32)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"q": X[0, 0]}, r"q must have the shape \(batch, heads, queries, features\), or one without"),
    ({"k": X[..., :5]}, r"k must have the shape \(2, heads, keys, 6\), got \(2, 4, 5, 5\)"),
    ({"k": X[:1]}, r"k must have the shape \(2, heads, keys, 6\), got \(1, 4, 5, 6\)"),
    ({"k": X[0]}, r"k must have the shape \(2, heads, keys, 6\), got \(4, 5, 6\)"),
    ({"v": X[:, :, :3]}, r"v must have the shape \(2, 4, 5, features\), got \(2, 4, 3, 6\)"),
    (
        {"k": X[:, :3], "v": X[:, :3]},
        "k must have a number of heads that divides that of q, 4, got 3",
    ),
    (
        {"k": X[:, :0], "v": X[:, :0]},
        "k must have a number of heads that divides that of q, 4, got 0",
    ),
    (
        {"k": X.astype(np.float64)},
        r"k must have dtype float32, got float64: use k.astype\('float32'\)",
    ),
    ({"q": X.astype(int)}, r"q must have dtype float32, .*, got int64: use q.astype\(np.float32\)"),
    ({"q": X + 0j}, r"q must have a real dtype, got complex64"),
    ({"v": np.ones((2, 4, 5, 257), np.float32)}, r"v must have at most 256 features, got 257"),
    ({"p": 1.5}, r"p must be a number in \[0, 1\], got 1.5"),
    (
        {"attn_mask": X[0, 0, :3, :5] > 0},
        r"attn_mask must broadcast to shape \(2, 4, 5, 5\), got \(3, 5\)",
    ),
    ({"attn_mask": np.ones((1, 2, 4, 5, 5), bool)}, r"attn_mask must broadcast to shape"),
    (
        {"attn_mask": np.ones((5, 5), int)},
        r"attn_mask must have dtype .*, got int64: use attn_mask.astype",
    ),
    (
        {"attn_mask": np.ones((5, 5), complex)},
        r"attn_mask must have a real dtype or bool, got complex128",
    ),
    (
        {"is_causal": "left"},
        r"is_causal must be True, False, 'upper_left' or 'lower_right', got 'left'",
    ),
    ({"is_causal": 1}, r"is_causal must be True, False, 'upper_left' or 'lower_right', got 1"),
    ({"scale": np.inf}, r"scale must be a finite number, got inf"),
    ({"out": X[0]}, r"out must have shape \(2, 4, 5, 6\), got \(4, 5, 6\)"),
    ({"out": X.astype(np.float64)}, r"out must have dtype float32, got float64"),
    (
        {"mask": fd.Mask((2, 4, 5), 0.5, fd.Key(0)), "rng": None},
        r"mask must be of shape \(2, 4, 5, 5\), got \(2, 4, 5\)",
    ),
    ({"mask": np.ones((2, 4, 5, 5), bool), "rng": None}, r"mask must be a Mask, got ndarray"),
    ({"rng": "seed"}, r"rng must be"),
    ({"training": 1}, r"training must be True or False, got 1"),
    ({"dropout_p": 0.1}, "scaled_dot_product_attention has no argument 'dropout_p': p is the prob"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_a_mistake_is_named_before_anything_is_drawn_or_written(
    wrong: dict[str, Any], message: str
) -> None:
    rng, out = np.random.default_rng(0), np.zeros((2, 4, 5, 6), np.float32)
    state = rng.bit_generator.state
    with pytest.raises((TypeError, ValueError), match="^" + message):
        fd.scaled_dot_product_attention(**{"q": X, "k": X, "v": X, "rng": rng, "out": out, **wrong})
    assert rng.bit_generator.state == state
    assert not out.any()


BACKWARD: list[tuple[dict[str, Any], str]] = [
    (
        {"rng": None},
        "rng must be the Key of the forward call, or mask the mask it returned, got None",
    ),
    ({"rng": 3}, "rng must be the Key of the forward call, or mask the mask it returned, got 3"),
    ({"dy": X[0]}, r"dy must have the shape \(2, 4, 5, 6\), got \(4, 5, 6\)"),
    ({"dy": X.astype(np.float64)}, "dy must have dtype float32, got float64"),
    ({"y": X[:, :, :2]}, r"y must have the shape \(2, 4, 5, 6\), got \(2, 4, 2, 6\)"),
    ({"lse": X}, r"lse must have the shape \(2, 4, 5\), got \(2, 4, 5, 6\)"),
    ({"lse": np.ones((2, 4, 5))}, "lse must have dtype float32, got float64"),
    ({"return_dattn_mask": True}, "attn_mask must have a float dtype to have a gradient, got None"),
    (
        {"attn_mask": np.ones((5, 5), bool), "return_dattn_mask": True},
        "attn_mask must have a float dtype",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), BACKWARD)
def test_a_mistake_in_the_gradient_is_named(wrong: dict[str, Any], message: str) -> None:
    right = {"dy": X, "q": X, "k": X, "v": X, "y": X, "lse": X[..., 0], "rng": fd.Key(0)}
    with pytest.raises((TypeError, ValueError), match="^" + message):
        fd.scaled_dot_product_attention_backward(**{**right, **wrong})
