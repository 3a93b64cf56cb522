"""The best items of the whole catalogue for users, exactly, in numpy: every item is scored, a tile of them at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from driftwheel_archive import Archive, DamagedArchiveError
from driftwheel_questions import Question, QuestionReader, Rows, Wish
from driftwheel_requests import RefusedError
from numpy.typing import NDArray

_TILE_ITEMS = 32_768
_TILE_USERS = 64
"""A tile's scores are 8 MB."""
_LEAST_DAMPING = 1e-6
"""Without any, ratings fewer than the factors would have no single solution."""
_NONE: Rows = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class _Search:
    """A user on the way through the tiles."""

    question: Question
    source: str
    vector: NDArray[np.float32]
    """And bias, ``[factors + 1]``."""
    excluded: Rows
    """Sorted."""
    rows: Rows = field(default_factory=_NONE.copy)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def offer(self, rows: Rows, scores: NDArray[np.float32]) -> None:
        """Keep the best ``k`` of what there is and these; of equal scores the lower row."""
        if len(self.scores) >= self.question.k:
            better = np.flatnonzero(scores > self.scores[-1])
            rows, scores = rows[better], scores[better]
        if len(scores) > self.question.k:
            good = np.flatnonzero(scores >= np.partition(scores, -self.question.k)[-self.question.k])
            rows, scores = rows[good], scores[good]
        rows, scores = np.concatenate([self.rows, rows]), np.concatenate([self.scores, scores])
        best = np.lexsort((rows, -scores))[: self.question.k]
        self.rows, self.scores = rows[best], scores[best]


class Recommender:
    """Reads the factors of an archive, and answers.

    Raises:
        DamagedArchiveError: A part does not fit the others, or an item's factors are not numbers.
    """

    def __init__(self, archive: Archive) -> None:
        folder = archive.folder
        self._label = archive.label
        self._answered = {"model": archive.bundle["name"], "version": archive.bundle["version"]}
        self._known_users, self._known_items = archive.vocabularies["user_id"], archive.vocabularies["item_id"]
        self._parameters: dict[str, float] = json.loads((folder / "factors/parameters.json").read_bytes())
        self.reader = QuestionReader(archive, low=self._parameters["low"], high=self._parameters["high"])
        self._users = _table(folder / "factors/users.npy", len(self._known_users.entries) + 1)
        self._items = _table(folder / "factors/items.npy", len(self._known_items.entries))
        if self._users.shape[1] != self._items.shape[1] or not np.isfinite(self._items).all():
            raise DamagedArchiveError(f"{folder}/factors: users and items differ in width, or an item is not a number")
        self._titles: list[str | None] = json.loads((folder / "titles.json").read_bytes())
        popularity = np.load(folder / "popularity.npy", allow_pickle=False)
        if not len(self._titles) == len(popularity) == len(self._items):
            raise DamagedArchiveError(f"{folder}: titles and popularity must have an entry for each item")
        self._by_popularity: Rows = np.argsort(-popularity, kind="stable").astype(np.int64)
        with np.load(folder / "seen.npz", allow_pickle=False) as arrays:
            self._offsets, self._seen = arrays["offsets"].astype(np.int64), arrays["items"].astype(np.int64)
        if len(self._offsets) != len(self._users) + 1 or self._offsets[-1] != len(self._seen):
            raise DamagedArchiveError(f"{folder}/seen.npz must say of each user what it rated")

    def answer(self, wishes: Sequence[Wish]) -> list[dict[str, Any] | RefusedError]:
        """Answer all requests in one search; a RefusedError in place of scores that are not numbers."""
        searches = [self._search(question) for wish in wishes for question in wish.questions]
        open_ = [one for one in searches if one.source != "popularity" and one.question.candidates is None]
        for start in range(0, len(open_), _TILE_USERS):
            self._search_everything(open_[start : start + _TILE_USERS])
        answers: list[dict[str, Any] | RefusedError] = []
        done = iter(searches)
        for wish in wishes:
            mine = [next(done) for _ in wish.questions]
            if all(np.isfinite(one.vector).all() and np.isfinite(one.scores).all() for one in mine):
                results = [self._result(one) for one in mine]
                answers.append(results[0] if wish.one else {"results": results})
            else:
                answers.append(RefusedError(f"{self._label} recommends with a score that is not a number", code=500))
        return answers

    def _search(self, question: Question) -> _Search:
        """What is known of a user: ratings that came count more than training."""
        index = self._known_users.index(question.user)
        seen = self._seen[self._offsets[index] : self._offsets[index + 1]] - 1
        excluded = np.unique(np.concatenate([seen, question.exclude, question.rated]))
        if len(question.rated):
            return self._among(_Search(question, "fold_in", self._folded_in(question), excluded))
        source = "factors" if index else "popularity"
        search = _Search(question, source, np.asarray(self._users[index], dtype=np.float32), excluded)
        return self._among(search) if index else self._popular(search)

    def _popular(self, search: _Search) -> _Search:
        """The items that most people rated, with the average user's scores."""
        candidates, ranked = search.question.candidates, self._by_popularity
        if candidates is not None:
            ranked = ranked[np.isin(ranked, candidates)]
        else:
            ranked = ranked[: search.question.k + len(search.excluded)]
        search.rows = ranked[~np.isin(ranked, search.excluded)][: search.question.k]
        search.scores = self._items[search.rows, -1]
        search.vector = np.zeros_like(search.vector)
        return search

    def _among(self, search: _Search) -> _Search:
        """The best of the caller's candidates, if there are any; else the search goes on."""
        if (candidates := search.question.candidates) is not None:
            rows = np.setdiff1d(candidates, search.excluded)
            search.offer(rows, self._items[rows, :-1] @ search.vector[:-1] + self._items[rows, -1])
        return search

    def _search_everything(self, searches: Sequence[_Search]) -> None:
        vectors = np.stack([one.vector[:-1] for one in searches])
        for start in range(0, len(self._items), _TILE_ITEMS):
            tile = self._items[start : start + _TILE_ITEMS]
            scores = vectors @ tile[:, :-1].T + tile[:, -1]
            rows = np.arange(start, start + len(tile))
            for one, mine in zip(searches, scores, strict=True):
                first, last = np.searchsorted(one.excluded, (start, start + len(tile)))
                if first == last:
                    one.offer(rows, mine)
                    continue
                kept = np.ones(len(tile), dtype=np.bool_)
                kept[one.excluded[first:last] - start] = False
                one.offer(rows[kept], mine[kept])

    def _folded_in(self, question: Question) -> NDArray[np.float32]:
        """The vector and bias that training would find for these ratings with all items held fixed: a ridge regression."""
        items = np.asarray(self._items[question.rated], dtype=np.float64)
        residuals = question.ratings - self._parameters["mean"] - items[:, -1]
        items[:, -1] = 1.0
        damping = np.full(items.shape[1], max(self._parameters["vector_damping"], _LEAST_DAMPING))
        damping[-1] = max(self._parameters["bias_damping"], _LEAST_DAMPING)
        if len(items) < items.shape[1]:  # the same solution, from the smaller system
            scaled = items / damping
            solution = scaled.T @ np.linalg.solve(scaled @ items.T + np.eye(len(items)), residuals)
        else:
            solution = np.linalg.solve(items.T @ items + np.diag(damping), items.T @ residuals)
        return solution.astype(np.float32)

    def _result(self, search: _Search) -> dict[str, Any]:
        low, high = self._parameters["low"], self._parameters["high"]
        scores = (search.scores + search.vector[-1] + np.float32(self._parameters["mean"])).clip(low, high)
        ids, titles = self._known_items.entries, self._titles
        items = [
            {"row": place, "item_id": ids[row], "title": titles[row], "score": score}
            for place, (row, score) in enumerate(zip(search.rows.tolist(), scores.tolist(), strict=True))
        ]
        return {**self._answered, "user_id": search.question.user, "source": search.source, "items": items}


def _table(path: Path, rows: int) -> NDArray[np.float32]:
    table = np.load(path, mmap_mode="r", allow_pickle=False)
    if table.dtype != np.float32 or table.ndim != 2 or len(table) != rows:
        raise DamagedArchiveError(f"{path} must be float32 with {rows} rows, got {table.dtype} {list(table.shape)}")
    return np.asarray(table)  # a memory map's own indexing is slow
