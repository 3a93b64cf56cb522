"""What a bundle knows of its items and users: factors, titles, popularity, and what each user rated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.bundle import FACTOR_PARAMETERS, ITEM_FACTORS, ITEMS, SEEN, USER_FACTORS, USER_PRIOR
from driftwheel.contracts import FactorParameters
from driftwheel.errors import BundleError
from driftwheel.vocabulary import Vocabulary

_LISTED_TITLES = 100_000


@dataclass(frozen=True, slots=True)
class Factors:
    """A factorization. Both tables are memory maps: processes on one machine share them, and only what is used is read."""

    users: NDArray[np.float32]
    """Rows of vector and bias ``[users + 1, factors + 1]`` by index, the unknown's first."""
    items: NDArray[np.float32]
    """Rows of vector and bias ``[items, factors + 1]``; row ``r`` is the item with index ``r + 1``."""
    parameters: FactorParameters
    prior: NDArray[np.float32] | None
    """The covariance ``[factors + 1, factors + 1]`` that users are folded in with; None: by the parameters."""

    @classmethod
    def read(cls, folder: Path, *, users: int | None = None, items: int | None = None) -> "Factors":
        """Read the ``factors`` of a bundle's folder.

        Args:
            users, items: How many there must be; None: any number.

        Raises:
            BundleError: They are damaged, or do not fit the vocabularies, or each other.
        """
        path = folder / FACTOR_PARAMETERS
        try:
            parameters = msgspec.json.decode(path.read_bytes(), type=FactorParameters)
        except msgspec.MsgspecError as error:
            raise BundleError(f"{path} is damaged: {error}") from None
        rows = None if users is None else users + 1
        tables = _table(folder / USER_FACTORS, rows), _table(folder / ITEM_FACTORS, items)
        if tables[0].shape[1] != tables[1].shape[1]:
            raise BundleError(f"{folder}: users have {tables[0].shape[1] - 1} factors, items {tables[1].shape[1] - 1}")
        prior = folder / USER_PRIOR
        return cls(*tables, parameters, _prior(prior, tables[1].shape[1]) if prior.exists() else None)


def _table(path: Path, rows: int | None) -> NDArray[np.float32]:
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} is damaged: {error}") from None
    fits = table.dtype == np.float32 and table.ndim == 2 and table.shape[1] >= 2 and table.flags.c_contiguous
    if not fits or len(table) != (len(table) if rows is None else rows):
        wanted = "rows" if rows is None else rows
        raise BundleError(
            f"{path} must be float32 of shape [{wanted}, factors + 1], got {table.dtype} of shape {list(table.shape)}"
        )
    return np.asarray(table)  # a memory map's own indexing is slow


def _prior(path: Path, width: int) -> NDArray[np.float32]:
    prior = _table(path, width)
    try:
        np.linalg.cholesky(prior.astype(np.float64))
    except np.linalg.LinAlgError:
        raise BundleError(f"{path} must be the covariance of {width - 1} factors and a bias, and is none") from None
    return prior


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of a version by row (their index less one), and what each user rated in training."""

    ids: Sequence[int | str]
    titles: pa.Array | list[str | None]
    """A list, which is fast, where it is not too large; else in Arrow's compact form."""
    by_popularity: NDArray[np.int64]
    """Rows, most rated first."""
    popularity_rank: NDArray[np.int32]
    """The place of each row in that order."""
    seen_offsets: NDArray[np.int64]
    """``seen_rows[seen_offsets[u] : seen_offsets[u + 1]]`` is what the user with index ``u`` rated."""
    seen_rows: NDArray[np.int32]

    @classmethod
    def read(cls, folder: Path, items: Vocabulary) -> "Catalogue":
        """Read the ``items.parquet`` and ``seen.npz`` of a bundle's folder.

        Raises:
            BundleError: The table's items are not the vocabulary's.
        """
        path = folder / ITEMS
        table = pq.ParquetFile(path).read(use_threads=False)  # a pool of threads would keep 2 MB for good
        if tuple(table.column("item_id").to_pylist()) != items.entries:
            raise BundleError(f"{path} must hold the items of the vocabulary, in its order")
        titles = table.column("title") if "title" in table.column_names else pa.nulls(len(table), pa.string())
        if isinstance(titles, pa.ChunkedArray):
            titles = titles.combine_chunks()
        by_popularity = np.argsort(-table.column("popularity").to_numpy(), kind="stable").astype(np.int64)
        rank = np.empty(len(table), dtype=np.int32)
        rank[by_popularity] = np.arange(len(table), dtype=np.int32)
        with np.load(folder / SEEN, allow_pickle=False) as arrays:
            offsets, seen = arrays["offsets"].astype(np.int64), arrays["items"]
        return cls(
            ids=items.entries,
            titles=titles.to_pylist() if len(titles) <= _LISTED_TITLES else titles,
            by_popularity=by_popularity,
            popularity_rank=rank,
            seen_offsets=offsets,
            seen_rows=(seen - 1).astype(np.int32),
        )

    def seen_by(self, user_index: int) -> NDArray[np.int64]:
        """The rows of the items that a user rated in training."""
        return self.seen_rows[self.seen_offsets[user_index] : self.seen_offsets[user_index + 1]].astype(np.int64)

    def popular(self, k: int, excluded: NDArray[np.int64], candidates: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The ``k`` most popular rows, of the candidates if there are any, without the excluded ones."""
        if candidates is None:
            ranked = self.by_popularity[: k + len(excluded)]
        else:
            ranked = self.by_popularity[np.unique(self.popularity_rank[candidates])]
        return ranked[~np.isin(ranked, excluded)][:k]

    def titles_of(self, rows: NDArray[np.int64]) -> list[str | None]:
        """The titles of some rows."""
        if isinstance(self.titles, list):
            return [self.titles[row] for row in rows.tolist()]
        return self.titles.take(pa.array(rows)).to_pylist()
