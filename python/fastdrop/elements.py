"""Dropout of single elements, or of whatever shares a decision."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._arguments import (
    INVERTED,
    Array,
    Axes,
    Mode,
    as_array,
    as_axis_numbers,
    as_flag,
    check_mode,
    float_array,
    probability,
)
from fastdrop._key import RNG
from fastdrop._layer import ElementwiseLayer, MaskedLayer
from fastdrop._plan import NO_AXES, Keep, as_shared, run
from fastdrop._recipe import Mask

_ndarray = np.ndarray


@overload
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Axes = (),
    rng: RNG = None,
    mask: Keep | None = None,
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
    broadcast_dims: Axes = (),
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Any]: ...
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    broadcast_dims: Axes = (),
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Drop elements at random, and scale the others so that the expectation stays.

    In training, each element is set to +0.0 with probability `p`:

    .. math:: y_i = \begin{cases} s \, x_i & \text{kept} \\ 0 & \text{dropped} \end{cases}

    with :math:`s = 1 / (1 - p)` in inverted mode and :math:`s = 1` in standard mode. In evaluation
    the result is :math:`x` in inverted mode and :math:`(1 - p) x` in standard mode.

    Parameters
    ----------
    x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
        Input of any shape and memory layout. A tensor of another library is taken without a copy
        where it gives NumPy its memory; the result is a NumPy array in any case.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training : bool, default True
        Whether to drop at all.
    mode : {"inverted", "standard"}, default "inverted"
        When to scale: in training (inverted) or in evaluation (standard, as in the papers).
    broadcast_dims : int or sequence of int, default ()
        Axes along which one decision is shared; negative ones count from the end. For images of
        shape (batch, channels, height, width), (2, 3) drops whole channels.
    rng : Key, or whatever `Key` takes as a seed, optional
        Where the mask comes from. A `Key` is used as it is; an int gives the same mask at every
        call; a Generator is advanced, unless nothing is dropped; None is fresh entropy.
    mask : Mask, another recipe that keeps or drops, or ndarray of bool, optional
        The mask to apply instead of drawing one, True where kept; it must broadcast to the shape of
        `x`. A recipe brings its own p, which then decides the scale; for a boolean array `p` does.
        Not together with `rng` or `broadcast_dims`.
    return_mask : bool, default False
        Whether to return the mask as well.
    out : ndarray, optional
        Array to write into, of the shape and dtype of `x`; `x` itself for in place.

    Returns
    -------
    y : ndarray
        Of the shape, dtype and memory layout of `x`: `out` if it was given, `x` itself if there was
        nothing to do, else a new array.
    mask : Mask, or what was given as `mask`
        What was applied, if `return_mask`. ``dropout(dy, p, mode=mode, mask=mask)`` is the
        gradient.

    See Also
    --------
    Dropout : the layer, with train and eval modes and backward.

    Notes
    -----
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
    arXiv:1207.0580, 2012; Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15, 2014. (Their p is the probability to keep.)

    float16 and bfloat16 are computed in float32 and rounded once. Both parts of a complex number
    share a decision, and are multiplied by the real scale. If an argument is refused, also one that
    the call would not use, no array is changed and no Generator advances.

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
    array = x if type(x) is _ndarray else as_array(x, "x")
    if mode is not INVERTED:
        check_mode(mode)
    shared = () if broadcast_dims is NO_AXES else as_shared(broadcast_dims, array.ndim, mask)
    if training is False and mode == INVERTED and rng is mask is out is None and not return_mask:
        probability(p)
        return float_array(array, "x")  # what `run` does, sooner
    return run("select", (array,), p, training, mode, shared, rng, mask, return_mask, out)


class Dropout(MaskedLayer[Mask], ElementwiseLayer[Mask]):
    """Drop elements at random in training; pass everything through in evaluation.

    A new layer is in training mode. Call number i in training uses the mask of the key
    ``layer.key.fold_in(i)``; calls in evaluation are not counted.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    inplace : bool, default False
        Whether a call overwrites its input.
    mode : {"inverted", "standard"}, default "inverted"
        When to scale: by 1 / (1 - p) in training (inverted), or by 1 - p in evaluation (standard).
    broadcast_dims : int or sequence of int, default ()
        Axes along which one decision is shared; negative ones count from the end.
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Where the layer's key comes from: a `Key` is used as it is, from all else one is drawn now.

    Attributes
    ----------
    p : float
        Probability to drop; can be set between calls.
    inplace, mode, broadcast_dims
        As given.
    training : bool
        Whether the layer is in training mode.
    key : Key
        The layer's key.
    calls : int
        Number of training calls so far.
    mask : Mask or None
        The mask of the last call, for `backward` and for looking at; None before the first call
        and after one in evaluation.

    See Also
    --------
    dropout : the function, with the formula.

    Notes
    -----
    Hinton et al., arXiv:1207.0580, 2012; Srivastava et al., JMLR 15, 2014.

    No mask is stored for `backward`: it is drawn again. Layers with equal keys, such as a copy of
    this one, draw equal masks.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.Dropout(0.5, rng=0)
    >>> x = np.ones((2, 4), dtype=np.float32)
    >>> drop(x)
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> drop.backward(x)
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> drop.eval()(x) is x
    True
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: Mode = "inverted",
        broadcast_dims: Axes = (),
        rng: RNG = None,
    ) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.inplace = as_flag(inplace, "inplace")
        self.mode = mode
        self.broadcast_dims = as_axis_numbers(broadcast_dims, "broadcast_dims")

    def _shared(self, x: Array) -> tuple[int, ...]:
        dims = self.broadcast_dims
        return as_shared(dims, x.ndim) if dims else dims
