"""Masks of weights: several arrays, and rows of a table."""

from __future__ import annotations

import copy

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from support import KEY, as_key, assert_same, values

pytestmark = pytest.mark.once


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


def test_a_table_must_have_two_axes() -> None:
    for call in (fd.embedding_dropout, fd.EmbeddingDropout(rng=1)):
        with pytest.raises(ValueError, match="weight must have 2 axes"):
            call(np.zeros(4))


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
