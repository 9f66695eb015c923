"""Data parallel training with PyTorch: a mask of each rank's own, or regions of one mask.

    torchrun --standalone --nproc-per-node 2 examples/ranks_torch.py            # seconds; or 4
    torchrun --standalone --nproc-per-node 2 examples/ranks_torch.py --quick    # a look

Each rank has its rows of every batch, and `DistributedDataParallel` averages the gradients. The
program trains on one rank, on two, on four if there are enough, and on all ranks and then one, like
a run that resumes on another machine. It prints the last loss, and the largest difference of a loss
from that on one rank. With a mask of each rank's own, the losses depend on the number of ranks.
With regions of one mask only the order of sums changes them; otherwise the program exits with an
error. Needs PyTorch.
"""

from collections.abc import Sequence
from typing import Any

import fastdrop as fd
import shards
from network import percent_wrong
from shards import OWN, SHARED, P

try:
    import fastdrop.torch.functional as F  # noqa: N812
    import torch
    import torch.distributed as dist
    from torch import nn
except ImportError as error:
    raise SystemExit(f"error: this example needs PyTorch ({error})") from None


class Classifier(nn.Module):
    """Two layers, without biases."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (torch.tensor(weight.T) for weight in shards.initial_weights())
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, images: Any, mask: fd.Mask | None = None) -> Any:
        """Return the logits, with the mask on the hidden units."""
        hidden = torch.relu(nn.functional.linear(images, self.first))
        if mask is not None:
            hidden = F.dropout(hidden, mask=mask)
        return nn.functional.linear(hidden, self.second)


def train(masks: str, schedule: Sequence[int]) -> shards.Result:
    """Train with as many ranks in each epoch as the schedule says; all ranks call this."""
    rank, (digits, test) = dist.get_rank(), shards.digits()
    teams = {ranks: dist.new_group(list(range(ranks))) for ranks in sorted(set(schedule))}
    model = Classifier()
    losses = []
    for epoch, ranks in enumerate(schedule):
        if rank >= ranks:
            continue
        # All ranks get the weights of rank 0, as if they read a checkpoint.
        replica = nn.parallel.DistributedDataParallel(model, process_group=teams[ranks])
        optimizer = torch.optim.SGD(replica.parameters(), shards.RATE)
        for step, batch in shards.batches(epoch):
            mine = digits.take(batch[slice(*shards.share(len(batch), rank, ranks))])
            images, labels = torch.tensor(mine.images).double(), torch.tensor(mine.labels)
            logits = replica(images, shards.mask_of(masks, step, rank, ranks))
            # DDP takes a mean over ranks, which may have different numbers of digits.
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            loss = loss * ranks / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach() / ranks
            dist.all_reduce(mean, group=teams[ranks])
            losses.append(float(mean))
    with torch.no_grad():
        scores = model(torch.tensor(test.images).double())
    return shards.Result(losses, percent_wrong(scores.numpy(), test.labels))


def check_shards() -> None:
    """Drop in the shards of a tensor, by rows and by columns, and compare with the whole."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    x = torch.randn((61, 45), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = fd.Mask(x.shape, P, fd.Key(1))
    for axis in (0, 1):
        start, shape = [0, 0], list(x.shape)
        start[axis], end = shards.share(x.shape[axis], rank, ranks)
        shape[axis] = end - start[axis]
        shard = x.narrow(axis, start[axis], shape[axis]).contiguous()
        y = F.dropout(shard, mask=whole.region(start, shape))
        parts: list[Any] = [None] * ranks
        dist.all_gather_object(parts, y)
        same = torch.equal(torch.cat(parts, axis), F.dropout(x, mask=whole))
        shards.require(same, f"shards along axis {axis} are those of the whole, bit for bit")


def main() -> None:
    """Check, train, and compare."""
    epochs = shards.epochs(__doc__)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    check_shards()
    results = {
        (masks, name): train(masks, schedule)
        for masks in (OWN, SHARED)
        for name, schedule in shards.runs(dist.get_world_size(), epochs).items()
    }
    if dist.get_rank() == 0:
        shards.judge(results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
