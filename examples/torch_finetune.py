"""A small transformer over the rows of digits, with torch's dropout and with fastdrop's.

    python examples/torch_finetune.py            # two to three minutes
    python examples/torch_finetune.py --quick    # a look

The two differ in one call, `fastdrop.torch.install`. For a seed, both have the same weights, digits
and batches. Their masks differ, so their errors differ by chance. Needs PyTorch.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import study
from network import Digits, independent, load, split
from rich.progress import Progress

try:
    import fastdrop.torch
    import torch
    from torch import nn
except ImportError as error:
    raise SystemExit(f"error: this example needs PyTorch ({error})") from None

ROWS, LENGTH, WIDTH, BATCH = 28, 28, 128, 100
QUICK = {"seeds": 2, "epochs": 1, "train": 500, "test": 500}


class Result(NamedTuple):
    """Results of a training."""

    error: float
    seconds: float


def reader(p: float) -> nn.Module:
    """Return a transformer over the rows of an image."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, p, batch_first=True)
    return nn.Sequential(
        nn.Unflatten(1, (ROWS, LENGTH)),
        nn.Linear(LENGTH, WIDTH),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Flatten(),
        nn.Dropout(p),
        nn.Linear(ROWS * WIDTH, 10),
    )


def tensors(digits: Digits) -> tuple[Any, Any]:
    """Return images and labels."""
    return torch.from_numpy(digits.images), torch.from_numpy(digits.labels)


def train(seed: int, options: argparse.Namespace, tick: study.Tick) -> Result:
    """Train a network; every random choice comes from `seed`."""
    division, _, _, batches = independent(seed)
    train_set, test_set = split(load("mnist"), options.train, options.test, division)
    torch.manual_seed(seed)
    model = reader(options.p)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels = tensors(train_set)
    start = perf_counter()
    for _ in range(options.epochs):
        for batch in np.array_split(batches.permutation(len(labels)), len(labels) // BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tick()
    seconds = perf_counter() - start
    model.eval()
    images, labels = tensors(test_set)
    with torch.no_grad():
        wrong = (model(images).argmax(1) != labels).double().mean()
    return Result(100.0 * float(wrong), seconds)


def main() -> None:
    """Train with both, and show errors and times side by side."""
    own = study.parser(__doc__, seeds=3, epochs=6)
    own.add_argument("--p", type=float, default=0.2, help="probability to drop")
    own.add_argument("--train", type=int, default=3000, help="digits to learn from")
    own.add_argument("--test", type=int, default=1000, help="digits to test on")
    options = study.parse(own, QUICK)
    results: dict[str, list[Result]] = {"torch": [], "fastdrop": []}
    with Progress(console=study.console) as progress:
        task = progress.add_task("epochs", total=2 * options.seeds * options.epochs)
        for seed in range(options.seeds):
            results["torch"].append(train(seed, options, lambda: progress.advance(task)))
            with fastdrop.torch.installed():
                results["fastdrop"].append(train(seed, options, lambda: progress.advance(task)))
    times = {name: np.array([one.seconds for one in of]) for name, of in results.items()}
    rows = [
        {
            "dropout of": name,
            "test error %": study.spread([one.error for one in of]),
            "time": study.spread(times[name] / times["torch"]),
        }
        for name, of in results.items()
    ]
    title = f"mean ± standard deviation of {options.seeds} seeds; times over torch's"
    study.save_table(rows, title, Path(options.output) / "torch_finetune.csv")
    study.too_short(options)


if __name__ == "__main__":
    main()
