"""NumPy's masks in compiled, differentiated, batched and sharded functions. Needs JAX."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before JAX starts, which reads it once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

import cloudpickle  # noqa: E402
import fastdrop as fd  # noqa: E402
import fastdrop.jax as fj  # noqa: E402
from fastdrop import _core  # noqa: E402
from jax import export  # noqa: E402

P = jax.sharding.PartitionSpec
pytestmark = pytest.mark.once

KEY = fd.Key(0)
X = jnp.arange(1.0, 61.0).reshape(10, 6)


def reference(x: Any, p: float = 0.3, key: fd.Key = KEY, **options: Any) -> Any:
    return fd.dropout(np.asarray(x), p, rng=key, **options)


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 7, 5), (1 << 21,)])
def test_values_are_those_of_numpy(dtype: str, shape: tuple[int, ...]) -> None:
    x = (jnp.arange(int(np.prod(shape))) % 99 + 1).reshape(shape).astype(dtype)
    y = fj.dropout(x, 0.3, key=KEY)
    assert y.dtype == x.dtype
    assert equal(y, reference(x))


def test_double_precision_gives_the_values_of_numpy() -> None:
    with jax.enable_x64(True):
        for dtype in ("float64", "complex128"):
            x = jnp.arange(1.0, 500.0).astype(dtype)
            assert equal(fj.dropout(x, 0.3, key=KEY), reference(x))
        p = jnp.asarray(0.1)
        assert equal(jax.jit(fj.dropout)(X, p, key=fj.key(KEY)), reference(X, 0.1))
        start = jnp.asarray([2, 0])
        part = fj.dropout(X[2:], 0.3, key=KEY, whole=X.shape, start=start)
        assert equal(part, reference(X)[2:])


@pytest.mark.parametrize("dims", [0, (1,), (-1, 0), ()])
def test_decisions_are_shared_along_broadcast_dims(dims: Any) -> None:
    y = fj.dropout(X, 0.3, key=KEY, broadcast_dims=dims)
    assert equal(y, reference(X, broadcast_dims=dims))


def test_dropped_elements_are_zero_whatever_they_were() -> None:
    x = jnp.asarray([np.nan, -np.inf, np.inf, -1.0] * 16, dtype=jnp.float32)
    y = np.asarray(fj.dropout(x, 0.5, key=KEY))
    dropped = y[~fd.Mask((64,), 0.5, KEY).to_numpy()]
    assert dropped.size
    assert not np.signbit(dropped).any()
    assert (dropped == 0).all()
    assert (np.asarray(fj.dropout(x, 1.0)) == 0).all()
    assert not np.asarray(jax.jit(fj.dropout)(x, jnp.float32(1.0), key=fj.key(KEY))).any()


def test_nothing_is_dropped_in_evaluation() -> None:
    assert fj.dropout(X, 0.5, deterministic=True) is X
    assert fj.dropout(X, 0.0) is X


def test_a_traced_p_is_the_p_of_its_precision() -> None:
    f = jax.jit(lambda p: fj.dropout(X, p, key=KEY))
    for p in (0.0, 0.25, float(np.float32(0.1)), 1.0):
        assert equal(f(jnp.float32(p)), reference(X, p))
    assert equal(f(jnp.bfloat16(0.25)), reference(X, 0.25))
    assert f._cache_size() == 2


# --- Keys ----------------------------------------------------------------------------------------


def test_a_traced_key_compiles_once() -> None:
    f = jax.jit(lambda x, key: fj.dropout(x, 0.3, key=key))
    for seed in range(3):
        assert equal(f(X, fj.key(seed)), reference(X, key=fd.Key(seed)))
    assert f._cache_size() == 1


def test_children_are_those_of_the_key() -> None:
    key = fj.key(KEY)
    assert fd.Key(key) == KEY
    assert fd.Key(jax.random.fold_in(key, 7)) == KEY.fold_in(7)
    assert fd.Key(jax.random.fold_in(key, 2**32 - 1)) == KEY.fold_in(2**32 - 1)
    assert [fd.Key(child) for child in jax.random.split(key, 5)] == KEY.split(5)
    assert jax.random.split(key, (2, 3)).shape == (2, 3)
    assert equal(fd.dropout(np.asarray(X), 0.3, rng=key), reference(X))


def test_other_functions_of_random_draw_bits_of_their_own() -> None:
    """Those of blocks 0, 1, ... under tag 128, as the crate's generator does."""
    key = fj.key(KEY)
    blocks = b"".join(
        _core.ars(bytes(KEY), bytes([n, *bytes(7), 128, *bytes(7)])) for n in range(3)
    )
    assert np.asarray(jax.random.bits(key, (12,))).tobytes() == blocks
    for width in (8, 16, 32):
        bits = np.asarray(jax.random.bits(key, (1000, 3), f"uint{width}"))
        ones = np.unpackbits(bits.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.02
        assert len(np.unique(bits[:4])) > 4
    with jax.enable_x64(True):
        assert np.unique(jax.random.bits(key, (999,), "uint64")).size == 999
    normal = np.asarray(jax.random.normal(key, (4000,)))
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1


def test_a_seed_is_that_of_the_crate() -> None:
    """`Key::from_seed(42)`, from the documentation of the crate's keys."""
    root = fd.Key.from_bytes(b"fastdrop's seeds")
    assert fd.Key(jax.random.key(42, impl="fastdrop")) == root.fold_in(42)
    with jax.enable_x64(True):
        for seed in (42, 2**40 + 1):
            assert fd.Key(jax.random.key(seed, impl="fastdrop")) == root.fold_in(seed)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_keys_of_jax_decide_masks(make: Any) -> None:
    first, again, other = (fj.dropout(X, 0.5, key=make(n)) for n in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)
    words = jax.random.bits(make(0), (4,), jnp.uint32)
    key = fd.Key.from_bytes(np.asarray(words).tobytes())
    assert equal(first, reference(X, 0.5, key))


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_a_key_of_jax_seeds_by_its_numbers(implementation: str) -> None:
    typed, old = (make(5, impl=implementation) for make in (jax.random.key, jax.random.PRNGKey))
    assert fd.Key(typed) == fd.Key(old) == fd.Key(np.asarray(old))
    assert fd.Key(typed) != fd.Key(jax.random.key(6, impl=implementation))
    x = np.ones(50)
    y = fd.dropout(x, rng=typed)
    assert equal(y, fd.dropout(x, rng=old))


def test_arrays_of_every_library_seed_beside_jax() -> None:
    class Foreign:
        """Such as a tensor of torch, whose dtype NumPy and JAX do not know."""

        dtype = object()

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(5)

    assert fd.Key(Foreign()) == fd.Key(jnp.asarray(5)) == fd.Key(jnp.uint8(5)) == fd.Key(5)
    assert fd.Key(jnp.asarray([1, 2])) == fd.Key([1, 2])


def test_a_traced_seed_is_refused() -> None:
    for seed in (5, jax.random.key(5), fj.key(5)):
        with pytest.raises(TypeError):
            jax.jit(lambda seed: fd.dropout(np.ones(3), rng=seed))(seed)


def test_keys_in_arrays_are_refused_unless_mapped() -> None:
    with pytest.raises(TypeError, match="key must be one key"):
        fj.dropout(X, 0.5, key=jax.random.split(fj.key(0), 3))
    with pytest.raises(TypeError, match="rng must be one key"):
        fd.Key(jax.random.split(fj.key(0), 3))


# --- Keys that are stored ------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {n}": lambda key, n=n: pickle.loads(pickle.dumps(key, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "cloudpickle": lambda key: cloudpickle.loads(cloudpickle.dumps(key)),
    "deepcopy": copy.deepcopy,
    "another device": lambda key: jax.device_put(key, jax.devices()[1]),
    "its data": lambda key: jax.random.wrap_key_data(
        np.asarray(jax.random.key_data(key)), impl="fastdrop"
    ),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_key_is_that_key(way: str) -> None:
    for key in (fj.key(KEY), jax.random.split(fj.key(KEY), (2, 3)), fj.key(KEY)[None][:0]):
        again = COPIES[way](key)
        assert again.dtype == key.dtype
        assert hash(again.dtype) == hash(key.dtype)
        assert jax.random.key_impl(again) == "fastdrop"
        assert equal(jax.random.key_data(again), jax.random.key_data(key))


def test_a_copy_of_a_key_compiles_nothing_again() -> None:
    f = jax.jit(lambda key: fj.dropout(X, 0.3, key=key))
    key = fj.key(KEY)
    dtype = pickle.loads(pickle.dumps(key.dtype))
    assert dtype == key.dtype
    assert pickle.loads(pickle.dumps(jax.ShapeDtypeStruct((), key.dtype))).dtype == dtype
    for way in ("pickle 5", "cloudpickle", "deepcopy", "its data"):
        assert equal(f(COPIES[way](key)), reference(X))
    assert f._cache_size() == 1


def test_pickled_keys_of_jax_do_not_need_fastdrop() -> None:
    with contextlib.suppress(TypeError):  # JAX 0.9.0 pickles none on Python 3.11
        assert b"fastdrop" not in pickle.dumps(jax.random.key(0))


def exported(f: Any, *arguments: Any) -> Any:
    """Export a function, store it and read it again."""
    allowed = [
        export.DisabledSafetyCheck.custom_call(f"fastdrop.{name}") for name in _core.xla_handlers()
    ]
    made = export.export(jax.jit(f), disabled_checks=allowed)(*arguments)
    return export.deserialize(made.serialize(vjp_order=1))


def test_another_process_draws_the_masks_of_stored_keys_and_functions(tmp_path: Path) -> None:
    key, keys = fj.key(KEY), jax.random.split(fj.key(KEY), 2)
    f = exported(lambda x, key: fj.dropout(x, 0.3, key=jax.random.fold_in(key, 3)), X, key)
    (tmp_path / "keys").write_bytes(pickle.dumps({"one": key, "two": keys}))
    (tmp_path / "function").write_bytes(f.serialize())
    program = """
import pickle
with open("keys", "rb") as file:
    keys = pickle.load(file)  # imports fastdrop.jax
from jax import export, numpy as jnp, vmap
from fastdrop.jax import dropout
with open("function", "rb") as file:
    function = export.deserialize(bytearray(file.read()))
x = jnp.arange(1.0, 61.0).reshape(10, 6)
both = vmap(lambda key: dropout(x, 0.3, key=key))(keys["two"])
print(function.call(x, keys["one"]).tolist(), both.tolist(), sep="\\n")
"""
    for environment in ({}, {"JAX_DISABLE_JIT": "1"}):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        one, both = map(eval, ran.stdout.splitlines())
        assert equal(one, reference(X, key=KEY.fold_in(3)))
        assert equal(both, [reference(X, key=child) for child in KEY.split(2)])


# --- Transformations -----------------------------------------------------------------------------


def test_gradients_use_the_mask_again() -> None:
    scale = np.where(reference(X) != 0, np.float32(1 / 0.7), 0)
    f = lambda x: fj.dropout(x, 0.3, key=KEY)  # noqa: E731
    assert equal(jax.grad(lambda x: (f(x) * X).sum())(X), np.asarray(X) * scale)
    y, tangent = jax.jvp(f, (X,), (2 * X,))
    assert equal(y, reference(X))
    assert equal(tangent, reference(2 * X))
    hessian = jax.hessian(lambda x: (f(x) ** 2).sum())(X[:2, :2])
    mask = fd.Mask((2, 2), 0.3, KEY).to_numpy()
    assert np.allclose(hessian.reshape(4, 4), np.diag(2 * mask.ravel() / 0.49))


def test_gradients_keep_only_the_key() -> None:
    _, backward = jax.vjp(lambda x: fj.dropout(x, 0.3, key=KEY), X)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(backward)) <= 16


def test_recomputation_draws_the_same_mask() -> None:
    def loss(x: Any, key: Any) -> Any:
        for step in range(3):
            x = jnp.sin(fj.dropout(x, 0.3, key=jax.random.fold_in(key, step)))
        return x.sum()

    plain = jax.grad(loss)(X, fj.key(0))
    for policy in (None, jax.checkpoint_policies.everything_saveable):
        again = jax.grad(jax.checkpoint(loss, policy=policy))(X, fj.key(0))
        assert np.allclose(plain, again, rtol=1e-5)
    assert (np.asarray(plain) == 0).any()


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: lambda x, p: jax.vmap(f, (0, None))(x[None], p)[0],
    "vmap over p": lambda f: lambda x, p: jax.vmap(f, (None, 0))(x, p[None])[0],
    "checkpoint": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable),
    "scan": lambda f: lambda x, p: jax.lax.scan(lambda p, _: (p, f(x, p)), p, None, 1)[1][0],
    "cond": lambda f: lambda x, p: jax.lax.cond(x[0, 0] > 0, f, lambda x, p: x, x, p),
}


@pytest.mark.parametrize(
    ("wrap", "dtype"), [*((wrap, "float32") for wrap in WRAPPED), ("jit", "bfloat16")]
)
def test_p_has_no_gradient_and_x_the_one_of_the_mask(wrap: str, dtype: str) -> None:
    f = WRAPPED[wrap](lambda x, p: fj.dropout(x, p, key=KEY))
    p = jnp.asarray(0.25, dtype)
    y, zeros = reference(X, 0.25), np.zeros_like(X)
    of_x, of_p = jax.grad(lambda x, p: (f(x, p) * X).sum(), (0, 1))(X, p)
    assert equal(of_x, y)
    assert of_p.dtype == p.dtype
    assert of_p == 0
    assert jax.grad(lambda p: (f(X, p) * X).sum())(p) == 0
    for function, at, expected in (
        (lambda x: f(x, p), (X,), y),
        (lambda p: f(X, p), (p,), zeros),
        (f, (X, p), y),
    ):
        assert equal(jax.jvp(function, at, at)[1], expected)
    assert equal(jax.linearize(f, X, p)[1](X, p), y)
    if (wrap, dtype) == ("jit", "float32"):
        hessian = jax.hessian(lambda x, p: (f(x, p) ** 2).sum(), (0, 1))(X[:2, :2], p)
        assert np.asarray(hessian[0][0]).any()
        assert not any(np.asarray(part).any() for part in (*hessian[1], hessian[0][1]))


def test_keys_and_places_have_no_gradient() -> None:
    def f(x: Any, key: Any, n: Any) -> Any:
        return fj.dropout(x, 0.3, key=key, whole=(20, 6), start=(n, 0))

    zero = np.zeros((), jax.dtypes.float0)
    expected = fd.Mask((20, 6), 0.3, KEY).region((3, 0), (10, 6)).apply(np.asarray(X))
    arguments = X, fj.key(KEY), jnp.int32(3)
    assert equal(jax.jvp(f, arguments, (X, zero, zero))[1], expected)
    assert not jax.jvp(lambda n: f(X, arguments[1], n), arguments[2:], (zero,))[1].any()
    gradients = jax.grad(lambda *a: (f(*a) * X).sum(), (0, 1, 2), allow_int=True)(*arguments)
    assert equal(gradients[0], expected)
    assert {gradients[1].dtype, gradients[2].dtype} == {jax.dtypes.float0}


def test_the_gradient_of_complex_elements_has_the_mask() -> None:
    x = X + 2j * X
    _, backward = jax.vjp(lambda x: fj.dropout(x, 0.25, key=KEY), x)
    assert equal(backward(x)[0], reference(x, 0.25))


def test_a_loop_draws_another_mask_in_each_step() -> None:
    def step(x: Any, n: Any) -> tuple[Any, Any]:
        y = fj.dropout(x, 0.3, key=jax.random.fold_in(fj.key(KEY), n))
        return x, y

    _, ys = jax.lax.scan(step, X, jnp.arange(4))
    assert all(equal(ys[n], reference(X, key=KEY.fold_in(n))) for n in range(4))


def test_a_batch_shares_a_mask_unless_it_has_keys() -> None:
    row = fd.Mask((6,), 0.3, KEY)
    keys = jax.random.split(fj.key(KEY), 10)
    one = jax.vmap(lambda x: fj.dropout(x, 0.3, key=KEY))(X)
    assert equal(one, row.apply(np.asarray(X)))
    each = jax.vmap(lambda x, key: fj.dropout(x, 0.3, key=key))(X, keys)
    children = KEY.split(10)
    expected = [reference(X[n], key=child) for n, child in enumerate(children)]
    assert equal(each, np.stack(expected))
    columns = jax.vmap(lambda x, key: fj.dropout(x, 0.3, key=key), (1, 0), 1)(X[:, :5], keys[:5])
    expected = [reference(X[:, n], key=child) for n, child in enumerate(children[:5])]
    assert equal(columns, np.stack(expected, 1))
    alone = jax.vmap(lambda key: fj.dropout(X, 0.3, key=key))(keys)
    assert equal(alone, np.stack([reference(X, key=child) for child in children]))


def test_batches_nest_over_p_keys_and_places() -> None:
    keys = jax.random.split(fj.key(KEY), 3)

    def f(p: Any, key: Any, start: Any) -> Any:
        return fj.dropout(X[0, :5], p, key=key, whole=(10,), start=[start])

    inner = jax.vmap(f, (None, 0, None))
    y = jax.jit(jax.vmap(inner, (0, None, 0)))(jnp.asarray([0.25, 0.5]), keys, jnp.asarray([0, 5]))
    for n, (p, start) in enumerate([(0.25, 0), (0.5, 5)]):
        for m, child in enumerate(KEY.split(3)):
            part = fd.Mask((10,), p, child).region((start,), (5,))
            assert equal(y[n, m], part.apply(np.asarray(X[0, :5])))


def test_the_gradient_of_a_batch_of_masks_is_their_sum() -> None:
    keys = jax.random.split(fj.key(KEY), 7)
    f = lambda x: jax.vmap(lambda key: fj.dropout(x, 0.5, key=key))(keys).sum()  # noqa: E731
    expected = sum(reference(np.ones_like(X), 0.5, child) for child in KEY.split(7))
    assert equal(jax.grad(f)(X), expected)


def test_an_empty_batch_is_empty() -> None:
    keys = jax.random.split(fj.key(KEY), 0)
    assert jax.vmap(lambda key: fj.dropout(X, 0.5, key=key))(keys).shape == (0, 10, 6)


# --- Modes of JAX --------------------------------------------------------------------------------

MODES: dict[str, Callable[[], Any]] = {
    "disable_jit": jax.disable_jit,
    "debug_nans": lambda: jax.debug_nans(True),
    "checking_leaks": jax.checking_leaks,
    "enable_x64": lambda: jax.enable_x64(True),
}


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_the_same_in_all_modes(mode: str) -> None:
    words = jax.random.bits(fj.key(KEY), (9,), jnp.uint32)
    with MODES[mode]():
        assert equal(fj.dropout(X, 0.3, key=KEY, broadcast_dims=1), reference(X, broadcast_dims=1))
        assert equal(fj.dropout(X, jnp.float32(0.25), key=fj.key(KEY)), reference(X, 0.25))
        f = lambda x, key: fj.dropout(x, 0.3, key=key)  # noqa: E731
        assert equal(jax.jit(f)(X, fj.key(KEY)), reference(X))
        assert equal(jax.grad(lambda x: (f(x, KEY) * X).sum())(X), reference(X))
        each = jax.vmap(f)(X, jax.random.split(fj.key(KEY), 10))
        assert equal(each, [f(x, child) for x, child in zip(X, KEY.split(10), strict=True)])
        step = lambda x, n: (x, f(x, jax.random.fold_in(fj.key(KEY), n)))  # noqa: E731
        steps = jax.lax.scan(step, X, jnp.arange(2))[1]
        assert equal(steps, [reference(X, key=KEY.fold_in(n)) for n in range(2)])
        root = fd.Key.from_bytes(b"fastdrop's seeds")
        assert fd.Key(jax.random.key(42, impl="fastdrop")) == root.fold_in(42)
        assert equal(jax.random.bits(fj.key(KEY), (9,), jnp.uint32), words)
        sharded = jax.shard_map(
            lambda x: fj.dropout(
                x, 0.3, key=KEY, whole=X.shape, start=(jax.lax.axis_index("i") * 5, 0)
            ),
            mesh=mesh(),
            in_specs=P("i"),
            out_specs=P("i"),
        )
        assert equal(sharded(X), reference(X))


def test_debug_nans_finds_a_nan_that_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    keep = fd.Mask(X.shape, 0.5, KEY).to_numpy()
    kept, dropped = (jnp.where(where, jnp.nan, X) for where in (keep, ~keep))
    with jax.debug_nans(True):
        for f in (fj.dropout, jax.jit(fj.dropout)):
            assert equal(f(dropped, key=fj.key(KEY)), reference(dropped, 0.5))
            with pytest.raises(FloatingPointError, match="nan"):
                f(kept, key=fj.key(KEY))
    capsys.readouterr()


# --- Lengths that are not known ------------------------------------------------------------------


def unknown(shape: str, dtype: Any = np.float32) -> Any:
    return jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)


def part_of(whole: tuple[int, ...], start: tuple[int, ...], x: Any, p: float = 0.3) -> Any:
    return fd.Mask(whole, p, KEY).region(start, x.shape).apply(np.asarray(x))


SYMBOLIC: dict[str, tuple[Any, Any]] = {
    "whole": (lambda x: fj.dropout(x, 0.3, key=KEY), reference),
    "p": (lambda x: fj.dropout(x, x[0, 0] * 0 + 0.25, key=KEY), lambda x: reference(x, 0.25)),
    "first axis": (
        lambda x: fj.dropout(x, 0.3, key=KEY, broadcast_dims=0),
        lambda x: reference(x, broadcast_dims=0),
    ),
    "last axis": (
        lambda x: fj.dropout(x, 0.3, key=KEY, broadcast_dims=1),
        lambda x: reference(x, broadcast_dims=1),
    ),
    "flat": (lambda x: fj.dropout(x.ravel(), 0.3, key=KEY), lambda x: reference(x.ravel())),
    "part of a known whole": (
        lambda x: fj.dropout(x, 0.3, key=KEY, whole=(20, 6), start=(3, 0)),
        lambda x: part_of((20, 6), (3, 0), x),
    ),
    "part of another whole": (
        lambda x: fj.dropout(x, 0.3, key=KEY, whole=(2 * x.shape[0], 6), start=(x.shape[0], 0)),
        lambda x: part_of((2 * len(x), 6), (len(x), 0), x),
    ),
    "rows": (
        jax.vmap(lambda x: fj.dropout(x, 0.3, key=KEY)),
        lambda x: fd.Mask((6,), 0.3, KEY).apply(np.asarray(x)),
    ),
    "rows with keys": (
        lambda x: jax.vmap(lambda x, key: fj.dropout(x, 0.3, key=key))(
            x, jax.random.split(fj.key(KEY), x.shape[0])
        ),
        lambda x: [reference(row, key=key) for row, key in zip(x, KEY.split(len(x)), strict=True)],
    ),
    "gradient": (jax.grad(lambda x: (fj.dropout(x, 0.3, key=KEY) ** 2).sum() / 2), None),
}


@pytest.mark.parametrize("case", SYMBOLIC)
def test_exported_functions_take_batches_of_any_size(case: str) -> None:
    f, expected = SYMBOLIC[case]
    made = exported(f, unknown("b, 6"))
    for x in (X, X[3:]):
        assert np.allclose(made.call(x), expected(x) if expected else f(x))
    gradient = jax.grad(lambda x: (made.call(x) ** 2).sum())(X)
    assert np.allclose(gradient, jax.grad(lambda x: (f(x) ** 2).sum())(X))


def test_a_part_that_leaves_the_whole_is_refused_when_its_size_is_known() -> None:
    made = exported(lambda x: fj.dropout(x, 0.3, key=KEY, whole=(8, 6)), unknown("b, 6"))
    assert equal(made.call(X[:8]), reference(X[:8]))
    with pytest.raises(Exception, match="region must lie inside the mask of shape \\(8, 6\\)"):
        made.call(X).block_until_ready()


@pytest.mark.parametrize("width", [8, 16, 32])
def test_bits_of_any_number_are_drawn(width: int) -> None:
    f = lambda x, key: jax.random.bits(key, x.shape, f"uint{width}")  # noqa: E731
    made = exported(f, unknown("b, c"), fj.key(KEY))
    assert equal(made.call(X, fj.key(KEY)), f(X, fj.key(KEY)))


# --- Shards --------------------------------------------------------------------------------------


def mesh() -> Any:
    return jax.make_mesh((2, 2), ("i", "j"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_shards_draw_their_part_of_the_mask_of_the_whole(compiled: bool) -> None:
    @functools.partial(
        jax.shard_map, mesh=mesh(), in_specs=(P("i", "j"), P()), out_specs=P("i", "j")
    )
    def sharded(x: Any, key: Any) -> Any:
        start = jax.lax.axis_index("i") * x.shape[0], jax.lax.axis_index("j") * x.shape[1]
        return fj.dropout(x, 0.3, key=key, whole=X.shape, start=start)

    f = jax.jit(sharded) if compiled else sharded
    assert equal(f(X, fj.key(KEY)), reference(X))
    gradient = jax.grad(lambda x: (f(x, fj.key(KEY)) * X).sum())(X)
    assert equal(gradient, reference(X))


def test_shared_decisions_stay_shared_between_shards() -> None:
    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=P("i"), out_specs=P("i"))
    def sharded(x: Any) -> Any:
        start = jax.lax.axis_index("i") * x.shape[0], 0
        return fj.dropout(x, 0.3, key=KEY, broadcast_dims=0, whole=X.shape, start=start)

    assert equal(sharded(X), reference(X, broadcast_dims=0))


def test_devices_with_keys_of_their_own_draw_other_masks() -> None:
    """The gradient of the shared input sums over the devices."""

    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=(P(), P()), out_specs=P(("i", "j")))
    def own(x: Any, key: Any) -> Any:
        rank = jax.lax.axis_index("i") * 2 + jax.lax.axis_index("j")
        return fj.dropout(x, 0.5, key=jax.random.fold_in(key, rank))[None]

    y = own(X, fj.key(KEY))
    assert equal(y, np.stack([reference(X, 0.5, KEY.fold_in(n)) for n in range(4)]))
    gradient = jax.grad(lambda x: own(x, fj.key(KEY)).sum())(X)
    ones = np.ones_like(X)
    assert equal(gradient, sum(reference(ones, 0.5, KEY.fold_in(n)) for n in range(4)))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("split", [P("i", "j"), P(None, ("j", "i")), P("j")])
def test_a_compiled_function_of_a_sharded_array_gathers_nothing(split: Any, kind: str) -> None:
    """Whatever else decides the mask: p, a place, shared decisions, a batch of keys."""
    types = (getattr(jax.sharding.AxisType, kind),) * 2
    devices = jax.make_mesh((2, 2), ("i", "j"), axis_types=types)
    sharding = jax.sharding.NamedSharding(devices, split)
    wide = jnp.tile(X, (2, 2))
    x = jax.device_put(wide, sharding)
    keys = jax.random.split(fj.key(KEY), len(wide))
    if kind == "Explicit":
        keys = jax.device_put(keys, jax.sharding.NamedSharding(devices, P(split[0])))
    for function, operands in [
        (lambda x: fj.dropout(x, 0.3, key=KEY), ()),
        (lambda x, p: fj.dropout(x, p, key=KEY, broadcast_dims=1), (jnp.float32(0.3),)),
        (lambda x, n: fj.dropout(x, 0.3, key=KEY, whole=(60, 12), start=(n, 0)), (7,)),
        (jax.vmap(lambda x, key: fj.dropout(x, 0.3, key=key)), (keys,)),
    ]:
        f = jax.jit(function)
        assert "all-gather" not in f.lower(x, *operands).compile().as_text()
        y = f(x, *operands)
        assert y.sharding.is_equivalent_to(sharding, 2)
        plain = [np.asarray(o) if not hasattr(o, "sharding") else o for o in operands]
        if kind == "Explicit" and operands and operands[0] is keys:
            plain = [jax.random.split(fj.key(KEY), len(wide))]
        assert equal(y, function(wide, *plain))


def test_shards_of_several_lengths_get_the_mask_of_the_whole() -> None:
    sharding = jax.sharding.NamedSharding(mesh(), P("i", "j"))

    @jax.jit
    def f(x: Any) -> Any:
        return fj.dropout(jax.lax.with_sharding_constraint(x[:7, :5], sharding), 0.3, key=KEY)

    assert equal(f(jax.device_put(X, sharding)), reference(X[:7, :5]))


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": jnp.arange(3)}, "x must have dtype float32, .* got int32"),
        ({"p": 1.5}, "p must be a number in \\[0, 1\\], got 1.5"),
        ({"p": True}, "p must be a number in \\[0, 1\\], got True"),
        ({"p": jnp.ones(2)}, "p must be a number or a float array of shape \\(\\)"),
        ({"key": None}, "key must be a fastdrop.Key or a JAX key, got None"),
        ({"key": 3}, "key must be a fastdrop.Key or a JAX key, got 3"),
        ({"key": "a"}, "key must be a fastdrop.Key or a JAX key, got 'a'"),
        ({"deterministic": 1}, "deterministic must be True or False, got 1"),
        ({"broadcast_dims": 2}, "broadcast_dims must be an axis of an array with 2 axes, got 2"),
        ({"whole": (10,)}, "whole must contain x of shape \\(10, 6\\), got shape \\(10,\\)"),
        ({"whole": (9, 6)}, "whole must contain x of shape \\(10, 6\\), got shape \\(9, 6\\)"),
        (
            {"start": (1, 0)},
            "start must place x of shape \\(10, 6\\) inside shape \\(10, 6\\), got \\(1, 0\\)",
        ),
        (
            {"start": (0,)},
            "start must place x of shape \\(10, 6\\) inside shape \\(10, 6\\), got \\(0,\\)",
        ),
        ({"whole": (2**63, 6)}, "whole must have at most 2\\*\\*63 - 1 elements, got"),
        ({"start": jnp.zeros(2)}, "start must be 2 integers"),
        ({"start": itertools.repeat(0)}, "start must have at most 64 axes, got more"),
        ({"start": 1.5}, "start must be an int or a sequence of ints, got 1.5"),
        (
            {"whole": (2**40, 6), "start": (2**31, 0)},
            "start must be at most 2147483647 without jax_enable_x64, got",
        ),
    ],
)
def test_bad_arguments_get_a_sentence(options: Any, message: str) -> None:
    arguments = {"x": X, "key": KEY, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        fj.dropout(**arguments)


def test_the_handlers_take_nothing_that_they_do_not_know() -> None:
    """An operand of another dtype is not one that is absent, and every result is written."""
    x, key = jnp.ones((4, 8)), jnp.arange(4, dtype=jnp.uint32)
    start, like = jnp.array([4, 0], dtype=jnp.int32), jax.ShapeDtypeStruct(x.shape, x.dtype)
    known = {"whole": np.array((8, 8), np.int64), "p": np.float64(0.5)}
    words, index = jax.ShapeDtypeStruct(key.shape, key.dtype), jnp.uint32(3)

    def call(*operands: Any, name: str = "dropout", results: Any = like, **attributes: Any) -> Any:
        called = jax.ffi.ffi_call(f"fastdrop.{name}", results)(*operands, **attributes)
        return jax.block_until_ready(called)

    mask = fd.Mask((8, 8), 0.5, fd.Key.from_bytes(np.arange(4, dtype="<u4").tobytes()))
    part = mask.region((4, 0), (4, 8)).apply(np.ones((4, 8), np.float32))
    np.testing.assert_array_equal(call(x, key, start, **known), part)
    assert call(key, index, name="blocks", results=words, tag=np.int64(255)).shape == (4,)
    for dtype in ("int8", "uint8", "int16", "uint16", "bool", "float32", "float8_e4m3fn"):
        for operands in ((x, key, start.astype(dtype)), (x, key.astype(dtype))):
            with pytest.raises(Exception, match="fastdrop was called with an unexpected"):
                call(*operands, **known)
    for operands, results, options in [
        ((x, key, start, start), like, known),
        ((x, key, start), (like, like), known),
        ((x, key, start), like, {**known, "more": np.int64(1)}),
        ((x, key, start), like, {**known, "p": np.float32(0.25)}),
        ((x, key, jnp.float16(0.5)), like, {"whole": known["whole"]}),
        ((x, key, start), like, {**known, "operation": np.int64(5)}),
        ((x, key, start), like, {**known, "operation": np.int64(4)}),
        ((x, key, start), like, {**known, "operation": np.int64(1), "temperature": np.float64(1)}),
        ((key, start), like, {**known, "name": "uniforms"}),
        ((x,), like, known),
        ((key, index, index), words, {"name": "blocks", "tag": np.int64(255)}),
        ((key, index), (words, words), {"name": "blocks", "tag": np.int64(255)}),
        ((key, index.astype(jnp.uint8)), words, {"name": "blocks", "tag": np.int64(255)}),
    ]:
        with pytest.raises(Exception, match="fastdrop was called with an unexpected"):
            call(*operands, results=results, **options)


def test_values_that_are_known_late_are_checked_late() -> None:
    f = jax.jit(lambda p, n: fj.dropout(X, p, key=KEY, whole=(20, 6), start=(n, 0)))
    assert equal(
        f(jnp.float32(0.5), 10),
        fd.Mask((20, 6), 0.5, KEY).region((10, 0), (10, 6)).apply(np.asarray(X)),
    )
    for p, n, message in ((1.5, 0, "p must be"), (0.5, 11, "region must lie"), (0.5, -1, "region")):
        with pytest.raises(ValueError, match=message):
            f(jnp.float32(p), n).block_until_ready()


# --- Flax ----------------------------------------------------------------------------------------


def test_nnx_modules_draw_the_masks_of_layers() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    from fastdrop.jax.nnx import Dropout

    layer = Dropout(0.3, rngs=nnx.Rngs(dropout=fj.key(KEY)))
    assert isinstance(layer, nnx.Dropout)
    root = fd.Key(layer.rngs.key[...])
    expected = fd.Dropout(0.3, rng=root)
    for _ in range(3):
        assert equal(layer(X), expected(np.asarray(X)))
    layer.eval()
    assert layer(X) is X
    layer.train()
    assert equal(nnx.jit(lambda layer, x: layer(x))(layer, X), expected(np.asarray(X)))
    assert equal(layer(X, rngs=fj.key(5)), reference(X, key=fd.Key(5)))
    assert (np.asarray(Dropout(1.0)(X)) == 0).all()
    with pytest.raises(ValueError, match="no `rngs` argument was provided"):
        Dropout(0.5)(X)
    with pytest.raises(TypeError, match="rngs must be Rngs"):
        Dropout(0.5)(X, rngs=3)


def test_stored_modules_go_on_with_their_masks(tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    from fastdrop.jax.nnx import Dropout
    from orbax.checkpoint import StandardCheckpointer

    def made(key: Any) -> Any:
        return Dropout(0.3, rngs=nnx.Rngs(dropout=key))

    layer = made(fj.key(KEY))
    layer(X)
    graph, state = nnx.split(layer)
    with StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        like = nnx.state(nnx.eval_shape(lambda: made(fj.key(5))))
        restored = checkpointer.restore(tmp_path / "state", like)
    updated = made(fj.key(5))
    nnx.update(updated, pickle.loads(pickle.dumps(state)))
    expected = nnx.clone(layer)(X)
    for again in (
        nnx.merge(graph, restored),
        nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state)),
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
        updated,
    ):
        assert equal(again(X), expected)
    assert not equal(made(fj.key(5))(X), expected)


def test_linen_modules_draw_masks_of_their_streams() -> None:
    linen = pytest.importorskip("flax.linen", reason="Flax is not installed")
    from fastdrop.jax.linen import Dropout

    class Model(linen.Module):  # type: ignore[name-defined, misc]
        @linen.compact
        def __call__(self, x: Any, train: bool) -> Any:
            return Dropout(0.3, broadcast_dims=(1,))(x, deterministic=not train)

    model = Model()
    x = jnp.ones((40, 3))
    assert equal(model.apply({}, x, False), x)
    y, again = (model.apply({}, x, True, rngs={"dropout": fj.key(0)}) for _ in range(2))
    assert equal(y, again)
    kept = np.asarray(y) != 0
    assert (kept == kept[:, :1]).all()
    assert 0 < kept[:, 0].sum() < 40
    direct = Dropout(0.3).apply({}, X, deterministic=False, rng=fj.key(KEY))
    assert equal(direct, reference(X))
    assert pickle.loads(pickle.dumps(Dropout(0.3))) == Dropout(0.3)
