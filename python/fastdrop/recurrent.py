"""Zoneout: hidden units that keep their previous value."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._arguments import Array, as_array, probability
from fastdrop._key import RNG
from fastdrop._layer import MaskedLayer, sum_to
from fastdrop._plan import Keep, check_forward_mask, run, select
from fastdrop._recipe import Mask


def zoneout(
    new: ArrayLike,
    previous: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Keep the previous state of some units; in evaluation, take the expectation.

    .. math:: h_i = m_i \, new_i + (1 - m_i) \, previous_i, \qquad m_i \sim Bernoulli(1 - p)

    and :math:`h = (1 - p) \, new + p \, previous` in evaluation.

    Parameters
    ----------
    new : array_like of float or complex
        State that the step has computed, as the input of `dropout`.
    previous : array_like
        The state before it, of the dtype of `new`; it broadcasts to its shape.
    p : float, default 0.5
        Probability to keep the PREVIOUS value of a unit, in [0, 1].
    training, rng, mask, return_mask, out
        As for `dropout`, also what is returned. The mask is True where `new` is taken.

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
    inputs = (as_array(new, "new"), as_array(previous, "previous"))
    return run("switch", inputs, p, training, "standard", (), rng, mask, return_mask, out)


def zoneout_backward(
    dy: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: RNG = None,
    mask: Keep | None = None,
) -> tuple[Array, Array]:
    """Return the gradients of `zoneout` with respect to `new` and `previous`.

    Parameters
    ----------
    dy : array_like of float or complex
        Gradient with respect to the result.
    p, training
        As they were given to `zoneout`.
    rng, mask
        The `Key` that was given to `zoneout`, or the mask that it returned; nothing else.

    Returns
    -------
    tuple of two ndarray
        Of the shape and dtype of `dy`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.zoneout_backward(np.ones(4), 0.5, rng=fd.Key(1))
    (array([0., 1., 0., 0.]), array([1., 0., 1., 1.]))
    """
    check_forward_mask(training, rng, mask)
    inputs = (as_array(dy, "dy"),)
    new = run("select", inputs, p, training, "standard", (), rng, mask, False, None)
    if not training:
        return new, select(inputs[0], None, probability(p))
    return new, run("complement", inputs, p, True, "standard", (), rng, mask, False, None)


class Zoneout(MaskedLayer[Mask]):
    """Keep the previous state of some units in training, as `zoneout` does.

    A call takes ``(new, previous, out=None)``; `backward` returns the gradients of both.

    Parameters
    ----------
    p : float, default 0.5
        Probability to keep the PREVIOUS value of a unit, in [0, 1].
    rng
        As for `Dropout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.Zoneout(0.5, rng=0)
    >>> drop(np.ones(4), np.zeros(4))
    array([1., 0., 1., 0.])
    >>> drop.backward(np.ones(4))
    (array([1., 0., 1., 0.]), array([0., 1., 0., 1.]))
    """

    _operation = "switch"
    mode = "standard"

    def __init__(self, p: float = 0.5, *, rng: RNG = None) -> None:
        super().__init__(p, rng)

    def __call__(
        self,
        new: ArrayLike,
        previous: ArrayLike,
        out: Array | None = None,
        *,
        training: bool | None = None,
    ) -> Array:
        """Return the state to go on with, as `zoneout` does."""
        y = self._run_several((as_array(new, "new"), as_array(previous, "previous")), out, training)
        self._previous = np.shape(previous)
        return y

    def backward(self, dy: ArrayLike) -> tuple[Array, Array]:
        """Return the gradients with respect to `new` and `previous` of the last call."""
        plan, array = self._last_plan(), as_array(dy, "dy")
        return plan.backward(array), sum_to(plan.backward_other(array), self._previous)
