"""Gradients with respect to inputs that a layer combined, each in the input's shape and dtype."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastdrop._base.arguments import Array


class InputOf(NamedTuple):
    """Shape and dtype of an input, and of its gradient."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def part(self, gradient: Array) -> Array:
        """Return the real part if the input is real: a complex result has a complex gradient."""
        return gradient if self.dtype.kind == "c" else gradient.real

    def rounded(self, gradient: Array) -> Array:
        """Return a gradient in the input's dtype, unchanged if only the byte order differs."""
        if np.can_cast(gradient.dtype, self.dtype, "equiv"):
            return gradient
        with np.errstate(all="ignore"):
            return np.asarray(gradient.astype(self.dtype.newbyteorder("=")))


def gradient_of(x: InputOf, backward: Callable[..., Array], dy: Array) -> Array:
    """Return a plan's gradient with respect to an input that has the shape of `dy`."""
    return backward(x.part(dy), dtype=x.dtype)


def sum_to(x: InputOf, gradient: Array) -> Array:
    """Sum the gradient with respect to a broadcast input to the input's own shape."""
    gradient, shape = x.part(gradient), x.shape
    if gradient.shape == shape:
        return x.rounded(gradient)
    new = gradient.ndim - len(shape)
    axes = tuple(range(new)) + tuple(
        new + axis
        for axis, length in enumerate(shape)
        if length == 1 and gradient.shape[new + axis] != 1
    )
    precise = np.complex128 if gradient.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        total = gradient.sum(axis=axes, dtype=precise)
    return x.rounded(np.asarray(total.reshape(shape)))
