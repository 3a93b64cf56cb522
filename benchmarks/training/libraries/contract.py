"""What each library's module offers, and what it hands back."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.libraries.exchange import RatingSplit

DEPTH = 20
"""How many items are ranked for each user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a library says about a split."""

    values: NDArray[Any]
    """Predicted stars float ``[test rows]``; or items int ``[users, DEPTH]``, best first, -1 where there are no more."""
    training_s: float
    """From the columns in memory to a trained model, without the answers."""


FUNCTIONS = ("predict", "predict_with_history", "rank", "fit", "stream")
"""What a module may have. ``predict_with_history`` may use the ratings of the same user that stand before a test rating, but
not train on them. ``fit`` only trains. ``stream`` predicts from the folder of synthetic ratings in place of the split."""


class Method(Protocol):
    """Each of these functions but ``stream``."""

    def __call__(self, split: RatingSplit, seed: int, **parameters: Any) -> Answer: ...


def top_unseen(scores: NDArray[np.floating], split: RatingSplit) -> NDArray[np.int64]:
    """The best items that a user has no training rating of and training has seen at all, for scores ``[users, items]``."""
    scores = scores.astype(np.float64, copy=True)
    scores[:, np.bincount(split.train.item, minlength=split.items) == 0] = -np.inf
    scores[split.train.user, split.train.item] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best)


def earlier_ratings(split: RatingSplit) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each test row the items and stars of the same user's ratings before it: training rows, then test rows."""
    user = np.concatenate([split.train.user, split.test.user])
    item = np.concatenate([split.train.item, split.test.item])
    rating = np.concatenate([split.train.rating, split.test.rating])
    rows_of = {int(one): np.flatnonzero(user == one) for one in np.unique(split.test.user)}
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for row, one in enumerate(split.test.user, start=len(split.train)):
        rows = rows_of[int(one)]
        before = rows[: np.searchsorted(rows, row)]
        found.append((item[before], rating[before]))
    return found
