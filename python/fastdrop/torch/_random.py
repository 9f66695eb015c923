"""Kernels for torch's own random numbers on the CPU: uniform, normal, exponential, and Bernoulli's.

Each call draws a key from its generator, and numbers from the key. The kernels stand below
autograd, batching and tracing, which remain torch's. Those in machine code, where torch has what
they need, take the frequent calls, and pass all others on to these.
"""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._prims_common.wrappers import _maybe_resize_out

from fastdrop import _core
from fastdrop.torch._call import DTYPES, lent
from fastdrop.torch._keys import draw_key
from fastdrop.torch._operator import LIBRARY

_aten = torch.ops.aten
_threads = torch.get_num_threads

_INTEGERS = {
    torch.bool: torch.bool,
    torch.uint8: torch.bool,
    torch.int8: torch.bool,
    torch.int16: torch.float16,
    torch.int32: torch.float32,
    torch.int64: torch.int64,
}
"""Dtypes that hold 0 and 1 as integers, and a dtype of the same size as which the core writes."""

_NAMES = {torch.uint8: "Byte", torch.int8: "Char", torch.int16: "Short", torch.int64: "Long"} | {
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}
"""Names of dtypes in torch's errors, where they differ."""

_SHARED = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)
_NO_PROBABILITY = (
    "Expected p_in >= 0 && p_in <= 1 to be true, but got false.  (Could this error message be "
    "improved?  If so, please report an enhancement request to PyTorch.)"
)

Generator: TypeAlias = torch.Generator | None


def register(library: torch.library.Library) -> None:
    """Add the kernels to those of a library that overrides torch's operators."""
    native = _core.native_random(True)
    for name, kernel in (_OTHERS if native else _KERNELS | _OTHERS).items():
        library.impl(name, kernel, "CPU")


def unregister() -> None:
    """Remove those that `register` did not add to the library."""
    _core.native_random(False)


def forget() -> None:
    """Clear torch's cached dispatch for the operators."""
    for name in _KERNELS | _OTHERS:
        packet, _, overload = name.partition(".")
        getattr(getattr(_aten, packet), overload or "default")._dispatch_cache.clear()


def _name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    for short, long in (("uint", "UInt"), ("float32", "Float"), ("int32", "Int")):
        name = name.replace(short, long)
    return _NAMES.get(dtype, name[0].upper() + name[1:])


def _check_dtype(x: Tensor, where: str) -> None:
    if x.dtype not in DTYPES:
        raise NotImplementedError(f"\"{where}\" not implemented for '{_name(x.dtype)}'")


def _draw(
    name: str, x: Tensor, numbers: tuple[float, float], generator: Generator, integer: bool = False
) -> None:
    """Draw into a tensor of a dtype that the core writes."""
    (target,) = lent(x)
    _core.check_numbers(name, *numbers, target)
    if x.numel() > 0:
        _core.draw_numbers(name, *numbers, target, integer, draw_key(generator), _threads())


def _uniform_(
    self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator = None
) -> Tensor:
    x = torch.view_as_real(self) if self.is_complex() else self
    _check_dtype(x, "check_uniform_bounds")
    _draw("uniform_", x, (from_, to), generator)
    return self


def _normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator = None
) -> Tensor:
    x = self
    if self.is_complex():
        _check_std(std)
        x, std = torch.view_as_real(self), std / math.sqrt(2.0)
    _check_dtype(x, "normal_kernel_cpu")
    _draw("normal_", x, (mean, std), generator)
    return self


def _exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator = None) -> Tensor:
    if not self.is_floating_point():
        raise RuntimeError(
            "Exponential distribution is a continuous probability distribution. dtype must be a "
            f"floating point but you specified {_name(self.dtype)}"
        )
    _check_dtype(self, "exponential_cpu")
    _draw("exponential_", self, (lambd, 0.0), generator)
    return self


def _bits(x: Tensor, where: str) -> tuple[Tensor, bool]:
    """Return a tensor as the core writes bits into it, and whether it holds integers."""
    integer = x.dtype in _INTEGERS
    if not integer:
        _check_dtype(x, where)
    return (x.view(_INTEGERS[x.dtype]) if integer else x), integer


def _bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator = None) -> Tensor:
    x, integer = _bits(self, "bernoulli_scalar_cpu_")
    _draw("bernoulli_", x, (p, 0.0), generator, integer)
    return self


def _bernoulli_of_(self: Tensor, p: Tensor, *, generator: Generator = None) -> Tensor:
    x, integer = _bits(self, "bernoulli_tensor_cpu_self_")
    p = p.expand(self.shape)
    _check_dtype(p, "bernoulli_tensor_cpu_p_")
    if torch._debug_has_internal_overlap(self) == 1:
        raise RuntimeError(_SHARED)
    if p.untyped_storage().data_ptr() == self.untyped_storage().data_ptr():
        p = p.clone()
    given, target = lent(p, x)
    if not _core.are_probabilities(given, _threads()):
        raise RuntimeError(_NO_PROBABILITY)
    if self.numel() > 0:
        _core.draw_below(given, target, integer, draw_key(generator), _threads())
    return self


def _bernoulli_out(self: Tensor, *, generator: Generator = None, out: Tensor) -> Tensor:
    return out.resize_(self.shape).bernoulli_(self, generator=generator)


# --- torch.normal with tensors -------------------------------------------------------------------


def _check_std(std: float | Tensor) -> None:
    if not isinstance(std, Tensor):
        if not std >= 0.0:
            raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
        return
    if std.is_complex():
        raise RuntimeError("normal expects standard deviation to be non-complex")
    if std.numel() > 0 and not bool((std >= 0).all()):
        raise RuntimeError("normal expects all elements of std >= 0.0")


def _normal(
    mean: float | Tensor, std: float | Tensor = 1.0, *, generator: Generator = None
) -> Tensor:
    _check_std(std)
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    return _scaled(tensors[0].new_empty(_broadcast(tensors)), mean, std, generator)


def _broadcast(tensors: list[Tensor]) -> torch.Size:
    """Return their common shape, or raise torch's error, which differs from `broadcast_shapes`'."""
    return torch.broadcast_tensors(*tensors)[0].shape


def _scaled(z: Tensor, mean: Any, std: Any, generator: Generator) -> Tensor:
    return z.normal_(generator=generator).mul_(std).add_(mean)


def _normal_out(
    mean: float | Tensor, std: float | Tensor = 1.0, *, generator: Generator = None, out: Tensor
) -> Tensor:
    _check_std(std)
    if isinstance(std, Tensor):
        _maybe_resize_out(out, _broadcast([x for x in (mean, std) if isinstance(x, Tensor)]))
    return out.copy_(_scaled(torch.empty_like(out), mean, std, generator))


_KERNELS: dict[str, Any] = {
    "uniform_": _uniform_,
    "normal_": _normal_,
    "exponential_": _exponential_,
    "bernoulli_.float": _bernoulli_,
    "bernoulli_.Tensor": _bernoulli_of_,
}
"""Kernels that also exist in machine code, and to which those pass on what they do not take."""

_OTHERS: dict[str, Any] = {
    "bernoulli.out": _bernoulli_out,
    **{f"normal.{kinds}": _normal for kinds in ("Tensor_float", "float_Tensor", "Tensor_Tensor")},
    **{
        f"normal.{kinds}_out": _normal_out
        for kinds in ("Tensor_float", "float_Tensor", "Tensor_Tensor")
    },
}

for _operator, _kernel in _KERNELS.items():
    _packet, _, _overload = _operator.partition(".")
    _schema = getattr(getattr(_aten, _packet), _overload or "default")._schema
    LIBRARY.define(str(_schema).removeprefix("aten::"))
    LIBRARY.impl(_operator, _kernel, "CPU")
