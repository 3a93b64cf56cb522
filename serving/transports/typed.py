"""Typed JSON for people: recommend, churn and feedback."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import InputSpec, Signature
from driftwheel.errors import InvalidRequestError, TooLargeError
from driftwheel.preprocessing import Tensors
from serving.checking import check_finite
from serving.codec import from_list, key_of
from serving.service import InferCall, InferenceService, RecommendAnswer, RecommendCall
from serving.transports.http import PROTOCOL, Request, Response, Route, json_response
from serving.transports.oip_rest import decode_json

Id = int | str


class RecommendJson(msgspec.Struct, forbid_unknown_fields=True):
    """Ask for the best items for a user."""

    user_id: Id
    k: int = 10
    exclude: list[Id] = []
    model: str | None = None
    version: int | None = None


class ChurnJson(msgspec.Struct, forbid_unknown_fields=True):
    """Ask how likely customers are to leave. A feature that is null or absent is missing."""

    customers: list[dict[str, Any]]
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


class Typed:
    """The handlers."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Every typed path."""
        return [
            Route("POST", "/v1/recommend", self._recommend),
            Route("POST", "/v1/churn", self._churn),
            Route("POST", "/v1/feedback", self._feedback),
        ]

    async def _recommend(self, request: Request) -> Response:
        body: RecommendJson = decode_json(request.body, RecommendJson)
        call = RecommendCall(
            user=body.user_id,
            k=body.k,
            protocol=PROTOCOL,
            exclude=body.exclude,
            model=body.model,
            version=body.version,
        )
        return json_response(_recommend_json(body, await self._service.recommend(call)))

    async def _churn(self, request: Request) -> Response:
        body: ChurnJson = decode_json(request.body, ChurnJson)
        served = self._service.model_for("churn", body.model)
        max_rows = self._service.settings.max_rows_per_request
        call = InferCall(
            model=served.rollout.model,
            decode=lambda signature: decode_customers(body.customers, signature, max_rows),
            protocol=PROTOCOL,
            version=body.version,
            routing_key=key_of(body.customer_ids[0]) if body.customer_ids else None,
        )
        answer = await self._service.infer(call)
        (probabilities,) = answer.outputs.values()
        return json_response(
            {
                "model": answer.version.name,
                "version": answer.version.version,
                "arm": answer.arm,
                "prediction_id": answer.prediction_id,
                "predictions": [{"row": r, "churn_probability": float(p)} for r, p in enumerate(probabilities)],
            }
        )

    async def _feedback(self, request: Request) -> Response:
        body: FeedbackJson = decode_json(request.body, FeedbackJson)
        items = body.feedback
        max_rows = self._service.settings.max_rows_per_request
        if len(items) > max_rows:
            raise TooLargeError(f"feedback has {len(items)} labels; one request may have at most {max_rows}")
        accepted = await self._service.feedback([(item.prediction_id, item.row, item.label) for item in items])
        return json_response({"accepted": accepted})


def _recommend_json(body: RecommendJson, answer: RecommendAnswer) -> dict[str, Any]:
    recommendation = answer.recommendation
    ranked = zip(recommendation.items, recommendation.titles, recommendation.scores, strict=True)
    return {
        "model": answer.version.name,
        "version": answer.version.version,
        "arm": answer.arm,
        "prediction_id": answer.prediction_id,
        "user_id": body.user_id,
        "source": recommendation.source,
        "items": [
            {"row": row, "item_id": item, "title": title, "score": float(score)}
            for row, (item, title, score) in enumerate(ranked)
        ],
    }


def decode_customers(customers: list[dict[str, Any]], signature: Signature, max_rows: int) -> tuple[Tensors, int]:
    """Arrays ``[rows]`` by feature from one dictionary for each customer; what is absent is missing.

    Raises:
        InvalidRequestError: A feature is unknown or of the wrong type; the message names the customer.
        TooLargeError: There are more than ``max_rows`` customers.
    """
    if not customers:
        raise InvalidRequestError("customers must hold at least one customer")
    if len(customers) > max_rows:
        raise TooLargeError(f"customers has {len(customers)} entries; one request may have at most {max_rows}")
    names = {spec.name for spec in signature.inputs}
    for position, customer in enumerate(customers):
        if unknown := sorted(customer.keys() - names):
            raise InvalidRequestError(
                f"customers[{position}] has the unknown feature {unknown[0]!r}; the model takes {', '.join(sorted(names))}"
            )
    tensors: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        values = [customer.get(spec.name) for customer in customers]
        tensors[spec.name] = from_list(spec, len(values), _missing_ids(spec, values))
        check_finite(spec, tensors[spec.name])
    return tensors, len(customers)


def _missing_ids(spec: InputSpec, values: list[Any]) -> list[Any]:
    """A whole number has no missing value of its own; the smallest one is in no vocabulary."""
    if spec.datatype != "INT64":
        return values
    return [int(np.iinfo(np.int64).min) if value is None else value for value in values]
