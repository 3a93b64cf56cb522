"""Typed JSON for people: recommend, churn and feedback."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from driftwheel.contracts import Arm
from driftwheel.errors import InvalidRequestError, TooLargeError
from serving.access import Role
from serving.codec import Columns, key_of
from serving.engine import LoadedVersion
from serving.features import Freshness, OnlineFeatures
from serving.service import Decode, InferCall, InferenceService
from serving.transports.http import PROTOCOL, Doc, Request, Response, Route, json_response
from serving.transports.json_bodies import json_of
from serving.transports.json_rows import columns_of
from serving.transports.recommend_json import RecommendAnswerJson, RecommendJson, recommend_call, recommend_json

Id = int | str

TAG = "Typed JSON"


class ChurnJson(msgspec.Struct, forbid_unknown_fields=True):
    """Ask how likely customers are to leave. A feature that is null or absent is missing; without ``customers``, the features
    of ``customer_ids`` come from the feature store, where the server has one.
    """

    customers: list[dict[str, Any]] | None = None
    customer_ids: list[Id] | None = None
    """Routes in a canary split: the first one decides for the request."""
    model: str | None = None
    version: int | None = None


class LabelJson(msgspec.Struct, forbid_unknown_fields=True):
    """What really happened: the rating that the user gave, or 1 for a customer who left and 0 for one who stayed."""

    prediction_id: str
    label: float
    row: int = 0


class FeedbackJson(msgspec.Struct, forbid_unknown_fields=True):
    """Labels in bulk: all are accepted, or none."""

    feedback: list[LabelJson]


class ChurnRowJson(msgspec.Struct, omit_defaults=True):
    """How likely one customer is to leave; ``row`` is what feedback about it names."""

    row: int
    churn_probability: float
    features: Freshness | None = None
    """How the feature store knew the customer; absent where the request brought the features."""


class ChurnAnswerJson(msgspec.Struct):
    """A probability for each customer, in the order of the request, and what answered."""

    model: str
    version: int
    arm: Arm
    prediction_id: str
    predictions: list[ChurnRowJson]


class AcceptedJson(msgspec.Struct):
    """How many labels are on disk."""

    accepted: int


RECOMMEND_DOC = Doc(
    summary="The best items for one user, or for each of many",
    tag=TAG,
    body=RecommendJson,
    example={"user_id": 15, "k": 3, "exclude": [318], "ratings": [{"item_id": 50, "rating": 5}]},
    answer=RecommendAnswerJson,
    statuses=(404, 429, 500, 503, 504),
)
CHURN_DOC = Doc(
    summary="How likely customers are to leave",
    tag=TAG,
    body=ChurnJson,
    example={
        "customers": [{"contract": "Month-to-month", "tenure": 2}],
        "customer_ids": ["A-1"],
    },
    answer=ChurnAnswerJson,
    statuses=(404, 429, 500, 503, 504),
)
FEEDBACK_DOC = Doc(
    summary="What really happened: on disk when it answers",
    tag=TAG,
    body=FeedbackJson,
    example={"feedback": [{"prediction_id": "mf.1.5f3c0d9a1b2c0", "row": 0, "label": 4.5}]},
    answer=AcceptedJson,
    statuses=(404, 503),
)


class Typed:
    """The handlers."""

    def __init__(self, service: InferenceService, features: OnlineFeatures | None = None) -> None:
        self._service = service
        self._features = features

    def routes(self) -> list[Route]:
        """Every typed path."""
        return [
            Route("POST", "/v1/recommend", self._recommend, role=Role.INFER, doc=RECOMMEND_DOC),
            Route("POST", "/v1/churn", self._churn, role=Role.INFER, doc=CHURN_DOC),
            Route("POST", "/v1/feedback", self._feedback, role=Role.FEEDBACK, doc=FEEDBACK_DOC),
        ]

    async def _recommend(self, request: Request) -> Response:
        call = recommend_call(json_of(request, RecommendJson), request, PROTOCOL)
        request.taken = True
        return json_response(recommend_json(call, await self._service.recommend(call)))

    async def _churn(self, request: Request) -> Response:
        body: ChurnJson = json_of(request, ChurnJson)
        served = self._service.model_for("churn", body.model)
        decode, freshness = await self._decoding(body, request)
        call = InferCall(
            model=served.rollout.model,
            decode=decode,
            protocol=PROTOCOL,
            version=request.pin(body.version),
            routing_key=request.routing_key() or (key_of(body.customer_ids[0]) if body.customer_ids else None),
            deadline=request.deadline(),
            on_disconnect=request.on_disconnect,
        )
        request.taken = True
        answer = await self._service.infer(call)
        version = answer.version
        probabilities = answer.values(version.output_names[0]).tolist()
        rows = [
            ChurnRowJson(row, one, state)
            for row, (one, state) in enumerate(zip(probabilities, freshness, strict=False))
        ]
        return json_response(ChurnAnswerJson(version.name, version.version, answer.arm, answer.prediction_id, rows))

    async def _decoding(self, body: ChurnJson, request: Request) -> tuple[Decode, Iterable[Freshness | None]]:
        """How the request's rows become inputs, and how the feature store knew each, None where it was not asked."""
        customers = body.customers
        if customers is not None:
            _check_ids(customers, body.customer_ids)

            def decode(loaded: LoadedVersion) -> tuple[Columns, int]:
                limit = loaded.limits.max_rows_per_request
                return columns_of(customers, loaded.signature, limit, called="customers")

            return decode, repeat(None)
        if self._features is None:
            raise InvalidRequestError("customers is missing, and this server has no feature store (features.serve)")
        fetched = await self._features.fetch(body.customer_ids or [], request.deadline())
        return fetched.decode, fetched.freshness

    async def _feedback(self, request: Request) -> Response:
        body: FeedbackJson = json_of(request, FeedbackJson)
        items = body.feedback
        max_rows = self._service.settings.max_rows_per_request
        if len(items) > max_rows:
            raise TooLargeError(f"feedback has {len(items)} labels; one request may have at most {max_rows}")
        accepted = await self._service.feedback([(item.prediction_id, item.row, item.label) for item in items])
        return json_response(AcceptedJson(accepted))


def _check_ids(customers: Sequence[object], ids: Sequence[Id] | None) -> None:
    """Refuse ids that are not one for each customer.

    Raises:
        InvalidRequestError: There are more or fewer.
    """
    if ids and len(ids) != len(customers):
        raise InvalidRequestError(
            f"customer_ids must name each of the {len(customers)} customers, or none; got {len(ids)}"
        )
