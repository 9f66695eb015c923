"""Dropout of single elements, and of whatever shares a decision; the other functions build on it.

No state is kept here; the mask is the only thing to remember.
"""

from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._calls import apply
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import (
    Dims,
    Mode,
    as_dims,
    check_broadcast,
    check_flag,
    check_mode,
    float_array,
    mask_shape,
    probability,
)
from fastdrop.random import RNG, Key, as_key

Array: TypeAlias = NDArray[Any]

NO_KEY = Key.from_bytes(bytes(16))
"""The key of masks that keep everything, for which nothing is drawn."""


def training_scale(p: float, mode: Mode) -> float:
    """Return what kept elements are multiplied by in training."""
    if mode == "standard":
        return 1.0
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)


def evaluation_scale(p: float, mode: Mode) -> float:
    """Return what all elements are multiplied by in evaluation."""
    return 1.0 - p if mode == "standard" else 1.0


def all_dropped(shape: tuple[int, ...]) -> Mask:
    """Return a mask that keeps nothing: a scale of 0 would keep NaN, infinity and signs."""
    return make_mask(shape, 1.0, NO_KEY)


def scaled(x: Array, scale: float, out: Array | None) -> Array:
    """Return ``x * scale`` for all elements: `x` itself for 1, +0.0 for 0; or that in `out`."""
    if scale == 1.0 and (out is None or out is x):
        return x
    if scale == 0.0:
        return apply(all_dropped(x.shape), x, 1.0, out)
    return apply(None, x, scale, out)


@overload
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Dims = (),
    rng: RNG = None,
    mask: Mask | NDArray[np.bool_] | None = None,
    return_mask: Literal[False] = False,
    out: Array | None = None,
) -> Array: ...
@overload
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Dims = (),
    rng: RNG = None,
    mask: Mask | None = None,
    return_mask: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Mask]: ...
@overload
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Dims = (),
    rng: RNG = None,
    mask: NDArray[np.bool_],
    return_mask: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Mask | NDArray[np.bool_]]: ...
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Dims = (),
    rng: RNG = None,
    mask: Mask | NDArray[np.bool_] | None = None,
    return_mask: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, Mask | NDArray[np.bool_]]:
    r"""Drop elements at random, and scale the others so that the expectation stays.

    In training, each element is set to +0.0 with probability `p`:

    .. math:: y_i = \begin{cases} s \, x_i & \text{kept} \\ 0 & \text{dropped} \end{cases}

    with :math:`s = 1 / (1 - p)` in inverted mode and :math:`s = 1` in standard mode. In evaluation
    the result is :math:`x` in inverted mode and :math:`(1 - p) x` in standard mode.

    Parameters
    ----------
    x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
        Input of any shape and memory layout.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training : bool, default True
        Whether to drop at all.
    mode : {"inverted", "standard"}, default "inverted"
        When to scale: in training (inverted) or in evaluation (standard, as in the papers).
    broadcast_dims : int or sequence of int, default ()
        Axes along which one decision is shared; negative ones count from the end. For images of
        shape (batch, channels, height, width), (2, 3) drops whole channels.
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Where the mask comes from. A `Key` is used as it is; an int gives the same mask at every
        call; a Generator is advanced, unless p is 0; None is fresh entropy.
    mask : Mask or ndarray of bool, optional
        The mask to apply instead of drawing one, True where kept; it must broadcast to the shape of
        `x`. A `Mask` brings its own p, which then decides the scale; for a boolean array `p` does.
        Not together with `rng` or `broadcast_dims`.
    return_mask : bool, default False
        Whether to return the mask as well.
    out : ndarray, optional
        Array to write into, of the shape and dtype of `x`; `x` itself for in place.

    Returns
    -------
    y : ndarray
        Of the shape, dtype and memory layout of `x`: `out` if it was given, `x` itself if nothing
        was to do, else a new array.
    mask : Mask or ndarray of bool
        What was applied, if `return_mask`. ``dropout(dy, p, mode=mode, mask=mask)`` is the
        gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range. No array is changed then.

    See Also
    --------
    Dropout : the layer, with train and eval modes and backward.

    Notes
    -----
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
    arXiv:1207.0580, 2012; Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15, 2014. (Their p is the probability to keep.)

    float16 and bfloat16 are computed in float32 and rounded once. Both parts of a complex number
    share a decision, and are multiplied by the real scale.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> x = np.ones((2, 6), dtype=np.float32)
    >>> y, mask = fd.dropout(x, 0.5, rng=3, return_mask=True)
    >>> y
    array([[0., 2., 0., 2., 2., 2.],
           [0., 2., 2., 0., 0., 0.]], dtype=float32)
    >>> np.array_equal(mask.apply(x), y)
    True
    >>> fd.dropout(x, 0.5, training=False) is x
    True
    """
    p = probability(p)
    if mode != "inverted":
        check_mode(mode)
    array = float_array(x, "x")
    if training is not True:
        check_flag(training, "training")
    if isinstance(mask, Mask):
        check_broadcast(mask.shape, array.shape)
        p = mask.p
    if not training:
        y = scaled(array, evaluation_scale(p, mode), out)
        return (y, make_mask(array.shape, 0.0, NO_KEY)) if return_mask else y
    if mask is None:
        shape = mask_shape(array.shape, broadcast_dims)
        if not isinstance(rng, Key):
            rng = as_key(rng) if p else NO_KEY
        mask = make_mask(shape, p, rng)
    elif rng is not None or as_dims(broadcast_dims):
        raise ValueError("mask must not be given together with rng or broadcast_dims")
    elif p == 1.0 and isinstance(mask, np.ndarray):
        mask = np.zeros_like(mask)
    scale = training_scale(p, mode)
    if p == 0.0 and isinstance(mask, Mask):
        y = scaled(array, scale, out)
    else:
        y = apply(mask, array, scale, out)
    return (y, mask) if return_mask else y
