"""Driftwheel's own estimators in the comparison for ratings.

``predict``, ``predict_with_history`` and ``rank`` train in this process, with the estimators that
``training.factorization.worker`` runs, and answer with what a bundle would hold of them: the factors, and for users' earlier
ratings the fold-in of the server.
``ours_stream.stream`` runs torchrun as ``driftwheel train`` does, on a prepared dataset.
"""

import dataclasses
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from benchmarks.training.libraries.contract import Answer, earlier_ratings, top_unseen
from benchmarks.training.libraries.entrants import Entrant
from benchmarks.training.libraries.exchange import HIGH, LOW, RatingSplit
from driftwheel.contracts import FactorParameters
from serving.recommendation.fold_in import fold_in_of
from training.config import estimator_config
from training.factorization.estimator import Finished
from training.factorization.estimators import build_estimator
from training.factorization.shards import whole_shard
from training.factorization.traits import SEPARATOR, category_features, number_features, placed

_LARGE = {"estimator": "als", "factors": 64, "epochs": 8, "vector_damping": 30.0}

OURS: tuple[Entrant, ...] = (
    Entrant(
        case="R1",
        name="Driftwheel als",
        module="ours",
        parameters={"estimator": "als", "epochs": 10},
        grid={"factors": [8, 16, 32], "vector_damping": [8.0, 13.0, 17.0], "bias_damping": [1.5, 2.5]},
    ),
    Entrant(
        case="R1",
        name="Driftwheel bayes",
        module="ours",
        parameters={"estimator": "bayes"},
        grid={"factors": [8, 16], "choice_factors": [0, 64]},
    ),
    Entrant(
        case="R1",
        name="Driftwheel bayes, genre and year",
        module="ours",
        parameters={"estimator": "bayes", "features": True},
        grid={"factors": [8, 12]},
    ),
    Entrant(
        case="R1", name="Driftwheel bayes, 60 draws", module="ours", parameters={"estimator": "bayes", "epochs": 60}
    ),
    Entrant(case="R2", name="Driftwheel bayes", module="ours", parameters={"estimator": "bayes"}),
    Entrant(
        case="R2 with fold-in",
        name="Driftwheel bayes, the server's fold-in",
        module="ours",
        function="predict_with_history",
        parameters={"estimator": "bayes"},
    ),
    Entrant(
        case="R3",
        name="Driftwheel ials",
        module="ours",
        function="rank",
        parameters={"estimator": "ials"},
        grid={
            "factors": [32, 64],
            "unobserved_weight": [0.1, 0.3],
            "damping": [0.003, 0.005, 0.01],
            "half_life": [5.0, 10.0],
        },
    ),
    Entrant(
        case="throughput",
        name="Driftwheel als, 1 rank",
        module="ours_stream",
        function="stream",
        parameters=_LARGE | {"ranks": 1},
    ),
    Entrant(
        case="throughput",
        name="Driftwheel als, 2 ranks",
        module="ours_stream",
        function="stream",
        parameters=_LARGE | {"ranks": 2},
    ),
)
"""Those that take part."""


def predict(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """Stars of the test rows; ids that training did not know get what an unknown user or item gets."""
    found, seconds, users, items = _train(split, seed, parameters)
    return Answer(_scores(found, users[split.test.user], items[split.test.item]), seconds)


def predict_with_history(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """Stars of the test rows from each user's earlier ratings alone, folded in as ``/v1/recommend`` does."""
    found, seconds, _, items = _train(split, seed, parameters)
    factors = found.factorization
    table = torch.column_stack([factors.items, factors.item_bias])[1:].numpy()
    settings = FactorParameters(mean=factors.mean, low=LOW, high=HIGH, preference=found.fold_in.preference)
    fold_in = fold_in_of(table, settings, found.fold_in.prior)
    item = items[split.test.item]
    predicted = factors.mean + factors.item_bias.numpy()[item].astype(np.float64)
    for row, (earlier, ratings) in enumerate(earlier_ratings(split)):
        known = items[earlier] > 0
        if not known.any():
            continue
        user = fold_in(items[earlier][known] - 1, ratings[known])
        predicted[row] += user[-1] + (user[:-1] @ table[item[row] - 1, :-1] if item[row] else 0.0)
    return Answer(predicted, seconds)


def rank(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """The best unseen items of each user."""
    found, seconds, users, items = _train(split, seed, parameters, by_time=True)
    factors = found.factorization
    scores = (factors.users @ factors.items.T + factors.item_bias).numpy()
    return Answer(top_unseen(scores[np.ix_(users, items)], split), seconds)


def _train(
    split: RatingSplit, seed: int, parameters: dict[str, Any], *, by_time: bool = False
) -> tuple[Finished, float, NDArray[np.int64], NDArray[np.int64]]:
    """The model, the seconds that it took, and the index of each of the table's users and items (0: unknown to training).

    Of the parameters, ``features`` says whether genres and years are known; the others are the estimator's.
    """
    features = parameters.pop("features", False)
    config = dataclasses.replace(estimator_config("rating", parameters.pop("estimator")), **parameters)
    train = split.train
    if by_time:
        train = train.take(np.lexsort((train.item, train.epoch_s)))
    users, items = _indices(train.user, split.users), _indices(train.item, split.items)
    started = time.perf_counter()
    with _alone(), torch.no_grad():
        shard = whole_shard(
            users[train.user].astype(np.int32),
            items[train.item].astype(np.int32),
            train.rating.astype(np.float32),
            users=int(users.max()) + 1,
            items=int(items.max()) + 1,
            item_features=_item_features(split, items) if features else (),
        )
        estimator = build_estimator(shard, config, seed, torch.device("cpu"), low=LOW, high=HIGH)
        for number in range(config.epochs):
            estimator.sweep(number)
        found = estimator.finish()
    return found, time.perf_counter() - started, users, items


def _item_features(split: RatingSplit, items: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
    """What ``read_shard`` makes of the traits of a dataset."""
    genres = [SEPARATOR.join(map(str, np.flatnonzero(row))) for row in split.genres]
    rated = np.flatnonzero(items > 0)
    dated = rated[np.isfinite(split.year[rated])]
    rows = int(items.max()) + 1
    return (
        placed(category_features([genres[item] for item in rated]), items[rated], rows),
        placed(number_features(split.year[dated]), items[dated], rows),
    )


def _indices(seen: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``[size]``: 1 for the first that training saw, and so on; 0 for those that it did not see."""
    there = np.bincount(seen, minlength=size) > 0
    return np.where(there, np.cumsum(there), 0)


def _scores(found: Finished, user: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.float64]:
    factors = found.factorization
    users, items = (
        torch.column_stack([factors.users, factors.user_bias]),
        torch.column_stack([factors.items, factors.item_bias]),
    )
    users[0], items[0] = 0.0, 0.0
    left, right = users[torch.from_numpy(user)].double(), items[torch.from_numpy(item)].double()
    return (factors.mean + left[:, -1] + right[:, -1] + (left[:, :-1] * right[:, :-1]).sum(-1)).numpy()


@contextmanager
def _alone() -> Generator[None]:
    """A process group of this process only."""
    torch.set_num_threads(os.cpu_count() or 1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
