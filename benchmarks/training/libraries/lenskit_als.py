"""LensKit: alternating least squares for stars and for rankings (https://lenskit.org)."""
# pyright: reportMissingImports=false

import os
import time
from typing import Any

import numpy as np

from benchmarks.training.libraries.contract import DEPTH, Answer, earlier_ratings
from benchmarks.training.libraries.exchange import RatingSplit

os.environ.setdefault("LK_NUM_THREADS", str(len(os.sched_getaffinity(0))))


def predict(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """Stars by ``BiasedMFScorer``; where that has no factors, by ``BiasScorer``, as LensKit's own pipelines do."""
    from lenskit.data import ItemList, RecQuery

    scorers, seconds = _trained(split, seed, parameters)
    predicted = np.empty(len(split.test))
    order = np.argsort(split.test.user, kind="stable")
    starts = np.flatnonzero(np.diff(split.test.user[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        query = RecQuery(user_id=int(split.test.user[rows[0]]))
        predicted[rows] = _scores(scorers, query, ItemList(item_ids=split.test.item[rows]))
    return Answer(predicted, seconds)


def predict_with_history(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """The same, each rating asked for with the user's earlier ones as the query's history."""
    from lenskit.data import ItemList, RecQuery

    scorers, seconds = _trained(split, seed, parameters)
    predicted = np.empty(len(split.test))
    for row, (items, ratings) in enumerate(earlier_ratings(split)):
        history = ItemList(item_ids=items, rating=ratings.astype(np.float32))
        query = RecQuery(user_id=int(split.test.user[row]), user_items=history if len(items) else None)
        predicted[row] = _scores(scorers, query, ItemList(item_ids=split.test.item[row : row + 1]))[0]
    return Answer(predicted, seconds)


def rank(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """The best unseen items by ``ImplicitMFScorer``, of all that have a training rating."""
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import ItemList, RecQuery

    model = ImplicitMFScorer(**parameters)
    seconds = _train(model, _dataset(split), seed)
    ranked = np.full((split.users, DEPTH), -1)
    known = np.unique(split.train.item)
    for user in np.unique(split.train.user):
        unseen = np.setdiff1d(known, split.train.item[split.train.user == user])
        scores = model(RecQuery(user_id=int(user)), ItemList(item_ids=unseen)).scores()
        best = unseen[np.argsort(-scores, kind="stable")[:DEPTH]]
        ranked[user, : len(best)] = best
    return Answer(ranked, seconds)


def _trained(split: RatingSplit, seed: int, parameters: dict[str, Any]) -> tuple[list[Any], float]:
    from lenskit.als import BiasedMFScorer
    from lenskit.basic import BiasScorer

    dataset = _dataset(split)
    model, fallback = BiasedMFScorer(**parameters), BiasScorer(damping=parameters.get("damping", 5.0))
    seconds = _train(model, dataset, seed)
    fallback.train(dataset)
    return [model, fallback], seconds


def _dataset(split: RatingSplit) -> Any:
    import pandas as pd
    from lenskit.data import from_interactions_df

    columns = {"user_id": split.train.user, "item_id": split.train.item, "rating": split.train.rating}
    return from_interactions_df(pd.DataFrame(columns))


def _train(model: Any, dataset: Any, seed: int) -> float:
    from lenskit.training import TrainingOptions

    started = time.perf_counter()
    model.train(dataset, TrainingOptions(rng=seed))
    return time.perf_counter() - started


def _scores(scorers: list[Any], query: Any, items: Any) -> Any:
    model, fallback = (scorer(query, items).scores() for scorer in scorers)
    return np.where(np.isfinite(model), model, fallback)
