"""The tests of properties as targets of a coverage-guided fuzzer.

    fuzz/run extension     # builds what this needs, and runs it

Atheris feeds bytes to Hypothesis, which makes arguments of them. Both the Python code and the
extension module count what they reach.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

with atheris.instrument_imports(include=["fastdrop"]):
    import fastdrop  # noqa: F401

import test_driver
import test_fuzz

TARGETS: list[Any] = [
    test_fuzz.test_a_function_answers_or_refuses_and_touches_nothing,
    test_fuzz.test_constructors_and_methods_answer_or_refuse,
    test_driver.test_dropout_matches_the_reference,
    test_driver.test_a_region_matches_the_reference,
    test_driver.test_a_boolean_mask_is_applied_as_given,
    test_driver.test_out_may_lie_anywhere_in_the_memory_of_x,
]


def one_input(data: bytes) -> None:
    """Run the test that the first byte names on the others."""
    if data:
        TARGETS[data[0] % len(TARGETS)].hypothesis.fuzz_one_input(data[1:])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
