"""PyTorch with and without fastdrop: single calls, and steps of training.

    python benches/torch_step.py
    python benches/torch_step.py --rounds 5 --quick     # a look

A factor is torch's time over fastdrop's, from the same rounds and with the same number of threads:
above 1, fastdrop is faster. "no dropout" is what a step would gain if dropout cost nothing.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import fastdrop.torch as ft
import torch
from fastdrop._bench import machine, ratio, take_turns
from torch import nn
from torch.nn import functional as theirs

RATE = 0.1


def progress(text: str) -> None:
    """Show on standard error what is being measured."""
    print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)


def calls(exponent: int, p: float) -> dict[str, Callable[[], object]]:
    """Return a call of torch and of fastdrop; the output is allocated, as torch does."""
    x = torch.randn(1 << exponent)
    return {
        "torch": lambda: theirs.dropout(x, p),
        "fastdrop": lambda: ft.functional.dropout(x, p),
    }


def calls_with_backward(exponent: int, p: float) -> dict[str, Callable[[], object]]:
    """Return the same with the backward pass."""
    x = torch.randn(1 << exponent, requires_grad=True)
    dy = torch.randn(1 << exponent)

    def both(function: Any) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(x, p), x, dy)

    return {"torch": both(theirs.dropout), "fastdrop": both(ft.functional.dropout)}


def table_of_calls(rounds: int, exponents: list[int]) -> None:
    """Print the factors of single calls."""
    print("F.dropout over fastdrop.torch.functional.dropout, float32:\n")
    print("| elements | p | forward | forward and backward |")
    print("| --- | --- | --- | --- |")
    for exponent in exponents:
        for p in (0.5, 0.1):
            progress(f"2^{exponent} elements, p = {p}")
            seconds = 0.02 if exponent < 20 else 0.1
            factors = [
                ratio(take_turns(make(exponent, p), rounds=rounds, seconds=seconds), "torch",
                      "fastdrop")
                for make in (calls, calls_with_backward)
            ]  # fmt: skip
            progress("")
            print(f"\r| 2^{exponent} | {p} | {factors[0]:.2f} | {factors[1]:.2f} |")


def cnn(p: float) -> nn.Module:
    """Return two convolutions and a linear map, for images of 32 x 32."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Dropout(p),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Dropout(p),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def encoder(p: float) -> nn.Module:
    """Return four layers of a transformer."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, p, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def mlp(p: float) -> nn.Module:
    """Return 784-1024-1024-10."""
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Dropout(p),
        nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(p), nn.Linear(1024, 10),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[float], nn.Module], tuple[int, ...]]] = {
    "CNN, 2 convolutions, 64 images of 32 x 32": (cnn, (64, 3, 32, 32)),
    "encoder, 4 layers, d 256, sequence 128, batch 16": (encoder, (16, 128, 256)),
    "MLP 784-1024-1024-10, batch 128": (mlp, (128, 784)),
}


def step(model: nn.Module, x: Any, installed: bool) -> Callable[[], object]:
    """Return a step of training."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def run() -> None:
        ft.install() if installed else ft.uninstall()  # does nothing if this is the state already
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def table_of_steps(rounds: int, seconds: float) -> None:
    """Print the factors of training steps."""
    print(f"\nA step of training, p = {RATE}, {torch.get_num_threads()} threads:\n")
    print("| model | with install() | and fuse() | no dropout |")
    print("| --- | --- | --- | --- |")
    for name, (build, shape) in MODELS.items():
        progress(name)
        torch.manual_seed(0)
        x = torch.randn(shape)
        cases = {
            "torch": step(build(RATE), x, False),
            "fastdrop": step(build(RATE), x, True),
            "fused": step(ft.fuse(build(RATE)), x, True),
            "no dropout": step(build(0.0), x, False),
        }
        times = take_turns(cases, rounds=rounds, seconds=seconds)
        factors = [ratio(times, "torch", name) for name in ("fastdrop", "fused", "no dropout")]
        progress("")
        print(f"\r| {name} | " + " | ".join(f"{factor:.2f}" for factor in factors) + " |")


def bytes_kept() -> int:
    """Return the bytes that a call of 2^16 elements saves for backward, as autograd sees them."""
    kept: list[int] = []

    def pack(saved: Any) -> Any:
        kept.append(saved.numel() * saved.element_size())
        return saved

    x = torch.randn(1 << 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        ft.functional.dropout(x, RATE)
    return sum(kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time PyTorch with and without fastdrop.")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each case gets")
    parser.add_argument("--quick", action="store_true", help="small sizes, one step each")
    options = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    table_of_calls(options.rounds, [6, 12] if options.quick else [6, 12, 16, 20, 23])
    table_of_steps(options.rounds, 0.0 if options.quick else 0.3)
    print(f"\nBytes kept for backward: {bytes_kept()} beside the key")


if __name__ == "__main__":
    main()
