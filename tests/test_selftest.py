"""The check of a machine: its digests are the reference's, and it finds what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import fastdrop as fd
import numpy as np
import pytest
import reference as ref
from fastdrop import _core, _selftest

pytestmark = pytest.mark.once


def test_this_machine_is_right() -> None:
    checks = list(_selftest.selftest())
    assert len(checks) == len(_core.simd_levels()) * len(_selftest.GROUPS)
    assert all(right for _, right in checks), checks


def test_the_digest_of_the_masks_is_that_of_the_reference() -> None:
    key = bytes(range(16))

    def masks() -> Iterator[np.ndarray[Any, Any]]:
        for p in _selftest.PROBABILITIES:
            for length in _selftest.LENGTHS:
                yield np.packbits(ref.kept(key, p, np.arange(length)), bitorder="little")
            yield ref.kept(key, p, np.arange(5000, dtype=np.uint64) + np.uint64(2**61 + 77))

    expected = next(iter(_selftest.GROUPS.values()))[1]
    assert _selftest.digest(masks()) == expected


def test_the_digest_of_the_large_array_is_that_of_the_reference() -> None:
    kept = ref.kept(bytes(range(16)), 0.1, np.arange(_selftest.LARGE))
    y = np.where(kept, np.float32(1.0 / 0.9), np.float32(0.0))
    assert _selftest.digest(iter([y])) == _selftest.GROUPS["a large array"][1]


def test_wrong_results_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One element of one function, off by the last bit."""
    right = fd.gelu_dropout

    def wrong(x: Any, *arguments: Any, **options: Any) -> Any:
        y = right(x, *arguments, **options)
        y[777] = np.nextafter(y[777], np.float32(9.0))
        return y

    monkeypatch.setattr(fd, "gelu_dropout", wrong)
    found = [name for name, right in _selftest.selftest() if not right]
    assert found == [f"{level}: noise, activations and sums" for level in _core.simd_levels()]


def test_the_command_says_what_it_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdrop", "selftest"], capture_output=True, text=True, check=True
    )
    for level in _core.simd_levels():
        assert f"ok     {level}: a large array" in done.stdout
    assert json.dumps(fd.__version__).strip('"') in done.stdout
    broken = (
        "import sys, fastdrop as fd, fastdrop.__main__ as program\n"
        "fd.alpha_dropout = fd.dropout\n"
        "sys.argv[1:] = ['selftest']\n"
        "sys.exit(program.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "WRONG" in done.stdout
