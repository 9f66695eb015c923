"""What this installation is and uses: threads, instructions, versions."""

from typing import Literal, SupportsIndex, overload

from fastdrop import _core
from fastdrop._arguments import as_count

STREAM_VERSION = 2


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads large calls use.

    Parameters
    ----------
    n : int
        At least 1; more than 256 are never used. It starts as the environment variable
        FASTDROP_NUM_THREADS, or else as the number of CPUs that the process may use.

    Notes
    -----
    Masks and results do not depend on it.

    Examples
    --------
    >>> import fastdrop as fd
    >>> before = fd.get_num_threads()
    >>> fd.set_num_threads(1)
    >>> fd.get_num_threads()
    1
    >>> fd.set_num_threads(before)
    """
    _core.set_num_threads(min(as_count(n, "n", 1), 2**62))


def get_num_threads() -> int:
    """Get how many threads large calls use.

    Returns
    -------
    int

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, object]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, object] | None:
    """Show the version, the SIMD level and the number of threads in use.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print the configuration or to return it, as in `numpy.show_config`.

    Returns
    -------
    dict or None
        With the keys "version", "stream" (version of the random stream: masks are the same as long
        as it is), "simd", "simd_available" and "threads".

    Notes
    -----
    The environment variables FASTDROP_SIMD (portable, neon, avx2, vaes or avx512) and
    FASTDROP_NUM_THREADS are read at import. Neither changes a result.

    Examples
    --------
    >>> import fastdrop as fd
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
