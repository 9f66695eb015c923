"""The family in JAX: each property for every row of `members.py`, without modes. Needs JAX."""

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
from fastdrop.jax import _connect  # noqa: E402
from fastdrop.jax._call import Call  # noqa: E402
from jax.test_util import check_grads  # noqa: E402
from members import ROWS, Member  # noqa: E402

pytestmark = pytest.mark.once

KEY = fd.Key(0)
P = jax.sharding.PartitionSpec


ELSEWHERE = {
    "training": "deterministic, its opposite",
    "rng": "key",
    "mode": "kept elements are scaled in training, as in Flax and Equinox",
    "mask": "its key draws it again",
    "return_mask": "its key draws it again",
    "out": "arrays of JAX do not change",
    "unknown": "keywords that are refused",
    "bernoulli": "jax.random.bernoulli",
    "drop_path_rates": "takes no array",
    "scaled_dot_product_attention": "dot_product_attention, which has tests of its own",
}
"""What NumPy's functions have and those of JAX lack, and what stands for it."""


def function_of(row: Member) -> Any:
    return getattr(fj, row.function.__name__)


def parameters_of(function: Any) -> list[str]:
    """Return the names of all arguments, with those that all functions share."""
    names = list(inspect.signature(function).parameters)
    return [*names, *Call.__annotations__] if names[-1] == "call" else names


DOOR = [row for row in ROWS if "mode" not in row.options and row.function.__name__ not in ELSEWHERE]
FIRST = {row.layer: row for row in reversed(DOOR)}
"""The first row of each member: for properties of the axes that share decisions, all rows run."""
LINEAR = fd.DropConnectLinear
IN_EVALUATION = (
    fd.ReluDropout, fd.GeluDropout, fd.SiluDropout, fd.ActivationDropout, fd.DropoutAdd,
    fd.BiasDropoutAdd, fd.Zoneout, LINEAR,
)  # fmt: skip
"""Members that do more than drop."""
NONLINEAR = (
    fd.ReluDropout, fd.GeluDropout, fd.SiluDropout, fd.ActivationDropout, fd.ConcreteDropout, LINEAR
)  # fmt: skip
"""Members whose gradient needs their input."""
OF_PARTS = tuple(row.layer for row in DOOR if row.layer not in (fd.WeightDrop, LINEAR))
"""Members that draw a part of a whole of their input's shape."""


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
every_member = some(lambda row: row is FIRST[row.layer])


def arrays(row: Member, dtype: Any = "float32") -> Any:
    inputs = row.inputs()
    if row.layer is LINEAR:
        layer = row.make()
        inputs = (*inputs, layer.weight, layer.bias)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)


def call(row: Member, inputs: Any, p: Any = 0.4, function: Any = None, **options: Any) -> Any:
    """Call a function, that of JAX if none is given."""
    options = {**row.options, **options}
    if row.layer is fd.ConcreteDropout:
        options.setdefault("logit", fd.ConcreteDropout(p).logit if isinstance(p, float) else p)
    else:
        options["p"] = p
    return (function or function_of(row))(*inputs, **options)


def reference(row: Member, inputs: Any, p: float = 0.4, key: fd.Key = KEY, **options: Any) -> Any:
    """Call NumPy's function."""
    inputs = jax.tree.map(np.asarray, inputs)
    return call(row, inputs, p, row.function, **{"rng": key, **options})


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


def test_each_member_and_option_of_arrays_is_there() -> None:
    """Or stands in the list, which has nothing else."""
    used = set()
    for name in fd.__all__:
        function = getattr(fd, name)
        named = ("p", "logit", "weight")
        if not inspect.isfunction(function) or name.endswith("_backward"):
            continue
        parameters = inspect.signature(function).parameters
        if not {*named} & {*parameters}:
            continue
        there = getattr(fj, name, None)
        missing = {*parameters} - {*parameters_of(there)} if there else {name}
        assert missing <= {*ELSEWHERE}, name
        used |= missing
    assert used | {"unknown"} == {*ELSEWHERE}


@every_row
def test_results_are_those_of_arrays(row: Member) -> None:
    inputs = arrays(row)
    for p in (0.4, 1.0) if row is FIRST[row.layer] else (0.4,):
        f = jax.jit(lambda inputs, key, p=p: call(row, inputs, p, key=key))
        assert_close(f(inputs, fj.key(KEY)), reference(row, inputs, p))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@every_member
def test_results_of_each_dtype_are_those_of_arrays(row: Member, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        inputs = arrays(row, dtype)
        f = jax.jit(lambda inputs, key: call(row, inputs, key=key))
        assert_close(f(inputs, fj.key(KEY)), reference(row, inputs))


@some(lambda row: row is FIRST[row.layer] and row.layer is not fd.PatchDropout)
def test_a_traced_p_gives_the_results_of_its_number(row: Member) -> None:
    """The p of PatchDropout decides a shape."""
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
        assert_close(y, reference(row, inputs, training=False))


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


def test_connections_of_many_examples_are_those_of_arrays(monkeypatch: Any) -> None:
    """Computed some at a time, with the last ones left over; for a part of them as well."""
    monkeypatch.setattr(_connect, "TILE", 2 * 3 * 5)
    rng = np.random.default_rng(0)
    x, weight, dy = (rng.standard_normal(s).astype("f4") for s in ((7, 5), (3, 5), (7, 3)))
    y, backward = jax.vjp(lambda *x: fj.drop_connect_linear(*x, p=0.4, key=KEY), x, weight)
    np.testing.assert_allclose(y, fd.drop_connect_linear(x, weight, p=0.4, rng=KEY), 1e-5, 1e-6)
    expected = fd.drop_connect_linear_backward(dy, x, weight, 0.4, rng=KEY)
    for gradient, one in zip(backward(dy), expected, strict=False):
        np.testing.assert_allclose(gradient, one, 1e-5, 1e-6)
    place: Any = {"whole": (7, 3, 5), "start": (2, 0, 0)}
    part = fj.drop_connect_linear(x[2:], weight, p=0.4, key=KEY, **place)
    np.testing.assert_allclose(part, y[2:], 1e-5, 1e-6)


def test_the_loss_of_concrete_dropout_is_that_of_arrays() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")
    options = {"weight_regularizer": 0.3, "dropout_regularizer": 0.2}
    for logit in (-3.0, 0.5, 80.0, np.inf, -np.inf):
        f = lambda w, a: fj.concrete_regularization(w, a, 7, **options)  # noqa: E731
        value, (dweight, dlogit) = jax.value_and_grad(f, (0, 1))(weight, jnp.float32(logit))
        expected = fd.concrete_regularization(weight, logit, 7, **options)
        np.testing.assert_allclose(value, expected[0], 1e-5)
        np.testing.assert_allclose(dweight, expected[1], 1e-5)
        if np.isfinite(logit):
            np.testing.assert_allclose(dlogit, expected[2], 1e-5)
    with pytest.raises(TypeError, match="inputs must be an int"):
        fj.concrete_regularization(weight, 0.0, 7.5)


# --- Transformations -----------------------------------------------------------------------------


@every_member
def test_gradients_are_those_of_finite_differences(row: Member) -> None:
    """Twice, forward and backward, for all inputs; away from ReLU's corner."""
    with jax.enable_x64(True):
        small = jax.tree.map(lambda x: x[..., :4] if x.ndim < 4 else x, arrays(row, float))
        small = arrays(row, float) if row.layer is LINEAR else small
        inputs = jax.tree.map(lambda x: x + 0.01 * jnp.sign(x), small)

        @jax.jit
        def run(*inputs: Any) -> Any:
            y = call(row, inputs, key=KEY)
            return [one for one in jax.tree.leaves(y) if jnp.issubdtype(one.dtype, jnp.floating)]

        check_grads(run, inputs, order=2)


@some(lambda row: row.layer not in (*NONLINEAR, fd.PatchDropout) and row is FIRST[row.layer])
def test_gradients_keep_the_key_alone(row: Member) -> None:
    """PatchDropout keeps its indices."""
    inputs = arrays(row)
    _, backward = jax.vjp(lambda *inputs: call(row, inputs, key=KEY), *inputs)
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(backward)) <= 64


@some(lambda row: row is FIRST[row.layer] and row.layer is not fd.PatchDropout)
def test_what_is_dropped_passes_no_nan_back(row: Member) -> None:
    """Whether p is known when the function is compiled, or not. PatchDropout keeps a token."""
    inputs = arrays(row)
    for p in (1.0, jnp.float32(1.0)):
        if row.layer is fd.ConcreteDropout and not isinstance(p, float):
            p *= jnp.inf
        y, backward = jax.vjp(lambda *inputs, p=p: call(row, inputs, p, key=KEY), *inputs)
        gradients = jax.tree.leaves(backward(jax.tree.map(lambda y: jnp.full_like(y, jnp.nan), y)))
        first = np.asarray(gradients[0])
        assert not first.any()
        assert not np.isnan(first).any()


@every_member
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

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    for a in (-0.5, -6.0):
        dx, dlogit = fd.concrete_dropout_backward(np.ones_like(x), x, a, temperature=0.3, rng=KEY)
        ours = gradient(x, jnp.float32(a))
        assert_close(ours[0], dx)
        np.testing.assert_allclose(ours[1], dlogit, rtol=1e-4)
    logits = jnp.array([-1.0, 0.5])
    each = jax.jit(jax.vmap(jax.grad(loss, 1), (None, 0)))(x, logits)
    for one, logit in zip(each, logits, strict=True):
        np.testing.assert_allclose(one, gradient(x, logit)[1], rtol=1e-5)


def test_a_logit_has_derivatives_of_any_order() -> None:
    """Also where each example has a key of its own."""
    with jax.enable_x64(True):
        x = jnp.linspace(-1.0, 1.0, 20)
        orders = [lambda a, key: (fj.concrete_dropout(x, a, temperature=0.5, key=key) ** 2).sum()]
        for _ in range(3):
            orders.append(jax.grad(orders[-1]))
        compiled = [jax.jit(f) for f in orders]
        a, key, step = jnp.float64(-0.5), fj.key(KEY), 1e-5
        for f, derivative in zip(compiled[:-1], compiled[1:], strict=True):
            difference = (f(a + step, key) - f(a - step, key)) / (2 * step)
            np.testing.assert_allclose(derivative(a, key), difference, 1e-6)
        keys = jax.random.split(key, 2)
        each = jax.jit(jax.vmap(orders[1], (None, 0)))(a, keys)
        for n in range(2):
            np.testing.assert_allclose(each[n], compiled[1](a, keys[n]), 1e-12)


# --- Sharded arrays ------------------------------------------------------------------------------


@every_row
def test_a_compiled_function_of_sharded_arrays_gathers_nothing(row: Member) -> None:
    """Forward and backward; each device draws its part of the mask of the whole."""
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    split, kept = (jax.sharding.NamedSharding(mesh, spec) for spec in (P("i"), P()))
    first, *others = arrays(row)
    if row.layer is not LINEAR:
        others = [jnp.concatenate([x] * 4) if x.ndim > 1 else x for x in others]
    first = jax.tree.map(lambda x: jnp.concatenate([x] * 4), first)
    inputs = (first, *others)
    whole = row.layer is LINEAR
    sharded = jax.tree.map(
        lambda x: jax.device_put(x, kept if x.ndim < 2 or (whole and x is not first) else split),
        inputs,
    )

    def run(inputs: Any, key: Any) -> Any:
        y, backward = jax.vjp(lambda inputs: call(row, inputs, key=key), inputs)
        return y, backward(jax.tree.map(jnp.ones_like, y))

    f = jax.jit(run)
    assert "all-gather" not in f.lower(sharded, fj.key(KEY)).compile().as_text()
    y, gradients = f(sharded, fj.key(KEY))
    expected, of_whole = f(inputs, fj.key(KEY))
    assert_close(y, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 2e-6), gradients, of_whole)


# --- Modules -------------------------------------------------------------------------------------

of_modules = some(lambda row: row is FIRST[row.layer] and row.layer not in (fd.Dropout, LINEAR))


def logit_of(module: Any, row: Member) -> dict[str, Any]:
    """Return the logit that a module learns, for a call of its function."""
    return {"logit": module.logit[...]} if row.layer is fd.ConcreteDropout else {}


@of_modules
def test_modules_of_nnx_call_their_function(row: Member) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    from fastdrop.jax import nnx as modules

    kind, inputs = getattr(modules, row.layer.__name__), arrays(row)
    module = kind(0.4, **row.options, rngs=nnx.Rngs(dropout=fj.key(KEY)))
    root, learned = module.rngs.key[...], logit_of(module, row)
    for n in range(2):
        assert_close(module(*inputs), call(row, inputs, key=jax.random.fold_in(root, n), **learned))
    own = nnx.jit(lambda module, inputs: module(*inputs, rngs=fj.key(KEY)))(module, inputs)
    assert_close(own, call(row, inputs, key=KEY, **learned))
    module.eval()
    assert_close(module(*inputs), call(row, inputs, deterministic=True))
    with pytest.raises(ValueError, match=f"no `rngs` argument was provided to {kind.__name__}"):
        kind(0.4, **row.options)(*inputs)
    with pytest.raises(TypeError, match=r"no argument 'wrong'|unexpected keyword"):
        kind(0.4, **row.options, wrong=1)


@of_modules
def test_modules_of_linen_call_their_function(row: Member) -> None:
    pytest.importorskip("flax.linen", reason="Flax is not installed")
    from fastdrop.jax import linen as modules

    module, inputs = getattr(modules, row.layer.__name__)(0.4, **row.options), arrays(row)
    streams = {"dropout": fj.key(KEY)}
    variables = module.init({"params": jax.random.key(0)}, *inputs, deterministic=True)
    learned = {"logit": variables["params"]["logit"]} if variables else {}
    y = module.apply(variables, *inputs, deterministic=False, rngs=streams)
    assert_close(module.apply(variables, *inputs, deterministic=False, rngs=streams), y)
    in_evaluation = module.apply(variables, *inputs, deterministic=True)
    assert not np.array_equal(jax.tree.leaves(y)[0], jax.tree.leaves(in_evaluation)[0])
    assert_close(in_evaluation, call(row, inputs, deterministic=True))
    own = module.apply(variables, *inputs, deterministic=False, rng=fj.key(KEY))
    assert_close(own, call(row, inputs, key=KEY, **learned))


@some(
    lambda row: (
        row.layer is not LINEAR and not {"channel_axis", "batch_axis", "per"} & {*row.options}
    )
)
def test_modules_of_equinox_call_their_function(row: Member) -> None:
    """For each example, as other modules of Equinox do."""
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    from fastdrop.jax import equinox as modules

    module = getattr(modules, row.layer.__name__)(0.4, **row.options)
    inputs, learned = arrays(row), logit_of(module, row)
    of_examples = isinstance(module, modules._OfExample)
    one = tuple(x[0] for x in inputs) if of_examples else inputs
    batch = tuple(x[:1] for x in inputs) if of_examples else inputs
    key = fj.key(KEY)
    expected, in_evaluation = (
        jax.tree.map(lambda y: y[0] if of_examples else y, call(row, batch, **options))
        for options in ({"key": key, **learned}, {"deterministic": True})
    )
    f = eqx.filter_jit(lambda module, inputs, key: module(*inputs, key=key))
    assert_close(f(module, one, key), expected)
    assert_close(eqx.nn.inference_mode(module)(*one), in_evaluation)
    assert_close(module(*one, inference=True), in_evaluation)
    with pytest.raises(TypeError, match=r"^key must be a fastdrop.Key or a JAX key, got None"):
        module(*one)


def test_sequences_of_equinox_give_their_modules_keys() -> None:
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    from fastdrop.jax import equinox as modules

    model = eqx.nn.Sequential([modules.Dropout(0.4), modules.Dropout2d(0.3)])
    keys, x = jax.random.split(fj.key(KEY), 2), jnp.ones((2, 5, 4, 3))
    y = jax.vmap(lambda x, key: model(x, key=key))(x, keys)
    for n, key in enumerate(KEY.split(2)):
        first, second = key.split(2)
        once = fd.dropout(np.ones((5, 4, 3), np.float32), 0.4, rng=first)
        np.testing.assert_allclose(y[n], fd.dropout2d(once[None], 0.3, rng=second)[0], 1e-6)


def test_linear_modules_drop_connections_of_their_weights() -> None:
    """Each library's own linear module in evaluation, and the function of arrays in training."""
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    linen = pytest.importorskip("flax.linen", reason="Flax is not installed")
    from fastdrop.jax import linen as of_linen
    from fastdrop.jax import nnx as of_nnx

    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6)), "float32")
    module = of_nnx.DropConnectLinear(6, 4, 0.3, rngs=nnx.Rngs(0))
    kernel, bias = np.asarray(module.kernel[...]), np.asarray(module.bias[...])
    expected = fd.drop_connect_linear(x, kernel.T, bias, 0.3, rng=KEY)
    np.testing.assert_allclose(module(x, rngs=fj.key(KEY)), expected, 1e-5, 1e-6)
    np.testing.assert_allclose(module(x, deterministic=True), nnx.Linear.__call__(module, x), 1e-5)
    variables = {"params": {"kernel": kernel, "bias": bias}}
    layer = of_linen.DropConnectLinear(4, 0.3)
    y = layer.apply(variables, x, deterministic=False, rng=fj.key(KEY))
    np.testing.assert_allclose(y, expected, 1e-5, 1e-6)
    plain = linen.Dense(4).apply(variables, x)
    np.testing.assert_allclose(layer.apply(variables, x, deterministic=True), plain, 1e-5, 1e-6)
    made = layer.init(jax.random.key(0), x, deterministic=True)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    from fastdrop.jax import equinox as of_equinox

    own = of_equinox.DropConnectLinear(6, 4, 0.3, key=jax.random.key(0))
    expected = fd.drop_connect_linear(x[:1], own.weight, own.bias, 0.3, rng=KEY)
    np.testing.assert_allclose(own(x[0], key=KEY), expected[0], 1e-5, 1e-6)
    np.testing.assert_allclose(own(x[0], inference=True), eqx.nn.Linear.__call__(own, x[0]), 1e-5)


# --- Bad input -----------------------------------------------------------------------------------


@every_member
def test_bad_arguments_are_named(row: Member) -> None:
    inputs = arrays(row)
    name = parameters_of(function_of(row))[0]
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
    with pytest.raises(
        TypeError, match=r"^\w+ has no argument 'rngs': key=fd.Key\(seed\) is meant"
    ):
        call(row, inputs, rngs=3)
    if row.layer is LINEAR:
        return
    for n, other in enumerate(inputs[1:], 1):
        bad = jnp.zeros((*other.shape[:-1], other.shape[-1] + 1))
        name = parameters_of(function_of(row))[n]
        with pytest.raises(ValueError, match=rf"^{name} must broadcast to shape .*, got"):
            call(row, (*inputs[:n], bad, *inputs[n + 1 :]), key=KEY)
