"""Functions of tensors. Each draws its key from torch's generator, or takes the one it is given.

Arguments, warnings and classes of errors are those of torch's functions, where torch has them. All
functions also take:

key : Key or tensor of 2 int64, optional
    Key of the mask. A compiled function takes a tensor, from `key_tensor`.
generator : torch.Generator, optional
    Generator on the CPU to draw the key from, instead of the default one.
mask : Mask, optional
    Mask to apply, with its own p; such as the region of a shard in the mask of the whole.
return_mask : bool, default False
    Whether to return the mask as well, for an equal call or for `fastdrop.Mask.apply`.

Only one of `key`, `generator` and `mask` can be given. In evaluation, and for p = 0, the result is
the input itself, and nothing is drawn. Masks go by the index of an element in C order, whatever the
memory layout. Tensors are float32, float64, float16 or bfloat16, on the CPU.
"""

import warnings
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor

from fastdrop._base.arguments import as_flag, as_lengths, check_choice, check_given, shown
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, inverse_keep, make_mask
from fastdrop._family.alpha import alpha_numbers
from fastdrop._family.blocks import BlockMask
from fastdrop.torch._call import How, call, no_key, takes
from fastdrop.torch._keys import CallKeys, SharedKey

Approximate = Literal["none", "tanh"]


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop elements at random: `torch.nn.functional.dropout`.

    A dropped element is +0.0, also where the input is infinite or NaN; for p = 1 all are.

    >>> y, mask = F.dropout(torch.ones(2, 4), 0.5, key=fd.Key(0), return_mask=True)
    >>> y
    tensor([[2., 2., 2., 0.],
            [2., 0., 2., 0.]])
    >>> bool((mask.apply(torch.ones(2, 4)) == y.numpy()).all())
    True
    """
    return _select(input, p, training, inplace, (), key, generator, mask, return_mask)


def feature_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels, of inputs of shape (N, C, ...): `torch.feature_dropout`.

    >>> F.feature_dropout(torch.ones(1, 2, 3), 0.5, key=fd.Key(1))
    tensor([[[0., 0., 0.],
             [2., 2., 2.]]])
    """
    shared = _features(input)
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels, of inputs of shape (N, C, L) or (C, L).

    >>> F.dropout1d(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 0., 0.],
            [2., 2., 2.]])
    """
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input"
        )
    shared = _last(input, 1)
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels, of inputs of shape (N, C, H, W).

    An input with three axes counts as (N, C, L), as in torch, and is warned of.

    >>> F.dropout2d(torch.ones(1, 4, 5, 5), 0.5, key=fd.Key(1)).mean((2, 3))
    tensor([[0., 2., 0., 0.]])
    """
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout "
            "behavior is desired, for shape (N, C, L); for that, use dropout1d",
            stacklevel=2,
        )
    elif input.dim() != 4:
        warnings.warn(
            f"dropout2d: Received a {input.dim()}-D input to dropout2d, which is meant for 4 axes, "
            "(N, C, H, W); for others, use feature_dropout",
            stacklevel=2,
        )
    shared = _features(input)
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels, of inputs of shape (N, C, D, H, W) or (C, D, H, W).

    >>> F.dropout3d(torch.ones(4, 2, 5, 5), 0.5, key=fd.Key(1)).mean((1, 2, 3))
    tensor([0., 2., 0., 0.])
    """
    if input.dim() not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, which is meant for 5 axes, "
            "(N, C, D, H, W), or 4 without N; for others, use feature_dropout",
            stacklevel=2,
        )
    shared = _features(input) if input.dim() == 5 else tuple(range(1, input.dim()))
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask)


def drop_path(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop the whole residual branch of a sample (axis 0): `fastdrop.drop_path`.

    >>> F.drop_path(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 0., 0.],
            [2., 2., 2.]])
    """
    shared = tuple(range(1, input.dim()))
    scaled = as_flag(scale_by_keep, "scale_by_keep")
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask, scaled)


def locked_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    time_axis: int = 0,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop the same elements at every step along an axis: `fastdrop.locked_dropout`.

    >>> F.locked_dropout(torch.ones(2, 6), 0.5, key=fd.Key(1))
    tensor([[0., 2., 0., 0., 0., 2.],
            [0., 2., 0., 0., 0., 2.]])
    """
    if not -input.dim() <= time_axis < input.dim():
        raise IndexError(f"time_axis must be an axis of input, got {time_axis}")
    shared = (time_axis % input.dim(),)
    return _select(input, p, training, inplace, shared, key, generator, mask, return_mask)


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    As in torch, `training` is False by default.

    >>> F.alpha_dropout(torch.zeros(4), 0.5, True, key=fd.Key(2))
    tensor([-0.7792,  0.7792,  0.7792, -0.7792])
    """
    return _alpha(input, p, training, inplace, (), key, generator, mask, return_mask)


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Set whole channels to SELU's lower limit, of inputs of shape (N, C, ...).

    As in torch, `training` is False by default.

    >>> F.feature_alpha_dropout(torch.zeros(1, 2, 2), 0.5, True, key=fd.Key(1))
    tensor([[[-0.7792, -0.7792],
             [ 0.7792,  0.7792]]])
    """
    shared = _features(input)
    return _alpha(input, p, training, inplace, shared, key, generator, mask, return_mask)


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop, and add another tensor, which broadcasts to the shape of `input`.

    The result has the dtype of ``residual + dropout(input)``. It is computed in the widest
    precision of all tensors, in one pass, and rounded once; a gradient has its tensor's dtype.

    >>> F.dropout_add(torch.ones(4), torch.full((4,), 10.0), 0.5, key=fd.Key(0))
    tensor([12., 12., 12., 10.])
    """
    _check_other(residual, "residual")
    inputs = (input, residual)
    return _fused("add", inputs, p, training, key, generator, mask, return_mask)


def bias_dropout_add(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Add a bias, drop, and add another tensor; both broadcast to the shape of `input`.

    Dtypes are promoted as in `dropout_add`.

    >>> F.bias_dropout_add(torch.ones(4), torch.ones(4), torch.zeros(4), 0.5, key=fd.Key(0))
    tensor([4., 4., 4., 0.])
    """
    _check_other(bias, "bias")
    _check_other(residual, "residual")
    inputs = (input, bias, residual)
    return _fused("bias_add", inputs, p, training, key, generator, mask, return_mask)


def relu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Rectify, then drop.

    >>> F.relu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([2., 0., 6., 0.])
    """
    return _fused("relu", (input,), p, training, key, generator, mask, return_mask)


def gelu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    approximate: Approximate = "none",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply the Gaussian error linear unit, then drop.

    >>> F.gelu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([ 1.6827, -0.0910,  5.9919,  0.0000])
    """
    check_choice(approximate, "approximate", "none", "tanh")
    operation = "gelu" if approximate == "none" else "gelu_tanh"
    return _fused(operation, (input,), p, training, key, generator, mask, return_mask)


def drop_block1d(
    input: Tensor,
    p: float,
    block_size: int,
    training: bool = True,
    inplace: bool = False,
    *,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop stretches, of inputs of shape (N, C, L): `fastdrop.drop_block1d`.

    >>> F.drop_block1d(torch.ones(1, 1, 10), 0.5, 3, key=fd.Key(1))
    tensor([[[0., 0., 0., 2., 2., 2., 2., 0., 0., 0.]]])
    """
    return _blocks(
        3, input, p, block_size, training, inplace, scale_by_keep, key, generator, mask, return_mask
    )


def drop_block2d(
    input: Tensor,
    p: float,
    block_size: int | tuple[int, int],
    training: bool = True,
    inplace: bool = False,
    *,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop rectangles, of inputs of shape (N, C, H, W): `fastdrop.drop_block2d`.

    >>> F.drop_block2d(torch.ones(1, 1, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4])
    """
    return _blocks(
        4, input, p, block_size, training, inplace, scale_by_keep, key, generator, mask, return_mask
    )


def drop_block3d(
    input: Tensor,
    p: float,
    block_size: int | tuple[int, int, int],
    training: bool = True,
    inplace: bool = False,
    *,
    scale_by_keep: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: BlockMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop boxes, of inputs of shape (N, C, D, H, W): `fastdrop.drop_block3d`.

    >>> F.drop_block3d(torch.ones(1, 1, 4, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4, 4])
    """
    return _blocks(
        5, input, p, block_size, training, inplace, scale_by_keep, key, generator, mask, return_mask
    )


def _features(input: Tensor) -> tuple[int, ...]:
    """Return the axes of inputs of shape (N, C, ...) along which elements share a decision."""
    if input.dim() < 2:
        raise RuntimeError(f"input must have at least 2 axes, (N, C, ...), got {input.dim()}")
    return tuple(range(2, input.dim()))


def _last(input: Tensor, n: int) -> tuple[int, ...]:
    return tuple(range(input.dim() - n, input.dim()))


def _checked(
    input: Tensor,
    p: Any,
    training: bool,
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
) -> float:
    """Check the arguments that functions share, and return p."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must be a number in [0, 1], got {p!r}")
    if (key is not None) + (generator is not None) + (mask is not None) > 1:
        raise ValueError("only one of key, generator and mask must be given")
    if (
        key is not None
        and type(key) not in (Key, CallKeys, SharedKey)
        and not isinstance(key, Tensor)
    ):
        raise TypeError(f"key must be a Key or a tensor of 2 int64, got {shown(key)}")
    if mask is not None and not isinstance(mask, (Mask, BlockMask)):
        raise TypeError(f"mask must be a Mask, got {shown(mask)}")
    if isinstance(key, Tensor) and not (key.dtype is torch.int64 and key.is_cpu):
        got = f"one of {key.dtype} on {key.device}"
        raise TypeError(f"key must be a Key or a tensor of 2 int64 on the CPU, got {got}")
    if not isinstance(input, Tensor):
        traced = ": in a trace, call fastdrop.torch.functional by its full name, or torch.fx.wrap"
        kind = type(input).__name__
        raise TypeError(f"input must be a tensor, got {kind}{traced if kind == 'Proxy' else ''}")
    if type(p) is not float and isinstance(p, Tensor) and p.requires_grad:
        raise TypeError("p must be a number in [0, 1], got a tensor that requires a gradient")
    if not training or takes(input):
        return p
    raise _refusal(input, "input")


def _refusal(x: Tensor, name: str) -> Exception:
    """Return the error for a tensor that there are no kernels for."""
    if not (x.is_cpu or x.is_meta):
        return ValueError(f"{name} must be on the CPU, got a tensor on {x.device}")
    if x.is_nested or x.layout is not torch.strided:
        kind = "nested tensor" if x.is_nested else f"tensor of layout {x.layout}"
        return ValueError(f"{name} must be dense, got a {kind}")
    names = "float32, float64, float16 or bfloat16"
    return TypeError(f"{name} must have dtype {names}, got {x.dtype}")


def _check_other(x: Tensor, name: str) -> None:
    """Check a tensor that a fused operation combines with its input."""
    if isinstance(x, Tensor) and takes(x):
        return
    check_given(x, name, "a tensor")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    raise _refusal(x, name)


def _keeps_all(p: float, training: bool, mask: Mask | BlockMask | None) -> bool:
    """Return whether a call draws nothing."""
    return not training or (mask is None and p == 0.0)


def _kept(y: Tensor, input: Tensor, return_mask: bool) -> Any:
    """Return the result of a call that draws nothing."""
    return (y, make_mask(tuple(input.shape), 0.0, NO_KEY)) if return_mask else y


def _drop(
    operation: str,
    inputs: tuple[Tensor, ...],
    p: float,
    inplace: bool,
    shared: tuple[int, ...],
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: Mask | BlockMask | None,
    return_mask: bool,
    scaled: bool = True,
    block: tuple[int, ...] = (),
) -> Any:
    """Run a call that drops, with checked arguments."""
    p = float(p) if mask is None else mask.p
    scale = inverse_keep(p) if scaled or p == 1.0 else 1.0
    how = How(operation, p, shared, scale, 0.0, 0.0, block)
    return call(how, inputs, inplace, key, generator, mask, return_mask)


def _select(
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    shared: tuple[int, ...],
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: Mask | None,
    return_mask: bool,
    scaled: bool = True,
) -> Any:
    """Drop, along these shared axes."""
    p = _checked(input, p, training, key, generator, mask)
    if _keeps_all(p, training, mask):
        return _kept(input, input, return_mask)
    return _drop("select", (input,), p, inplace, shared, key, generator, mask, return_mask, scaled)


def _fused(
    operation: str,
    inputs: tuple[Tensor, ...],
    p: float,
    training: bool,
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: Mask | None,
    return_mask: bool,
) -> Any:
    """Run a fused operation. Evaluation does its other part."""
    p = _checked(inputs[0], p, True, key, generator, mask)
    if not _keeps_all(p, training, mask):
        return _drop(operation, inputs, p, False, (), key, generator, mask, return_mask)
    y = call(How(operation, 0.0, (), 1.0), inputs, False, no_key(), None, None, False)
    return _kept(y, inputs[0], return_mask)


def _alpha(
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    shared: tuple[int, ...],
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: Mask | None,
    return_mask: bool,
) -> Any:
    p = _checked(input, p, training, key, generator, mask)
    if _keeps_all(p, training, mask):
        return _kept(input, input, return_mask)
    p = float(p) if mask is None else mask.p
    how = How("affine", p, shared, *alpha_numbers(p))
    return call(how, (input,), inplace, key, generator, mask, return_mask)


def _blocks(
    ndim: int,
    input: Tensor,
    p: float,
    block_size: int | tuple[int, ...],
    training: bool,
    inplace: bool,
    scale_by_keep: bool,
    key: Key | Tensor | None,
    generator: torch.Generator | None,
    mask: BlockMask | None,
    return_mask: bool,
) -> Any:
    if input.dim() != ndim:
        raise ValueError(f"input must have {ndim} axes, got {input.dim()}")
    block = as_lengths(block_size, ndim - 2, "block_size")
    scaled = as_flag(scale_by_keep, "scale_by_keep")
    p = _checked(input, p, training, key, generator, mask)
    if _keeps_all(p, training, mask):
        return _kept(input, input, return_mask)
    return _drop(
        "select", (input,), p, inplace, (), key, generator, mask, return_mask, scaled, block
    )


# Calls of `F.dropout` and the like are leaves of a trace.
for _name in (
    "dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d", "drop_path",
    "locked_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout_add", "bias_dropout_add",
    "relu_dropout", "gelu_dropout", "drop_block1d", "drop_block2d", "drop_block3d",
):  # fmt: skip
    torch.fx.wrap(_name)
