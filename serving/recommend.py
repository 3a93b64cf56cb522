"""Top-K over all items: seen items filtered, unknown users answered by popularity and marked as such."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.errors import InvalidRequestError
from driftwheel.vocabulary import UNKNOWN, Vocabulary
from serving.backends.base import Backend

Source = Literal["factors", "popularity"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What one user gets. ``scores`` are predicted ratings ``[k]``, best first."""

    source: Source
    """``popularity`` marks a user that training did not know."""
    items: list[int | str]
    titles: list[str | None]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of a version, in index order (entry 0 is index 1), and what each user rated in training."""

    items: list[int | str]
    titles: list[str | None]
    by_popularity: NDArray[np.int64]
    """Item indices, most rated first."""
    seen_offsets: NDArray[np.int64]
    """``seen_items[seen_offsets[u] : seen_offsets[u + 1]]`` is what the user with index ``u`` rated."""
    seen_items: NDArray[np.int64]

    @classmethod
    def read(cls, items: Path, seen: Path) -> "Catalogue":
        """Read a bundle's ``items.parquet`` and ``seen.npz``."""
        table = pq.read_table(items)
        popularity = table.column("popularity").to_numpy()
        titles: list[str | None] = (
            table.column("title").to_pylist() if "title" in table.column_names else [None] * len(table)
        )
        with np.load(seen, allow_pickle=False) as arrays:
            offsets, seen_items = arrays["offsets"].astype(np.int64), arrays["items"].astype(np.int64)
        return cls(
            items=table.column("item_id").to_pylist(),
            titles=titles,
            by_popularity=np.argsort(-popularity, kind="stable") + 1,
            seen_offsets=offsets,
            seen_items=seen_items,
        )

    def seen_by(self, user_index: int) -> NDArray[np.int64]:
        """The item indices that a user rated in training."""
        return self.seen_items[self.seen_offsets[user_index] : self.seen_offsets[user_index + 1]]


class Recommender:
    """Answers ``recommend`` for one version."""

    def __init__(self, backend: Backend, catalogue: Catalogue, users: Vocabulary, items: Vocabulary) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._users = users
        self._items = items
        self._mean_scores = self._scores_of_the_unknown_user()

    def check_types(self, user: int | str, exclude: Sequence[int | str]) -> None:
        """Refuse ids of another kind than the vocabulary's.

        Raises:
            InvalidRequestError: Text where numbers are meant, or the other way round.
        """
        for field, vocabulary, ids in (("user_id", self._users, [user]), ("exclude", self._items, exclude)):
            wrong = [one for one in ids if isinstance(one, str) != vocabulary.is_text or not _fits(one)]
            if wrong:
                expected = "text" if vocabulary.is_text else "whole numbers of 64 bits"
                raise InvalidRequestError(f"{field} must hold {expected}, got {wrong[0]!r}")

    def recommend(self, user: int | str, k: int, exclude: Sequence[int | str]) -> Recommendation:
        """The best ``k`` items for a user, fewer where the catalogue runs out.

        Args:
            exclude: Items that the caller does not want; unknown ones are ignored.
        """
        user_index = self._users.index(user)
        excluded = np.array([index for item in exclude if (index := self._items.index(item))], dtype=np.int64)
        if user_index == UNKNOWN:
            return self._popular(k, excluded)
        excluded = np.union1d(excluded, self._catalogue.seen_by(user_index))
        k = min(k, len(self._catalogue.items) - len(excluded))
        indices, scores = self._run(user_index, excluded, k)
        return self._named("factors", indices, scores)

    def _run(
        self, user_index: int, excluded: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if k < 1:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        feed = {
            "user_index": np.array([user_index], dtype=np.int64),
            "exclude_index": excluded[None, :],
            "k": np.array([k], dtype=np.int64),
        }
        outputs = self._backend.run(feed)
        return outputs["item_index"][0], outputs["score"][0]

    def _popular(self, k: int, excluded: NDArray[np.int64]) -> Recommendation:
        ranked = self._catalogue.by_popularity
        if len(excluded):
            ranked = ranked[~np.isin(ranked, excluded)]
        indices = ranked[:k]
        return self._named("popularity", indices, self._mean_scores[indices])

    def _scores_of_the_unknown_user(self) -> NDArray[np.float32]:
        """What the average user would give each item ``[items + 1]``: asked of the graph once, since it never changes."""
        everything, scores = self._run(UNKNOWN, np.empty(0, dtype=np.int64), len(self._catalogue.items))
        by_index = np.zeros(len(self._catalogue.items) + 1, dtype=np.float32)
        by_index[everything] = scores
        return by_index

    def _named(self, source: Source, indices: NDArray[np.int64], scores: NDArray[np.float32]) -> Recommendation:
        items = [self._catalogue.items[index - 1] for index in indices]
        titles = [self._catalogue.titles[index - 1] for index in indices]
        return Recommendation(source, items, titles, scores)


def _fits(one: int | str) -> bool:
    return isinstance(one, str) or -(2**63) <= one < 2**63
