"""Recommendations as calls: ``driftwheel.v1.Recommender``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TypeVar

from driftwheel._client.answers import Recommendation, RecommendedItem
from driftwheel._client.calls import Call, rpc
from serving._proto import driftwheel_pb2 as pb

Id = int | str
R = TypeVar("R")

_METHOD = "/driftwheel.v1.Recommender/Recommend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one user of a batch is asked for; as the arguments of ``recommend``."""

    user_id: Id
    k: int = 10
    exclude: Sequence[Id] = ()
    candidates: Sequence[Id] | None = None
    ratings: Mapping[Id, float] | None = None


def recommend(
    user_id: Id,
    k: int = 10,
    *,
    exclude: Sequence[Id] = (),
    candidates: Sequence[Id] | None = None,
    ratings: Mapping[Id, float] | None = None,
    model: str | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
) -> Call[Recommendation]:
    """The best ``k`` items for a user, without what the user has seen.

    Args:
        exclude: Items to leave out besides.
        candidates: The only items that may come; None: all.
        ratings: What the user thinks of some items, in place of what training knew: for users who are new.
        model: None: the only recommender there is.
        version: None lets the canary split choose.
    """
    question = Question(user_id=user_id, k=k, exclude=exclude, candidates=candidates, ratings=ratings)

    def only(answers: list[Recommendation]) -> Recommendation:
        (answer,) = answers
        return answer

    request = _request([question], model, version)
    return rpc(
        _METHOD, request, pb.RecommendResponse, lambda response: only(_read(response, [question])), timeout_s=timeout_s
    )


def recommend_batch(
    users: Sequence[Id | Question],
    k: int = 10,
    *,
    model: str | None = None,
    version: int | None = None,
    timeout_s: float | None = None,
) -> Call[list[Recommendation]]:
    """The best items for each user, in their order, found in one pass over the catalogue.

    Args:
        users: Ids, each asked for ``k`` items; or questions with wishes of their own.
        version: None lets the canary split choose, for each user apart.
    """
    questions = [user if isinstance(user, Question) else Question(user_id=user, k=k) for user in users]
    return rpc(
        _METHOD,
        _request(questions, model, version),
        pb.RecommendResponse,
        lambda response: _read(response, questions),
        timeout_s=timeout_s,
    )


def _request(questions: Sequence[Question], model: str | None, version: int | None) -> pb.RecommendRequest:
    request = pb.RecommendRequest(model=model or "", version=version or 0)
    for question in questions:
        if question.k < 1:  # 0 on the wire would mean 10
            raise ValueError(f"k must be at least 1, got {question.k}")
        user = request.users.add(k=question.k)
        if isinstance(question.user_id, str):
            user.user_key = question.user_id
        else:
            user.user_id = index(question.user_id)
        if question.exclude:
            user.exclude.CopyFrom(_ids("exclude", question.exclude))
        if question.candidates is not None:
            user.candidates.CopyFrom(_ids("candidates", question.candidates))
        if question.ratings:
            user.ratings.items.CopyFrom(_ids("ratings", question.ratings))
            user.ratings.values.extend(question.ratings.values())
    return request


def _ids(field: str, ids: Iterable[Id]) -> pb.Ids:
    given = list(ids)
    text = [one for one in given if isinstance(one, str)]
    if not text:
        return pb.Ids(numbers=[index(one) for one in given if not isinstance(one, str)])
    if len(text) < len(given):
        raise TypeError(f"{field} must hold numbers or text, not both")
    return pb.Ids(text=text)


def _read(response: pb.RecommendResponse, questions: Sequence[Question]) -> list[Recommendation]:
    return [
        Recommendation(
            model=result.model,
            version=result.version,
            arm=result.arm,
            prediction_id=result.prediction_id,
            user_id=question.user_id,
            source=pb.Source.Name(result.source).removeprefix("SOURCE_").lower(),
            items=tuple(
                RecommendedItem(row, item, title or None, score)
                for row, (item, title, score) in enumerate(
                    zip([*result.items.numbers, *result.items.text], result.titles, result.scores, strict=True)
                )
            ),
        )
        for result, question in zip(response.results, questions, strict=True)
    ]
