"""Functions of tensors. Each draws its key from torch's generator, or takes a given one.

Arguments, warnings and types of errors are those of torch's functions, where torch has them. All
functions also take:

key : Key or tensor of 2 int64, optional
    Key of the mask. A compiled function takes a tensor, from `key_tensor`.
generator : torch.Generator, optional
    Generator on the CPU to draw the key from, instead of the default one.
mask : Mask, or the recipe that the function returns, optional
    Mask to apply, with its own p, such as a shard's region of the whole mask.
return_mask : bool, default False
    Whether to return the mask as well, for an equal call or for `fastdrop.Mask.apply`.

Only one of `key`, `generator` and `mask` can be given. In evaluation, and for p = 0, the result is
the input itself, and nothing is drawn. Masks depend on an element's index in C order, not on the
memory layout. Tensors are float32, float64, float16 or bfloat16, on the CPU.
"""

import math
import warnings
from collections.abc import Sequence
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.fx
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.nn.functional import embedding

from fastdrop._base.arguments import (
    REAL_DTYPES,
    Axes,
    as_count,
    as_finite,
    as_flag,
    as_lengths,
    as_number,
    check_given,
    either,
    shown,
)
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, inverse_keep, make_mask
from fastdrop._base.members import NO_AXES, Member, Numbers
from fastdrop._base.plans import check_alone
from fastdrop._family.activations import SILU, Activation, activation_member
from fastdrop._family.alpha import ALPHA, CHANNELS_ALPHA
from fastdrop._family.attention import Causal
from fastdrop._family.blocks import BLOCKS_1D, BLOCKS_2D, BLOCKS_3D, BlockMask
from fastdrop._family.concrete import MOST_ODDS, ConcreteMask, as_temperature
from fastdrop._family.dropout import DROPOUT
from fastdrop._family.fused import ADD, BIAS_ADD, RELU, Approximate, gelu_member
from fastdrop._family.gaussian import GAUSSIAN, Noise
from fastdrop._family.patches import PatchMask, kept_tokens
from fastdrop._family.shared import CHANNELS, CHANNELS_1D, CHANNELS_2D, CHANNELS_3D, LOCKED, PATH
from fastdrop._family.weights import CONNECTIONS, WORDS
from fastdrop._family.zoneout import ZONEOUT
from fastdrop.torch._attention import attention
from fastdrop.torch._call import RELAXED, How, is_distributed, takes
from fastdrop.torch._connect import linear
from fastdrop.torch._dispatch import Source, children, dispatch, kept_places, no_key, select_kept
from fastdrop.torch._keys import CallKeys, SharedKey
from fastdrop.torch._patches import positions_of, taken

Request: TypeAlias = tuple[
    Any,
    bool,
    bool,
    Any,
    torch.Generator | None,
    Mask | BlockMask | Noise | ConcreteMask | None,
    bool,
]
"""The arguments that all functions share: p, training, inplace, key, generator, mask, return_mask.
"""


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop elements at random: `torch.nn.functional.dropout`.

    A dropped element is +0.0, even where the input is infinite or NaN. For p = 1 all are dropped.
    Elements share a decision along the axes `broadcast_dims`; negative ones count from the end.

    >>> y, mask = F.dropout(torch.ones(2, 4), 0.5, key=fd.Key(0), return_mask=True)
    >>> y
    tensor([[2., 2., 2., 0.],
            [2., 0., 2., 0.]])
    >>> bool((mask.apply(torch.ones(2, 4)) == y.numpy()).all())
    True
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(DROPOUT, (input,), request, _broadcast(input, broadcast_dims))


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
    """Drop whole channels of inputs of shape (N, C, ...): `torch.feature_dropout`.

    >>> F.feature_dropout(torch.ones(1, 2, 3), 0.5, key=fd.Key(1))
    tensor([[[0., 0., 0.],
             [2., 2., 2.]]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(CHANNELS, (input,), request, _channels(input))


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
    """Drop whole channels of inputs of shape (N, C, L) or (C, L).

    >>> F.dropout1d(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 0., 0.],
            [2., 2., 2.]])
    """
    if _ndim(input) not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input"
        )
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(CHANNELS_1D, (input,), request, _channels(input, input.dim() == 3))


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
    """Drop whole channels of inputs of shape (N, C, H, W).

    An input with three axes is read as (N, C, L) with a warning, as in torch.

    >>> F.dropout2d(torch.ones(1, 4, 5, 5), 0.5, key=fd.Key(1)).mean((2, 3))
    tensor([[0., 2., 0., 0.]])
    """
    if _ndim(input) == 3:
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
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(CHANNELS_2D, (input,), request, _channels(input))


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
    """Drop whole channels of inputs of shape (N, C, D, H, W) or (C, D, H, W).

    >>> F.dropout3d(torch.ones(4, 2, 5, 5), 0.5, key=fd.Key(1)).mean((1, 2, 3))
    tensor([0., 2., 0., 0.])
    """
    if _ndim(input) not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, which is meant for 5 axes, "
            "(N, C, D, H, W), or 4 without N; for others, use feature_dropout",
            stacklevel=2,
        )
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(CHANNELS_3D, (input,), request, _channels(input, input.dim() == 5))


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
    request = p, training, inplace, key, generator, mask, return_mask
    shared = PATH.axes(tuple(input.shape), ("sample", 0)) if _ndim(input) else ()
    return _drop(PATH, (input,), request, shared, _mode(scale_by_keep))


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
    if not -_ndim(input) <= time_axis < input.dim():
        raise IndexError(f"time_axis must be an axis of input, got {time_axis}")
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(LOCKED, (input,), request, LOCKED.axes(tuple(input.shape), time_axis))


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Set elements to SELU's lower limit, and keep mean 0 and variance 1.

    As in torch, `training` is False by default. `broadcast_dims` is as for `dropout`.

    >>> F.alpha_dropout(torch.zeros(4), 0.5, True, key=fd.Key(2))
    tensor([-0.7792,  0.7792,  0.7792, -0.7792])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(ALPHA, (input,), request, _broadcast(input, broadcast_dims))


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
    """Set whole channels of inputs of shape (N, C, ...) to SELU's lower limit.

    As in torch, `training` is False by default.

    >>> F.feature_alpha_dropout(torch.zeros(1, 2, 2), 0.5, True, key=fd.Key(1))
    tensor([[[-0.7792, -0.7792],
             [ 0.7792,  0.7792]]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(CHANNELS_ALPHA, (input,), request, _channels(input))


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
    request = p, training, False, key, generator, mask, return_mask
    return _drop(ADD, (input, residual), request)


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
    request = p, training, False, key, generator, mask, return_mask
    return _drop(BIAS_ADD, (input, bias, residual), request)


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
    return _drop(RELU, (input,), (p, training, False, key, generator, mask, return_mask))


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
    request = p, training, False, key, generator, mask, return_mask
    return _drop(gelu_member(approximate), (input,), request)


def silu_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply the sigmoid-weighted linear unit, then drop.

    >>> F.silu_dropout(torch.tensor([1.0, -2.0, 3.0, 4.0]), 0.5, key=fd.Key(0))
    tensor([ 1.4621, -0.4768,  5.7154,  0.0000])
    """
    return _drop(SILU, (input,), (p, training, False, key, generator, mask, return_mask))


def activation_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    activation: Activation,
    negative_slope: float | None = None,
    alpha: float | None = None,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Apply an activation, then drop: `fastdrop.activation_dropout`.

    >>> x = torch.tensor([1.0, -2.0, 3.0, 4.0])
    >>> F.activation_dropout(x, 0.5, activation="elu", key=fd.Key(0))
    tensor([ 2.0000, -1.7293,  6.0000,  0.0000])
    """
    member, shift = activation_member(activation, negative_slope, alpha)
    request = p, training, False, key, generator, mask, return_mask
    return _drop(member, (input,), request, shift=shift)


def gaussian_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    broadcast_dims: Axes = (),
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Noise | None = None,
    return_mask: bool = False,
) -> Any:
    """Multiply by normal noise with the mean and variance of dropout: `fastdrop.gaussian_dropout`.

    `mask` is a `Noise`, and `broadcast_dims` is as for `dropout`.

    >>> F.gaussian_dropout(torch.ones(4), 0.5, key=fd.Key(0))
    tensor([0.3145, 0.4553, 0.6043, 0.3420])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop(GAUSSIAN, (input,), request, _broadcast(input, broadcast_dims))


def zoneout(
    new: Tensor,
    previous: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Keep the previous state of some units in training; in evaluation, take the expectation.

    See `fastdrop.zoneout`. `previous` broadcasts to the shape of `new`. `p` is the probability to
    keep the PREVIOUS value of a unit. Dtypes are promoted as in `dropout_add`.

    >>> F.zoneout(torch.ones(6), torch.zeros(6), 0.5, key=fd.Key(1))
    tensor([0., 1., 0., 0., 0., 1.])
    >>> F.zoneout(torch.ones(4), torch.zeros(4), 0.25, training=False)
    tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    request = p, training, False, key, generator, mask, return_mask
    return _drop(ZONEOUT, (new, previous), request, (), "standard")


def embedding_dropout(
    weight: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    indices: Tensor | None = None,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole words, rows of an embedding table: `fastdrop.embedding_dropout`.

    The result is the table, or, of shape indices.shape + (dimension,), the rows of `indices`. All
    occurrences of a word share its decision. The mask has shape (vocabulary, 1).

    >>> F.embedding_dropout(torch.ones(4, 2), 0.5, indices=torch.tensor([1, 0]), key=fd.Key(1))
    tensor([[2., 2.],
            [0., 0.]])
    """
    request = p, training, False, key, generator, mask, return_mask
    _check_tensor(weight, "weight")
    if weight.dim() != 2:
        raise RuntimeError(f"weight must have 2 axes, (vocabulary, dimension), got {weight.dim()}")
    if indices is None:
        return _drop(WORDS, (weight,), request, (1,))
    _check_tensor(indices, "indices")
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"indices must have dtype int64 or int32, got {indices.dtype}")
    return _look_up(weight, indices, request)


def drop_connect(
    weight: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop connections: single weights, with one mask for all examples of a call.

    See `fastdrop.drop_connect`. For a mask per example, see `drop_connect_linear`.

    >>> F.drop_connect(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 2., 0.],
            [0., 0., 2.]])
    """
    return _drop(CONNECTIONS, (weight,), (p, training, False, key, generator, mask, return_mask))


def weight_drop(
    weights: Sequence[Tensor],
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Sequence[Mask] | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop connections of several weights, once for all time steps: `fastdrop.weight_drop`.

    Returns the list of weights to use for one sequence. Weight number i is dropped with the key
    ``key.fold_in(i)``. `mask` has a mask for each weight.

    >>> forget, update = F.weight_drop([torch.ones(2, 2)] * 2, 0.5, key=fd.Key(1))
    >>> update
    tensor([[0., 0.],
            [2., 0.]])
    """
    if isinstance(weights, Tensor) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of tensors, got {type(weights).__name__}")
    tensors = tuple(weights)
    if mask is not None:
        if not isinstance(mask, Sequence):
            raise TypeError(f"mask must be a sequence of masks, got {shown(mask)}")
        if len(mask) != len(tensors):
            raise ValueError(
                f"mask must have length {len(tensors)}, one per weight, got {len(mask)}"
            )
    given = list(mask) if mask is not None else [None] * len(tensors)
    rate, source = _checked(
        (p, training, False, key, generator, given[0] if given else None, False)
    )
    for n, weight in enumerate(tensors):
        _check_tensor(weight, f"weights[{n}]")
        if training and not takes(weight):
            raise _refusal(weight, f"weights[{n}]")
    keys: list[Any] = [None] * len(tensors)
    if training and rate != 0.0 and mask is None and tensors:
        keys = children(source, tensors)
    results = [
        _drop(CONNECTIONS, (weight,), (p, training, False, own, None, one, return_mask))
        for weight, own, one in zip(tensors, keys, given, strict=True)
    ]
    if not return_mask:
        return results
    return [y for y, _ in results], [recipe for _, recipe in results]


def concrete_dropout(
    input: Tensor,
    logit: Tensor | float,
    temperature: float = 0.1,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: ConcreteMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop in a relaxed way, so that the probability to drop can be learned.

    See `fastdrop.concrete_dropout`. `logit` is log(p / (1 - p)) of the probability p to DROP, a
    tensor of one element, which gets a gradient, or a number. A `mask`, a `ConcreteMask`, replaces
    `logit` and `temperature`. For `logit` there are derivatives up to the second.

    >>> logit = torch.tensor(0.5, requires_grad=True)
    >>> F.concrete_dropout(torch.ones(4), logit, key=fd.Key(0)).sum().backward()
    >>> logit.grad
    tensor(4.9455)
    """
    _check_tensor(input, "input")
    temperature = as_temperature(temperature)
    _, source = _checked(
        (0.5, training, False, key, generator, mask, return_mask), "", ConcreteMask
    )
    if mask is not None:
        source, logit, temperature = Mask(mask.shape, 0.5, mask.key), mask.logit, mask.temperature
    number = 0.0
    if isinstance(logit, Tensor):
        if logit.numel() != 1 or not takes(logit):
            raise ValueError(
                "logit must be a float or a tensor of one, got one of shape "
                f"{tuple(logit.shape)} and {logit.dtype} on {logit.device}"
            )
    else:
        number = as_number(logit, "logit")
        logit = torch.tensor(number, dtype=torch.float64, device=input.device)
    if not training or number == -math.inf:
        kept = ConcreteMask(tuple(input.shape), -math.inf, temperature, NO_KEY)
        return (input, kept) if return_mask else input
    if not takes(input):
        raise _refusal(input, "input")
    how = How(RELAXED, 0.5, (), Numbers(1.0, temperature), dtype=input.dtype)
    y = dispatch(how, (input, logit), source, False, return_mask)
    if not return_mask:
        return y
    y, drawn = y
    return y, ConcreteMask(drawn.shape, float(logit.detach()), temperature, drawn.key)


def concrete_regularization(
    weight: Tensor,
    logit: Tensor | float,
    inputs: int,
    *,
    weight_regularizer: float = 1e-6,
    dropout_regularizer: float = 1e-5,
) -> Tensor:
    """Return a layer's loss term, without which concrete dropout could learn to drop nothing.

    See `fastdrop.concrete_regularization`. The result has gradients for `weight`, the weights of
    the layer after the dropout, and for `logit`.

    >>> F.concrete_regularization(torch.ones(2, 3), 0.0, 3)
    tensor(-8.7944e-06)
    """
    _check_tensor(weight, "weight")
    if not takes(weight):
        raise _refusal(weight, "weight")
    count = as_count(inputs, "inputs")
    w = as_number(weight_regularizer, "weight_regularizer", 0.0)
    d = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
    wide = torch.promote_types(weight.dtype, torch.float32)
    a = torch.as_tensor(logit).double().clamp(-1e4, 1e4)
    # exp of the smaller, with the derivative of exp.
    odds = torch.exp(a - (a - a.clamp(max=MOST_ODDS)).detach())
    zero = torch.zeros_like(a)
    entropy = torch.sigmoid(a) * torch.logaddexp(zero, -a)
    entropy = entropy + torch.sigmoid(-a) * torch.logaddexp(zero, a)
    squares = weight.to(wide).square().sum(dtype=torch.float64)
    return (w * squares * (1.0 + odds) - d * count * entropy).to(wide)


def drop_connect_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
    *,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Map linearly, with connections dropped for each example: `fastdrop.drop_connect_linear`.

    `input` has shape (..., inputs), `weight` (outputs, inputs), and the mask (examples, outputs,
    inputs). Neither the mask nor the weights of all examples are stored.

    >>> F.drop_connect_linear(torch.ones(2, 4), torch.ones(3, 4), key=fd.Key(0))
    tensor([[6., 4., 2.],
            [4., 8., 4.]])
    """
    _check_tensor(input, "input")
    _check_tensor(weight, "weight")
    others = [(weight, "weight")] if bias is None else [(weight, "weight"), (bias, "bias")]
    for x, name in ((input, "input"), *others):
        _check_tensor(x, name)
        if not takes(x):
            raise _refusal(x, name)
    if weight.dim() != 2:
        raise RuntimeError(f"weight must have 2 axes, (outputs, inputs), got {weight.dim()}")
    if input.shape[-1:] != weight.shape[1:]:
        raise RuntimeError(
            f"input must have the shape (..., {weight.shape[1]}), got {tuple(input.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(
            f"bias must have the shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}"
        )
    p, source = _checked((p, training, False, key, generator, mask, return_mask))
    dtype = input.dtype
    for x, _ in others:
        dtype = torch.promote_types(dtype, x.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    rows, weights = input.reshape(-1, input.shape[-1]).to(wide), weight.to(wide)
    shape = (rows.shape[0], *weight.shape)
    applied: Mask | None
    if training and (mask is not None or p != 0.0):
        if mask is not None and mask.shape != shape:
            raise ValueError(f"mask must be of shape {shape}, got {mask.shape}")
        rate = float(p) if mask is None else mask.p
        y, applied = linear(rows, weights, source, rate, inverse_keep(rate))
    else:
        with torch.autocast("cpu", enabled=False):  # the precision is that of training
            y = rows @ weights.T
        applied = make_mask(shape, 0.0, NO_KEY) if return_mask else None
    if bias is not None:
        y = y + bias.to(wide)
    y = y.to(dtype).reshape(*input.shape[:-1], weight.shape[0])
    if not return_mask:
        return y
    if applied is None:
        raise _UNKNOWN_MASK
    return y, applied


def patch_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    prefix: int = 0,
    ordered: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: PatchMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole tokens of sequences, and return the shorter sequences: `fastdrop.patch_dropout`.

    `input` has shape (batch, tokens, ...). The first `prefix` tokens always stay. The result is
    ``(tokens, indices)``, with the positions of the tokens that stay, of shape (batch, kept).

    >>> x = torch.arange(12.0).reshape(2, 6)
    >>> F.patch_dropout(x, 0.5, prefix=1, key=fd.Key(2))
    (tensor([[ 0.,  3.,  4.],
            [ 6., 10., 11.]]), tensor([[0, 3, 4],
            [0, 4, 5]]))
    """
    if _ndim(input) < 2:
        raise RuntimeError(
            f"input must have at least 2 axes, (batch, tokens, ...), got {input.dim()}"
        )
    if is_distributed(input):
        raise RuntimeError("input of patch_dropout must not be a DTensor, got one")
    if training and not takes(input):
        raise _refusal(input, "input")
    first, ordered = as_count(prefix, "prefix"), as_flag(ordered, "ordered")
    p, source = _checked((p, training, False, key, generator, mask, return_mask), recipe=PatchMask)
    batch, tokens = input.shape[:2]
    if mask is not None:
        if mask.shape != (batch, tokens):
            raise ValueError(f"mask must be of shape {(batch, tokens)}, got {mask.shape}")
        p, first, ordered = mask.p, mask.prefix, mask.ordered
    p = p if training else 0.0
    kept_tokens(p, tokens, first)
    if p == 0.0:
        positions = torch.arange(tokens, device=input.device).repeat(batch, 1)
        y = input
        applied = PatchMask((batch, tokens), 0.0, NO_KEY, first, ordered) if return_mask else None
    else:
        positions, applied = positions_of(input, source, float(p), first, ordered)
        y = taken(input, positions)
    if not return_mask:
        return y, positions
    if applied is None:
        raise _UNKNOWN_MASK
    return y, positions, applied


_UNKNOWN_MASK = RuntimeError(
    "return_mask must be False in a compiled or transformed function, got True"
)


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
    """Drop stretches of inputs of shape (N, C, L): `fastdrop.drop_block1d`.

    >>> F.drop_block1d(torch.ones(1, 1, 10), 0.5, 3, key=fd.Key(1))
    tensor([[[0., 0., 0., 2., 2., 2., 2., 0., 0., 0.]]])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_1D, 1, input, block_size, scale_by_keep, request)


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
    """Drop rectangles of inputs of shape (N, C, H, W): `fastdrop.drop_block2d`.

    >>> F.drop_block2d(torch.ones(1, 1, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_2D, 2, input, block_size, scale_by_keep, request)


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
    """Drop boxes of inputs of shape (N, C, D, H, W): `fastdrop.drop_block3d`.

    >>> F.drop_block3d(torch.ones(1, 1, 4, 4, 4), 0.5, 2, key=fd.Key(3)).shape
    torch.Size([1, 1, 4, 4, 4])
    """
    request = p, training, inplace, key, generator, mask, return_mask
    return _drop_blocks(BLOCKS_3D, 3, input, block_size, scale_by_keep, request)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: Causal = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    dropout_key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    dropout_mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Attend with dropout of the weights: `torch.nn.functional.scaled_dot_product_attention`.

    Neither the weights nor the mask are stored. Their mask has the shape (..., queries, keys), and
    is the one that `dropout` applies to a stored softmax with the same key. The result lies in
    memory as (N, L, H, E), so that merging the heads needs no copy. `is_causal` may also be
    "lower_right", and go with an `attn_mask`. Gradients of gradients, forward-mode differentiation
    and DTensors store the weights.

    >>> q = k = v = torch.ones(1, 2, 3, 4)
    >>> F.scaled_dot_product_attention(q, k, v, None, 0.5, dropout_key=fd.Key(1))[0, 0, :, 0]
    tensor([0.6667, 0.6667, 0.6667])
    """
    request = dropout_p, True, False, dropout_key, generator, dropout_mask, return_mask
    p, source = _checked(request, "dropout_")
    for x, name in ((query, "query"), (key, "key"), (value, "value")):
        _check_tensor(x, name)
        if not takes(x):
            raise _refusal(x, name)
        if x.dim() < 2:
            raise RuntimeError(f"{name} must have at least 2 axes, got {x.dim()}")
    if attn_mask is not None and not isinstance(attn_mask, CausalBias):
        _check_tensor(attn_mask, "attn_mask")
        if attn_mask.dtype is not torch.bool and not takes(attn_mask):
            raise _refusal(attn_mask, "attn_mask")
    p = float(p) if dropout_mask is None else dropout_mask.p
    scale = None if scale is None else as_finite(scale, "scale")
    inputs = query, key, value, attn_mask
    return attention(inputs, p, is_causal, scale, enable_gqa, source, return_mask)


def _ndim(input: Tensor) -> int:
    """Return the number of axes of what must be a tensor."""
    _check_tensor(input, "input")
    return input.dim()


def _channels(input: Tensor, has_batch: bool = True) -> tuple[int, ...]:
    """Return the axes of inputs of shape (N, C, ...) or (C, ...) that share a decision."""
    ndim = _ndim(input) + (not has_batch)
    if ndim < 2:
        raise RuntimeError(f"input must have at least 2 axes, (N, C, ...), got {input.dim()}")
    shared = CHANNELS.axes((1,) * ndim, 1)
    return shared if has_batch else tuple(axis - 1 for axis in shared)


def _broadcast(input: Tensor, broadcast_dims: Axes) -> tuple[int, ...]:
    """Return the axes that the user names."""
    if broadcast_dims is NO_AXES:
        return ()
    shape = tuple(input.shape) if _ndim(input) else ()
    try:
        return DROPOUT.axes(shape, broadcast_dims)
    except ValueError as error:
        raise IndexError(str(error)) from None


def _mode(scale_by_keep: bool) -> str | None:
    return "inverted" if as_flag(scale_by_keep, "scale_by_keep") else None


_RECIPES: dict[type, tuple[type, ...]] = {Mask: (Mask, BlockMask), BlockMask: (Mask, BlockMask)}
"""Recipes that functions take in place of that of their member."""


def _checked(request: Request, prefix: str = "", recipe: type = Mask) -> tuple[float, Source]:
    """Check the arguments that functions share, and return p and the source of the mask."""
    p, _, _, key, generator, mask, _ = request
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{prefix}p must be a number in [0, 1], got {p!r}")
    if type(p) is not float and isinstance(p, Tensor) and p.requires_grad:
        raise TypeError(
            f"{prefix}p must be a number in [0, 1], got a tensor that requires a gradient"
        )
    if (key is not None) + (generator is not None) + (mask is not None) > 1:
        names = f"{prefix}key, generator and {prefix}mask"
        raise ValueError(f"only one of {names} must be given")
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


def _check_tensor(x: Any, name: str) -> None:
    if isinstance(x, Tensor):
        return
    traced = ": in a trace, call fastdrop.torch.functional by its full name, or torch.fx.wrap"
    kind = type(x).__name__
    raise TypeError(f"{name} must be a tensor, got {kind}{traced if kind == 'Proxy' else ''}")


def _refusal(x: Tensor, name: str) -> Exception:
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
    raise _refusal(x, name)


def _drop(
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
    for x, name in zip(inputs[1:], member.names[1:], strict=True):
        _check_other(x, name)
    p, source = _checked(request, recipe=member.recipe)
    _, training, inplace, _, _, mask, return_mask = request
    _check_tensor(inputs[0], first)
    if (training or member.fuses) and not takes(inputs[0]):
        raise _refusal(inputs[0], first)
    rate: float = p
    if mask is not None:
        check_alone(member, shared)
        rate = mask.p
        source = mask.elements if isinstance(mask, Noise) else mask
    y: Any
    if training and (mask is not None or p != 0.0):
        how = How.of(member, float(rate), shared, mode)
        if shift:
            how = how._replace(numbers=how.numbers._replace(shift=shift))
        y = dispatch(how._replace(block=block), inputs, source, inplace, return_mask)
    else:
        y = inputs[0]
        if member.fuses:
            how = _evaluation(member, float(rate) if not training else 0.0, mode, shift)
            y = dispatch(how, inputs, no_key())
        y = (y, make_mask(tuple(inputs[0].shape), 0.0, NO_KEY)) if return_mask else y
    return (y[0], Noise(y[1])) if return_mask and member.recipe is Noise else y


def _evaluation(member: Member, p: float, mode: str | None, shift: float) -> How:
    """Return the settings of a call in evaluation."""
    scale = 1.0 - p if mode == "standard" else 1.0
    if member.expectation is not None and 0.0 < p < 1.0:
        return How(member.expectation, 0.0, (), Numbers(scale, p))
    return How(member.operation, 0.0, (), Numbers(scale, shift))


def _look_up(weight: Tensor, indices: Tensor, request: Request) -> Any:
    """Return rows of a table whose words are dropped."""
    p, source = _checked(request)
    _, training, _, _, _, mask, return_mask = request
    vocabulary = weight.shape[0]
    if not training or (mask is None and p == 0.0):
        y = embedding(indices, weight)
        return (y, make_mask((vocabulary, 1), 0.0, NO_KEY)) if return_mask else y
    if indices.numel() > vocabulary:
        dropped = _drop(WORDS, (weight,), request, (1,))
        table, recipe = dropped if return_mask else (dropped, None)
        y = embedding(indices, table)
    else:
        how = How.of(WORDS, float(p) if mask is None else mask.p)
        width = 1 if mask is None else (1, *mask.shape)[-1]
        kept, recipe = kept_places(how, (vocabulary, width), source, weight)
        if return_mask and recipe is None:
            raise _UNKNOWN_MASK
        y = select_kept(how, kept[indices], embedding(indices, weight))
    return (y, recipe) if return_mask else y


def _drop_blocks(
    member: Member,
    ndim: int,
    input: Tensor,
    block_size: int | tuple[int, ...],
    scale_by_keep: bool,
    request: Request,
) -> Any:
    if _ndim(input) != ndim + 2:
        raise ValueError(f"input must have {ndim + 2} axes, got {input.dim()}")
    block = as_lengths(block_size, ndim, "block_size")
    return _drop(member, (input,), request, (), _mode(scale_by_keep), block)


# Make calls of `F.dropout` and the like leaves of a trace.
for _name, _thing in list(globals().items()):
    if isinstance(_thing, FunctionType) and _thing.__module__ == __name__ and _name[0] != "_":
        torch.fx.wrap(_name)
