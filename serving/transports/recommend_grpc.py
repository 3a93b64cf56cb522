"""Recommend over gRPC, typed: ``driftwheel.v1.Recommender``."""

from collections.abc import Mapping, Sequence

from driftwheel.errors import InvalidRequestError
from serving._proto import driftwheel_pb2 as pb
from serving.access import Role
from serving.codec import Raw
from serving.recommendation.questions import Id, Question
from serving.recommendation.recommender import Source
from serving.recommending import RecommendAnswer, RecommendCall
from serving.service import InferenceService
from serving.transports.grpc_calls import PROTOCOL, CallContext, Method, Unary, parsed

SERVICE = "driftwheel.v1.Recommender"

_DEFAULT_K = 10
_SOURCES = {
    Source.FACTORS: pb.SOURCE_FACTORS,
    Source.FOLD_IN: pb.SOURCE_FOLD_IN,
    Source.POPULARITY: pb.SOURCE_POPULARITY,
}


class RecommendGrpc:
    """The service."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {f"/{SERVICE}/Recommend": Unary(self._recommend, Role.INFER)}

    async def _recommend(self, message: Raw, ctx: CallContext) -> bytes:
        request = parsed(pb.RecommendRequest, message)
        call = RecommendCall(
            questions=[_question(user, position) for position, user in enumerate(request.users)],
            protocol=PROTOCOL,
            model=request.model or None,
            version=request.version or ctx.pin,
            routing_key=ctx.routing_key,
            deadline=ctx.deadline,
            on_disconnect=ctx.on_disconnect,
        )
        response = pb.RecommendResponse()
        for answer in await self._service.recommend(call):
            _add_result(response, answer)
        return response.SerializeToString()


def _question(user: pb.UserQuestion, position: int) -> Question:
    named = user.WhichOneof("user")
    if named is None:
        raise InvalidRequestError(f"users[{position}] must have a user_id or a user_key")
    one = user.user_id if named == "user_id" else user.user_key
    rated = user.HasField("ratings")
    return Question(
        user=one,
        k=user.k or _DEFAULT_K,
        exclude=_ids(user.exclude, position, "exclude") if user.HasField("exclude") else (),
        candidates=_ids(user.candidates, position, "candidates") if user.HasField("candidates") else None,
        rated=_ids(user.ratings.items, position, "ratings.items") if rated else (),
        ratings=list(user.ratings.values) if rated else (),
    )


def _ids(ids: pb.Ids, position: int, field: str) -> Sequence[Id]:
    if ids.numbers and ids.text:
        raise InvalidRequestError(f"users[{position}].{field} must hold numbers or text, not both")
    return list(ids.numbers or ids.text)


def _add_result(response: pb.RecommendResponse, answer: RecommendAnswer) -> None:
    recommendation, version = answer.recommendation, answer.version
    result = response.results.add(
        titles=[title or "" for title in recommendation.titles],
        scores=recommendation.scores.tolist(),
        source=_SOURCES[recommendation.source],
        model=version.name,
        version=version.version,
        arm=answer.arm,
        prediction_id=answer.prediction_id,
    )
    items = recommendation.items
    if items and isinstance(items[0], str):
        result.items.text.extend(map(str, items))
    else:
        result.items.numbers.extend(map(int, items))
