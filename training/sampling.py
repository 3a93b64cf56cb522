"""Which rows a rank sees in an epoch: the semantics of DistributedSampler, as one tensor of row numbers."""

import torch
from torch import Tensor


def epoch_batches(rows: int, *, batch_rows: int, rank: int, ranks: int, seed: int, epoch: int) -> Tensor:
    """The row numbers of a rank's batches, int64 ``[steps, batch_rows / ranks]`` (rounded up).

    Every rank shuffles alike, from the seed and the epoch alone, and takes its part of each batch; so all have equally
    many steps, the batches of all ranks together do not depend on how many ranks there are, and the mean of their
    gradients is the gradient of the whole batch. The last batch is filled up from the epoch's first rows.
    """
    mine = -(-min(batch_rows, rows) // ranks)
    batch = mine * ranks
    steps = -(-rows // batch)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(_mixed(seed, epoch)))
    filled = order.repeat(-(-steps * batch // rows))[: steps * batch]
    return filled.view(steps, ranks, mine)[:, rank]


def rank_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of what is random inside a rank's epoch (dropout). Since it follows from these three alone, a resumed
    run draws what an uninterrupted one would have drawn, and no generator state has to be saved.
    """
    return _mixed(seed, epoch) + 7919 * (rank + 1)


def _mixed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch
