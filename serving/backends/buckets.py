"""Fixed row counts: which one a run is padded to, and how."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import ModelFaultError
from serving.backends.base import Feed

Buffers = dict[str, NDArray[Any]]


def bucket_for(rows: int, buckets: Sequence[int]) -> int | None:
    """The smallest of ``buckets``, which ascend, that holds so many rows; None where none does."""
    position = bisect_left(buckets, rows)
    return buckets[position] if position < len(buckets) else None


def rows_of(feed: Feed) -> int:
    """The rows that all arrays of a feed share.

    Raises:
        ModelFaultError: They differ, or there are no arrays.
    """
    lengths = {len(values) if values.ndim else -1 for values in feed.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise ModelFaultError(f"a feed needs arrays of the same number of rows, got {sorted(lengths)}")
    return lengths.pop()


def fill(buffers: Buffers, feed: Feed, rows: int) -> None:
    """Copy a feed into fixed buffers, and zeros below it: index 0 is the unknown, a value that every model takes.

    Raises:
        ModelFaultError: The feed's names, types or shapes are not the buffers'.
    """
    if feed.keys() != buffers.keys():
        raise ModelFaultError(f"the model takes {', '.join(sorted(buffers))}, got {', '.join(sorted(feed))}")
    for name, buffer in buffers.items():
        values = feed[name]
        if values.dtype != buffer.dtype or values.shape[1:] != buffer.shape[1:]:
            raise ModelFaultError(
                f"graph input {name!r} must be {buffer.dtype} {['rows', *buffer.shape[1:]]}, "
                f"got {values.dtype} {list(values.shape)}"
            )
        buffer[:rows] = values
        buffer[rows:] = 0


def zeros(shapes: dict[str, tuple[list[Any], np.dtype[Any]]], rows: int) -> Buffers:
    """A buffer of so many rows for each input ``[rows, ...]``, of which only the rows are free.

    Raises:
        ModelFaultError: Another dimension is free too, so no buffer can be fixed.
    """
    free = [name for name, (shape, _) in shapes.items() if not all(isinstance(size, int) for size in shape[1:])]
    if free:
        raise ModelFaultError(f"{free[0]!r} has a free dimension besides the rows, so no fixed buffer can hold it")
    return {name: np.zeros((rows, *shape[1:]), dtype) for name, (shape, dtype) in shapes.items()}
