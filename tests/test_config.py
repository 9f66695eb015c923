"""Settings of the process: threads, levels, variables, and what other libraries see of them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import fastdrop as fd
import pytest
from fastdrop import _core
from support import LEVELS, running_on
from threadpoolctl import threadpool_info, threadpool_limits

pytestmark = pytest.mark.once

TIMEOUT = 60  # seconds


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_with_block_restores_the_number_of_threads() -> None:
    before = fd.get_num_threads()
    with fd.threads(3):
        assert fd.get_num_threads() == 3
        with pytest.raises(RuntimeError), fd.threads(1):
            raise RuntimeError
        assert fd.get_num_threads() == 3
    assert fd.get_num_threads() == before
    with pytest.raises(ValueError, match="n must be"), fd.threads(0):
        pass
    assert fd.get_num_threads() == before


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_a_senseless_number_of_threads_is_refused(count: Any, error: type[Exception]) -> None:
    before = fd.get_num_threads()
    with pytest.raises(error):
        fd.set_num_threads(count)
    assert fd.get_num_threads() == before


def test_threadpoolctl_sees_and_limits_the_threads() -> None:
    def seen() -> Any:
        return [info for info in threadpool_info() if info["user_api"] == "fastdrop"]

    with fd.threads(3):
        assert [info["num_threads"] for info in seen()] == [3]
        assert seen()[0]["version"] == fd.__version__
        with threadpool_limits(2):
            assert fd.get_num_threads() == 2
        with threadpool_limits({"fastdrop": 1}):
            assert fd.get_num_threads() == 1
        with threadpool_limits(1, user_api="blas"):
            assert fd.get_num_threads() == 3
        assert fd.get_num_threads() == 3


def test_a_later_import_of_threadpoolctl_finds_the_threads() -> None:
    """Where `fastdrop` came first, and did not import threadpoolctl itself."""
    done = run(
        "import fastdrop as fd, threadpoolctl; fd.set_num_threads(3)\n"
        "with threadpoolctl.threadpool_limits(2): print(fd.get_num_threads())"
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_import_takes_few_modules_beyond_numpy() -> None:
    """All modules of the family and the libraries they need take a third of NumPy's own time."""
    done = run(
        "import sys, numpy; before = {*sys.modules}; import fastdrop\n"
        "print(*sys.modules.keys() - before)"
    )
    imported = set(done.stdout.split())
    family = {name for name in imported if name.startswith("fastdrop._family.")}
    assert family == {"fastdrop._family.dropout"}, done.stderr
    assert imported.isdisjoint(
        {"difflib", "hashlib", "numpy.random", "threadpoolctl", "fastdrop.schedules"}
    )


def test_names_that_are_imported_later_are_public() -> None:
    """Before their first use, and for pickles of what they make."""
    done = run("import fastdrop as fd; print([n for n in fd.__all__ if not hasattr(fd, n)])")
    assert done.stdout == "[]\n", done.stderr
    done = run(
        "import pickle, fastdrop._family.blocks as blocks, fastdrop as fd\n"
        "print(b'_family' in pickle.dumps([blocks.BlockMask, blocks.DropBlock1d, fd.drop_block1d]))"
    )
    assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(
    not str(_core.__file__).endswith(".abi3.so"), reason="not built for the stable ABI"
)
def test_a_free_threaded_interpreter_refuses_a_module_of_the_stable_abi() -> None:
    """It would load the module, and could crash."""
    code = "import sys; sys.abiflags += 't'; import fastdrop"
    done = run(code)
    assert done.returncode == 1
    assert "ImportError: this build of fastdrop needs a CPython with the GIL, got" in done.stderr


def test_a_torch_that_lacks_what_is_needed_is_refused_by_its_version() -> None:
    """At the import, where each call would otherwise fail on its tensors."""
    done = run(
        "import sys, types\n"
        "sys.modules['torch'] = types.SimpleNamespace(Tensor=object, __version__='2.9.1')\n"
        "import fastdrop.torch"
    )
    assert "ImportError: fastdrop.torch needs PyTorch 2.10 or newer, got 2.9.1" in done.stderr


def test_completion_shows_public_names() -> None:
    assert dir(fd) == sorted(fd.__all__)


PRINT_CONFIG = (
    "import fastdrop as fd; from fastdrop import _core; print(_core.simd(), fd.get_num_threads())"
)


@pytest.mark.parametrize("name", LEVELS)
def test_environment_variables_set_level_and_threads(name: str) -> None:
    done = run(PRINT_CONFIG, FASTDROP_SIMD=name, FASTDROP_NUM_THREADS="3")
    assert (done.returncode, done.stdout) == (0, f"{name} 3\n"), done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FASTDROP_SIMD", "mmx"), ("FASTDROP_SIMD", "AVX 2"), ("FASTDROP_NUM_THREADS", "0"),
     ("FASTDROP_NUM_THREADS", "many"), ("FASTDROP_NUM_THREADS", "-2"),
     ("FASTDROP_NUM_THREADS", "2.5"), ("FASTDROP_NUM_THREADS", os.fsdecode(b"2\xff")),
     ("FASTDROP_SIMD", os.fsdecode(b"avx2\xff"))],
    ids=ascii,
)  # fmt: skip
def test_a_wrong_variable_is_an_exception_that_names_it(variable: str, value: str) -> None:
    code = "import fastdrop as fd; fd.dropout([1.0] * 10**6, 0.5)"
    done = run(code, **{"FASTDROP_SIMD": LEVELS[0], variable: value})
    assert done.returncode == 1, "no Python exception"
    last_line = done.stderr.strip().splitlines()[-1]
    assert variable in last_line
    assert value.encode("ascii", "ignore").decode() in last_line
    assert "panic" not in done.stderr.lower()


@pytest.mark.parametrize("name", ["mmx", "", "AVX2", "sse2"])
def test_an_unknown_simd_level_is_refused(name: str) -> None:
    before = _core.simd()
    with pytest.raises(ValueError, match="SIMD"):
        _core.set_simd(name)
    assert _core.simd() == before


def test_show_config_shows_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with running_on(LEVELS[0], 2):
        config = fd.show_config(mode="dicts")
        assert config["simd"] == LEVELS[0]
        assert config["threads"] == 2
        assert config["stream"] == 2
        assert list(config["simd_available"]) == list(_core.simd_levels())
        assert config["version"] == fd.__version__
        fd.show_config()
    shown = capsys.readouterr().out
    assert fd.__version__ in shown
    assert LEVELS[0] in shown


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdrop"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert fd.__version__ in done.stdout
