from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

import fastdrop

__version__: str
DETACH: int
LARGE: int
WIDEST: int
DTYPES: tuple[str, ...]
__all__ = [
    "DETACH",
    "DTYPES",
    "LARGE",
    "WIDEST",
    "CallKeys",
    "Key",
    "Mask",
    "Plan",
    "Taken",
    "__version__",
    "apply",
    "ars",
    "attention",
    "attention_backward",
    "attention_bias_gradient",
    "check",
    "check_attention",
    "compute_plain",
    "forward",
    "forward_tensors",
    "get_num_threads",
    "native_kernels",
    "noise",
    "operations",
    "publish",
    "read_receipt",
    "request_receipt",
    "set_num_threads",
    "set_simd",
    "simd",
    "simd_levels",
    "take_tensors",
    "tensor_key",
    "uniforms",
    "works_on",
    "xla_handlers",
]

# Attention takes arrays or tensors.
_Array = Any
_Three = tuple[_Array, _Array, _Array]
_Inputs = tuple[_Array, _Array, _Array, _Array | None]
_Options = tuple[float, int | None, int | None]

@disjoint_base
class Key:
    def __new__(cls, data: bytes) -> Self: ...
    def __bytes__(self) -> bytes: ...
    @property
    def _words(self) -> NDArray[np.int64]: ...
    def _child(self, index: int) -> fastdrop.Key: ...
    def _children(self, n: int) -> list[fastdrop.Key]: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CallKeys:
    def __new__(cls, key: Key, calls: int = 0, held: bool = False, used: bool = False) -> Self: ...
    @property
    def key(self) -> fastdrop.Key: ...
    @property
    def state(self) -> tuple[int, bool, bool]: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def take(self) -> tuple[fastdrop.Key, Taken]: ...

@final
class Taken:
    def undo(self) -> None: ...

@disjoint_base
class Mask:
    def __new__(cls, shape: tuple[int, ...], p: float, key: Key) -> Self: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def p(self) -> float: ...
    @property
    def key(self) -> fastdrop.Key: ...
    @property
    def parts(
        self,
    ) -> tuple[tuple[int, ...], float, fastdrop.Key, tuple[int, ...], tuple[int, ...]]: ...
    def to_numpy(self) -> NDArray[np.bool_]: ...
    def packbits(self) -> NDArray[np.uint8]: ...
    def count(self) -> int: ...
    def part(self, start: tuple[int, ...], shape: tuple[int, ...]) -> fastdrop.Mask: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Plan:
    @property
    def recipe(self) -> fastdrop.Mask | NDArray[np.bool_] | None: ...
    def backward(
        self, dy: NDArray[Any], *others: NDArray[Any], dtype: np.dtype[Any] | None = None
    ) -> NDArray[Any]: ...
    def backward_other(self, dy: NDArray[Any]) -> NDArray[Any]: ...

def apply(
    mask: Mask, x: NDArray[Any], scale: float, out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
def attention(
    inputs: _Inputs, options: _Options, mask: Mask, y: _Array, lse: _Array | None
) -> None: ...
def attention_backward(
    outputs: _Three, inputs: _Inputs, options: _Options, mask: Mask, gradients: _Three
) -> None: ...
def attention_bias_gradient(
    outputs: _Three, inputs: _Inputs, options: _Options, mask: Mask, gradient: _Array
) -> None: ...
def ars(key: bytes, counter: bytes) -> bytes: ...
def check(operation: str, inputs: tuple[NDArray[Any], ...], out: NDArray[Any] | None) -> None: ...
def forward(
    operation: str,
    inputs: tuple[NDArray[Any], ...],
    out: NDArray[Any] | None,
    keep: Key | CallKeys | Mask | NDArray[np.bool_] | None,
    p: float,
    shared: tuple[int, ...],
    numbers: float | tuple[float, float, float] | None = None,
) -> tuple[NDArray[Any], Plan]: ...
def check_attention(
    inputs: _Inputs, out: NDArray[Any] | None = None, threads: int | None = None
) -> tuple[int, ...]: ...
def compute_plain(
    operation: str,
    arrays: Any,
    shared: tuple[int, ...],
    request: tuple[Any, ...],
) -> NDArray[Any] | None: ...
def forward_tensors(
    operation: str,
    inputs: tuple[Any, ...],
    out: Any,
    keep: Any,
    p: float,
    shared: tuple[int, ...],
    numbers: float | tuple[float, float, float],
    fresh: bool,
    threads: int,
) -> None: ...
def get_num_threads() -> int: ...
def native_kernels(in_python: int | None) -> bool: ...
def noise(
    mask: Mask, x: NDArray[Any], std: float, out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
def operations() -> dict[str, tuple[tuple[str, ...], str | None, bool]]: ...
def publish(key: type, mask: type) -> None: ...
def read_receipt(
    tensor: Any,
) -> tuple[fastdrop.Key, float, float, list[int]] | None: ...
def request_receipt(
    x: Any,
    key: fastdrop.Key,
    operation: str,
    p: float,
    shared: tuple[int, ...],
    numbers: float | tuple[float, float, float],
) -> bool: ...
def set_num_threads(n: int) -> None: ...
def set_simd(name: str) -> None: ...
def simd() -> str: ...
def simd_levels() -> list[str]: ...
def take_tensors(kind: type) -> bool: ...
def tensor_key(tensor: Any) -> fastdrop.Key: ...
def uniforms(shape: tuple[int, ...], key: Key) -> NDArray[np.uint64]: ...
def works_on(array: NDArray[Any]) -> bool: ...
def xla_handlers() -> dict[str, Any]: ...
