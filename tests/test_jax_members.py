"""The family in JAX: each property for every row of `members.py` that JAX's door has.

A row is in the door if the function of its name takes its options. Needs JAX.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
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
from jax.test_util import check_grads  # noqa: E402
from members import ROWS, Member  # noqa: E402

pytestmark = pytest.mark.once

KEY = fd.Key(0)
P = jax.sharding.PartitionSpec


def function_of(row: Member) -> Any:
    return getattr(fj, row.function.__name__, None)


def is_there(row: Member) -> bool:
    """Return whether JAX's function takes the options of a row."""
    function = function_of(row)
    return function is not None and set(row.options) <= set(inspect.signature(function).parameters)


DOOR = [row for row in ROWS if is_there(row)]
IN_EVALUATION = (fd.ReluDropout, fd.GeluDropout, fd.DropoutAdd, fd.BiasDropoutAdd, fd.Zoneout)
"""Members that do more than drop."""
FLAX = (
    "FeatureDropout", "LockedDropout", "DropPath", "AlphaDropout", "GaussianDropout", "DropoutAdd",
    "ReluDropout", "GeluDropout", "Zoneout", "EmbeddingDropout", "DropConnect",
)  # fmt: skip
"""Members that are modules of Flax."""
NONLINEAR = (fd.ReluDropout, fd.GeluDropout, fd.ConcreteDropout)
"""Members whose gradient needs their input."""
OF_PARTS = tuple(
    row.layer for row in DOOR if "whole" in inspect.signature(function_of(row)).parameters
)
"""Members that draw a part of a whole."""


def some(condition: Callable[[Member], bool]) -> Any:
    """Run a test for the rows that meet a condition."""
    rows = [
        pytest.param(
            row, id=row.layer.__name__ + "".join(f"-{value}" for value in row.options.values())
        )
        for row in DOOR
        if condition(row)
    ]
    return pytest.mark.parametrize("row", rows)


every_row = some(lambda row: True)


def arrays(row: Member, dtype: Any = "float32") -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), row.inputs())


def call(row: Member, inputs: Any, p: Any = 0.4, **options: Any) -> Any:
    """Call JAX's function."""
    options = {**row.options, **options}
    if row.layer is fd.ConcreteDropout:
        options.setdefault("logit", fd.ConcreteDropout(p).logit if isinstance(p, float) else p)
    else:
        options["p"] = p
    return function_of(row)(*inputs, **options)


def reference(row: Member, inputs: Any, p: float = 0.4, key: fd.Key = KEY, **options: Any) -> Any:
    """Call NumPy's function."""
    return row.call(None, jax.tree.map(np.asarray, inputs), p, rng=key, **options)


def assert_close(actual: Any, expected: Any) -> None:
    """Compare to the rounding of the dtype; zeros and NaN must be the same ones."""
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for y, one in zip(actual, expected, strict=True):
        y, one = np.asarray(y), np.asarray(one)
        assert (y.dtype, y.shape) == (one.dtype, one.shape) or y.dtype.kind == "i"
        if y.dtype.kind in "iu":
            np.testing.assert_array_equal(y, one)
            continue
        np.testing.assert_array_equal(y == 0, one == 0)
        rounding = 3 * float(jnp.finfo(y.dtype).eps)
        wide = [array.astype("complex128" if y.dtype.kind == "c" else float) for array in (y, one)]
        np.testing.assert_allclose(*wide, rtol=rounding, atol=rounding, equal_nan=True)


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@every_row
def test_results_are_those_of_arrays(row: Member, dtype: str, compiled: bool) -> None:
    with jax.enable_x64(dtype == "float64"):
        inputs = arrays(row, dtype)
        for p in (0.4, 1.0) if compiled else (0.4,):
            f = lambda inputs, key, p=p: call(row, inputs, p, key=key)  # noqa: E731
            f = jax.jit(f) if compiled else f
            assert_close(f(inputs, fj.key(KEY)), reference(row, inputs, p))


@some(lambda row: row.layer is not fd.PatchDropout)  # its p decides a shape
def test_a_traced_p_gives_the_results_of_its_number(row: Member) -> None:
    inputs = arrays(row)
    f = jax.jit(lambda p: call(row, inputs, p, key=KEY))
    for p in (0.0, 0.25, 1.0):
        number = fd.ConcreteDropout(p).logit if row.layer is fd.ConcreteDropout else p
        assert_close(f(jnp.float32(number)), reference(row, inputs, p))


@some(lambda row: row.layer in IN_EVALUATION)
def test_evaluation_is_that_of_arrays(row: Member) -> None:
    for dtype in ("float32", "bfloat16"):
        inputs = arrays(row, dtype)
        y = call(row, inputs, deterministic=True)
        assert_close(y, row.call(None, jax.tree.map(np.asarray, inputs), training=False))


@some(lambda row: row.layer not in IN_EVALUATION)
def test_evaluation_and_p_0_return_the_input_itself(row: Member) -> None:
    inputs = arrays(row)
    for options in ({"deterministic": True}, {"p": 0.0}):
        y = call(row, inputs, **options)
        assert jax.tree.leaves(y)[0] is jax.tree.leaves(inputs)[0]


@some(lambda row: row.layer in OF_PARTS)
def test_a_part_draws_its_part_of_the_whole(row: Member) -> None:
    inputs = arrays(row)
    shape = inputs[0].shape
    expected = call(row, inputs, key=KEY)
    f = jax.jit(lambda inputs, n: call(row, inputs, key=KEY, whole=shape, start=n))
    part = tuple(x[1:] if x.ndim == len(shape) else x for x in inputs)
    for y, one in zip(
        jax.tree.leaves(f(part, jnp.asarray([1] + [0] * (len(shape) - 1)))),
        jax.tree.leaves(expected),
        strict=True,
    ):
        assert_close(y, one[1:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_looked_up_words_are_those_of_the_dropped_table(dtype: str) -> None:
    """The gradient as well, which sums over the occurrences of a word."""
    table = jnp.arange(1.0, 41.0).reshape(10, 4).astype(dtype)
    words = jnp.array([[1, 2, 2], [9, 0, 5]])
    for p in (0.0, 0.5, 1.0, jnp.float32(0.5)):
        dropped, backward = jax.vjp(
            lambda w, p=p: fj.embedding_dropout(w, p, key=KEY)[words], table
        )
        rows, back = jax.vjp(
            lambda w, p=p: fj.embedding_dropout(w, p, indices=words, key=KEY), table
        )
        assert_close(rows, dropped)
        np.testing.assert_array_equal(back(rows)[0], backward(rows)[0])
    with pytest.raises(TypeError, match="indices must be integers, got float32"):
        fj.embedding_dropout(table, 0.5, indices=jnp.ones(3), key=KEY)


# --- Transformations -----------------------------------------------------------------------------


@every_row
def test_gradients_are_those_of_finite_differences(row: Member) -> None:
    """Twice, forward and backward, for all inputs; away from ReLU's corner."""
    with jax.enable_x64(True):
        small = jax.tree.map(lambda x: x[..., :4] if x.ndim < 4 else x, arrays(row, float))
        inputs = jax.tree.map(lambda x: x + 0.01 * jnp.sign(x), small)

        def run(*inputs: Any) -> Any:
            y = call(row, inputs, key=KEY)
            return [one for one in jax.tree.leaves(y) if jnp.issubdtype(one.dtype, jnp.floating)]

        check_grads(run, inputs, order=2)


@some(lambda row: row.layer not in (*NONLINEAR, fd.PatchDropout))  # which keeps its indices
def test_gradients_keep_the_key_alone(row: Member) -> None:
    inputs = arrays(row)
    _, backward = jax.vjp(lambda *inputs: call(row, inputs, key=KEY), *inputs)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(backward)) <= 64


@some(lambda row: row.layer is not fd.PatchDropout)  # which keeps a token
def test_what_is_dropped_passes_no_nan_back(row: Member) -> None:
    """Whether p is known when the function is compiled, or not."""
    inputs = arrays(row)
    for p in (1.0, jnp.float32(1.0)):
        if row.layer is fd.ConcreteDropout and not isinstance(p, float):
            p *= jnp.inf
        y, backward = jax.vjp(lambda *inputs, p=p: call(row, inputs, p, key=KEY), *inputs)
        gradients = jax.tree.leaves(backward(jax.tree.map(lambda y: jnp.full_like(y, jnp.nan), y)))
        first = np.asarray(gradients[0])
        assert not first.any()
        assert not np.isnan(first).any()


@every_row
def test_batches_share_a_mask_unless_they_have_keys(row: Member) -> None:
    inputs = arrays(row)
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), inputs)
    each = jax.vmap(lambda inputs: call(row, inputs, key=KEY))(batch)
    keys = jax.random.split(fj.key(KEY), 2)
    own = jax.vmap(lambda inputs, key: call(row, inputs, key=key))(batch, keys)
    for n in range(2):
        one = jax.tree.map(lambda x, n=n: x[n], (batch, each, own))
        assert_close(one[1], reference(row, one[0]))
        assert_close(one[2], reference(row, one[0], key=KEY.split(2)[n]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_gradient_of_a_logit_is_that_of_arrays(dtype: str) -> None:
    x = (jnp.arange(60.0).reshape(10, 6) / 30 - 1).astype(dtype)

    def loss(x: Any, logit: Any, key: Any = KEY) -> Any:
        return fj.concrete_dropout(x, logit, temperature=0.3, key=key).real.sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))(x, jnp.float32(-0.5))
    ones, key = np.ones_like(x), KEY
    dx, dlogit = fd.concrete_dropout_backward(ones, x, -0.5, temperature=0.3, rng=key)
    assert_close(gradient[0], dx)
    np.testing.assert_allclose(gradient[1], dlogit, rtol=1e-4)
    logits = jnp.array([-1.0, 0.5])
    each = jax.vmap(jax.grad(loss, 1), (None, 0))(x, logits)
    for one, logit in zip(each, logits, strict=True):
        np.testing.assert_allclose(one, jax.grad(loss, 1)(x, logit), rtol=1e-5)


def test_a_logit_has_two_derivatives() -> None:
    with jax.enable_x64(True):
        x = jnp.linspace(-1.0, 1.0, 50)
        run = lambda x, a: fj.concrete_dropout(x, a, temperature=0.5, key=KEY)  # noqa: E731
        check_grads(run, (x, jnp.float64(-0.5)), order=2)
        third = jax.grad(jax.grad(jax.grad(lambda a: run(x, a).sum())))
        with pytest.raises(TypeError, match="differentiated by its logit at most twice"):
            third(0.3)


# --- Sharded arrays ------------------------------------------------------------------------------


@every_row
def test_a_compiled_function_of_sharded_arrays_gathers_nothing(row: Member) -> None:
    """Forward and backward; each device draws its part of the mask of the whole."""
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    inputs = jax.tree.map(lambda x: jnp.concatenate([x] * 4) if x.ndim > 1 else x, arrays(row))
    split, kept = (jax.sharding.NamedSharding(mesh, spec) for spec in (P("i"), P()))
    sharded = jax.tree.map(lambda x: jax.device_put(x, split if x.ndim > 1 else kept), inputs)

    def run(inputs: Any, key: Any) -> Any:
        y, backward = jax.vjp(lambda inputs: call(row, inputs, key=key), inputs)
        return y, backward(jax.tree.map(jnp.ones_like, y))

    f = jax.jit(run)
    assert "all-gather" not in f.lower(sharded, fj.key(KEY)).compile().as_text()
    y, gradients = f(sharded, fj.key(KEY))
    expected, others = run(inputs, fj.key(KEY))
    assert_close(y, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), gradients, others)


# --- Flax ----------------------------------------------------------------------------------------


@some(lambda row: row.layer is not fd.Dropout and row.layer.__name__ in FLAX)
def test_modules_of_nnx_call_their_function(row: Member) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    from fastdrop.jax import nnx as modules

    kind, inputs = getattr(modules, row.layer.__name__), arrays(row)
    module = kind(0.4, **row.options, rngs=nnx.Rngs(dropout=fj.key(KEY)))
    root = module.rngs.key[...]
    for n in range(2):
        assert_close(module(*inputs), call(row, inputs, key=jax.random.fold_in(root, n)))
    own = nnx.jit(lambda module, inputs: module(*inputs, rngs=fj.key(KEY)))(module, inputs)
    assert_close(own, call(row, inputs, key=KEY))
    module.eval()
    assert_close(module(*inputs), call(row, inputs, deterministic=True))
    with pytest.raises(ValueError, match=f"no `rngs` argument was provided to {kind.__name__}"):
        kind(0.4, **row.options)(*inputs)


@some(lambda row: row.layer is not fd.Dropout and row.layer.__name__ in FLAX)
def test_modules_of_linen_call_their_function(row: Member) -> None:
    pytest.importorskip("flax.linen", reason="Flax is not installed")
    from fastdrop.jax import linen as modules

    module, inputs = getattr(modules, row.layer.__name__)(0.4, **row.options), arrays(row)
    streams = {"dropout": fj.key(KEY)}
    y = module.apply({}, *inputs, deterministic=False, rngs=streams)
    assert_close(module.apply({}, *inputs, deterministic=False, rngs=streams), y)
    assert not np.array_equal(y, module.apply({}, *inputs, deterministic=True))
    own = module.apply({}, *inputs, deterministic=False, rng=fj.key(KEY))
    assert_close(own, call(row, inputs, key=KEY))
    in_evaluation = module.apply({}, *inputs, deterministic=True)
    assert_close(in_evaluation, call(row, inputs, deterministic=True))


# --- Bad input -----------------------------------------------------------------------------------


@every_row
def test_bad_arguments_are_named(row: Member) -> None:
    inputs = arrays(row)
    name = next(iter(inspect.signature(function_of(row)).parameters))
    integers = jax.tree.map(lambda x: x.astype(int), inputs[0])
    name = "weight" if name == "weights" else name
    with pytest.raises(TypeError, match=rf"^{name} must have dtype .*, got int32"):
        call(row, (integers, *inputs[1:]), key=KEY)
    with pytest.raises(TypeError, match=r"^key must be a fastdrop.Key or a JAX key, got 3"):
        call(row, inputs, key=3)
    with pytest.raises(TypeError, match=r"^deterministic must be True or False, got 1"):
        call(row, inputs, key=KEY, deterministic=1)
    if row.layer is not fd.ConcreteDropout:
        for p in (-0.1, float("nan")):
            with pytest.raises(ValueError, match=r"^p must be a number in \[0, 1\], got"):
                call(row, inputs, p, key=KEY)
    for n, other in enumerate(inputs[1:], 1):
        bad = jnp.zeros((*other.shape[:-1], other.shape[-1] + 1))
        name = list(inspect.signature(function_of(row)).parameters)[n]
        with pytest.raises(ValueError, match=rf"^{name} must broadcast to shape .*, got"):
            call(row, (*inputs[:n], bad, *inputs[n + 1 :]), key=KEY)
