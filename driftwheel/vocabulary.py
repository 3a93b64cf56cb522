"""From the ids and categories of the outside world to the contiguous indices of an embedding table, and back."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 0
"""The index of everything that is not in the vocabulary; known entries count from 1."""

_DENSE_LIMIT = 20_000_000
"""Ids that span at most this many values get a direct lookup table (8 bytes each); wider ones are searched."""


class Vocabulary:
    """An immutable, ordered set of ids or categories.

    Args:
        entries: Distinct integers, or distinct non-empty strings. Entry ``i`` has the index ``i + 1``.

    Raises:
        ValueError: The entries are neither all integers nor all strings, or one is there twice.
    """

    def __init__(self, entries: Sequence[int] | Sequence[str]) -> None:
        kinds = {type(entry) for entry in entries}
        if not (kinds <= {int} or kinds <= {str}):
            raise ValueError("a vocabulary's entries must be all integers or all strings")
        self.entries: tuple[int | str, ...] = tuple(entries)
        self.is_text = kinds == {str}
        # A loop, which lets other threads run between its turns: a server goes on answering while it loads a million ids.
        self._index: dict[int | str, int] = {entry: position + 1 for position, entry in enumerate(entries)}
        if len(self._index) != len(self.entries):
            raise ValueError("a vocabulary's entries must be distinct")

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def table_size(self) -> int:
        """Rows that an embedding table over this vocabulary needs: one for each entry and one for the unknown."""
        return len(self.entries) + 1

    @cached_property
    def _offset(self) -> np.int64:
        """One below the smallest id, modulo 2**64 as int64 arithmetic is: ``ids - offset`` then counts from 1."""
        below = int(min(self.entries)) - 1
        return np.int64((below + 2**63) % 2**64 - 2**63)

    @cached_property
    def _dense(self) -> NDArray[np.int64] | None:
        """``table[id - offset]`` with an unknown at either end, where every other id is clipped to."""
        if self.is_text or not self.entries:
            return None
        span = int(max(self.entries)) - int(min(self.entries)) + 1
        if span > _DENSE_LIMIT:
            return None
        table = np.zeros(span + 2, dtype=np.int64)
        table[np.asarray(self.entries, dtype=np.int64) - self._offset] = np.arange(1, len(self.entries) + 1)
        return table

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids = np.asarray(self.entries, dtype=np.int64)
        order = np.argsort(ids)
        return ids[order], order + 1

    def index(self, entry: int | str | bytes) -> int:
        """The index of one entry, ``UNKNOWN`` if it is not there."""
        return self._index.get(entry.decode("utf-8", "replace") if isinstance(entry, bytes) else entry, UNKNOWN)

    def encode(self, values: NDArray[Any] | Sequence[Any]) -> NDArray[np.int64]:
        """Indices ``[rows]`` of values ``[rows]``; what is unknown, missing or out of range becomes ``UNKNOWN``."""
        if self.is_text:
            get = self._index.get
            return np.fromiter(
                (get(v.decode("utf-8", "replace") if isinstance(v, bytes) else v, UNKNOWN) for v in values),
                dtype=np.int64,
                count=len(values),
            )
        ids = np.asarray(values, dtype=np.int64)
        if not self.entries:
            return np.zeros(len(ids), dtype=np.int64)
        if (table := self._dense) is not None:
            # A difference that wraps around int64 still lands outside the table, and is clipped to an unknown. Ids that count
            # from 1 are their own places.
            return table.take(ids - self._offset if self._offset else ids, mode="clip")
        keys, indices = self._sorted
        position = np.searchsorted(keys, ids)
        position[position == len(keys)] = 0
        return np.where(keys[position] == ids, indices[position], UNKNOWN)
