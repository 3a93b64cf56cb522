"""Searching a large catalogue: few items are scored, those in groups whose bounds say that they can be among the best."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.recommendation.ranking import BestOf, Pairs, Scored, best_of_each, kth_largest, least_bounds, with_one
from serving.recommendation.screening import Excluded, Screen

_CHUNK_ITEMS = 262_144
"""Items scored at a time, which bounds the memory of a search whose bounds decide nothing."""
_SMALLEST_GROUP, _LARGEST_GROUP = 8, 64


class Screened:
    """Scores few items: those in groups whose bounds say that they can be among the best."""

    def __init__(self, items: NDArray[np.float32], threads: int) -> None:
        self._items = items
        self._screen = Screen(items, _group_items(len(items)))
        self._parts = _parts(self._screen.tiles, threads)
        self._pool = ThreadPoolExecutor(len(self._parts) - 1, "recommend") if len(self._parts) > 1 else None

    def prepared(self, users: NDArray[np.float32], excluded: Excluded) -> BestOf:
        """Bound all groups for all users."""
        return partial(self._best_of, with_one(users), self._bounds(users, excluded), excluded)

    def _best_of(
        self,
        users: NDArray[np.float32],
        bounds: NDArray[np.float32],
        excluded: Excluded,
        mine: NDArray[np.int64],
        count: int,
    ) -> Scored:
        """The groups with the best bounds are scored first; what they give is the score to beat for all others."""
        if len(mine) < len(users):
            bounds = bounds[:, mine]
        first = least_bounds(bounds, count)
        groups = Pairs.where(bounds >= first)
        scored = self._scored(users, mine, excluded, groups, np.full(len(mine), -np.inf, dtype=np.float32), count)
        beat = np.full(len(mine), -np.inf, dtype=np.float32)
        edges = np.searchsorted(scored.users, np.arange(len(mine) + 1))
        enough = np.flatnonzero(np.diff(edges) >= count)
        beat[enough] = scored.scores[edges[enough] + count - 1]
        rest = Pairs.where(bounds >= beat)
        rest = rest.take(bounds[rest.groups, rest.users] < first[rest.users])
        if not len(rest.users):
            return scored
        return best_of_each([scored, self._scored(users, mine, excluded, rest, beat, count)], count)

    def _bounds(self, users: NDArray[np.float32], excluded: Excluded) -> NDArray[np.float32]:
        """An upper bound for each group, float32 ``[groups, b]``."""
        work = [partial(self._screen.bounds, users, excluded, *part) for part in self._parts]
        if self._pool is None:
            return work[0]()
        others = [self._pool.submit(part) for part in work[1:]]
        return np.concatenate([work[0](), *(other.result() for other in others)])

    def _scored(
        self,
        users: NDArray[np.float32],
        mine: NDArray[np.int64],
        excluded: Excluded,
        wanted: "Pairs",
        beat: NDArray[np.float32],
        count: int,
    ) -> Scored:
        """The best ``count`` of each user in the groups wanted that reach the score to beat."""
        size = self._screen.group_items
        step = max(1, _CHUNK_ITEMS // size)
        best = Scored(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        for start in range(0, len(wanted.users), step):
            at, group = wanted.users[start : start + step], wanted.groups[start : start + step]
            scores = self._score_groups(users, mine[at], group, excluded)
            # An item below the k-th best of the groups' best ones cannot be among the k best.
            least = np.maximum(beat, kth_largest(at, scores.max(axis=1), len(mine), count))
            kept = np.flatnonzero((scores >= least[at, None]) & (scores > -np.inf))
            pair, place = np.divmod(kept, size)
            best = best_of_each([best, Scored(at[pair], group[pair] * size + place, scores.reshape(-1)[kept])], count)
        return best

    def _score_groups(
        self, users: NDArray[np.float32], user: NDArray[np.int64], group: NDArray[np.int64], excluded: Excluded
    ) -> NDArray[np.float32]:
        """Scores of all items of some pairs of user and group, float32 ``[pairs, group items]``; -inf where excluded."""
        size, whole = self._screen.group_items, len(self._items) // self._screen.group_items
        tail = self._items[whole * size :]
        scores = np.empty((len(group), size), dtype=np.float32)
        inside = group < whole
        by_group = self._items[: whole * size].reshape(whole, size, users.shape[1])
        scores[inside] = np.matmul(by_group[group[inside]], users[user[inside], :, None])[:, :, 0]
        scores[~inside, : len(tail)] = np.matmul(tail, users[user[~inside], :, None])[:, :, 0]
        scores[~inside, len(tail) :] = -np.inf
        self._drop_excluded(scores, user, group, excluded)
        return scores

    def _drop_excluded(
        self, scores: NDArray[np.float32], user: NDArray[np.int64], group: NDArray[np.int64], excluded: Excluded
    ) -> None:
        if not len(excluded.items) or not len(group):
            return
        excluded_group, place = np.divmod(excluded.items, self._screen.group_items)
        keys = user * self._screen.groups + group  # ascending: pairs come sorted by user and group
        sought = excluded.users * self._screen.groups + excluded_group
        pair = np.minimum(np.searchsorted(keys, sought), len(keys) - 1)
        there = keys[pair] == sought
        scores[pair[there], place[there]] = -np.inf


def _group_items(items: int) -> int:
    """The size of a group, a power of two: large groups are cheap to screen, small ones cheap to score."""
    wanted = _SMALLEST_GROUP
    while wanted < _LARGEST_GROUP and wanted * wanted * 256 < items:
        wanted *= 2
    return wanted


def _parts(tiles: int, threads: int) -> list[tuple[int, int]]:
    """The tiles in equal runs, one for each thread."""
    count = max(1, threads)
    edges = np.linspace(0, tiles, count + 1).astype(int).tolist()
    return list(pairwise(edges))
