"""What a caller asks for a user, checked, and with ids turned into rows of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import InvalidRequestError, TooLargeError
from driftwheel.serving_settings import ServingSettings
from driftwheel.vocabulary import Vocabulary

Id = int | str

_NO_ROWS = np.empty(0, dtype=np.int64)
_NO_RATINGS = np.empty(0, dtype=np.float64)
_WEIGHT_IDS = 1000
"""As many ids, or a tenth as many items asked for, cost about as much as another user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """For one user, as the caller put it."""

    user: Id
    k: int = 10
    exclude: Sequence[Id] = ()
    """Items that must not come; unknown ones are ignored."""
    candidates: Sequence[Id] | None = None
    """Only these items may come; None: all. Unknown ones are ignored."""
    rated: Sequence[Id] = ()
    """Items that the user has rated; unknown ones are ignored. They take the place of what training knew of the user."""
    ratings: Sequence[float] = ()
    """One for each item of ``rated``."""


@dataclass(frozen=True, slots=True)
class Query:
    """For one user, in rows of the catalogue (an item's index less one)."""

    user_index: int
    k: int
    exclude: NDArray[np.int64]
    candidates: NDArray[np.int64] | None
    rated: NDArray[np.int64]
    ratings: NDArray[np.float64]

    @property
    def weight(self) -> int:
        """The work, in users."""
        ids = len(self.exclude) + len(self.rated) + (0 if self.candidates is None else len(self.candidates))
        return 1 + (ids + 10 * self.k) // _WEIGHT_IDS


def check_sizes(questions: Sequence[Question], settings: ServingSettings, *, one: bool) -> None:
    """Refuse what is too much, before any of it is looked at.

    Args:
        one: The caller asked for one user, so that messages need not say for which.

    Raises:
        InvalidRequestError: There is no user, or a ``k`` is out of range.
        TooLargeError: Too many users or ids.
    """
    if not questions:
        raise InvalidRequestError("users must hold at least one user")
    if len(questions) > settings.max_recommend_users:
        raise TooLargeError(
            f"users has {len(questions)} entries; one request may have at most {settings.max_recommend_users}"
        )
    total = 0
    for position, question in enumerate(questions):
        prefix = "" if one else f"users[{position}]."
        if not 1 <= question.k <= settings.max_top_k:
            raise InvalidRequestError(f"{prefix}k must be between 1 and {settings.max_top_k}, got {question.k}")
        lists = (("exclude", question.exclude), ("candidates", question.candidates or ()), ("ratings", question.rated))
        for field, ids in lists:
            if len(ids) > settings.max_recommend_ids:
                raise TooLargeError(
                    f"{prefix}{field} has {len(ids)} entries; a user may have at most {settings.max_recommend_ids}"
                )
            total += len(ids)
    if total > settings.max_rows_per_request:
        raise TooLargeError(
            f"exclude, candidates and ratings have {total} entries in all; one request may have at most "
            f"{settings.max_rows_per_request}"
        )


class Encoder:
    """Turns questions into queries for one version.

    Args:
        low: The smallest rating there is.
        high: The largest one.
    """

    def __init__(self, users: Vocabulary, items: Vocabulary, *, low: float, high: float) -> None:
        self._users = users
        self._items = items
        self._low = low
        self._high = high

    def query(self, question: Question, prefix: str) -> Query:
        """Check a question against the version's vocabularies.

        Args:
            prefix: What messages put before a field's name.

        Raises:
            InvalidRequestError: An id is of another kind than the vocabulary's, or a rating is out of range or comes
                twice; the message names the field and the position.
        """
        check_ids(self._users, [question.user], f"{prefix}user_id", alone=True)
        candidates = question.candidates
        rated, ratings = self._ratings(question, prefix)
        return Query(
            user_index=self._users.index(question.user),
            k=question.k,
            exclude=self._rows(question.exclude, f"{prefix}exclude"),
            candidates=None if candidates is None else self._rows(candidates, f"{prefix}candidates"),
            rated=rated,
            ratings=ratings,
        )

    def _rows(self, ids: Sequence[Id], field: str) -> NDArray[np.int64]:
        if not ids:
            return _NO_ROWS
        indices = self._indices(ids, field)
        return indices[indices > 0] - 1

    def _indices(self, ids: Sequence[Id], field: str) -> NDArray[np.int64]:
        check_ids(self._items, ids, field)
        return self._items.encode(ids)

    def _ratings(self, question: Question, prefix: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        field = f"{prefix}ratings"
        if len(question.rated) != len(question.ratings):
            raise InvalidRequestError(
                f"{field} must hold one rating for each item, got {len(question.ratings)} for {len(question.rated)}"
            )
        if not question.rated:
            return _NO_ROWS, _NO_RATINGS
        ratings = np.array(question.ratings, dtype=np.float64)
        wrong = np.flatnonzero(~((ratings >= self._low) & (ratings <= self._high)))
        if len(wrong):
            raise InvalidRequestError(
                f"{field} must be between {self._low:g} and {self._high:g}, got {ratings[wrong[0]]:g} at position "
                f"{wrong[0]}"
            )
        indices = self._indices(question.rated, field)
        known = np.flatnonzero(indices)
        _, first = np.unique(indices[known], return_index=True)
        if len(first) < len(known):
            again = int(known[np.setdiff1d(np.arange(len(known)), first)[0]])
            raise InvalidRequestError(
                f"{field} must name each item once, got {question.rated[again]!r} again at position {again}"
            )
        return indices[known] - 1, ratings[known]


def check_ids(vocabulary: Vocabulary, ids: Sequence[Any], field: str, *, alone: bool = False) -> None:
    """Refuse ids of another kind than the vocabulary's.

    Raises:
        InvalidRequestError: Text where numbers are meant, the other way round, or a number of more than 64 bits.
    """
    kind = str if vocabulary.is_text else int
    if set(map(type, ids)) <= {kind} and (kind is str or (min(ids) >= -(2**63) and max(ids) < 2**63)):
        return
    for position, one in enumerate(ids):
        if type(one) is not kind or (kind is int and not -(2**63) <= one < 2**63):
            expected = "text" if vocabulary.is_text else "whole numbers of 64 bits"
            where = "" if alone else f" at position {position}"
            raise InvalidRequestError(f"{field} must hold {expected}, got {_shown(one)}{where}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
