"""Dropout of Dask arrays: throughput over workers and over size, beside Dask's own random numbers.

    python benches/dask_throughput.py

Each graph drops half of an array of float32 that is made block by block, and sums the result, so
that nothing is stored. "random" is `da.where(random >= p, x / (1 - p), 0)`, with Dask's generator.
Figures are elements per second, and ratios of times from the same rounds: medians with quartiles.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import dask.array as da
import fastdrop as fd
import fastdrop.dask
import numpy as np
from fastdrop._bench import Spread, machine, ratio, take_turns

P = 0.5
BLOCK = 1 << 22


def graphs(elements: int) -> dict[str, Any]:
    """Return the graph of each case."""
    x = da.ones(elements, chunks=BLOCK, dtype=np.float32)
    uniforms = da.random.default_rng(0).random(elements, chunks=BLOCK, dtype=np.float32)
    return {
        "random": da.where(uniforms >= P, x / np.float32(1 - P), np.float32(0)).sum(),
        "fastdrop": fastdrop.dask.dropout(x, P, rng=fd.Key(0)).sum(),
        "no dropout": x.sum(),
    }


def runs(elements: int, **how: Any) -> dict[str, Callable[[], object]]:
    """Return the computation of each graph."""
    return {
        name: lambda graph=graph: graph.compute(**how)  # type: ignore[misc]
        for name, graph in graphs(elements).items()
    }


def row(name: str, elements: int, rounds: int, **how: Any) -> None:
    """Measure one setting and print it."""
    times = take_turns(runs(elements, **how), rounds=rounds, seconds=0.0)
    speeds = [Spread.of(elements / times[library] / 1e6) for library in ("fastdrop", "random")]
    print(
        f"| {name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {ratio(times, 'random', 'fastdrop'):.1f} "
        f"| {ratio(times, 'no dropout', 'fastdrop'):.2f} |",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time dropout of Dask arrays.")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each case gets")
    parser.add_argument("--largest", type=int, default=30, help="binary logarithm of the elements")
    options = parser.parse_args()
    fd.set_num_threads(1)  # each worker counts as one thread
    print(f"{machine()}, Dask {version('dask')}, blocks of 2^22 float32, p = {P}\n")
    print("| | fastdrop, 10^6/s | random, 10^6/s | random / fastdrop | no dropout / fastdrop |")
    print("| --- | --- | --- | --- | --- |")
    middle = options.largest - 3
    for workers in (1, 2):
        how = {"scheduler": "threads", "num_workers": workers}
        row(f"2^{middle}, threads: {workers}", 1 << middle, options.rounds, **how)
    for exponent in (middle - 3, middle + 3):
        how = {"scheduler": "threads", "num_workers": 2}
        row(f"2^{exponent}, threads: 2", 1 << exponent, options.rounds, **how)
    from distributed import Client, LocalCluster

    for workers in (1, 2):
        with (
            LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.run(fd.set_num_threads, 1)
            row(f"2^{middle}, worker processes: {workers}", 1 << middle, options.rounds)


if __name__ == "__main__":
    main()
