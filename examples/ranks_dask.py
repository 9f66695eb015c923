"""Data parallel training with Dask: a mask of each block's own, or regions of one mask.

    python examples/ranks_dask.py            # minutes
    python examples/ranks_dask.py --quick    # a look

A batch has as many blocks of rows as the cluster has workers. The program trains on one worker, on
two, and on two and then one, like a run that resumes on another machine. It prints the last loss,
and the largest difference of a loss from that on one worker. With a mask of each block's own, the
losses depend on the number of workers. With `fastdrop.dask`, whose blocks draw regions of one mask,
only the order of sums changes them; otherwise the program exits with an error.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import fastdrop as fd
import fastdrop.dask
import numpy as np
import shards
from dask.base import compute
from distributed import Client, LocalCluster
from shards import OWN, SHARED, Array, P

WORKERS = 2


def drop_own(block: Array, key: fd.Key, block_id: tuple[int, ...]) -> Array:
    """Drop in a block with a key of its own."""
    return fd.dropout(block, P, rng=key.fold_in(block_id[0]))


def drop(masks: str, step: int, x: Any) -> Any:
    """Drop in an array of hidden units, or of their gradient."""
    key = fd.Key(0).fold_in(step)
    if masks == OWN:
        return x.map_blocks(drop_own, key, dtype=x.dtype)
    return fastdrop.dask.dropout(x, P, rng=key)


def train(masks: str, schedule: Sequence[int], client: Client) -> shards.Result:
    """Train on as many workers in each epoch as the schedule says."""
    digits, _ = shards.digits()
    weights = shards.initial_weights()
    names = sorted(client.scheduler_info()["workers"])
    losses = []
    for epoch, workers in enumerate(schedule):
        for step, batch in shards.batches(epoch):
            mine = digits.take(batch)
            images = da.from_array(mine.images, chunks=(len(batch) // workers, -1))
            apply = partial(drop, masks, step)
            parts = shards.loss_and_gradients(weights, images, mine.labels, apply)
            found = compute(*parts, workers=names[:workers])
            loss, *gradients = (part / len(batch) for part in found)
            losses.append(float(loss))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= shards.RATE * gradient
    return shards.Result(losses, shards.test_error(weights))


def check_shards() -> None:
    """Drop in the blocks of an array, by rows and by columns, and compare with the whole."""
    x = np.random.default_rng(3).standard_normal((61, 45))
    key = fd.Key(1)
    for chunks in ((31, -1), (-1, 23), (20, 10)):
        y = fastdrop.dask.dropout(da.from_array(x, chunks=chunks), P, rng=key).compute()
        same = np.array_equal(y, fd.dropout(x, P, rng=key))
        shards.require(same, f"blocks of {chunks} are those of the whole, bit for bit")


def main() -> None:
    """Check, train, and compare."""
    epochs = shards.epochs(__doc__)
    with (
        LocalCluster(WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        check_shards()
        results = {
            (masks, name): train(masks, schedule, client)
            for masks in (OWN, SHARED)
            for name, schedule in shards.runs(WORKERS, epochs).items()
        }
    shards.judge(results)


if __name__ == "__main__":
    main()
