"""Attention with dropout of its weights, in one pass over tiles of them.

The weights are never stored, neither for the result nor for the gradients.
"""

import math
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, Never

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import _core
from fastdrop._base.arguments import (
    Array,
    as_array,
    as_finite,
    as_flag,
    as_out,
    plain_array,
    probability,
    refuse,
    shown,
)
from fastdrop._base.keys import NO_KEY, RNG
from fastdrop._base.layers import Layer, call_key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.plans import Plan, check_forward_mask, check_recipe, draw_key

Causal = bool | Literal["upper_left", "lower_right"]


def scaled_dot_product_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    p: float = 0.5,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    training: bool = True,
    rng: RNG = None,
    mask: Mask | None = None,
    return_lse: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Attend to keys, with attention weights dropped at random.

    .. math:: y_{i} = \sum_j \frac{m_{ij}}{1 - p} \, w_{ij} v_{j}, \qquad
              w_{i} = softmax_j (scale \; q_i \cdot k_j + bias_{ij}), \qquad
              m_{ij} \sim Bernoulli(1 - p)

    The mask is the `Mask` of all weights, (batch, heads, queries, keys), so ``dropout`` of a stored
    softmax with the same key drops the same. Neither weights nor mask are stored: memory beyond the
    result is a few hundred kilobytes per thread.

    Parameters
    ----------
    q : array_like of float32, float64, float16 or bfloat16, shape (batch, heads, queries, features)
        Queries, with at most 256 features, of any memory layout. The batch may be absent, here and
        below.
    k, v : array_like, shapes (batch, key heads, keys, features) and (batch, key heads, keys, width)
        Keys and values, in the dtype of `q`. The number of their heads divides that of `q`:
        consecutive heads of queries share one. `width` is at most 256.
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    attn_mask : array_like of bool or float, optional
        Added to scores, or False where a query does not see a key. It broadcasts to the shape of
        the weights.
    is_causal : bool or {"upper_left", "lower_right"}, default False
        Whether query i sees only the keys up to i ("upper_left", or True), or up to i + keys -
        queries ("lower_right"), in addition to `attn_mask`.
    scale : float, optional
        Factor of the products; if not given, 1 / sqrt(features).
    training, rng
        As for `dropout`.
    mask : Mask, optional
        Mask of the shape of the weights to apply instead of drawing one from `rng`; `p` is then not
        used. A shard of a batch, of heads or of queries takes the region of the whole.
    return_lse, return_mask : bool, default False
        Whether to return the logarithms that the gradient needs, and the mask.
    out : ndarray, optional
        Array to write into, of the shape and dtype of the result.

    Returns
    -------
    y : ndarray, shape (batch, heads, queries, width)
        In the dtype of `q`. It lies in memory as (batch, queries, heads, width), so that
        ``y.swapaxes(-3, -2).reshape(batch, queries, -1)`` merges the heads without a copy.
    lse : ndarray, shape (batch, heads, queries)
        If `return_lse`: of each row, the logarithm of the sum of exponentials of scores, in
        float64 for float64, else in float32.
    mask : Mask
        If `return_mask`: the mask that was applied; in evaluation one that keeps everything.

    Notes
    -----
    Vaswani et al., "Attention is all you need", NIPS 2017; the tiles are those of Dao et al.,
    "FlashAttention", NeurIPS 2022, arXiv:2205.14135.

    Half precision is computed in float32 and rounded once. The result has the same bits for every
    number of threads and on every CPU. A query that sees no key, and one whose weights are all
    dropped, gives 0. A score that is NaN or +inf makes its row NaN, and so does a NaN or infinite
    value whose weight is 0, unless a causal mask excludes its whole block.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = (rng.standard_normal((2, 4, 10, 8), dtype=np.float32) for _ in range(3))
    >>> y = fd.scaled_dot_product_attention(q, k, v, 0.1, is_causal=True, rng=fd.Key(1))
    >>> y.shape
    (2, 4, 10, 8)
    """
    if unknown:
        refuse(unknown, scaled_dot_product_attention)
    call = _Call(q, k, v, attn_mask, is_causal, scale, out)
    return_lse = as_flag(return_lse, "return_lse")
    return_mask = as_flag(return_mask, "return_mask")
    recipe = call.recipe(p, training, rng, mask)
    lse = call.empty_lse() if return_lse else None
    y = call.target if call.target is not None and call.is_apart() else call.empty_result()
    _core.attention(call.inputs, call.options, recipe, y, lse)
    if out is not None:
        if y is not call.target:
            out[...] = y
        y = out
    results = (y, *((lse,) if return_lse else ()), *((recipe,) if return_mask else ()))
    return results if len(results) > 1 else y


def scaled_dot_product_attention_backward(
    dy: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    y: ArrayLike,
    lse: ArrayLike,
    p: float = 0.5,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    training: bool = True,
    rng: RNG = None,
    mask: Mask | None = None,
    return_dattn_mask: bool = False,
    **unknown: Never,
) -> Any:
    r"""Return the gradients of `scaled_dot_product_attention`: dq, dk and dv.

    .. math:: ds_{ij} = w_{ij} \left( \frac{m_{ij}}{1 - p} \, dy_i \cdot v_j - dy_i \cdot y_i
              \right), \qquad
              dq_i = scale \sum_j ds_{ij} k_j, \quad
              dk_j = scale \sum_i ds_{ij} q_i, \quad
              dv_j = \sum_i \frac{m_{ij}}{1 - p} \, w_{ij} \, dy_i

    Parameters
    ----------
    dy : array_like, shape (batch, heads, queries, width)
        Gradient with respect to the result, in its dtype.
    y, lse : array_like
        What the forward call returned, with ``return_lse=True``.
    return_dattn_mask : bool, default False
        Whether to return the gradient with respect to `attn_mask` as well, which must be of floats.
    q, k, v, p, attn_mask, is_causal, scale, training, rng, mask
        Those of the forward call. In training, give either `rng`, its `Key`, or `mask`, the mask
        that it returned; anything else is refused.

    Returns
    -------
    dq, dk, dv : ndarray
        In the shape, dtype and memory layout of `q`, `k` and `v`.
    dattn_mask : ndarray
        If `return_dattn_mask`: in the shape and dtype of `attn_mask`.

    Examples
    --------
    >>> q = k = v = np.ones((1, 2, 3, 4))
    >>> y, lse = fd.scaled_dot_product_attention(q, k, v, 0.5, rng=fd.Key(1), return_lse=True)
    >>> dq, dk, dv = fd.scaled_dot_product_attention_backward(
    ...     np.ones_like(y), q, k, v, y, lse, 0.5, rng=fd.Key(1)
    ... )
    >>> dv[0, 0, :, 0].round(4)
    array([0.6667, 0.6667, 0.6667])
    """
    if unknown:
        refuse(unknown, scaled_dot_product_attention_backward)
    call = _Call(q, k, v, attn_mask, is_causal, scale, None)
    outputs = (as_array(dy, "dy"), as_array(y, "y"), as_array(lse, "lse"))
    bias = call.inputs[3]
    if as_flag(return_dattn_mask, "return_dattn_mask") and (bias is None or bias.dtype.kind == "b"):
        got = "None" if bias is None else bias.dtype
        raise TypeError(f"attn_mask must have a float dtype to have a gradient, got {got}")
    probability(p)
    check_forward_mask(training, rng, mask)
    recipe = call.recipe(p, training, rng, mask)
    dq, dk, dv = (np.empty_like(array, call.dtype) for array in call.inputs[:3])
    _core.attention_backward(outputs, call.inputs, call.options, recipe, (dq, dk, dv))
    gradients = [dq, dk, dv]
    if return_dattn_mask and bias is not None:
        of_bias = np.zeros(bias.shape, call.computed)
        _core.attention_bias_gradient(outputs, call.inputs, call.options, recipe, of_bias)
        gradients.append(of_bias.astype(bias.dtype.newbyteorder("="), copy=False))
    return tuple(gradients)


class ScaledDotProductAttention(Layer[Mask]):
    """Attend with dropout in training; the layer of `scaled_dot_product_attention`.

    A call takes ``(q, k, v, attn_mask=None)``; `backward` returns the gradients of the first three.
    ``p``, ``is_causal`` and ``scale`` are as for `scaled_dot_product_attention`, ``rng`` is as for
    `Dropout`. The layer keeps its last inputs and result until the next call: do not overwrite them
    before `backward`.

    >>> attend = fd.ScaledDotProductAttention(0.5, rng=0)
    >>> q, k, v = np.ones((3, 1, 2, 3, 4), dtype=np.float32)
    >>> attend(q, k, v)[0, 0, :, 0]
    array([1.3333334, 0.6666667, 2.       ], dtype=float32)
    >>> dq, dk, dv = attend.backward(np.ones((1, 2, 3, 4), dtype=np.float32))
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        is_causal: Causal = False,
        scale: float | None = None,
        rng: RNG = None,
    ) -> None:
        causal_offset(is_causal, 1, 1)
        self.is_causal: Causal = is_causal
        self.scale = None if scale is None else as_finite(scale, "scale")
        super().__init__(p, rng)

    def __call__(
        self,
        q: ArrayLike,
        k: ArrayLike,
        v: ArrayLike,
        attn_mask: ArrayLike | None = None,
        *,
        training: bool | None = None,
        **unknown: Never,
    ) -> Array:
        """Return the attention of queries to keys, as `scaled_dot_product_attention` does."""
        if unknown:
            refuse(unknown, self.__call__)
        train = self._trains(training)
        options: dict[str, Any] = {
            "attn_mask": attn_mask,
            "is_causal": self.is_causal,
            "scale": self.scale,
            "training": train,
        }
        y: Array
        with call_key(self._keys) if train else nullcontext(None) as key:
            y, lse, mask = scaled_dot_product_attention(
                q, k, v, self._p, rng=key, return_lse=True, return_mask=True, **options
            )
        given = {"mask": mask} if train else {}
        inputs = {"q": q, "k": k, "v": v, "y": y, "lse": lse, "p": self._p}
        gradients = partial(scaled_dot_product_attention_backward, **inputs, **options, **given)
        self._keep(Plan(mask if train else None, gradients))
        return y

    def backward(self, dy: ArrayLike) -> tuple[Array, Array, Array]:
        """Return the gradients with respect to the queries, keys and values of the last call."""
        plan, _ = self._last_call()
        gradients: tuple[Array, Array, Array] = plan.backward(dy)
        return gradients


def causal_offset(is_causal: Any, queries: int, keys: int) -> int | None:
    """Return how many keys after its own number a query sees; None without a causal mask."""
    offset = {"upper_left": 0, "lower_right": keys - queries}
    if isinstance(is_causal, str) and is_causal in offset:
        return offset[is_causal]
    if isinstance(is_causal, bool | np.bool_):
        return 0 if is_causal else None
    raise ValueError(
        f"is_causal must be True, False, 'upper_left' or 'lower_right', got {shown(is_causal)}"
    )


class _Call:
    """The checked arguments of a call but for its mask."""

    def __init__(
        self,
        q: ArrayLike,
        k: ArrayLike,
        v: ArrayLike,
        attn_mask: ArrayLike | None,
        is_causal: Causal,
        scale: float | None,
        out: Array | None,
    ) -> None:
        bias = None if attn_mask is None else plain_array(attn_mask, "attn_mask")
        self.inputs = (as_array(q, "q"), as_array(k, "k"), as_array(v, "v"), bias)
        self.target = None if out is None else as_out(out)
        self.weights: tuple[int, ...] = _core.check_attention(self.inputs, self.target)
        *_, queries, keys = self.weights
        causal = causal_offset(is_causal, queries, keys)
        features = self.inputs[0].shape[-1]
        factor = 1.0 / math.sqrt(max(1, features)) if scale is None else as_finite(scale, "scale")
        self.options = (factor, causal, None)
        self.dtype = self.inputs[0].dtype.newbyteorder("=")
        self.computed = np.dtype(np.float64 if self.dtype == np.float64 else np.float32)

    def recipe(self, p: float, training: bool, rng: RNG, mask: Mask | None) -> Mask:
        """Return the mask of the weights; draw its key last."""
        p, training = probability(p), as_flag(training, "training")
        if mask is not None:
            check_recipe(mask, Mask, rng)
            if mask.shape != self.weights:
                raise ValueError(f"mask must be of shape {self.weights}, got {mask.shape}")
            return mask if training else make_mask(self.weights, 0.0, NO_KEY)
        p = p if training else 0.0
        make_mask(self.weights, p, NO_KEY)  # raises before a Generator advances
        return make_mask(self.weights, p, draw_key(rng, p > 0.0))

    def empty_result(self) -> Array:
        """Return an array for the result, with the heads of a query side by side."""
        *batch, heads, queries, _ = self.weights
        width = self.inputs[2].shape[-1]
        return np.empty((*batch, queries, heads, width), self.dtype).swapaxes(-3, -2)

    def empty_lse(self) -> Array:
        """Return an array for the logarithms."""
        return np.empty(self.weights[:-1], self.computed)

    def is_apart(self) -> bool:
        """Return whether `out` shares no memory with an input."""
        inputs = (x for x in self.inputs if x is not None)
        return not any(np.may_share_memory(self.target, x) for x in inputs)
