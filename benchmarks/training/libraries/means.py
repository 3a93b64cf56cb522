"""Means alone: what any model must beat."""

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.libraries.contract import DEPTH, Answer, earlier_ratings
from benchmarks.training.libraries.exchange import Ratings, RatingSplit


def predict(split: RatingSplit, seed: int) -> Answer:  # noqa: ARG001 (there is no chance in it)
    """The mean of all training ratings."""
    started = time.perf_counter()
    mean = split.train.rating.mean()
    return Answer(np.full(len(split.test), mean), time.perf_counter() - started)


def predict_with_history(split: RatingSplit, seed: int, *, item_damping: float, user_damping: float) -> Answer:  # noqa: ARG001
    """The damped mean of the item, and the damped mean of how far the user's earlier ratings lay from those."""
    started = time.perf_counter()
    mean, of_item = damped_item_means(split.train, split.items, item_damping)
    seconds = time.perf_counter() - started
    predicted = mean + of_item[split.test.item]
    for row, (items, ratings) in enumerate(earlier_ratings(split)):
        predicted[row] += (ratings - mean - of_item[items]).sum() / (len(items) + user_damping)
    return Answer(predicted, seconds)


def damped_item_means(train: Ratings, items: int, damping: float) -> tuple[float, NDArray[np.float64]]:
    """The mean of all ratings, and how far each item's lies from it ``[items]``."""
    mean = float(train.rating.mean())
    sums = np.bincount(train.item, train.rating - mean, minlength=items)
    return mean, sums / (np.bincount(train.item, minlength=items) + damping)


def rank(split: RatingSplit, seed: int) -> Answer:  # noqa: ARG001
    """The items with the most training ratings, without those that the user has rated."""
    started = time.perf_counter()
    count = np.bincount(split.train.item, minlength=split.items)
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    seconds = time.perf_counter() - started
    ranked = np.full((split.users, DEPTH), -1)
    for user in range(split.users):
        unseen = order[~np.isin(order, split.train.item[split.train.user == user])][:DEPTH]
        ranked[user, : len(unseen)] = unseen
    return Answer(ranked, seconds)
