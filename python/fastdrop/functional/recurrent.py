"""Zoneout: hidden units that keep their previous value."""

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._calls import apply, fused
from fastdrop._mask import Mask, make_mask
from fastdrop._validate import check_flag, float_array, probability
from fastdrop.functional.core import NO_KEY, Array, all_dropped, scaled
from fastdrop.random import RNG, as_key


def zoneout(
    new: ArrayLike,
    previous: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: RNG = None,
    out: Array | None = None,
) -> Array:
    r"""Keep the previous state of some units; in evaluation, take the expectation.

    .. math:: h_i = m_i \, new_i + (1 - m_i) \, previous_i, \qquad m_i \sim Bernoulli(1 - p)

    and :math:`h = (1 - p) \, new + p \, previous` in evaluation.

    Parameters
    ----------
    new : array_like of float or complex
        The state that the step has computed, of any shape and any of the dtypes of `dropout`.
    previous : array_like
        The state before it, of the dtype of `new`; it broadcasts to its shape.
    p : float, default 0.5
        Probability to keep the PREVIOUS value of a unit, in [0, 1].
    training, rng, out
        As for `dropout`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `new`; `new` itself for p = 0.

    Raises
    ------
    TypeError, ValueError
        If the two do not go together, or as for `dropout`.

    Notes
    -----
    Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR
    2017.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.zoneout(np.ones(6), np.zeros(6), 0.5, rng=1)
    array([0., 1., 0., 0., 0., 1.])
    >>> fd.zoneout(np.ones(6), np.zeros(6), 0.25, training=False)
    array([0.75, 0.75, 0.75, 0.75, 0.75, 0.75])
    """
    p = probability(p)
    check_flag(training, "training")
    array = float_array(new, "new")
    mask = None
    if training:
        mask = make_mask(array.shape, p, as_key(rng) if p else NO_KEY)
    return switched(array, previous, p, mask, out)


def switched(
    new: Array, previous: ArrayLike, p: float, mask: Mask | None, out: Array | None
) -> Array:
    """Take new elements where the mask keeps and previous ones elsewhere; mix them without one."""
    inputs = [("new", new), ("previous", previous)]
    if mask is None and 0.0 < p < 1.0:
        return fused("mix", None, inputs, 1.0 - p, p, 0.0, out)
    if mask is None and p == 1.0:
        mask = all_dropped(new.shape)
    y = fused("switch", mask, inputs, out=out)
    return new if p == 0.0 and out is None else y


def zoneout_backward(
    dy: ArrayLike, p: float = 0.5, *, training: bool = True, rng: RNG = None
) -> tuple[Array, Array]:
    """Return the gradients of `zoneout` with respect to `new` and `previous`.

    Parameters
    ----------
    dy : array_like of float or complex
        Gradient with respect to the result.
    p, training
        As they were.
    rng : Key
        As it was: a `Key`, so that the decisions are the same.

    Returns
    -------
    tuple of two ndarray
        Of the shape and dtype of `dy`.

    Raises
    ------
    TypeError, ValueError
        As for `zoneout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.zoneout_backward(np.ones(4), 0.5, rng=fd.Key(1))
    (array([0., 1., 0., 0.]), array([1., 0., 1., 1.]))
    """
    p = probability(p)
    check_flag(training, "training")
    array = float_array(dy, "dy")
    mask = make_mask(array.shape, p, as_key(rng) if p else NO_KEY) if training else None
    return unswitched(array, p, mask)


def unswitched(dy: Array, p: float, mask: Mask | None) -> tuple[Array, Array]:
    """Return the gradients of `switched`."""
    if mask is None:
        return scaled(dy, 1.0 - p, None), scaled(dy, p, None)
    zeros = np.broadcast_to(np.zeros((), dtype=dy.dtype), dy.shape)
    previous = fused(
        "switch", mask, [("zeros", zeros), ("dy", dy)], out=np.empty_like(dy, subok=False)
    )
    return apply(mask, dy, 1.0, None), previous
