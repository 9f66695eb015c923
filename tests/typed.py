"""A program of a user. mypy --strict and pyright check it in `make lint`; nothing runs it."""

from typing import Any, assert_type

import fastdrop as fd
import numpy as np
from numpy.typing import NDArray

x, key = np.ones((2, 3), dtype=np.float32), fd.Key(0)
Floats = NDArray[np.float32]
layers: list[fd.Layer] = [fd.Dropout(0.5), fd.Dropout2d(0.1, rng=1), fd.Zoneout(0.2)]
layer: fd.ElementwiseLayer = fd.GeluDropout(0.5, rng=np.random.default_rng(0))

for seed in (
    None,
    3,
    [1, 2],
    np.arange(3),
    np.random.SeedSequence(1),
    np.random.PCG64(2),
    fd.Key(4),
):
    fd.Key(seed)
    fd.dropout(x, 0.5, rng=seed)

# What comes back: the dtype of x, and the mask if it is asked for.
assert_type(fd.dropout(x), Floats)
assert_type(fd.dropout2d(x.astype(np.float64), out=None), NDArray[np.float64])
assert_type(fd.dropout([[1.0, 2.0]], 0.5), NDArray[Any])
assert_type(fd.dropout(x, return_mask=True), tuple[Floats, fd.Mask])
assert_type(fd.gaussian_dropout(x, return_mask=True), tuple[Floats, fd.Noise])
assert_type(fd.drop_block2d(x, 0.1, 3, return_mask=True), tuple[Floats, fd.BlockMask])
assert_type(fd.dropout_add(x, x, return_mask=True), tuple[NDArray[Any], fd.Mask])
y, mask = fd.drop_path(x, 0.5, rng=key, return_mask=True)
mask.apply(y)
given: NDArray[np.bool_] = np.ones((2, 3), np.bool_)
assert_type(fd.dropout(x, mask=given, return_mask=True), tuple[NDArray[Any], NDArray[np.bool_]])
tokens, indices = fd.patch_dropout(x)
assert_type(indices, NDArray[np.int64])
weights, masks = fd.weight_drop([x], return_mask=True)
assert_type(masks, list[fd.Mask])

q = np.ones((2, 4, 8, 16), np.float32)
assert_type(fd.scaled_dot_product_attention(q, q, q), NDArray[Any])
y, lse = fd.scaled_dot_product_attention(q, q, q, rng=key, return_lse=True)
dq, dk, dv = fd.scaled_dot_product_attention_backward(y, q, q, q, y, lse, rng=key)

assert_type(layer(x), NDArray[Any])
assert_type(layer.backward(x), NDArray[Any])
assert_type(fd.Dropout(0.5).mask, fd.Mask | None)
assert_type(fd.Mask((2, 3), 0.5, key).to_numpy(), NDArray[np.bool_])

# What is refused: integers, seeds that are none, names that are not there.
fd.dropout(np.arange(3))  # type: ignore[type-var] # pyright: ignore[reportArgumentType, reportCallIssue]
fd.dropout(x, 0.5, rng="seed")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
fd.dropout(x, rate=0.5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
