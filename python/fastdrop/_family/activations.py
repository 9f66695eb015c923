"""Activations fused with dropout: a table of records, reached by name.

ReLU and GELU, which are used most, stand in `fused.py`.
"""

from functools import lru_cache, partial
from typing import Any, Literal, Never

from numpy.typing import ArrayLike

from fastdrop._base.arguments import Array, Mode, as_finite, refuse, shown
from fastdrop._base.keys import RNG
from fastdrop._base.members import Member, Numbers, scaled
from fastdrop._base.plans import Keep, run, run_backward
from fastdrop._family.fused import GELU, GELU_TANH, RELU, ActivationLayer

SILU = Member("silu_dropout", "Elfwing et al., Neural Networks 2018", operation="silu")
LEAKY_RELU = Member("activation_dropout", "Maas et al., ICML 2013", operation="leaky_relu")
ELU = Member("activation_dropout", "Clevert et al., ICLR 2016", operation="elu")
TANH = Member("activation_dropout", "LeCun et al., 1998", operation="tanh")
SIGMOID = Member("activation_dropout", "LeCun et al., 1998", operation="sigmoid")
RELU6 = Member("activation_dropout", "Krizhevsky, 2010", operation="relu6")
HARDSWISH = Member("activation_dropout", "Howard et al., ICCV 2019", operation="hardswish")

Activation = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "leaky_relu", "elu", "tanh", "sigmoid", "relu6",
    "hardswish",
]  # fmt: skip

_MEMBERS = {
    member.operation: member
    for member in (
        RELU, GELU, GELU_TANH, SILU, LEAKY_RELU, ELU, TANH, SIGMOID, RELU6, HARDSWISH,
    )
}  # fmt: skip
PARAMETERS = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0)}
"""Name and default of an activation's parameter, which is the `shift` of its operation."""


def activation_member(
    activation: str, negative_slope: float | None = None, alpha: float | None = None
) -> tuple[Member, float]:
    """Return the record of an activation, and its parameter; 0 if it has none."""
    if not (isinstance(activation, str) and activation in _MEMBERS):
        names = ", ".join(map(repr, _MEMBERS))
        raise ValueError(f"activation must be one of {names}, got {shown(activation)}")
    name, parameter = PARAMETERS.get(activation, ("", 0.0))
    for given, value in (("negative_slope", negative_slope), ("alpha", alpha)):
        if value is None:
            continue
        if given != name:
            raise ValueError(f"{given} must not be given for {activation}, got {shown(value)}")
        parameter = as_finite(value, given)
    return _MEMBERS[activation], parameter


def _record(activation: str, negative_slope: float | None, alpha: float | None) -> Member:
    """Return the record of an activation with its parameter."""
    member, parameter = activation_member(activation, negative_slope, alpha)
    return _with_parameter(activation, parameter) if activation in PARAMETERS else member


@lru_cache(64)
def _with_parameter(activation: str, parameter: float) -> Member:
    member, numbers = _MEMBERS[activation], partial(_numbers, parameter)
    return Member(member.name, member.paper, operation=activation, numbers=numbers)


def _numbers(parameter: float, p: float, mode: str | None) -> Numbers:
    return Numbers(scaled(p, mode).scale, parameter)


def silu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Apply the sigmoid-weighted linear unit (SiLU, Swish), then drop.

    .. math:: y_i = m_i \, x_i / (1 + e^{-x_i}) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    See Elfwing et al., "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", Neural Networks 2018. `x` is real. Other parameters and the result are
    as for `dropout`.

    >>> fd.silu_dropout(np.array([1.0, 2.0, -3.0, 4.0]), 0.5, rng=1).round(4)
    array([0.    , 3.5232, 0.    , 0.    ])
    """
    if unknown:
        refuse(unknown, silu_dropout)
    return run(SILU, x, (p, training, mode, rng, mask, return_mask, out))


def silu_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Return the gradient of `silu_dropout` with respect to `x`.

    All arguments are as for `gelu_dropout_backward`.

    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.silu_dropout_backward(np.ones(4), x, 0.5, rng=fd.Key(1)).round(4)
    array([0.    , 2.1816, 0.    , 0.    ])
    """
    if unknown:
        refuse(unknown, silu_dropout_backward)
    return run_backward(SILU, dy, x, (p, training, mode, rng, mask, False, out))


def activation_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    activation: Activation,
    negative_slope: float | None = None,
    alpha: float | None = None,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    return_mask: bool = False,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    r"""Apply an activation, then drop.

    .. math:: y_i = m_i \, f(x_i) / (1 - p), \qquad m_i \sim Bernoulli(1 - p)

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Input of any shape and memory layout.
    activation : str
        Name of f:

        - "relu", "gelu", "gelu_tanh", "silu": see `relu_dropout`, `gelu_dropout`, `silu_dropout`;
        - "leaky_relu": x where it is positive, else ``negative_slope * x`` (Maas et al.,
          "Rectifier nonlinearities improve neural network acoustic models", ICML 2013);
        - "elu": x where it is positive, else ``alpha * (exp(x) - 1)`` (Clevert et al., "Fast and
          accurate deep network learning by exponential linear units", ICLR 2016);
        - "tanh", and "sigmoid", ``1 / (1 + exp(-x))`` (LeCun et al., "Efficient backprop", 1998);
        - "relu6": ``min(max(x, 0), 6)`` (Krizhevsky, "Convolutional deep belief networks on
          CIFAR-10", 2010);
        - "hardswish": ``x * min(max(x + 3, 0), 6) / 6`` (Howard et al., "Searching for
          MobileNetV3", ICCV 2019).
    negative_slope : float, default 0.01
        For "leaky_relu".
    alpha : float, default 1
        For "elu".
    p, training, mode, rng, mask, return_mask, out
        See `dropout`. Returns the same.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.activation_dropout(x, 0.5, activation="tanh", rng=1).round(4)
    array([0.    , 1.9281, 0.    , 0.    ])
    """
    if unknown:
        refuse(unknown, activation_dropout)
    member = _record(activation, negative_slope, alpha)
    return run(member, x, (p, training, mode, rng, mask, return_mask, out))


def activation_dropout_backward(
    dy: ArrayLike,
    x: ArrayLike,
    p: float = 0.5,
    *,
    activation: Activation,
    negative_slope: float | None = None,
    alpha: float | None = None,
    training: bool = True,
    mode: Mode = "inverted",
    rng: RNG = None,
    mask: Keep | None = None,
    out: Array | None = None,
    **unknown: Never,
) -> Any:
    """Return the gradient of `activation_dropout` with respect to `x`.

    At a corner it is that of PyTorch: 0 for "relu" and "relu6", and for "leaky_relu" that of
    negative numbers. Other arguments are as for `gelu_dropout_backward`.

    >>> x = np.array([1.0, 2.0, -3.0, 4.0])
    >>> fd.activation_dropout_backward(np.ones(4), x, 0.5, activation="relu6", rng=fd.Key(1))
    array([0., 2., 0., 0.])
    """
    if unknown:
        refuse(unknown, activation_dropout_backward)
    member = _record(activation, negative_slope, alpha)
    return run_backward(member, dy, x, (p, training, mode, rng, mask, False, out))


class SiluDropout(ActivationLayer):
    """Apply the sigmoid-weighted linear unit, then drop in training; the layer of `silu_dropout`.

    All is as for `ReluDropout`.

    >>> fd.SiluDropout(0.5, rng=0)(np.array([1.0, -2.0, 3.0, 4.0])).round(4)
    array([1.4621, 0.    , 5.7154, 0.    ])
    """

    _member = SILU


class ActivationDropout(ActivationLayer):
    """Apply an activation, then drop in training; the layer of `activation_dropout`.

    ``activation``, ``negative_slope`` and ``alpha`` are as for `activation_dropout`; all else is as
    for `ReluDropout`.

    >>> drop = fd.ActivationDropout(0.5, activation="elu", rng=0)
    >>> drop(np.array([1.0, -2.0, 3.0, 4.0]))
    array([2., 0., 6., 0.])
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        activation: Activation,
        negative_slope: float | None = None,
        alpha: float | None = None,
        mode: Mode = "inverted",
        rng: RNG = None,
    ) -> None:
        _record(activation, negative_slope, alpha)
        super().__init__(p, mode=mode, rng=rng)
        self.activation: Activation = activation
        self.negative_slope = negative_slope
        self.alpha = alpha

    @property
    def _member(self) -> Member:  # type: ignore[override]
        return _record(self.activation, self.negative_slope, self.alpha)
