"""A linear map with a mask of its connections for each example (DropConnect).

There is one `Mask` of shape (examples, outputs, inputs); example n uses its region n. Neither the
mask nor the weights of all examples are ever stored: they are made tile by tile, in one buffer that
stays in the cache. `drop_connect`, in `weights`, has one mask for all examples.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Never, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdrop import _core
from fastdrop._base.arguments import (
    Array,
    Mode,
    as_count,
    as_flag,
    check_mode,
    float_array,
    float_dtype,
    probability,
    refuse,
)
from fastdrop._base.keys import NO_KEY, RNG, Key
from fastdrop._base.layers import Layer, call_key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.members import scaled
from fastdrop._base.plans import (
    Plan,
    Request,
    check_forward_mask,
    check_recipe,
    draw_key,
    gradient_like,
    select,
)
from fastdrop._base.states import split_state

TILE = 2**18
"""Weights in a tile: a megabyte of float32. Half as many are slower: they need more calls."""


def drop_connect_linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Mask | None = None,
    return_mask: bool = False,
    **unknown: Never,
) -> Any:
    r"""Map linearly, with connections dropped at random for each example.

    .. math:: y_{n o} = s \sum_i m_{n o i} \, W_{o i} \, x_{n i} + b_o,
              \qquad m_{n o i} \sim Bernoulli(1 - p)

    with :math:`s = 1 / (1 - p)` in inverted mode and :math:`s = 1` in standard mode. In evaluation
    all connections are kept, and :math:`s` is 1 in inverted mode and :math:`1 - p` in standard
    mode.

    Parameters
    ----------
    x : array_like of float or complex, shape (..., inputs)
        Examples along all axes but the last, of any dtype of `dropout`.
    weight, bias : array_like of float or complex, shapes (outputs, inputs) and (outputs,)
        The weights and the bias, which is optional and never dropped.
    p : float, default 0.5
        Probability to DROP a connection, in [0, 1].
    mask : Mask, optional
        Mask of shape (examples, outputs, inputs) to apply instead of drawing one from `rng`; `p` is
        then not used.
    training, mode, rng, return_mask
        See `dropout`.

    Returns
    -------
    ndarray, shape (..., outputs)
        Outputs, of the dtype of all arrays; if they differ, of the widest, at least float32.

    Notes
    -----
    Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. One mask for all
    examples, as in `drop_connect`, is faster.

    A dropped connection passes on no Inf or NaN, whether from the weight or from the input. float16
    and bfloat16 are computed in float32 and rounded once. The masks are the same everywhere; the
    sums are NumPy's matrix products, whose last bits depend on the machine.

    Examples
    --------
    >>> fd.drop_connect_linear(np.ones((3, 4)), np.ones((2, 4)), rng=0)
    array([[6., 4.],
           [2., 4.],
           [8., 4.]])
    """
    if unknown:
        refuse(unknown, drop_connect_linear)
    p, training = probability(p), as_flag(training, "training")
    return_mask = as_flag(return_mask, "return_mask")
    check_mode(mode)
    arrays = _linear_arrays(x, weight, bias)
    request = p, training, mode, rng, mask, return_mask, None
    partial_mask, applied, scale = _decide(arrays[0], arrays[1], request)
    y = _mapped(*arrays, partial_mask, scale)
    return (y, applied) if return_mask else y


def drop_connect_linear_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    p: float = 0.5,
    *,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Mask | None = None,
    **unknown: Never,
) -> tuple[Array, Array, Array]:
    r"""Return the gradients of `drop_connect_linear` in training: dx, dweight and dbias.

    .. math:: dx_{n i} = s \sum_o m_{n o i} W_{o i} \, dy_{n o}, \qquad
              dW_{o i} = s \sum_n m_{n o i} \, dy_{n o} \, x_{n i}, \qquad
              db_o = \sum_n dy_{n o}

    `dy`, of shape (..., outputs), is the gradient with respect to the output; the other arguments
    are those of the forward call. Pass either its `Key` as `rng`, or the mask that it returned as
    `mask`; anything else is refused. dx has the dtype of `x`, dweight and dbias have the dtype of
    `weight`. For complex arrays W and x are conjugated.

    >>> x, weight, key = np.ones((3, 4)), np.ones((2, 4)), fd.Key(0)
    >>> dx, dweight, dbias = fd.drop_connect_linear_backward(np.ones((3, 2)), x, weight, rng=key)
    >>> dweight
    array([[6., 4., 4., 2.],
           [2., 2., 4., 4.]])
    """
    if unknown:
        refuse(unknown, drop_connect_linear_backward)
    p = probability(p)
    check_mode(mode)
    check_forward_mask(True, rng, mask)
    examples, weights, _ = _linear_arrays(x, weight, None)
    request = p, True, mode, rng, mask, False, None
    partial_mask, _, scale = _decide(examples, weights, request)
    return _gradients(partial_mask, scale, float_array(dy, "dy"), examples, weights)


def _linear_arrays(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Check and return the arrays of a linear map."""
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


def _mask_shape(x: Array, weight: Array) -> tuple[int, ...]:
    return (math.prod(x.shape[:-1]), *weight.shape)


def _decide(x: Array, weight: Array, request: Request) -> tuple[Mask | None, Mask, float]:
    """Return the mask to apply (None keeps all connections), the mask to return, and the scale."""
    p, training, mode, rng, mask, *_ = request
    shape = _mask_shape(x, weight)
    if mask is None:
        make_mask(shape, p, NO_KEY)  # raises before a Generator advances
        mask = make_mask(shape, p, draw_key(rng, training and p > 0.0))
    else:
        check_recipe(mask, Mask, rng)
        if mask.shape != shape:
            raise ValueError(f"mask must be of shape {shape}, got {mask.shape}")
        p = mask.p
    if training:
        return mask if p > 0.0 else None, mask, scaled(p, mode).scale
    return None, make_mask(shape, 0.0, NO_KEY), 1.0 - p if mode == "standard" else 1.0


def _mapped(x: Array, weight: Array, bias: Array | None, mask: Mask | None, scale: float) -> Array:
    """Map linearly; without a mask all connections are kept."""
    dtype = _common(*([x, weight] if bias is None else [x, weight, bias]))
    with np.errstate(all="ignore"):
        rows, weights = _rows(x, dtype), _rows(weight, dtype)
        if scale == 0.0:
            y = np.zeros((len(rows), len(weights)), dtype=rows.dtype)
        elif mask is None:
            y = rows @ weights.T
        else:
            y = sum_over_inputs(rows, weights, mask)
        y *= scale
        if bias is not None:
            y += bias.astype(y.dtype)
        return y.reshape(*x.shape[:-1], len(weight)).astype(dtype, copy=False)


def _gradients(
    mask: Mask | None, scale: float, dy: Array, x: Array, weight: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients with respect to the inputs, the weights and the bias."""
    gradient_like(dy, (*x.shape[:-1], len(weight)), "the output")
    dtype = _common(dy, x, weight)
    with np.errstate(all="ignore"):
        rows, inputs, weights = (_rows(array, dtype) for array in (dy, x, weight))
        if rows.dtype.kind == "c":
            inputs, weights = inputs.conj(), weights.conj()
        if scale == 0.0:
            dx, dweight = np.zeros_like(inputs), np.zeros_like(weights)
        elif mask is None:
            dx, dweight = rows @ weights, rows.T @ inputs
        else:
            dx = sum_over_outputs(rows, weights, mask)
            dweight = sum_over_examples(rows, inputs, mask)
        dx *= scale
        dweight *= scale
        return (
            _narrow(dx.reshape(x.shape), x.dtype),
            _narrow(dweight, weight.dtype),
            _narrow(rows.sum(axis=0), weight.dtype),
        )


def _common(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype of a result: the common dtype, else the widest, and at least float32."""
    dtypes = {array.dtype.newbyteorder("=") for array in arrays}
    return dtypes.pop() if len(dtypes) == 1 else np.result_type(*map(_precision, dtypes))


def _precision(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the computation."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _rows(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array with two axes, in C order and in the precision of the computation."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return np.ascontiguousarray(rows, dtype=_precision(dtype))


def _narrow(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return a gradient in the dtype of its array."""
    return (x if dtype.kind == "c" else x.real).astype(dtype, copy=False)


GRADIENTS = {
    "outputs": (("inputs", "dy", "second"), ("weights", "dy", "first")),
    "inputs": (("outputs", "dy", "second"), ("weights", "first", "dy")),
    "weights": (("outputs", "second", "dy"), ("inputs", "first", "dy")),
}
"""The call for the gradient with respect to each input: what is wanted, and of which arrays.

Outputs are computed from x and W, gradients of inputs from dy and W, those of weights from both.
"""


class _Tiles:
    """The weights of all examples, a few examples or outputs at a time, in one buffer."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], mask: Mask) -> None:
        self.mask = mask
        outputs, inputs = shape
        self.outputs = max(1, min(outputs, TILE // max(1, inputs)))
        self.examples = max(1, TILE // max(1, self.outputs * inputs))
        if self.outputs < outputs:
            self.examples = 1
        self.buffer = np.empty((self.examples, self.outputs, inputs), dtype=dtype)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Iterate over all examples, a few outputs at a time, whose weights stay in the cache."""
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

    def kept(self, n: slice, o: slice, numbers: Array) -> Array:
        """Write the numbers into the buffer, with +0.0 for dropped connections, and return it."""
        room = self.room(n, o)
        kept = self.mask.region((n.start, o.start, 0), room.shape)
        return select(np.broadcast_to(numbers, room.shape), kept, 1.0, room)

    def kept_products(self, n: slice, o: slice, left: Array, right: Array) -> Array:
        """Return the products of kept connections; dropped ones leave no Inf or NaN."""
        return self.kept(n, o, np.multiply(left, right, out=self.room(n, o)))


def sum_over_inputs(x: Array, weights: Array, mask: Mask) -> Array:
    """Return the outputs: sums of weights times inputs."""
    y = np.empty((len(x), len(weights)), dtype=x.dtype)
    tiles = _Tiles(weights.shape, weights.dtype, mask)
    for n, o in tiles:
        np.matmul(tiles.kept(n, o, weights[o]), x[n, :, np.newaxis], out=y[n, o, np.newaxis])
        for one in _not_finite(x, n):
            products = tiles.kept_products(one, o, weights[o], x[one, np.newaxis])
            y[one, o] = products.sum(axis=2)
    return y


def sum_over_outputs(dy: Array, weights: Array, mask: Mask) -> Array:
    """Return the gradients with respect to the inputs."""
    dx = np.zeros((len(dy), weights.shape[1]), dtype=dy.dtype)
    tiles = _Tiles(weights.shape, weights.dtype, mask)
    for n, o in tiles:
        part = np.matmul(dy[n, np.newaxis, o], tiles.kept(n, o, weights[o]))[:, 0]
        for one in _not_finite(dy, n):
            products = tiles.kept_products(one, o, weights[o], dy[one, o, np.newaxis])
            part[one.start - n.start] = products.sum(axis=1)[0]
        dx[n] += part
    return dx


def sum_over_examples(dy: Array, x: Array, mask: Mask) -> Array:
    """Return the gradients with respect to the weights."""
    dweights = np.zeros((dy.shape[1], x.shape[1]), dtype=x.dtype)
    tiles = _Tiles(dweights.shape, x.dtype, mask)
    for n, o in tiles:
        kept = tiles.kept_products(n, o, dy[n, o, np.newaxis], x[n, np.newaxis])
        dweights[o] += kept.sum(axis=0) if len(kept) > 1 else kept[0]
    return dweights


def _not_finite(rows: Array, n: slice) -> Iterator[slice]:
    """Yield the rows with which a 0 in a matrix product would make NaN."""
    part = rows[n]
    if not math.isfinite(abs(part.sum())):
        for row in np.flatnonzero(~np.isfinite(part).all(axis=1)):
            yield slice(n.start + int(row), n.start + int(row) + 1)


def _initial_weights(shape: tuple[int, ...], inputs: int, key: Key, dtype: DTypeLike) -> Array:
    r"""Return weights uniform between :math:`\pm 1 / \sqrt{inputs}`.

    .. math:: W = \frac{2 u - 1}{\sqrt{inputs}}, \qquad u = (U + 1/2) \, 2^{-64}

    with the 64-bit uniforms U of `key`, computed in float64 and rounded to `dtype`. The two parts
    of a complex number take two successive uniforms.
    """
    dtype = np.dtype(dtype)
    draws = (*shape, 2) if dtype.kind == "c" else shape
    numbers = (_core.uniforms(draws, key).astype(np.float64) + 0.5) * 2.0**-63 - 1.0
    numbers /= math.sqrt(max(1, inputs))
    with np.errstate(under="ignore"):
        if dtype.kind == "c":
            return numbers.view(np.complex128)[..., 0].astype(dtype)
        return numbers.astype(dtype)


class DropConnectLinear(Layer[Mask]):
    """Map linearly, with connections dropped in training; the layer of `drop_connect_linear`.

    The layer keeps its last input until the next call, for `grad_weight`. Do not overwrite the
    input or `weight` before `backward`.

    Parameters
    ----------
    in_features, out_features : int
        Numbers of inputs and of outputs.
    bias : bool, default True
        Whether to add a bias, which is never dropped.
    p, mode, rng
        See `drop_connect_linear` and `Dropout`.
    dtype : dtype, default numpy.float32
        Dtype of the parameters, any dtype of `dropout`.

    Attributes
    ----------
    weight : ndarray, shape (out_features, in_features)
        A parameter, which can be set or changed in place. Initially uniform between plus and minus
        1 / sqrt(in_features), with the uniforms of ``layer.key.split(2)[0]``, which no mask uses.
    bias : ndarray, shape (out_features,), or None
        A parameter; initialised like `weight`, with the key ``layer.key.split(2)[1]``.
    grad_weight, grad_bias : ndarray or None
        Gradients of the parameters from the last `backward`.

    Examples
    --------
    >>> layer = fd.DropConnectLinear(4, 2, rng=0)
    >>> y = layer(np.ones((3, 4), dtype=np.float32))
    >>> dx = layer.backward(np.ones_like(y))
    >>> y.shape, dx.shape, layer.grad_weight.shape
    ((3, 2), (3, 4), (2, 4))
    """

    weight: Array
    bias: Array | None
    grad_weight: Array | None
    grad_bias: Array | None

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        p: float = 0.5,
        *,
        bias: bool = True,
        mode: Mode = "inverted",
        rng: RNG = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_mode(mode)
        inputs, outputs = (
            as_count(in_features, "in_features"),
            as_count(out_features, "out_features"),
        )
        has_bias, own = as_flag(bias, "bias"), float_dtype(dtype)
        super().__init__(p, rng)
        self.mode: Mode = mode
        keys = self.key.split(2)
        self.weight = _initial_weights((outputs, inputs), inputs, keys[0], own)
        self.bias = _initial_weights((outputs,), inputs, keys[1], own) if has_bias else None
        self.grad_weight, self.grad_bias = None, None

    def __call__(self, x: ArrayLike, *, training: bool | None = None, **unknown: Never) -> Array:
        """Map examples of shape (..., in_features) to outputs of shape (..., out_features)."""
        if unknown:
            refuse(unknown, self.__call__)
        array, weight, bias = _linear_arrays(x, self.weight, self.bias)
        train = self._trains(training)
        with call_key(self._keys) if train else nullcontext(NO_KEY) as key:
            request = self._p, train, self.mode, key, None, False, None
            partial_mask, applied, scale = _decide(array, weight, request)
            y = _mapped(array, weight, bias, partial_mask, scale)
        recipe = applied if train else None
        self._keep(Plan(recipe, partial(_gradients, partial_mask, scale)), (array,))
        return y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the last input; set `grad_weight`, `grad_bias`."""
        plan, (x,) = self._last_call()
        dx, self.grad_weight, grad_bias = plan.backward(float_array(dy, "dy"), x, self.weight)
        self.grad_bias = None if self.bias is None else grad_bias
        array: Array = dx
        return array

    def state_dict(self) -> dict[str, Any]:
        """Return `Layer.state_dict` and copies of "weight" and "bias".

        >>> fd.DropConnectLinear(3, 2).state_dict()["weight"].shape
        (2, 3)
        """
        bias = None if self.bias is None else self.bias.copy()
        return {**super().state_dict(), "weight": self.weight.copy(), "bias": bias}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the `state_dict` of a layer of the same shape."""
        saved, common = split_state(state, ("weight", "bias"))
        weight = _checked_weights(saved[0], self.weight, "weight")
        bias = _checked_weights(saved[1], self.bias, "bias")
        super().load_state_dict(common)
        self.weight[...] = weight
        if self.bias is not None:
            self.bias[...] = bias
        self.grad_weight, self.grad_bias = None, None

    @classmethod
    def _checked(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        (weight, bias, _), _ = split_state(state, ("weight", "bias", "mode"))
        table = float_array(weight, "weight")
        _, table, offset = _linear_arrays(np.empty((0, *table.shape[1:])), table, bias)
        return {"weight": table, "bias": offset}

    def __repr__(self) -> str:
        outputs, inputs = self.weight.shape
        options = "" if self.bias is not None else ", bias=False"
        options += "" if self.mode == "inverted" else f", mode={self.mode!r}"
        options += "" if self.weight.dtype == np.float32 else f", dtype={self.weight.dtype.name!r}"
        return f"DropConnectLinear({inputs}, {outputs}, p={self._p}{options})"


def _checked_weights(saved: Any, own: Array | None, name: str) -> Array | None:
    """Return a saved parameter as an array of the shape and dtype of the layer's own."""
    if saved is None or own is None:
        if saved is not own:
            wanted = "None" if own is None else f"an array of shape {own.shape}"
            raise ValueError(f"state must have {wanted} as {name}, got {type(saved).__name__}")
        return None
    array = float_array(saved, name)
    if array.shape != own.shape:
        raise ValueError(f"state must have {name} of shape {own.shape}, got {array.shape}")
    if array.dtype.kind == "c" and own.dtype.kind != "c":
        raise TypeError(f"state must have a real {name}, got {array.dtype}")
    if not own.flags.writeable:
        raise ValueError(f"{name} must be writeable to load a state, got a read-only array")
    return array.astype(own.dtype, copy=False)
