"""Searching a small catalogue: every item is scored."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from serving.recommendation.product import Product
from serving.recommendation.ranking import BestOf, Pairs, Scored, best_of_each, least_bounds, with_one
from serving.recommendation.screening import Excluded, check_finite

_GROUP_ITEMS = 8
"""Items of which only the best one is looked at first."""


class Whole:
    """Scores every item. Group ``G`` has the items ``G``, ``G + groups``, ``G + 2 groups`` and so on."""

    def __init__(self, items: NDArray[np.float32]) -> None:
        self._product = Product.of_floats()
        check_finite(items)
        self._count = len(items)
        self._groups = -(-len(items) // _GROUP_ITEMS)
        self._items = np.zeros((self._groups * _GROUP_ITEMS, items.shape[1]), dtype=np.float32)
        self._items[: len(items)] = items

    def prepared(self, users: NDArray[np.float32], excluded: Excluded) -> BestOf:
        """Score all items for all users."""
        scores = self._product(self._items, np.ascontiguousarray(with_one(users).T))
        scores[excluded.items, excluded.users] = -np.inf
        scores[self._count :] = -np.inf
        by_group = scores.reshape(_GROUP_ITEMS, self._groups, len(users))
        return partial(self._best_of, by_group, by_group.max(axis=0))

    def _best_of(
        self, scores: NDArray[np.float32], best: NDArray[np.float32], mine: NDArray[np.int64], count: int
    ) -> Scored:
        if len(mine) < best.shape[1]:
            scores, best = scores[:, :, mine], best[:, mine]
        # As many groups reach the cut as items are wanted, so no item below it is among the best.
        cut = least_bounds(best, count) if count <= len(best) else np.full(len(mine), -np.inf, dtype=np.float32)
        pairs = Pairs.where(best >= cut)
        of_pairs = scores[:, pairs.groups, pairs.users]
        place, pair = np.nonzero((of_pairs >= cut[pairs.users]) & (of_pairs > -np.inf))
        rows = place * self._groups + pairs.groups[pair]
        return best_of_each([Scored(pairs.users[pair], rows, of_pairs[place, pair])], count)
