"""A program of a user. mypy --strict and pyright check it in `make lint`; nothing runs it."""

from typing import Any, assert_type

import fastdrop as fd
import numpy as np
from numpy.typing import NDArray

x = np.ones((2, 3), dtype=np.float32)
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

assert_type(fd.dropout(x), NDArray[Any])
assert_type(fd.dropout(x, return_mask=True), tuple[NDArray[Any], Any])
assert_type(layer(x), NDArray[Any])
assert_type(layer.backward(x), NDArray[Any])
assert_type(fd.Dropout(0.5).mask, fd.Mask | None)
assert_type(fd.Mask((2, 3), 0.5, fd.Key(0)).to_numpy(), NDArray[np.bool_])
fd.dropout(x, 0.5, rng="seed")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
