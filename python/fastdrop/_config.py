"""The installation and its settings: threads, SIMD level, versions."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, SupportsIndex, overload

from fastdrop import _core
from fastdrop._base.arguments import as_count
from fastdrop._base.keys import STREAM_VERSION


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads large calls use; results do not depend on it.

    `n` is at least 1; never more than 256 are used. The initial value is the environment variable
    FASTDROP_NUM_THREADS or else the number of CPUs that the process may use.

    >>> before = fd.get_num_threads()
    >>> fd.set_num_threads(1)
    >>> fd.get_num_threads()
    1
    >>> fd.set_num_threads(before)
    """
    _core.set_num_threads(min(as_count(n, "n", 1), 2**62))


def get_num_threads() -> int:
    """Return how many threads large calls use.

    >>> fd.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


@contextmanager
def threads(n: SupportsIndex) -> Iterator[None]:
    """Use `n` threads for large calls of the whole process in a with block.

    >>> with fd.threads(1):
    ...     fd.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def _register(threadpoolctl: Any) -> None:
    """Let threadpoolctl report and limit the threads."""

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = internal_api = "fastdrop"
        filename_prefixes = ("_core.",)
        check_symbols = ("fastdrop_get_num_threads",)

        def get_num_threads(self) -> int:
            return int(self.dynlib.fastdrop_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fastdrop_set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.__version__

    if hasattr(threadpoolctl, "register"):
        threadpoolctl.register(Controller)


class _Finder:
    """Registers when the program imports threadpoolctl, which takes 2 ms that few programs need."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != "threadpoolctl":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "threadpoolctl" in sys.modules:
    _register(sys.modules["threadpoolctl"])
else:
    sys.meta_path.insert(0, _Finder())


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, object]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, object] | None:
    """Show the version, the SIMD level and the number of threads in use.

    By default it prints them; with mode "dicts" it returns a dict, as `numpy.show_config` does,
    with the keys "version", "stream", "simd", "simd_available" and "threads". Masks stay the same
    as long as "stream" does. The environment variables FASTDROP_SIMD (portable, neon, avx2, vaes or
    avx512) and FASTDROP_NUM_THREADS are read at import; neither changes a result.

    >>> fd.show_config("dicts")["stream"]
    2
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = {
        "version": _core.__version__,
        "stream": STREAM_VERSION,
        "simd": _core.simd(),
        "simd_available": _core.simd_levels(),
        "threads": _core.get_num_threads(),
    }
    if mode == "dicts":
        return config
    for name, value in config.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{name + ':':<16}{shown}")
    return None
