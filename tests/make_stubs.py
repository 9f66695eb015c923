"""Write the type stubs of public functions: what comes back depends on `return_mask` and `x`.

Run `python tests/make_stubs.py` after a change of signatures; the test suite checks that the stubs
are those of the source. A stub has overloads of the functions that can return their mask; all other
names are those of the modules that define them.
"""

from __future__ import annotations

import ast
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "python" / "fastdrop"

NUMPY = """\
# Made by tests/make_stubs.py from the package's signatures.

from collections.abc import Sequence
from typing import Any, Literal, Never, Protocol, SupportsFloat, SupportsIndex
from typing import TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._base.arguments import Array, Axes, Lengths, Mode
from fastdrop._base.keys import RNG
from fastdrop._base.members import Per
from fastdrop._base.plans import Keep
from fastdrop._family.activations import Activation
from fastdrop._family.attention import Causal
from fastdrop._family.fused import Approximate

class _OfFloats(Protocol):
    def __array__(self) -> NDArray[np.inexact[Any]]: ...

_Floats: TypeAlias = (
    NDArray[np.inexact[Any]] | _OfFloats | complex | Sequence[complex]
    | Sequence[Sequence[complex]] | Sequence[Sequence[Sequence[complex]]]
    | Sequence[NDArray[np.inexact[Any]]]
)
_F = TypeVar("_F", bound=np.inexact[Any])
_M = TypeVar("_M", bound=Keep)
"""

TORCH = """\
# Made by tests/make_stubs.py from the package's signatures.

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastdrop._base.arguments import Axes, Mode
from fastdrop._base.keys import Key
from fastdrop._base.masks import Mask
from fastdrop._base.members import Per
from fastdrop._family.activations import Activation
from fastdrop._family.attention import Causal
from fastdrop._family.blocks import BlockMask
from fastdrop._family.concrete import ConcreteMask
from fastdrop._family.fused import Approximate
from fastdrop._family.gaussian import Noise
from fastdrop._family.patches import PatchMask
"""


PLAIN = {"weight_drop": "list[Array]", "patch_dropout": "tuple[Array, NDArray[np.int64]]"}
"""Results that are not one array."""

TENSORS = {"weight_drop": "list[Tensor]", "patch_dropout": "tuple[Tensor, Tensor]"}
"""The same for tensors."""

SEVERAL = {
    "scaled_dot_product_attention": ("Array", {"return_lse": "Array", "return_mask": "Mask"}),
    "scaled_dot_product_attention_backward": (
        "tuple[Array, Array, Array]",
        {"return_dattn_mask": "Array"},
    ),
}
"""Functions with several flags: their plain result, and what each flag adds."""


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """Return the public functions that a file defines, without overloads."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {
        one.name: one for one in body if isinstance(one, ast.FunctionDef) and one.name[0] != "_"
    }


def imports(path: Path) -> list[tuple[str, str]]:
    """Return the names that a file imports from the package, now or later, each with its module."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = [
        (one.module or "", name.name)
        for one in body
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("fastdrop")
        for name in one.names
    ]
    for one in body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "_LATER":
            later = ast.literal_eval(one.value)
            found += [(module, name) for module, names in later.items() for name in names]
    return found


def parameters(function: ast.FunctionDef) -> Iterator[tuple[str, str, bool]]:
    """Yield name, type and whether there is a default; "*" for what must be named."""
    arguments = function.args
    required = len(arguments.args) - len(arguments.defaults)
    for number, one in enumerate(arguments.args):
        assert one.annotation is not None, one.arg
        yield one.arg, ast.unparse(one.annotation), number >= required
    yield "*", "", False
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        assert one.annotation is not None, one.arg
        yield one.arg, ast.unparse(one.annotation), default is not None
    if arguments.kwarg is not None:
        yield "**" + arguments.kwarg.arg, "Never", False


def declaration(function: ast.FunctionDef) -> str:
    """Return a function without overloads."""
    assert function.returns is not None, function.name
    return overload(function, ast.unparse(function.returns)).removeprefix("@overload\n")


def overload(function: ast.FunctionDef, result: str, **types: str) -> str:
    """Return one overload, where some parameters have other types."""
    parts = []
    for name, kind, has_default in parameters(function):
        kind = types.get(name, kind)
        must = name in types and kind in ("Literal[True]", "_M")
        parts.append(name if not kind else f"{name}: {kind}{' = ...' * (has_default and not must)}")
    signature = textwrap.fill(", ".join(parts), 92, initial_indent="    ", subsequent_indent="    ")
    return f"@overload\ndef {function.name}(\n{signature}\n) -> {result}: ..."


def extended(result: str, more: str) -> str:
    """Return the type of a result that comes with one more."""
    return f"{result[:-1]}, {more}]" if result.startswith("tuple[") else f"tuple[{result}, {more}]"


def optional_results(function: ast.FunctionDef, plain: str, more: dict[str, str]) -> list[str]:
    """Return the overloads of a function with several flags, each of which adds a result."""
    kinds = {name: kind for name, kind, _ in parameters(function)}
    floats = {name: "_Floats" for name, kind in kinds.items() if kind == "ArrayLike"}
    found = []
    for flags in itertools.product((False, True), repeat=len(more)):
        types, result = dict(floats), plain
        for (name, kind), flag in zip(more.items(), flags, strict=True):
            types[name] = f"Literal[{flag}]"
            result = extended(result, kind) if flag else result
        found.append(overload(function, result, **types))
    return [*found, overload(function, "Any", **floats, **dict.fromkeys(more, "bool"))]


def overloads(function: ast.FunctionDef, plain: str, given: str) -> list[str]:
    """Return the overloads of a function, by the type of a plain result and of its mask."""
    kinds = {name: kind for name, kind, _ in parameters(function)}
    mask = kinds.get("mask", kinds.get("dropout_mask", "")).removesuffix(" | None")
    drawn = {"Keep": "Mask"}.get(mask, mask)
    if drawn.startswith("Sequence["):
        drawn = "list[Mask]"
    variants: list[tuple[str, dict[str, str]]] = [(plain, {})]
    arrays = [name for name, kind in kinds.items() if kind == "ArrayLike"]
    if arrays:
        floats = dict.fromkeys(arrays, "_Floats")
        variants = [(plain, floats)]
        if len(arrays) == 1:
            preserved = plain.replace("Array", "NDArray[_F]", 1)
            variants.insert(0, (preserved, {arrays[0]: "NDArray[_F]"}))
    found = []
    for result, types in variants:
        found.append(overload(function, result, **types, return_mask="Literal[False]"))
    for result, types in variants:
        types = types | {"return_mask": "Literal[True]"}
        if given and mask == "Keep":
            found.append(overload(function, extended(result, drawn), **types, mask="None"))
        else:
            found.append(overload(function, extended(result, drawn), **types))
    result, types = variants[-1]
    types = types | {"return_mask": "Literal[True]"}
    if given and mask == "Keep":
        found.append(overload(function, extended(result, given), **types, mask=given))
    found.append(overload(function, "Any", **variants[-1][1], return_mask="bool"))
    return found


def numpy_stub() -> str:
    """Return the stub of `fastdrop`."""
    lines, found = [NUMPY], []
    for module, name in imports(PACKAGE / "__init__.py"):
        path = PACKAGE.parent / (module.replace(".", "/") + ".py")
        function = functions(path).get(name) if path.exists() else None
        if function is not None and name in SEVERAL:
            found += optional_results(function, *SEVERAL[name])
        elif function is not None and "return_mask" in [one for one, *_ in parameters(function)]:
            found += overloads(function, PLAIN.get(name, "Array"), "_M")
        else:
            lines.append(f"from {module} import {name} as {name}")
    return "\n".join([*lines, "", *found, ""])


def torch_stub() -> str:
    """Return the stub of `fastdrop.torch.functional`."""
    found = [TORCH]
    for module, name in imports(PACKAGE / "torch" / "functional.py"):
        function = functions(PACKAGE.parent / (module.replace(".", "/") + ".py"))[name]
        if "return_mask" in [name for name, *_ in parameters(function)]:
            found += overloads(function, TENSORS.get(function.name, "Tensor"), "")
        else:
            found.append(declaration(function))
    return "\n".join([*found, ""])


STUBS = {
    PACKAGE / "__init__.pyi": numpy_stub,
    PACKAGE / "torch" / "functional.pyi": torch_stub,
}


if __name__ == "__main__":
    for path, stub in STUBS.items():
        path.write_text(stub(), encoding="utf-8")
