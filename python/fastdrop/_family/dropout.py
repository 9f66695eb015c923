"""Dropout of single elements, or of groups of elements along chosen axes.

Members that choose these axes themselves (channels, time steps, paths) are in `shared`.
"""

from typing import Any, Never

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._base.arguments import (
    INVERTED,
    Array,
    Axes,
    Mode,
    check_mode,
    float_array,
    probability,
    refuse,
)
from fastdrop._base.keys import RNG
from fastdrop._base.layers import ElementwiseLayer
from fastdrop._base.masks import Mask
from fastdrop._base.members import NO_AXES, Member, broadcast_axes
from fastdrop._base.plans import Keep, run
from fastdrop._core import works_on

DROPOUT = Member(
    "dropout", "Srivastava et al., JMLR 2014", options=("broadcast_dims",), axes=broadcast_axes
)

_ndarray = np.ndarray


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
    **unknown: Never,
) -> Any:
    r"""Drop elements at random, and scale the others so that the expectation is unchanged.

    In training, each element is set to +0.0 with probability `p`:

    .. math:: y_i = \begin{cases} s \, x_i & \text{kept} \\ 0 & \text{dropped} \end{cases}

    with :math:`s = 1 / (1 - p)` in inverted mode and :math:`s = 1` in standard mode. In evaluation
    the result is :math:`x` in inverted mode and :math:`(1 - p) x` in standard mode.

    Parameters
    ----------
    x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
        Input of any shape and memory layout. A tensor of another library is read without a copy
        if it shares its memory with NumPy; the result is always a NumPy array.
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    training : bool, default True
        Whether to drop at all.
    mode : {"inverted", "standard"}, default "inverted"
        When to scale: in training (inverted) or in evaluation (standard, as in the papers).
    broadcast_dims : int or sequence of int, default ()
        Axes along which elements share a decision; negative ones count from the end. For images of
        shape (batch, channels, height, width), (2, 3) drops whole channels.
    rng : Key, or whatever `Key` takes as a seed, optional
        Source of the mask. A `Key` is used as it is; an int gives the same mask at every call; a
        Generator is advanced, unless nothing is dropped; None is fresh entropy.
    mask : Mask, another recipe that keeps or drops, or ndarray of bool, optional
        Mask to apply instead of drawing one, True where kept; it must broadcast to the shape of
        `x`. A recipe has its own p, which replaces `p`; for a boolean array `p` sets the scale.
        Excludes `rng` and `broadcast_dims`.
    return_mask : bool, default False
        Whether to return the mask as well.
    out : ndarray, optional
        Array to write into, of the shape and dtype of `x`; may be `x` itself.

    Returns
    -------
    y : ndarray
        Result with the shape, dtype and memory layout of `x`: `out` if given, `x` itself if there
        was nothing to do, else a new array.
    mask : Mask, or the given mask
        If `return_mask`: the mask that was applied; in evaluation one that keeps everything. The
        gradient is ``dropout(dy, p, training=training, mode=mode, mask=mask)``.

    Notes
    -----
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
    arXiv:1207.0580, 2012; Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15, 2014. (Their p is the probability to keep.)

    float16 and bfloat16 are computed in float32 and rounded once. The two parts of a complex number
    share a decision. All arguments are checked, used or not, before an array is written or a
    Generator is advanced.

    Examples
    --------
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
    if unknown:
        refuse(unknown, dropout)
    if training is return_mask is False and mode is INVERTED and rng is mask is out is None:
        probability(p)  # as `run` would, but in a third of the time
        array = x if type(x) is _ndarray and works_on(x) else float_array(x, "x")
        if broadcast_dims is not NO_AXES:
            broadcast_axes(array.shape, broadcast_dims)
        return array
    return run(DROPOUT, x, (p, training, mode, rng, mask, return_mask, out), broadcast_dims)


class Dropout(ElementwiseLayer[Mask]):
    """Drop elements at random in training; the layer of `dropout`.

    `Layer` describes the attributes and methods. The layer does not store masks: `backward` draws
    the last one again. Layers with equal keys, such as a copy of this one, draw equal masks.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP an element, in [0, 1].
    inplace : bool, default False
        Whether a call overwrites its input.
    mode, broadcast_dims
        See `dropout`.
    rng : Key, or whatever `Key` takes as a seed, optional
        Source of the layer's key: a `Key` is used as it is; otherwise the layer draws one now.

    Examples
    --------
    >>> drop = fd.Dropout(0.5, rng=0)
    >>> x = np.ones((2, 4), dtype=np.float32)
    >>> drop(x)
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    >>> np.array_equal(drop.backward(x), drop.mask.apply(x))
    True
    """

    _member = DROPOUT

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
        self.inplace, self.mode, self.broadcast_dims = inplace, mode, broadcast_dims
        super().__init__(p, rng)
