"""What ``POST /v1/recommend`` takes and gives: one user, or many under ``users``."""

from typing import Any

import msgspec

from driftwheel.contracts import Arm
from driftwheel.errors import InvalidRequestError
from serving.recommendation.questions import Id, Question
from serving.recommending import RecommendAnswer, RecommendCall
from serving.transports.routing import Request

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class RatingJson(msgspec.Struct, forbid_unknown_fields=True):
    """What the user thinks of an item."""

    item_id: Id
    rating: float


class UserJson(msgspec.Struct, forbid_unknown_fields=True):
    """One of many users."""

    user_id: Id
    k: int = 10
    exclude: list[Id] = []
    """Items that must not come."""
    candidates: list[Id] | None = None
    """Only these items may come."""
    ratings: list[RatingJson] = []
    """They take the place of what training knew of the user."""


class RecommendJson(msgspec.Struct, forbid_unknown_fields=True):
    """Ask for the best items: for one user (``user_id`` and what goes with it), or for many (``users``)."""

    user_id: Id | UnsetType = UNSET
    k: int | UnsetType = UNSET
    exclude: list[Id] | UnsetType = UNSET
    candidates: list[Id] | UnsetType | None = UNSET
    ratings: list[RatingJson] | UnsetType = UNSET
    users: list[UserJson] | UnsetType = UNSET
    model: str | None = None
    version: int | None = None


class RankedJson(msgspec.Struct):
    """An item of a recommendation, best first; ``row`` is what feedback about it names."""

    row: int
    item_id: Id
    title: str | None
    score: float


class UserResultJson(msgspec.Struct):
    """The best items for a user, and what answered."""

    model: str
    version: int
    arm: Arm
    prediction_id: str
    user_id: Id
    source: str
    """``factors``, ``fold_in`` or ``popularity``."""
    items: list[RankedJson]


class RecommendAnswerJson(msgspec.Struct):
    """One user's result as it is; those of many, in the order of the request, under ``results``."""

    model: str | UnsetType = UNSET
    version: int | UnsetType = UNSET
    arm: Arm | UnsetType = UNSET
    prediction_id: str | UnsetType = UNSET
    user_id: Id | UnsetType = UNSET
    source: str | UnsetType = UNSET
    items: list[RankedJson] | UnsetType = UNSET
    results: list[UserResultJson] | UnsetType = UNSET


_OF_ONE_USER = ("user_id", "k", "exclude", "candidates", "ratings")


def recommend_call(body: RecommendJson, request: Request, protocol: str) -> RecommendCall:
    """A body as the core takes it.

    Raises:
        InvalidRequestError: It names no user, or mixes the two forms.
    """
    given = {name: value for name in _OF_ONE_USER if (value := getattr(body, name)) is not UNSET}
    if body.users is not UNSET and given:
        raise InvalidRequestError(f"{next(iter(given))} belongs to one of users where there are users")
    if body.users is UNSET and "user_id" not in given:
        raise InvalidRequestError("user_id is missing; or give users")
    users = [UserJson(**given)] if body.users is UNSET else body.users
    return RecommendCall(
        questions=[_question(user) for user in users],
        protocol=protocol,
        one=body.users is UNSET,
        model=body.model,
        version=request.pin(body.version),
        routing_key=request.routing_key(),
        deadline=request.deadline(),
        on_disconnect=request.on_disconnect,
    )


def _question(user: UserJson) -> Question:
    return Question(
        user=user.user_id,
        k=user.k,
        exclude=user.exclude,
        candidates=user.candidates,
        rated=[one.item_id for one in user.ratings],
        ratings=[one.rating for one in user.ratings],
    )


def recommend_json(call: RecommendCall, answers: list[RecommendAnswer]) -> UserResultJson | dict[str, Any]:
    """The answer in the form of the request."""
    results = [_result(question, answer) for question, answer in zip(call.questions, answers, strict=True)]
    return results[0] if call.one else {"results": results}


def _result(question: Question, answer: RecommendAnswer) -> UserResultJson:
    recommendation = answer.recommendation
    ranked = zip(recommendation.items, recommendation.titles, recommendation.scores.tolist(), strict=True)
    return UserResultJson(
        model=answer.version.name,
        version=answer.version.version,
        arm=answer.arm,
        prediction_id=answer.prediction_id,
        user_id=question.user,
        source=recommendation.source,
        items=[RankedJson(row, item, title, score) for row, (item, title, score) in enumerate(ranked)],
    )
