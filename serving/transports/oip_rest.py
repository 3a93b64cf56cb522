"""The Open Inference Protocol over REST: what runs here, whether it is ready, and infer."""

import msgspec

from driftwheel.contracts import InputSpec, OutputSpec
from driftwheel.errors import UnavailableError
from serving.about import PROTOCOL_EXTENSIONS, SERVER_NAME, server_version
from serving.access import Role
from serving.service import InferCall, InferenceService
from serving.transports.http import PROTOCOL, Doc, Request, Response, Route, json_response
from serving.transports.oip_json import InferAnswerJson, InferBody, InferJson
from serving.versions import parse_version

TAG = "Open Inference Protocol"
HEALTH_TAG = "Health and metrics"

INFER_EXAMPLE = {
    "inputs": [
        {"name": "user_id", "datatype": "INT64", "shape": [2], "data": [15, 15]},
        {"name": "item_id", "datatype": "INT64", "shape": [2], "data": [318, 296]},
    ],
    "parameters": {"timeout": 50000},
}


class ServerJson(msgspec.Struct):
    """What runs here."""

    name: str
    version: str
    extensions: list[str]


class LiveJson(msgspec.Struct):
    """The server runs."""

    live: bool


class ReadyJson(msgspec.Struct):
    """Whether a load balancer should send traffic here."""

    ready: bool


class ModelReadyJson(msgspec.Struct, omit_defaults=True):
    """Whether a model can answer."""

    name: str
    ready: bool
    error: str = ""


class TensorMetadataJson(msgspec.Struct):
    """A tensor of the public signature; -1 is any number of rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelJson(msgspec.Struct):
    """A model's signature and its loaded versions."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadataJson]
    outputs: list[TensorMetadataJson]


class OipRest:
    """The handlers."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Every path of the protocol that is served."""
        return [*self._health(), *self._metadata(), *self._inference()]

    def _health(self) -> list[Route]:
        live = Doc(summary="Whether the server runs", tag=HEALTH_TAG, answer=LiveJson)
        ready = Doc(
            summary="Whether every model that a rollout names can answer, and no drain is on",
            tag=HEALTH_TAG,
            answer=ReadyJson,
            statuses=(503,),
        )
        return [
            Route("GET", "/v2/health/live", self._live, role=None, doc=live),
            Route("GET", "/v2/health/ready", self._ready, role=None, doc=ready),
        ]

    def _metadata(self) -> list[Route]:
        server = Doc(summary="The server's name, version and extensions", tag=TAG, answer=ServerJson)
        model = Doc(summary="A model's inputs, outputs and loaded versions", tag=TAG, answer=ModelJson, statuses=(503,))
        ready = Doc(summary="Whether a model can answer", tag=TAG, answer=ModelReadyJson, statuses=(503,))
        one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route("GET", "/v2", self._server, role=Role.INFER, doc=server),
            Route("GET", one, self._model, role=Role.INFER, doc=model),
            Route("GET", versioned, self._model, role=Role.INFER, doc=model),
            Route("GET", f"{one}/ready", self._model_ready, role=None, doc=ready),
            Route("GET", f"{versioned}/ready", self._model_ready, role=None, doc=ready),
        ]

    def _inference(self) -> list[Route]:
        doc = Doc(
            summary="Score rows",
            tag=TAG,
            body=InferJson,
            answer=InferAnswerJson,
            example=INFER_EXAMPLE,
            statuses=(429, 500, 503, 504),
            binary=True,
        )
        return [
            Route("POST", "/v2/models/{model}/infer", self._infer, role=Role.INFER, doc=doc),
            Route("POST", "/v2/models/{model}/versions/{version}/infer", self._infer, role=Role.INFER, doc=doc),
        ]

    async def _server(self, request: Request) -> Response:
        del request
        return json_response(ServerJson(SERVER_NAME, server_version(), list(PROTOCOL_EXTENSIONS)))

    async def _live(self, request: Request) -> Response:
        del request
        return json_response(LiveJson(live=True))

    async def _ready(self, request: Request) -> Response:
        del request
        ready = self._service.ready
        return json_response(ReadyJson(ready), status=200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        name, *version = request.parts
        served = self._service.repository.model(name)
        loaded = served.pinned(parse_version(version[0])) if version else served.stable
        signature = loaded.signature
        return json_response(
            ModelJson(
                name=name,
                versions=[str(one) for one in sorted(served.versions)],
                platform=loaded.backend.platform,
                inputs=[_tensor(spec) for spec in signature.inputs],
                outputs=[_tensor(spec) for spec in signature.outputs],
            )
        )

    async def _model_ready(self, request: Request) -> Response:
        name, *version = request.parts
        try:
            served = self._service.repository.model(name)
            served.check_up(parse_version(version[0]) if version else None)
        except UnavailableError as error:
            return json_response(ModelReadyJson(name, ready=False, error=error.message), status=503)
        return json_response(ModelReadyJson(name, ready=True))

    async def _infer(self, request: Request) -> Response:
        name, *version = request.parts
        body = InferBody(request)
        call = InferCall(
            model=name,
            decode=body.decode,
            protocol=PROTOCOL,
            version=request.pin(parse_version(version[0]) if version else None),
            routing_key=request.routing_key(body.routing_key),
            deadline=body.deadline,
            on_disconnect=request.on_disconnect,
        )
        request.taken = True
        return body.response(await self._service.infer(call))


def _tensor(spec: InputSpec | OutputSpec) -> TensorMetadataJson:
    return TensorMetadataJson(spec.name, spec.datatype, [-1])
