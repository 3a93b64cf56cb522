"""What the model that a version's metrics are of ranked for the users of its test split: kept, so that versions can be compared
by their rankings later on, as ``answers`` keeps what they predicted.

::

    rankings.parquet       a row for each user who rated a known item high: user_id, ranked (item ids, best first) and relevant
    ranked_items.parquet   a row for each item that the model knows: item_id, popularity (the share of users who rated it)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.errors import TrainingError
from training.data.dataset import Dataset, encoded_split
from training.final_metrics import RANKING_CUTOFFS, rankings_on_test
from training.metrics import Relevant
from training.models.matrix_factorization import MatrixFactorization

RANKINGS = "rankings.parquet"
ITEMS = "ranked_items.parquet"

DEPTH = 2 * max(RANKING_CUTOFFS)
"""Items of a list. Half of them may be struck out when a version is asked that has learned of them."""

_TRAINING = b"driftwheel.training"
"""The key of the table's metadata under which the fingerprint of what the model learned from stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRecord:
    """Lists for users, in places of ``items``."""

    training: str
    """The fingerprint of the dataset whose training split the model learned from: nothing of it is in a user's list."""
    users: NDArray[Any]
    """Ids ``[users]``."""
    items: NDArray[Any]
    """Ids ``[items]``."""
    popularity: NDArray[np.float64]
    """``[items]``."""
    ranked: NDArray[np.int64]
    """``[users, DEPTH]``, best first; -1 where a list ends early."""
    relevant: Relevant
    """What the users rated high in the test split."""


def write_rankings(folder: Path, model: MatrixFactorization, dataset: Dataset) -> None:
    """Write what a model ranks for the users of a dataset's test split.

    Args:
        folder: An evaluation's; what reads it waits for the whole.
        dataset: Whose training split the model has learned from.
    """
    found = rankings_on_test(model, encoded_split(dataset, "train"), encoded_split(dataset, "test"), DEPTH)
    vocabularies = dataset.read_vocabularies()
    users, items = (np.array(vocabularies[name].entries) for name in ("user_id", "item_id"))
    listed = found.ranked >= 0
    relevant = np.argsort(found.relevant.row, kind="stable")
    table = pa.table(
        {
            "user_id": pa.array(users[found.users - 1]),
            "ranked": _lists(listed.sum(axis=1), items[found.ranked[listed] - 1]),
            "relevant": _lists(
                np.bincount(found.relevant.row, minlength=len(listed)), items[found.relevant.item[relevant] - 1]
            ),
        }
    )
    pq.write_table(table.replace_schema_metadata({_TRAINING: dataset.fingerprint.encode()}), folder / RANKINGS)
    pq.write_table(pa.table({"item_id": pa.array(items), "popularity": found.popularity[1:]}), folder / ITEMS)


def read_rankings(rankings: Path, items: Path) -> RankingRecord:
    """Read what ``write_rankings`` wrote.

    Raises:
        TrainingError: It is damaged.
    """
    try:
        table, about = pq.read_table(rankings), pq.read_table(items)
        ids = about["item_id"].to_numpy()
        row, place, listed = _unrolled(table["ranked"], ids)
        ranked = np.full((len(table), DEPTH), -1)
        ranked[row, place] = listed
        row, _, relevant = _unrolled(table["relevant"], ids)
        return RankingRecord(
            training=(table.schema.metadata or {})[_TRAINING].decode(),
            users=table["user_id"].to_numpy(),
            items=ids,
            popularity=about["popularity"].to_numpy(),
            ranked=ranked,
            relevant=Relevant(row, relevant),
        )
    except (OSError, KeyError, IndexError, pa.ArrowException) as error:
        raise TrainingError(f"the recorded rankings in {rankings.name} are missing or damaged: {error}") from None


def _lists(lengths: NDArray[np.int64], values: NDArray[Any]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _unrolled(
    lists: pa.ChunkedArray, ids: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, place in the row's list, and which of the ids stands there."""
    whole = lists.combine_chunks()
    lengths = whole.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = pd.Index(ids).get_indexer(pd.Index(whole.flatten().to_numpy(zero_copy_only=False)))
    if (found < 0).any():
        raise KeyError("a list holds an item that is not among the items")
    return row, place, found.astype(np.int64)
