"""Concrete dropout, whose probability can be learned."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import as_number
from fastdrop._family.concrete import CONCRETE, as_temperature
from fastdrop.jax._call import Draw, applied, as_elements, decide


def concrete_dropout(
    x: Any,
    logit: Any,
    *,
    temperature: float = 0.1,
    key: Any = None,
    deterministic: bool = False,
    whole: Sequence[int] | None = None,
    start: Any = None,
) -> Array:
    r"""Drop elements at random in a relaxed way, so that the probability to drop has a gradient.

    .. math:: y_i = x_i \frac{1 - z_i}{1 - p}, \qquad
              z_i = \sigma\left(\frac{l + \log u_i - \log(1 - u_i)}{t}\right), \qquad
              p = \sigma(l)

    See Gal, Hron and Kendall, "Concrete dropout", NIPS 2017. The mask is that of NumPy's function,
    also for its gradients with respect to `logit`, of which there are two.

    Parameters
    ----------
    x : array of float or complex
        Input of any dtype of `dropout`.
    logit : float or array of float
        log(p / (1 - p)) of the probability p to DROP; minus infinity for 0, infinity for 1. An
        array has shape (), may be traced, and has a gradient.
    temperature : float, default 0.1
        How relaxed the decisions are, in (0, 1].
    key, deterministic, whole, start
        See `dropout`. Returns the same.

    Examples
    --------
    >>> x, key = jax.numpy.ones(4), fastdrop.jax.key(0)
    >>> loss = lambda logit: (fastdrop.jax.concrete_dropout(x, logit, key=key) ** 2).sum()
    >>> bool(jax.grad(loss)(0.5) != 0.0)
    True
    """
    x = as_elements(x, CONCRETE.names[0])
    temperature = as_temperature(temperature)
    number = None if isinstance(logit, Array) else as_number(logit, "logit")
    if number is None and (logit.shape != () or not jnp.issubdtype(logit.dtype, jnp.floating)):
        raise TypeError(f"logit must be a number or an array of shape () of float, got {logit}")
    limits = {-np.inf: 0.0, np.inf: 1.0}
    p = 0.5 if number is None else limits.get(number, 0.5)
    draw = decide((p, key, deterministic, whole, start), x.shape)
    if draw.keeps is not None:
        y: Array = draw(x)
        return y
    if number is None:
        logit = logit if logit.dtype == jnp.float64 else logit.astype(np.float32)
    if jnp.iscomplexobj(x):
        parts = [_relaxed(draw, part, logit, number, temperature) for part in (x.real, x.imag)]
        return jax.lax.complex(*parts)
    return _relaxed(draw, x, logit, number, temperature)


def _relaxed(draw: Draw, x: Array, logit: Any, number: float | None, temperature: float) -> Array:
    words, key, lengths, start = draw.operands
    y: Array = applied(
        x,
        words,
        key,
        lengths,
        logit if number is None else None,
        start,
        p=number,
        whole=draw.whole,
        operation="relaxed",
        temperature=temperature,
    )
    return y
