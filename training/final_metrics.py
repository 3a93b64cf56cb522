"""The metrics of a trained model on its own test split, computed by rank 0 when training ends."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Task
from training.config import CustomerConfig, TrainConfig
from training.data.dataset import EncodedSplit
from training.inference import predict, rank_items
from training.metrics import Costs, churn_metrics, ranking_metrics, rating_metrics
from training.models.graph import GraphModel
from training.models.matrix_factorization import MatrixFactorization
from training.models.store import Model

_RELEVANT = 0.75
"""An item was worth recommending when its rating lies at least this far up the range (with 0.5 to 5: four and more)."""

_CUTOFF = 10


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
    """A task's metrics; for ratings also NDCG and recall over all items, for the users that training knew."""
    predicted = predict(model, test.feed)
    if not isinstance(model, MatrixFactorization):
        return task_metrics("churn", predicted, test.label, config)
    return task_metrics("rating", predicted, test.label) | ranking_metrics(_ranked(model, train, test), k=_CUTOFF)


def _ranked(
    model: MatrixFactorization, train: EncodedSplit, test: EncodedSplit
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each known user with a relevant known item in the test split: the ranking without what was seen, and those."""
    users, items = test.feed["user_index"], test.feed["item_index"]
    threshold = model.shape.low + _RELEVANT * (model.shape.high - model.shape.low)
    relevant = (users > 0) & (items > 0) & (test.label >= threshold)
    for user in np.unique(users[relevant]):
        seen = train.feed["item_index"][train.feed["user_index"] == user]
        yield rank_items(model, int(user), seen, _CUTOFF), items[relevant & (users == user)]
