"""A rank's ratings in blocks of rows that have about as many of them, so that the rows of a block are solved as one batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.factorization.shards import Triples

_MOST_FLOATS = 1 << 20
"""Of a block's design: larger ones leave the processor's cache, smaller ones cost calls."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that have at most ``d`` ratings. What is missing points to the table's end, where a row of zeros must be."""

    rows: Tensor
    """Int64 ``[r]``."""
    columns: Tensor
    """Int32 ``[r, d]``."""
    values: Tensor
    """Float32 ``[r, d]``, 0 where there is no rating."""
    counts: Tensor
    """Float32 ``[r]``: ratings of each row."""


def chunked(ratings: Triples, columns: int, factors: int, device: torch.device) -> list[Chunk]:
    """Blocks of all rows that have ratings; a row's own are in the order in which they came.

    Args:
        columns: Rows of the other table: what a missing rating points to.
        factors: Of both tables, from which the size of a block follows.
    """
    order = np.argsort(ratings.row, kind="stable")
    rows, starts, counts = np.unique(ratings.row[order], return_index=True, return_counts=True)
    sizes = _sizes(int(counts.max(initial=1)))
    size_of = np.searchsorted(sizes, counts)
    chunks: list[Chunk] = []
    for number, size in enumerate(sizes):
        there = np.flatnonzero(size_of == number)
        step = max(1, _MOST_FLOATS // (size * factors))
        for begin in range(0, len(there), step):
            part = there[begin : begin + step]
            place = np.arange(size)[None]
            filled = place < counts[part, None]
            source = order[np.where(filled, starts[part, None] + place, 0)]
            chunks.append(
                Chunk(
                    rows=torch.from_numpy(rows[part].astype(np.int64)).to(device),
                    columns=torch.from_numpy(np.where(filled, ratings.column[source], columns).astype(np.int32)).to(
                        device
                    ),
                    values=torch.from_numpy(np.where(filled, ratings.value[source], 0).astype(np.float32)).to(device),
                    counts=torch.from_numpy(counts[part].astype(np.float32)).to(device),
                )
            )
    return chunks


def _sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ...: so at most a third of a block is missing."""
    sizes = [1, 2, 3, 4]
    while sizes[-1] < largest:
        sizes.append(sizes[-2] * 2)
    return sizes


def rows_of(table: Tensor, columns: Tensor) -> Tensor:
    """``[r, d, width]`` of a table ``[n, width]`` and int32 columns ``[r, d]``."""
    return table.index_select(0, columns.view(-1)).view(*columns.shape, table.shape[1])


def with_end(table: Tensor) -> Tensor:
    """The table with the row of zeros that missing ratings point to."""
    return torch.cat([table, table.new_zeros(1, table.shape[1])])
