"""Look for cliffs: the time of every length from 0 to 2,000, and of p in steps of 1/64.

    python benches/sweep.py --plot sweep.png

float32, output given, one thread. Lengths are also tried from an address one element off. Prints
the largest step between neighbours, and where it is.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import fastdrop as fd
import numpy as np
from fastdrop._bench import machine
from matplotlib.figure import Figure
from numpy.typing import NDArray

KEY = fd.Key(0)
LENGTHS = np.arange(2001)
PROBABILITIES = np.arange(65) / 64


Case = tuple[fd.Mask, NDArray[Any], NDArray[Any]]


def fastest(cases: list[Case], repeats: int, rounds: int) -> NDArray[np.float64]:
    """Return the shortest time per call of each case, in nanoseconds: the least disturbed one.

    All cases take turns, so a slow second of the machine hits each of them at most once.
    """
    best = np.full(len(cases), np.inf)
    for _ in range(rounds):
        for number, (mask, x, out) in enumerate(cases):
            start = perf_counter()
            for _ in range(repeats):
                mask.apply(x, out, scale=2.0)
            best[number] = min(best[number], (perf_counter() - start) / repeats)
    return best * 1e9


def over_lengths(offset: int, rounds: int) -> NDArray[np.float64]:
    """Time every length, starting `offset` elements after an aligned address."""
    x = np.ones(2200, np.float32)
    out = np.empty_like(x)
    cases = []
    for length in LENGTHS:
        parts = []
        for array in (x, out):
            start = -(array.ctypes.data // 4) % 16 + offset
            parts.append(array[start : start + length])
        cases.append((fd.Mask(int(length), 0.5, KEY), parts[0], parts[1]))
    return fastest(cases, 20, rounds)


def over_probabilities(rounds: int) -> NDArray[np.float64]:
    """Time 2^17 elements for every p."""
    x = np.ones(1 << 17, np.float32)
    out = np.empty_like(x)
    return fastest([(fd.Mask(x.size, float(p), KEY), x, out) for p in PROBABILITIES], 2, rounds)


def largest_step(times: NDArray[np.float64]) -> tuple[int, float]:
    """Return where the time rises most from one place to the next, and by how much."""
    steps = np.diff(times)
    where = int(np.argmax(steps)) + 1
    return where, float(steps[where - 1])


def plot(
    aligned: NDArray[np.float64], shifted: NDArray[np.float64], planes: NDArray[np.float64]
) -> Figure:
    """Draw the times over lengths, from both addresses, and over p."""
    figure = Figure(figsize=(5.5, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    top.plot(LENGTHS, aligned, linewidth=0.8, label="aligned")
    top.plot(LENGTHS, shifted, ".", markersize=2, label="one element off")
    top.set(xlabel="elements (float32), p = 0.5", ylabel="time of a call (ns)", ylim=(0, None))
    top.legend(markerscale=4)
    bottom.plot(PROBABILITIES, planes / 2**17, "o-", markersize=3)
    bottom.set(xlabel="p", ylabel="time per element (ns), 2^17 elements", ylim=(0, None))
    return figure


def main() -> None:
    """Run the sweep and report it."""
    parser = argparse.ArgumentParser(description="Look for lengths and p that are slow.")
    parser.add_argument("--rounds", type=int, default=200, help="tries of which the fastest counts")
    parser.add_argument("--plot", type=Path, help="where to save the picture")
    options = parser.parse_args()
    fd.set_num_threads(1)
    print(machine())
    aligned, shifted = (over_lengths(offset, options.rounds) for offset in (0, 1))
    planes = over_probabilities(options.rounds)
    for name, times in (("aligned", aligned), ("one element off", shifted)):
        where, step = largest_step(times)
        print(
            f"lengths, {name}: {times[0]:.0f} ns for 0, {times[-1]:.0f} ns for 2,000; the largest "
            f"step is {step:.0f} ns, from {where - 1} to {where}"
        )
    print(
        f"p: {planes.min() / 2**17:.3f} to {planes.max() / 2**17:.3f} ns per element, the most at "
        f"p = {PROBABILITIES[planes.argmax()]}"
    )
    if options.plot:
        plot(aligned, shifted, planes).savefig(options.plot, dpi=150)


if __name__ == "__main__":
    main()
