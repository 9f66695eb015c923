"""Data parallel training with MPI: a mask of each rank's own, or regions of one mask.

    mpiexec -n 2 python -m mpi4py examples/ranks_mpi.py            # seconds; or -n 4
    mpiexec -n 2 python -m mpi4py examples/ranks_mpi.py --quick    # a look

Each rank has its rows of every batch, and `Allreduce` sums the gradients. The program trains on one
rank, on two, on four if there are enough, and on all ranks and then one, like a run that resumes on
another machine. It prints the last loss, and the largest difference of a loss from that on one
rank. With a mask of each rank's own, the losses depend on the number of ranks. With regions of one
mask only the order of sums changes them; otherwise the program exits with an error.
"""

from collections.abc import Sequence

import fastdrop as fd
import numpy as np
import shards
from mpi4py import MPI
from shards import OWN, SHARED, Array, P

WORLD = MPI.COMM_WORLD


def total(part: Array, team: MPI.Comm) -> Array:
    """Return the sum of an array over the ranks."""
    result = np.empty_like(part)
    team.Allreduce(part, result)
    return result


def train(masks: str, schedule: Sequence[int]) -> shards.Result:
    """Train with as many ranks in each epoch as the schedule says; all ranks call this."""
    digits, _ = shards.digits()
    weights = shards.initial_weights()
    losses = []
    for epoch, ranks in enumerate(schedule):
        team = WORLD.Split(0 if WORLD.rank < ranks else MPI.UNDEFINED, WORLD.rank)
        if team != MPI.COMM_NULL:
            for step, batch in shards.batches(epoch):
                mask = shards.mask_of(masks, step, team.rank, team.size)
                mine = digits.take(batch[slice(*shards.share(len(batch), team.rank, team.size))])
                parts = shards.loss_and_gradients(weights, mine.images, mine.labels, mask.apply)
                loss, *gradients = (total(np.asarray(part), team) / len(batch) for part in parts)
                losses.append(float(loss))
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= shards.RATE * gradient
            team.Free()
        for weight in weights:  # as if all ranks read a checkpoint
            WORLD.Bcast(weight)
    return shards.Result(losses, shards.test_error(weights))


def check_shards() -> None:
    """Drop in the shards of an array, by rows and by columns, and compare with the whole."""
    x = np.random.default_rng(3).standard_normal((61, 45))
    whole = fd.Mask(x.shape, P, fd.Key(1))
    for axis in (0, 1):
        start, shape = [0, 0], list(x.shape)
        start[axis], end = shards.share(x.shape[axis], WORLD.rank, WORLD.size)
        shape[axis] = end - start[axis]
        shard = np.split(x, [start[axis], end], axis)[1]
        parts = WORLD.allgather(fd.dropout(shard, mask=whole.region(start, shape)))
        same = np.array_equal(np.concatenate(parts, axis), fd.dropout(x, mask=whole))
        shards.require(same, f"shards along axis {axis} are those of the whole, bit for bit")


def main() -> None:
    """Check, train, and compare."""
    epochs = shards.epochs(__doc__)
    check_shards()
    results = {
        (masks, name): train(masks, schedule)
        for masks in (OWN, SHARED)
        for name, schedule in shards.runs(WORLD.size, epochs).items()
    }
    if WORLD.rank == 0:
        shards.judge(results)


if __name__ == "__main__":
    main()
