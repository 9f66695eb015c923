"""Dropout of weights: words of a table, connections, recurrent weights.

These functions return weights for the caller's own layers (`linear` has a layer with its own). All
are linear: for the gradient, apply the function to the gradient with respect to the returned
weights, with the same key or mask.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Never

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import _core
from fastdrop._base.arguments import (
    Array,
    Mode,
    as_count,
    as_flag,
    as_indices,
    as_out,
    check_broadcast,
    check_mode,
    float_array,
    float_arrays,
    probability,
    refuse,
)
from fastdrop._base.keys import NO_KEY, RNG
from fastdrop._base.layers import Layer, call_key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._base.plans import (
    Keep,
    as_keep,
    check_forward_mask,
    draw_key,
    evaluate,
    run,
    select,
    training_scale,
)
from fastdrop._family.dropout import Dropout


def embedding_dropout(
    weight: ArrayLike,
    p: float = 0.5,
    *,
    indices: ArrayLike | None = None,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop whole words: rows of an embedding table.

    .. math:: y_{v d} = m_v \, w_{v d} / (1 - p), \qquad m_v \sim Bernoulli(1 - p)

    See Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016, section 4.2.

    Parameters
    ----------
    weight : array_like of float or complex, shape (vocabulary, dimension)
        The table, of any dtype of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a word, in [0, 1].
    indices : array_like of int, optional
        Words to look up: only their rows are computed. All occurrences of a word share its
        decision, which is the same as in the whole table.
    training, mode, rng, mask, return_mask, out
        As for `dropout`. The mask has shape (vocabulary, 1).

    Returns
    -------
    ndarray, shape (vocabulary, dimension), or indices.shape + (dimension,)
        The table to look words up in, or the rows of `indices`.

    Examples
    --------
    >>> fd.embedding_dropout(np.ones((4, 2), dtype=np.float32), 0.5, rng=1)
    array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    >>> fd.embedding_dropout(np.ones((4, 2), dtype=np.float32), 0.5, indices=[1, 0], rng=1)
    array([[2., 2.],
           [0., 0.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, embedding_dropout)
    check_mode(mode)
    table = _as_table(weight)
    if indices is None:
        return run("select", (table,), p, training, mode, (1,), rng, mask, return_mask, out)
    words, return_mask = as_indices(indices, len(table)), as_flag(return_mask, "return_mask")
    rows = table[words]
    target = None if out is None else as_out(out)
    _core.check("select", (rows,), target)
    plan = _lookup(table.shape, words, p, training, mode, rng, mask)
    rows = plan.forward(rows, target)
    y = rows if out is None else out
    if not return_mask:
        return y
    if not training:
        return y, make_mask((len(table), 1), 0.0, NO_KEY)
    return y, plan.recipe if mask is None else mask


def embedding_dropout_backward(
    dy: ArrayLike,
    indices: ArrayLike,
    vocabulary: int,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    **unknown: Never,
) -> Array:
    """Return the gradient of `embedding_dropout` with `indices`, with respect to the table.

    `dy`, of shape indices.shape + (dimension,), is the gradient with respect to the rows, and
    `vocabulary` the number of rows of the table; the other arguments are those of the forward call.
    In training, give either `rng`, its `Key`, or `mask`, the mask that it returned; anything else
    is refused. The rows of a repeated word are summed in float64.

    >>> fd.embedding_dropout_backward(np.ones((3, 2)), [1, 0, 1], 2, 0.5, rng=fd.Key(1))
    array([[0., 0.],
           [4., 4.]])
    """
    if unknown:
        refuse(unknown, embedding_dropout_backward)
    check_mode(mode)
    check_forward_mask(training, rng, mask)
    gradient = float_array(dy, "dy")
    words = as_indices(indices, as_count(vocabulary, "vocabulary"))
    if gradient.ndim != words.ndim + 1:
        raise ValueError(
            f"dy must have the axes of indices and one more, got shape {gradient.shape}"
        )
    shape = (int(vocabulary), gradient.shape[-1])
    return _lookup(shape, words, p, training, mode, rng, mask).backward(gradient)


def _as_table(weight: ArrayLike) -> Array:
    table = float_array(weight, "weight")
    if table.ndim != 2:
        raise ValueError(
            f"weight must have 2 axes, (vocabulary, dimension), got shape {table.shape}"
        )
    return table


class _Lookup:
    """The plan of rows that are looked up in a table."""

    __slots__ = ("_scale", "_shape", "_words", "recipe")

    def __init__(self, recipe: Any, scale: float, shape: tuple[int, ...], words: Array) -> None:
        self.recipe, self._scale, self._shape, self._words = recipe, scale, shape, words

    def forward(self, rows: Array, out: Array | None) -> Array:
        keep = None
        if self.recipe is not None:
            whole = np.asarray(self.recipe, dtype=np.bool_)
            keep = np.broadcast_to(whole, (self._shape[0], *(whole.shape[-1:] or (1,))))
            keep = keep[self._words]
        return select(rows, keep, self._scale, out)

    def backward(self, dy: Array) -> Array:
        expected = (*self._words.shape, self._shape[1])
        if dy.shape != expected:
            raise ValueError(f"dy must have the shape of the rows, {expected}, got {dy.shape}")
        total = np.zeros(self._shape, np.complex128 if dy.dtype.kind == "c" else np.float64)
        with np.errstate(all="ignore"):
            np.add.at(total, self._words, self.forward(dy, None))
            return total.astype(dy.dtype)


def _lookup(
    shape: tuple[int, ...],
    words: Array,
    p: float,
    training: bool,
    mode: str | None,
    rng: RNG,
    mask: Keep | None,
) -> _Lookup:
    """Return the plan of a look-up in a table of this shape."""
    p, training = probability(p), as_flag(training, "training")
    keep: Any
    if mask is None:
        key = draw_key(rng, training and p > 0.0)
        keep = make_mask((shape[0], 1), p if training else 0.0, key)
    else:
        keep, p = as_keep(mask, p, rng)
        check_broadcast(keep.shape, shape)
    if training:
        return _Lookup(keep, training_scale(p, mode), shape, words)
    return _Lookup(None, 1.0 - p if mode == "standard" else 1.0, shape, words)


class _OfWeights(Dropout):
    """A layer whose input is weights."""

    _of_weights = True

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, mode: Mode = "inverted", rng: RNG = None
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)


class EmbeddingDropout(_OfWeights):
    """Drop whole words of an embedding table in training; the layer of `embedding_dropout`.

    A call takes the table, and optionally `indices`. `backward` takes the gradient with respect to
    the result, and returns the gradient with respect to the table. ``p``, ``inplace``, ``mode`` and
    ``rng`` are as for `Dropout`.

    >>> drop, table = fd.EmbeddingDropout(0.5, rng=0), np.ones((4, 2), dtype=np.float32)
    >>> drop(table).mean(axis=1)
    array([2., 0., 2., 0.], dtype=float32)
    >>> drop(table, [3, 3]).shape
    (2, 2)
    """

    def __call__(
        self,
        x: ArrayLike,
        indices: ArrayLike | None = None,
        *,
        training: bool | None = None,
        **unknown: Never,
    ) -> Array:
        """Return the table, or the rows of `indices`, as `embedding_dropout` does."""
        if unknown:
            refuse(unknown, self.__call__)
        if indices is None:
            return super().__call__(x, training=training)
        if self.inplace:
            raise ValueError("indices must not be given to a layer that works in place")
        table = _as_table(x)
        words = as_indices(indices, len(table))
        train = self._trains(training)
        with call_key(self._keys) if train else nullcontext(NO_KEY) as key:
            plan = _lookup(table.shape, words, self._p, train, self.mode, key, None)
            y = plan.forward(table[words], None)
        self._last.plan_and_inputs = plan, ()
        return y

    def _shared(self, x: Array) -> tuple[int, ...]:
        _as_table(x)
        return (1,)


def drop_connect(
    weight: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Drop connections: single weights, with one mask for all examples of a call.

    .. math:: W'_{o i} = m_{o i} \, W_{o i} / (1 - p), \qquad m_{o i} \sim Bernoulli(1 - p)

    See Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. `weight` has
    any shape; all else is as for `dropout`. For one mask per example, see `drop_connect_linear`.

    >>> fd.drop_connect(np.ones((2, 3), dtype=np.float32), 0.5, rng=1)
    array([[0., 2., 0.],
           [0., 0., 2.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, drop_connect)
    check_mode(mode)
    inputs = (float_array(weight, "weight"),)
    return run("select", inputs, p, training, mode, (), rng, mask, return_mask, out)


class DropConnect(_OfWeights):
    """Drop connections in training, one mask for all examples; the layer of `drop_connect`.

    A call takes the weights and returns the ones to use; `backward` takes the gradient with respect
    to these. ``p``, ``inplace``, ``mode`` and ``rng`` are as for `Dropout`.

    >>> fd.DropConnect(0.5, rng=0)(np.ones((2, 3), dtype=np.float32))
    array([[2., 0., 2.],
           [0., 0., 2.]], dtype=float32)
    """


def weight_drop(
    weights: Sequence[ArrayLike],
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Sequence[Keep] | None = None,
    return_mask: bool = False,
    **unknown: Never,
) -> Any:
    """Drop connections of several recurrent weights, once for all time steps of a sequence.

    See Merity et al., "Regularizing and optimizing LSTM language models", ICLR 2018.

    Parameters
    ----------
    weights : sequence of array_like
        Such as the hidden-to-hidden matrices of an LSTM's gates. Array number i is dropped as by
        `drop_connect` with the key ``key.fold_in(i)``.
    p, training, mode, rng, return_mask
        As for `dropout`.
    mask : sequence, optional
        One mask per array, as for `dropout`, instead of `rng`.

    Returns
    -------
    list of ndarray
        The weights to use for one sequence; with the list of masks if `return_mask`.

    Examples
    --------
    >>> forget, update = fd.weight_drop([np.ones((2, 2)), np.ones((2, 2))], 0.5, rng=1)
    >>> update
    array([[0., 0.],
           [2., 0.]])
    """
    if unknown:
        refuse(unknown, weight_drop)
    p, training = probability(p), as_flag(training, "training")
    return_mask = as_flag(return_mask, "return_mask")
    check_mode(mode)
    arrays = float_arrays(weights, "weights")
    if mask is None:
        key = draw_key(rng, training and p > 0.0)
        sources: list[Any] = [(key.fold_in(number), None) for number in range(len(arrays))]
    else:
        if not isinstance(mask, Sequence):
            raise TypeError(f"mask must be a sequence of masks, got {type(mask).__name__}")
        masks = list(mask)
        if len(masks) != len(arrays):
            raise ValueError(
                f"mask must have length {len(arrays)}, one per array, got {len(masks)}"
            )
        sources = [(rng, one) for one in masks]
    results = [
        run("select", (array,), p, training, mode, (), key, one, True, None)
        for array, (key, one) in zip(arrays, sources, strict=True)
    ]
    dropped, drawn = [y for y, _ in results], [one for _, one in results]
    return (dropped, drawn) if return_mask else dropped


class _Several:
    """The plans of several arrays in one."""

    __slots__ = ("_plans", "_shapes", "recipe")

    def __init__(self, plans: list[Any], shapes: list[tuple[int, ...]], training: bool) -> None:
        self._plans, self._shapes = plans, shapes
        self.recipe = [plan.recipe for plan in plans] if training else None

    def backward(self, gradients: list[Array]) -> list[Array]:
        shapes = [gradient.shape for gradient in gradients]
        if shapes != self._shapes:
            raise ValueError(
                f"gradients must have the shapes of the weights, {self._shapes}, got {shapes}"
            )
        pairs = zip(self._plans, gradients, strict=True)
        return [plan.backward(gradient) for plan, gradient in pairs]


class WeightDrop(Layer[list[Mask]]):
    """Drop connections of recurrent weights in training; the layer of `weight_drop`.

    ``p``, ``mode`` and ``rng`` are as for `Dropout`.

    >>> drop = fd.WeightDrop(0.5, rng=0)
    >>> forget, update = drop([np.ones((2, 2)), np.ones((2, 2))])
    >>> np.array_equal(drop.backward([np.ones((2, 2))] * 2)[1], update)
    True
    """

    _of_weights = True

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.mode: Mode = mode

    def __call__(
        self, weights: Sequence[ArrayLike], *, training: bool | None = None, **unknown: Never
    ) -> list[Array]:
        """Return the list of weights to use, as `weight_drop` does."""
        if unknown:
            refuse(unknown, self.__call__)
        arrays = float_arrays(weights, "weights")
        train = self._trains(training)
        results: list[tuple[Array, Any]]
        if train:
            scale = training_scale(self._p, self.mode)
            with call_key(self._keys) as key:
                results = [
                    _core.forward("select", (array,), None, key.fold_in(n), self._p, (), scale)
                    for n, array in enumerate(arrays)
                ]
        else:
            results = [evaluate("select", (array,), None, self._p, self.mode) for array in arrays]
        shapes = [array.shape for array in arrays]
        several = _Several([plan for _, plan in results], shapes, train)
        self._last.plan_and_inputs = several, ()
        return [y for y, _ in results]

    def backward(self, gradients: Sequence[ArrayLike]) -> list[Array]:
        """Return the gradients with respect to the weights of the last call."""
        several: list[Array] = self._last_plan().backward(float_arrays(gradients, "gradients"))
        return several
