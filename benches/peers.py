"""Dropout side by side: fastdrop, a copy, NumPy's idioms, and the frameworks that are installed.

    python benches/peers.py [--sizes 14 17 20 23 26] [--p 0.5 0.1] [--threads 1] [--plot peers.png]

Everything runs in one process, in turns; the tables show medians and quartiles of ratios from the
same round. float32 throughout. torch, jax, onnxruntime and bitarray take part if installed.
"""

import argparse
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
from fastdrop._bench import Run, Spread, Times, machine, numpy_cases, ratio, take_turns
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

US, FLOOR, IDIOM = "fastdrop", "np.copyto", "NumPy idiom"


def numpy_preallocated(elements: int, p: float) -> Run:
    """Make the best that plain NumPy does: float32 uniforms, every buffer reused."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(elements, dtype=np.float32)
    uniforms, keep, out = np.empty_like(x), np.empty(elements, dtype=bool), np.empty_like(x)
    scale = np.float32(1 / (1 - p))

    def run() -> None:
        rng.random(dtype=np.float32, out=uniforms)
        np.greater_equal(uniforms, np.float32(p), out=keep)
        np.multiply(x, scale, out=out)
        np.multiply(out, keep, out=out)

    return run


def torch_dropout(elements: int, p: float) -> Run:
    """Make `torch.nn.functional.dropout`, which allocates its output."""
    import torch

    torch.set_num_threads(fd.get_num_threads())
    x = torch.randn(elements)
    return lambda: torch.nn.functional.dropout(x, p, training=True)


def jax_dropout(elements: int, p: float) -> Run:
    """Make what Flax does: a jitted `jax.random.bernoulli` and `where`."""
    import jax

    keys = iter(jax.random.split(jax.random.key(0), 100_000))
    x = jax.random.normal(jax.random.key(1), (elements,))

    def dropout(key: Any, x: Any) -> Any:
        keep = jax.random.bernoulli(key, 1 - p, x.shape)
        return jax.numpy.where(keep, x / (1 - p), 0)

    jitted = jax.jit(dropout)
    return lambda: jitted(next(keys), x).block_until_ready()


def onnxruntime_dropout(elements: int, p: float) -> Run:
    """Make the Dropout operator in training mode."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], seed=1)
    graph = helper.make_graph(
        [node],
        "dropout",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [elements]),
            helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("training", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [elements])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = fd.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal(elements, dtype=np.float32)
    feed = {"x": x, "ratio": np.array(p, dtype=np.float32), "training": np.array(True)}
    return lambda: session.run(None, feed)


def numpy_bools(elements: int, p: float) -> Run:
    """Make a mask of bools as NumPy's users do, not applied to anything."""
    rng = np.random.default_rng(1)
    return lambda: rng.random(elements) < p


def fastdrop_bools(elements: int, p: float) -> Run:
    """Make the same with fastdrop."""
    key = fd.Key(0)
    return lambda: fd.bernoulli(elements, p, key)


def bitarray_bits(elements: int, p: float) -> Run:
    """Make a packed mask of exact p, not applied to anything."""
    from bitarray.util import random_p

    return lambda: random_p(elements, p)


def fastdrop_bits(elements: int, p: float) -> Run:
    """Make the same with fastdrop."""
    key = fd.Key(0)
    return lambda: fd.bernoulli(elements, p, key, packed=True)


PEERS: dict[str, tuple[str, Callable[[int, float], Run]]] = {
    "NumPy, preallocated": ("numpy", numpy_preallocated),
    "torch": ("torch", torch_dropout),
    "jax, jitted": ("jax", jax_dropout),
    "onnxruntime": ("onnxruntime", onnxruntime_dropout),
    "NumPy, bools only": ("numpy", numpy_bools),
    "fastdrop, bools only": ("fastdrop-np", fastdrop_bools),
    "bitarray, bits only": ("bitarray", bitarray_bits),
    "fastdrop, bits only": ("fastdrop-np", fastdrop_bits),
}


def installed(package: str) -> str | None:
    """Return a package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(names: Iterable[str]) -> str:
    """Write the versions of the frameworks that take part under these names."""
    packages = dict.fromkeys(PEERS[name][0] for name in names if name in PEERS)
    return "".join(
        f", {package} {found}"
        for package in packages
        if (found := installed(package)) and package not in ("numpy", "fastdrop-np")
    )


def compare(options: argparse.Namespace, console: Console) -> dict[tuple[int, float], Times]:
    """Time all cases for every size and p."""
    grid = [(size, p) for size in options.sizes for p in options.p]
    peers = {name: peer for name, peer in PEERS.items() if installed(peer[0])}
    results = {}
    for size, p in track(grid, "timing", console=console):
        elements = 1 << size
        cases = numpy_cases(elements, p)
        for name, (package, make) in list(peers.items()):
            run = make(elements, p)
            try:
                run()
            except NotImplementedError as error:  # bitarray's random_p needs Python 3.12
                console.print(f"{package} is left out: {error}", soft_wrap=True)
                del peers[name]
            else:
                cases[name] = run
        results[size, p] = take_turns(cases, rounds=options.rounds, seconds=options.seconds)
    return results


def tables(results: dict[tuple[int, float], Times], probabilities: Sequence[float]) -> list[Table]:
    """Make one table for each p: a peer's time over that of fastdrop."""
    made = []
    for p in probabilities:
        sizes = [size for size, of in results if of == p]
        table = Table(title=f"p = {p}: time over that of fastdrop, median (quartiles)")
        table.add_column("")
        for size in sizes:
            table.add_column(f"2^{size}", justify="right")
        for name in results[sizes[0], p]:
            if name == US:
                each = [np.median(results[size, p][US]) / 2**size * 1e9 for size in sizes]
                table.add_row("fastdrop, ns per element", *(f"{time:.3f}" for time in each))
            else:
                row = [f"{ratio(results[size, p], name, US):.2f}" for size in sizes]
                table.add_row(name, *row)
        made.append(table)
    return made


def lost(results: dict[tuple[int, float], Times]) -> list[str]:
    """Return a line for each case where another full dropout, or the copy, beats fastdrop."""
    lines = []
    for (size, p), times in results.items():
        for name in times:
            if name != US and not name.endswith(" only") and ratio(times, name, US).median < 1:
                share = ratio(times, name, US)
                lines.append(f"2^{size}, p = {p}: {name} takes {share:.2f} of fastdrop's time")
        for peer, what in (("NumPy", "bools"), ("bitarray", "bits")):
            names = f"{peer}, {what} only", f"fastdrop, {what} only"
            if times.keys() >= set(names) and ratio(times, *names).median < 1:
                lines.append(f"2^{size}, p = {p}: {peer} draws {what} faster than fastdrop")
    return lines


def save_json(results: dict[tuple[int, float], Times], about: str, path: Path) -> None:
    """Save all summaries."""
    rows = [
        {
            "elements": 2**size,
            "p": p,
            "case": name,
            "ns_per_element": Spread.of(times[name] / 2**size * 1e9)._asdict(),
            "time_over_fastdrop": ratio(times, name, US)._asdict(),
        }
        for (size, p), times in results.items()
        for name in times
    ]
    path.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def plot(results: dict[tuple[int, float], Times], probabilities: Sequence[float]) -> Figure:
    """Draw the time per element over the size, with the copy as the floor."""
    figure = Figure(figsize=(5.5, 1.6 + 3.6 * len(probabilities)), layout="constrained")
    panels = figure.subplots(len(probabilities), 1, sharey=True, squeeze=False)[:, 0]
    markers = "osv^D<>Pp"
    for axes, p in zip(panels, probabilities, strict=True):
        sizes = [size for size, of in results if of == p]
        names = [name for name in results[sizes[0], p] if not name.endswith(" only")]
        for number, name in enumerate(names):
            each = [np.median(results[size, p][name]) / 2**size * 1e9 for size in sizes]
            style = {US: "-", FLOOR: ":"}.get(name, "--")
            axes.plot(sizes, each, style, marker=markers[number % len(markers)], label=name)
        axes.set(
            xlabel="elements (float32)",
            ylabel="time per element (ns)",
            yscale="log",
            title=f"p = {p}",
            xticks=sizes,
            xticklabels=[f"2^{size}" for size in sizes],
        )
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=2)  # covers no line
    figure.suptitle(textwrap.fill(machine() + versions(names), 70), fontsize=10)
    return figure


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Compare fastdrop with what users have today.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sizes = [14, 17, 20, 23, 26]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="powers of two")
    parser.add_argument("--p", type=float, nargs="+", default=[0.5, 0.1], help="to drop")
    parser.add_argument("--threads", type=int, default=1, help="for all that let us set it")
    parser.add_argument("--rounds", type=int, default=9, help="turns that each case gets")
    parser.add_argument("--seconds", type=float, default=0.02, help="of each turn, at least")
    parser.add_argument("--json", type=Path, help="where to save the numbers")
    parser.add_argument("--plot", type=Path, help="where to save the picture")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the comparison and report it."""
    options = parse()
    # JAX reads this when it starts.
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(options.threads > 1).lower()}"
    fd.set_num_threads(options.threads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(machine() + versions(PEERS), soft_wrap=True)
    packages = dict.fromkeys(package for package, _ in PEERS.values())
    if absent := [package for package in packages if not installed(package)]:
        console.print(f"not installed, left out: {', '.join(absent)}")
    results = compare(options, console)
    for table in tables(results, options.p):
        console.print(table)
    lines = lost(results)
    console.print(
        "Where fastdrop does not win:" if lines else "fastdrop was the fastest everywhere."
    )
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)
    if options.json:
        about = machine() + versions(next(iter(results.values())))
        save_json(results, about, options.json)
    if options.plot:
        plot(results, options.p).savefig(options.plot, dpi=150)


if __name__ == "__main__":
    main()
