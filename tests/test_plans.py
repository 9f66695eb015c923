"""Plans of calls: masks that are given, shared and repeated, and what gradients need of them."""

from __future__ import annotations

from typing import Any

import fastdrop as fd
import numpy as np
import pytest
from support import KEY, as_key
from test_members import assert_equal, flat

pytestmark = pytest.mark.once

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
    "leaky": (
        lambda **more: fd.activation_dropout(X, 0.4, activation="leaky_relu", **more),
        lambda **more: fd.activation_dropout_backward(DY, X, 0.4, activation="leaky_relu", **more),
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
        must = f"rng must be the Key of the forward call, or mask the mask it returned, got {got}"
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
