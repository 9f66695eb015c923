"""DropConnect with a mask for each example: against masks and weights that are all stored."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop._family import connect
from numpy.typing import NDArray
from support import BFLOAT16, DTYPES, KEY, SWAPPABLE, as_key, assert_same, values

pytestmark = pytest.mark.once

TOLERANCE = {np.dtype(np.float16): 2e-3, BFLOAT16: 2e-2, np.dtype(np.float32): 1e-5,
             np.dtype(np.complex64): 1e-5}  # fmt: skip


def numbers(shape: Any, dtype: Any = np.float64, seed: int = 0) -> NDArray[Any]:
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape)
    if dtype.kind == "c":
        return (array + 1j * rng.standard_normal(shape)).astype(dtype)
    return array.astype(dtype)


def wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def naive(
    x: NDArray[Any], weight: NDArray[Any], p: float, key: ref.Key, mode: str = "inverted"
) -> tuple[NDArray[np.bool_], float]:
    """Every connection of every example, and the scale."""
    mask = ref.mask(key, p, (len(x), *weight.shape))
    return mask, ref.inverse_keep(p) if mode == "inverted" else 1.0


def close(actual: NDArray[Any], expected: NDArray[Any], dtype: Any) -> None:
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    size = np.abs(expected).max(initial=1e-300)
    tolerance = TOLERANCE.get(np.dtype(dtype), 1e-12)
    np.testing.assert_allclose(wide(actual), expected, rtol=tolerance, atol=tolerance * size)


@pytest.fixture(params=[2**18, 64, 1], ids=["one tile", "tiles", "rows"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All examples at once; some, with what is left at the end; some outputs of one."""
    monkeypatch.setattr(connect, "TILE", request.param)
    return int(request.param)


# --- The function -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("shape", [(7, 3, 5), (5, 9, 40), (1, 1, 1), (3, 70, 2), (40, 1, 3)])
def test_each_example_uses_its_region_of_one_mask(
    tile: int, level: str, shape: tuple[int, int, int], mode: Any
) -> None:
    """Would catch a tile that starts at the wrong example or output, forward or backward."""
    examples, outputs, inputs = shape
    x, weight, bias = numbers((examples, inputs)), numbers((outputs, inputs)), numbers(outputs)
    dy = numbers((examples, outputs), seed=1)
    mask, scale = naive(x, weight, 0.3, KEY, mode)
    y = fd.drop_connect_linear(x, weight, bias, 0.3, mode=mode, rng=as_key(KEY))
    close(y, np.einsum("noi,oi,ni->no", mask, weight, x) * scale + bias, np.float64)
    dx, dweight, dbias = fd.drop_connect_linear_backward(
        dy, x, weight, 0.3, mode=mode, rng=as_key(KEY)
    )
    close(dx, np.einsum("noi,oi,no->ni", mask, weight, dy) * scale, np.float64)
    close(dweight, np.einsum("noi,no,ni->oi", mask, dy, x) * scale, np.float64)
    close(dbias, dy.sum(axis=0), np.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_wide_and_results_keep_their_dtype(dtype: np.dtype[Any]) -> None:
    """The half types would lose the sum of 2000 numbers if it were kept in them."""
    x, weight = numbers((3, 2000), dtype), numbers((4, 2000), dtype, seed=1)
    bias, dy = numbers(4, dtype, seed=2), numbers((3, 4), dtype, seed=3)
    mask, scale = naive(x, weight, 0.4, KEY)
    y = fd.drop_connect_linear(x, weight, bias, 0.4, rng=as_key(KEY))
    expected = np.einsum("noi,oi,ni->no", mask, wide(weight), wide(x)) * scale + wide(bias)
    close(y, expected, dtype)
    if dtype.itemsize == 2:
        once = expected.astype(np.float32).astype(dtype)
        assert np.count_nonzero(y != once) <= 1  # except a sum next to the middle of two numbers
    dx, dweight, dbias = fd.drop_connect_linear_backward(dy, x, weight, 0.4, rng=as_key(KEY))
    conjugate = np.einsum("noi,oi,no->ni", mask, wide(weight).conj(), wide(dy)) * scale
    close(dx, conjugate, dtype)
    close(dweight, np.einsum("noi,no,ni->oi", mask, wide(dy), wide(x).conj()) * scale, dtype)
    close(dbias, wide(dy).sum(axis=0), dtype)


def test_mixed_dtypes_are_promoted() -> None:
    """Would catch a complex gradient of real arrays, or one in the dtype of another array."""
    x, weight, bias = numbers((3, 5), np.float32), numbers((4, 5)), numbers(4, np.complex64)
    y = fd.drop_connect_linear(x, weight, bias, rng=as_key(KEY))
    assert y.dtype == np.complex128
    gradients = fd.drop_connect_linear_backward(y, x, weight, rng=as_key(KEY))
    assert [g.dtype for g in gradients] == [np.float32, np.float64, np.float64]
    real = fd.drop_connect_linear_backward(y.real, x, weight, rng=as_key(KEY))
    for mixed, one in zip(gradients, real, strict=True):
        np.testing.assert_array_equal(mixed, one)
    half = fd.drop_connect_linear(numbers((3, 5), np.float16), numbers((4, 5), BFLOAT16))
    assert half.dtype == np.float32


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_a_dropped_connection_carries_no_nan(tile: int, p: float) -> None:
    """From an input, a gradient or a weight; a kept connection does carry it."""
    x, weight, dy = numbers((9, 30)), numbers((8, 30), seed=1), numbers((9, 8), seed=2)
    for array, number in ((x, np.inf), (weight, -np.inf), (dy, np.inf), (x, np.nan), (dy, np.nan)):
        for row in (1, 2, 5):  # others between them are finite
            array[row, row + int(np.isnan(number))] = number
    mask, scale = naive(x, weight, p, KEY)

    def kept_sum(a: Any, b: Any, axis: int) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            return np.where(mask, a * b, 0.0).sum(axis=axis) * scale

    y = fd.drop_connect_linear(x, weight, None, p, rng=as_key(KEY))
    dx, dweight, _ = fd.drop_connect_linear_backward(dy, x, weight, p, rng=as_key(KEY))
    for actual, expected in (
        (y, kept_sum(weight, x[:, None], 2)),
        (dx, kept_sum(weight, dy[:, :, None], 1)),
        (dweight, kept_sum(dy[:, :, None], x[:, None], 0)),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
        assert p == 1.0 or 0 < np.count_nonzero(~np.isfinite(actual)) < actual.size


def test_layout_does_not_change_results() -> None:
    x, weight, dy = (numbers(shape, np.float32) for shape in ((40, 70), (60, 70), (40, 60)))
    y = fd.drop_connect_linear(x, weight, None, 0.3, rng=as_key(KEY))
    gradients = fd.drop_connect_linear_backward(dy, x, weight, 0.3, rng=as_key(KEY))
    mask = fd.Mask((40, 60, 70), 0.3, as_key(KEY)).to_numpy()
    close(y, np.einsum("noi,oi,ni->no", mask, weight, x) / 0.7, np.float32)

    def strided(a: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(a, 2, axis=1)[:, ::2]

    assert x.dtype in SWAPPABLE
    for change in (np.asfortranarray, strided, lambda a: a.astype(a.dtype.newbyteorder())):
        assert_same(
            fd.drop_connect_linear(change(x), change(weight), None, 0.3, rng=as_key(KEY)), y
        )
        for actual, expected in zip(
            fd.drop_connect_linear_backward(
                change(dy), change(x), change(weight), 0.3, rng=as_key(KEY)
            ),
            gradients,
            strict=True,
        ):
            np.testing.assert_array_equal(actual, expected)


def test_leading_axes_are_examples() -> None:
    """None of them, and axes of length 0, included."""
    x, weight, dy = numbers((2, 3, 5)), numbers((4, 5)), numbers((2, 3, 4))
    y = fd.drop_connect_linear(x, weight, None, 0.3, rng=as_key(KEY))
    flat = fd.drop_connect_linear(x.reshape(6, 5), weight, None, 0.3, rng=as_key(KEY))
    assert_same(y, flat.reshape(2, 3, 4))
    dx, _, dbias = fd.drop_connect_linear_backward(dy, x, weight, 0.3, rng=as_key(KEY))
    assert dx.shape == x.shape
    assert dbias.shape == (4,)
    assert fd.drop_connect_linear(x[0, 0], weight, None, 0.3).shape == (4,)
    for empty in ((0, 5), (2, 0, 5)):
        layer = fd.DropConnectLinear(5, 4, rng=0)
        y = layer(np.ones(empty))
        assert y.shape == (*empty[:-1], 4)
        assert layer.backward(y).shape == empty
        assert not layer.grad_weight.any()
    layer = fd.DropConnectLinear(0, 4, rng=0)
    assert_same(layer(np.ones((3, 0), np.float32)), np.tile(layer.bias, (3, 1)))
    assert layer.backward(np.ones((3, 4))).shape == (3, 0)
    assert fd.DropConnectLinear(4, 0, rng=0)(np.ones((3, 4))).shape == (3, 0)


def test_memory_is_bounded_by_tiles() -> None:
    """All masks would take 64 MB as bytes, all weights 256 MB; a tile of weights takes 1 MB."""
    x, weight = np.ones((256, 512), np.float32), np.ones((512, 512), np.float32)
    layer = fd.DropConnectLinear(512, 512, rng=0)
    tracemalloc.start()
    try:
        layer.backward(layer(x))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert layer.grad_weight.shape == weight.shape


# --- At the ends --------------------------------------------------------------------------------


def test_p_zero_and_evaluation_give_a_plain_linear_layer() -> None:
    """Scaled by 1 - p in standard mode; nothing is drawn."""
    x, weight, bias = numbers((6, 5)), numbers((4, 5)), numbers(4)
    rng = np.random.default_rng(0)
    plain = x @ weight.T + bias
    close(fd.drop_connect_linear(x, weight, bias, 0.0, rng=rng), plain, np.float64)
    close(fd.drop_connect_linear(x, weight, bias, training=False, rng=rng), plain, np.float64)
    assert rng.random() == np.random.default_rng(0).random()
    for mode, p, scale in (("inverted", 0.3, 1.0), ("standard", 0.3, 0.7), ("standard", 1.0, 0.0)):
        layer = fd.DropConnectLinear(5, 4, p, mode=mode, rng=0, dtype=np.float64).eval()
        expected = scale * (x @ layer.weight.T) + layer.bias
        close(layer(x), expected, np.float64)
        assert layer.mask is None
        assert layer.calls == 0
        dy = numbers((6, 4), seed=1)
        close(layer.backward(dy), scale * (dy @ layer.weight), np.float64)
        close(layer.grad_weight, scale * (dy.T @ x), np.float64)
        close(layer.grad_bias, dy.sum(axis=0), np.float64)


@pytest.mark.parametrize("mode", ["inverted", "standard"])
def test_p_one_leaves_only_the_bias(mode: Any) -> None:
    """Would catch NaN from the special values in x, and a bias that is dropped too."""
    layer = fd.DropConnectLinear(5, 4, 1.0, mode=mode, rng=0)
    x, dy = values((6, 5), np.float32), values((6, 4), np.float32)
    for switch in (layer.train, layer.eval):
        if mode == "inverted" and switch == layer.eval:
            continue
        assert_same(switch()(x), np.tile(layer.bias, (6, 1)))
        assert_same(layer.backward(dy), np.zeros_like(x))
        assert_same(layer.grad_weight, np.zeros((4, 5), np.float32))


# --- The layer ----------------------------------------------------------------------------------


def test_call_i_and_its_backward_use_child_key_i() -> None:
    """Would catch a backward that takes the p of now, not that of its call."""
    x, dy = numbers((6, 5), np.float32), numbers((6, 4), np.float32)
    layer = fd.DropConnectLinear(5, 4, 0.3, rng=as_key(KEY))
    for call in range(3):
        key = as_key(KEY).fold_in(call)
        assert_same(layer(x), fd.drop_connect_linear(x, layer.weight, layer.bias, 0.3, rng=key))
        assert layer.mask == fd.Mask((6, 4, 5), 0.3, key)
        layer.p = 0.9
        dx, dweight, dbias = fd.drop_connect_linear_backward(dy, x, layer.weight, 0.3, rng=key)
        assert_same(layer.backward(dy), dx)
        assert_same(layer.grad_weight, dweight)
        assert_same(layer.grad_bias, dbias)
        layer.p = 0.3
    assert layer.calls == 3


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_gradients_are_the_derivatives(mode: Any, name: str) -> None:
    """Central differences; the sum is linear in each, so they are exact."""
    layer = fd.DropConnectLinear(5, 4, 0.3, mode=mode, rng=0, dtype=np.float64).hold()
    arrays = {"x": numbers((6, 5)), "weight": layer.weight, "bias": layer.bias}
    direction, dy = numbers(arrays[name].shape, seed=4), numbers((6, 4), seed=5)
    layer(arrays["x"])
    gradient = {"x": layer.backward(dy), "weight": layer.grad_weight, "bias": layer.grad_bias}
    losses = []
    for sign in (1.0, -1.0):
        arrays[name] += sign * direction
        losses.append(np.vdot(layer(arrays["x"]), dy))
        arrays[name] -= sign * direction
    slope = (losses[0] - losses[1]) / 2
    assert slope == pytest.approx(np.vdot(gradient[name], direction), rel=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_initial_weights_are_those_documented(dtype: np.dtype[Any]) -> None:
    layer = fd.DropConnectLinear(7, 3, rng=as_key(KEY), dtype=dtype)
    parts = 2 if dtype.kind == "c" else 1
    for key, array in zip(ref.split(KEY, 2), (layer.weight, layer.bias), strict=True):
        draws = ref.uniforms(key, np.arange(array.size * parts)).astype(np.float64)
        expected = (2 * ((draws + 0.5) / 2.0**64) - 1) / np.sqrt(7)
        if parts == 2:
            expected = expected[::2] + 1j * expected[1::2]
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.reshape(-1), expected.astype(dtype))


def test_initial_weights_are_uniform_and_unrelated_to_masks() -> None:
    """False-alarm rate 3 x 6e-7: mean, mean of squares, and correlation with the first mask."""
    layer = fd.DropConnectLinear(1000, 1000, rng=fd.Key(3), dtype=np.float64)
    weight, n = layer.weight * np.sqrt(1000), 10**6
    assert np.abs(weight).max() < 1
    assert abs(weight.mean()) < 5 * np.sqrt(1 / 3 / n)
    assert abs((weight**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / n)
    layer(np.ones((1, 1000)))
    signs = layer.mask.to_numpy()[0] * 2.0 - 1.0
    assert abs((signs * weight).mean()) < 5 * np.sqrt(1 / 3 / n)


def test_saved_and_copied_layers_resume_where_they_were() -> None:
    """Would catch a state that shares its arrays, and a load that replaces the layer's."""
    x = numbers((6, 5), np.float32)
    for bias in (True, False):
        layer = fd.DropConnectLinear(5, 4, 0.3, bias=bias, rng=as_key(KEY))
        layer(x)
        layer.weight *= 2
        state, twin = layer.state_dict(), pickle.loads(pickle.dumps(layer))
        expected = layer(x)
        layer.weight *= 2  # the state does not follow
        assert_same(twin(x), expected)
        other = fd.DropConnectLinear(5, 4, bias=bias, rng=9)
        weight = other.weight
        other(x)
        other.load_state_dict(state)
        assert other.weight is weight  # an optimizer has it
        with pytest.raises(RuntimeError, match="forward"):
            other.backward(expected)
        assert_same(other(x), expected)
        assert other.p == 0.3
        assert repr(other) == repr(layer)


def test_a_bad_state_changes_nothing() -> None:
    layer = fd.DropConnectLinear(5, 4, rng=0)
    good = fd.DropConnectLinear(5, 4, 0.2, rng=1).state_dict()
    before = layer.state_dict()
    bad: list[Any] = [{**good, "weight": np.ones((5, 4))}, {**good, "weight": None},
                      {**good, "weight": np.ones((4, 5), int)}, {**good, "bias": None},
                      {**good, "bias": np.ones(5)}, {**good, "p": 2.0}, {**good, "more": 1},
                      None]  # fmt: skip
    for state in bad:
        with pytest.raises((TypeError, ValueError)):
            layer.load_state_dict(state)
        after = layer.state_dict()
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
    without = fd.DropConnectLinear(5, 4, bias=False, rng=0)
    with pytest.raises(ValueError, match="state must have None as bias, got ndarray"):
        without.load_state_dict(good)


def test_small_weights_underflow_silently() -> None:
    expected = fd.DropConnectLinear(10**5, 2, rng=0, dtype=np.float16).weight
    with np.errstate(all="raise"):
        assert_same(fd.DropConnectLinear(10**5, 2, rng=0, dtype=np.float16).weight, expected)


def test_the_error_names_what_a_state_lacks() -> None:
    for layer in (fd.DropConnectLinear(2, 3, rng=0), fd.DropConnectLinear(2, 3, bias=False, rng=0)):
        state = layer.state_dict()
        with pytest.raises(TypeError, match="state must be a mapping, got int"):
            layer.load_state_dict(3)  # type: ignore[arg-type]
        for name in state:
            less = {key: value for key, value in state.items() if key != name}
            with pytest.raises(ValueError, match=f"state must have the entry {name}, got "):
                layer.load_state_dict(less)


def test_a_real_layer_refuses_complex_weights() -> None:
    """Would catch a lost imaginary part; the other way round is fine."""
    layer = fd.DropConnectLinear(5, 4, 0.3, rng=0)
    good = fd.DropConnectLinear(5, 4, 0.2, rng=1).state_dict()
    before = layer.state_dict()
    for name in ("weight", "bias"):
        with pytest.raises(TypeError, match=f"state must have a real {name}, got complex64"):
            layer.load_state_dict({**good, name: good[name].astype(np.complex64)})
        assert_same(layer.weight, before["weight"])
        assert (bytes(layer.key).hex(), layer.p) == (before["key"], before["p"])
    wide = fd.DropConnectLinear(5, 4, rng=0, dtype=np.complex128)
    wide.load_state_dict(good)
    assert_same(wide.weight, good["weight"].astype(np.complex128))


def test_a_read_only_bias_refuses_a_state_as_a_whole() -> None:
    """Would catch a load that has changed the weights before it fails."""
    layer = fd.DropConnectLinear(5, 4, 0.3, rng=0)
    assert layer.bias is not None
    layer.bias.flags.writeable = False
    before = layer.state_dict()
    with pytest.raises(ValueError, match="bias must be writeable to load a state, got a read-only"):
        layer.load_state_dict(fd.DropConnectLinear(5, 4, 0.2, rng=1).state_dict())
    assert_same(layer.weight, before["weight"])
    assert (bytes(layer.key).hex(), layer.p) == (before["key"], before["p"])


def test_the_repr_shows_what_is_not_default() -> None:
    assert repr(fd.DropConnectLinear(5, 4)) == "DropConnectLinear(5, 4, p=0.5)"
    odd = fd.DropConnectLinear(5, 4, 0.1, bias=False, mode="standard", dtype=np.float64)
    assert repr(odd) == (
        "DropConnectLinear(5, 4, p=0.1, bias=False, mode='standard', dtype='float64')"
    )


# --- Bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((6, 4))}, r"x must have the shape \(..., 5\), got \(6, 4\)"),
        ({"x": np.ones(())}, "x must have the shape"),
        ({"x": np.ones((6, 5), int)}, "x must"),
        ({"weight": np.ones(5)}, "weight must have 2 axes"),
        ({"bias": np.ones(5)}, r"bias must have the shape \(4,\), got \(5,\)"),
        ({"bias": np.ones((1, 4))}, "bias must have the shape"),
        ({"p": 1.5}, "p must be"),
        ({"mode": "other"}, "mode must be"),
        ({"training": 1}, "training must be"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    good = {"x": np.ones((6, 5)), "weight": np.ones((4, 5)), "bias": np.ones(4)}
    with pytest.raises((TypeError, ValueError), match=message):
        fd.drop_connect_linear(**{**good, **change})


def test_the_layer_refuses_bad_arguments() -> None:
    """Would catch a refused call that counts."""
    arguments: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((-1, 4), {}, "in_features must be an int of at least 0, got -1"),
        ((5, 4.0), {}, "out_features must be"),
        ((5, 4), {"bias": 1}, "bias must be True or False"),
        ((5, 4), {"mode": "other"}, "mode must be"),
        ((5, 4), {"dtype": int}, "dtype must be float32, .* or complex128, got int64"),
        ((5, 4), {"dtype": "foo"}, "dtype must be float32, .* or complex128, got 'foo'"),
        ((5, 4), {"dtype": object}, "dtype must be .*, got object"),
        ((5, 4), {"dtype": (np.float32, (2,))}, "dtype must be .*, got "),
        ((5, 4), {"p": 2}, "p must be"),
    ]
    for positional, keywords, message in arguments:
        with pytest.raises((TypeError, ValueError), match=message):
            fd.DropConnectLinear(*positional, **keywords)
    layer = fd.DropConnectLinear(5, 4, rng=0)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(np.ones((6, 4)))
    with pytest.raises(ValueError, match="x must have the shape"):
        layer(np.ones((6, 4)))
    assert layer.calls == 0
    layer(np.ones((6, 5)))
    with pytest.raises(ValueError, match=r"dy must have the shape of the output, \(6, 4\)"):
        layer.backward(np.ones((6, 5)))
    with pytest.raises(TypeError, match="rng must be the Key"):
        fd.drop_connect_linear_backward(np.ones((6, 4)), np.ones((6, 5)), np.ones((4, 5)), rng=1)  # type: ignore[arg-type]


def test_a_signalling_nan_of_another_dtype_does_not_warn() -> None:
    x = np.full((1, 4), 0x7F800001, np.uint32).view(np.float32)
    weight = np.ones((2, 4))
    with np.errstate(all="raise"):
        fd.drop_connect_linear(x, weight, rng=1)
        fd.drop_connect_linear_backward(np.ones((1, 2)), x, weight, rng=fd.Key(1))
