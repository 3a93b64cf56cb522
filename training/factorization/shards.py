"""Ratings as the ranks hold them: each its own users' and its own items', read from Parquet a batch at a time."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.preprocessing import encode
from training.data.dataset import TITLES, TRAIT_PREFIX, Dataset, Split, labels, public_tensors, read_parquet
from training.factorization.traits import category_features, number_features, placed

_BATCH_ROWS = 262_144
_ROW_COST = 16
"""What a row of a table costs to solve, in ratings."""

Indices = NDArray[np.int32]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Triples:
    """Ratings ``[n]``: rows and columns of a table of ratings, and what stands there."""

    row: Indices
    column: Indices
    value: Values


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank holds. ``bounds[r] : bounds[r + 1]`` are the rows of rank ``r``; nobody holds row 0, the unknown."""

    users: int
    """Rows of the user table, the unknown included."""
    items: int
    rows: int
    """Ratings over all ranks."""
    mean: float
    """Of all ratings."""
    user_bounds: NDArray[np.int64]
    item_bounds: NDArray[np.int64]
    by_user: Triples
    """The ratings by this rank's users."""
    by_item: Triples
    """The ratings of this rank's items, item first."""
    item_features: tuple[NDArray[np.float32], ...] = ()
    """``[items, f]`` for each kind of what is known of items; row 0, the unknown, is zeros."""


def read_shard(dataset: Dataset, rank: int, ranks: int) -> Shard:
    """Read the training split twice: once to share rows out evenly, once to keep what is this rank's. No rank holds more than
    its share of it, and one batch.
    """
    vocabularies = dataset.read_vocabularies()
    sizes = vocabularies["user_id"].table_size, vocabularies["item_id"].table_size
    degrees = [np.zeros(size, dtype=np.int64) for size in sizes]
    total, rows = 0.0, 0
    for user, item, rating in rating_batches(dataset, "train"):
        for degree, index in zip(degrees, (user, item), strict=True):
            np.add(degree, np.bincount(index, minlength=len(degree)), out=degree)
        total += float(rating.sum(dtype=np.float64))
        rows += len(rating)
    user_bounds, item_bounds = (shared_out(degree, ranks) for degree in degrees)
    by_user, by_item = _Filled(degrees[0], user_bounds, rank), _Filled(degrees[1], item_bounds, rank)
    for user, item, rating in rating_batches(dataset, "train"):
        by_user.add(user, item, rating)
        by_item.add(item, user, rating)
    return Shard(
        users=sizes[0],
        items=sizes[1],
        rows=rows,
        mean=total / rows,
        user_bounds=user_bounds,
        item_bounds=item_bounds,
        by_user=by_user.triples,
        by_item=by_item.triples,
        item_features=_item_features(dataset),
    )


def whole_shard(
    user: Indices,
    item: Indices,
    rating: Values,
    *,
    users: int,
    items: int,
    item_features: tuple[NDArray[np.float32], ...] = (),
) -> Shard:
    """All ratings as one rank holds them; indices count from 1.

    Args:
        users, items: Rows of the tables, the unknown included.
        item_features: As in ``Shard``.
    """
    return Shard(
        users=users,
        items=items,
        rows=len(rating),
        mean=float(rating.mean(dtype=np.float64)),
        user_bounds=np.array([1, users]),
        item_bounds=np.array([1, items]),
        by_user=Triples(user, item, rating),
        by_item=Triples(item, user, rating),
        item_features=item_features,
    )


def _item_features(dataset: Dataset) -> tuple[NDArray[np.float32], ...]:
    """A table for each trait, in the order of the vocabulary; items that nothing is known of have the others' average."""
    table = read_parquet(dataset.path(TITLES))
    items = dataset.read_vocabularies()["item_id"]
    index = items.encode(table["item_id"].to_numpy())
    features: list[NDArray[np.float32]] = []
    for name in table.column_names:
        if not name.startswith(TRAIT_PREFIX):
            continue
        column = table[name]
        known = np.flatnonzero((index > 0) & column.is_valid().to_numpy())
        values = column.take(known)
        is_number = pa.types.is_floating(column.type)
        of_known = number_features(values.to_numpy()) if is_number else category_features(values.to_pylist())
        features.append(placed(of_known, index[known], items.table_size))
    return tuple(features)


def read_part(dataset: Dataset, split: Split, rank: int, ranks: int) -> Triples:
    """Every n-th rating of a split, from that of the rank on."""
    start, users, items, ratings = 0, list[Indices](), list[Indices](), list[Values]()
    for user, item, rating in rating_batches(dataset, split):
        mine = slice((rank - start) % ranks, None, ranks)
        users.append(user[mine])
        items.append(item[mine])
        ratings.append(rating[mine])
        start += len(rating)
    return Triples(np.concatenate(users), np.concatenate(items), np.concatenate(ratings))


def rating_batches(dataset: Dataset, split: Split) -> Generator[tuple[Indices, Indices, Values]]:
    """User and item indices and ratings of a split, a batch at a time."""
    vocabularies, signature = dataset.read_vocabularies(), dataset.signature
    columns = [*(spec.name for spec in signature.inputs), signature.label]
    for batch in pq.ParquetFile(dataset.path(f"{split}.parquet")).iter_batches(_BATCH_ROWS, columns=columns):
        table = pa.Table.from_batches([batch])
        feed = encode(signature, vocabularies, public_tensors(signature, table))
        user, item = (feed[name].astype(np.int32) for name in ("user_index", "item_index"))
        yield user, item, labels(signature, table)


def shared_out(degrees: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    """Bounds ``[ranks + 1]`` of runs of rows from 1 on that cost about the same; some are empty if there are few rows."""
    cost = np.cumsum(degrees[1:] + _ROW_COST)
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, ranks) / ranks) + 1 if len(cost) else np.ones(ranks - 1)
    return np.concatenate([[1], cuts, [len(degrees)]]).astype(np.int64)


class _Filled:
    """Room for the ratings of a rank's rows, filled a batch at a time."""

    def __init__(self, degrees: NDArray[np.int64], bounds: NDArray[np.int64], rank: int) -> None:
        self._first, self._end = bounds[rank : rank + 2].tolist()
        rows = int(degrees[self._first : self._end].sum())
        self.triples = Triples(np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty(rows, np.float32))
        self._filled = 0

    def add(self, row: Indices, column: Indices, value: Values) -> None:
        mine = (row >= self._first) & (row < self._end)
        into = slice(self._filled, self._filled + int(mine.sum()))
        self.triples.row[into] = row[mine]
        self.triples.column[into] = column[mine]
        self.triples.value[into] = value[mine]
        self._filled = into.stop
