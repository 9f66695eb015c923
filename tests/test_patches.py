"""PatchDropout: how many tokens stay, which, and what goes back."""

from __future__ import annotations

from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop._family import patches
from fastdrop._family.patches import kept_tokens
from numpy.typing import NDArray
from support import DTYPES, KEY, SWAPPABLE, as_key, assert_same, values

pytestmark = pytest.mark.once

SHAPE = (5, 37, 6)


def chosen(
    batch: int, tokens: int, kept: int, prefix: int, ordered: bool, key: ref.Key
) -> NDArray[np.int64]:
    """The tokens with the least uniforms, row by row."""
    rows = []
    for row in range(batch):
        uniforms = ref.uniforms(key, np.arange(row * tokens, (row + 1) * tokens)).tolist()
        least = sorted(range(prefix, tokens), key=uniforms.__getitem__)[: kept - prefix]
        rows.append([*range(prefix), *(sorted(least) if ordered else least)])
    return np.array(rows, dtype=np.int64)


# --- How many -----------------------------------------------------------------------------------


def test_a_decimal_p_keeps_as_many_as_written() -> None:
    """Tenths, hundredths and thousandths, of up to a million tokens: (1 - p) N in integers."""
    for parts in (10, 100, 1000):
        for part in range(parts + 1):
            for tokens in (1, 2, 3, 10, 49, 100, 196, 200, 256, 400, 1000, 10**6):
                expected = max(1, (parts - part) * tokens // parts)
                assert kept_tokens(part / parts, tokens, 0) == expected, (part, parts, tokens)


def test_rounding_in_p_does_not_cost_a_token() -> None:
    for p in (2 / 3, 1 - 1 / 3):
        assert kept_tokens(p, 300, 0) == 100
    assert kept_tokens(0.1 + 0.2, 10, 0) == 7


@pytest.mark.parametrize(
    ("p", "tokens", "prefix", "kept"),
    [(0.1, 10, 0, 9), (0.5, 197, 1, 99), (0.5, 7, 0, 3), (0.9, 5, 0, 1), (1.0, 5, 0, 1),
     (1.0, 5, 2, 3), (0.5, 3, 3, 3), (0.5, 1, 0, 1), (0.5, 0, 0, 0), (1e-3, 10, 0, 9),
     (0.0, 10, 3, 10)],
)  # fmt: skip
def test_the_prefix_always_stays(p: float, tokens: int, prefix: int, kept: int) -> None:
    """It does not count for p, and at least one of the other tokens stays too."""
    x = values((4, tokens, 3), np.float32)
    y, indices = fd.patch_dropout(x, p, prefix=prefix, rng=1)
    assert y.shape == (4, kept, 3)
    assert indices.shape == (4, kept)
    np.testing.assert_array_equal(
        indices[:, :prefix], np.broadcast_to(np.arange(prefix), (4, prefix))
    )


@pytest.mark.parametrize("ordered", [True, False])
def test_blocks_of_rows_join_to_the_whole(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort of all rows at once could not be interrupted."""
    sizes = []
    sort = np.argsort

    def argsort(x: Any, **keywords: Any) -> Any:
        sizes.append(x.size)
        return sort(x, **keywords)

    monkeypatch.setattr(np, "argsort", argsort)
    expected = chosen(11, 37, 19, 2, ordered, KEY)
    mask = fd.PatchMask((11, 37), 0.5, as_key(KEY), 2, ordered)
    for block in (1, 37, 100, 37 * 11, 2**20):
        monkeypatch.setattr(patches, "BLOCK", block)
        sizes.clear()
        assert_same(mask.indices(), expected)
        assert max(sizes) <= max(37, block)
    assert fd.PatchMask((0, 5), 0.5, as_key(KEY)).indices().shape == (0, 3 - 1)


# --- Which --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_tokens_with_the_least_uniforms_stay(level: str, prefix: int, ordered: bool) -> None:
    x = values(SHAPE, np.float32)
    y, indices = fd.patch_dropout(x, 0.4, prefix=prefix, ordered=ordered, rng=as_key(KEY))
    kept = prefix + (37 - prefix) * 6 // 10
    expected = chosen(5, 37, kept, prefix, ordered, KEY)
    assert_same(indices, expected)
    assert_same(y, np.stack([row[places] for row, places in zip(x, expected, strict=True)]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_rank_is_kept(dtype: np.dtype[Any]) -> None:
    for shape in ((5, 37), SHAPE, (5, 37, 2, 3)):
        x = values(shape, dtype)
        drop = fd.PatchDropout(0.4, rng=as_key(KEY))
        y, indices = drop(x)
        expected = chosen(5, 37, 22, 0, True, ref.fold_in(KEY, 0))
        assert_same(indices, expected)
        assert_same(y, np.stack([row[places] for row, places in zip(x, expected, strict=True)]))
        dx = np.zeros(shape, dtype)
        for row, places in enumerate(expected):
            dx[row, places] = y[row]
        assert_same(drop.backward(y), dx)


def test_layout_does_not_change_tokens() -> None:
    x = values((300, 200, 3), np.float32)
    drop = fd.PatchDropout(0.4, prefix=1, rng=as_key(KEY)).hold()
    y, indices = drop(x)
    dx = drop.backward(y)
    assert_same(indices, chosen(300, 200, 120, 1, True, ref.fold_in(KEY, 0)))
    wide = np.zeros((300, 400, 3), np.float32)
    wide[:, ::2] = x
    swapped = x.astype(x.dtype.newbyteorder())
    assert x.dtype in SWAPPABLE
    for same in (np.asfortranarray(x), wide[:, ::2], x[::-1].copy()[::-1], swapped):
        tokens, places = drop(same)
        np.testing.assert_array_equal(tokens, y)
        assert_same(places, indices)
        np.testing.assert_array_equal(drop.backward(np.asfortranarray(tokens)), dx)


def test_kept_tokens_are_nested_in_p() -> None:
    before = np.ones((20, 50), dtype=bool)
    for p in np.linspace(0, 1, 21):
        mask = fd.PatchMask((20, 50), float(p), as_key(KEY), 2).to_numpy()
        assert not (mask & ~before).any()
        before = mask


def test_no_token_pair_or_place_is_preferred() -> None:
    """False-alarm rate (20 + 190 + 10) x 6e-7 = 1.3e-4 together."""
    rows = 100_000
    mask = fd.PatchMask((rows, 20), 0.5, fd.Key(3), 0, False)
    kept = mask.to_numpy().astype(np.float64)
    assert (kept.sum(axis=1) == 10).all()
    spread = np.sqrt(rows * 0.25)
    assert np.abs(kept.sum(axis=0) - rows / 2).max() < 5 * spread
    pairs = (kept.T @ kept)[np.triu_indices(20, 1)]
    both = 10 * 9 / (20 * 19)
    assert np.abs(pairs - rows * both).max() < 5 * np.sqrt(rows * both * (1 - both))
    mean = mask.indices().mean(axis=0)  # a random order prefers no token at any place
    assert np.abs(mean - 9.5).max() < 5 * np.sqrt((20**2 - 1) / 12 / rows)


# --- At the ends --------------------------------------------------------------------------------


def test_p_zero_and_evaluation_return_x_and_draw_nothing() -> None:
    x, rng = values(SHAPE, np.float32), np.random.default_rng(0)
    every = np.tile(np.arange(37), (5, 1))
    for keywords in ({"p": 0.0}, {"training": False}, {"p": 0.0, "ordered": False}):
        y, indices = fd.patch_dropout(x, prefix=1, rng=rng, **keywords)  # type: ignore[arg-type]
        assert y is x
        assert_same(indices, every)
    assert rng.random() == np.random.default_rng(0).random()
    for drop in (fd.PatchDropout(0.5, rng=0).eval(), fd.PatchDropout(0.0, ordered=False, rng=0)):
        y, indices = drop(x)
        assert y is x
        assert_same(indices, every)
        assert drop.backward(x) is x
        assert drop.calls == drop.training
        assert (drop.mask is None) is (not drop.training)


@pytest.mark.parametrize("shape", [(0, 5, 3), (3, 0, 2), (3, 5, 0)])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_empty_arrays_are_accepted(shape: tuple[int, ...], p: float) -> None:
    drop = fd.PatchDropout(p, rng=0)
    y, indices = drop(np.ones(shape))
    assert y.shape == (*indices.shape, shape[2])
    assert drop.backward(y).shape == shape


# --- The layer ----------------------------------------------------------------------------------


def test_call_i_and_its_backward_use_child_key_i() -> None:
    """Would catch a backward that reads the indices the caller may have changed."""
    x = values(SHAPE, np.float32)
    drop = fd.PatchDropout(0.4, prefix=1, ordered=False, rng=as_key(KEY))
    for call in range(3):
        y, indices = drop(x)
        expected = chosen(5, 37, 22, 1, False, ref.fold_in(KEY, call))
        assert_same(indices, expected)
        indices[:] = 0  # the layer's own are not these
        dx = drop.backward(y)
        kept = drop.mask.to_numpy()
        np.testing.assert_array_equal(kept.sum(axis=1), 22)
        assert_same(dx, np.where(kept[..., np.newaxis], x, np.float32(0)))
        assert_same(drop.mask.indices(), expected)
        assert_same(fd.patch_dropout_backward(y, expected, 37), dx)


# --- Bad arguments ------------------------------------------------------------------------------


def test_bad_arguments_are_refused() -> None:
    x = np.ones(SHAPE)
    for keywords, message in (
        ({"p": 1.5}, "p must be"),
        ({"prefix": -1}, "prefix must be an int of at least 0"),
        ({"prefix": 1.0}, "prefix must be"),
        ({"ordered": 1}, "ordered must be True or False"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fd.patch_dropout(x, **keywords)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=message):
            fd.PatchDropout(**keywords)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=message):
            fd.PatchMask((3, 4), **{"p": 0.5, "key": fd.Key(0), **keywords})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix must be at most the number of tokens, 37, got 38"):
        fd.patch_dropout(x, prefix=38)
    with pytest.raises(ValueError, match="x must have the axes"):
        fd.patch_dropout(np.ones(5))
    with pytest.raises(TypeError, match="training must be"):
        fd.patch_dropout(x, training=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a Key"):
        fd.PatchMask((3, 4), 0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape must be"):
        fd.PatchMask(3, 0.5, fd.Key(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 1], [0, 4]], r"indices must be in \[0, 4\), got 0 to 4"),
        ([[0, 1], [0, -1]], "indices must be in"),
        ([[0, 1]], r"indices must have the shape \(2, 2\)"),
        ([[0.0, 1.0], [0.0, 1.0]], "indices must be integers"),
    ],
)
def test_bad_indices_are_refused(indices: Any, message: str) -> None:
    """Would catch -1 that is taken for the last token."""
    with pytest.raises((TypeError, ValueError), match=message):
        fd.patch_dropout_backward(np.ones((2, 2, 3)), indices, 4)
    with pytest.raises(ValueError, match="dy must have the axes"):
        fd.patch_dropout_backward(np.ones(2), indices, 4)


def test_sequences_without_tokens_take_no_time() -> None:
    """Would catch work for each of 2^40 empty rows."""
    x = np.empty((2**40, 0), np.float32)
    drop = fd.PatchDropout(0.5, rng=0)
    tokens, indices = drop(x)
    assert tokens.shape == indices.shape == x.shape
    assert drop.backward(tokens).shape == x.shape
    assert fd.patch_dropout_backward(tokens, indices, 0).shape == x.shape
