"""Concrete dropout: relaxed masks, so that the probability to drop can be learned."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastdrop._base.arguments import as_count, as_number
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import Numbers
from fastdrop._family.concrete import (
    MOST_ODDS,
    ConcreteMask,
    as_temperature,
    logit_of,
    probability_of,
)
from fastdrop.torch._arguments import check_tensor, checked, refusal
from fastdrop.torch._call import RELAXED, How, is_distributed, takes
from fastdrop.torch._dispatch import dispatch
from fastdrop.torch._modules import Module, check_probability


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
    check_tensor(input, "input")
    temperature = as_temperature(temperature)
    _, source = checked((0.5, training, False, key, generator, mask, return_mask), "", ConcreteMask)
    if mask is not None:
        source, logit, temperature = Mask(mask.shape, 0.5, mask.key), mask.logit, mask.temperature
    number = 0.0
    if isinstance(logit, Tensor):
        if logit.numel() != 1 or not takes(logit):
            raise ValueError(
                "logit must be a number or a dense CPU tensor of one float, got a tensor of shape "
                f"{tuple(logit.shape)} and {logit.dtype} on {logit.device}"
            )
    else:
        number = as_number(logit, "logit")
        logit = torch.tensor(number, dtype=torch.float64, device=input.device)
        if is_distributed(input):
            from fastdrop.torch import _distributed

            logit = _distributed.replicated(logit, input)
    if not training or number == -math.inf:
        kept = ConcreteMask(tuple(input.shape), -math.inf, temperature, NO_KEY)
        return (input, kept) if return_mask else input
    if not takes(input):
        raise refusal(input, "input")
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
    check_tensor(weight, "weight")
    if not takes(weight):
        raise refusal(weight, "weight")
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


class ConcreteDropout(Module):
    """Drop in a relaxed way in training, with a learned probability: `functional.concrete_dropout`.

    The parameter is `logit`. Add the result of `regularization` to the loss.

    Parameters
    ----------
    p : float, default 0.1
        Initial probability to DROP an element, in [0, 1]. (Training never leaves 0 or 1.)
    temperature, weight_regularizer, dropout_regularizer
        See `fastdrop.concrete_dropout` and `fastdrop.concrete_regularization`.
    device, dtype
        Device and dtype of `logit`.

    Examples
    --------
    >>> drop, linear = fastdrop.torch.ConcreteDropout(0.1), torch.nn.Linear(4, 2)
    >>> loss = linear(drop(torch.ones(3, 4))).square().mean() + drop.regularization(linear.weight)
    >>> loss.backward()
    >>> drop.logit.grad.shape
    torch.Size([])
    """

    def __init__(
        self,
        p: float = 0.1,
        temperature: float = 0.1,
        *,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        self.inplace = False
        self.temperature = as_temperature(temperature)
        self.weight_regularizer = as_number(weight_regularizer, "weight_regularizer", 0.0)
        self.dropout_regularizer = as_number(dropout_regularizer, "dropout_regularizer", 0.0)
        self.logit = nn.Parameter(torch.tensor(_logit(p), device=device, dtype=dtype))

    @property
    def p(self) -> float:
        """Probability to drop. Setting it sets the parameter."""
        return probability_of(float(self.logit.detach()))

    @p.setter
    def p(self, p: float) -> None:
        with torch.no_grad():
            self.logit.fill_(_logit(p))

    def forward(self, input: Tensor) -> Any:
        """Drop in training; return `input` in evaluation."""
        return self._call(concrete_dropout, input, logit=self.logit, temperature=self.temperature)

    def regularization(self, weight: Tensor, inputs: int | None = None) -> Tensor:
        """Return the loss term of this module, as `functional.concrete_regularization` does.

        `weight` has shape (outputs, inputs, ...) and belongs to the next module. `inputs`, the
        number of inputs that are dropped, is the length of axis 1 if not given.
        """
        if inputs is None:
            if weight.dim() < 2:
                raise RuntimeError(
                    f"weight must have the axes (outputs, inputs, ...), got {weight.dim()}"
                )
            inputs = weight.shape[1]
        return concrete_regularization(
            weight,
            self.logit,
            inputs,
            weight_regularizer=self.weight_regularizer,
            dropout_regularizer=self.dropout_regularizer,
        )

    def _first_arguments(self) -> list[str]:
        return [f"p={self.p}", f"temperature={self.temperature}"]


def _logit(p: float) -> float:
    check_probability(p)
    return logit_of(p)
