"""What ranks tell each other: rows that one has solved and all need, and sums."""

from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


def spread_rows(table: Tensor, bounds: NDArray[np.int64]) -> None:
    """Give every rank the rows ``bounds[r] : bounds[r + 1]`` of each rank ``r``, in place."""
    if dist.get_world_size() == 1:
        return
    edges = bounds.tolist()
    sent = [
        dist.broadcast(table[first:last], src=rank, async_op=True)
        for rank, (first, last) in enumerate(pairwise(edges))
        if last > first
    ]
    for work in sent:
        if work is not None:
            work.wait()


def total(value: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if dist.get_world_size() == 1:
        return value
    dist.all_reduce(value)
    return value


def agree(number: int, device: torch.device) -> bool:
    """Whether all ranks say the same number."""
    bounds = torch.tensor([number, -number], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    highest, lowest = bounds.tolist()
    return highest == -lowest
