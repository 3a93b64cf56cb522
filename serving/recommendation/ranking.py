"""What both methods of searching rank with: scores of few items, sorted by user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CUT_GROUPS = 8
"""Groups of which only the best one is looked at when a cut is chosen."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Triples of a user, an item's row and its score."""

    users: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


BestOf = Callable[[NDArray[np.int64], int], Scored]
"""From some users of a batch and a count to their best items, sorted by user (position among those), best first."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Of a user and a group, sorted by user, then by group."""

    users: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def where(cls, wanted: NDArray[np.bool_]) -> "Pairs":
        """From bool ``[groups, users]``."""
        groups, users = np.divmod(np.flatnonzero(wanted), wanted.shape[1])
        order = np.argsort(users, kind="stable")
        return cls(users[order], groups[order])

    def take(self, wanted: NDArray[np.bool_]) -> "Pairs":
        """Some of them."""
        return Pairs(self.users[wanted], self.groups[wanted])


def least_bounds(bounds: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A bound that at least ``count`` groups reach, if there are as many, and few more; ``[users]``."""
    blocks = len(bounds) // _CUT_GROUPS
    if blocks >= count * _CUT_GROUPS:  # the best of each of many blocks tell nearly the same
        bounds = bounds[: blocks * _CUT_GROUPS].reshape(_CUT_GROUPS, blocks, -1).max(axis=0)
    count = min(count, len(bounds))
    return np.partition(np.ascontiguousarray(bounds.T), -count, axis=1)[:, -count]


def kth_largest(
    users: NDArray[np.int64], values: NDArray[np.float32], all_users: int, count: int
) -> NDArray[np.float32]:
    """The ``count``-th largest value of each user, -inf where there are fewer; ``users`` is sorted."""
    starts = np.searchsorted(users, np.arange(all_users + 1))
    longest = int(np.diff(starts).max(initial=0))
    if longest < count:
        return np.full(all_users, -np.inf, dtype=np.float32)
    table = np.full((all_users, longest), -np.inf, dtype=np.float32)
    table[users, np.arange(len(users)) - starts[users]] = values
    return np.partition(table, -count, axis=1)[:, -count]


def best_of_each(scored: Sequence[Scored], count: int) -> Scored:
    """The best ``count`` of each user, sorted by user, then best first; of equal scores the lower row."""
    users, rows, scores = (
        np.concatenate([getattr(one, name) for one in scored]) for name in ("users", "rows", "scores")
    )
    order = np.lexsort((rows, -scores, users))
    rank = np.arange(len(order)) - np.searchsorted(users[order], users[order])
    kept = order[rank < count]
    return Scored(users[kept], rows[kept], scores[kept])


def with_one(users: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors with a one behind them, which takes the items' bias."""
    return np.column_stack([users, np.ones(len(users), dtype=np.float32)])
