"""What all members of the family have in common, each property for every row of `members.py`."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import threading
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from members import MEMBERS, ROWS, Member
from support import KEY, as_key

pytestmark = pytest.mark.once
every_member = pytest.mark.parametrize("member", MEMBERS)


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


def differ(actual: Any, expected: Any) -> bool:
    return any(
        one.shape != other.shape or not np.array_equal(one, other)
        for one, other in zip(flat(actual), flat(expected), strict=True)
    )


def gradient_of(result: Any, member: Member) -> Any:
    """Return ones where a gradient of the result is wanted."""
    if member.layer is fd.WeightDrop:
        return [np.ones_like(one) for one in result]
    return np.ones_like(result[0] if isinstance(result, tuple) else result)


def test_every_layer_has_a_row() -> None:
    """Would catch a new member that nobody put under the suite."""
    public = [getattr(fd, name) for name in fd.__all__]
    layers = {k for k in public if inspect.isclass(k) and issubclass(k, fd.Layer)}
    assert layers - {fd.Layer, fd.ElementwiseLayer} == {row.layer for row in ROWS}


@every_member
def test_call_number_i_is_the_function_with_child_key_i(member: Member) -> None:
    layer, inputs = member.make(rng=as_key(KEY)), member.inputs()
    for call in range(3):
        expected = member.call(layer, inputs, rng=as_key(KEY).fold_in(call))
        assert_equal(layer(*inputs), expected)
    assert layer.calls == 3


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
    wrong: Any = np.ones((1,) * 7, np.float32)
    ints: Any = np.ones((1,) * 7, np.int64)
    if member.layer is fd.WeightDrop:
        wrong, ints = [wrong] * 2, [ints] * 2
    with pytest.raises(ValueError, match=r"(dy|gradients) must have the shape"):
        layer.backward(wrong)
    with pytest.raises(TypeError, match=r"(dy|gradients) must have dtype"):
        layer.backward(ints)


@every_member
def test_a_held_mask_serves_all_calls_of_the_block(member: Member) -> None:
    layer, inputs = member.make(), member.inputs()
    with layer.hold() as same:
        assert same is layer
        first = layer(*inputs)
        assert_equal(layer(*inputs), first)
    assert layer.calls == 1
    assert differ(layer(*inputs), first)


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
def test_a_state_of_another_stream_is_refused(member: Member) -> None:
    layer = member.make()
    before = repr(layer.state_dict())
    for stream in (1, 3, None):
        with pytest.raises(ValueError, match="state must be of stream 2"):
            layer.load_state_dict({**layer.state_dict(), "stream": stream})
    assert repr(layer.state_dict()) == before


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
        must = "becomes an array only by drawing it, so copy must not be False"
        with pytest.raises(ValueError, match=f"^a {type(mask).__name__} {must}$"):
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


# --- Gradients and shared masks -----------------------------------------------------------------

X, DY = np.random.default_rng(0).standard_normal((2, 6, 5))
WEIGHT = np.random.default_rng(1).standard_normal((4, 5))
GRADIENTS: dict[str, tuple[Any, Any]] = {
    "relu": (
        lambda **more: fd.relu_dropout(X, 0.4, **more),
        lambda **more: fd.relu_dropout_backward(DY, X, 0.4, **more),
    ),
    "gelu": (
        lambda **more: fd.gelu_dropout(X, 0.4, **more),
        lambda **more: fd.gelu_dropout_backward(DY, X, 0.4, **more),
    ),
    "zoneout": (
        lambda **more: fd.zoneout(X, DY, 0.4, **more),
        lambda **more: fd.zoneout_backward(DY, 0.4, **more),
    ),
    "concrete": (
        lambda **more: fd.concrete_dropout(X, 0.3, **more),
        lambda **more: fd.concrete_dropout_backward(DY, X, 0.3, **more),
    ),
    "linear": (
        lambda **more: fd.drop_connect_linear(X, WEIGHT, None, 0.4, **more),
        lambda **more: fd.drop_connect_linear_backward(DY[:, :4], X, WEIGHT, 0.4, **more),
    ),
    "lookup": (
        lambda **more: fd.embedding_dropout(X, 0.4, indices=[1, 3, 1], **more),
        lambda **more: fd.embedding_dropout_backward(DY[:3], [1, 3, 1], 6, 0.4, **more),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_takes_the_key_or_the_mask_of_the_call(name: str) -> None:
    """Would catch a gradient that draws a mask of its own."""
    forward, backward = GRADIENTS[name]
    key = as_key(KEY)
    mask = forward(rng=key, return_mask=True)[-1]
    assert_equal(
        list(map(np.asarray, flat(backward(rng=key)))),
        list(map(np.asarray, flat(backward(mask=mask)))),
    )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "None"),
        ({"rng": None}, "None"),
        ({"rng": 3}, "3"),
        ({"rng": np.random.default_rng(0)}, "Generator"),
        ({"rng": key, "mask": mask}, "both"),
    ]
    for arguments, got in wrong:
        must = f"rng must be the Key of the forward call, or mask its mask, got {got}"
        with pytest.raises(TypeError, match=must):
            backward(**arguments)


def test_a_gradient_of_evaluation_needs_neither_key_nor_mask() -> None:
    np.testing.assert_array_equal(
        fd.relu_dropout_backward(DY, X, 0.4, training=False), np.where(X > 0.0, DY, 0.0)
    )
    with pytest.raises(TypeError, match="rng must be the Key of the forward call"):
        fd.relu_dropout_backward(DY, X, 0.4, training=False, rng=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^training must be True or False, got 0$"):
        fd.relu_dropout_backward(DY, X, 0.4, training=0)  # type: ignore[arg-type]


def test_a_mask_of_another_kind_or_beside_rng_is_refused() -> None:
    key = as_key(KEY)
    x = np.ones((2, 3, 6, 6), np.float32)
    _, blocks = fd.drop_block2d(x, 0.3, 2, rng=key, return_mask=True)
    with pytest.raises(TypeError, match=r"^mask must be a BlockMask, got Mask$"):
        fd.drop_block2d(x, 0.3, 2, mask=fd.Mask(x.shape, 0.3, key))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mask must not be given together with rng$"):
        fd.drop_block2d(x, 0.3, 2, mask=blocks, rng=key)
    with pytest.raises(ValueError, match=r"^mask must not be given together with rng$"):
        fd.dropout(x, mask=fd.Mask(x.shape, 0.3, key), rng=key)


def test_a_mask_is_checked_in_evaluation_too_and_handed_back_as_it_is() -> None:
    kept = np.ones(X.shape, np.bool_)
    assert fd.dropout(X, 0.4, mask=kept, return_mask=True)[1] is kept
    images = np.ones((2, 3, 6, 6))
    _, blocks = fd.drop_block2d(images, 0.4, 2, rng=as_key(KEY), return_mask=True)
    assert fd.dropout(images, mask=blocks, return_mask=True)[1] is blocks
    with pytest.raises(ValueError, match=r"^mask of shape \(7,\) does not broadcast to shape"):
        fd.dropout(X, mask=fd.Mask((7,), 0.4, as_key(KEY)), training=False)
    with pytest.raises(
        TypeError, match=r"^mask must be a Mask or a boolean array, got float64: use mask != 0$"
    ):
        fd.dropout(X, mask=X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^mask must be a Mask or a boolean array, got str$"):
        fd.dropout(X, mask="mask")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mask must not be given together with broadcast_dims$"):
        fd.dropout(X, mask=kept, broadcast_dims=0)
    with pytest.raises(ValueError, match=r"^broadcast_dims must be an axis of an array with 2"):
        fd.dropout(X, broadcast_dims=2)


def test_a_mask_may_be_of_a_class_that_becomes_an_array() -> None:
    class Column:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return X > 0.0

        to_numpy = __array__

    column: Any = Column()
    np.testing.assert_array_equal(fd.dropout(X, 0.0, mask=column), np.where(X > 0.0, X, 0.0))


def test_an_output_of_a_subclass_is_written_and_returned() -> None:
    class Special(np.ndarray):
        pass

    key = as_key(KEY)
    images = np.random.default_rng(2).standard_normal((2, 3, 6, 6))
    _, blocks = fd.drop_block2d(images, 0.4, 2, rng=key, return_mask=True)
    calls: list[tuple[Any, Any]] = [
        (images, lambda out: blocks.apply(images, out)),
        (X, lambda out: fd.dropout(X, 0.4, rng=key, out=out)),
        (X, lambda out: fd.alpha_dropout(X, 0.4, rng=key, out=out)),
        (X, lambda out: fd.zoneout(X, DY, 0.4, training=False, out=out)),
        (X, lambda out: fd.gaussian_dropout(X, 0.4, rng=key, out=out)),
        (images, lambda out: fd.drop_block2d(images, 0.4, 2, rng=key, out=out)),
        (images, lambda out: fd.drop_block2d(images, 0.4, 2, training=False, out=out)),
    ]
    for like, call in calls:
        expected = call(None)
        for out in (np.empty_like(like), np.empty_like(like).view(Special)):
            assert call(out) is out
            np.testing.assert_array_equal(np.asarray(out), expected)
        with pytest.raises(TypeError, match=r"^out must be a numpy.ndarray, got list$"):
            call([])


def test_blocks_that_are_not_scaled_keep_their_values() -> None:
    y = fd.drop_block2d(np.ones((2, 3, 6, 6)), 0.4, 2, scale_by_keep=False, rng=as_key(KEY))
    assert set(y.flat) == {0.0, 1.0}


def test_functions_can_share_a_mask() -> None:
    y, mask = fd.dropout(X, 0.4, rng=3, return_mask=True)
    kept = mask.to_numpy()
    np.testing.assert_array_equal(fd.dropout_add(X, DY, mask=mask), DY + y)
    np.testing.assert_array_equal(fd.relu_dropout(X, mask=mask), np.maximum(y, 0.0))
    np.testing.assert_array_equal(fd.zoneout(X, DY, mask=mask), np.where(kept, X, DY))
    np.testing.assert_array_equal(fd.alpha_dropout(X, mask=mask), fd.alpha_dropout(X, 0.4, rng=3))
    np.testing.assert_array_equal(fd.zoneout(X, DY, mask=kept), np.where(kept, X, DY))


def test_blocks_are_a_mask_for_any_function() -> None:
    images = np.ones((2, 3, 6, 6), np.float32)
    y, blocks = fd.drop_block2d(images, 0.3, 2, rng=1, return_mask=True)
    np.testing.assert_array_equal(fd.dropout(images, 0.9, mask=blocks), y)
    np.testing.assert_array_equal(fd.relu_dropout(images, mask=blocks), y)


@pytest.mark.parametrize("p", [np.array([0.4]), np.array([[0.4]]), np.array(0.4), np.float64(0.4)])
def test_an_array_with_one_element_is_accepted_as_p(p: Any) -> None:
    np.testing.assert_array_equal(fd.dropout(X, p, rng=1), fd.dropout(X, 0.4, rng=1))
    assert fd.Mask(3, p, fd.Key(0)).p == 0.4
    with pytest.raises(TypeError, match="p must be a number"):
        fd.dropout(X, np.array([0.4, 0.4]))


def test_lists_are_accepted_as_shapes() -> None:
    key = as_key(KEY)
    assert fd.Mask([3, 4], 0.4, key).region([1, 1], [2, 2]) == fd.Mask((3, 4), 0.4, key).region(
        (1, 1), (2, 2)
    )
    assert fd.PatchMask([3, 4], 0.4, key) == fd.PatchMask((3, 4), 0.4, key)
    assert fd.ConcreteMask([3, 4], 0.4, 0.1, key) == fd.ConcreteMask((3, 4), 0.4, 0.1, key)
    seeds = fd.Mask((3, 4), 0.4, key)
    assert fd.BlockMask(seeds, [2, 2], 0.4) == fd.BlockMask(seeds, (2, 2), 0.4)
    np.testing.assert_array_equal(fd.bernoulli([3, 4], 0.4, key), ~seeds.to_numpy())


def test_monte_carlo_masks_follow_the_names_of_layers() -> None:
    """Would catch masks that change when a model gets another layer in front."""
    first, second = fd.Dropout(0.5), fd.Dropout(0.5)
    x = np.ones((3, 40))
    one = fd.MonteCarlo(lambda x: second(x), {"second": second}, rng=0).sample(x, 2)
    in_turn = lambda x: (first(x), second(x))  # noqa: E731
    both = fd.MonteCarlo(lambda x: in_turn(x)[1], {"first": first, "second": second}, rng=0)
    np.testing.assert_array_equal(both.sample(x, 2), one)
    swapped = fd.MonteCarlo(lambda x: in_turn(x)[0], {"first": first, "second": second}, rng=0)
    assert not np.array_equal(swapped.sample(x, 2), one)
    with pytest.raises(TypeError, match="layers must have names of type str, got 1"):
        fd.MonteCarlo(lambda x: x, {1: first})  # type: ignore[dict-item]


def test_monte_carlo_drops_even_if_the_model_evaluates() -> None:
    drop = fd.Dropout(0.5)
    mc = fd.MonteCarlo(lambda x: drop(x, training=False), drop, rng=0)
    assert np.count_nonzero(mc.sample(np.ones(100), 0)) < 100


def test_a_lookup_treats_masks_as_the_whole_table_does() -> None:
    table, words = np.ones((6, 5)), [1, 3, 1]
    seeds = fd.Mask((6, 1), 0.4, fd.Key(1))
    for mask in (seeds, fd.BlockMask(seeds, (1, 1), 0.4)):
        y, same = fd.embedding_dropout(table, indices=words, mask=mask, return_mask=True)
        assert same is mask
        np.testing.assert_array_equal(y, fd.embedding_dropout(table, mask=mask)[words])
    _, mask = fd.embedding_dropout(table, indices=words, training=False, return_mask=True)
    assert (mask.shape, mask.p) == ((6, 1), 0.0)
    rng, out = np.random.default_rng(0), np.zeros((3, 5))
    before = copy.deepcopy(rng.bit_generator.state)
    with pytest.raises(TypeError, match="return_mask must be"):
        fd.embedding_dropout(table, indices=words, rng=rng, return_mask=1, out=out)  # type: ignore[arg-type]
    assert rng.bit_generator.state == before
    assert not out.any()
    with pytest.raises(
        ValueError, match="indices must not be given to a layer that works in place"
    ):
        fd.EmbeddingDropout(0.5, True)(table, words)
    with pytest.raises(ValueError, match="dy must have the axes of indices and one more"):
        fd.embedding_dropout_backward(np.ones(3), words, 6, rng=fd.Key(1))
    for one in (True, False):
        y = fd.embedding_dropout(np.ones((6, 4)), indices=words, mask=np.array(one))
        np.testing.assert_array_equal(y, np.full((3, 4), 2.0 * one))
