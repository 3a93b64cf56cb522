"""Embedding tables whose rows are spread over the ranks, for tables that do not fit one device.

Rank ``r`` of ``n`` holds rows ``r``, ``r + n``, ``r + 2n``... (vocabularies are sorted, so blocks of rows would be
asked for unevenly). Each rank trains on its own rows of data, asks the others for the vectors that it needs, and sends
their gradients back. PyTorch's ``RowwiseParallel`` wants the same indices on all ranks, and so moves every rank's
vectors to every rank; here each vector goes to those that asked.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

_CHUNK_ROWS = 4096
_SMALLEST_FILL = 16
"""Below so many elements, PyTorch's normal generator draws in another way."""


class ShardedTable(nn.Embedding):
    """The rows ``rank::ranks`` of a table ``[rows, columns]``, and the way to all of them.

    ``forward`` is a collective operation. It begins with the bits that the whole table would begin with.
    """

    def __init__(self, rows: int, columns: int, *, spread: float) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        for _ in _drawn(rows, columns, spread=1.0):
            pass  # nn.Embedding draws once for itself: whatever is drawn after this must not depend on the sharding
        own = len(range(self.rank, rows, self.ranks))
        weight = torch.zeros(own, columns)
        if spread:
            for start, chunk in _drawn(rows, columns, spread=spread):
                mine = chunk[(self.rank - start) % self.ranks :: self.ranks]
                first = -(-(start - self.rank) // self.ranks) if start > self.rank else 0
                weight[first : first + len(mine)] = mine
        if self.rank == 0:
            weight[0].zero_()
        super().__init__(own, columns, padding_idx=0 if self.rank == 0 else None, _weight=weight)
        # Each rank's loss is a mean over its own rows of data; the whole loss is the mean of theirs.
        self.weight.register_hook(lambda gradient: gradient / self.ranks)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Embedding's name)
        """Vectors float32 ``[n, columns]`` for indices int64 ``[n]`` of any rank's rows."""
        asked, inverse = input.unique(return_inverse=True)
        owner = asked % self.ranks
        order = owner.argsort(stable=True)
        sent = torch.bincount(owner, minlength=self.ranks)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        out, back = sent.tolist(), received.tolist()
        wanted = torch.empty(sum(back), dtype=asked.dtype, device=asked.device)
        dist.all_to_all_single(wanted, asked[order] // self.ranks, back, out)
        vectors = functional.embedding(wanted, self.weight, self.padding_idx)
        answered: Tensor = _Exchange.apply(vectors, back, out)  # pyright: ignore[reportAssignmentType]
        return answered[order.argsort()[inverse]]


class _Exchange(torch.autograd.Function):
    """Rows to those who asked; backwards, gradients to those who answered."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        return _exchanged(rows, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _exchanged(gradients[0].contiguous(), ctx.received, ctx.sent), None, None


def _exchanged(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    result = rows.new_empty(sum(received), rows.shape[1])
    dist.all_to_all_single(result, rows, received, sent)
    return result


def _drawn(rows: int, columns: int, *, spread: float) -> Iterator[tuple[int, Tensor]]:
    """Normal numbers in chunks of rows ``(first row, [n, columns])``, the same that one draw of all would bring."""
    ends = [*range(_CHUNK_ROWS, rows - _SMALLEST_FILL + 1, _CHUNK_ROWS), rows]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield start, torch.empty(end - start, columns).normal_(0.0, spread)
