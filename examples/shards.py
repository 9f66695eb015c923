"""Digits, network and verdict of the programs that train on several ranks.

A rank is one of the processes that train together, each on its rows of every batch. A run lists how
many ranks train in each epoch, so it can resume with another number. Batches and initial weights do
not depend on this number.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import fastdrop as fd
import numpy as np
from network import CLASSES, Digits, independent, load, percent_wrong, split
from numpy.typing import NDArray

Array = NDArray[np.float64]
P, RATE, HIDDEN, BATCH, TRAIN, TEST = 0.5, 0.5, 128, 192, 960, 500
STEPS = TRAIN // BATCH
"""Steps of an epoch."""
OWN, SHARED = "of each rank's own key", "regions of one mask"
"""The two kinds of masks."""


class Result(NamedTuple):
    """The loss of every step, and the percentage of test digits that are misclassified."""

    losses: Sequence[float]
    error: float


def epochs(documentation: str | None) -> int:
    """Read the command line: how many epochs to train for."""
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the digits")
    parser.add_argument("--quick", action="store_true", help="two epochs, to see it work")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs must be at least 2, got {options.epochs}")
    return 2 if options.quick else int(options.epochs)


def runs(ranks: int, epochs: int) -> dict[str, list[int]]:
    """Return the runs to compare: for each epoch, how many of the `ranks` train."""
    require(ranks > 1, "there are at least two ranks")
    found = {str(n): [n] * epochs for n in (1, 2, 4) if n <= ranks}
    half = epochs // 2
    return {**found, f"{ranks}, then 1": [ranks] * half + [1] * (epochs - half)}


def digits() -> tuple[Digits, Digits]:
    """Return training and test set."""
    return split(load("optical"), TRAIN, TEST, independent(0)[0])


def batches(epoch: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the number of each step of an epoch, and which digits are its batch."""
    order = np.random.default_rng([1, epoch]).permutation(TRAIN)
    for number, batch in enumerate(np.split(order, STEPS)):
        yield epoch * STEPS + number, batch


def share(length: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the start and the end of a rank's part of an axis."""
    return length * rank // ranks, length * (rank + 1) // ranks


def mask_of(masks: str, step: int, rank: int, ranks: int) -> fd.Mask:
    """Return the mask of the hidden units for a rank's rows of a batch."""
    key = fd.Key(0).fold_in(step)
    first, end = share(BATCH, rank, ranks)
    if masks == OWN:
        return fd.Mask((end - first, HIDDEN), P, key.fold_in(rank))
    return fd.Mask((BATCH, HIDDEN), P, key).region((first, 0), (end - first, HIDDEN))


def initial_weights() -> list[Array]:
    """Return the weights of two layers, without biases."""
    rng = np.random.default_rng(2)
    sizes = (load("optical").images.shape[1], HIDDEN, CLASSES)
    return [rng.standard_normal(shape) * np.sqrt(2 / shape[0]) for shape in pairwise(sizes)]


def loss_and_gradients(
    weights: Sequence[Array], images: Any, labels: Any, drop: Callable[[Any], Any]
) -> list[Any]:
    """Return the sum of the cross-entropy over some digits, and its gradients for the weights.

    `drop` applies one mask to the hidden units, and to their gradient. `images`, and therefore the
    results, are arrays of NumPy or Dask.
    """
    first, second = weights
    before = images @ first
    hidden = drop(np.maximum(before, 0.0))
    logits = hidden @ second
    logits -= logits.max(axis=1, keepdims=True)
    chosen = np.eye(CLASSES)[labels]
    exponentials = np.exp(logits)
    totals = exponentials.sum(axis=1, keepdims=True)
    loss = (np.log(totals) - (logits * chosen).sum(axis=1, keepdims=True)).sum()
    slope = exponentials / totals - chosen
    through = drop(slope @ second.T) * (before > 0.0)
    return [loss, images.T @ through, hidden.T @ slope]


def test_error(weights: Sequence[Array]) -> float:
    """Return the percentage of test digits that a network misclassifies with dropout off."""
    _, test = digits()
    return percent_wrong(np.maximum(test.images @ weights[0], 0.0) @ weights[1], test.labels)


def require(condition: bool, claim: str) -> None:
    """End the program with an error unless a claim holds."""
    if not condition:
        raise SystemExit(f"error: not true: {claim}")


def judge(results: Mapping[tuple[str, str], Result]) -> None:
    """Print the results of each kind of mask and each run, and check the claims about them."""
    print(f"{'masks':24}{'ranks':>10}{'last loss':>12}{'difference':>12}{'test error %':>14}")
    differences = {}
    for (masks, ranks), (losses, error) in results.items():
        difference = np.abs(np.subtract(losses, results[masks, "1"].losses)).max()
        differences[masks, ranks] = difference
        print(f"{masks:24}{ranks:>10}{losses[-1]:12.6f}{difference:12.1e}{error:14.1f}")
    for (masks, ranks), difference in differences.items():
        if masks == SHARED:
            require(difference < 1e-9, f"with {masks}, ranks {ranks} give the losses of one rank")
        elif ranks != "1":
            require(difference > 1e-3, f"with masks {masks}, losses depend on the ranks")
    print("With regions of one mask, the losses are the same for every number of ranks.")
