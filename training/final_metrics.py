"""The metrics of a trained model on its own test split, computed by rank 0 when training ends."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Task
from training.config import CustomerConfig, TrainConfig
from training.data.dataset import EncodedSplit
from training.inference import predict, rank_items
from training.metrics import Costs, Relevant, churn_metrics, ranking_metrics, rating_metrics
from training.models.graph import GraphModel
from training.models.matrix_factorization import MatrixFactorization
from training.models.store import Model

_RELEVANT = 0.75
"""An item was worth recommending when its rating lies at least this far up the range (with 0.5 to 5: four and more)."""

_CUTOFFS = (10, 20)

MOST_RANKED_FOR = 10_000
"""Users, evenly spread: more would tell little more."""


def task_metrics(
    task: Task, predicted: NDArray[Any], actual: NDArray[Any], config: TrainConfig | None = None
) -> dict[str, float]:
    """The metrics of predictions ``[rows]`` that a task is judged by; without a configuration, at default costs."""
    if task == "rating":
        return rating_metrics(predicted, actual)
    return churn_metrics(predicted, actual, costs_of(config))


def costs_of(config: TrainConfig | None) -> Costs:
    """What the mistakes of a churn model cost."""
    if not isinstance(config, CustomerConfig):
        return Costs()
    return Costs(missed=config.missed_cost, needless=config.needless_cost)


def final_metrics(
    model: Model | GraphModel, train: EncodedSplit, test: EncodedSplit, config: TrainConfig
) -> dict[str, float]:
    """A task's metrics; for ratings also those of rankings over all items, for the users that training knew."""
    predicted = predict(model, test.feed)
    if not isinstance(model, MatrixFactorization):
        return task_metrics("churn", predicted, test.label, config)
    return task_metrics("rating", predicted, test.label) | rankings_judged(model, train, test)


def rankings_judged(model: MatrixFactorization, train: EncodedSplit, test: EncodedSplit) -> dict[str, float]:
    """Rankings of all known items but those that the user has rated in training, judged by the known items of the test split
    that the user rated high, for each known user with any; of many users, 10,000 evenly spread ones.
    """
    users, items = test.feed["user_index"], test.feed["item_index"]
    threshold = relevant_from(model.shape.low, model.shape.high)
    good = (users > 0) & (items > 0) & (test.label >= threshold)
    asked = np.unique(users[good])
    asked = asked[:: max(1, len(asked) // MOST_RANKED_FOR)]
    good &= np.isin(users, asked)
    row = np.searchsorted(asked, users[good])
    ranked = np.full((len(asked), max(_CUTOFFS)), -1)
    for place, (user, seen) in enumerate(zip(asked, _seen(train, asked), strict=True)):
        best = rank_items(model, int(user), seen, max(_CUTOFFS))
        ranked[place, : len(best)] = best
    popularity = np.bincount(train.feed["item_index"], minlength=model.shape.items) / (model.shape.users - 1)
    popularity[0] = 0.0
    return ranking_metrics(ranked, Relevant(row, items[good]), popularity, cutoffs=_CUTOFFS)


def relevant_from(low: float, high: float) -> float:
    """The rating from which on an item was worth recommending, of ratings from ``low`` to ``high``."""
    return low + _RELEVANT * (high - low)


def _seen(train: EncodedSplit, users: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The items that each of these users rated in training."""
    order = np.argsort(train.feed["user_index"], kind="stable")
    by_user = train.feed["user_index"][order]
    starts, ends = (np.searchsorted(by_user, users, side) for side in ("left", "right"))
    return [train.feed["item_index"][order[start:end]] for start, end in zip(starts, ends, strict=True)]
