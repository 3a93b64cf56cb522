"""EASE: Steck, *Embarrassingly Shallow Autoencoders for Sparse Data*, 2019, in numpy, as its author gives it."""

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.libraries.contract import Answer, top_unseen
from benchmarks.training.libraries.exchange import Ratings, RatingSplit


def rank(
    split: RatingSplit,
    seed: int,  # noqa: ARG001 (there is no chance in it)
    *,
    ridge: float,
    least: float = 0.5,
    half_life: float | None = None,
) -> Answer:
    """The best unseen items for a history of zeros and ones.

    The inverse of the items' Gram matrix comes from that of the users', of which there are fewer here (Woodbury).

    Args:
        least: Stars from which a rating is a one.
        half_life: Where given, a rating in the history weighs half for each so many newer ones of the same user.
    """
    started = time.perf_counter()
    train = split.train.take(split.train.rating >= least)
    seen = np.zeros((split.users, split.items))
    seen[train.user, train.item] = 1.0
    inner = np.linalg.solve(seen @ seen.T + ridge * np.eye(split.users), seen)
    diagonal = (1 - (seen * inner).sum(axis=0)) / ridge
    history = seen if half_life is None else _recent(train, seen, half_life)
    inverse = (history - (history @ seen.T) @ inner) / ridge
    scores = history - inverse / diagonal
    seconds = time.perf_counter() - started
    return Answer(top_unseen(scores, split), seconds)


def _recent(train: Ratings, seen: NDArray[np.float64], half_life: float) -> NDArray[np.float64]:
    """``[users, items]``: one for a user's newest rating, less for each older one."""
    newest_first = np.lexsort((-train.item, -train.epoch_s, train.user))
    starts = np.flatnonzero(np.diff(train.user[newest_first], prepend=-1))
    age = np.arange(len(train)) - np.repeat(starts, np.diff(starts, append=len(train)))
    history = np.zeros_like(seen)
    history[train.user[newest_first], train.item[newest_first]] = 0.5 ** (age / half_life)
    return history
