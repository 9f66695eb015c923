"""The overhead of a call: 64 elements, a ready-made key.

    python benches/calls.py [--rounds 25]        # times, beside NumPy
    python benches/calls.py --count CASE REPEATS  # only that call, for `instructions.py` to count

Ratios of times from the same rounds; float32, one thread.
"""

import argparse
from collections.abc import Callable

import fastdrop as fd
import numpy as np
from fastdrop._bench import Run, machine, ratio, take_turns
from rich.console import Console
from rich.table import Table

MULTIPLY = "np.multiply(x, 2, out=o)"
COPY = "np.copyto, 2^14"
SEED = "np.random.default_rng(1).integers"


def cases() -> dict[str, tuple[str, Run]]:
    """Return each call and the name of the call that it is compared with."""
    key = fd.Key(0)
    x, large = np.ones(64, np.float32), np.ones(1 << 14, np.float32)
    images = np.ones((2, 4, 2, 4), np.float32)
    o, o_large, o_images = np.zeros_like(x), np.zeros_like(large), np.zeros_like(images)
    layer, add = fd.Dropout(0.5, rng=key), fd.DropoutAdd(0.5, rng=key)
    layer(x)
    heads = np.ones((1, 2, 32, 16), np.float32)

    def attend() -> None:
        y, lse = fd.scaled_dot_product_attention(heads, heads, heads, 0.1, rng=key, return_lse=True)
        fd.scaled_dot_product_attention_backward(y, heads, heads, heads, y, lse, 0.1, rng=key)

    return {
        MULTIPLY: (MULTIPLY, lambda: np.multiply(x, 2, out=o)),
        "dropout(x, 0.5, rng=key, out=o)": (MULTIPLY, lambda: fd.dropout(x, 0.5, rng=key, out=o)),
        "dropout(x, 0.1, rng=key, out=o)": (MULTIPLY, lambda: fd.dropout(x, 0.1, rng=key, out=o)),
        "dropout(x, 0.5)": (MULTIPLY, lambda: fd.dropout(x, 0.5)),
        "dropout(x, training=False)": (MULTIPLY, lambda: fd.dropout(x, 0.5, training=False)),
        "Dropout(0.5)(x)": (MULTIPLY, lambda: layer(x)),
        "DropoutAdd(0.5)(x, x)": (MULTIPLY, lambda: add(x, x)),
        "Dropout.backward": (MULTIPLY, lambda: layer.backward(x)),
        "dropout2d": (MULTIPLY, lambda: fd.dropout2d(images, 0.5, rng=key, out=o_images)),
        "drop_path": (MULTIPLY, lambda: fd.drop_path(images, 0.5, rng=key, out=o_images)),
        "locked_dropout": (MULTIPLY, lambda: fd.locked_dropout(images, 0.5, rng=key, out=o_images)),
        "scaled_dot_product_attention and gradients": (COPY, attend),
        SEED: (SEED, lambda: np.random.default_rng(1).integers(0, 2**64, 2, np.uint64)),
        "dropout(x, 0.5, rng=1)": (SEED, lambda: fd.dropout(x, 0.5, rng=1)),
        COPY: (COPY, lambda: np.copyto(o_large, large)),
        "dropout, 2^14, p = 0.5": (COPY, lambda: fd.dropout(large, 0.5, rng=key, out=o_large)),
        "dropout, 2^14, p = 0.1": (COPY, lambda: fd.dropout(large, 0.1, rng=key, out=o_large)),
    }


def repeat(run: Callable[[], object], repeats: int) -> None:
    """Call a case `repeats` times."""
    for _ in range(repeats):
        run()


def main() -> None:
    """Measure, or repeat a call."""
    parser = argparse.ArgumentParser(description="Measure small calls.")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--count", nargs=2, metavar=("CASE", "REPEATS"))
    options = parser.parse_args()
    fd.set_num_threads(1)
    calls = cases()
    if options.count:
        case, repeats = options.count
        repeat(calls[case][1], int(repeats))
        return
    times = take_turns({name: run for name, (_, run) in calls.items()}, rounds=options.rounds)
    table = Table("call", "time / that of", "", title=machine())
    for name, (floor, _) in calls.items():
        if name != floor:
            table.add_row(name, floor, f"{ratio(times, name, floor):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
