"""The metrics of a trained model on its own test split, computed by rank 0 when training ends."""

from collections.abc import Mapping
from dataclasses import dataclass
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

RANKING_CUTOFFS = (10, 20)

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
    """The metrics of what ``rankings_on_test`` finds."""
    found = rankings_on_test(model, train, test, max(RANKING_CUTOFFS))
    return ranking_metrics(found.ranked, found.relevant, found.popularity, cutoffs=RANKING_CUTOFFS)


@dataclass(frozen=True, slots=True)
class Rankings:
    """What a model ranks for users of a test split, and what turned out relevant, in the model's indices."""

    users: NDArray[np.int64]
    """``[users]``, ascending."""
    ranked: NDArray[np.int64]
    """``[users, depth]``, best first; -1 where a list ends early."""
    relevant: Relevant
    popularity: NDArray[np.float64]
    """``[items]``: the share of the training's users who rated the item."""


def rankings_on_test(model: MatrixFactorization, train: EncodedSplit, test: EncodedSplit, depth: int) -> Rankings:
    """Rankings of all known items but those that the user has rated in training, and the known items of the test split
    that the user rated high, for each known user with any; of many users, 10,000 evenly spread ones.
    """
    users, items = test.feed["user_index"], test.feed["item_index"]
    threshold = relevant_from(model.shape.low, model.shape.high)
    good = (users > 0) & (items > 0) & (test.label >= threshold)
    asked = np.unique(users[good])
    asked = asked[:: max(1, len(asked) // MOST_RANKED_FOR)]
    good &= np.isin(users, asked)
    row = np.searchsorted(asked, users[good])
    popularity = np.bincount(train.feed["item_index"], minlength=model.shape.items) / (model.shape.users - 1)
    popularity[0] = 0.0
    return Rankings(asked, rank_for(model, asked, train.feed, depth), Relevant(row, items[good]), popularity)


def rank_for(
    model: MatrixFactorization, users: NDArray[np.int64], seen: Mapping[str, NDArray[Any]], depth: int
) -> NDArray[np.int64]:
    """The best items for each of these users, ``[users, depth]``; -1 where a list ends early.

    Args:
        seen: ``user_index`` and ``item_index`` ``[rows]`` of what is left out. An item that the model does not know is 0.
    """
    ranked = np.full((len(users), depth), -1)
    for place, (user, items) in enumerate(zip(users, _seen(seen, users), strict=True)):
        best = rank_items(model, int(user), items, depth)
        ranked[place, : len(best)] = best
    return ranked


def relevant_from(low: float, high: float) -> float:
    """The rating from which on an item was worth recommending, of ratings from ``low`` to ``high``."""
    return low + _RELEVANT * (high - low)


def _seen(seen: Mapping[str, NDArray[Any]], users: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The known items of each of these users."""
    known = seen["item_index"] > 0
    user, item = seen["user_index"][known], seen["item_index"][known]
    order = np.argsort(user, kind="stable")
    by_user = user[order]
    starts, ends = (np.searchsorted(by_user, users, side) for side in ("left", "right"))
    return [item[order[start:end]] for start, end in zip(starts, ends, strict=True)]
