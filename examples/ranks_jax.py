"""Data parallel training with JAX: a mask of each rank's own, or regions of one mask.

    mpiexec -n 2 python -m mpi4py examples/ranks_jax.py            # seconds; or -n 4
    mpiexec -n 2 python -m mpi4py examples/ranks_jax.py --quick    # a look

Arrays are global and divided by rows; each process draws the masks of the rows that are its own,
and `jax.distributed` sums the gradients. It trains on one rank, on two, on four if there are so
many, and on all of them at first and then on one, as a run that is resumed on another machine.
Printed are the last loss, and the largest difference of a loss from that on one rank. With a mask
of each rank's own the losses depend on the number of ranks; with regions of one mask they do not,
but for the order of sums. Exits with an error if that is not so. Needs JAX and MPI.
"""

from collections.abc import Sequence
from typing import Any

import fastdrop as fd
import numpy as np
import shards
from shards import BATCH, HIDDEN, OWN, SHARED, Array, P

try:
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
except ImportError as error:
    raise SystemExit(f"error: this example needs JAX ({error})") from None


def divided(ranks: int, *axes: str | None) -> Any:
    """Return how an array lies on the first ranks; an axis called "rank" is divided."""
    return NamedSharding(Mesh(np.array(jax.devices()[:ranks]), ("rank",)), PartitionSpec(*axes))


def spread(x: Any, sharding: Any) -> Any:
    """Return an array of which each rank has its part."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def kept(whole: fd.Mask, sharding: Any) -> Any:
    """Draw a mask, each rank its region."""

    def region(index: Any) -> Any:
        bounds = [part.indices(n)[:2] for part, n in zip(index, whole.shape, strict=True)]
        start, shape = [first for first, _ in bounds], [end - first for first, end in bounds]
        return whole.region(start, shape).to_numpy()

    return jax.make_array_from_callback(whole.shape, sharding, region)


def kept_own(step: int, ranks: int, sharding: Any) -> Any:
    """Draw a mask, each rank by its own key."""
    own = shards.mask_of(OWN, step, jax.process_index(), ranks).to_numpy()
    return jax.make_array_from_process_local_data(sharding, own, (BATCH, HIDDEN))


def mean_loss(weights: Any, images: Any, labels: Any, kept: Any) -> Any:
    """Return the mean cross-entropy of a batch."""
    hidden = jnp.where(kept, jax.nn.relu(images @ weights[0]) / (1 - P), 0.0)
    scores = jax.nn.log_softmax(hidden @ weights[1])
    return -jnp.take_along_axis(scores, labels[:, None], 1).mean()


def train(masks: str, schedule: Sequence[int]) -> shards.Result:
    """Train with as many ranks in each epoch as the schedule says; all ranks call this."""
    digits, _ = shards.digits()
    weights: list[Array] = shards.initial_weights()
    gradients_of = jax.jit(jax.value_and_grad(mean_loss))
    losses = []
    for epoch, ranks in enumerate(schedule):
        if jax.process_index() < ranks:
            rows = divided(ranks, "rank", None)
            on_all = [spread(weight, divided(ranks)) for weight in weights]
            for step, batch in shards.batches(epoch):
                images = spread(digits.images[batch].astype(np.float64), rows)
                labels = spread(digits.labels[batch], divided(ranks, "rank"))
                whole = fd.Mask((BATCH, HIDDEN), P, fd.Key(0).fold_in(step))
                mask = kept(whole, rows) if masks == SHARED else kept_own(step, ranks, rows)
                loss, gradients = gradients_of(on_all, images, labels, mask)
                losses.append(float(loss))
                on_all = [w - shards.RATE * g for w, g in zip(on_all, gradients, strict=True)]
            weights = [np.asarray(weight) for weight in on_all]
        # As all ranks would read them when a run is resumed.
        weights = [process_allgather(weight)[0] for weight in weights]
    return shards.Result(losses, shards.test_error(weights))


def check_shards() -> None:
    """Draw a mask divided by rows and by columns, and compare with the whole."""
    ranks = jax.process_count()
    whole = fd.Mask((12 * ranks, 10 * ranks), P, fd.Key(1))
    for axes in (("rank", None), (None, "rank")):
        gathered = process_allgather(kept(whole, divided(ranks, *axes)), tiled=True)
        same = np.array_equal(gathered, whole.to_numpy())
        shards.require(same, f"parts {axes} of a mask are those of the whole, bit for bit")


def main() -> None:
    """Check, train, and compare."""
    epochs = shards.epochs(__doc__)
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(cluster_detection_method="mpi4py")
    check_shards()
    results = {
        (masks, name): train(masks, schedule)
        for masks in (OWN, SHARED)
        for name, schedule in shards.runs(jax.process_count(), epochs).items()
    }
    if jax.process_index() == 0:
        shards.judge(results)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
