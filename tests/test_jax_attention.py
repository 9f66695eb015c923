"""Attention in JAX: NumPy's bits, jax.nn's arguments, all transformations. Needs JAX."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pytest

# Before JAX starts, which reads it once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

import fastdrop as fd  # noqa: E402
import fastdrop.jax as fj  # noqa: E402
from fastdrop import _core  # noqa: E402
from jax import export  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

P = jax.sharding.PartitionSpec
pytestmark = pytest.mark.once

KEY = fd.Key(3)
attend = functools.partial(fj.dot_product_attention, dropout_p=0.3, dropout_key=KEY)
plain = fj.dot_product_attention


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def arrays(
    dtype: Any = np.float32,
    batch: tuple[int, ...] = (2,),
    *,
    queries: int = 7,
    keys: int = 9,
    heads: int = 4,
    key_heads: int = 2,
    width: int = 8,
) -> tuple[Any, Any, Any]:
    """Return queries, keys and values."""
    q = normal(*batch, queries, heads, 8, dtype=dtype, seed=1)
    k = normal(*batch, keys, key_heads, 8, dtype=dtype, seed=2)
    return q, k, normal(*batch, keys, key_heads, width, dtype=dtype, seed=3)


Q, K, V = arrays()


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def close(a: Any, b: Any, tolerance: float = 3e-6) -> bool:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance)


def swapped(*several: Any) -> list[Any]:
    return [np.asarray(x).swapaxes(-3, -2) for x in several]


def unfused(q: Any, k: Any, v: Any, bias: Any = None, p: float = 0.3, **options: Any) -> Any:
    """Attend with the mask of all weights stored, by the formula of the documentation."""
    group = q.shape[-2] // k.shape[-2]
    k, v = (jnp.repeat(x, group, -2) for x in (k, v))
    scores = jnp.einsum("...tnh,...snh->...nts", q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if options.get("is_causal"):
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    keep = fd.Mask(scores.shape, p, KEY).to_numpy()
    weights = jnp.where(keep, jax.nn.softmax(scores) / (1 - p), 0)
    return jnp.einsum("...nts,...snh->...tnh", weights, v)


# --- Values --------------------------------------------------------------------------------------

DTYPES = ["float32", "float64", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_results_and_gradients_have_the_bits_of_numpy(
    dtype: str, is_causal: bool, batch: tuple[int, ...]
) -> None:
    with jax.enable_x64(dtype == "float64"):
        q, k, v = arrays(dtype, batch, queries=70, keys=130, width=12)
        bias = normal(*batch, 1, 70, 130, dtype=dtype, seed=4)
        dy = normal(*batch, 70, 4, 12, dtype=dtype, seed=5)
        f = functools.partial(attend, is_causal=is_causal)
        y, pull = jax.vjp(f, q, k, v, bias)
        assert y.dtype == q.dtype
        _, lse = f(q, k, v, bias, return_residual=True)
        assert lse.dtype == k.dtype
        inputs = swapped(q, k, v)
        options: Any = {"attn_mask": np.asarray(bias), "is_causal": is_causal, "rng": KEY}
        expected, sums = fd.scaled_dot_product_attention(*inputs, 0.3, return_lse=True, **options)
        assert equal(y, expected.swapaxes(-3, -2))
        assert equal(lse, sums.swapaxes(-1, -2).astype(lse.dtype))
        *gradients, of_bias = fd.scaled_dot_product_attention_backward(
            *swapped(dy), *inputs, expected, sums, 0.3, return_dattn_mask=True, **options
        )
        for ours, theirs in zip(pull(dy), [*swapped(*gradients), of_bias], strict=True):
            assert ours.dtype == q.dtype
            assert equal(ours, theirs)


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "scale": {"scale": 0.7},
    "array scale": {"scale": jnp.float32(0.7)},
    "causal": {"is_causal": True},
    "bias": {"bias": normal(2, 1, 7, 9)},
    "bias of fewer axes": {"bias": normal(7, 9)},
    "mask": {"mask": normal(1, 4, 7, 9) > -1},
    "bias and mask": {"bias": normal(1, 4, 1, 9), "mask": normal(2, 1, 7, 9) > -1},
    "lengths of keys": {"key_value_seq_lengths": jnp.array([3, 9])},
    "lengths of queries": {"query_seq_lengths": jnp.array([7, 2])},
    "window": {"local_window_size": 2},
    "window of two sides": {"local_window_size": (3, 0), "bias": normal(1, 1, 7, 9)},
    "all": {
        "bias": normal(2, 4, 7, 9),
        "mask": normal(1, 1, 7, 9) > -2,
        "is_causal": True,
        "local_window_size": (4, 4),
        "query_seq_lengths": jnp.array([6, 7]),
        "key_value_seq_lengths": jnp.array([8, 9]),
        "scale": 0.5,
    },
}


@pytest.mark.parametrize("case", OPTIONS)
def test_without_dropout_each_option_is_that_of_jax(case: str) -> None:
    inputs, options = arrays(), OPTIONS[case]
    f = functools.partial(plain, **options)
    theirs = functools.partial(jax.nn.dot_product_attention, **options)
    assert close(f(*inputs), theirs(*inputs))
    valid = np.arange(7) < np.reshape(options.get("query_seq_lengths", [7, 7]), (2, 1))
    sums, expected = (g(*inputs, return_residual=True)[1] for g in (f, theirs))
    assert close(sums[valid], expected[valid])
    ours, wanted = (
        jax.jit(jax.grad(lambda *x, g=g: jnp.sin(g(*x)).sum(), (0, 1, 2)))(*inputs)
        for g in (f, theirs)
    )
    assert all(map(close, ours, wanted))


@pytest.mark.parametrize("case", OPTIONS)
def test_options_and_dropout_combine(case: str) -> None:
    """With the identity as values, the result is the weights."""
    q, k, _ = arrays(width=9)
    identity = jnp.broadcast_to(jnp.eye(9)[:, None], (2, 9, 2, 9))
    options = OPTIONS[case]
    weights = plain(q, k, identity, **options).swapaxes(1, 2)
    dropped = attend(q, k, identity, **options).swapaxes(1, 2)
    assert close(dropped, fd.dropout(np.asarray(weights), 0.3, rng=KEY))


def test_the_arguments_are_those_of_jax_in_their_order() -> None:
    import inspect

    ours, theirs = (inspect.signature(f).parameters for f in (plain, jax.nn.dot_product_attention))
    common = [name for name in theirs if name in ours]
    assert common == [name for name in theirs if name != "implementation"]
    for name in common:
        assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_flax_attends_as_by_its_own_function_and_with_the_mask_of_the_key(batch: Any) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    from fastdrop.jax.nnx import dot_product_attention as ours

    q, k, v = arrays(batch=batch, key_heads=4)
    bias, mask = normal(4, 7, 9), normal(*batch, 1, 7, 9, seed=5) > -1
    both = {"bias": bias, "mask": mask, "deterministic": True}
    assert close(ours(q, k, v, **both), nnx.dot_product_attention(q, k, v, **both))
    dropped = ours(q, k, v, dropout_rng=KEY, dropout_rate=0.3)
    one = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
    assert equal(dropped, attend(*one).reshape(dropped.shape))
    with pytest.raises(TypeError, match="module must be None"):
        ours(q, k, v, module=nnx.Dropout(0.1))


def test_queries_that_see_no_key_give_zero() -> None:
    q, k, v = arrays()
    mask = jnp.ones((7, 9), bool).at[2].set(False)
    y, pull = jax.vjp(lambda *x: attend(*x, mask=mask), q, k, v)
    assert not np.asarray(y[:, 2]).any()
    assert np.asarray(y[:, 3]).all()
    assert not np.asarray(pull(y + 1)[0][:, 2]).any()
    assert (np.asarray(plain(q, k, v, mask=mask, return_residual=True)[1][:, 2]) == -np.inf).all()
    gradient = jax.grad(lambda q: (attend(q, k, v, mask=mask) ** 2).sum())
    assert np.isfinite(jax.jit(lambda q: jax.jvp(gradient, (q,), (q,))[1])(q)).all()


def test_nothing_is_dropped_in_evaluation() -> None:
    inputs = arrays()
    expected = plain(*inputs)
    assert equal(plain(*inputs, dropout_p=0.5, deterministic=True), expected)
    assert equal(plain(*inputs, dropout_p=jnp.float32(0), dropout_key=KEY), expected)


@pytest.mark.parametrize("p", [1.0, jnp.float32(1.0)])
def test_probability_one_gives_zeros(p: Any) -> None:
    q, k, v = arrays()
    bias = normal(2, 4, 7, 9).at[0, 0, 0, 0].set(jnp.nan)
    y, pull = jax.vjp(lambda *x: plain(*x, dropout_p=p, dropout_key=KEY), q, k, v, bias)
    for zeros in (y, *pull(y + 1)):
        assert equal(zeros, np.zeros(zeros.shape))
        assert not np.signbit(zeros).any()
    assert not np.asarray(plain(q, k, v, dropout_p=1.0)).any()


def test_a_traced_p_is_the_p_of_its_precision() -> None:
    inputs = arrays()
    f = jax.jit(lambda p, key: plain(*inputs, dropout_p=p, dropout_key=key))
    for p in (0.0, 0.25, float(np.float32(0.1))):
        for key in (KEY, KEY.fold_in(1)):
            expected = plain(*inputs, dropout_p=p, dropout_key=key)
            assert equal(f(jnp.float32(p), fj.key(key)), expected)
    assert f._cache_size() == 1


@pytest.mark.parametrize(
    "lengths",
    [{"batch": (0,)}, {"queries": 0}, {"keys": 0}, {"width": 0}, {"heads": 0, "key_heads": 0}],
)
def test_empty_axes_give_empty_results_or_zeros(lengths: Any) -> None:
    q, k, v = arrays(**lengths)
    y, pull = jax.vjp(attend, q, k, v)
    assert y.shape == (*q.shape[:-1], v.shape[-1])
    assert not np.asarray(y).any()
    for gradient, x in zip(pull(y), (q, k, v), strict=True):
        assert equal(gradient, np.zeros(x.shape))


# --- Transformations -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 7, 9), (4, 1, 9), (7, 1), (2, 1, 1, 1)])
def test_derivatives_are_those_of_stored_weights(is_causal: bool, shape: tuple[int, ...]) -> None:
    with jax.enable_x64(True):
        inputs = (*arrays(float), normal(*shape, dtype=float, seed=4))

        @functools.partial(jax.jit, static_argnums=0)
        def derivatives(f: Any, *inputs: Any) -> Any:
            g = functools.partial(f, is_causal=is_causal)
            y, pull = jax.vjp(g, *inputs)
            return y, *pull(inputs[0]), *jax.jvp(g, inputs, inputs)

        for ours, theirs in zip(
            derivatives(attend, *inputs), derivatives(unfused, *inputs), strict=True
        ):
            assert close(ours, theirs, 1e-12)


def test_derivatives_of_derivatives_agree_with_differences() -> None:
    with jax.enable_x64(True):
        inputs = arrays(float, (1,), queries=3, keys=4, heads=2, key_heads=1)
        check_grads(jax.jit(attend), (*inputs, normal(2, 1, 4, dtype=float, seed=4)), order=2)


def test_only_what_is_needed_has_a_gradient() -> None:
    q, k, v = arrays()
    bias = normal(7, 9)
    loss = lambda q, k, v, bias: (attend(q, k, v, bias) ** 2).sum()  # noqa: E731
    every = jax.grad(loss, (0, 1, 2, 3))(q, k, v, bias)
    for at in range(4):
        assert equal(jax.grad(loss, at)(q, k, v, bias), every[at])
    residual = lambda q: plain(q, k, v, return_residual=True)[1].sum()  # noqa: E731
    assert not np.asarray(jax.grad(residual)(q)).any()
    scale = lambda s: (attend(q, k, v, scale=s) ** 2).sum()  # noqa: E731
    slope = jax.grad(scale)(jnp.float32(0.5))
    assert close(slope, (scale(0.501) - scale(0.499)) / 0.002, 1e-2)


def test_gradients_keep_nothing_of_the_size_of_the_weights() -> None:
    q, k, v = arrays(queries=200, keys=300)
    _, pull = jax.vjp(attend, q, k, v)
    kept = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(pull))
    y_and_lse = q.nbytes + 2 * 4 * 200 * 4
    assert kept <= q.nbytes + k.nbytes + v.nbytes + y_and_lse + 64


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_compiled_and_recomputed_functions_give_the_same_bits(wrap: Any) -> None:
    f = functools.partial(attend, is_causal=True)
    pulled = [jax.vjp(g, *arrays())[1](Q) for g in (wrap(f), f)]
    assert equal(wrap(f)(*arrays()), f(*arrays()))
    assert all(map(equal, *pulled))


MODES = {
    "disable_jit": jax.disable_jit,
    "debug_nans": lambda: jax.debug_nans(True),
    "checking_leaks": jax.checking_leaks,
    "enable_x64": lambda: jax.enable_x64(True),
    "strict types": lambda: jax.numpy_dtype_promotion("strict"),
    "equal ranks": lambda: jax.numpy_rank_promotion("raise"),
}


@pytest.mark.parametrize("mode", MODES)
def test_results_are_the_same_in_all_modes(mode: str) -> None:
    q, k, v = arrays(queries=3, keys=4)
    options = {**OPTIONS["all"], "bias": normal(4, 1, 4), "mask": normal(4) > -2}
    options |= {"whole": (2, 4, 3, 4), "start": (0, 0, 0, 0)}

    def f(q: Any, p: Any) -> Any:
        g = lambda q: attend(q, k, v, **{**options, "dropout_p": p})  # noqa: E731
        y, pull = jax.vjp(g, q)
        return y, *pull(q), jax.jvp(g, (q,), (q,))[1]

    p = jnp.float32(0.3)
    expected = jax.jit(f)(q, p)
    with MODES[mode]():
        y, *derivatives = jax.jit(lambda *x: f(*x))(q, p)
    assert equal(y, expected[0])
    assert all(map(close, derivatives, expected[1:]))


def test_jacobians_in_both_directions_agree() -> None:
    """Forward and backward map a batch of tangents over one input."""
    with jax.enable_x64(True):
        q, k, v = arrays(float, (1,), queries=2, keys=3, heads=2)
        f = lambda q: (unfused(q, k, v) ** 3).sum()  # noqa: E731
        g = lambda q: (attend(q, k, v) ** 3).sum()  # noqa: E731
        forward, backward = (jax.jit(jac(attend))(q, k, v) for jac in (jax.jacfwd, jax.jacrev))
        assert close(forward, backward, 1e-10)
        assert close(jax.jit(jax.hessian(g))(q), jax.jit(jax.hessian(f))(q), 1e-10)


def test_a_batch_shares_a_mask_unless_it_has_keys() -> None:
    q, k, v = (jnp.stack([x, 2 * x, x - 1]) for x in arrays())
    assert equal(jax.vmap(attend)(q, k, v), [attend(*x) for x in zip(q, k, v, strict=True)])
    keys = jax.random.split(fj.key(KEY), 3)
    f = lambda q, k, v, key: plain(q, k, v, dropout_p=0.3, dropout_key=key)  # noqa: E731
    each = [f(*x, key) for *x, key in zip(q, k, v, KEY.split(3), strict=True)]
    assert equal(jax.vmap(f)(q, k, v, keys), each)
    shared = [f(q[0], k[0], v[0], key) for key in KEY.split(3)]
    assert equal(jax.vmap(f, (None, None, None, 0))(q[0], k[0], v[0], keys), shared)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_batches_are_batches_of_gradients(order: int) -> None:
    """Of inputs along other axes, or none: those sum over the batch."""
    with jax.enable_x64(True):
        q, k, v = arrays(float, queries=3, keys=4)
        bias = normal(4, 1, 4, dtype=float, seed=4)
        examples = jnp.stack([q, 2 * q]), jnp.stack([v, v - 1], 1)
        keys = jax.random.split(fj.key(KEY), 2)

        def loss(q: Any, v: Any, k: Any, bias: Any, key: Any) -> Any:
            f = lambda *x: (plain(*x, dropout_p=0.3, dropout_key=key) ** 2).sum()  # noqa: E731
            if order == 1:
                return f(q, k, v, bias)
            return sum((x**2).sum() for x in jax.grad(f, (1, 3))(q, k, v, bias))

        axes = (0, 1, None, None, 0)
        batched = lambda *x: jax.vmap(loss, axes)(*x, keys).sum()  # noqa: E731
        looped = lambda qs, vs, k, bias: sum(  # noqa: E731
            loss(qs[n], vs[:, n], k, bias, keys[n]) for n in range(2)
        )
        inputs = (*examples, k, bias)
        for ours, theirs in zip(
            jax.jit(jax.grad(batched, (0, 1, 2, 3)))(*inputs),
            jax.jit(jax.grad(looped, (0, 1, 2, 3)))(*inputs),
            strict=True,
        ):
            assert close(ours, theirs, 1e-10)
        gradient = jax.jit(jax.grad(loss, (0, 3)))
        each = jax.vmap(gradient, axes)(*inputs, keys)
        expected = [
            gradient(q, v, k, bias, key)
            for q, v, key in zip(examples[0], jnp.moveaxis(examples[1], 1, 0), keys, strict=True)
        ]
        for at in range(2):
            assert close(each[at], [one[at] for one in expected], 1e-10)


# --- Shards and exported functions ---------------------------------------------------------------


def mesh() -> Any:
    return jax.make_mesh((2, 2), ("i", "j"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


SHARDS = {
    "batch and heads": ((P("i", None, "j"),) * 3, P("i", "j"), (0, 1)),
    "batch and queries": ((P("i", "j"), P("i"), P("i")), P("i", None, "j"), (0, 2)),
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards_compute_their_part_of_the_whole(case: str) -> None:
    specs, of_bias, axes = SHARDS[case]
    q, k, v = arrays(queries=8, keys=8)
    bias = normal(2, 4, 8, 8)
    options: Any = {"is_causal": True, "local_window_size": 5}

    @functools.partial(
        jax.shard_map, mesh=mesh(), in_specs=(*specs, of_bias, P()), out_specs=specs[0]
    )
    def sharded(q: Any, k: Any, v: Any, bias: Any, key: Any) -> Any:
        start = [0, 0, 0, 0]
        for axis, name in zip(axes, "ij", strict=True):
            start[axis] = jax.lax.axis_index(name) * bias.shape[axis]
        place: Any = {"whole": (2, 4, 8, 8), "start": start, "dropout_key": key}
        return plain(q, k, v, bias, dropout_p=0.3, **place, **options)

    f = jax.jit(sharded)
    loss = lambda g, *x: (g(*x) ** 2).sum()  # noqa: E731
    whole = lambda *x: attend(*x, **options)  # noqa: E731
    inputs = (q, k, v, bias)
    for g in (sharded, f) if case == "batch and queries" else (f,):
        assert equal(g(*inputs, fj.key(KEY)), whole(*inputs))
    ours = jax.jit(jax.grad(lambda *x: loss(f, *x, fj.key(KEY)), (0, 1, 2, 3)))(*inputs)
    wanted = jax.jit(jax.grad(functools.partial(loss, whole), (0, 1, 2, 3)))(*inputs)
    assert all(map(close, ours, wanted))
    along = lambda g: jax.jit(lambda q: jax.jvp(g, (q,), (q,))[1])(q)  # noqa: E731
    tangent = along(lambda q: f(q, k, v, bias, fj.key(KEY)))
    assert close(tangent, along(lambda q: whole(q, k, v, bias)))


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_a_compiled_function_of_sharded_arrays_gathers_nothing(key_heads: int) -> None:
    """Batch and heads are sharded; forward and backward have the bits of one device."""
    inputs = *arrays(key_heads=key_heads), normal(1, 4, 7, 9)
    heads = P("i", None, "j")
    specs = heads, *(2 * [heads if key_heads > 1 else P("i")]), P(None, "j")
    shardings = [jax.sharding.NamedSharding(mesh(), spec) for spec in specs]
    sharded = [jax.device_put(x, one) for x, one in zip(inputs, shardings, strict=True)]

    @jax.jit
    def f(*inputs: Any) -> Any:
        y, backward = jax.vjp(lambda *x: attend(*x, is_causal=True), *inputs)
        return y, backward(y)

    assert "all-gather" not in f.lower(*sharded).compile().as_text()
    y, (dq, *others) = f(*sharded)
    whole, (of_query, *of_others) = f(*inputs)
    assert equal(y, whole)
    assert equal(dq, of_query)
    assert all(map(close, others, of_others))
    assert y.sharding.is_equivalent_to(shardings[0], 4)


def test_a_part_without_a_batch_is_a_part_of_the_whole() -> None:
    q, k, v = arrays(batch=())
    y = attend(q, k, v, is_causal=True)
    f = jax.jit(
        lambda n: attend(
            jax.lax.dynamic_slice_in_dim(q, n, 3),
            k,
            v,
            is_causal=True,
            whole=(4, 7, 9),
            start=(0, n, 0),
        )
    )
    for n in (0, 2, 4):
        assert equal(f(n), y[n : n + 3])
    with pytest.raises(ValueError, match="region must lie inside"):
        f(5).block_until_ready()


def test_exported_functions_take_batches_of_any_size() -> None:
    allowed = [
        export.DisabledSafetyCheck.custom_call(f"fastdrop.{name}") for name in _core.xla_handlers()
    ]
    q, k, v = arrays()
    f = lambda q, k, v: attend(q, k, v, is_causal=True, local_window_size=3)  # noqa: E731
    shapes = export.symbolic_args_specs((q, k, v), "b, t, ...")
    made = export.export(jax.jit(f), disabled_checks=allowed)(*shapes)
    made = export.deserialize(made.serialize(vjp_order=1))
    for size in (1, 2):
        inputs = q[:size], k[:size, :7], v[:size, :7]
        assert equal(made.call(*inputs), f(*inputs))
        ours, wanted = (
            jax.grad(lambda *x, g=g: (g(*x) ** 2).sum(), (0, 1, 2))(*inputs) for g in (made.call, f)
        )
        assert all(map(close, ours, wanted))


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": None}, "query must be an array, got NoneType"),
        ({"mask": object()}, "mask must be an array, got object"),
        ({"query": Q.astype(int)}, "query must have dtype float32, .* or bfloat16, got int32"),
        ({"query": Q.astype("complex64")}, "query must have dtype float32, .* got complex64"),
        ({"query": Q[0, 0]}, "query must have the shape \\(batch, queries, heads, features\\), or"),
        ({"key": K.astype("float16")}, "key must have dtype float32, got float16: use key.astype"),
        ({"key": K[0]}, "key must have the shape \\(2, keys, key heads, 8\\), got \\(9, 2, 8\\)"),
        ({"key": K[:1]}, "key must have the shape \\(2, keys, key heads, 8\\), got"),
        ({"value": V[:, 1:]}, "value must have the shape \\(2, 9, 2, features\\), got"),
        ({"query": Q[:, :, :3]}, "key must have a number of heads that divides .* 3, got 2"),
        ({"value": jnp.ones((2, 9, 2, 257))}, "value must have at most 256 features, got 257"),
        ({"bias": jnp.ones((7, 8))}, "bias must broadcast to \\(2, 4, 7, 9\\), got \\(7, 8\\)"),
        ({"bias": jnp.ones((7, 9), bool)}, "bias must have dtype .* got bool: give bools as mask"),
        ({"bias": jnp.ones((7, 9), int)}, "bias must have dtype .* got int32"),
        ({"mask": jnp.ones((7, 9))}, "mask must have dtype bool, got float32: give .* as bias"),
        ({"mask": jnp.ones((1, 2, 4, 7, 9), bool)}, "mask must broadcast to \\(2, 4, 7, 9\\), got"),
        ({"scale": "a"}, "scale must be a finite number, got"),
        (
            {"scale": jnp.ones(2)},
            "scale must be a number or a float array of shape \\(\\)",
        ),
        ({"is_causal": 1}, "is_causal must be True or False, got 1"),
        ({"return_residual": None}, "return_residual must be True or False, got None"),
        ({"deterministic": "no"}, "deterministic must be True or False, got 'no'"),
        (
            {"query_seq_lengths": jnp.ones(2)},
            "query_seq_lengths must be integers of shape \\(2,\\)",
        ),
        ({"key_value_seq_lengths": 3}, "key_value_seq_lengths must be integers of shape \\(2,\\)"),
        ({"local_window_size": (1, 2, 3)}, "local_window_size must be an int or two ints, got"),
        ({"local_window_size": -1}, "local_window_size must be"),
        ({"local_window_size": 1.5}, "local_window_size must be an int or a sequence of ints"),
        ({"dropout_p": 1.5}, "dropout_p must be a number in \\[0, 1\\], got 1.5"),
        ({"dropout_p": jnp.ones(2)}, "dropout_p must be a number or a float array of shape \\(\\)"),
        ({"dropout_key": None}, "dropout_key must be a fastdrop.Key or a JAX key, got None"),
        ({"dropout_key": 3}, "dropout_key must be a fastdrop.Key or a JAX key, got 3"),
        (
            {"dropout_key": jax.random.split(fj.key(0))},
            "dropout_key must be one key, got an array of shape \\(2,\\)",
        ),
        ({"whole": (2, 4, 7)}, "whole must contain the weights of shape \\(2, 4, 7, 9\\)"),
        ({"start": (0, 0, 1, 0)}, "start must place the weights of shape \\(2, 4, 7, 9\\) inside"),
        ({"dropout_rate": 0.3}, "no argument 'dropout_rate': dropout_p is the probability to D"),
        ({"p": 0.3}, "no argument 'p'"),
        ({"implementation": "cudnn"}, "no argument 'implementation'"),
    ],
)
def test_bad_arguments_get_a_sentence(options: Any, message: str) -> None:
    arguments = {"query": Q, "key": K, "value": V, "dropout_p": 0.3, "dropout_key": KEY}
    with pytest.raises((TypeError, ValueError), match=message):
        plain(**{**arguments, **options})


def test_the_handlers_take_nothing_that_they_do_not_know() -> None:
    """An operand of another dtype or shape is refused before anything is read or written."""
    words, start = jnp.arange(4, dtype=jnp.uint32), jnp.zeros(4, jnp.int32)
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    y, lse = like(Q), jax.ShapeDtypeStruct(Q.shape[:-1], jnp.float32)
    bias = jnp.ones((1, 1, 7, 9))
    known: Any = {
        "whole": np.array((2, 4, 7, 9), np.int64),
        "p": np.float64(0.5),
        "scale": np.float64(1),
        "causal": np.int64(0),
        "bias": np.int64(0),
    }
    has_bias = {**known, "bias": np.int64(1)}
    outputs = (Q, Q, jnp.ones(Q.shape[:-1]))
    gradients = [like(x) for x in (Q, K, V)]

    def call(name: str, results: Any, operands: Any, attributes: Any) -> Any:
        called = jax.ffi.ffi_call(f"fastdrop.{name}", results)(*operands, **attributes)
        return jax.block_until_ready(called)

    forward, backward, of_bias = "attention", "attention_backward", "attention_bias_gradient"
    inputs = (Q, K, V, words, start)
    with_bias = (*outputs, Q, K, V, bias, words, start)
    call(forward, [y, lse], inputs, known)
    call(backward, gradients, (*outputs, *inputs), known)
    call(of_bias, [like(bias)], with_bias, has_bias)
    refused = [
        (forward, [y], inputs, known),
        (forward, [y, lse], inputs[:3], known),
        (forward, [y, lse], inputs[:2], known),
        (forward, [y, lse], (*inputs, start), known),
        (forward, [y, lse], inputs, has_bias),
        (forward, [y, lse], inputs, {**known, "more": np.int64(1)}),
        (forward, [y, lse], inputs, {**known, "causal": np.float64(0.5)}),
        (forward, [y, lse], inputs, {**known, "whole": np.array((2, 4, 63), np.int64)}),
        (forward, [y, jax.ShapeDtypeStruct(lse.shape, jnp.float16)], inputs, known),
        (forward, [y, lse], (Q, K.astype(jnp.float16), V, words, start), known),
        (forward, [y, lse], (Q.astype(bool), K, V, words, start), known),
        (forward, [y, lse], (Q, K, V, bias.astype(int), words, start), has_bias),
        (forward, [y, lse], (Q, K, V, bias.astype("complex64"), words, start), has_bias),
        (forward, [y, lse], (Q, K, V, bias[0, 0], words, start), has_bias),
        (backward, gradients[:2], (*outputs, *inputs), known),
        (backward, gradients, (*outputs[:2], *inputs), known),
        (backward, gradients, (Q, Q, outputs[2].astype(jnp.float16), *inputs), known),
        (of_bias, [like(bias)], (*outputs, *inputs), known),
        (of_bias, [like(bias[:, :, 1:])], with_bias, has_bias),
    ]
    for name, results, operands, attributes in refused:
        with pytest.raises(Exception, match="fastdrop was called with an unexpected"):
            call(name, results, operands, attributes)
    for operands in ((Q, K[:, 1:], V, words, start), (Q, K, V[:, :, :1], words, start)):
        with pytest.raises(Exception, match="must have the shape"):
            call(forward, [y, lse], operands, known)
