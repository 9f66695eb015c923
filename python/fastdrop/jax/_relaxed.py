"""Concrete dropout, whose probability can be learned."""

import functools
from typing import Any, Never, SupportsIndex, Unpack

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from fastdrop._base.arguments import as_count, as_number, refuse
from fastdrop._family.concrete import CONCRETE, MOST_ODDS, as_temperature
from fastdrop.jax._arguments import as_scalar
from fastdrop.jax._call import Call, applied, as_elements, decide, multiplied, request_of


def concrete_dropout(
    x: Any, logit: Any, *, temperature: float = 0.1, **call: Unpack[Call]
) -> Array:
    r"""Drop elements at random in a relaxed way, so that the probability to drop has a gradient.

    .. math:: y_i = x_i \frac{1 - z_i}{1 - p}, \qquad
              z_i = \sigma\left(\frac{l + \log u_i - \log(1 - u_i)}{t}\right), \qquad
              p = \sigma(l)

    See Gal, Hron and Kendall, "Concrete dropout", NIPS 2017. The mask is that of NumPy's function,
    also for its gradients with respect to `logit`.

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
    logit, number = _as_logit(logit)
    limits = {-np.inf: 0.0, np.inf: 1.0}
    p = 0.5 if number is None else limits.get(number, 0.5)
    draw = decide(request_of(concrete_dropout, p, call), x.shape)
    if draw.keeps is not None:
        return jnp.asarray(draw(x))
    if number is None:
        wide = jnp.promote_types(x.real.dtype, np.float32)
        return multiplied(
            x, _factors((x.shape, wide, draw.whole, temperature), logit, draw.operands)
        )
    relaxed = functools.partial(_relaxed, draw.operands, None, number, draw.whole, temperature)
    parts = [relaxed(x.real), relaxed(x.imag)] if jnp.iscomplexobj(x) else [relaxed(x)]
    return parts[0] if len(parts) == 1 else jax.lax.complex(*parts)


def _relaxed(
    operands: Any, logit: Any, number: float | None, whole: Any, temperature: float, x: Array
) -> Any:
    words, key, lengths, start = operands
    return applied(
        x, words, key, lengths, logit, start, p=number, whole=whole, operation="relaxed",
        temperature=temperature,
    )  # fmt: skip


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _factors(options: Any, logit: Any, operands: Any) -> Any:
    """Return the factors k = (1 - z) / (1 - p), with derivatives with respect to the logit."""
    shape, dtype, whole, temperature = options
    return _relaxed(operands, logit, None, whole, temperature, jnp.ones(shape, dtype))


@_factors.defjvp
def _(options: Any, primals: Any, tangents: Any) -> Any:
    """Return dk = k (p - z / t); z is read from k, which costs no second draw."""
    (logit, _), (change, _) = primals, tangents
    k = _factors(options, *primals)
    p, kept = (jax.nn.sigmoid(x).astype(k.dtype) for x in (logit, -logit))
    z = 1 - k * kept
    z = jnp.where(z < 4 * jnp.finfo(k.dtype).eps, 0, z)  # only rounding
    return k, k * (p - z / options[3]) * change.astype(k.dtype)


def concrete_regularization(
    weight: Any,
    logit: Any,
    inputs: SupportsIndex,
    *,
    weight_regularizer: float = 1e-6,
    dropout_regularizer: float = 1e-5,
    **unknown: Never,
) -> Array:
    r"""Return a layer's loss term, without which concrete dropout could learn to drop nothing.

    .. math:: R = \frac{w}{1 - p} \sum W^2 + d \, K (p \log p + (1 - p) \log(1 - p))

    All arguments are as for `fastdrop.concrete_regularization`; `logit` may also be an array, as
    for `concrete_dropout`. The result, of shape (), has gradients with respect to `weight` and
    `logit`.

    >>> loss = jax.grad(fastdrop.jax.concrete_regularization)
    >>> loss(jax.numpy.ones((2, 3)), 0.0, 3)[0, 0].round(9)
    Array(4.e-06, dtype=float32)
    """
    if unknown:
        refuse(unknown, concrete_regularization)
    array = as_elements(weight, "weight")
    given, number = _as_logit(logit)
    count = as_number(as_count(inputs, "inputs"), "inputs", 0.0)
    w = as_number(weight_regularizer, "weight_regularizer", 0.0)
    d = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
    wide = jnp.promote_types(array.real.dtype, np.float32)
    a = jnp.asarray(number, wide) if given is None else given.astype(wide)
    finite = jnp.clip(a, -jnp.finfo(wide).max, jnp.finfo(wide).max)
    # Limited in value, but not in its gradient.
    most = MOST_ODDS + (finite - jax.lax.stop_gradient(finite))
    odds = jnp.exp(jnp.where(finite > MOST_ODDS, most, finite))
    p, kept = jax.nn.sigmoid(finite), jax.nn.sigmoid(-finite)
    entropy = p * jax.nn.log_sigmoid(finite) + kept * jax.nn.log_sigmoid(-finite)
    squares = sum((part.astype(wide) ** 2).sum() for part in (array.real, array.imag))
    loss: Array = w * squares * (1.0 + odds) + d * count * entropy
    return loss


def _as_logit(logit: Any) -> tuple[Array | None, float | None]:
    """Return a logit as an array that may be traced, or else as a number."""
    if not isinstance(logit, Array):
        return None, as_number(logit, "logit")
    return as_scalar(logit, "logit"), None
