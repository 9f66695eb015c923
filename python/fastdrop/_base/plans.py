"""Plans: the decisions of one call.

A function runs its plan forward, a layer keeps the last one, and a gradient runs the same plan
backward. All members follow these rules:

- In evaluation, and for p = 0, nothing is drawn. The result is the input itself (or its copy in
  `out`), unless the operation changes it: in "standard" mode, zoneout and fused operations.
- For p = 1 all elements are dropped, forward and backward: no Inf or NaN passes.
  (`patch_dropout` keeps one token.)
- A `Key` is used as it is. From any other `rng` a key is drawn after all arguments were checked,
  and only by a call that drops: only then does a Generator advance.
- A `mask` replaces `rng` and `p`, except that `p` sets the scale of a boolean array.
- Arguments are checked even if the call does not use them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastdrop import _core
from fastdrop._base.arguments import (
    INVERTED,
    Array,
    as_array,
    as_flag,
    as_operands,
    as_out,
    check_broadcast,
    check_mode,
    float_array,
    plain_array,
    probability,
    shown,
)
from fastdrop._base.keys import NO_KEY, RNG, Key, as_key, check_rng
from fastdrop._base.masks import Drawable, Mask, Recipe, make_mask
from fastdrop._base.members import NO_AXES, Member, broadcast_axes, scaled

Keep: TypeAlias = Mask | Recipe | NDArray[np.bool_]
"""The type of `mask` arguments: a recipe that keeps or drops elements, or a boolean array."""

Request: TypeAlias = tuple[float, bool, str | None, RNG, Any, bool, Array | None]
"""The arguments that all functions share: p, training, mode, rng, mask, return_mask and out.

The mode is None if neither training nor evaluation scales.
"""

_forward, _compute_plain, _check = _core.forward, _core.compute_plain, _core.check
_ndarray = np.ndarray


class Plan(NamedTuple):
    """The decisions of one call, for members that need more than the core's plan.

    It has the same attributes. `recipe` is the mask, drawn or given, and None in evaluation.
    `backward` returns the gradients.
    """

    recipe: Any
    backward: Callable[..., Any]


def evaluate(
    member: Member, inputs: tuple[Array, ...], out: Array | None, p: float, mode: str | None
) -> tuple[Array, _core.Plan]:
    """Return the result and the plan of evaluation, where the expectation replaces the mask."""
    scale = 1.0 - p if mode == "standard" else 1.0
    if member.expectation is not None and 0.0 < p < 1.0:
        return _forward(member.expectation, inputs, out, None, 0.0, (), (scale, p, 0.0))
    numbers = scale if member.numbers is scaled else member.numbers(0.0, mode)._replace(scale=scale)
    return _forward(member.operation, inputs, out, None, 0.0, (), numbers)


def run(member: Member, inputs: Any, request: Request, option: Any = NO_AXES) -> Any:
    """Do the work of a function of one array, or of a tuple of several.

    The core takes calls in which nothing is left to decide, `_decide_and_run` all others.
    """
    if option is NO_AXES:
        shared = NO_AXES
    else:
        inputs = inputs if type(inputs) is _ndarray else float_array(inputs, member.names[0])
        shared = member.axes(inputs.shape, option)
    if member.numbers is scaled:
        y = _compute_plain(member.operation, inputs, shared, request)
        if y is not None:
            return y
    return _decide_and_run(member, inputs, request, shared)


def _decide_and_run(member: Member, given: Any, request: Request, shared: tuple[int, ...]) -> Any:
    """Check arguments, decide, and run the plan forward."""
    p, training, mode, rng, mask, return_mask, out = request
    if mode is not None:
        check_mode(mode)
    if member.combines:
        inputs = as_operands(member.names, given)
    else:
        inputs = (given if type(given) is _ndarray else float_array(given, member.names[0]),)
    p, training = probability(p), as_flag(training, "training")
    return_mask = as_flag(return_mask, "return_mask")
    target = None if out is None else as_out(out)
    keep: Any
    if mask is not None:
        check_alone(member, shared)
        keep, p = as_keep(mask, p, rng)
        if not training:
            check_broadcast(keep.shape, inputs[0].shape)
    else:
        if rng is not None:
            _check(member.operation, inputs, target)
        keep = draw_key(rng, training and p > 0.0)
    if training:
        numbers = member.numbers(p, mode)
        y, plan = _forward(member.operation, inputs, target, keep, p, shared, numbers)
    else:
        y, _ = evaluate(member, inputs, target, p, mode)
    if out is not None:
        y = out
    if not return_mask:
        return y
    if not training:
        return y, make_mask(inputs[0].shape, 0.0, NO_KEY)
    return y, plan.recipe if mask is None else mask


def check_alone(member: Member, shared: tuple[int, ...]) -> None:
    """Raise ValueError if a call with a mask also names axes that share a decision."""
    if shared and member.axes is broadcast_axes:
        raise ValueError("mask must not be given together with broadcast_dims")


def draw_key(rng: RNG, draws: bool) -> Key:
    """Return the key of a call with checked arguments; draw one only if the call `draws`."""
    if draws or type(rng) is Key:
        return as_key(rng)
    check_rng(rng)
    return NO_KEY


def as_keep(mask: Keep, p: float, rng: RNG) -> tuple[Any, float]:
    """Return a given mask in the form that the core takes, and its p."""
    if rng is not None:
        raise ValueError("mask must not be given together with rng")
    if isinstance(mask, Mask):
        return mask, mask.p
    if isinstance(mask, Drawable):
        keep, p = mask.to_numpy(), mask.p
    elif isinstance(mask, list | tuple) or hasattr(mask, "__array__") or hasattr(mask, "toarray"):
        keep = plain_array(mask, "mask")
    else:
        raise TypeError(f"mask must be a Mask or a boolean array, got {type(mask).__name__}")
    if keep.dtype != np.bool_:
        mend = ": use mask != 0" if keep.dtype.kind in "iuf" else ""
        raise TypeError(f"mask must be a Mask or a boolean array, got {keep.dtype}{mend}")
    return keep, p


def run_backward(member: Member, dy: Any, x: Any, request: Request) -> Any:
    """Return the gradient of a function that is not linear."""
    _, training, _, rng, mask, _, _ = request
    check_forward_mask(training, rng, mask)
    return run(member.derivative, (dy, x), request)


def check_forward_mask(training: bool, rng: RNG, mask: Any) -> None:
    """Raise TypeError unless a gradient gets the mask of the forward call, or its Key."""
    if (mask is None and type(rng) is Key) or (mask is not None and rng is None):
        return
    if as_flag(training, "training") or rng is not None:
        got = shown(rng) if mask is None else "both"
        raise TypeError(
            f"rng must be the Key of the forward call, or mask the mask it returned, got {got}"
        )


# --- Recipes that do the work themselves ----------------------------------------------------------


def run_recipe(member: Member, x: Any, request: Request, option: Any) -> Any:
    """Do the same as `run`, for a member whose recipe does the work itself."""
    p, training, mode, rng, mask, return_mask, out = request
    assert member.draw is not None, "members without recipes of their own use `run`"
    p, training = probability(p), as_flag(training, "training")
    return_mask = as_flag(return_mask, "return_mask")
    array = as_array(x, "x")
    target = None if out is None else as_out(out)
    _check("select", (array,), target)
    kept = member.draw(array.shape, 0.0, NO_KEY, option)  # checks the shape and the options
    if mask is None:
        key = draw_key(rng, training and p > 0.0)
        recipe = member.draw(array.shape, p, key, option) if training else kept
    else:
        check_alone(member, member.axes(array.shape, option))
        check_recipe(mask, member.recipe, rng)
        check_broadcast(mask.shape, array.shape)
        recipe = mask if training else kept
    y: Array | None = apply_recipe(recipe if training else None, mode, array, target)
    if out is not target:
        y = out
    return (y, recipe) if return_mask else y


def check_recipe(mask: object, kind: type, rng: RNG) -> None:
    """Raise an error unless `mask` is a recipe of this kind and `rng` is not given."""
    if not isinstance(mask, kind):
        raise TypeError(f"mask must be a {kind.__name__}, got {type(mask).__name__}")
    if rng is not None:
        raise ValueError("mask must not be given together with rng")


def apply_recipe(recipe: Any, mode: str | None, x: Array, out: Array | None) -> Array:
    """Apply a recipe to an array, as in training; None keeps all elements."""
    if recipe is None or recipe.p == 0.0:
        return select(x, None, 1.0, out)
    y: Array = recipe.apply(x, out) if mode is INVERTED else recipe.apply(x, out, scale=1.0)
    return y


def plan_of_recipe(recipe: Any, mode: str | None, shape: tuple[int, ...]) -> Plan:
    """Return the plan of a linear call, whose gradient is the call itself."""
    return Plan(recipe, partial(_recipe_backward, recipe, mode, shape))


def _recipe_backward(recipe: Any, mode: str | None, shape: tuple[int, ...], dy: Array) -> Array:
    return apply_recipe(recipe, mode, gradient_like(dy, shape), None)


def gradient_like(dy: Any, shape: tuple[int, ...], of: str = "x") -> Array:
    """Return `dy` as an array; it must have this shape, that of the input or the output."""
    gradient = float_array(dy, "dy")
    if gradient.shape != shape:
        raise ValueError(f"dy must have the shape of {of}, {shape}, got {gradient.shape}")
    return gradient


def select(x: Array, keep: Any, scale: float, out: Array | None = None) -> Array:
    """Return ``kept ? x * scale : 0`` (None keeps all elements); `x` itself if nothing changes."""
    y, _ = _forward("select", (x,), None if out is None else as_out(out), keep, 0.0, (), scale)
    return y if out is None else out
