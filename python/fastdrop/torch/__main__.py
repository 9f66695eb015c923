"""Runs a program with fastdrop's dropout, in its child processes as well.

    python -m fastdrop.torch train.py --epochs 3
    python -m fastdrop.torch --random -m package.train --epochs 3

The program is not changed. It runs in this process, which sets FASTDROP_TORCH_INSTALL: processes
that it starts install by themselves when they import torch.
"""

import argparse
import os
import runpy
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from fastdrop.torch._install import VARIABLE, from_environment, install


def main() -> None:
    """Install, and run the program that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m fastdrop.torch",
        description="Run a program with fastdrop's dropout, in its child processes as well.",
    )
    parser.add_argument("--attention", action="store_true", help="attention without dropout also")
    parser.add_argument("--random", action="store_true", help="torch's random numbers also")
    parser.add_argument("-m", dest="module", action="store_true", help="program names a module")
    parser.add_argument("program", help="script or module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    given = parser.parse_args()
    if given.module:
        if find_spec(given.program.partition(".")[0]) is None:
            parser.error(f"program must be a module that can be imported, got {given.program!r}")
    elif not Path(given.program).exists():
        parser.error(f"program must be a file that exists, got {given.program!r}")

    options = from_environment() or {"attention": False, "random": False}
    options = {name: wanted or getattr(given, name) for name, wanted in options.items()}
    os.environ[VARIABLE] = ",".join(name for name, wanted in options.items() if wanted) or "1"
    install(**options)
    if reason := _why_not_in_children():
        print(f"{parser.prog}: child processes keep PyTorch's dropout: {reason}", file=sys.stderr)

    sys.argv = [given.program, *given.arguments]
    if given.module:
        runpy.run_module(given.program, run_name="__main__", alter_sys=True)
    else:
        if not sys.flags.safe_path:
            sys.path[0] = str(Path(given.program).resolve().parent)
        runpy.run_path(given.program, run_name="__main__")


def _why_not_in_children() -> str | None:
    """Return why torch would not load fastdrop in a new process; None if it would."""
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") != "1":
        return "TORCH_DEVICE_BACKEND_AUTOLOAD is not 1"
    if not any("fastdrop" in entry.value for entry in entry_points(group="torch.backends")):
        return "the package is not installed, so torch does not find it"
    return None


if __name__ == "__main__":
    main()
