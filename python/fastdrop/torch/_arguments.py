"""The arguments that functions of tensors share: their checks, and the call that they decide."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastdrop._base.arguments import (
    REAL_DTYPES,
    Axes,
    as_flag,
    check_given,
    check_mode,
    either,
    shown,
)
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import NO_AXES, Member, Numbers
from fastdrop._base.plans import check_alone
from fastdrop._family.blocks import BlockMask
from fastdrop._family.concrete import ConcreteMask
from fastdrop._family.dropout import DROPOUT
from fastdrop._family.gaussian import Noise
from fastdrop._family.patches import PatchMask
from fastdrop._family.shared import CHANNELS
from fastdrop.torch._call import How, recipe_of, takes
from fastdrop.torch._dispatch import Source, dispatch, no_key
from fastdrop.torch._keys import CallKeys, SharedKey

Request: TypeAlias = tuple[
    Any,
    bool,
    bool,
    Any,
    torch.Generator | None,
    Mask | BlockMask | Noise | ConcreteMask | PatchMask | None,
    bool,
]
"""The arguments that all functions share: p, training, inplace, key, generator, mask, return_mask.
"""


def ndim_of(input: Tensor) -> int:
    """Return the number of axes of what must be a tensor."""
    check_tensor(input, "input")
    return input.dim()


def channels(input: Tensor, channel_axis: int, has_batch: bool = True) -> tuple[int, ...]:
    """Return the axes that share a decision, of inputs with a batch along axis 0 and channels.

    The axes of an input without a batch are counted as if it had one.
    """
    ndim = ndim_of(input) + (not has_batch)
    if ndim < 2:
        raise RuntimeError(f"input must have at least 2 axes, (N, C, ...), got {input.dim()}")
    shared = axes_of(CHANNELS, (1,) * ndim, channel_axis)
    return shared if has_batch else tuple(axis - 1 for axis in shared)


def broadcast(input: Tensor, broadcast_dims: Axes) -> tuple[int, ...]:
    """Return the axes that the user names."""
    if broadcast_dims is NO_AXES:
        return ()
    shape = tuple(input.shape) if ndim_of(input) else ()
    return axes_of(DROPOUT, shape, broadcast_dims)


def axes_of(member: Member, shape: tuple[int, ...], option: Any) -> tuple[int, ...]:
    """Return the axes that share a decision, or raise torch's class of error."""
    try:
        return member.axes(shape, option)
    except ValueError as error:
        raise IndexError(str(error)) from None


def mode_of(scale_by_keep: bool) -> str | None:
    return "inverted" if as_flag(scale_by_keep, "scale_by_keep") else None


_RECIPES: dict[type, tuple[type, ...]] = {Mask: (Mask, BlockMask), BlockMask: (Mask, BlockMask)}
"""Recipes that functions take in place of that of their member."""


def checked(request: Request, prefix: str = "", recipe: type = Mask) -> tuple[float, Source]:
    """Check the arguments that functions share, and return p and the source of the mask."""
    p, _, _, key, generator, mask, _ = request
    try:
        inside = 0.0 <= p <= 1.0
    except TypeError:
        raise TypeError(f"{prefix}p must be a number in [0, 1], got {shown(p)}") from None
    if not inside:
        raise ValueError(f"{prefix}p must be a number in [0, 1], got {p!r}")
    if type(p) is not float and isinstance(p, Tensor) and p.requires_grad:
        raise TypeError(
            f"{prefix}p must be a number in [0, 1], got a tensor that requires a gradient"
        )
    if (key is not None) + (generator is not None) + (mask is not None) > 1:
        names = f"{prefix}key, generator and {prefix}mask"
        raise ValueError(f"at most one of {names} must be given, got several")
    if (
        key is not None
        and type(key) not in (Key, CallKeys, SharedKey)
        and not isinstance(key, Tensor)
    ):
        raise TypeError(f"{prefix}key must be a Key or a tensor of 2 int64, got {shown(key)}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {shown(generator)}")
    if mask is not None and not isinstance(mask, _RECIPES.get(recipe, recipe)):
        kind = "Mask" if recipe in _RECIPES else recipe.__name__
        raise TypeError(f"{prefix}mask must be a {kind}, got {shown(mask)}")
    if isinstance(key, Tensor) and not (key.dtype is torch.int64 and key.is_cpu):
        got = f"one of {key.dtype} on {key.device}"
        raise TypeError(f"{prefix}key must be a Key or a tensor of 2 int64 on the CPU, got {got}")
    return p, key if key is not None else generator if generator is not None else mask


def check_tensor(x: Any, name: str) -> None:
    if isinstance(x, Tensor):
        return
    traced = ": in a trace, call fastdrop.torch.functional by its full name, or torch.fx.wrap"
    kind = type(x).__name__
    raise TypeError(f"{name} must be a tensor, got {kind}{traced if kind == 'Proxy' else ''}")


def refusal(x: Tensor, name: str) -> Exception:
    """Return the error for a tensor that fastdrop has no kernels for."""
    if not (x.is_cpu or x.is_meta):
        return ValueError(f"{name} must be on the CPU, got a tensor on {x.device}")
    if x.is_nested or x.layout is not torch.strided:
        kind = "nested tensor" if x.is_nested else f"tensor of layout {x.layout}"
        return ValueError(f"{name} must be dense, got a {kind}")
    return TypeError(f"{name} must have dtype {either(REAL_DTYPES)}, got {x.dtype}")


def _check_other(x: Tensor, name: str) -> None:
    """Check a tensor that a fused operation combines with its input."""
    if isinstance(x, Tensor) and takes(x):
        return
    check_given(x, name, "a tensor")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    raise refusal(x, name)


def run(
    member: Member,
    inputs: tuple[Tensor, ...],
    request: Request,
    shared: tuple[int, ...] = (),
    mode: str | None = "inverted",
    block: tuple[int, ...] = (),
    shift: float = 0.0,
) -> Any:
    """Do the work of a function: check its arguments, and drop.

    `shift` is the parameter of an activation.
    """
    first = "input" if member.names[0] == "x" else member.names[0]
    if member.combines:
        for x, name in zip(inputs[1:], member.names[1:], strict=True):
            _check_other(x, name)
    p, source = checked(request, recipe=member.recipe)
    if mode is not None:
        check_mode(mode)
    _, training, inplace, _, _, mask, return_mask = request
    check_tensor(inputs[0], first)
    changes = not training and mode == "standard"
    if not takes(inputs[0]) and (training or changes or member.fuses):
        raise refusal(inputs[0], first)
    rate: float = p
    if mask is not None:
        check_alone(member, shared)
        rate = mask.p
        source = mask.elements if isinstance(mask, Noise) else mask
    y: Any
    if training and (mask is not None or p != 0.0):
        numbers = member.numbers(float(rate), mode)
        if shift:
            numbers = numbers._replace(shift=shift)
        how = How(member.operation, float(rate), shared, numbers, block)
        y = dispatch(how, inputs, source, inplace, return_mask)
    else:
        y = inputs[0]
        if member.fuses or (changes and rate != 0.0):
            how = _evaluation(member, float(rate) if not training else 0.0, mode, shift)
            y = dispatch(how, inputs, no_key(), inplace)
        if return_mask:
            kept = How(member.operation, 0.0, (), Numbers(1.0), block)
            y = y, recipe_of(kept, NO_KEY, tuple(inputs[0].shape))
    return (y[0], Noise(y[1])) if return_mask and member.recipe is Noise else y


def _evaluation(member: Member, p: float, mode: str | None, shift: float) -> How:
    """Return the settings of a call in evaluation."""
    scale = 1.0 - p if mode == "standard" else 1.0
    if member.expectation is not None and 0.0 < p < 1.0:
        return How(member.expectation, 0.0, (), Numbers(scale, p))
    return How(member.operation, 0.0, (), Numbers(scale, shift))
