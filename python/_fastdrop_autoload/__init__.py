"""PyTorch's entry point: ``import torch`` imports `fastdrop.torch` if the environment asks for it.

A package of its own, because ``import torch`` must not import fastdrop where nobody asks.
"""

import os


def autoload() -> None:
    """Import `fastdrop.torch`, which reads the variable and installs, unless it is unset or 0."""
    if os.environ.get("FASTDROP_TORCH_INSTALL", "0") not in ("", "0"):
        import fastdrop.torch  # noqa: F401
