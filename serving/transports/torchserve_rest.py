"""TorchServe's REST API: predictions and ping as its users call them, and models as its management API lists them."""

from typing import Any

import msgspec

from driftwheel.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedMediaError,
)
from serving.access import Role
from serving.engine import LoadedVersion
from serving.service import InferCall, InferenceService
from serving.transports.forms import form_fields
from serving.transports.http import Doc, Request, Response, Route, json_response
from serving.transports.routing import Fault
from serving.transports.torchserve_codec import PREDICTION_ID_HEADER, Instances, input_of, version_of

TAG = "TorchServe's API"
PROTOCOL = "torchserve"

_EXCEPTIONS: dict[type[Exception], str] = {
    InvalidRequestError: "BadRequestException",
    NotFoundError: "ModelNotFoundException",
    UnauthenticatedError: "InvalidKeyException",
    PermissionDeniedError: "InvalidKeyException",
    TooLargeError: "TooLongFrameException",
    UnsupportedMediaError: "BadRequestException",
    OverloadedError: "ServiceUnavailableException",
    UnavailableError: "ServiceUnavailableException",
    DeadlineExceededError: "RequestTimeoutException",
}
_LONGEST_PAGE = 100


class StatusJson(msgspec.Struct):
    """``Healthy`` or ``Unhealthy``."""

    status: str


class TorchServeFaultJson(msgspec.Struct):
    """An error as TorchServe writes it."""

    code: int
    type: str
    message: str


class EnvelopeJson(msgspec.Struct):
    """Predictions for a request that came as ``{"instances": [...]}``."""

    predictions: list[float]


class ListedJson(msgspec.Struct):
    """A model and the version that answers by default, as a folder."""

    modelName: str  # noqa: N815 (TorchServe's spelling)
    modelUrl: str  # noqa: N815


class ListJson(msgspec.Struct, omit_defaults=True):
    """A page of models."""

    models: list[ListedJson]
    nextPageToken: str | None = None  # noqa: N815


class WorkerJson(msgspec.Struct):
    """What runs a version. There is one, in the server's process; its memory is not told apart."""

    id: str
    status: str
    gpu: bool
    memoryUsage: int  # noqa: N815


class QueueJson(msgspec.Struct):
    """Rows that wait, and that still may."""

    remainingCapacity: int  # noqa: N815
    pendingRequests: int  # noqa: N815


class DescribedJson(msgspec.Struct):
    """A version, as TorchServe describes it; what counts requests there counts rows here."""

    modelName: str  # noqa: N815
    modelVersion: str  # noqa: N815
    modelUrl: str  # noqa: N815
    engine: str
    runtime: str
    minWorkers: int  # noqa: N815
    maxWorkers: int  # noqa: N815
    batchSize: int  # noqa: N815
    maxBatchDelay: int  # noqa: N815
    loadedAtStartup: bool  # noqa: N815
    workers: list[WorkerJson]
    jobQueueStatus: QueueJson  # noqa: N815


def fault_body(fault: Fault) -> TorchServeFaultJson:
    """An error as TorchServe writes it."""
    kind = next((name for error, name in _EXCEPTIONS.items() if issubclass(fault.error, error)), None)
    if kind is None:
        kind = "MethodNotAllowedException" if fault.code.http == 405 else "InternalServerException"
    return TorchServeFaultJson(fault.code.http, kind, fault.message)


class TorchServeRest:
    """The handlers."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Every path of TorchServe's that is served."""
        ping = Doc(summary="Whether the server can answer", tag=TAG, answer=StatusJson, statuses=(503,))
        listing = Doc(
            summary="The models, by name",
            tag=TAG,
            answer=ListJson,
            query=(
                ("limit", f"how many at most; {_LONGEST_PAGE} unless told otherwise, and never more"),
                ("next_page_token", "where the page before ended"),
            ),
            statuses=(400,),
        )
        described = Doc(
            summary="What runs a model, or one of its versions, or `all` of them",
            tag=TAG,
            answer=list[DescribedJson],
            statuses=(503,),
        )
        return [
            *self._predicting(),
            _route("GET", "/ping", self._ping, None, ping),
            _route("GET", "/models", self._list, Role.INFER, listing),
            _route("GET", "/models/{model}", self._describe, Role.INFER, described),
            _route("GET", "/models/{model}/{version}", self._describe, Role.INFER, described),
        ]

    def _predicting(self) -> list[Route]:
        doc = Doc(
            summary="Score rows",
            tag=TAG,
            body=list[dict[str, Any]] | dict[str, Any],
            example=[{"user_id": 15, "item_id": 318}],
            answer=list[float] | EnvelopeJson,
            statuses=(429, 500, 503, 504),
            any_body="JSON under any content type (`curl -T file`), or a form with it in the field `data` (`curl -F`).",
        )
        return [
            _route(method, path, self._predict, Role.INFER, doc)
            for path in ("/predictions/{model}", "/predictions/{model}/{version}")
            for method in ("POST", "PUT")
        ]

    async def _predict(self, request: Request) -> Response:
        name, *version = request.parts
        instances = Instances.parse(input_of(form_fields(request)))
        call = InferCall(
            model=name,
            decode=instances.decode,
            protocol=PROTOCOL,
            version=request.pin(version_of(version[0]) if version else None),
            routing_key=request.routing_key(),
            deadline=request.deadline(),
            on_disconnect=request.on_disconnect,
        )
        request.taken = True
        answer = await self._service.infer(call)
        headers = [(PREDICTION_ID_HEADER, answer.prediction_id.encode())]
        return Response(instances.predictions(answer), headers=headers)

    async def _ping(self, request: Request) -> Response:
        del request
        ready = self._service.ready
        return json_response(StatusJson("Healthy" if ready else "Unhealthy"), status=200 if ready else 503)

    async def _list(self, request: Request) -> Response:
        start = request.number("next_page_token", 0)
        limit = min(request.number("limit", _LONGEST_PAGE), _LONGEST_PAGE)
        stable = sorted((served.stable for served in self._service.repository.models()), key=lambda one: one.name)
        end = start + limit
        return json_response(
            ListJson(
                models=[ListedJson(one.name, _folder(one)) for one in stable[start:end]],
                nextPageToken=str(end) if end < len(stable) else None,
            )
        )

    async def _describe(self, request: Request) -> Response:
        name, *version = request.parts
        served = self._service.repository.model(name)
        if not version:
            wanted = [served.stable]
        elif version[0] == "all":
            wanted = [served.versions[number] for number in sorted(served.versions)]
        else:
            wanted = [served.pinned(version_of(version[0]) or 0)]
        return json_response([_described(one) for one in wanted])


def _route(method: str, path: str, handler: Any, role: Role | None, doc: Doc) -> Route:
    return Route(method, path, handler, role=role, doc=doc, fault_body=fault_body)


def _folder(loaded: LoadedVersion) -> str:
    return f"{loaded.name}/{loaded.version}"


def _described(loaded: LoadedVersion) -> DescribedJson:
    limits = loaded.limits
    waiting = loaded.batcher.queued_rows
    status = "READY" if loaded.down is None else "UNLOADED"
    return DescribedJson(
        modelName=loaded.name,
        modelVersion=str(loaded.version),
        modelUrl=_folder(loaded),
        engine=loaded.backend.platform,
        runtime="python",
        minWorkers=1,
        maxWorkers=1,
        batchSize=limits.max_batch_rows,
        maxBatchDelay=round(limits.max_queue_delay_ms),
        loadedAtStartup=False,
        workers=[WorkerJson(id="1", status=status, gpu=limits.device in ("cuda", "tensorrt"), memoryUsage=0)],
        jobQueueStatus=QueueJson(max(0, limits.max_queued_rows - waiting), waiting),
    )
