"""Dropout of weights: words of a table, connections, recurrent weights.

These functions return weights for the caller's own layers (`connect` has a layer that owns its
weights). All are linear: for the gradient, apply the function to the gradient with respect to the
returned weights, with the same key or mask.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
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
from fastdrop._base.members import Member, scaled
from fastdrop._base.plans import (
    Keep,
    Plan,
    Request,
    as_keep,
    check_forward_mask,
    draw_key,
    evaluate,
    gradient_like,
    run,
    select,
)
from fastdrop._family.dropout import Dropout


def _word_axes(shape: tuple[int, ...], option: None = None) -> tuple[int, ...]:
    if len(shape) != 2:
        raise ValueError(f"weight must have 2 axes, (vocabulary, dimension), got shape {shape}")
    return (1,)


WORDS = Member(
    "embedding_dropout", "Gal and Ghahramani, NIPS 2016", axes=_word_axes, names=("weight",)
)
CONNECTIONS = Member("drop_connect", "Wan et al., ICML 2013", names=("weight",))


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
        See `dropout`. The mask has shape (vocabulary, 1).

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
        return run(WORDS, table, (p, training, mode, rng, mask, return_mask, out), None)
    words, return_mask = as_indices(indices, len(table)), as_flag(return_mask, "return_mask")
    rows = table[words]
    target = None if out is None else as_out(out)
    _core.check("select", (rows,), target)
    keep, scale = _decide(table.shape, (p, training, mode, rng, mask, return_mask, out))
    rows = _looked_up(keep, scale, table.shape, words, rows, target)
    y = rows if out is None else out
    if not return_mask:
        return y
    if not training:
        return y, make_mask((len(table), 1), 0.0, NO_KEY)
    return y, keep if mask is None else mask


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
    In training, pass either its `Key` as `rng`, or the mask that it returned as `mask`; anything
    else is refused. The rows of a repeated word are summed in float64.

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
    keep, scale = _decide(shape, (p, training, mode, rng, mask, False, None))
    return _summed(keep, scale, shape, words, gradient)


def _as_table(weight: ArrayLike) -> Array:
    table = float_array(weight, "weight")
    _word_axes(table.shape)
    return table


def _decide(shape: tuple[int, ...], request: Request) -> tuple[Any, float]:
    """Return the mask of a look-up in a table of this shape, None in evaluation, and the scale."""
    p, training, mode, rng, mask, *_ = request
    p, training = probability(p), as_flag(training, "training")
    keep: Any
    if mask is None:
        key = draw_key(rng, training and p > 0.0)
        keep = make_mask((shape[0], 1), p if training else 0.0, key)
    else:
        keep, p = as_keep(mask, p, rng)
        check_broadcast(keep.shape, shape)
    if training:
        return keep, scaled(p, mode).scale
    return None, 1.0 - p if mode == "standard" else 1.0


def _looked_up(
    recipe: Any, scale: float, shape: tuple[int, ...], words: Array, rows: Array, out: Array | None
) -> Array:
    """Return the rows of these words; without a mask all are kept."""
    keep = None
    if recipe is not None:
        whole = np.asarray(recipe, dtype=np.bool_)
        keep = np.broadcast_to(whole, (shape[0], *(whole.shape[-1:] or (1,))))[words]
    return select(rows, keep, scale, out)


def _summed(recipe: Any, scale: float, shape: tuple[int, ...], words: Array, dy: Array) -> Array:
    """Return the gradient with respect to the table."""
    gradient_like(dy, (*words.shape, shape[1]), "the rows")
    total = np.zeros(shape, np.complex128 if dy.dtype.kind == "c" else np.float64)
    with np.errstate(all="ignore"):
        np.add.at(total, words, _looked_up(recipe, scale, shape, words, dy, None))
        return total.astype(dy.dtype)


class _OfWeights(Dropout):
    """A layer whose input is weights."""

    _member, _of_weights = CONNECTIONS, True

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

    _member = WORDS

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
            request = self._p, train, self.mode, key, None, False, None
            keep, scale = _decide(table.shape, request)
            y = _looked_up(keep, scale, table.shape, words, table[words], None)
        self._keep(Plan(keep, partial(_summed, keep, scale, table.shape, words)))
        return y


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
    array = float_array(weight, "weight")
    return run(CONNECTIONS, array, (p, training, mode, rng, mask, return_mask, out))


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
        Weights such as the hidden-to-hidden matrices of an LSTM's gates. `drop_connect` drops array
        number i with the key ``key.fold_in(i)``.
    p, training, mode, rng, return_mask
        See `dropout`.
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
        run(CONNECTIONS, array, (p, training, mode, key, one, True, None))
        for array, (key, one) in zip(arrays, sources, strict=True)
    ]
    dropped, drawn = [y for y, _ in results], [one for _, one in results]
    return (dropped, drawn) if return_mask else dropped


def _backward(
    plans: list[Any], shapes: list[tuple[int, ...]], gradients: list[Array]
) -> list[Array]:
    """Return the gradients with respect to weights of these shapes."""
    got = [gradient.shape for gradient in gradients]
    if got != shapes:
        raise ValueError(f"gradients must have the shapes of the weights, {shapes}, got {got}")
    return [plan.backward(gradient) for plan, gradient in zip(plans, gradients, strict=True)]


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
            scale = scaled(self._p, self.mode).scale
            with call_key(self._keys) as key:
                results = [
                    _core.forward("select", (array,), None, key.fold_in(n), self._p, (), scale)
                    for n, array in enumerate(arrays)
                ]
        else:
            results = [
                evaluate(CONNECTIONS, (array,), None, self._p, self.mode) for array in arrays
            ]
        plans, shapes = [plan for _, plan in results], [array.shape for array in arrays]
        recipe = [plan.recipe for plan in plans] if train else None
        self._keep(Plan(recipe, partial(_backward, plans, shapes)))
        return [y for y, _ in results]

    def backward(self, gradients: Sequence[ArrayLike]) -> list[Array]:
        """Return the gradients with respect to the weights of the last call."""
        plan, _ = self._last_call()
        several: list[Array] = plan.backward(float_arrays(gradients, "gradients"))
        return several
