"""Compare the instruction counts of a few fixed calls with recorded ones: speed without noise.

    python benches/instructions.py             # compare with benches/instructions.json
    python benches/instructions.py --record    # write that file anew

valgrind counts those of the AVX2 kernels, because it has no AVX-512. With `--arm`, qemu counts
those of the NEON kernels, for `instructions-arm.json`; `.ci/emulated` prepares that. Record anew
after a change that is meant to cost or save instructions, and after a new compiler, which may shift
a count by some percent. Say in the commit why the numbers moved. The counts of `PYTHON` include the
interpreter's own instructions: record anew after a new Python.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

# The whole environment of a counted program, so that runs do not differ.
ENVIRONMENT = {"LC_ALL": "C", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}

CASES = [
    "small p=0.5",
    "small p=0.1",
    "large p=0.5",
    "large p=0.1",
    "odd length p=0.1",
    "short rows p=0.1",
    "rows of 3 p=0.5",
    "bits p=0.5",
    "bits p=0.1",
    "noise",
    "gelu p=0.5",
    "gelu by tanh p=0.5",
    "attention",
    "attention in bfloat16",
]
PYTHON = [
    "dropout(x, 0.5, rng=key, out=o)",
    "dropout(x, 0.1, rng=key, out=o)",
    "dropout(x, training=False)",
    "Dropout(0.5)(x)",
    "dropout2d",
    "scaled_dot_product_attention and gradients",
]
MARGIN = 0.05
PYTHON_MARGIN = 0.1  # the interpreter and the C library of the machine are in these counts


class Valgrind:
    """Count on this CPU."""

    needs = "valgrind"
    record = Path(__file__).with_suffix(".json")
    build: ClassVar[list[str]] = []
    repeats = 20

    @staticmethod
    def count(command: list[str]) -> int:
        """Count the instructions of a command."""
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        done = subprocess.run(
            valgrind + command, check=True, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        found = re.search(r"Collected : (\d+)", done.stderr)
        if found is None:
            raise RuntimeError(f"valgrind printed no number of instructions: {done.stderr}")
        return int(found[1])


class Arm:
    """Count on an emulated CPU, which prints a line for every instruction."""

    needs = "qemu-aarch64-static"
    record = Path(__file__).with_name("instructions-arm.json")
    build: ClassVar[list[str]] = ["--target", "aarch64-unknown-linux-gnu"]
    repeats = 1

    @staticmethod
    def count(command: list[str]) -> int:
        """Count the instructions of a command."""
        qemu = ["qemu-aarch64-static", "-singlestep", "-d", "exec,nochain", "-D", "/dev/stdout"]
        process = subprocess.Popen(
            qemu + command, stdout=subprocess.PIPE, env={**os.environ, "FASTDROP_SIMD": "neon"}
        )
        assert process.stdout is not None
        lines = sum(line.startswith(b"Trace") for line in process.stdout)
        if process.wait() != 0:
            raise RuntimeError(f"the program failed under qemu: {command}")
        return lines


def build(machine: type[Valgrind | Arm]) -> str:
    """Build the program whose instructions are counted; return its path."""
    command = ["cargo", "bench", "--bench", "instructions", "--no-run", "--message-format=json"]
    command += machine.build
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "instructions":
            return str(message["executable"])
    raise RuntimeError("cargo built no program")


def per_call_from_python(case: str) -> int:
    """Count the instructions of one call from Python, in the same way."""
    program = [sys.executable, str(Path(__file__).with_name("calls.py")), "--count", case]
    subprocess.run([*program, "1"], check=True, env=ENVIRONMENT)  # Python keeps what it compiles
    many, few = (Valgrind.count([*program, str(n)]) for n in (1500, 500))
    return (many - few) // 1000


def per_call(machine: type[Valgrind | Arm], program: str, case: str) -> int:
    """Count the instructions of one call: many calls minus one, over the difference in calls."""
    many, one = (machine.count([program, case, str(n)]) for n in (machine.repeats + 1, 1))
    return (many - one) // machine.repeats


def main() -> int:
    """Compare or record; return the exit code."""
    parser = argparse.ArgumentParser(description="Count instructions of fixed calls.")
    parser.add_argument("--record", action="store_true", help="save the counts as the new record")
    parser.add_argument("--arm", action="store_true", help="count those of ARM, under emulation")
    options = parser.parse_args()
    machine = Arm if options.arm else Valgrind
    if shutil.which(machine.needs) is None:
        print(f"{machine.needs} is needed to count instructions, but is not installed")
        return 1
    program = build(machine)
    counts = {case: per_call(machine, program, case) for case in CASES}
    if machine is Valgrind:
        counts |= {case: per_call_from_python(case) for case in PYTHON}
    if options.record:
        machine.record.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {machine.record.name}")
        return 0
    recorded = json.loads(machine.record.read_text(encoding="utf-8"))
    failed = False
    print(f"{'case':<44}{'recorded':>12}{'now':>12}{'change':>10}")
    for case, now in counts.items():
        change = now / recorded[case] - 1
        margin = PYTHON_MARGIN if case in PYTHON else MARGIN
        verdict = "" if change <= margin else "  too many"
        failed |= change > margin
        if change < -margin:
            verdict = "  fewer: record anew"
        print(f"{case:<44}{recorded[case]:>12}{now:>12}{change:>10.1%}{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
