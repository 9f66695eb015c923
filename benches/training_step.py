"""The share of dropout in a training step, with the NumPy idiom and with fastdrop.

    python benches/training_step.py

The network is that of `examples/overfitting.py` (784-512-512-10, dropout 0.2 on the input and 0.5
on hidden units), the batch 128 digits. Forward and backward passes of the dropout layers are timed
alone, and the whole step without any dropout; the share is the first over the sum of both.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import fastdrop as fd
import numpy as np
from fastdrop._bench import Spread, machine, ratio, take_turns

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from network import DROPOUT, NO_DROPOUT, Network

BATCH = 128
SIZES = (784, 512, 512, 10)
RATES = (DROPOUT.input, DROPOUT.hidden, DROPOUT.hidden)


class NumpyDropout:
    """The idiom that people write; it keeps its mask for backward."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.rng = np.random.default_rng(0)

    def __call__(self, x: Any) -> Any:
        """Drop, and keep the mask."""
        self.mask = (self.rng.random(x.shape) >= self.p) / np.float32(1 - self.p)
        return x * self.mask

    def backward(self, dy: Any) -> Any:
        """Apply the mask to a gradient."""
        return dy * self.mask


def main() -> None:
    """Run the comparison and report it."""
    parser = argparse.ArgumentParser(description="Time dropout within a training step.")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each case gets")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    inputs = [rng.random((BATCH, size), dtype=np.float32) for size in SIZES[:-1]]
    labels = rng.integers(0, SIZES[-1], BATCH)
    plain = Network(SIZES, NO_DROPOUT, weights_rng=rng, dropout_rng=rng)
    velocities = [np.zeros_like(value) for value in plain.parameters]

    def step() -> None:
        gradients = plain.gradients(inputs[0], labels)
        for value, velocity, gradient in zip(plain.parameters, velocities, gradients, strict=True):
            velocity *= np.float32(0.9)
            velocity -= np.float32(1e-6) * gradient
            value += velocity

    def passes(layers: list[Any]) -> Any:
        def run() -> None:
            for layer, x in zip(layers, inputs, strict=True):
                layer(x)
            for layer, x in zip(layers[1:], inputs[1:], strict=True):
                layer.backward(x)

        return run

    times = take_turns(
        {
            "step": step,
            "NumPy idiom": passes([NumpyDropout(p) for p in RATES]),
            "fastdrop": passes([fd.Dropout(p, rng=0) for p in RATES]),
        },
        rounds=options.rounds,
    )
    print(machine())
    print(f"a step of {'-'.join(map(str, SIZES))} on {BATCH} digits, without dropout: "
          f"{np.median(times['step']) * 1e3:.2f} ms")  # fmt: skip
    for name in ("NumPy idiom", "fastdrop"):
        share = Spread.of(100 * times[name] / (times[name] + times["step"]))
        print(f"dropout by {name}: {share:.1f} % of the step")
    print(f"idiom over fastdrop: {ratio(times, 'NumPy idiom', 'fastdrop'):.1f}")


if __name__ == "__main__":
    main()
