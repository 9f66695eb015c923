"""What all members of the family have in common, and each beside a plain NumPy statement of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from numpy.typing import NDArray
from support import BFLOAT16, KEY, as_key, assert_same, bits, running_on, values

Array = NDArray[Any]
ALPHA = -1.7580993408473766
PS = [0.0, 0.1, 0.5, 0.9, 1.0]
REAL = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


@dataclass(frozen=True)
class Case:
    """A member: layer and function with their options, an input's shape, and the mask's."""

    layer: Callable[..., Any]
    function: Callable[..., Any]
    options: dict[str, Any]
    shape: tuple[int, ...]
    shared: tuple[int, ...]

    def make(self, p: float = 0.5, **more: Any) -> Any:
        return self.layer(p, rng=as_key(KEY), **self.options, **more)


def case(layer: Any, function: Any, shape: Any, shared: Any, **options: Any) -> Any:
    name = layer.__name__ + "".join(f"-{value}" for value in options.values())
    return pytest.param(Case(layer, function, options, shape, shared), id=name)


IMAGES = (3, 5, 4, 6)
LINEAR = [
    case(fd.Dropout, fd.dropout, (3, 50), ()),
    case(fd.Dropout, fd.dropout, (3, 50), (), mode="standard"),
    case(fd.Dropout1d, fd.dropout1d, (3, 5, 7), (2,)),
    case(fd.Dropout1d, fd.dropout1d, (3, 5, 7), (1,), channel_axis=-1),
    case(fd.Dropout2d, fd.dropout2d, IMAGES, (2, 3)),
    case(fd.Dropout2d, fd.dropout2d, IMAGES, (1, 2), channel_axis=3, mode="standard"),
    case(fd.Dropout3d, fd.dropout3d, (2, 3, 2, 4, 3), (2, 3, 4)),
    case(fd.LockedDropout, fd.locked_dropout, (6, 4, 9), (0,)),
    case(fd.LockedDropout, fd.locked_dropout, (6, 4, 9), (1,), time_axis=1),
    case(fd.DropPath, fd.drop_path, (40, 3, 2), (1, 2)),
    case(fd.DropPath, fd.drop_path, (3, 40, 2), (0, 2), batch_axis=1),
    case(fd.DropPath, fd.drop_path, (4, 3, 2), (0, 1, 2), per="batch"),
    case(fd.EmbeddingDropout, fd.embedding_dropout, (60, 5), (1,)),
    case(fd.DropConnect, fd.drop_connect, (20, 11), ()),
]
NOISE = [
    case(fd.AlphaDropout, fd.alpha_dropout, (3, 50), ()),
    case(fd.FeatureAlphaDropout, fd.feature_alpha_dropout, IMAGES, (2, 3)),
    case(fd.FeatureAlphaDropout, fd.feature_alpha_dropout, IMAGES, (1, 2), channel_axis=-1),
    case(fd.GaussianDropout, fd.gaussian_dropout, (3, 50), ()),
    case(fd.GaussianDropout, fd.gaussian_dropout, IMAGES, (2, 3), broadcast_dims=(2, 3)),
]
ACTIVATION = [
    case(fd.ReluDropout, fd.relu_dropout, (3, 50), ()),
    case(fd.GeluDropout, fd.gelu_dropout, (3, 50), ()),
    case(fd.GeluDropout, fd.gelu_dropout, (3, 50), (), approximate="tanh"),
    case(fd.GeluDropout, fd.gelu_dropout, (3, 50), (), mode="standard"),
]
SAME = LINEAR + NOISE  # evaluation is the identity, unless in standard mode
ALL = SAME + ACTIVATION


def gelu(x: float, approximate: str) -> float:
    if approximate == "tanh":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * math.erfc(-x / math.sqrt(2))


def statement(member: Case, x: Array, p: float, key: ref.Key) -> Array:
    """Say what a training call does to float64."""
    options = member.options
    shape = ref.shared_shape(x.shape, member.shared)
    keep = np.broadcast_to(ref.mask(key, p, shape), x.shape)
    scale = 1.0 if p == 1.0 or options.get("mode") == "standard" else 1.0 / (1.0 - p)
    if member.layer in (fd.AlphaDropout, fd.FeatureAlphaDropout):
        if p == 1.0:
            return np.zeros_like(x)
        a = ((1 - p) * (1 + p * ALPHA**2)) ** -0.5
        return a * np.where(keep, x, ALPHA) - a * p * ALPHA
    if member.layer is fd.GaussianDropout:
        z = ref.normals(key, np.arange(math.prod(shape)).reshape(shape)).astype(np.float64)
        return np.zeros_like(x) if p == 1.0 else x * (1 + math.sqrt(p / (1 - p)) * z)
    if member.layer is fd.ReluDropout:
        return np.where(keep, np.maximum(x, 0.0) * scale, 0.0)
    if member.layer is fd.GeluDropout:
        approximate = options.get("approximate", "none")
        return np.where(keep, np.vectorize(gelu)(x, approximate) * scale, 0.0)
    return np.where(keep, x * scale, 0.0)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("member", ALL)
def test_training_follows_the_formula(level: str, member: Case, p: float) -> None:
    x = np.random.default_rng(0).standard_normal(member.shape)
    layer = member.make(p)
    for call in range(2):
        key = ref.fold_in(KEY, call)
        expected = statement(member, x, p, key)
        np.testing.assert_allclose(layer(x), expected, rtol=1e-13, atol=1e-15)
        drawn = member.function(x, p, rng=as_key(key), **member.options)
        np.testing.assert_allclose(drawn, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("member", ALL)
def test_every_dtype_agrees_with_the_formula_in_float64(member: Case, dtype: np.dtype[Any]) -> None:
    """To the last digit of the dtype, or of float32 where the arithmetic is in that."""
    x = np.random.default_rng(1).standard_normal(member.shape).astype(dtype)
    y = member.function(x, 0.3, rng=as_key(KEY), **member.options)
    assert y.dtype == dtype
    expected = statement(member, x.astype(np.float64), 0.3, KEY)
    digits = {2: 2.0**-8 if dtype == BFLOAT16 else 2.0**-11, 4: 1e-6, 8: 1e-14}[dtype.itemsize]
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=digits, atol=digits / 8)


@pytest.mark.parametrize("member", ALL)
def test_p_1_gives_zeros(member: Case) -> None:
    """Plus zero from anything, NaN and infinity included, forward and backward."""
    x = values(member.shape, np.float32)
    layer = member.make(1.0)
    zeros = np.zeros_like(x)
    assert_same(layer(x), zeros)
    assert_same(layer.backward(x), zeros)
    assert_same(member.function(x, 1.0, rng=1, **member.options), zeros)


@pytest.mark.parametrize("member", SAME)
def test_p_0_and_evaluation_return_x_itself(member: Case) -> None:
    x = values(member.shape, np.float32)
    layer = member.make(0.0)
    assert layer(x) is x
    assert layer.backward(x) is x
    assert layer.calls == 1
    assert member.function(x, 0.0, rng=1, **member.options) is x
    if member.options.get("mode") != "standard":
        layer = member.make(0.5).eval()
        assert layer(x) is x
        assert layer.backward(x) is x
        assert member.function(x, 0.5, training=False, **member.options) is x
    assert layer.mask is None or layer.mask.p == 0.0


@pytest.mark.parametrize("member", ALL)
def test_layout_and_out_do_not_change_the_result(member: Case) -> None:
    x = np.random.default_rng(2).standard_normal(member.shape).astype(np.float32)
    key = as_key(KEY)
    expected = member.function(x, 0.5, rng=key, **member.options)
    assert_same(expected, member.function(x, 0.5, rng=key, **member.options))
    wide = np.zeros(tuple(2 * length for length in x.shape), dtype=x.dtype)
    strided = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    strided[...] = x
    reverse = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    for layout in (np.asfortranarray(x), strided, reverse, x.astype(">f4")):
        y = member.function(layout, 0.5, rng=key, **member.options)
        np.testing.assert_array_equal(bits(y), bits(expected))
    out = np.full_like(x, np.nan, order="F")
    assert member.function(x, 0.5, rng=key, out=out, **member.options) is out
    np.testing.assert_array_equal(bits(out), bits(expected))
    same = x.copy()
    assert member.function(same, 0.5, rng=key, out=same, **member.options) is same
    assert_same(same, expected)


@pytest.mark.parametrize("member", ALL)
def test_threads_do_not_change_the_result(level: str, member: Case) -> None:
    shape = (*member.shape[:-1], -(-(1 << 20) // math.prod(member.shape[:-1])))
    x = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    drawn = []
    for threads in (1, 3):
        with running_on(threads=threads):
            drawn.append(member.function(x, 0.3, rng=as_key(KEY), **member.options))
    assert_same(drawn[1], drawn[0])


@pytest.mark.parametrize("member", SAME)
def test_in_place_gives_the_same_numbers(member: Case) -> None:
    """And refuses a read-only x without counting the call."""
    x = np.random.default_rng(2).standard_normal(member.shape).astype(np.float32)
    layer = member.make(0.5)
    expected = layer(x)
    gradient = layer.backward(x)
    layer = member.make(0.5, inplace=True)
    same = x.copy()
    assert layer(same) is same
    assert_same(same, expected)
    assert_same(layer.backward(x), gradient)
    same.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        layer(same)
    assert layer.calls == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("member", ALL)
def test_gradients_are_the_slopes(member: Case, training: bool) -> None:
    """Central differences in float64, along one random direction; away from ReLU's corner."""
    rng = np.random.default_rng(4)
    x, direction, dy = rng.standard_normal((3, *member.shape))
    x += np.where(np.abs(x) < 1e-3, 0.01, 0.0)
    layer = member.make(0.3).train(training).hold()
    step = 1e-5
    slope = np.sum(dy * (layer(x + step * direction) - layer(x - step * direction))) / (2 * step)
    layer(x)
    assert np.sum(layer.backward(dy) * direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("member", ALL)
def test_bad_input_is_refused_and_does_not_count(member: Case) -> None:
    layer = member.make(0.5)
    for bad in (np.zeros(member.shape, dtype=np.int32), np.ma.zeros(member.shape)):
        with pytest.raises(TypeError):
            layer(bad)
        with pytest.raises(TypeError):
            member.function(bad, 0.5, rng=1, **member.options)
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward(np.zeros(member.shape))
    assert layer.calls == 0
    x = np.zeros(member.shape)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p must be"):
            member.function(x, p, rng=1, **member.options)
        with pytest.raises(ValueError, match="p must be"):
            member.make(p)
    with pytest.raises(TypeError, match="training must be"):
        member.function(x, 0.5, training=1, rng=1, **member.options)
    with pytest.raises(ValueError, match="out must have shape"):
        member.function(x, 0.5, rng=1, out=np.zeros(3), **member.options)
    layer(x)
    with pytest.raises(ValueError, match="shape of x"):
        layer.backward(np.zeros((2, 2, 2, 2, 2, 2)))
    assert repr(layer).startswith(type(layer).__name__ + "(p=0.5")


# --- Ranks and axes ------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [3, 4, 5])
def test_wrong_ranks_and_channel_axes_are_refused(ndim: int) -> None:
    function = {3: fd.dropout1d, 4: fd.dropout2d, 5: fd.dropout3d}[ndim]
    layer = {3: fd.Dropout1d, 4: fd.Dropout2d, 5: fd.Dropout3d}[ndim](rng=1)
    for wrong in (ndim - 1, ndim + 1):
        for call in (lambda x: function(x, 0.5, rng=1), layer):
            with pytest.raises(ValueError, match=f"x must have {ndim} axes, with the batch first"):
                call(np.zeros((2,) * wrong))
    for axis, kind in ((0, ValueError), (-ndim, ValueError), (ndim, ValueError), (1.0, TypeError)):
        with pytest.raises(kind, match="channel_axis must"):
            function(np.zeros((2,) * ndim), 0.5, channel_axis=axis, rng=1)
        with pytest.raises(kind, match="channel_axis must"):
            type(layer)(channel_axis=axis)


def test_bad_options_are_refused() -> None:
    x = np.zeros((3, 4))
    for call, text in (
        (lambda: fd.drop_path(x, per="row"), "per must be 'sample' or 'batch', got 'row'"),
        (lambda: fd.DropPath(per="row"), "per must be 'sample' or 'batch', got 'row'"),
        (lambda: fd.drop_path(x, batch_axis=2), "batch_axis must be an axis"),
        (lambda: fd.locked_dropout(x, time_axis=-3), "time_axis must be an axis"),
        (lambda: fd.embedding_dropout(x[0]), "weight must have 2 axes"),
        (lambda: fd.EmbeddingDropout(rng=1)(x[0]), "weight must have 2 axes"),
        (lambda: fd.gelu_dropout(x, approximate="erf"), "approximate must be 'none' or 'tanh'"),
        (lambda: fd.GeluDropout(approximate="erf"), "approximate must be 'none' or 'tanh'"),
        (lambda: fd.relu_dropout(x, mode="other"), "mode must be"),
        (lambda: fd.feature_alpha_dropout(x[0]), "x must have at least 2 axes"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    for call, text in (
        (lambda: fd.drop_path(x, scale_by_keep=1), "scale_by_keep must be True or False"),
        (lambda: fd.alpha_dropout(x.astype(np.complex64), rng=1), "x must have a real dtype"),
        (lambda: fd.relu_dropout(x.astype(np.complex64), rng=1), "x must have a real dtype"),
    ):
        with pytest.raises(TypeError, match=text):
            call()


def test_layers_refuse_a_bad_axis_when_made() -> None:
    """Would catch a layer that notices it only when it is called."""
    for make, name in (
        (fd.LockedDropout, "time_axis"),
        (fd.DropPath, "batch_axis"),
        (fd.FeatureAlphaDropout, "channel_axis"),
    ):
        for bad in ("a", 1.0, None):
            with pytest.raises(TypeError, match=f"{name} must be an int, got {bad!r}"):
                make(**{name: bad})
        assert getattr(make(**{name: np.int64(-1)}), name) == -1
    with pytest.raises(ValueError, match="channel_axis must not be axis 0, the batch, got 0"):
        fd.FeatureAlphaDropout(channel_axis=0)


def test_the_repr_shows_what_is_not_default() -> None:
    assert repr(fd.LockedDropout()) == "LockedDropout(p=0.5, inplace=False)"
    assert repr(fd.LockedDropout(time_axis=1)) == "LockedDropout(p=0.5, inplace=False, time_axis=1)"
    assert repr(fd.DropPath()) == "DropPath(p=0.5, inplace=False)"
    odd = fd.DropPath(per="batch", batch_axis=1, scale_by_keep=False)
    assert repr(odd) == (
        "DropPath(p=0.5, inplace=False, per='batch', batch_axis=1, scale_by_keep=False)"
    )


def test_drop_path_without_scale_only_drops() -> None:
    x = np.full((100, 3), 3.0)
    y = fd.drop_path(x, 0.5, scale_by_keep=False, rng=as_key(KEY))
    np.testing.assert_array_equal(y, np.where(ref.mask(KEY, 0.5, (100, 1)), x, 0.0))
    assert fd.drop_path(x, 0.5, scale_by_keep=False, training=False) is x
    layer = fd.DropPath(0.5, scale_by_keep=False, rng=as_key(KEY))
    np.testing.assert_array_equal(np.unique(layer(x)), [0.0, 3.0])
    assert layer.eval()(x) is x


def test_drop_path_rates_rise_linearly_to_p() -> None:
    assert fd.drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert fd.drop_path_rates(0.3, 1) == [0.3]
    assert fd.drop_path_rates(0.3, 0) == []
    assert fd.drop_path_rates(0.6, [1, 2, 1]) == [[0.0], pytest.approx([0.2, 0.4]), [0.6]]
    assert fd.drop_path_rates(0.6, [2, 1], stagewise=True) == [[0.0, 0.0], [0.6]]
    for p in (0.1, 0.2, 0.3, 0.7, 1.0):
        for depth in range(1, 50):
            assert fd.drop_path_rates(p, depth)[-1] == p
            assert max(fd.drop_path_rates(p, depth)) == p
    with pytest.raises(ValueError, match="stagewise"):
        fd.drop_path_rates(0.5, 3, stagewise=True)
    with pytest.raises(ValueError, match="depth must be an int of at least 0, got -1"):
        fd.drop_path_rates(0.5, -1)
    with pytest.raises(ValueError, match="p must be"):
        fd.drop_path_rates(1.5, 3)


# --- Alpha dropout -------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    """A million standard normals: 5 standard errors, false alarm 6e-7 each; the seed is fixed.

    The fourth moment of the result is below 3 + alpha'^4 a^4 < 40 for these p.
    """
    x = np.random.default_rng(0).standard_normal(1_000_000)
    y = fd.alpha_dropout(x, p, rng=0)
    assert abs(y.mean()) < 5e-3
    assert abs(y.var() - 1.0) < 5 * math.sqrt(40 / 1e6)


# --- Several arrays ------------------------------------------------------------------------------


def test_each_weight_has_a_mask_of_its_own() -> None:
    weights = [values((30, 20), np.float32, seed) for seed in range(3)]
    layer = fd.WeightDrop(0.5, rng=as_key(KEY))
    key = ref.fold_in(KEY, 0)
    expected = [ref.dropout(w, 0.5, ref.fold_in(key, n)) for n, w in enumerate(weights)]
    for actual, wanted in zip(layer(weights), expected, strict=True):
        assert_same(actual, wanted)
    for actual, wanted in zip(layer.backward(weights), expected, strict=True):
        assert_same(actual, wanted)
    for actual, wanted in zip(fd.weight_drop(weights, 0.5, rng=as_key(key)), expected, strict=True):
        assert_same(actual, wanted)
    assert layer.calls == 1
    assert all(a is b for a, b in zip(layer.eval()(weights), weights, strict=True))
    assert all(a is b for a, b in zip(layer.backward(weights), weights, strict=True))
    with pytest.raises(ValueError, match="gradients must have the shapes"):
        layer.backward(weights[:2])


def test_weights_that_are_all_kept_or_refused_draw_no_key() -> None:
    weights = [np.ones((2, 3)), np.ones(4)]
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert fd.weight_drop(weights, 0.5, training=False, rng=rng)[1] is weights[1]
    assert fd.weight_drop(weights, 0.0, rng=rng)[1] is weights[1]
    for bad in ({"p": 2.0}, {"mode": "other"}, {"training": 1}):
        with pytest.raises((TypeError, ValueError), match="must be"):
            fd.weight_drop(weights, **{"rng": rng, **bad})
    with pytest.raises(TypeError, match="weights must have dtype"):
        fd.weight_drop([np.ones(2), np.ones(2, int)], rng=rng)
    assert rng.bit_generator.state == before
    fd.weight_drop(weights, 0.5, rng=rng)
    assert rng.bit_generator.state != before


def test_one_array_is_refused_as_a_list_of_weights() -> None:
    """Would catch an array that is taken for the sequence of its rows."""
    layer = fd.WeightDrop(rng=0)
    layer([np.ones((2, 3))])
    for bad, kind in ((np.ones((2, 3)), "ndarray"), (3.0, "float"), (None, "NoneType")):
        text = f" must be a sequence of arrays, got {kind}"
        with pytest.raises(TypeError, match="weights" + text):
            fd.weight_drop(bad, 0.5, rng=0)
        with pytest.raises(TypeError, match="weights" + text):
            layer(bad)
        with pytest.raises(TypeError, match="gradients" + text):
            layer.backward(bad)
    assert layer.calls == 1


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", [*REAL, np.dtype(np.complex64)], ids=str)
def test_zoneout_takes_the_previous_state_where_it_drops(
    level: str, dtype: np.dtype[Any], p: float
) -> None:
    new, previous = values((40, 33), dtype, 1), values((40, 33), dtype, 2)
    keep = ref.mask(ref.fold_in(KEY, 0), p, (40, 33))
    layer = fd.Zoneout(p, rng=as_key(KEY))
    expected = np.where(keep, new, previous)
    assert_same(layer(new, previous), expected)
    assert_same(fd.zoneout(new, previous, p, rng=as_key(KEY).fold_in(0)), expected)
    dnew, dprevious = layer.backward(new)
    zero = np.zeros((), dtype=dtype)
    assert_same(dnew, np.where(keep, new, zero))
    assert_same(dprevious, np.where(keep, zero, new))
    for got, wanted in zip(
        fd.zoneout_backward(new, p, rng=as_key(KEY).fold_in(0)), (dnew, dprevious), strict=True
    ):
        assert_same(got, wanted)


def test_zoneout_evaluates_to_the_mean() -> None:
    new, previous = np.random.default_rng(0).standard_normal((2, 50, 3))
    layer = fd.Zoneout(0.3, rng=as_key(KEY)).eval()
    np.testing.assert_allclose(layer(new, previous), 0.7 * new + 0.3 * previous, rtol=1e-15)
    dnew, dprevious = layer.backward(new)
    np.testing.assert_allclose(dnew, 0.7 * new, rtol=1e-15)
    np.testing.assert_allclose(dprevious, 0.3 * new, rtol=1e-15)
    many = [fd.zoneout(new, previous, 0.3, rng=key) for key in fd.Key(1).split(4000)]
    # 5 standard errors of at most sqrt(.21 / 4000) |new - previous|: false alarm 6e-7 per element.
    error = np.abs(np.mean(many, axis=0) - layer(new, previous))
    assert np.all(error < 5 * math.sqrt(0.21 / 4000) * np.abs(new - previous))


@pytest.mark.parametrize("mode", ["inverted", "standard"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", PS)
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


def test_fused_inputs_that_do_not_fit_are_refused() -> None:
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
def test_fused_results_do_not_depend_on_length_or_alignment(level: str, size: int) -> None:
    """Around a line of 16; and past the cache, where writes are streamed, from odd addresses."""
    memory = np.random.default_rng(0).standard_normal((3, size + 3), dtype=np.float32)
    keep = fd.Mask(size, 0.3, as_key(KEY))
    kept = keep.to_numpy()
    scale = np.float32(1 / 0.7)
    for start in (0, 3):
        x, residual, out = (row[start : start + size] for row in memory)
        fd.dropout_add(x, residual, 0.3, rng=as_key(KEY), out=out)
        np.testing.assert_array_equal(out, np.where(kept, residual + x * scale, residual))


def test_fused_output_may_overlap_an_input() -> None:
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


# --- What is easily lost -------------------------------------------------------------------------

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
    for p, new, previous in ((1.0, zeros, SPECIAL), (0.0, SPECIAL, zeros)):
        assert_same(fd.zoneout(SPECIAL, ones, p, training=False), ones if p else SPECIAL)
        for training in (True, False):
            gradients = fd.zoneout_backward(SPECIAL, p, training=training, rng=fd.Key(1))
            assert_same(gradients[0], new)
            assert_same(gradients[1], previous)


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


def test_zoneout_promotes_also_where_it_copies() -> None:
    new, previous = np.float32([0.1, 2.0]), np.array([0.3, 4.0])
    assert_same(fd.zoneout(new, previous, 0.0), new.astype(np.float64))
    assert_same(fd.zoneout(new, previous, 1.0), previous)
    average = 0.75 * new.astype(np.float64) + 0.25 * previous
    assert_same(fd.zoneout(new, previous, 0.25, training=False), average)
    assert fd.zoneout(new, new, 0.0) is new
