"""Plans: the decisions of one call.

A function runs its plan forward, a layer keeps the last one, and a gradient runs the same plan
backward. All members follow these rules:

- In evaluation, and for p = 0, nothing is drawn. The result is the input itself (or its copy in
  `out`), unless the formula changes it: in "standard" mode, zoneout and fused operations.
- For p = 1 all elements are dropped, forward and backward: neither Inf nor NaN passes.
  (`patch_dropout` keeps one token.)
- A `Key` is used as it is. From any other `rng` a key is drawn after all arguments were checked,
  and only by a call that drops: only then does a Generator advance.
- A `mask` replaces `rng` and `p`, except that `p` sets the scale of a boolean array.
- Arguments are checked even if the call does not use them.

The compiled `Plan` is for calls that keep or drop elements. `RecipePlan` is for other linear calls.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdrop import _core
from fastdrop._base.arguments import (
    INVERTED,
    Array,
    Axes,
    as_axes,
    as_flag,
    as_out,
    check_broadcast,
    float_array,
    plain_array,
    probability,
    shown,
)
from fastdrop._base.keys import NO_KEY, RNG, Key, as_key, check_rng
from fastdrop._base.masks import Drawable, Mask, Recipe, inverse_keep, make_mask

Keep: TypeAlias = Mask | Recipe | NDArray[np.bool_]
"""The type of `mask` arguments: a recipe that keeps or drops elements, or a boolean array."""

Kind = TypeVar("Kind", bound=Recipe)

NO_AXES: tuple[int, ...] = ()

_forward, _compute, _check = _core.forward, _core.compute, _core.check
_ndarray = np.ndarray


class Plan(Protocol):
    """The decisions of one call."""

    @property
    def recipe(self) -> Any:
        """The mask, drawn or given; None in evaluation."""

    @property
    def backward(self) -> Callable[..., Any]:
        """Return the gradient with respect to the input (the first of several)."""


class Numbers(NamedTuple):
    """Constants of the core's formulas; most only multiply kept elements by `scale`."""

    scale: float
    shift: float = 0.0
    fill: float = 0.0


def training_scale(p: float, mode: str | None) -> float:
    """Return the factor of kept elements in training; 0 if none is kept."""
    if mode == "inverted":
        return inverse_keep(p)
    return 0.0 if p == 1.0 else 1.0


def evaluate(
    operation: str, inputs: tuple[Array, ...], out: Array | None, p: float, mode: str | None
) -> tuple[Array, Plan]:
    """Return the result and the plan of evaluation, where the expectation replaces the mask."""
    scale = 1.0 - p if mode == "standard" else 1.0
    if operation == "switch" and 0.0 < p < 1.0:
        return _forward("mix", inputs, out, None, 0.0, (), scale, p)
    return _forward(operation, inputs, out, None, 0.0, (), scale)


def run(
    operation: str,
    inputs: tuple[Array, ...],
    p: float,
    training: bool,
    mode: str | None,
    shared: tuple[int, ...],
    rng: RNG,
    mask: Keep | None,
    return_mask: bool,
    out: Array | None,
    numbers: Any = None,
) -> Any:
    """Do the work of a function: decide, and run the plan forward.

    `mode` is None if neither training nor evaluation scales. `numbers` maps p to the constants of
    an operation in training, if `training_scale` is not enough.
    """
    if type(p) is not float or not 0.0 < p < 1.0:
        p = probability(p)
    if training is not True:
        training = as_flag(training, "training")
    if return_mask is not False:
        return_mask = as_flag(return_mask, "return_mask")
    target = out if out is None or type(out) is _ndarray else as_out(out)
    keep: Any
    y: Array | None
    if mask is not None:
        keep, p = as_keep(mask, p, rng)
        if not training:
            check_broadcast(keep.shape, inputs[0].shape)
    elif type(rng) is Key:
        keep = rng
    else:
        if rng is not None:
            _check(operation, inputs, target)
        keep = draw_key(rng, training and p > 0.0)
    if not training:
        y, _ = evaluate(operation, inputs, target, p, mode)
    elif numbers is not None:
        y, plan = _forward(operation, inputs, target, keep, p, shared, *numbers(p))
    else:
        scale = None if mode is INVERTED else training_scale(p, mode)
        if not return_mask:
            y = _compute(operation, inputs, target, keep, p, shared, scale)
            return y if out is target else out
        y, plan = _forward(operation, inputs, target, keep, p, shared, scale)
    if out is not target:
        y = out
    if not return_mask:
        return y
    if not training:
        return y, make_mask(inputs[0].shape, 0.0, NO_KEY)
    return y, plan.recipe if mask is None else mask


def as_shared(broadcast_dims: Axes, ndim: int, mask: object = None) -> tuple[int, ...]:
    """Return the axes along which elements share a decision; a mask excludes `broadcast_dims`."""
    if broadcast_dims is NO_AXES:
        return broadcast_dims
    shared = as_axes(broadcast_dims, ndim, "broadcast_dims")
    if mask is not None and shared:
        raise ValueError("mask must not be given together with broadcast_dims")
    return shared


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


def check_forward_mask(training: bool, rng: RNG, mask: Any) -> None:
    """Raise TypeError unless a gradient gets the mask of the forward call, or its Key."""
    if (mask is None and type(rng) is Key) or (mask is not None and rng is None):
        return
    if as_flag(training, "training") or rng is not None:
        got = shown(rng) if mask is None else "both"
        raise TypeError(f"rng must be the Key of the forward call, or mask its mask, got {got}")


class RecipePlan(Generic[Kind]):
    """A plan whose recipe does the work, forward and backward alike; None does nothing."""

    __slots__ = ("options", "recipe", "shape")

    def __init__(self, recipe: Kind | None, shape: tuple[int, ...], **options: Any) -> None:
        self.recipe, self.shape, self.options = recipe, shape, options

    def forward(self, x: Array, out: Array | None) -> Array:
        """Apply the recipe."""
        if self.recipe is None or self.recipe.p == 0.0:
            return select(x, None, 1.0, out)
        return self.recipe.apply(x, out, **self.options)

    def backward(self, dy: Array) -> Array:
        """Apply the recipe to the gradient."""
        float_array(dy, "dy")
        if dy.shape != self.shape:
            raise ValueError(f"dy must have the shape of x, {self.shape}, got {dy.shape}")
        return self.forward(dy, None)


def run_recipe(
    make: Callable[[float, Key], Kind],
    kind: type[Kind],
    x: Array,
    p: float,
    training: bool,
    rng: RNG,
    mask: Kind | None,
    return_mask: bool,
    out: Array | None,
    **options: Any,
) -> Any:
    """Do the same as `run`, with the recipe that `make` returns for a p and a key."""
    training, return_mask = as_flag(training, "training"), as_flag(return_mask, "return_mask")
    target = None if out is None else as_out(out)
    _check("select", (x,), target)
    if mask is None:
        recipe = make(p if training else 0.0, draw_key(rng, training and p > 0.0))
    else:
        check_recipe(mask, kind, rng)
        check_broadcast(mask.shape, x.shape)
        recipe = mask if training else make(0.0, NO_KEY)
    plan = RecipePlan(recipe if training else None, x.shape, **options)
    y: Array | None = plan.forward(x, target)
    if out is not target:
        y = out
    return (y, recipe) if return_mask else y


def check_recipe(mask: object, kind: type, rng: RNG) -> None:
    """Raise an error unless `mask` is a recipe of this kind and `rng` is not given."""
    if not isinstance(mask, kind):
        raise TypeError(f"mask must be a {kind.__name__}, got {type(mask).__name__}")
    if rng is not None:
        raise ValueError("mask must not be given together with rng")


def select(x: Array, keep: Any, scale: float, out: Array | None = None) -> Array:
    """Return ``kept ? x * scale : 0`` (None keeps all elements); `x` itself if nothing changes."""
    y, _ = _forward("select", (x,), None if out is None else as_out(out), keep, 0.0, (), scale)
    return y if out is None else out
