"""A linear map with a mask of its connections for each example (DropConnect).

There is one `Mask` of shape (examples, outputs, inputs); example n has its region n. Neither it nor
the weights of all examples are ever stored: they are made tile by tile, in one buffer that stays in
the cache.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdrop import _core
from fastdrop._calls import apply
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Mode, check_flag, check_mode, float_array, probability
from fastdrop.functional.core import (
    NO_KEY,
    Array,
    evaluation_scale,
    training_scale,
)
from fastdrop.random import RNG, Key, as_key

TILE = 2**18
"""Weights in a tile: a megabyte of float32. Half of it is slower, for the calls that it takes."""


@dataclass(frozen=True)
class Connections:
    """What a call of `drop_connect_linear` decided: which connections, and the scale."""

    mask: Mask | None
    scale: float

    @property
    def none(self) -> bool:
        """Whether no connection is left."""
        return self.scale == 0.0 or (self.mask is not None and self.mask.p == 1.0)

    @property
    def partial(self) -> Mask | None:
        """The mask, if it drops any."""
        return None if self.mask is None or self.mask.p == 0.0 else self.mask


def drop_connect_linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
) -> Array:
    r"""Map linearly, with connections dropped at random for each example.

    .. math:: y_{n o} = s \sum_i m_{n o i} \, W_{o i} \, x_{n i} + b_o,
              \qquad m_{n o i} \sim Bernoulli(1 - p)

    with :math:`s = 1 / (1 - p)` in inverted mode and :math:`s = 1` in standard mode. In evaluation
    all connections are kept, and :math:`s` is 1 in inverted mode and :math:`1 - p` in standard
    mode.

    Parameters
    ----------
    x : array_like of float or complex, shape (..., inputs)
        Examples, of the dtypes of `dropout`; what stands before the last axis counts them.
    weight : array_like of float or complex, shape (outputs, inputs)
        The weights.
    bias : array_like of float or complex, shape (outputs,), optional
        What is added; it is never dropped.
    p : float, default 0.5
        Probability to DROP a connection, in [0, 1].
    training, mode, rng
        As for `dropout`. Example n has region n of a `Mask` of shape (examples, outputs, inputs).

    Returns
    -------
    ndarray, shape (..., outputs)
        Of the dtype of all arrays; if they have several, of the widest, and float32 at least.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not fit, or as for `dropout`.

    See Also
    --------
    DropConnectLinear : the layer.
    drop_connect_linear_backward : the gradients.
    drop_connect : one mask for all examples, which is faster.

    Notes
    -----
    Wan et al., "Regularization of neural networks using DropConnect", ICML 2013.

    A dropped connection carries no Inf or NaN, neither of the weight nor of the input. float16 and
    bfloat16 are computed in float32 and rounded once. The masks are the same everywhere; the sums
    are those of NumPy's matrix product, whose last bits depend on the machine.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.drop_connect_linear(np.ones((3, 4)), np.ones((2, 4)), rng=0)
    array([[6., 4.],
           [2., 4.],
           [8., 4.]])
    """
    p = probability(p)
    check_mode(mode)
    check_flag(training, "training")
    arrays = linear_arrays(x, weight, bias)
    key = as_key(rng) if (p and training) or isinstance(rng, Key) else NO_KEY
    return connect(*arrays, draw_connections(arrays[0], arrays[1], p, training, mode, key))


def draw_connections(
    x: Array, weight: Array, p: float, training: bool, mode: Mode, key: Key
) -> Connections:
    """Return what a call with these arrays decides."""
    if not training:
        return Connections(None, evaluation_scale(p, mode))
    shape = (math.prod(x.shape[:-1]), *weight.shape)
    return Connections(make_mask(shape, p, key), training_scale(p, mode))


def linear_arrays(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Return the arrays of a linear map.

    Raises
    ------
    TypeError, ValueError
        If they are of other dtypes, or do not fit.
    """
    examples, weights = float_array(x, "x"), float_array(weight, "weight")
    if weights.ndim != 2:
        raise ValueError(f"weight must have 2 axes, (outputs, inputs), got shape {weights.shape}")
    if examples.shape[-1:] != weights.shape[1:]:
        raise ValueError(f"x must have the shape (..., {weights.shape[1]}), got {examples.shape}")
    if bias is None:
        return examples, weights, None
    offset = float_array(bias, "bias")
    if offset.shape != weights.shape[:1]:
        raise ValueError(f"bias must have the shape {weights.shape[:1]}, got {offset.shape}")
    return examples, weights, offset


def connect(x: Array, weight: Array, bias: Array | None, drawn: Connections) -> Array:
    """Return the result for connections that are drawn."""
    dtype = _common(*([x, weight] if bias is None else [x, weight, bias]))
    rows, weights = _rows(x, dtype), _rows(weight, dtype)
    with np.errstate(all="ignore"):
        if drawn.none:
            y = np.zeros((len(rows), len(weights)), dtype=rows.dtype)
        elif drawn.partial is None:
            y = rows @ weights.T
        else:
            y = _forward(rows, weights, drawn.partial)
        y *= drawn.scale
        if bias is not None:
            y += bias.astype(y.dtype)
        return y.reshape(*x.shape[:-1], len(weight)).astype(dtype, copy=False)


def drop_connect_linear_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    p: float = 0.5,
    *,
    mode: Mode = "inverted",
    rng: Key,
) -> tuple[Array, Array, Array]:
    r"""Return the gradients of `drop_connect_linear` in training, through the same connections.

    .. math:: dx_{n i} = s \sum_o m_{n o i} W_{o i} \, dy_{n o}, \qquad
              dW_{o i} = s \sum_n m_{n o i} \, dy_{n o} \, x_{n i}, \qquad
              db_o = \sum_n dy_{n o}

    Parameters
    ----------
    dy : array_like of float or complex, shape (..., outputs)
        Gradient with respect to the output.
    x, weight, p, mode
        As they were given to `drop_connect_linear`.
    rng : Key
        The key that was given to `drop_connect_linear`.

    Returns
    -------
    dx, dweight, dbias : ndarray
        Of the shapes of `x`, `weight` and the bias, and of the dtypes of `x`, `weight` and
        `weight`. Of complex arrays W and x are conjugated.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not fit, or as for `dropout`.

    See Also
    --------
    drop_connect_linear : the function, with the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x, weight, key = np.ones((3, 4)), np.ones((2, 4)), fd.Key(0)
    >>> dx, dweight, dbias = fd.drop_connect_linear_backward(np.ones((3, 2)), x, weight, rng=key)
    >>> dweight
    array([[6., 4., 4., 2.],
           [2., 2., 4., 4.]])
    >>> dbias
    array([3., 3.])
    """
    p = probability(p)
    check_mode(mode)
    if not isinstance(rng, Key):
        raise TypeError(f"rng must be the Key of the forward call, got {type(rng).__name__}")
    examples, weights, _ = linear_arrays(x, weight, None)
    drawn = draw_connections(examples, weights, p, True, mode, rng)
    return connect_grad(dy, examples, weights, drawn)


def connect_grad(
    dy: ArrayLike, x: Array, weight: Array, drawn: Connections
) -> tuple[Array, Array, Array]:
    """Return the gradients for connections that are drawn."""
    gradient = float_array(dy, "dy")
    expected = (*x.shape[:-1], len(weight))
    if gradient.shape != expected:
        raise ValueError(f"dy must have the shape of the output, {expected}, got {gradient.shape}")
    dtype = _common(gradient, x, weight)
    rows, inputs, weights = (_rows(array, dtype) for array in (gradient, x, weight))
    if rows.dtype.kind == "c":
        inputs, weights = inputs.conj(), weights.conj()
    with np.errstate(all="ignore"):
        if drawn.none:
            dx, dweight = np.zeros_like(inputs), np.zeros_like(weights)
        elif drawn.partial is None:
            dx, dweight = rows @ weights, rows.T @ inputs
        else:
            dx, dweight = _backward(rows, inputs, weights, drawn.partial)
        dx *= drawn.scale
        dweight *= drawn.scale
        return (
            _narrow(dx.reshape(x.shape), x.dtype),
            _narrow(dweight, weight.dtype),
            _narrow(rows.sum(axis=0), weight.dtype),
        )


def _common(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype of a result: that of all, else the widest, and float32 at least."""
    dtypes = {array.dtype.newbyteorder("=") for array in arrays}
    return dtypes.pop() if len(dtypes) == 1 else np.result_type(*map(_precision, dtypes))


def _precision(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what is computed in."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _rows(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array with two axes, in C order and in the precision that is computed in."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return np.ascontiguousarray(rows, dtype=_precision(dtype))


def _narrow(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return `x` in the dtype of what it is the gradient of."""
    return (x if dtype.kind == "c" else x.real).astype(dtype, copy=False)


class _Tiles:
    """The weights of all examples, some examples or some outputs at a time, in one buffer."""

    def __init__(self, weights: Array, mask: Mask) -> None:
        self.weights, self.mask = weights, mask
        outputs, inputs = weights.shape
        self.outputs = max(1, min(outputs, TILE // max(1, inputs)))
        self.examples = max(1, TILE // max(1, self.outputs * inputs))
        if self.outputs < outputs:
            self.examples = 1
        self.buffer = np.empty((self.examples, self.outputs, inputs), dtype=weights.dtype)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Walk over the examples for some outputs, whose weights stay in the cache."""
        examples, outputs, _ = self.mask.shape
        for o in range(0, outputs, self.outputs):
            for n in range(0, examples, self.examples):
                yield (
                    slice(n, min(n + self.examples, examples)),
                    slice(o, min(o + self.outputs, outputs)),
                )

    def room(self, n: slice, o: slice) -> Array:
        """Return the part of the buffer for a tile."""
        return self.buffer[: n.stop - n.start, : o.stop - o.start]

    def select(self, n: slice, o: slice, numbers: Array) -> Array:
        """Return the tile's numbers where a connection is kept, else +0.0; in the buffer."""
        room = self.room(n, o)
        kept = self.mask.region((n.start, o.start, 0), room.shape)
        return apply(kept, np.broadcast_to(numbers, room.shape), 1.0, room)

    def kept_weights(self, n: slice, o: slice) -> Array:
        """Return the weights of a tile's examples."""
        return self.select(n, o, self.weights[o])

    def kept_products(self, n: slice, o: slice, left: Array, right: Array) -> Array:
        """Return products where a connection is kept: what is dropped leaves no Inf or NaN."""
        return self.select(n, o, np.multiply(left, right, out=self.room(n, o)))


def _forward(x: Array, weights: Array, mask: Mask) -> Array:
    """Return sums over the inputs."""
    y = np.empty((len(x), len(weights)), dtype=x.dtype)
    tiles = _Tiles(weights, mask)
    for n, o in tiles:
        np.matmul(tiles.kept_weights(n, o), x[n, :, np.newaxis], out=y[n, o, np.newaxis])
        for one in _not_finite(x, n):
            products = tiles.kept_products(one, o, weights[o], x[one, np.newaxis])
            y[one, o] = products.sum(axis=2)
    return y


def _backward(dy: Array, x: Array, weights: Array, mask: Mask) -> tuple[Array, Array]:
    """Return sums over the outputs, and over the examples."""
    dx, dweights = np.zeros_like(x), np.zeros_like(weights)
    tiles = _Tiles(weights, mask)
    for n, o in tiles:
        kept = tiles.kept_products(n, o, dy[n, o, np.newaxis], x[n, np.newaxis])
        dweights[o] += kept.sum(axis=0) if len(kept) > 1 else kept[0]
        part = np.matmul(dy[n, np.newaxis, o], tiles.kept_weights(n, o))[:, 0]
        for one in _not_finite(dy, n):
            products = tiles.kept_products(one, o, weights[o], dy[one, o, np.newaxis])
            part[one.start - n.start] = products.sum(axis=1)[0]
        dx[n] += part
    return dx, dweights


def _not_finite(rows: Array, n: slice) -> Iterator[slice]:
    """Yield those of some rows with which a 0 in a matrix product would make NaN."""
    part = rows[n]
    if not math.isfinite(abs(part.sum())):
        for row in np.flatnonzero(~np.isfinite(part).all(axis=1)):
            yield slice(n.start + int(row), n.start + int(row) + 1)


def initial_weights(shape: tuple[int, ...], inputs: int, key: Key, dtype: DTypeLike) -> Array:
    r"""Return weights uniform between :math:`\pm 1 / \sqrt{inputs}`.

    .. math:: W = \frac{2 u - 1}{\sqrt{inputs}}, \qquad u = (U + 1/2) \, 2^{-64}

    with the 64-bit uniforms U of `key`, computed in float64 and rounded to `dtype`. The parts of a
    complex number are two numbers, one after the other.
    """
    dtype = np.dtype(dtype)
    draws = (*shape, 2) if dtype.kind == "c" else shape
    numbers = (_core.uniforms(draws, key).astype(np.float64) + 0.5) * 2.0**-63 - 1.0
    numbers /= math.sqrt(max(1, inputs))
    with np.errstate(under="ignore"):
        if dtype.kind == "c":
            return numbers.view(np.complex128)[..., 0].astype(dtype)
        return numbers.astype(dtype)
