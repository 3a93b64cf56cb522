"""Plain alternating least squares in numpy, with ridge regression on a user's earlier ratings in place of training."""

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.libraries.contract import Answer, earlier_ratings
from benchmarks.training.libraries.exchange import RatingSplit
from benchmarks.training.libraries.means import damped_item_means


def predict_with_history(
    split: RatingSplit, seed: int, *, factors: int, ridge: float, bias_ridge: float, item_damping: float, epochs: int
) -> Answer:
    """Damped item means, and for what they leave over a bias and factors of the user against the items' factors."""
    started = time.perf_counter()
    mean, of_item = damped_item_means(split.train, split.items, item_damping)
    rest = split.train.rating - mean - of_item[split.train.item]
    item_factors = np.random.default_rng(seed).normal(0, 0.1, (split.items, factors))
    user_penalty = np.array([bias_ridge, *[ridge] * factors])
    item_penalty = np.full(factors, ridge)
    by_user, by_item = _groups(split.train.user, split.users), _groups(split.train.item, split.items)
    user_rows = np.zeros((split.users, 1 + factors))
    for _ in range(epochs):
        with_one = np.column_stack([np.ones(split.items), item_factors])
        for user, rows in by_user:
            user_rows[user] = _ridge(with_one[split.train.item[rows]], rest[rows], user_penalty)
        left = rest - user_rows[split.train.user, 0]
        for item, rows in by_item:
            item_factors[item] = _ridge(user_rows[split.train.user[rows], 1:], left[rows], item_penalty)
    seconds = time.perf_counter() - started
    item_factors[np.bincount(split.train.item, minlength=split.items) == 0] = 0.0
    with_one = np.column_stack([np.ones(split.items), item_factors])
    predicted = mean + of_item[split.test.item]
    for row, (items, ratings) in enumerate(earlier_ratings(split)):
        user = _ridge(with_one[items], ratings - mean - of_item[items], user_penalty)
        predicted[row] += with_one[split.test.item[row]] @ user
    return Answer(predicted, seconds)


def _groups(index: NDArray[np.int64], size: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Each number that occurs, with its rows."""
    order = np.argsort(index, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(index, minlength=size))[:-1])
    return [(number, rows) for number, rows in enumerate(parts) if len(rows)]


def _ridge(
    known: NDArray[np.float64], target: NDArray[np.float64], penalty: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.linalg.solve(known.T @ known + np.diag(penalty), known.T @ target).astype(np.float64, copy=False)
