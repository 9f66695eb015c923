"""Data parallel training with JAX: a mask of each rank's own, or regions of one mask.

    mpiexec -n 2 python -m mpi4py examples/ranks_jax.py            # seconds; or -n 4
    mpiexec -n 2 python -m mpi4py examples/ranks_jax.py --quick    # a look

Arrays are global and divided by rows. In `jax.shard_map` each process draws the masks of its own
rows, and `jax.distributed` sums the gradients. The program trains on one rank, on two, on four if
there are enough, and on all ranks and then one, like a run that resumes on another machine. It
prints the last loss, and the largest difference of a loss from that on one rank. With a mask of
each rank's own, the losses depend on the number of ranks. With regions of one mask only the order
of sums changes them; otherwise the program exits with an error. Needs JAX and MPI.
"""

import functools
from collections.abc import Sequence
from typing import Any

import fastdrop as fd
import numpy as np
import shards
from shards import OWN, SHARED, Array, P

try:
    import fastdrop.jax
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
except ImportError as error:
    raise SystemExit(f"error: this example needs JAX ({error})") from None


def divided(ranks: int, *axes: str | None) -> Any:
    """Return the sharding of an array over the first ranks, divided along the axis "rank"."""
    return NamedSharding(Mesh(np.array(jax.devices()[:ranks]), ("rank",)), PartitionSpec(*axes))


def spread(x: Any, sharding: Any) -> Any:
    """Return an array of which each rank has its part."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def dropped(x: Any, key: Any, mesh: Mesh, masks: str = SHARED, axis: int = 0) -> Any:
    """Apply dropout to an array that is divided along an axis, on each rank separately."""
    divided = PartitionSpec(*(None,) * axis, "rank")

    def local(part: Any, key: Any) -> Any:
        rank = jax.lax.axis_index("rank")
        if masks == OWN:
            return fastdrop.jax.dropout(part, P, key=jax.random.fold_in(key, rank))
        start = [rank * n if n < whole else 0 for n, whole in zip(part.shape, x.shape, strict=True)]
        return fastdrop.jax.dropout(part, P, key=key, whole=x.shape, start=start)

    shards_of = jax.shard_map(
        local, mesh=mesh, in_specs=(divided, PartitionSpec()), out_specs=divided
    )
    return shards_of(x, key)


def mean_loss(weights: Any, images: Any, labels: Any, step: Any, mesh: Mesh, masks: str) -> Any:
    """Return the mean cross-entropy of a batch."""
    key = jax.random.fold_in(fastdrop.jax.key(0), step)
    hidden = dropped(jax.nn.relu(images @ weights[0]), key, mesh, masks)
    scores = jax.nn.log_softmax(hidden @ weights[1])
    return -jnp.take_along_axis(scores, labels[:, None], 1).mean()


def train(masks: str, schedule: Sequence[int]) -> shards.Result:
    """Train with as many ranks in each epoch as the schedule says; all ranks call this."""
    digits, _ = shards.digits()
    weights: list[Array] = shards.initial_weights()
    gradients_of = jax.jit(jax.value_and_grad(mean_loss), static_argnames=("mesh", "masks"))
    losses = []
    for epoch, ranks in enumerate(schedule):
        if jax.process_index() < ranks:
            rows = divided(ranks, "rank", None)
            on_all = [spread(weight, divided(ranks)) for weight in weights]
            for step, batch in shards.batches(epoch):
                images = spread(digits.images[batch].astype(np.float64), rows)
                labels = spread(digits.labels[batch], divided(ranks, "rank"))
                loss, gradients = gradients_of(on_all, images, labels, step, rows.mesh, masks)
                losses.append(float(loss))
                on_all = [w - shards.RATE * g for w, g in zip(on_all, gradients, strict=True)]
            weights = [np.asarray(weight) for weight in on_all]
        # All ranks get the same weights, as if they read a checkpoint.
        weights = [process_allgather(weight)[0] for weight in weights]
    return shards.Result(losses, shards.test_error(weights))


def check_shards() -> None:
    """Drop in an array divided by rows and by columns, and compare with the whole."""
    ranks = jax.process_count()
    x = np.ones((12 * ranks, 10 * ranks))
    expected = fd.dropout(x, P, rng=fd.Key(1))
    for axis, axes in enumerate([("rank", None), (None, "rank")]):
        parts = divided(ranks, *axes)
        drop = functools.partial(dropped, mesh=parts.mesh, axis=axis)
        y = jax.jit(lambda x, drop=drop: drop(x, fastdrop.jax.key(1)))(spread(x, parts))
        gathered = process_allgather(y, tiled=True)
        same = np.array_equal(gathered, expected)
        shards.require(same, f"parts {axes} of the result are those of the whole, bit for bit")


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
