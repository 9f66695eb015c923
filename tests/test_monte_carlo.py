"""Monte Carlo dropout: numbered masks, batches of samples, layers left alone."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop._base.layers import ElementwiseLayer, Layer
from numpy.typing import NDArray
from support import DTYPES, KEY, as_key, assert_same, values

pytestmark = pytest.mark.once

# What layers need beside p, and inputs of two to five axes: the first that a layer takes is its.
NEEDS = {"p": 0.5, "block_size": 2, "activation": "tanh"}
SHAPES = [(6, 4), (6, 4, 5), (6, 4, 5, 3), (6, 4, 5, 3, 2)]


def sample_key(k: int, layer: int = 0, call: int = 0) -> ref.Key:
    return ref.fold_in(ref.fold_in(ref.fold_in(KEY, k), layer), call)


def monte_carlo(model: Any, layers: Any, **kwargs: Any) -> fd.MonteCarlo:
    return fd.MonteCarlo(model, layers, rng=as_key(KEY), **kwargs)


def made(kind: type[Any]) -> Any:
    """Make a layer with what it needs."""
    needs = inspect.signature(kind).parameters
    return kind(**{name: NEEDS[name] for name in needs if name in NEEDS}, rng=as_key(KEY))


def fitting(layer: Any, dtype: Any = np.float32) -> NDArray[Any]:
    """Return an input that a layer takes."""
    for shape in SHAPES:
        x = values(shape, dtype, seed=5)
        try:
            layer(x.copy())
        except ValueError:
            continue
        return x
    raise AssertionError(f"no input for {layer}")


KINDS = [
    kind
    for kind in (getattr(fd, name) for name in fd.__all__)
    if inspect.isclass(kind) and issubclass(kind, ElementwiseLayer) and kind is not ElementwiseLayer
]
HOOKED = [kind for kind in KINDS if kind.__call__ is ElementwiseLayer.__call__]
ON_ROWS = [kind for kind in HOOKED if not kind._of_weights]
ON_WEIGHTS = [kind for kind in HOOKED if kind._of_weights]
IN_PLACE = [
    (kind, inplace)
    for kind in ON_ROWS
    for inplace in (False, True)
    if not inplace or "inplace" in inspect.signature(kind).parameters
]


def assert_untouched(layer: Layer[Any], before: dict[str, Any]) -> None:
    """Compare what a layer holds with what it held: the same objects under the same names."""
    assert vars(layer).keys() == before.keys()
    for name, value in before.items():
        assert vars(layer)[name] is value, name


# --- One sample ----------------------------------------------------------------------------------


def test_masks_depend_on_sample_layer_and_call_alone(level: str) -> None:
    first, second = fd.Dropout(0.3, rng=1), fd.Dropout(0.6, rng=2)
    seen: list[NDArray[Any]] = []

    def model(x: Any) -> Any:
        seen[:] = [first(x), second(x), first(x)]
        return seen[0]

    mc = monte_carlo(model, [first, second])
    x = values((40, 30), np.float32)
    for k in (0, 1, 7, 1, 2**64 - 1):  # in any order, and again
        mc.sample(x, k)
        assert_same(seen[0], ref.dropout(x, 0.3, sample_key(k, 0, 0)))
        assert_same(seen[1], ref.dropout(x, 0.6, sample_key(k, 1, 0)))
        assert_same(seen[2], ref.dropout(x, 0.3, sample_key(k, 0, 1)))
        first(x)  # what the layers do in between does not matter
        second.eval()


def test_masks_are_on_in_evaluation() -> None:
    drop = fd.Dropout(0.3).eval()
    x = values((300,), np.float32)
    assert_same(monte_carlo(drop, drop).sample(x, 3), ref.dropout(x, 0.3, sample_key(3)))
    assert drop(x) is x


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("setting", ["train", "eval", "hold"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_leaves_layers_as_they_were(kind: type[Any], setting: str, raises: bool) -> None:
    """Whatever the model does with them, and even if it raises."""
    layer = made(kind)
    x = fitting(layer)
    getattr(layer, setting)()
    dropped = layer(x)
    gradient = layer.backward(x)

    def model(x: Any) -> Any:
        y = layer(layer(x))
        layer.hold()
        layer.p = 0.9
        if raises:
            raise KeyboardInterrupt
        return y

    mc = monte_carlo(model, [layer])
    runs = [lambda: mc.sample(x, 3), lambda: mc.samples(x, 2)]
    for run in [*runs, lambda: mc.batch(x, 2)] if kind in ON_ROWS else runs:
        before = dict(vars(layer))
        if raises:
            with pytest.raises(KeyboardInterrupt):
                run()
        else:
            run()
        assert_untouched(layer, before)
        assert_same(layer.backward(x), gradient)
    if setting == "hold":
        assert_same(layer(x), dropped)


def test_layers_of_several_arrays_are_sampled_too() -> None:
    drop = fd.WeightDrop(0.5).eval()
    weights = [values((30, 40), np.float32), values((30, 50), np.float32)]
    for shared in (False, True):
        mc = monte_carlo(drop, drop, shared=shared)
        first, second = mc.sample(weights, 4)
        assert_same(first, ref.dropout(weights[0], 0.5, ref.fold_in(sample_key(4), 0)))
        assert_same(second, ref.dropout(weights[1], 0.5, ref.fold_in(sample_key(4), 1)))
    assert (drop.calls, drop.mask, drop.training) == (0, None, False)


def test_a_layer_in_place_leaves_the_input_alone() -> None:
    drop = fd.Dropout(0.5, inplace=True)
    x = values((6, 50), np.float32)
    before = x.copy()

    def model(x: Any) -> Any:
        y = drop(x)
        assert y is x
        return y

    mc = monte_carlo(model, drop)
    expected = np.stack([ref.dropout(before, 0.5, sample_key(k)) for k in range(3)])
    assert_same(mc.samples(x, 3), expected)
    assert_same(mc.batch(x, 3), expected)
    assert_same(x, before)


@pytest.mark.parametrize("kind", [fd.Dropout, fd.DropConnect, fd.GaussianDropout])
def test_a_layer_in_place_spares_arrays_in_containers(kind: type[Any]) -> None:
    """Otherwise each sample would start from what the one before left."""
    drop = kind(0.5, inplace=True)
    x = values((6, 50), np.float32)
    before = x.copy()
    for model, given in ((lambda v: drop(v[0]), (x, 3)), (lambda v: drop(v["x"]), {"x": x})):
        mc = monte_carlo(model, drop)
        samples = mc.samples(given, 3)
        assert_same(x, before)
        assert_same(mc.sample(given, 2), samples[2])


@pytest.mark.parametrize("shared", [False, True])
def test_a_gradient_within_a_run_has_the_mask_of_its_sample(shared: bool) -> None:
    drop = fd.Dropout(0.5)

    def saliency(x: Any) -> Any:
        drop(x)
        return drop.backward(np.ones_like(x))

    mc = monte_carlo(saliency, drop, shared=shared)
    keep = ref.mask(sample_key(2), 0.5, (1 if shared else 6, 50))
    np.testing.assert_array_equal(mc.sample(np.ones((6, 50)), 2), np.tile(keep * 2.0, (6, 1))[-6:])
    with pytest.raises(RuntimeError, match="backward needs one sample, got a batch"):
        mc.batch(np.ones((6, 50)), 2)


# --- Many samples --------------------------------------------------------------------------------


def test_samples_are_those_drawn_alone() -> None:
    drop = fd.Dropout(0.4)
    x = values((5, 40), np.float64)
    mc = monte_carlo(drop, drop)
    expected = np.stack([ref.dropout(x, 0.4, sample_key(k)) for k in range(2, 6)])
    assert_same(mc.samples(x, 4, first=2), expected)
    assert_same(mc.batch(x, 4, first=2), expected)
    assert_same(np.stack(list(mc.iter_samples(x, 4, 2))), expected)
    for k in range(2, 6):
        assert_same(mc.sample(x, k), expected[k - 2])


def test_the_iterator_is_lazy_and_frees_layers_in_between() -> None:
    drop = fd.Dropout(0.5).eval()
    runs = []
    mc = monte_carlo(lambda x: runs.append(x) or drop(x), drop)
    x = np.ones(50)
    each = mc.iter_samples(x, 3)
    assert len(runs) == 0
    next(each)
    assert len(runs) == 1
    assert drop(x) is x
    with pytest.raises(ValueError, match="n must be"):
        mc.iter_samples(x, 0)  # before the first is asked for


def test_a_model_may_return_one_buffer_each_time() -> None:
    """Would catch n views of the last output."""
    drop, buffer = fd.Dropout(0.5), np.empty(50)
    mc = monte_carlo(lambda x: np.add(drop(x), 1.0, out=buffer), drop)
    samples = mc.samples(np.ones(50), 3)
    for k in range(3):
        assert_same(samples[k], mc.sample(np.ones(50), k))


@pytest.mark.parametrize("others", [np.ones(1), np.ones(2, np.float32)], ids=["shape", "dtype"])
def test_outputs_of_several_kinds_are_refused(others: NDArray[Any]) -> None:
    outputs = iter([np.ones(2), others])
    drop = fd.Dropout(0.5)
    with pytest.raises(ValueError, match="model must return arrays of one shape and dtype"):
        monte_carlo(lambda x: (drop(x), next(outputs))[1], drop).samples(np.ones(2), 2)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("kind", "inplace"), IN_PLACE)
def test_a_batch_has_the_masks_of_its_samples(
    kind: type[Any], inplace: bool, shared: bool, p: float
) -> None:
    """Bit for bit, for a layer that is called twice, and one after it."""
    layer, behind = made(kind), fd.Dropout(0.25)
    layer.inplace = inplace
    x = fitting(layer)
    layer.p = p
    mc = monte_carlo(lambda x: behind(layer(layer(x))), [layer, behind], shared=shared)
    samples = mc.samples(x, 5, first=1)
    assert_same(mc.batch(x, 5, first=1), samples)
    assert_same(mc.batch(x, 1, first=2), samples[1:2])
    assert (bits_of(samples) != bits_of(samples[:1])).any() == (p < 1.0)


def bits_of(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(np.uint32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["inverted", "standard"])
def test_a_batch_goes_by_logical_index_in_any_layout(dtype: Any, mode: str) -> None:
    """The model transposes the copies in memory, so their rows do not follow each other."""
    drop = fd.Dropout(0.3, mode=mode)

    def model(x: Any) -> Any:
        y = drop(np.asfortranarray(x))
        assert y.flags.f_contiguous
        return y

    mc = monte_carlo(model, drop)
    x = values((7, 5, 3), dtype)
    expected = np.stack([ref.dropout(x, 0.3, sample_key(k), mode=mode) for k in range(4)])
    assert_same(mc.batch(x, 4), expected)


def test_rows_that_become_several_stay_with_their_sample() -> None:
    drop = fd.Dropout(0.3)

    def model(x: Any) -> Any:
        return drop(x.reshape(-1, 5)).reshape(x.shape)

    mc = monte_carlo(model, drop)
    x = values((4, 3, 5), np.float32)
    assert_same(mc.batch(x, 3), mc.samples(x, 3))
    steps = monte_carlo(lambda x: drop(x.reshape(-1, 5)), drop)  # (batch * time, features)
    assert_same(steps.batch(x, 3), steps.samples(x, 3))


@pytest.mark.parametrize("shared", [False, True])
def test_an_empty_batch_is_accepted(shared: bool) -> None:
    drop = fd.Dropout(0.3)
    mc = monte_carlo(drop, drop, shared=shared)
    assert mc.batch(np.ones((0, 3)), 4).shape == mc.samples(np.ones((0, 3)), 4).shape == (4, 0, 3)


def test_a_held_layer_has_one_mask_per_sample() -> None:
    drop = fd.Dropout(0.3).hold()
    x = values((6, 50), np.float32)
    mc = monte_carlo(lambda x: np.stack([drop(x), drop(x)], axis=1), drop)
    samples = mc.samples(x, 3)
    for k in range(3):
        for call in range(2):  # one mask per sample
            assert_same(samples[k, :, call], ref.dropout(x, 0.3, sample_key(k)))
    assert_same(mc.batch(x, 3), samples)


# --- One mask for a batch ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ON_ROWS, ids=lambda kind: kind.__name__)
def test_rows_of_a_shared_mask_agree(kind: type[Any]) -> None:
    layer = made(kind)
    row = fitting(layer)[:1]
    mc = monte_carlo(layer, layer, shared=True)
    differing = 0
    for k in range(10):
        alone = mc.sample(row, k)
        together = mc.sample(np.repeat(row, 5, axis=0), k)
        assert_same(together, np.repeat(alone, 5, axis=0))
        differing += (bits_of(alone) != bits_of(mc.sample(row, k + 1))).any()
    assert differing > 0


def test_a_shared_mask_broadcasts_over_the_batch() -> None:
    drop = fd.Dropout(0.3)
    x = values((6, 4, 50), np.float32)
    shared = monte_carlo(drop, drop, shared=True).sample(x, 3)
    assert_same(shared, ref.dropout(x, 0.3, sample_key(3), broadcast_dims=(0,)))
    scalar = monte_carlo(drop, drop, shared=True).sample(np.float64(1.0), 3)
    assert_same(scalar, ref.dropout(np.ones(()), 0.3, sample_key(3)))


@pytest.mark.parametrize("kind", ON_WEIGHTS, ids=lambda kind: kind.__name__)
def test_masks_of_weights_are_the_same_when_shared(kind: type[Any]) -> None:
    layer = made(kind)
    x = values((40, 3), np.float32)
    alone, shared = (monte_carlo(layer, layer, shared=shared) for shared in (False, True))
    assert_same(shared.sample(x, 2), alone.sample(x, 2))


# --- What it refuses -----------------------------------------------------------------------------


class Pair(Layer[Any]):
    """A layer of two arrays, which knows nothing of rows."""

    def __call__(self, x: Any, y: Any) -> Any:
        return x + y


class Counted(fd.Dropout):
    """A layer with a call of its own."""

    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    "layer",
    [*(made(kind) for kind in ON_WEIGHTS), fd.WeightDrop(), Pair(0.5, None), Counted()],
    ids=repr,
)
def test_batch_refuses_layers_that_do_not_take_rows(layer: Any) -> None:
    mc = monte_carlo(lambda x: x, [fd.Dropout(), layer])
    with pytest.raises(
        TypeError, match="layers must take the rows of a batch .* got " + type(layer).__name__
    ):
        mc.batch(np.ones((6, 4)), 2)


@pytest.mark.parametrize("layer", [Pair(0.5, None), Counted()], ids=repr)
def test_layers_that_cannot_share_a_mask_are_refused(layer: Any) -> None:
    """Would catch a layer whose masks silently differ from row to row."""
    with pytest.raises(TypeError, match="layers must take one array to share masks, got"):
        monte_carlo(lambda x: x, [fd.Dropout(), layer], shared=True)


@pytest.mark.parametrize("rows", [5, 6, 9], ids=["not n", "n, not of the batch", "of the batch"])
def test_batch_refuses_rows_it_cannot_assign(rows: int) -> None:
    """Two copies of four rows; a layer, or the model, with another number of them."""
    drop = fd.Dropout(0.5)
    x = np.ones((4, 5))
    other = np.ones((rows, 5))
    inside = monte_carlo(lambda x: (drop(other), x)[1], drop)
    with pytest.raises(ValueError, match="x must have the rows of 2 samples, a multiple of 8"):
        inside.batch(x, 2)
    with pytest.raises(ValueError, match="model must return the rows of 2 samples, a multiple"):
        monte_carlo(lambda x: (drop(x), other)[1], drop).batch(x, 2)
    with pytest.raises(ValueError, match="x must have the rows"):
        monte_carlo(lambda x: drop(1.0), drop).batch(x, 2)
    with pytest.raises(ValueError, match="model must return the rows"):
        monte_carlo(lambda x: drop(x).sum(), drop).batch(x, 2)


DROP = fd.Dropout(0.5)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: fd.MonteCarlo(3, DROP), TypeError, "model must be a function"),
        (lambda: fd.MonteCarlo(DROP, []), ValueError, "layers must have at least one"),
        (lambda: fd.MonteCarlo(DROP, [np.tanh]), TypeError, "layers must be layers of fastdrop"),
        (lambda: fd.MonteCarlo(DROP, [DROP, DROP]), ValueError, "layers must not name a layer"),
        (lambda: fd.MonteCarlo(DROP, DROP, shared=1), TypeError, "shared must be True or False"),
        (lambda: fd.MonteCarlo(DROP, DROP, rng="seed"), TypeError, "rng must be"),
        (lambda: monte_carlo(DROP, DROP).sample(np.ones(3), -1), ValueError, "k must be"),
        (lambda: monte_carlo(DROP, DROP).sample(np.ones(3), 0.5), TypeError, "k must be"),
        (lambda: monte_carlo(DROP, DROP).samples(np.ones(3), 0), ValueError, "n must be"),
        (lambda: monte_carlo(DROP, DROP).samples(np.ones(3), 2, -1), ValueError, "first must be"),
        (lambda: monte_carlo(DROP, DROP).batch(np.ones(3), 0), ValueError, "n must be"),
        (lambda: monte_carlo(DROP, DROP).batch(np.ones(3), 2, -1), ValueError, "first must be"),
        (lambda: monte_carlo(DROP, DROP).batch(1.0, 2), ValueError, "x must have the examples"),
        (lambda: monte_carlo(DROP, DROP).batch(np.ma.ones(3), 2), TypeError, "x must be a plain"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(
    make: Callable[[], Any], error: type[Exception], match: str
) -> None:
    before = dict(vars(DROP))
    with pytest.raises(error, match=match):
        make()
    assert_untouched(DROP, before)


def test_a_seed_becomes_a_key() -> None:
    assert fd.MonteCarlo(DROP, DROP, rng=3).key == fd.Key(3)
    assert fd.MonteCarlo(DROP, DROP).key != fd.MonteCarlo(DROP, DROP).key


@pytest.mark.parametrize("n", [2**40, 2**60])
def test_more_copies_than_fit_in_memory_are_refused_at_once(n: int) -> None:
    """Would catch a key that is derived for each copy first."""
    with pytest.raises((MemoryError, ValueError)):
        fd.MonteCarlo(lambda x: x, fd.Dropout()).batch(np.ones((3, 4)), n)


def test_a_batch_keeps_axes_without_elements() -> None:
    drop = fd.Dropout()
    assert fd.MonteCarlo(drop, drop).batch(np.ones((3, 0)), 2).shape == (2, 3, 0)


def test_ctrl_c_at_any_step_leaves_layers_that_work() -> None:
    """It may come while the layers of a run are restored."""
    left = 0

    def interrupt(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if "fastdrop" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if event == "line" and left == 0:
            raise KeyboardInterrupt
        return interrupt

    before = sys.gettrace()
    for step in itertools.count(1):
        drop = fd.Dropout(rng=0)
        mc = fd.MonteCarlo(drop, drop, rng=0)
        left = step
        sys.settrace(interrupt)
        try:
            mc.sample(np.ones(3), 0)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert drop(np.ones(3)).shape == (3,)
        assert drop.p == 0.5
        if left > 0:
            break
    assert step > 20


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
