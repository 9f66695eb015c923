"""Zoneout: hidden units keep their previous value.

Dropout that is shared along time is in `shared`.
"""

from typing import Any, Never

from numpy.typing import ArrayLike

from fastdrop._base.arguments import Array, as_array, probability, refuse
from fastdrop._base.gradients import gradient_of, sum_to
from fastdrop._base.keys import RNG
from fastdrop._base.layers import Layer
from fastdrop._base.masks import Mask
from fastdrop._base.members import Member
from fastdrop._base.plans import Keep, check_forward_mask, run, select

ZONEOUT = Member("zoneout", "Krueger et al., ICLR 2017", operation="switch", expectation="mix")
_TAKEN = Member("zoneout_backward", ZONEOUT.paper, names=("dy",))
_LEFT = Member("zoneout_backward", ZONEOUT.paper, operation="complement")
"""Records of the gradients with respect to the new state and to the previous one."""


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
    **unknown: Never,
) -> Any:
    r"""Keep the previous state of some units in training; in evaluation, take the expectation.

    .. math:: h_i = m_i \, new_i + (1 - m_i) \, previous_i, \qquad m_i \sim Bernoulli(1 - p)

    and :math:`h = (1 - p) \, new + p \, previous` in evaluation. See Krueger et al., "Zoneout:
    regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    Parameters
    ----------
    new : array_like of float or complex
        State that the step computed, of any shape and any dtype of `dropout`.
    previous : array_like
        State before the step; it broadcasts to the shape of `new`. Dtypes are promoted as in
        `dropout_add`.
    p : float, default 0.5
        Probability to keep the PREVIOUS value of a unit, in [0, 1].
    training, rng, mask, return_mask, out
        See `dropout`. The mask is True where the unit takes its new value.

    Returns
    -------
    ndarray
        Next state, of the shape of `new`; `new` itself for p = 0 if it has the result's dtype.

    Examples
    --------
    >>> fd.zoneout(np.ones(6), np.zeros(6), 0.5, rng=1)
    array([0., 1., 0., 0., 0., 1.])
    >>> fd.zoneout(np.ones(4), np.zeros(4), 0.25, training=False)
    array([0.75, 0.75, 0.75, 0.75])
    """
    if unknown:
        refuse(unknown, zoneout)
    return run(ZONEOUT, (new, previous), (p, training, "standard", rng, mask, return_mask, out))


def zoneout_backward(
    dy: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: RNG = None,
    mask: Keep | None = None,
    **unknown: Never,
) -> tuple[Array, Array]:
    """Return the gradients of `zoneout` with respect to `new` and `previous`.

    `dy` is the gradient with respect to the result; `p` and `training` are as in the forward call.
    In training, pass either its `Key` as `rng`, or the mask that it returned as `mask`; anything
    else is refused. Both gradients have the shape and dtype of `dy`; if `previous` was broadcast,
    sum its gradient to its shape.

    >>> fd.zoneout_backward(np.ones(4), 0.5, rng=fd.Key(1))
    (array([0., 1., 0., 0.]), array([1., 0., 1., 1.]))
    """
    if unknown:
        refuse(unknown, zoneout_backward)
    check_forward_mask(training, rng, mask)
    request = p, training, "standard", rng, mask, False, None
    array = as_array(dy, "dy")
    new = run(_TAKEN, array, request)
    if not training:
        return new, select(array, None, probability(p))
    return new, run(_LEFT, array, request)


class Zoneout(Layer[Mask]):
    """Keep the previous state of some units in training; the layer of `zoneout`.

    A call takes ``(new, previous, out=None)``; `backward` returns the gradients of both, each in
    the shape of its input. ``p`` is as for `zoneout`, ``rng`` as for `Dropout`.

    >>> drop = fd.Zoneout(0.5, rng=0)
    >>> drop(np.ones(4), np.zeros(4))
    array([1., 0., 1., 0.])
    >>> drop.backward(np.ones(4))
    (array([1., 0., 1., 0.]), array([0., 1., 0., 1.]))
    """

    _member = ZONEOUT
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
        **unknown: Never,
    ) -> Array:
        """Return the next state, as `zoneout` does."""
        if unknown:
            refuse(unknown, self.__call__)
        return self._combine((new, previous), out, training)

    def backward(self, dy: ArrayLike) -> tuple[Array, Array]:
        """Return the gradients with respect to both inputs of the last call, in their dtypes."""
        array = as_array(dy, "dy")
        plan, (new, previous) = self._last_call()
        return gradient_of(new, plan.backward, array), sum_to(previous, plan.backward_other(array))
