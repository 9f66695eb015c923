"""Calls of all kinds from threads and processes, every result compared with the reference.

    python tests/soak.py                 # five minutes
    python tests/soak.py --minutes 60

Each process has threads that call, while the number of threads and the SIMD level change under
them, and children are forked that call, too. Prints how many results of each kind were compared,
and exits with an error if one was wrong, if memory grew, or if a process died or hung.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import pickle
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import fastdrop as fd
import reference as ref
from fastdrop import _core
from numpy.typing import NDArray
from statements import STATED, statement
from support import DTYPES, SWAPPABLE, assert_same, values
from test_blocks import kept_2d

Rng = np.random.Generator
LARGE = (1 << 20) + 77
"""More elements than a call keeps to one thread."""


# --- What is called ------------------------------------------------------------------------------


def key_of(rng: Rng) -> tuple[ref.Key, fd.Key]:
    """Return a random key, as bytes and as a Key."""
    data = rng.bytes(16)
    return data, fd.Key.from_bytes(data)


def rate_of(rng: Rng) -> float:
    """Return a probability, now and then an extreme one."""
    return float(rng.choice([rng.random(), rng.integers(0, 65) / 64, 2.0 ** -rng.integers(1, 64)]))


def array_of(rng: Rng, most: int = 20) -> NDArray[Any]:
    """Return an array of any dtype and layout, with NaN, infinities and signalling NaN in it."""
    shape = tuple(int(n) for n in rng.integers(0, most, size=rng.integers(0, 4)))
    dtype = DTYPES[rng.integers(len(DTYPES))]
    if dtype in SWAPPABLE and rng.random() < 0.2:
        dtype = dtype.newbyteorder("S")
    x = values(shape, dtype, seed=int(rng.integers(2**31)))
    x = x.transpose(rng.permutation(x.ndim))
    steps = tuple(slice(None, None, int(rng.choice([1, 2, -1]))) for _ in x.shape)
    return x[steps] if rng.random() < 0.5 and steps else x


def elements(rng: Rng) -> None:
    """Drop elements, into new memory, into `out`, or in place."""
    data, key = key_of(rng)
    x, p = array_of(rng), rate_of(rng)
    dims = [axis for axis in range(x.ndim) if rng.random() < 0.3]
    mode = str(rng.choice(["inverted", "standard"]))
    expected = ref.dropout(x.copy(), p, data, mode=mode, broadcast_dims=dims) if p else x.copy()
    assert_same(fd.dropout(x, p, mode=mode, broadcast_dims=dims, rng=key), expected)
    out = np.empty_like(x)
    fd.dropout(x, p, mode=mode, broadcast_dims=dims, rng=key, out=out)
    assert_same(out, expected)
    assert fd.dropout(out, 1.0, out=out) is out
    assert not out.astype(np.complex128).any()


def large(rng: Rng) -> None:
    """Drop in an array that is shared among threads."""
    _, key = key_of(rng)
    p = rate_of(rng)
    y = fd.dropout(np.ones(LARGE, np.float32), p, rng=key)
    mask = fd.Mask(LARGE, p, key)
    start = int(rng.integers(LARGE - 2000))
    expected = ref.kept(bytes(key), p, np.arange(start, start + 2000))
    assert np.array_equal(y[start : start + 2000] != 0, expected)
    assert np.count_nonzero(y) == mask.count()


def regions(rng: Rng) -> None:
    """Draw a part of a mask."""
    data, key = key_of(rng)
    shape = [int(n) for n in rng.integers(1, 30, size=rng.integers(1, 4))]
    start = [int(n) for n in rng.integers(0, 2**18, size=len(shape))]
    whole = [a + b + int(rng.integers(9)) for a, b in zip(shape, start, strict=True)]
    p = rate_of(rng)
    part = fd.Mask(whole, p, key).region(start, shape)
    expected = ref.kept(data, p, ref.element_indices(whole, start, shape)).reshape(shape)
    assert np.array_equal(part.to_numpy(), expected)
    assert part.count() == expected.sum()
    assert pickle.loads(pickle.dumps(part)) == part


def noise(rng: Rng) -> None:
    """Multiply by Gaussian noise."""
    data, key = key_of(rng)
    x, p = values((50,), np.float32, seed=int(rng.integers(2**31))), float(rng.uniform(0.01, 0.9))
    normals = ref.normals(data, np.arange(50))
    assert_same(fd.gaussian_dropout(x, p, rng=key), ref.noise(x, (p / (1 - p)) ** 0.5, normals))


def fused(rng: Rng) -> None:
    """Drop and add, drop of a rectifier, and their gradients."""
    data, key = key_of(rng)
    x, residual = (rng.standard_normal((7, 33)).astype(np.float32) for _ in range(2))
    p = float(rng.uniform(0.01, 0.99))
    dropped = ref.dropout(x, p, data)
    assert_same(fd.dropout_add(x, residual, p, rng=key), residual + dropped)
    positive = ref.dropout(np.where(x > 0, x, np.float32(0)), p, data)
    assert_same(fd.relu_dropout(x, p, rng=key), positive)
    gradient = fd.relu_dropout_backward(residual, x, p, rng=key)
    assert_same(gradient, ref.dropout(np.where(x > 0, residual, np.float32(0)), p, data))


def family(rng: Rng) -> None:
    """Call a member of the family on float64, or drop blocks of images."""
    data, key = key_of(rng)
    p = float(rng.choice([rng.random(), 1.0]))
    chosen = int(rng.integers(len(STATED) + 5))
    if chosen < len(STATED):
        member = STATED[chosen]
        inputs = tuple(rng.standard_normal(shape) for shape in member.shapes)
        drawn = member.call(None, inputs, p, rng=key)
        expected = statement(member, inputs, p, data)
        np.testing.assert_allclose(drawn, expected, rtol=1e-13, atol=1e-14)
        return
    shape = tuple(int(n) for n in rng.integers(1, 14, size=4))
    block, shared = int(rng.integers(1, 9)), bool(rng.random() < 0.5)
    x = values(shape, np.float32, seed=int(rng.integers(2**31)))
    y = fd.drop_block2d(x, p, block, shared=shared, rng=key)
    scale = ref.inverse_keep(p)
    assert_same(y, ref.select(kept_2d(shape, p, block, data, shared), x, scale))


def given(rng: Rng) -> None:
    """Drop by a mask that is given: an array of any layout, or a Mask."""
    data, key = key_of(rng)
    x, p = array_of(rng), rate_of(rng)
    keep = ref.mask(data, p, x.shape)
    laid = keep.copy(order="F") if rng.random() < 0.5 else keep
    expected = ref.select(keep, x, ref.inverse_keep(p))
    assert_same(fd.dropout(x, p, mask=laid), expected)
    assert_same(fd.dropout(x, p, mask=fd.Mask(x.shape, p, key)), expected)


def refused(rng: Rng) -> None:
    """Refuse bad arguments, and touch nothing."""
    x = values((5, 6), np.float32, seed=int(rng.integers(2**31)))
    before, generator = x.copy(), np.random.default_rng(1)
    state = generator.bit_generator.state
    bad: list[dict[str, Any]] = [
        {"p": 2.0}, {"p": None}, {"p": True}, {"mode": "x"}, {"broadcast_dims": 2}, {"training": 1},
        {"out": np.empty(3)}, {"mask": fd.Mask(7, 0.5, fd.Key(0))},
    ]  # fmt: skip
    for options in bad:
        try:
            fd.dropout(x, **{"rng": generator, **options})
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"{options} was accepted")
    assert generator.bit_generator.state == state
    assert_same(x, before)


def layers(rng: Rng) -> None:
    """Call a layer, save it, and go on with the copy."""
    data, key = key_of(rng)
    layer, x = fd.Dropout(0.3, rng=key), np.ones(300)
    for call in range(3):
        expected = ref.dropout(x, 0.3, ref.fold_in(data, call))
        assert_same(layer(x), expected)
        assert_same(layer.backward(x), expected)
        layer = pickle.loads(pickle.dumps(layer))


def settings(rng: Rng) -> None:
    """Change what no result may depend on."""
    if rng.random() < 0.5:
        fd.set_num_threads(int(rng.integers(1, 5)))
    else:
        levels = _core.simd_levels()
        _core.set_simd(levels[rng.integers(len(levels))])


def forked(rng: Rng) -> None:
    """Call in a forked child, and in its child."""
    _, key = key_of(rng)
    expected = fd.Mask(LARGE, 0.5, key).count()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(60, exit=True)
        right = np.count_nonzero(fd.dropout(np.ones(LARGE, np.float32), 0.5, rng=key)) == expected
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0, "a forked child was wrong, died or hung"


KINDS: dict[Callable[[Rng], None], int] = {
    elements: 60, large: 6, regions: 40, noise: 20, fused: 20, family: 40, given: 20, refused: 20,
    layers: 20, settings: 4, forked: 1,
}  # fmt: skip
"""What is called, and how often."""


# --- Threads and processes -----------------------------------------------------------------------


def soak(seed: int, threads: int, seconds: float, report: str) -> None:
    """Call from several threads for some time, and write what was counted."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    deadline = time.monotonic() + seconds
    chances = np.array(list(KINDS.values())) / sum(KINDS.values())
    memory: list[int] = []

    def work(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        while time.monotonic() < deadline and not failures:
            kind = list(KINDS)[rng.choice(len(KINDS), p=chances)]
            state = rng.bit_generator.state
            try:
                kind(rng)
            except BaseException as error:
                failures.append(f"{kind.__name__} with generator {state}: {error!r}")
                raise
            counts[kind.__name__] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(min(1.0, seconds / 20))
        memory.append(_resident())
    grown = memory[-1] - memory[len(memory) // 3] if len(memory) > 30 else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    Path(report).write_text(
        json.dumps({"counts": counts, "failures": failures, "grown": grown, "peak": peak})
    )


def _resident() -> int:
    """Return the memory in use, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main() -> None:
    """Start the processes, wait, and report."""
    parser = argparse.ArgumentParser(description="Compare many calls with the reference.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=3, help="of each process")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"soak-{os.getpid()}"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    started = []
    for number in range(options.processes):
        report = folder / str(number)
        seconds = options.minutes * 60
        arguments = (options.seed + number, options.threads, seconds, str(report))
        process = context.Process(target=soak, args=arguments)
        process.start()
        started.append((process, report))
    counts: Counter[str] = Counter()
    failures = []
    for process, report in started:
        process.join(options.minutes * 60 + 300)
        if process.exitcode != 0 or not report.exists():
            failures.append(f"a process ended with {process.exitcode}")
            process.kill()
            continue
        found = json.loads(report.read_text())
        counts.update(found["counts"])
        failures += found["failures"]
        print(f"process: {found['peak']} MiB at most, {found['grown']} MiB more at the end")
        if found["grown"] > 64:
            failures.append(f"memory grew by {found['grown']} MiB")
    print(f"seed {options.seed}: {sum(counts.values())} cases: {dict(counts.most_common())}")
    for failure in failures:
        print("FAILED:", failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
