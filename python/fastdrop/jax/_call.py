"""Calls of all members: their checks, and what they draw with."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from fastdrop import _core
from fastdrop._base.arguments import DTYPES, as_flag, refuse
from fastdrop._base.masks import inverse_keep
from fastdrop._base.members import NO_AXES, OPERATIONS, Member, drawn_shape
from fastdrop.jax._arguments import as_key, as_place, as_rate, drawn_words, known_at_last
from fastdrop.jax._primitive import apply, varying


class Call(TypedDict, total=False):
    """Keywords that all functions share."""

    key: Any
    deterministic: bool
    whole: Sequence[int] | None
    start: Any


class Request(NamedTuple):
    """What all functions are called with."""

    p: Any
    key: Any = None
    deterministic: bool = False
    whole: Sequence[int] | None = None
    start: Any = None


def request_of(function: Callable[..., Any], p: Any, call: Call) -> Request:
    """Return the request of a call, and refuse other keywords."""
    known = Call.__annotations__
    if any(name not in known for name in call):
        refuse([name for name in call if name not in known], function, tuple(known))
    return Request(p, **call)


class Draw(NamedTuple):
    """The decisions of a call, which is linear in the elements."""

    keeps: bool | None
    """Whether all elements are kept, or none; None if that is drawn."""
    rate: Any
    """p, if it is an array."""
    p: float | None
    """p, if it is a number."""
    operands: tuple[Any, ...] = ()
    """Words, key, lengths and start."""
    whole: tuple[int, ...] = ()
    drawn: tuple[int, ...] = ()
    """Shape of the decisions."""
    shares: bool = False
    """Whether elements share decisions."""

    def __call__(self, x: Any, operation: str = "scale") -> Any:
        """Return `x` with the elements that are dropped, or kept by "complement", set to 0."""
        if self.keeps is not None:
            return x if self.keeps is (operation != "complement") else jnp.zeros_like(x)
        words, key, lengths, start = self.operands
        return applied(
            x, words, key, lengths, self.rate, start, p=self.p, whole=self.whole,
            operation=operation, drawn=self.drawn if self.shares else None,
        )  # fmt: skip

    @property
    def scale(self) -> Any:
        """The factor of kept elements; 0 if none is kept."""
        if self.keeps is not None:
            return float(self.keeps)
        if self.p is not None:
            return inverse_keep(self.p)
        return jnp.where(self.rate == 1, 0, 1 / (1 - jnp.where(self.rate == 1, 0, self.rate)))


def decide(
    request: Request, shape: tuple[Any, ...], axes: Sequence[int] = NO_AXES, name: str = "x"
) -> Draw:
    """Check the arguments of a call, and return what it draws for an array of this shape."""
    p, key, deterministic, whole, start = request
    rate, fixed = as_rate(p)
    shape, start = as_place(whole, start, place := shape, name)
    words, key = as_key(key)
    drawn = drawn_shape(place, tuple(axes))
    if as_flag(deterministic, "deterministic") or fixed == 0.0:
        return Draw(True, rate, fixed, drawn=drawn)
    if fixed == 1.0:
        return Draw(False, rate, fixed, drawn=drawn)
    if words is None and key is None:
        raise TypeError("key must be a fastdrop.Key or a JAX key, got None")
    known, lengths = known_at_last(drawn_shape(shape, tuple(axes)))
    if start is not None and axes:
        start = jnp.where(np.isin(np.arange(len(place)), axes), 0, start)
    return Draw(None, rate, fixed, (words, key, lengths, start), known, drawn, bool(axes))


@functools.partial(
    jax.jit, static_argnames=("p", "whole", "operation", "temperature", "drawn"), inline=True
)
def applied(
    x: Any,
    words: Any,
    key: Any,
    lengths: Any,
    rate: Any,
    start: Any,
    *,
    p: float | None,
    whole: tuple[int, ...],
    operation: str,
    temperature: float | None = None,
    drawn: tuple[int, ...] | None = None,
) -> Any:
    """Bind the primitive, whose `rate` is a logit for relaxed decisions.

    If decisions are shared, `drawn` is their shape: the primitive then computes their factors, and
    XLA fuses the product with what surrounds it.
    """
    others = [operand for operand in (lengths, rate, start) if operand is not None]

    def made(x: Any) -> Any:
        operands = varying(x, drawn_words(words, key), *others)
        return apply.bind(*operands, p=p, whole=whole, operation=operation, temperature=temperature)

    if drawn is None:
        return made(x)

    @jax.checkpoint  # factors are drawn again for the gradient
    def product(x: Any) -> Any:
        return multiplied(x, made(jnp.ones(drawn, jnp.promote_types(x.real.dtype, np.float32))))

    return product(x)


def multiplied(x: Array, factors: Array) -> Array:
    """Return products, rounded once, and 0 where a factor is 0."""
    return jnp.where(factors != 0, (x * factors).astype(x.dtype), 0)


def as_elements(x: Any, name: str, takes_complex: bool = True) -> Array:
    """Return an argument as an array of a supported dtype."""
    array = jnp.asarray(x)
    if str(array.dtype) not in _core.DTYPES:
        raise TypeError(f"{name} must have dtype {DTYPES}, got {array.dtype}")
    if not takes_complex and jnp.iscomplexobj(array):
        raise TypeError(f"{name} must have a real dtype, got {array.dtype}")
    return array


def as_inputs(member: Member, *inputs: Any) -> tuple[list[Array], Any]:
    """Return the inputs of a member in the dtype that it computes in, and the dtype to return.

    All of them broadcast to the first.
    """
    known = OPERATIONS[member.operation]
    arrays = [
        as_elements(x, name, known.takes_complex)
        for x, name in zip(inputs, member.names, strict=True)
    ]
    first, dtype = arrays[0], jnp.result_type(*arrays)
    for array, name in zip(arrays, member.names, strict=True):
        missing = first.ndim - array.ndim
        if missing < 0 or any(
            length != 1 and length != of
            for length, of in zip(array.shape, first.shape[missing:], strict=True)
        ):
            raise ValueError(f"{name} must broadcast to shape {first.shape}, got {array.shape}")
    computed = jnp.promote_types(dtype, np.float32)
    return [array.astype(computed) for array in arrays], dtype


def drop(
    member: Member, x: Any, request: Request, option: Any = None, operation: str = "scale"
) -> Array:
    """Do the work of a linear member."""
    assert member.is_linear, "the gradient of the primitive is the call itself"
    x = as_elements(x, member.names[0])
    draw = decide(request, x.shape, member.axes(x.shape, option), member.names[0])
    y: Array = draw(x, operation)
    return y
