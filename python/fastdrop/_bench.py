"""Paired timings for `python -m fastdrop bench` and the programs in `benches/`; not public.

Machines are shared and change speed from second to second, so single times mean little. The
cases take turns; results are ratios of times from the same round, with their spread.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastdrop as fd

Run = Callable[[], object]
Clock = Callable[[], float]
Times = dict[str, NDArray[np.float64]]


class Spread(NamedTuple):
    """Median and quartiles of a number measured in every round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Spread":
        """Summarise the values of all rounds."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def take_turns(
    cases: Mapping[str, Run],
    *,
    rounds: int = 15,
    seconds: float = 0.01,
    clock: Clock = time.perf_counter,
    before: Callable[[str], object] = lambda name: None,
) -> Times:
    """Time all cases in each of `rounds` rounds, in changing order; return seconds per call.

    A case runs for at least `seconds` in a round: short calls are repeated. `before` gets the name
    of a case ahead of its turn, to set up what it needs.
    """
    repeats = {}
    for name, run in cases.items():
        before(name)
        once = _time(run, 1, clock)
        if once < seconds:  # a short call, of which the first is longer than the others
            once = min(_time(run, 1, clock) for _ in range(2))
        repeats[name] = max(1, round(seconds / max(once, 1e-9)))
    times: Times = {name: np.empty(rounds) for name in cases}
    names = list(cases)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before(name)
            times[name][number] = _time(cases[name], repeats[name], clock)
    return times


def _time(run: Run, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def ratio(times: Times, name: str, to: str) -> Spread:
    """Summarise the ratios of two cases' times from the same rounds."""
    return Spread.of(times[name] / times[to])


def machine() -> str:
    """Describe processor, operating system and versions in one line."""
    config = fd.show_config("dicts")
    return (
        f"{_processor()}, {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, fastdrop {config['version']} ({config['simd']}, "
        f"{config['threads']} threads)"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def numpy_cases(elements: int, p: float) -> dict[str, Run]:
    """Return float32 cases that need only NumPy: a copy, the idiom, and fastdrop with `out`."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(elements, dtype=np.float32)
    out, copy = np.zeros_like(x), np.zeros_like(x)
    key = fd.Key(0)
    return {
        "np.copyto": lambda: np.copyto(copy, x),
        "NumPy idiom": lambda: x * (rng.random(x.shape) >= p) / (1 - p),
        "fastdrop": lambda: fd.dropout(x, p, rng=key, out=out),
    }


def small_benchmark() -> Iterator[str]:
    """Compare fastdrop with a copy and with the NumPy idiom; yield the lines of a table."""
    threads = fd.get_num_threads()
    fd.set_num_threads(1)
    yield machine()
    yield "float32, output given, one thread; medians and quartiles of paired ratios"
    yield ""
    yield f"{'elements':>10}{'p':>6}{'ns/element':>12}{'time / copy':>24}{'idiom / fastdrop':>24}"
    try:
        for exponent in (14, 17, 20, 23):
            for p in (0.5, 0.1):
                elements = 1 << exponent
                times = take_turns(numpy_cases(elements, p), rounds=9)
                each = np.median(times["fastdrop"]) / elements * 1e9
                to_copy = ratio(times, "fastdrop", "np.copyto")
                to_idiom = ratio(times, "NumPy idiom", "fastdrop")
                yield (
                    f"{f'2^{exponent}':>10}{p:>6}{each:>12.3f}{f'{to_copy:.2f}':>24}"
                    f"{f'{to_idiom:.1f}':>24}"
                )
    finally:
        fd.set_num_threads(threads)
