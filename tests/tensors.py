"""What the test files of PyTorch share: tensors as arrays and back, and calls from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import BFLOAT16

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: BFLOAT16,
}
"""The dtypes of fastdrop's kernels, and NumPy's for each."""


def as_tensor(x: Any) -> Any:
    """Return a copy of an array as a tensor."""
    x = np.array(x)
    if x.dtype == BFLOAT16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def as_numpy(x: Any) -> Any:
    """Return a tensor as an array in C order."""
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy().view(BFLOAT16) if x.dtype == torch.bfloat16 else x.numpy()


def drawn(function: Any, *arguments: Any, seed: int = 0, **options: Any) -> Any:
    """Call a function after seeding torch."""
    torch.manual_seed(seed)
    return function(*arguments, **options)
