"""myfm: factorization machines by Gibbs sampling (https://myfm.readthedocs.io)."""
# pyright: reportMissingImports=false

import time
from typing import Any

import numpy as np

from benchmarks.training.libraries.contract import Answer
from benchmarks.training.libraries.exchange import Ratings, RatingSplit

_DECADES = np.arange(1920, 2020, 10)
_DAY_S = 86_400


def predict(split: RatingSplit, seed: int, *, rank: int, iterations: int, features: bool = False) -> Answer:
    """The mean over samples.

    Args:
        features: Genre, decade, quarter of the rating and days since the user's first training rating beside the ids.
    """
    from myfm import MyFMRegressor

    train, test, groups = _encoded(split, features=features)
    model = MyFMRegressor(rank=rank, random_seed=seed)
    started = time.perf_counter()
    model.fit(train, split.train.rating, n_iter=iterations, n_kept_samples=iterations * 3 // 4, group_shapes=groups)
    seconds = time.perf_counter() - started
    return Answer(model.predict(test), seconds)


def _encoded(split: RatingSplit, *, features: bool) -> tuple[Any, Any, list[int]]:
    from scipy.sparse import hstack

    makers = [_one_hot_ids, _one_hot_items, *([_genres, _decade, _quarter, _tenure] if features else [])]
    train, test = ([make(rows, split) for make in makers] for rows in (split.train, split.test))
    return hstack(train, format="csr"), hstack(test, format="csr"), [block.shape[1] for block in train]


def _one_hot(index: Any, size: int) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(index)), (np.arange(len(index)), index)), shape=(len(index), size))


def _one_hot_ids(rows: Ratings, split: RatingSplit) -> Any:
    return _one_hot(rows.user, split.users)


def _one_hot_items(rows: Ratings, split: RatingSplit) -> Any:
    return _one_hot(rows.item, split.items)


def _genres(rows: Ratings, split: RatingSplit) -> Any:
    """Each film's genres, so that their squares add up to one."""
    from scipy.sparse import csr_matrix

    genres = split.genres / np.sqrt(np.maximum(split.genres.sum(axis=1, keepdims=True), 1))
    return csr_matrix(genres)[rows.item]


def _decade(rows: Ratings, split: RatingSplit) -> Any:
    return _one_hot(np.digitize(np.nan_to_num(split.year, nan=0.0), _DECADES)[rows.item], len(_DECADES) + 1)


def _quarter(rows: Ratings, split: RatingSplit) -> Any:
    quarter = (rows.epoch_s - split.train.epoch_s.min()) // (91 * _DAY_S)
    size = int((split.train.epoch_s.max() - split.train.epoch_s.min()) // (91 * _DAY_S)) + 1
    return _one_hot(np.clip(quarter, 0, size - 1), size)


def _tenure(rows: Ratings, split: RatingSplit) -> Any:
    """Days since the user's first training rating, doubled steps."""
    first = np.full(split.users, np.iinfo(np.int64).max)
    np.minimum.at(first, split.train.user, split.train.epoch_s)
    days = np.maximum(rows.epoch_s - np.minimum(first[rows.user], rows.epoch_s), 0) / _DAY_S
    return _one_hot(np.ceil(np.log2(days + 1)).astype(int), 16)
