"""What users are asked about, checked, and with ids turned into rows of the catalogue: the body of ``/v1/recommend``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from driftwheel_archive import Archive, Vocabulary
from driftwheel_requests import RefusedError, shown
from numpy.typing import NDArray

MOST_USERS, MOST_ITEMS, MOST_IDS = 256, 1000, 10_000
"""Of a request: users; of a user: items wanted, and entries of a list."""

_FIELDS = {"user_id", "k", "exclude", "candidates", "ratings"}

Rows = NDArray[np.int64]
"""Of the catalogue: an item's index less one."""


@dataclass(frozen=True, slots=True)
class Question:
    """For one user."""

    user: int | str
    k: int
    exclude: Rows
    candidates: Rows | None
    """Distinct ones; None: all items."""
    rated: Rows
    ratings: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wish:
    """A request for recommendations."""

    questions: list[Question]
    one: bool
    """It asked for one user, so that its answer is that user's."""


class QuestionReader:
    """Reads requests to one version.

    Args:
        low: The smallest rating there is.
        high: The largest one.
    """

    def __init__(self, archive: Archive, *, low: float, high: float) -> None:
        self._model = {"model": archive.bundle["name"], "version": archive.bundle["version"]}
        self._users, self._items = archive.vocabularies["user_id"], archive.vocabularies["item_id"]
        self._low, self._high = low, high

    def read(self, body: Mapping[str, Any]) -> Wish:
        """A body as ``/v1/recommend`` takes it: one user, ``users``, or ``user_ids`` with one ``k`` for all of them.

        Raises:
            RefusedError: It does not fit; the message names the user and the field.
        """
        rest = {key: value for key, value in body.items() if key not in ("model", "version")}
        for key, mine in self._model.items():
            if body.get(key) not in (None, mine):
                raise RefusedError(f"{key} must be {mine!r}, which is what runs here; got {shown(body[key])}")
        one = "users" not in rest and "user_ids" not in rest
        if one:
            users = [rest]
        elif "users" in rest:
            _only(rest, {"users"}, "users")
            users = _list(rest["users"], "users", MOST_USERS)
        else:
            _only(rest, {"user_ids", "k"}, "user_ids")
            k = rest.get("k", 10)
            users = [{"user_id": user, "k": k} for user in _list(rest["user_ids"], "user_ids", MOST_USERS)]
        if not users:
            raise RefusedError("users must hold at least one user")
        return Wish([self._question(user, "" if one else f"users[{n}].") for n, user in enumerate(users)], one)

    def _question(self, user: Any, prefix: str) -> Question:
        if not isinstance(user, dict):
            raise RefusedError(f"{prefix.removesuffix('.')} must be an object, got {shown(user)}")
        asked = cast("dict[str, Any]", user)
        if unknown := sorted(asked.keys() - _FIELDS):
            raise RefusedError(f"{prefix}{unknown[0][:80]} is unknown; a user has {', '.join(sorted(_FIELDS))}")
        if "user_id" not in asked:
            raise RefusedError(f"{prefix}user_id is missing")
        _check_ids(self._users, [asked["user_id"]], f"{prefix}user_id")
        k = asked.get("k", 10)
        if type(k) is not int or not 1 <= k <= MOST_ITEMS:
            raise RefusedError(f"{prefix}k must be a whole number between 1 and {MOST_ITEMS}, got {shown(k)}")
        rated, ratings = self._ratings(asked.get("ratings", []), f"{prefix}ratings")
        candidates = asked.get("candidates")
        return Question(
            user=asked["user_id"],
            k=k,
            exclude=self._rows(asked.get("exclude", []), f"{prefix}exclude"),
            candidates=None if candidates is None else np.unique(self._rows(candidates, f"{prefix}candidates")),
            rated=rated,
            ratings=ratings,
        )

    def _rows(self, ids: Any, name: str) -> Rows:
        """The rows of the items among some ids that are known."""
        given = _list(ids, name, MOST_IDS)
        _check_ids(self._items, given, name)
        indices = np.array([self._items.index(one) for one in given], dtype=np.int64)
        return indices[indices > 0] - 1

    def _ratings(self, given: Any, name: str) -> tuple[Rows, NDArray[np.float64]]:
        low, high = self._low, self._high
        rated: dict[int, float] = {}
        for position, one in enumerate(_list(given, name, MOST_IDS)):
            if not isinstance(one, dict) or cast("dict[str, Any]", one).keys() != {"item_id", "rating"}:
                raise RefusedError(f"{name}[{position}] must be an object of item_id and rating, got {shown(one)}")
            item, rating = cast("dict[str, Any]", one)["item_id"], cast("dict[str, Any]", one)["rating"]
            _check_ids(self._items, [item], f"{name}[{position}].item_id")
            if type(rating) not in (int, float) or not low <= rating <= high:
                raise RefusedError(
                    f"{name}[{position}].rating must be between {low:g} and {high:g}, got {shown(rating)}"
                )
            if not (index := self._items.index(item)):
                continue
            if index - 1 in rated:
                raise RefusedError(f"{name} must name each item once, got {item!r} again at position {position}")
            rated[index - 1] = float(rating)
        return np.array(list(rated), dtype=np.int64), np.array(list(rated.values()), dtype=np.float64)


def _only(body: Mapping[str, Any], allowed: set[str], beside: str) -> None:
    if others := sorted(body.keys() - allowed):
        raise RefusedError(f"{others[0][:80]} belongs to one of users where there are {beside}")


def _list(value: Any, name: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(f"{name} must be a list, got {shown(value)}")
    entries = cast("list[Any]", value)
    if len(entries) > most:
        raise RefusedError(f"{name} has {len(entries)} entries; at most {most} may come")
    return entries


def _check_ids(vocabulary: Vocabulary, ids: Sequence[Any], name: str) -> None:
    kind, expected = (str, "text") if vocabulary.is_text else (int, "whole numbers of 64 bits")
    for one in ids:
        if type(one) is not kind or (kind is int and not -(2**63) <= one < 2**63):
            raise RefusedError(f"{name} must hold {expected}, got {shown(one)}")
