"""Direct calls of kernels from code that inductor writes.

torch's dispatcher takes longer to reach a kernel in Python than the kernel takes for few elements,
and compiled code needs nothing of what it does on the way. Where torch lacks the table of the calls
that inductor writes, compiled code calls operators.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


def call_directly(name: str, kernel: Callable[..., Any]) -> None:
    """Let code that is compiled for the CPU call the kernel of an operator."""
    # torch stores such code on disk: later versions must keep the attribute.
    getattr(torch.ops.fastdrop, name).default.kernel = kernel
    with suppress(ImportError):
        from torch._inductor.codegen import custom_extern_kernel_codegen as table

        operator = f"torch.ops.fastdrop.{name}.default"
        table.CUSTOM_EXTERN_KERNEL_CODEGEN[operator] = table.CustomCodegen(python=_write)


def _write(node: Any, write_line: Callable[[Any], None]) -> None:
    """Write a call, as inductor does for operators without an entry in its table."""
    from torch._inductor.codegen.wrapper import ExternKernelAllocLine
    from torch._inductor.virtualized import V

    if node.get_device().type == "cpu":
        node.python_kernel_name += ".kernel"
    write_line(ExternKernelAllocLine(V.graph.wrapper_code, node))
