"""Sums and activations fused with dropout, beside plain NumPy: values, gradients, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from numpy.typing import NDArray
from support import BFLOAT16, DTYPES, KEY, as_key, assert_same, bits, running_on

Array = NDArray[Any]
REAL = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


# --- Values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_spares_the_residual_but_not_the_bias(
    level: str, p: float, training: bool, mode: Any
) -> None:
    rng = np.random.default_rng(0)
    x, residual = rng.standard_normal((2, 9, 70))
    bias = rng.standard_normal(70)
    key = ref.fold_in(KEY, 0)
    keep = ref.mask(key, p, x.shape) if training else np.True_
    scale = 1.0
    if training and mode == "inverted" and p < 1.0:
        scale = 1.0 / (1.0 - p)
    if not training and mode == "standard":
        scale = 1.0 - p
    options: dict[str, Any] = {"training": training, "mode": mode, "rng": as_key(key)}
    add = residual + np.where(keep, x * scale, 0.0)
    bias_add = residual + np.where(keep, (x + bias) * scale, 0.0)
    np.testing.assert_allclose(fd.dropout_add(x, residual, p, **options), add, rtol=1e-14)
    y = fd.bias_dropout_add(x, bias, residual, p, **options)
    np.testing.assert_allclose(y, bias_add, rtol=1e-14)
    first = fd.DropoutAdd(p, mode=mode, rng=as_key(KEY)).train(training)
    np.testing.assert_allclose(first(x, residual), add, rtol=1e-14)
    dx, dresidual = first.backward(x)
    np.testing.assert_allclose(dx, np.where(keep, x * scale, 0.0), rtol=1e-14)
    np.testing.assert_array_equal(dresidual, x)
    second = fd.BiasDropoutAdd(p, mode=mode, rng=as_key(KEY)).train(training)
    np.testing.assert_allclose(second(x, bias, residual), bias_add, rtol=1e-14)
    dx, dbias, dresidual = second.backward(x)
    np.testing.assert_allclose(dx, np.where(keep, x * scale, 0.0), rtol=1e-14)
    np.testing.assert_allclose(dbias, dx.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(dresidual, x)


def test_inputs_that_do_not_fit_are_refused() -> None:
    x = np.zeros((3, 4), dtype=np.float32)
    with pytest.raises(TypeError, match=r"residual must have dtype float32, .*, got int64"):
        fd.dropout_add(x, np.zeros((3, 4), dtype=np.int64), rng=1)
    with pytest.raises(
        TypeError, match=r"residual must have a dtype .* with float16, got bfloat16"
    ):
        fd.dropout_add(x.astype(np.float16), x.astype(BFLOAT16), rng=1)
    with pytest.raises(TypeError, match=r"x must have a real dtype, got complex64"):
        fd.gelu_dropout_backward(x, x.astype(np.complex64), 0.5, rng=fd.Key(1))
    with pytest.raises(TypeError, match=r"out must have dtype float64, got float32"):
        fd.dropout_add(x, np.zeros((3, 4)), rng=1, out=x)
    with pytest.raises(TypeError, match=r"residual must be an array, got None; .* call dropout$"):
        fd.dropout_add(x, None, rng=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"bias must be an array, got None; .* call dropout_add$"):
        fd.BiasDropoutAdd(rng=1)(x, None, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"bias must broadcast to shape \(3, 4\), got \(3,\)"):
        fd.bias_dropout_add(x, np.zeros(3, dtype=np.float32), x, rng=1)
    with pytest.raises(ValueError, match=r"previous must broadcast"):
        fd.zoneout(x, np.zeros((2, 3, 4), dtype=np.float32), rng=1)
    layer = fd.DropoutAdd(rng=1)
    with pytest.raises(TypeError):
        layer(x, np.zeros((3, 4), dtype=np.int64))
    assert layer.calls == 0


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000, 4_300_001])
def test_results_do_not_depend_on_length_or_alignment(level: str, size: int) -> None:
    """Around a line of 16; and past the cache, where writes are streamed, from odd addresses."""
    memory = np.random.default_rng(0).standard_normal((3, size + 3), dtype=np.float32)
    keep = fd.Mask(size, 0.3, as_key(KEY))
    kept = keep.to_numpy()
    scale = np.float32(1 / 0.7)
    for start in (0, 3):
        x, residual, out = (row[start : start + size] for row in memory)
        fd.dropout_add(x, residual, 0.3, rng=as_key(KEY), out=out)
        np.testing.assert_array_equal(out, np.where(kept, residual + x * scale, residual))


def test_an_output_may_overlap_an_input() -> None:
    memory = np.arange(1.0, 1002.0)
    x, residual = memory[:-1].copy(), memory[1:].copy()
    expected = fd.dropout_add(x, residual, 0.5, rng=as_key(KEY))
    fd.dropout_add(x, memory[1:], 0.5, rng=as_key(KEY), out=memory[:-1])
    np.testing.assert_array_equal(memory[:-1], expected)
    assert fd.dropout_add(x, residual, 0.5, rng=as_key(KEY), out=residual) is residual
    np.testing.assert_array_equal(residual, expected)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_activations_handle_special_values(level: str, dtype: np.dtype[Any]) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4], dtype=dtype)
    relu = fd.relu_dropout(x, 0.0).astype(np.float64)
    np.testing.assert_array_equal(relu, [np.nan, np.inf, 0, 0, 0, x[5], 0])
    slope = fd.relu_dropout_backward(np.ones_like(x), x, 0.0, rng=fd.Key(0)).astype(np.float64)
    np.testing.assert_array_equal(slope[1:], [1, 0, 0, 0, 1, 0])
    for approximate in ("none", "tanh"):
        y = fd.gelu_dropout(x, 0.0, approximate=approximate).astype(np.float64)
        np.testing.assert_array_equal(y, [np.nan, np.inf, np.nan, 0, 0, x[5], 0])
        dy = fd.gelu_dropout_backward(
            np.ones_like(x), x, 0.0, approximate=approximate, rng=fd.Key(0)
        )
        np.testing.assert_allclose(dy.astype(np.float64)[1:], [1, 0, 0.5, 0.5, 1, 0], atol=1e-12)


NAN, INF = np.nan, np.inf
X = [NAN, INF, -INF, -0.0, 1e4, -1e4, 6.0, -3.0]
SPECIAL_VALUES: dict[str, tuple[list[float], list[float]]] = {
    "silu": ([NAN, INF, NAN, -0.0, 1e4, -0.0], [NAN, 1, 0, 0.5, 1, 0]),
    "leaky_relu": ([NAN, INF, -INF, -0.0, 1e4, -100], [0.01, 1, 0.01, 0.01, 1, 0.01]),
    "elu": ([NAN, INF, -1, -0.0, 1e4, -1], [1, 1, 0, 1, 1, 0]),
    "tanh": ([NAN, 1, -1, -0.0, 1, -1], [NAN, 0, 0, 1, 0, 0]),
    "sigmoid": ([NAN, 1, 0, 0.5, 1, 0], [NAN, 0, 0, 0.25, 0, 0]),
    "relu6": ([NAN, 6, 0, -0.0, 6, 0, 6, 0], [1, 0, 0, 0, 0, 0, 0, 0]),
    "hardswish": ([NAN, INF, NAN, -0.0, 1e4, -0.0, 6, -0.0], [1, 1, 0, 0.5, 1, 0, 1, 0]),
}


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("activation", SPECIAL_VALUES)
def test_named_activations_are_right_at_the_ends_and_corners(
    level: str, activation: Any, dtype: np.dtype[Any]
) -> None:
    """In vectors and in the rest; signs of zeros count."""
    for count in (1, 40):
        values, slopes = (np.repeat(row, count) for row in SPECIAL_VALUES[activation])
        x = np.repeat(X, count)[: len(values)].astype(dtype)
        y = fd.activation_dropout(x, 0.0, activation=activation)
        np.testing.assert_allclose(y.astype(np.float64), values, rtol=2e-3)
        known = ~np.isnan(values)
        np.testing.assert_array_equal(np.signbit(y)[known], np.signbit(values)[known])
        dy = fd.activation_dropout_backward(
            np.ones_like(x), x, 0.0, activation=activation, rng=fd.Key(0)
        )
        np.testing.assert_allclose(dy.astype(np.float64), slopes, rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_named_activations_are_accurate_to_a_few_units(level: str, dtype: Any) -> None:
    """Near 0 as well: e^x - 1 and tanh must not cancel. At exact numbers, for float64."""
    x = np.concatenate([np.linspace(-80, 80, 16_385), np.linspace(-1, 1, 4097) * 2.0**-9])
    x = x.astype(dtype)
    wide = x.astype(np.longdouble)
    sigmoid = 1 / (1 + np.exp(-wide))
    tanh = np.tanh(wide)
    expected = {
        "silu": (wide * sigmoid, sigmoid * (1 + wide / (1 + np.exp(wide)))),
        "elu": (
            np.where(wide > 0, wide, np.expm1(wide)),
            np.where(wide > 0, 1, np.exp(wide)),
        ),
        "tanh": (tanh, 1 / np.cosh(wide) ** 2),
        "sigmoid": (sigmoid, sigmoid / (1 + np.exp(wide))),
    }
    few = 6 * np.finfo(dtype).eps
    for activation, (values, slopes) in expected.items():
        y = fd.activation_dropout(x, 0.0, activation=activation)
        np.testing.assert_allclose(y, values.astype(np.float64), rtol=few, err_msg=activation)
        ones, key = np.ones_like(x), fd.Key(0)
        dy = fd.activation_dropout_backward(ones, x, 0.0, activation=activation, rng=key)
        np.testing.assert_allclose(dy, slopes.astype(np.float64), rtol=few, atol=few / 4)


def test_evaluation_knows_the_parameter_of_an_activation() -> None:
    x = np.linspace(-3, 3, 50)
    elu = np.where(x > 0.0, x, 0.7 * np.expm1(x))
    options: dict[str, Any] = {"activation": "elu", "alpha": 0.7}
    for mode, scale in (("inverted", 1.0), ("standard", 0.6)):
        layer = fd.ActivationDropout(0.4, mode=mode, **options).eval()  # type: ignore[arg-type]
        np.testing.assert_allclose(layer(x), scale * elu, rtol=1e-15)
        y = fd.activation_dropout(x, 0.4, training=False, mode=mode, **options)
        np.testing.assert_array_equal(y, layer(x))
        slope = scale * np.where(x > 0.0, 1.0, 0.7 * np.exp(x))
        np.testing.assert_allclose(layer.backward(np.ones(50)), slope, rtol=1e-15)


SPECIAL = np.array([-1.0, np.inf, np.nan, 2.0, -0.0], dtype=np.float32)


def test_evaluation_at_p_1_gives_plus_zero() -> None:
    """Standard mode keeps 1 - p of everything: +0.0, also of NaN and infinity."""
    zeros, ones = np.zeros_like(SPECIAL), np.ones_like(SPECIAL)
    evaluated: dict[str, Any] = {"training": False, "mode": "standard"}
    for function in (fd.dropout, fd.locked_dropout, fd.relu_dropout, fd.gelu_dropout):
        assert_same(function(SPECIAL, 1.0, **evaluated), zeros)
    for backward in (fd.relu_dropout_backward, fd.gelu_dropout_backward):
        assert_same(backward(SPECIAL, SPECIAL, 1.0, **evaluated), zeros)
    assert_same(fd.dropout_add(SPECIAL, ones, 1.0, **evaluated), ones)
    assert_same(fd.bias_dropout_add(SPECIAL, ones, ones, 1.0, **evaluated), ones)
    for layer in (fd.Dropout, fd.ReluDropout, fd.GeluDropout):
        drop = layer(1.0, mode="standard").eval()
        assert_same(drop(SPECIAL), zeros)
        assert_same(drop.backward(SPECIAL), zeros)
    add = fd.DropoutAdd(1.0, mode="standard").eval()
    assert_same(add(SPECIAL, ones), ones)
    assert_same(add.backward(SPECIAL)[0], zeros)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_a_bias_gradient_is_summed_in_enough_precision(dtype: np.dtype[Any]) -> None:
    """4,096 ones are more than bfloat16 and float16 can count one by one."""
    x = np.ones((4096, 8), dtype=dtype)
    layer = fd.BiasDropoutAdd(0.0, rng=1)
    layer(x, x[0], x[:1])
    _, dbias, dresidual = layer.backward(x)
    assert_same(dbias, np.full(8, 4096, dtype=dtype))
    assert_same(dresidual, np.full((1, 8), 4096, dtype=dtype))


@pytest.mark.parametrize("of_dy", REAL, ids=str)
@pytest.mark.parametrize("of_x", REAL, ids=str)
def test_an_activation_takes_a_gradient_of_another_dtype(of_x: Any, of_dy: Any) -> None:
    """In the wider precision: rounding x to the dtype of dy first would move slopes."""
    x, dy = (np.random.default_rng(seed).standard_normal(300) for seed in (0, 1))
    x, dy = x.astype(of_x), dy.astype(of_dy)
    wide = np.float64 if np.float64 in (of_x, of_dy) else np.float32
    arguments, options = (dy.astype(wide), x.astype(wide), 0.3), {"rng": fd.Key(1).fold_in(0)}
    expected = fd.gelu_dropout_backward(*arguments, **options)
    layer = fd.GeluDropout(0.3, rng=fd.Key(1))
    layer(x)
    assert_same(layer.backward(dy), expected.astype(of_dy))
    if {of_x, of_dy} != {np.dtype(np.float16), BFLOAT16}:
        gradient = fd.gelu_dropout_backward(dy, x, 0.3, **options)
        assert_same(gradient, expected.astype(np.result_type(of_dy, of_x)))


def test_layers_return_each_gradient_in_the_dtype_of_its_input() -> None:
    x, bias, dy = (np.random.default_rng(seed).standard_normal((50, 8)) for seed in (0, 1, 2))
    x, bias, residual = x.astype(np.float16), bias[0].astype(np.float32), np.ones((50, 1))
    keep = ref.mask(ref.fold_in(KEY, 0), 0.3, x.shape)
    dx = np.where(keep, dy * (1 / 0.7), 0.0)
    layer = fd.BiasDropoutAdd(0.3, rng=as_key(KEY))
    assert layer(x, bias, residual).dtype == np.float64
    of_x, of_bias, of_residual = layer.backward(dy)
    assert_same(of_x, dx.astype(np.float16))
    np.testing.assert_allclose(of_bias, dx.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(of_residual, dy.sum(axis=1, keepdims=True), rtol=1e-12)
    assert (of_bias.dtype, of_residual.dtype) == (np.float32, np.float64)
    for other, gradient in ((fd.DropoutAdd, dy), (fd.Zoneout, np.where(keep, 0.0, dy))):
        several = other(0.3, rng=as_key(KEY))
        assert several(x, np.zeros(x.shape, np.complex128)).dtype == np.complex128
        of_x, of_other = several.backward(dy + 1j)
        scale = 1 / 0.7 if other is fd.DropoutAdd else 1.0
        assert_same(of_x, np.where(keep, dy * scale, 0.0).astype(np.float16))
        assert_same(of_other.real.copy(), gradient)
        assert of_other.dtype == np.complex128


@pytest.mark.parametrize("dtype", [*REAL, np.dtype(np.complex64)], ids=str)
def test_python_numbers_promote_as_in_a_sum_of_numpy(dtype: np.dtype[Any]) -> None:
    x = np.ones(5, dtype=dtype)
    for number in (0.1, 2j):
        expected = x + number
        assert_same(fd.dropout_add(x, number, 0.0), expected)
        assert_same(fd.bias_dropout_add(x, number, x * 0, 0.0), expected)
    assert_same(fd.zoneout(x, np.float64(2.0), 1.0), np.full(5, 2.0, (x + np.zeros(1)).dtype))


def test_bad_options_are_refused() -> None:
    x = np.zeros((3, 4))
    for call, text in (
        (lambda: fd.gelu_dropout(x, approximate="erf"), "approximate must be 'none' or 'tanh'"),
        (lambda: fd.GeluDropout(approximate="erf"), "approximate must be 'none' or 'tanh'"),
        (lambda: fd.relu_dropout(x, mode="other"), "mode must be"),
        (
            lambda: fd.activation_dropout(x, activation="swish"),
            "activation must be one of 'relu', .*'",
        ),
        (lambda: fd.ActivationDropout(activation=3), "activation must be one of .*, got 3"),
        (
            lambda: fd.activation_dropout(x, activation="tanh", alpha=1.0),
            "alpha must not be given for tanh, got 1.0",
        ),
        (
            lambda: fd.ActivationDropout(activation="elu", negative_slope=0.1),
            "negative_slope must not be given for elu, got 0.1",
        ),
        (
            lambda: fd.activation_dropout(x, activation="elu", alpha=np.inf),
            "alpha must be a finite number, got inf",
        ),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="x must have a real dtype"):
        fd.relu_dropout(x.astype(np.complex64), rng=1)


# --- Layouts and dtypes --------------------------------------------------------------------------


def reverse(x: Array) -> Array:
    return x[::-1, ..., ::-1].copy()[::-1, ..., ::-1]


def strided(x: Array) -> Array:
    wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1] + 1), dtype=x.dtype)
    wide[..., 1::3] = x
    return wide[..., 1::3]


def permuted(x: Array) -> Array:
    axes = (*range(1, x.ndim), 0)
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def one_value_per_row(x: Array) -> Array:
    return np.ascontiguousarray(x[..., :1])


def one_row(x: Array) -> Array:
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1])[0])


LAYOUTS: list[Callable[[Array], Array]] = [
    np.ascontiguousarray,
    np.asfortranarray,
    permuted,
    reverse,
    strided,
    lambda x: x.astype(x.dtype.newbyteorder()),
]
SHARED: list[Callable[[Array], Array]] = [*LAYOUTS, one_value_per_row, one_row]
# Short and long rows, as rows and as columns; several blocks of transposed ones, and a rest.
SHAPES = [(1, 1), (3, 5), (40, 3), (3, 700), (1030, 67), (67, 2100), (4, 6, 130)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_each_input_is_read_in_its_own_layout(
    level: str, threads: int, layout: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(shape) + layout)
    x, a, b = rng.standard_normal((3, *shape)).astype(np.float32)
    keep = ref.mask(KEY, 0.3, shape)
    scale = np.float32(1 / 0.7)
    key = as_key(KEY)
    first = LAYOUTS[layout](x)
    for second in range(len(SHARED)):
        bias, residual = SHARED[second](a), SHARED[-1 - second](b)
        out = LAYOUTS[second % 4](np.zeros_like(x))
        expected = np.where(keep, residual + (x + bias) * scale, residual)
        fd.bias_dropout_add(first, bias, residual, 0.3, rng=key, out=out)
        np.testing.assert_array_equal(bits(out), bits(expected), err_msg=f"{second}")
        y = fd.zoneout(first, bias, 0.3, rng=key)
        np.testing.assert_array_equal(bits(y), bits(np.where(keep, x, bias)), err_msg=f"{second}")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex64], ids=str)
def test_elements_of_every_size_are_read_in_every_layout(dtype: Any) -> None:
    shape = (130, 300)
    x, a = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    keep = ref.mask(KEY, 0.3, shape)
    for make in LAYOUTS:
        for other in SHARED:
            previous = other(a)
            y = fd.zoneout(make(x), previous, 0.3, rng=as_key(KEY))
            expected = np.where(keep, x, previous).astype(dtype)
            np.testing.assert_array_equal(bits(y), bits(expected))


@pytest.mark.parametrize("start", [0, 1, 15])
def test_long_columns_are_read_right_across_blocks(level: str, start: int) -> None:
    """Columns of whole cache lines that begin inside one: blocks are counted from before them."""
    shape = (37, 2064)
    x, residual = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    memory = np.zeros(x.size + 32, dtype=np.float32)
    first = -memory.ctypes.data // 4 % 16 + start
    out = memory[first : first + x.size].reshape(shape)
    fd.dropout_add(x.T, residual.T, 0.3, rng=as_key(KEY), out=out.T)
    keep = ref.mask(KEY, 0.3, shape[::-1]).T
    expected = np.where(keep, residual + x * np.float32(1 / 0.7), residual)
    np.testing.assert_array_equal(bits(out), bits(expected))


def added(keep: Array, x: Array, bias: Array, residual: Array) -> Array:
    """Return ``residual + dropout(x + bias)`` for p = 0.3, in the dtype of NumPy's sum.

    It is computed in the widest precision, at least float32, and rounded once.
    """
    empty = [np.empty(0, dtype=array.dtype) for array in (x, bias, residual)]
    dtype = (empty[0] + empty[1] + empty[2]).dtype
    wide = np.result_type(dtype, np.float32)
    x, bias, residual = (array.astype(wide) for array in (x, bias, residual))
    scale = np.zeros(1, wide).real + 1 / 0.7
    return np.where(keep, residual + (x + bias) * scale, residual).astype(dtype)


PROMOTED = [
    (one, other) for one in DTYPES for other in DTYPES if {one, other} != {np.dtype("f2"), BFLOAT16}
]


@pytest.mark.parametrize(("first", "second"), PROMOTED, ids=str)
def test_dtypes_are_promoted_and_results_rounded_once(level: str, first: Any, second: Any) -> None:
    """In every layout and byte order of either array; would catch a float16 rounded on the way."""
    shape = (37, 131)
    x, a, b = np.random.default_rng(0).standard_normal((3, *shape))
    x, a, b = x.astype(first), a.astype(second), b.astype(second)
    keep = ref.mask(KEY, 0.3, shape)
    for number, other in enumerate(SHARED):
        if BFLOAT16 in (first, second) and LAYOUTS[-1] in (other, LAYOUTS[number % len(LAYOUTS)]):
            continue  # NumPy cannot swap bfloat16
        make, bias, residual = LAYOUTS[number % len(LAYOUTS)], other(a), SHARED[number - 1](b)
        if second == BFLOAT16:
            residual = b
        expected = added(keep, x, bias, residual)
        y = fd.bias_dropout_add(make(x), bias, residual, 0.3, rng=as_key(KEY))
        np.testing.assert_array_equal(y, expected, err_msg=f"{number}")
        assert y.dtype.newbyteorder("=") == expected.dtype
        out = np.zeros(shape, expected.dtype, order="F")
        fd.bias_dropout_add(make(x), bias, residual, 0.3, rng=as_key(KEY), out=out)
        np.testing.assert_array_equal(out, expected)


def test_three_dtypes_meet_in_the_widest() -> None:
    shape = (3, 100)
    x, bias, residual = np.random.default_rng(0).standard_normal((3, *shape))
    keep = ref.mask(KEY, 0.3, shape)
    for dtypes in (("f2", "f4", "f8"), (BFLOAT16, "c8", "f8"), ("f8", BFLOAT16, "f4")):
        arrays = [a.astype(dtype) for a, dtype in zip((x, bias, residual), dtypes, strict=True)]
        y = fd.bias_dropout_add(*arrays, 0.3, rng=as_key(KEY))
        np.testing.assert_array_equal(y, added(keep, *arrays))
        assert y.dtype == added(keep, *arrays).dtype


def test_large_arrays_of_two_dtypes_are_the_same_on_any_number_of_threads() -> None:
    size = (1 << 20) + 77
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32).astype(BFLOAT16)
    residual, none = np.arange(size, dtype=np.float32), np.zeros((), np.float32)
    expected = added(ref.mask(KEY, 0.3, x.shape), x, none, residual)
    for threads in (1, 3):
        with running_on(threads=threads):
            assert_same(fd.dropout_add(x, residual, 0.3, rng=as_key(KEY)), expected)


def test_an_output_may_overlap_an_input_of_another_dtype() -> None:
    residual = np.arange(1000.0)
    for start in (0, 3, 500):
        memory = residual.copy()
        x = memory.view(np.float32)[start : start + 1000]
        x[:] = np.random.default_rng(0).standard_normal(1000)
        expected = fd.dropout_add(x.copy(), residual, 0.3, rng=as_key(KEY))
        fd.dropout_add(x, residual, 0.3, rng=as_key(KEY), out=memory)
        assert_same(memory, expected)
    assert fd.dropout_add(np.ones(1000, "f2"), residual, 0.3, rng=1, out=residual) is residual
