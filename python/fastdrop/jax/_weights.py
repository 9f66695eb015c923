"""Dropout of weights: words of a table, connections, recurrent weights. All are linear."""

from collections.abc import Sequence
from typing import Any, Never, Unpack

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

import fastdrop as fd
from fastdrop._base.arguments import refuse
from fastdrop._family.weights import CONNECTIONS, WORDS
from fastdrop.jax._arguments import as_key
from fastdrop.jax._call import Call, as_elements, decide, drop, request_of


def embedding_dropout(
    weight: Any, p: Any = 0.5, *, indices: Any = None, **call: Unpack[Call]
) -> Array:
    """Drop whole words: rows of an embedding table.

    See Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016, section 4.2.

    Parameters
    ----------
    weight : array of float or complex, shape (vocabulary, dimension)
        The table, of any dtype of `dropout`.
    p : float or array of float, default 0.5
        Probability to DROP a word, in [0, 1].
    indices : array of int, optional
        Words to look up, as ``weight[indices]`` would. All occurrences of a word share its
        decision, which is the same as in the whole table.
    key, deterministic, whole, start
        See `dropout`.

    Returns
    -------
    Array, shape (vocabulary, dimension), or indices.shape + (dimension,)
        The table to look words up in, or the rows of `indices`.

    Examples
    --------
    >>> fastdrop.jax.embedding_dropout(jax.numpy.ones((4, 2)), 0.5, key=fd.Key(1))
    Array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    >>> words = jax.numpy.array([1, 0])
    >>> fastdrop.jax.embedding_dropout(jax.numpy.ones((4, 2)), 0.5, indices=words, key=fd.Key(1))
    Array([[2., 2.],
           [0., 0.]], dtype=float32)
    """
    request = request_of(embedding_dropout, p, call)
    if indices is None:
        return drop(WORDS, weight, request)
    table = as_elements(weight, "weight")
    draw = decide(request, table.shape, WORDS.axes(table.shape, None), "weight")
    words = jnp.asarray(indices)
    if not jnp.issubdtype(words.dtype, jnp.integer):
        raise TypeError(f"indices must be integers, got {words.dtype}")
    rows = table[words]
    if draw.keeps is not None:
        looked_up: Array = draw(rows)
        return looked_up
    real = jnp.promote_types(rows.real.dtype, np.float32)
    scale = draw(jnp.ones(draw.drawn, real))[words]
    return jnp.where(scale != 0, rows * scale, 0).astype(rows.dtype)


def drop_connect(weight: Any, p: Any = 0.5, **call: Unpack[Call]) -> Array:
    """Drop connections: single weights, with one mask for all examples of a call.

    See Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. `weight` has
    any shape; all else is as for `dropout`.

    >>> fastdrop.jax.drop_connect(jax.numpy.ones((2, 3)), 0.5, key=fd.Key(1))
    Array([[0., 2., 0.],
           [0., 0., 2.]], dtype=float32)
    """
    return drop(CONNECTIONS, weight, request_of(drop_connect, p, call))


def weight_drop(
    weights: Sequence[Any],
    p: Any = 0.5,
    *,
    key: Any = None,
    deterministic: bool = False,
    **unknown: Never,
) -> list[Array]:
    """Drop connections of several recurrent weights, once for all time steps of a sequence.

    See Merity et al., "Regularizing and optimizing LSTM language models", ICLR 2018. Array number
    i is dropped by `drop_connect` with the key ``key.fold_in(i)``, or ``jax.random.fold_in(key,
    i)``, which are the same. Other parameters are as for `dropout`.

    >>> forget, update = fastdrop.jax.weight_drop([jax.numpy.ones((2, 2))] * 2, 0.5, key=fd.Key(1))
    >>> update
    Array([[0., 0.],
           [2., 0.]], dtype=float32)
    """
    if unknown:
        refuse(unknown, weight_drop)
    if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of arrays, got {type(weights).__name__}")
    as_key(key)
    return [
        drop_connect(weight, p, key=_child(key, number), deterministic=deterministic)
        for number, weight in enumerate(weights)
    ]


def _child(key: Any, number: int) -> Any:
    """Return a child of a key of any kind."""
    if key is None or isinstance(key, fd.Key):
        return key and key.fold_in(number)
    return jax.random.fold_in(key, number)
