"""Arguments: what becomes an array, and what is refused with its name and the mend."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import fastdrop as fd
import ml_dtypes
import numpy as np
import pytest
from members import MEMBERS, ROWS, Member
from support import KEY, as_key, assert_same, values

pytestmark = pytest.mark.once
every_member = pytest.mark.parametrize("member", MEMBERS)

X = np.ones((4, 6), np.float32)
FLOATS = "float32, float64, float16, bfloat16, complex64 or complex128"
DTYPES = f"must have dtype {FLOATS}, got"
LIST = "use x = np.asarray(x), then x.astype(np.float32)"

INPUTS: list[tuple[Any, str]] = [
    (np.arange(3), f"x {DTYPES} int64: use x.astype(np.float32)"),
    (np.ones(3, np.uint8), f"x {DTYPES} uint8: use x.astype(np.float32)"),
    (X > 0.0, f"x {DTYPES} bool: use x.astype(np.float32)"),
    (np.array([1.0, None]), f"x {DTYPES} object: use x.astype(np.float32)"),
    (np.array(["a"]), f"x {DTYPES} str"),
    (np.array(["2020"], "M8[D]"), f"x {DTYPES} datetime64"),
    (np.zeros(3, dtype=[("a", np.float32)]), f"x {DTYPES} void"),
    (np.zeros(3, dtype="V4"), f"x {DTYPES} void"),
    (
        np.zeros(3, dtype=np.longdouble),
        f"x {DTYPES} {np.dtype(np.longdouble)}: use x.astype(np.float32)",
    ),
    ([1, 2], f"x {DTYPES} list of int64: {LIST}"),
    (range(3), f"x {DTYPES} range of int64: {LIST}"),
    (3, f"x {DTYPES} int of int64: {LIST}"),
    (fd.Mask(3, 0.5, as_key(KEY)), f"x {DTYPES} Mask of bool: {LIST}"),
    (None, "x must be an array of numbers, got None"),
    ("x", "x must be an array of numbers, got 'x'"),
    (b"x", "x must be an array of numbers, got b'x'"),
    ({"a": 1.0}, "x must be an array of numbers, got dict"),
    ({1.0}, "x must be an array of numbers, got set"),
    (fd.Dropout(), "x must be an array of numbers, got Dropout"),
    ((v for v in [1.0]), "x must be an array of numbers, got generator"),
    (np.ma.masked_array([1.0]), "x must be a plain array, got MaskedArray: use x.filled(0)"),
]


@pytest.mark.parametrize(("x", "message"), INPUTS)
def test_what_is_no_array_of_floats_is_named_and_the_mend_said(x: Any, message: str) -> None:
    for call in (fd.dropout, fd.Dropout(), fd.relu_dropout, fd.drop_connect):
        with pytest.raises(TypeError) as error:
            call(x)
        name = "weight" if call is fd.drop_connect else "x"
        said = message.replace("x must", f"{name} must").replace(" x.", f" {name}.")
        assert str(error.value) == said.replace("x = np.asarray(x)", f"{name} = np.asarray({name})")
    with pytest.raises(TypeError):
        fd.dropout(x, training=False)


def test_lists_of_unequal_lengths_are_named() -> None:
    with pytest.raises(TypeError, match=r"^x must be an array, got list: setting an array element"):
        fd.dropout([[1.0], [1.0, 2.0]])


def test_dtypes_of_other_packages_masked_arrays_and_matrices_are_refused() -> None:
    """Would catch bytes of an unknown dtype that are read as floats."""
    with pytest.raises(TypeError, match="got float8"):
        fd.dropout(np.zeros(3, dtype=ml_dtypes.float8_e5m2))
    with pytest.raises(TypeError, match="mask must be a plain array"):
        fd.dropout(np.ones(3), mask=np.ma.masked_array([True, False, True]))
    with pytest.raises(TypeError, match="x must be a plain array"):
        fd.dropout(np.ones((2, 2)).view(np.matrix))


def test_sparse_and_lazy_containers_are_named_and_the_mend_said() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"^x must be a plain array, got coo_array: use x.toarray"):
        fd.dropout(sparse.coo_array(X))
    with pytest.raises(TypeError, match=r"^mask must be a plain array, got csr_matrix: use mask.t"):
        fd.dropout(X, mask=sparse.csr_matrix(X > 0.0))


PS: list[tuple[Any, str]] = [
    (50, "got 50: is 0.5 meant?"),
    (2.5, "got 2.5: is 0.025 meant?"),
    (np.float64(30.0), "got np.float64(30.0): is 0.3 meant?"),
    ("0.5", "got '0.5': is 0.5 meant?"),
    ("50%", "got '50%': is 0.5 meant?"),
    ("half", "got 'half'"),
    (None, "got None"),
    (True, "got True"),
    (-0.5, "got -0.5"),
    (1.1, "got 1.1"),
    (500, "got 500"),
    (float("nan"), "got nan"),
    (float("-inf"), "got -inf"),
    (-5e-324, "got -5e-324"),
    (1 + 2.0**-52, "got 1.0000000000000002"),
    (2**1024, "got an int of 1025 bits"),
    (object, "got <class 'object'>"),
    (np.True_, "got np.True_"),
    (np.array("0.5"), "got array('0.5', dtype='<U3')"),
    (np.complex128(0.5), "got np.complex128(0.5+0j)"),
    ([0.5], "got [0.5]"),
    (X, "got an array of shape (4, 6)"),
    (0.5j, "got 0.5j"),
]


@pytest.mark.parametrize(("p", "got"), PS)
def test_a_wrong_p_asks_whether_a_fraction_was_meant(p: Any, got: str) -> None:
    layer = fd.Dropout()
    for call in (
        lambda: fd.dropout(X, p),
        lambda: fd.dropout(X, p, training=False),
        lambda: fd.Dropout(p),
        lambda: setattr(layer, "p", p),
        lambda: fd.Mask(3, p, as_key(KEY)),
        lambda: fd.drop_block2d(np.ones((1, 1, 4, 4)), p, 2),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert str(error.value) == f"p must be a number in [0, 1], {got}"


def test_long_arguments_are_cut_in_messages() -> None:
    long: Any = list(range(10_000))
    for call in (
        lambda: fd.dropout(X, training=long),
        lambda: fd.dropout(X, broadcast_dims=[long]),
        lambda: fd.Mask([long], 0.5, as_key(KEY)),
        lambda: fd.Mask(3, 0.5, long),
        lambda: fd.Key.from_bytes(long),
        lambda: fd.set_num_threads(long),
        lambda: fd.drop_block2d(np.ones((1, 1, 4, 4)), 0.5, [long, 1]),
        lambda: fd.feature_dropout(X, channel_axis=long),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert len(str(error.value)) < 700


MODES = [
    ("train", ": training=True drops"),
    ("eval", ": use training=False"),
    ("upscale_in_train", ": 'inverted' is the same"),
    ("downscale_in_infer", ": 'standard' is the same"),
    ("Inverted", ""),
]


@pytest.mark.parametrize(("mode", "mend"), MODES)
def test_another_name_of_a_mode_says_what_is_meant(mode: Any, mend: str) -> None:
    for call in (lambda: fd.dropout(X, mode=mode), lambda: fd.Dropout(mode=mode)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == f"mode must be 'inverted' or 'standard', got {mode!r}{mend}"


# --- Keywords ------------------------------------------------------------------------------------

DROP = "p is the probability to DROP"
KEYWORDS = [
    *[(name, DROP) for name in ("rate", "ratio", "prob", "drop_prob", "drop_rate", "dropout")],
    ("keep_prob", f"{DROP}, 1 - keep_prob"),
    *[
        (name, "rng takes seeds, keys and Generators")
        for name in ("seed", "key", "generator", "random_state", "rngs")
    ],
    ("deterministic", "training is its opposite"),
    ("inference", "training is its opposite"),
    ("train", "training=True drops"),
    ("is_training", "training=True drops"),
    ("axis", "broadcast_dims names all other axes, which share decisions"),
    ("noise_shape", "broadcast_dims names its axes of length 1"),
    ("inplace", "out=x works in place"),
    ("trainig", "is training meant?"),
    ("P", "is p meant?"),
    (
        "name",
        "it has x, p, training, mode, broadcast_dims, rng, mask, return_mask, out",
    ),
]


@pytest.mark.parametrize(("name", "mend"), KEYWORDS)
def test_a_keyword_of_another_library_says_which_argument_is_meant(name: str, mend: str) -> None:
    with pytest.raises(TypeError) as error:
        fd.dropout(X, **{name: 0.5})  # type: ignore[call-overload]
    assert str(error.value) == f"dropout has no argument {name!r}: {mend}"


@every_member
def test_every_function_and_layer_refuses_unknown_keywords(member: Member) -> None:
    """Would catch a member that lets a misspelt argument pass, or leaves the message to Python."""
    layer, inputs = member.make(), member.inputs()
    owner = member.function.__name__
    with pytest.raises(TypeError, match=rf"^{owner} has no argument 'seed': rng takes seeds"):
        member.call(layer, inputs, seed=3)
    owner = type(layer).__name__
    with pytest.raises(TypeError, match=rf"^{owner} has no argument 'seed': rng takes seeds"):
        member.make(seed=3)
    with pytest.raises(TypeError, match=rf"^a call of {owner} has no argument 'deterministic': tr"):
        layer(*inputs, deterministic=True)
    assert layer.calls == 0


@pytest.mark.parametrize("name", fd.__all__)
def test_every_public_function_of_arrays_refuses_unknown_keywords(name: str) -> None:
    function = getattr(fd, name)
    if not inspect.isfunction(function) or name.endswith("num_threads") or name == "show_config":
        return
    *_, last = inspect.signature(function).parameters.values()
    if name != "threads":
        assert last.kind is last.VAR_KEYWORD, f"{name} does not take **unknown"


def test_other_constructors_refuse_unknown_keywords() -> None:
    layer, key = fd.Dropout(), as_key(KEY)
    with pytest.raises(TypeError, match=r"^MonteCarlo has no argument 'seed': rng takes seeds"):
        fd.MonteCarlo(layer, layer, seed=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^PSchedule has no argument 'gamma': it has layers"):
        fd.PSchedule(layer, lambda step: 0.5, gamma=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^Mask has no argument 'seed': key=fd.Key\(seed\) is"):
        fd.Mask(3, 0.5, key, seed=0)  # type: ignore[arg-type]


# --- Attributes ----------------------------------------------------------------------------------

ATTRIBUTES: list[tuple[str, str]] = [
    ("traning", "is training meant?"),
    ("rate", DROP),
    ("seed", "key=fd.Key(seed) is meant"),
    ("train", "training=True drops"),
    ("backward", "it has "),
    ("anything", "it has "),
]


@every_member
@pytest.mark.parametrize(("name", "mend"), ATTRIBUTES)
def test_an_unknown_attribute_of_a_layer_is_an_error(member: Member, name: str, mend: str) -> None:
    layer = member.make()
    before = dict(vars(layer))
    with pytest.raises(AttributeError) as error:
        setattr(layer, name, 0.5)
    assert str(error.value).startswith(f"{type(layer).__name__} has no attribute {name!r} to set: ")
    assert mend in str(error.value)
    assert vars(layer) == before


@every_member
def test_every_option_of_a_layer_can_be_set(member: Member) -> None:
    """Would catch a check that refuses what a layer has."""
    layer = member.make()
    for name in ("p", "training", "key", *member.options):
        setattr(layer, name, getattr(layer, name))
    layer(*member.inputs())
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("training", 1), ("training", "False"), ("inplace", "no"), ("mode", "train"),
     ("broadcast_dims", "a"), ("broadcast_dims", True)],
)  # fmt: skip
def test_an_attribute_is_checked_when_it_is_set(name: str, bad: Any) -> None:
    rng = np.random.default_rng(0)
    before = copy.deepcopy(rng.bit_generator.state)
    layer = fd.Dropout()
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        setattr(layer, name, bad)
    if name != "training":
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
            fd.Dropout(0.5, rng=rng, **{name: bad})
    assert rng.bit_generator.state == before, "a refused layer advanced the generator"
    assert layer(X).shape == X.shape


def test_a_subclass_of_the_user_may_add_attributes() -> None:
    class Counted(fd.Dropout):
        def __init__(self, p: float, **options: Any) -> None:
            self.seen = 0
            super().__init__(p, **options)

        def __call__(self, x: Any, **options: Any) -> Any:
            self.seen += 1
            self.last_shape = x.shape
            return super().__call__(x, **options)

    layer = Counted(0.5, rng=0)
    layer(X)
    layer.note = "mine"
    assert (layer.seen, layer.last_shape) == (1, (4, 6))
    with pytest.raises(TypeError, match=r"^training must be True or False, got 'no'$"):
        layer.training = "no"  # type: ignore[assignment]


# --- Containers ----------------------------------------------------------------------------------


class WithArray:
    """A tensor that NumPy can take by `__array__`."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class WithDLPack:
    """A tensor that speaks DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [WithArray, WithDLPack])
def test_a_tensor_gives_an_array_and_is_not_copied(wrap: Any) -> None:
    x = values((30, 40), np.float32)
    key = as_key(KEY)
    expected = fd.dropout(x, 0.3, rng=key)
    assert_same(fd.dropout(wrap(x), 0.3, rng=key), expected)
    assert_same(fd.Mask((30, 40), 0.3, key).apply(wrap(x)), expected)
    assert_same(fd.dropout_add(wrap(x), wrap(x), 0.3, rng=key), fd.dropout_add(x, x, 0.3, rng=key))
    same = fd.dropout(wrap(x), training=False)
    assert type(same) is np.ndarray
    assert np.shares_memory(same, x)
    layer = fd.Dropout(0.3, rng=key)
    assert_same(layer(wrap(x)), fd.dropout(x, 0.3, rng=key.fold_in(0)))
    assert_same(layer.backward(wrap(x)), fd.dropout(x, 0.3, rng=key.fold_in(0)))


def pandas_frame(x: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(x)


def polars_frame(x: Any) -> Any:
    return pytest.importorskip("polars").DataFrame(x)


def xarray_array(x: Any) -> Any:
    return pytest.importorskip("xarray").DataArray(x)


containers = pytest.mark.parametrize("contain", [pandas_frame, polars_frame, xarray_array])


@containers
@pytest.mark.parametrize(
    "member", [row for row in ROWS if row.shapes in (((3, 50),), ((9, 7),), ((20, 11),))]
)
def test_containers_go_in_and_arrays_come_out(
    member: Member, contain: Callable[[Any], Any]
) -> None:
    (x,) = member.inputs()
    frame = contain(x)
    for training in (True, False):
        expected = member.call(None, (x,), rng=as_key(KEY), training=training)
        y = member.call(None, (frame,), rng=as_key(KEY), training=training)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, expected)
        layer = member.make(rng=as_key(KEY))
        y = layer(frame, training=training)
        assert type(y) is np.ndarray
        dx = layer.backward(frame)
        assert type(dx) is np.ndarray
    out = np.empty_like(x)
    assert member.call(None, (frame,), rng=as_key(KEY), out=out) is out
    with pytest.raises(TypeError, match=r"^out must be a numpy.ndarray, got Data"):
        member.call(None, (x,), out=contain(out))


@containers
def test_containers_of_bool_are_masks(contain: Callable[[Any], Any]) -> None:
    kept = np.random.default_rng(0).random(X.shape) > 0.5
    np.testing.assert_array_equal(fd.dropout(X, mask=contain(kept)), fd.dropout(X, mask=kept))
    np.testing.assert_array_equal(fd.dropout(X, mask=kept.tolist()), fd.dropout(X, mask=kept))
    with pytest.raises(TypeError, match=r"^mask must be a Mask or a boolean array, got int64: use"):
        fd.dropout(X, mask=contain(kept.astype(np.int64)))
    with pytest.raises(TypeError, match=r"^weights must be a sequence of arrays, got Data"):
        fd.weight_drop(contain(X))


def test_a_mask_of_a_frame_is_not_taken_for_a_recipe() -> None:
    """Its columns are attributes, and one may be called p."""
    frame = pytest.importorskip("pandas").DataFrame({"p": [True, False]})
    np.testing.assert_array_equal(fd.dropout(np.ones((2, 1)), mask=frame), [[2.0], [0.0]])


def test_lazy_arrays_are_sent_to_dask_and_not_computed() -> None:
    da = pytest.importorskip("dask.array")
    computed: list[int] = []

    def block(x: Any) -> Any:
        computed.append(1)
        return x

    x = da.ones((4, 6), chunks=2).map_blocks(block, dtype=float, meta=np.ones((0, 0)))
    lazy = [x]
    try:
        import xarray
    except ImportError:
        pass
    else:
        lazy.append(xarray.DataArray(x))
    for one in lazy:
        for call in (
            lambda one=one: fd.dropout(one),
            lambda one=one: fd.dropout(one, training=False),
            lambda one=one: fd.Dropout()(one),
            lambda one=one: fd.gaussian_dropout(one),
            lambda one=one: fd.weight_drop([one]),
        ):
            with pytest.raises(TypeError, match=r"of Dask: use fastdrop.dask, or \w+.compute\(\)$"):
                call()
        with pytest.raises(TypeError, match=r"^mask must be in memory, got \w+ of Dask"):
            fd.dropout(X, mask=one > 0.0)
    assert not computed


@pytest.mark.parametrize("p", [np.array([0.4]), np.array([[0.4]]), np.array(0.4), np.float64(0.4)])
def test_an_array_with_one_element_is_accepted_as_p(p: Any) -> None:
    np.testing.assert_array_equal(fd.dropout(X, p, rng=1), fd.dropout(X, 0.4, rng=1))
    assert fd.Mask(3, p, fd.Key(0)).p == 0.4
    with pytest.raises(TypeError, match="p must be a number"):
        fd.dropout(X, np.array([0.4, 0.4]))
