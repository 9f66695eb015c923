"""Dropout of weights: words of a table, connections, recurrent weights.

Each function is linear in the weights: the gradient is the same function of the output's gradient,
with the same key.
"""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from fastdrop._validate import Mode, as_arrays, check_flag, check_mode, float_array, probability
from fastdrop.functional.core import NO_KEY, Array, dropout
from fastdrop.random import RNG, Key, as_key


def embedding_dropout(
    weight: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop whole words: rows of an embedding table.

    .. math:: y_{v d} = m_v \, w_{v d} / (1 - p), \qquad m_v \sim Bernoulli(1 - p)

    Parameters
    ----------
    weight : array_like of float or complex, shape (vocabulary, dimension)
        The table, of any of the dtypes of `dropout`, in any memory layout.
    p : float, default 0.5
        Probability to DROP a word, in [0, 1].
    training, mode, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray, shape (vocabulary, dimension)
        The table to look words up in, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        If `weight` has another number of axes, or as for `dropout`.

    Notes
    -----
    Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural
    networks", NIPS 2016, section 4.2.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.embedding_dropout(np.ones((4, 2), dtype=np.float32), 0.5, rng=1)
    array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    """
    table = float_array(weight, "weight")
    if table.ndim != 2:
        raise ValueError(
            f"weight must have 2 axes, (vocabulary, dimension), got shape {table.shape}"
        )
    return dropout(table, p, training=training, mode=mode, broadcast_dims=(1,), rng=rng, out=out)


def drop_connect(
    weight: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Drop connections: single weights, one mask for all examples of a call.

    .. math:: W'_{o i} = m_{o i} \, W_{o i} / (1 - p), \qquad m_{o i} \sim Bernoulli(1 - p)

    Parameters
    ----------
    weight : array_like of float or complex
        Weights of any shape, of any of the dtypes of `dropout`.
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    training, mode, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        The weights to use in this call, as for `dropout`.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    See Also
    --------
    DropConnectLinear : a mask for each example.

    Notes
    -----
    Wan et al., "Regularization of neural networks using DropConnect", ICML 2013.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.drop_connect(np.ones((2, 3), dtype=np.float32), 0.5, rng=1)
    array([[0., 2., 0.],
           [0., 0., 2.]], dtype=float32)
    """
    array = float_array(weight, "weight")
    return dropout(array, p, training=training, mode=mode, rng=rng, out=out)


def weight_drop(
    weights: Sequence[ArrayLike],
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
) -> list[Array]:
    """Drop connections of several recurrent weights, once for all time steps of a sequence.

    Each array is dropped as by `drop_connect`; array number i with ``key.fold_in(i)``.

    Parameters
    ----------
    weights : sequence of array_like
        Such as the hidden-to-hidden matrices of the gates of an LSTM.
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    training, mode, rng
        As for `dropout`.

    Returns
    -------
    list of ndarray
        The weights to use for one sequence, forward and backward.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    Notes
    -----
    Merity et al., "Regularizing and optimizing LSTM language models", ICLR 2018.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> forget, update = fd.weight_drop([np.ones((2, 2)), np.ones((2, 2))], 0.5, rng=1)
    >>> update
    array([[0., 0.],
           [2., 0.]])
    """
    p = probability(p)
    check_flag(training, "training")
    check_mode(mode)
    arrays = as_arrays(weights, "weights")
    key = as_key(rng) if (p and training) or isinstance(rng, Key) else NO_KEY
    return [
        dropout(array, p, training=training, mode=mode, rng=key.fold_in(number))
        for number, array in enumerate(arrays)
    ]
