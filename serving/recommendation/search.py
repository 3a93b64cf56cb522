"""The best items of a catalogue for many users at once, exactly: small catalogues are scored whole, large ones screened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.recommendation.screened import Screened
from serving.recommendation.screening import Excluded
from serving.recommendation.whole import Whole

_MOST_USERS = 64
"""Users of one pass, so that a tile's products stay in the processor's cache."""
_PART_ITEMS = 32_768
"""Fewer items than this are not worth another thread."""
_SCORED_WHOLE = 32_768
"""Catalogues up to this size are scored whole: screening has more steps, and gains nothing before."""


@dataclass(frozen=True, slots=True)
class Found:
    """Item rows int64 ``[k]`` with their scores float32 ``[k]`` (mean and user's bias left out), best first."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


_NOTHING = Found(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


class TopK:
    """An exact search. Thread-safe.

    The result is that of sorting all items by score, equal scores by row. Scores are 32-bit sums, so items closer than
    their rounding may change places.

    Args:
        items: Rows of vector and bias, float32 ``[n, factors + 1]``, C-contiguous; may be a memory map, of which each
            search reads a small part.
        threads: How many work on one search of a large catalogue.

    Raises:
        BundleError: An item's vector or bias is not a finite number.
    """

    def __init__(self, items: NDArray[np.float32], *, threads: int = 1) -> None:
        items = np.asarray(items)  # a memory map's own indexing is slow
        whole = len(items) <= _SCORED_WHOLE
        self._method = Whole(items) if whole else Screened(items, min(threads, len(items) // _PART_ITEMS))
        self._count = len(items)

    def search(
        self, users: NDArray[np.float32], counts: Sequence[int], excluded: Sequence[NDArray[np.int64]]
    ) -> list[Found]:
        """The best items of each user.

        Args:
            users: Vectors, float32 ``[b, factors]``, finite.
            counts: How many each user wants; fewer come where the catalogue runs out.
            excluded: For each user, the item rows that must not come.
        """
        found: list[Found] = []
        for start in range(0, len(users), _MOST_USERS):
            some = slice(start, start + _MOST_USERS)
            found.extend(self._search(users[some], np.array(counts[some], dtype=np.int64), excluded[some]))
        return found

    def _search(
        self, users: NDArray[np.float32], counts: NDArray[np.int64], excluded: Sequence[NDArray[np.int64]]
    ) -> list[Found]:
        pairs = pairs_of(excluded)
        best_of = self._method.prepared(users, pairs)
        found = [_NOTHING] * len(users)
        for count in np.unique(counts).tolist():
            mine = np.flatnonzero(counts == count)
            scored = best_of(mine, min(count, self._count))
            edges = np.searchsorted(scored.users, np.arange(len(mine) + 1)).tolist()
            for position, user in enumerate(mine.tolist()):
                some = slice(edges[position], edges[position + 1])
                found[user] = Found(scored.rows[some], scored.scores[some])
        return found


def pairs_of(excluded: Sequence[NDArray[np.int64]]) -> Excluded:
    users = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    items = np.concatenate(excluded) if excluded else np.empty(0, dtype=np.int64)
    order = np.argsort(items, kind="stable")
    return Excluded(users[order], items[order])
