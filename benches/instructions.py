"""Hold the number of instructions of a few fixed calls to what is recorded: speed without noise.

    python benches/instructions.py             # compare with benches/instructions.json
    python benches/instructions.py --record    # write that file anew

valgrind counts them, with the AVX2 kernels, since it knows no AVX-512. Record anew after a change
that is meant to cost or save instructions, and after a new compiler, which may shift a count by
some percent. Say in the commit why the numbers moved.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
]
MARGIN = 0.05
REPEATS = 20
RECORD = Path(__file__).with_suffix(".json")


def build() -> str:
    """Build the program whose instructions are counted; return its path."""
    command = ["cargo", "bench", "--bench", "instructions", "--no-run", "--message-format=json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "instructions":
            return str(message["executable"])
    raise RuntimeError("cargo built no program")


def count(program: str, case: str, repeats: int) -> int:
    """Count the instructions of the whole program."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, case]
    done = subprocess.run(
        [*command, str(repeats)], check=True, stderr=subprocess.PIPE, text=True, env={"LC_ALL": "C"}
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind said nothing of instructions: {done.stderr}")
    return int(found[1])


def per_call(program: str, case: str) -> int:
    """Count the instructions of one call: those of many less those of one, over the difference."""
    return (count(program, case, REPEATS + 1) - count(program, case, 1)) // REPEATS


def main() -> int:
    """Compare or record; return the exit code."""
    parser = argparse.ArgumentParser(description="Count instructions of fixed calls.")
    parser.add_argument(
        "--record", action="store_true", help="write the counts down as the new ones"
    )
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is needed to count instructions, and is not there")
        return 1
    program = build()
    counts = {case: per_call(program, case) for case in CASES}
    if options.record:
        RECORD.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {RECORD.name}")
        return 0
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    failed = False
    print(f"{'case':<20}{'recorded':>12}{'now':>12}{'change':>10}")
    for case, now in counts.items():
        change = now / recorded[case] - 1
        verdict = "" if change <= MARGIN else "  too many"
        failed |= change > MARGIN
        if change < -MARGIN:
            verdict = "  fewer: record anew"
        print(f"{case:<20}{recorded[case]:>12}{now:>12}{change:>10.1%}{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
