"""What all members of the family have in common: each property for every row of `members.py`.

Numbers are compared with `statements.py`, or with other calls of the same member.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from entries import larger
from fastdrop._base.members import Member as Record
from fastdrop._family.fused import ActivationLayer
from members import MEMBERS, ROWS, Inputs, Member
from statements import STATED, statement
from support import BFLOAT16, KEY, as_key, assert_same, bits, running_on, values

pytestmark = pytest.mark.once
every_member = pytest.mark.parametrize("member", MEMBERS)


@every_member
def test_the_record_of_a_member_cites_what_its_docstrings_cite(member: Member) -> None:
    """Would catch a record that was copied from another member with its paper."""
    module = sys.modules[inspect.unwrap(member.function).__globals__["__name__"]]
    records = [
        one for one in vars(module).values() if isinstance(one, Record) and one.name in vars(module)
    ]
    names = {record.name for record in records}
    if member.function.__name__ in names:  # these have no record
        cited = inspect.getsource(module).replace("\n   ", "")
        for record in records:
            authors, year = record.paper.split(",")[0].split()[0], record.paper[-4:]
            assert min(cited.count(authors), cited.count(year)) > 1, record
    else:
        assert member.function.__name__ in (
            "weight_drop", "patch_dropout", "drop_connect_linear", "scaled_dot_product_attention",
        )  # fmt: skip


def some(condition: Callable[[Member], bool]) -> Any:
    """Run a test for the members that meet a condition."""
    chosen = [param for param in MEMBERS if condition(param.values[0])]
    return pytest.mark.parametrize("member", chosen)


def is_one_to_one(member: Member) -> bool:
    """Return whether one array goes in, and one of its shape comes out."""
    several = (fd.PatchDropout, fd.WeightDrop, fd.DropConnectLinear)
    return len(member.shapes) == 1 and member.layer not in several


stated = some(lambda member: member in STATED)
one_to_one = some(is_one_to_one)
identity = some(
    lambda member: (
        is_one_to_one(member) and not issubclass(member.layer, ActivationLayer | fd.ConcreteDropout)
    )
)
with_inplace = some(lambda member: "inplace" in inspect.signature(member.layer).parameters)


def flat(result: Any) -> list[Any]:
    """Return all arrays of a result."""
    return (
        [array for part in result for array in flat(part)]
        if isinstance(result, tuple | list)
        else [result]
    )


def assert_equal(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        assert type(one) is np.ndarray
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def gradient_of(result: Any, member: Member) -> Any:
    """Return ones where a gradient of the result is wanted."""
    if member.layer is fd.WeightDrop:
        return [np.ones_like(one) for one in result]
    return np.ones_like(result[0] if isinstance(result, tuple) else result)


def each(change: Callable[..., Any], *inputs: Any) -> Any:
    """Apply a function to all arrays of inputs of one form."""
    if isinstance(inputs[0], tuple | list):
        return type(inputs[0])(each(change, *parts) for parts in zip(*inputs, strict=True))
    return change(*inputs)


def in_double(inputs: Inputs) -> Any:
    return each(lambda x: x.astype(np.float64), inputs)


def test_every_layer_has_a_row() -> None:
    """Would catch a new member that nobody put under the suite."""
    public = [getattr(fd, name) for name in fd.__all__]
    layers = {k for k in public if inspect.isclass(k) and issubclass(k, fd.Layer)}
    assert layers - {fd.Layer, fd.ElementwiseLayer} == {row.layer for row in ROWS}


# --- Numbers -------------------------------------------------------------------------------------

PS = [0.0, 0.1, 0.5, 0.9, 1.0]
REAL = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


@pytest.mark.parametrize("p", PS)
@stated
def test_training_follows_the_formula(level: str, member: Member, p: float) -> None:
    inputs = in_double(member.inputs())
    layer = member.make(p, rng=as_key(KEY))
    for call in range(2):
        key = ref.fold_in(KEY, call)
        expected = statement(member, inputs, p, key)
        np.testing.assert_allclose(layer(*inputs), expected, rtol=1e-13, atol=1e-15)
        drawn = member.call(layer, inputs, p, rng=as_key(key))
        np.testing.assert_allclose(drawn, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@stated
def test_every_dtype_agrees_with_the_formula_in_float64(
    level: str, member: Member, dtype: np.dtype[Any]
) -> None:
    """To the last digit of the dtype, or of float32 where the arithmetic is in that."""
    inputs = each(lambda x: x.astype(dtype), member.inputs(1))
    y = member.call(None, inputs, 0.3, rng=as_key(KEY))
    assert y.dtype == dtype
    expected = statement(member, in_double(inputs), 0.3, KEY)
    digits = {2: 2.0**-8 if dtype == BFLOAT16 else 2.0**-11, 4: 1e-6, 8: 1e-14}[dtype.itemsize]
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=digits, atol=digits / 2)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@one_to_one
def test_p_1_gives_plus_zero(level: str, member: Member, dtype: np.dtype[Any]) -> None:
    """From anything, NaN and infinity included, forward, backward and in place."""
    x = values(member.shapes[0], dtype)
    layer, zeros = member.make(1.0), np.zeros_like(x)
    assert_same(layer(x), zeros)
    assert_same(layer.backward(x), zeros)
    assert_same(member.call(layer, (x,), 1.0, rng=1), zeros)
    out = x.copy()
    assert_same(member.call(layer, (out,), 1.0, rng=1, out=out), zeros)


@identity
def test_p_0_and_evaluation_return_x_itself(member: Member) -> None:
    """Or write to `out`, if there is one."""
    x = values(member.shapes[0], np.float32)
    layer = member.make(0.0)
    assert layer(x) is x
    assert layer.backward(x) is x
    assert (layer.calls, layer.mask.p) == (1, 0.0)
    calls: list[dict[str, Any]] = [{"p": 0.0}]
    if member.options.get("mode") != "standard":
        layer = member.make(0.5).eval()
        assert layer(x) is x
        assert layer.backward(x) is x
        assert (layer.calls, layer.mask) == (0, None)
        calls.append({"training": False})
    for options in calls:
        assert member.call(layer, (x,), rng=1, **options) is x
        out = np.empty_like(x)
        assert member.call(layer, (x,), rng=1, out=out, **options) is out
        assert_same(out, x)


@one_to_one
def test_layout_and_out_do_not_change_the_result(level: str, member: Member) -> None:
    (x,), key = member.inputs(2), as_key(KEY)
    expected = member.call(None, (x,), rng=key)
    wide = np.zeros(tuple(2 * length for length in x.shape), dtype=x.dtype)
    strided = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    strided[...] = x
    reverse = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    for layout in (x, np.asfortranarray(x), strided, reverse, x.astype(">f4")):
        y = member.call(None, (layout,), rng=key)
        np.testing.assert_array_equal(bits(y), bits(expected))
    out = np.full_like(x, np.nan, order="F")
    assert member.call(None, (x,), rng=key, out=out) is out
    np.testing.assert_array_equal(bits(out), bits(expected))
    same = x.copy()
    assert member.call(None, (same,), rng=key, out=same) is same
    assert_same(same, expected)


@every_member
def test_threads_change_neither_results_nor_gradients(level: str, member: Member) -> None:
    inputs, results = larger(member, 1 << 20), []
    for threads in (1, 3):
        with running_on(threads=threads):
            layer = member.make(rng=as_key(KEY))
            y = layer(*inputs)
            results.append([y, layer.backward(gradient_of(y, member))])
    assert_equal(*results)


@with_inplace
def test_in_place_gives_the_same_numbers(member: Member) -> None:
    """And refuses a read-only x without counting the call."""
    (x,) = member.inputs(2)
    layer = member.make()
    expected = layer(x)
    gradient = layer.backward(x)
    layer = member.make(inplace=True)
    same = x.copy()
    assert layer(same) is same
    assert_same(same, expected)
    assert_same(layer.backward(x), gradient)
    same.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        layer(same)
    assert layer.calls == 1


@pytest.mark.parametrize("training", [True, False])
@every_member
def test_gradients_are_the_slopes(member: Member, training: bool) -> None:
    """Central differences in float64, along one random direction; away from ReLU's corner."""

    def off_corner(x: Any) -> Any:
        return x + np.where(np.abs(x) < 1e-3, 0.01, 0.0)

    def result(inputs: Inputs) -> list[Any]:
        y = layer(*inputs)
        return [y[0]] if isinstance(y, tuple) else flat(y)

    def inner(some: Any, others: Any) -> float:
        return sum(np.vdot(a, b) for a, b in zip(flat(some), flat(others), strict=True))

    layer = member.make(0.3).train(training).hold()
    x, direction = in_double(member.inputs()), in_double(member.inputs(1))
    x = each(off_corner, x)
    dy = [np.random.default_rng(4).standard_normal(y.shape) for y in result(x)]

    def loss(step: float) -> float:
        return inner(dy, result(each(lambda one, way: one + step * way, x, direction)))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    layer(*x)
    gradients = layer.backward(dy if member.layer is fd.WeightDrop else dy[0])
    assert inner(gradients, direction) == pytest.approx(slope, rel=1e-6)


# --- Calls, masks and states ---------------------------------------------------------------------


@every_member
def test_call_number_i_is_the_function_with_child_key_i(member: Member) -> None:
    layer, inputs = member.make(rng=as_key(KEY)), member.inputs()
    for call in range(3):
        expected = member.call(layer, inputs, rng=as_key(KEY).fold_in(call))
        assert_equal(layer(*inputs), expected)
    assert layer.calls == 3


@some(lambda member: bool(member.options))
def test_an_option_set_later_acts_as_one_given_at_once(member: Member) -> None:
    """Would catch a constructor that keeps what follows from an option, and not the option."""
    required = {
        name: member.options[name]
        for name, default in member.layer._options().items()
        if default is inspect.Parameter.empty and name in member.options
    }
    made, layer = member.make(rng=0), member.layer(*member.arguments, p=0.4, rng=0, **required)
    for name in member.options.keys() - required.keys():
        setattr(layer, name, member.options[name])
    assert repr(layer) == repr(made)
    for training in (True, False):
        calls = [one.train(training)(*member.inputs()) for one in (layer, made)]
        assert_equal(*calls)


@every_member
def test_forward_is_the_call(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    assert_equal(layer.hold().forward(*inputs), layer(*inputs))


@every_member
def test_a_returned_mask_repeats_the_call(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    *result, mask = member.call(layer, inputs, rng=3, return_mask=True)
    assert_equal(result, member.call(layer, inputs, rng=3))
    again = member.call(layer, inputs, p=0.9, mask=mask)
    assert_equal(flat(result), flat(again))


@every_member
def test_a_returned_mask_is_that_of_the_layer(member: Member) -> None:
    layer, inputs = member.make(rng=as_key(KEY)), member.inputs()
    layer(*inputs)
    key = as_key(KEY).fold_in(0)
    assert layer.mask == member.call(layer, inputs, rng=key, return_mask=True)[-1]


@every_member
def test_evaluation_returns_a_mask_that_keeps_all(member: Member) -> None:
    """Whatever mask the call was given: the gradient goes through what was applied."""
    layer, inputs = member.make(), member.inputs()
    given = member.call(layer, inputs, rng=3, return_mask=True)[-1]
    for more in ({}, {"mask": given}):
        masks = member.call(layer, inputs, training=False, return_mask=True, **more)[-1]
        for mask in masks if isinstance(masks, list) else [masks]:
            assert mask.p == 0.0


@every_member
def test_a_mask_excludes_rng(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    mask = member.call(layer, inputs, rng=3, return_mask=True)[-1]
    for training in (True, False):
        with pytest.raises(ValueError, match="mask must not be given together with rng"):
            member.call(layer, inputs, rng=3, mask=mask, training=training)


@every_member
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "bad", "match"),
    [
        ("rng", "seed", "rng must be a Key"),
        ("rng", 1.5, "rng must be a Key"),
        ("mask", 3, "mask must be"),
        ("return_mask", 1, "return_mask must be True or False, got 1"),
        ("return_mask", 0, "return_mask must be True or False, got 0"),
        ("training", 1, "training must be True or False, got 1"),
        ("p", True, "p must be a number"),
        ("p", 1.5, "p must be a number"),
    ],
)
def test_unused_arguments_are_checked_too(
    member: Member, training: bool, p: float, name: str, bad: Any, match: str
) -> None:
    """Would catch a check that is made only where the argument is used."""
    layer, inputs = member.make(), member.inputs()
    arguments = {"training": training, "p": p, name: bad}
    if name == "p" and member.layer is fd.ConcreteDropout:
        arguments = {"training": training, "logit": True if bad is True else np.nan}
        match = "logit must be a number"
    with pytest.raises((TypeError, ValueError), match=match):
        member.call(layer, inputs, **arguments)


@every_member
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_p_outside_the_unit_interval_is_refused_when_a_layer_is_made_or_set(
    member: Member, p: float
) -> None:
    with pytest.raises(ValueError, match="p must be a number in"):
        member.make(p)
    layer = member.make()
    with pytest.raises(ValueError, match="p must be a number in"):
        layer.p = p
    assert layer.p == 0.4


@every_member
def test_a_refused_call_leaves_a_generator_where_it_was(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    if "out" not in inspect.signature(member.function).parameters:
        inputs_bad, more = tuple(np.zeros((), np.float32) for _ in inputs), {}
    else:
        inputs_bad, more = inputs, {"out": np.zeros(1, np.float32)}
    rng = np.random.default_rng(0)
    before = copy.deepcopy(rng.bit_generator.state)
    with pytest.raises((TypeError, ValueError)):
        member.call(layer, inputs_bad, rng=rng, **more)
    with pytest.raises(TypeError):
        member.call(layer, inputs, rng=rng, return_mask=None)
    assert rng.bit_generator.state == before
    member.call(layer, inputs, rng=rng)
    assert rng.bit_generator.state != before


@every_member
@pytest.mark.parametrize(("training", "p"), [(False, 0.4), (True, 0.0)])
def test_a_call_that_drops_nothing_draws_nothing(member: Member, training: bool, p: float) -> None:
    rng = np.random.default_rng(0)
    before = copy.deepcopy(rng.bit_generator.state)
    with np.errstate(divide="ignore", invalid="ignore"):
        member.call(member.make(), member.inputs(), p=p, training=training, rng=rng)
    assert rng.bit_generator.state == before


@every_member
def test_training_can_be_given_per_call(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    trained, evaluated = layer(*inputs), layer(*inputs, training=False)
    assert layer.calls == 1
    assert layer.training
    layer.eval()
    assert_equal(layer(*inputs), evaluated)
    layer.key = layer.key
    assert_equal(layer(*inputs, training=True), trained)
    assert not layer.training
    with pytest.raises(TypeError, match="training must be True or False"):
        layer(*inputs, training=1)


@every_member
def test_setting_the_key_starts_anew(member: Member) -> None:
    layer, inputs = member.make(rng=5), member.inputs()
    first = layer(*inputs)
    layer(*inputs)
    layer.key = 5
    assert (layer.key, layer.calls) == (fd.Key(5), 0)
    assert_equal(layer(*inputs), first)
    with pytest.raises(TypeError, match="rng must be a Key"):
        layer.key = "5"


@every_member
def test_a_refused_call_is_not_counted(member: Member) -> None:
    """Would catch a key that is taken before the input's dtype or shape is looked at."""
    layer = member.make()
    ints, scalars = (
        tuple([array] if member.layer is fd.WeightDrop else array for _ in member.shapes)
        for array in (np.zeros(3, np.int64), np.zeros((), np.float32))
    )
    with pytest.raises((TypeError, ValueError)):
        layer(*ints)
    assert (layer.calls, layer.mask) == (0, None)
    with pytest.raises(RuntimeError, match="backward needs a forward call"):
        layer.backward(gradient_of(ints[0], member))
    try:
        layer(*scalars)
        calls = 1
    except ValueError:
        calls = 0
    assert layer.calls == calls


@every_member
@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_must_have_the_shape_of_the_output(member: Member, training: bool) -> None:
    """Would catch a gradient that is broadcast."""
    layer, inputs = member.make(), member.inputs()
    layer(*inputs, training=training)
    for shape in ((1,) * 7, ()):
        wrong: Any = np.ones(shape, np.float32)
        with pytest.raises(ValueError, match=r"(dy|gradients) must have the (shape|axes)"):
            layer.backward([wrong] * 2 if member.layer is fd.WeightDrop else wrong)
    ints: Any = np.ones((1,) * 7, np.int64)
    if member.layer is fd.WeightDrop:
        ints = [ints] * 2
    with pytest.raises(TypeError, match=r"(dy|gradients) must have dtype"):
        layer.backward(ints)


@every_member
def test_a_held_mask_serves_all_calls_of_the_block(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    with layer.hold() as same:
        assert same is layer
        first = layer(*inputs)
        assert_equal(layer(*inputs), first)
        held = layer.mask
    assert layer.calls == 1
    layer(*inputs)
    assert layer.mask != held


@every_member
def test_a_held_mask_counts_as_one_call_and_only_if_drawn(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    assert layer.hold().hold().release().release().calls == 0
    layer.hold().eval()(*inputs)
    assert layer.train().release().calls == 0
    for calls in (1, 2):
        with layer.hold():
            layer(*inputs)
            layer.hold()(*inputs)  # still the same
            assert layer.calls == calls - 1
        assert layer.calls == calls
        assert layer.release().calls == calls
    layer.hold()(*inputs)
    other = member.make(rng=1)
    other.load_state_dict(layer.state_dict())
    assert other.hold().release().calls == layer.release().calls == 3


@every_member
def test_a_state_saved_within_a_hold_resumes_there(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    layer(*inputs)
    layer.hold()(*inputs)
    state = layer.state_dict()
    other = member.make(p=0.1, rng=9)
    if member.layer is not fd.DropConnectLinear:
        state = json.loads(json.dumps(state))
    other.load_state_dict(state)
    for _ in range(2):
        assert_equal(other(*inputs), layer(*inputs))
    assert layer.release().calls == other.release().calls == 2
    assert_equal(other(*inputs), layer(*inputs))


@every_member
def test_a_copy_goes_on_with_the_same_masks(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    layer(*inputs)
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer)):
        original = pickle.loads(pickle.dumps(layer))
        assert repr(twin) == repr(layer)
        assert twin.mask is None
        for _ in range(2):  # neither advances the other
            assert_equal(twin(*inputs), original(*inputs))
    assert layer.calls == 1


@every_member
def test_pickles_name_public_paths_only(member: Member) -> None:
    """Would catch a class that a later version cannot move."""
    layer = member.make()
    layer(*member.inputs())
    masks = layer.mask if isinstance(layer.mask, list) else [layer.mask]
    for thing in (layer, layer.key, *masks):
        text = pickle.dumps(thing, protocol=0)
        assert b"fastdrop" in text
        assert b"fastdrop." not in text
        assert b"fastdrop._core" not in text


@every_member
def test_a_repr_reads_back(member: Member) -> None:
    layer = member.make(p=0.25)
    assert repr(eval(repr(layer), dict(vars(fd)))) == repr(layer)


@every_member
def test_a_recipe_keeps_the_protocol(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    layer(*inputs)
    for mask in layer.mask if isinstance(layer.mask, list) else [layer.mask]:
        assert isinstance(mask.shape, tuple)
        assert type(mask.key) is fd.Key
        assert 0.0 <= mask.p <= 1.0
        drawn = mask.to_numpy()
        assert drawn.shape == mask.shape
        np.testing.assert_array_equal(np.asarray(mask), drawn)
        assert mask.__array__(np.float32).dtype == np.float32
        assert mask.__array__().dtype == drawn.dtype
        must = f"^copy must be True or None, because the array of a {type(mask).__name__} is drawn"
        with pytest.raises(ValueError, match=must):
            np.array(mask, copy=False)
        for twin in (pickle.loads(pickle.dumps(mask)), eval(repr(mask), dict(vars(fd)))):
            assert twin == mask
            assert hash(twin) == hash(mask)
        x = np.ones(mask.shape if member.layer is not fd.PatchDropout else (*mask.shape, 2))
        y = mask.apply(x)
        out = np.empty_like(y)
        assert mask.apply(x, out) is out
        np.testing.assert_array_equal(out, y)


@every_member
def test_threads_neither_share_nor_skip_a_call(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    calls, results = 25, []

    def work() -> None:
        for _ in range(calls):
            results.append(flat(layer(*inputs)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.calls == 4 * calls
    layer.key = layer.key
    expected = [flat(layer(*inputs)) for _ in range(4 * calls)]

    def digests(several: list[list[Any]]) -> list[bytes]:
        return sorted(b"".join(array.tobytes() for array in one) for one in several)

    assert digests(results) == digests(expected)


@every_member
def test_public_names_say_where_they_are_public(member: Member) -> None:
    assert member.layer.__module__ == "fastdrop"  # type: ignore[attr-defined]
    assert member.function.__module__ == "fastdrop"
