"""The Open Inference Protocol over REST, with JSON tensors."""

import time
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Signature
from driftwheel.errors import InvalidRequestError, UnavailableError
from driftwheel.preprocessing import Tensors
from serving.about import PLATFORM, PROTOCOL_EXTENSIONS, SERVER_NAME, server_version
from serving.checking import (
    check_datatype,
    check_finite,
    check_input_names,
    check_output_names,
    check_same_rows,
    check_shape,
)
from serving.codec import from_list, key_of
from serving.service import Answer, InferCall, InferenceService
from serving.transports.http import PROTOCOL, Request, Response, Route, json_response
from serving.versions import parse_version


class TensorJson(msgspec.Struct):
    """An input tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class OutputJson(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class InferJson(msgspec.Struct):
    """The body of an infer request."""

    inputs: list[TensorJson]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputJson] = []


def decode_json(body: bytes, kind: type[Any]) -> Any:
    """Parse a JSON body.

    Raises:
        InvalidRequestError: It is not JSON, or not of that shape; the message names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the body cannot be used: {error}") from None


class OipRest:
    """The handlers."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """Every path of the protocol that is served."""
        return [
            Route("GET", "/v2", self._server),
            Route("GET", "/v2/health/live", self._live),
            Route("GET", "/v2/health/ready", self._ready),
            Route("GET", "/v2/models/{}", self._model),
            Route("GET", "/v2/models/{}/versions/{}", self._model),
            Route("GET", "/v2/models/{}/ready", self._model_ready),
            Route("GET", "/v2/models/{}/versions/{}/ready", self._model_ready),
            Route("POST", "/v2/models/{}/infer", self._infer),
            Route("POST", "/v2/models/{}/versions/{}/infer", self._infer),
            Route("POST", "/v2/repository/index", self._index),
        ]

    async def _server(self, request: Request) -> Response:
        del request
        return json_response({"name": SERVER_NAME, "version": server_version(), "extensions": PROTOCOL_EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        del request
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        del request
        ready = self._service.ready
        return json_response({"ready": ready}, status=200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        name, *version = request.parts
        served = self._service.repository.model(name)
        loaded = served.pinned(parse_version(version[0])) if version else served.stable
        signature = loaded.bundle.manifest.signature
        return json_response(
            {
                "name": name,
                "versions": [str(one) for one in sorted(served.versions)],
                "platform": PLATFORM,
                "inputs": [{"name": s.name, "datatype": s.datatype, "shape": [-1]} for s in signature.inputs],
                "outputs": [{"name": s.name, "datatype": s.datatype, "shape": [-1]} for s in signature.outputs],
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        name, *version = request.parts
        try:
            served = self._service.repository.model(name)
            if version:
                served.pinned(parse_version(version[0]))
        except UnavailableError as error:
            return json_response({"ready": False, "error": error.message}, status=503)
        return json_response({"ready": True, "name": name})

    async def _index(self, request: Request) -> Response:
        wanted = decode_json(request.body or b"{}", dict[str, Any])
        only_ready = wanted.get("ready") is True
        entries = [entry for entry in self._service.repository.index() if entry.state == "READY" or not only_ready]
        return json_response(
            [
                {"name": entry.name, "version": str(entry.version), "state": entry.state, "reason": entry.reason}
                for entry in entries
            ]
        )

    async def _infer(self, request: Request) -> Response:
        name, *version = request.parts
        body: InferJson = decode_json(request.body, InferJson)
        max_rows = self._service.settings.max_rows_per_request
        call = InferCall(
            model=name,
            decode=lambda signature: decode_inputs(body, signature, max_rows),
            protocol=PROTOCOL,
            version=parse_version(version[0]) if version else None,
            routing_key=_routing_key(body),
            deadline=_deadline(body, time.monotonic()),
        )
        return json_response(infer_json(body, await self._service.infer(call)))


def _routing_key(body: InferJson) -> bytes | None:
    key = body.parameters.get("routing_key")
    if key is None:
        return None
    if not isinstance(key, (str, int)) or isinstance(key, bool):
        raise InvalidRequestError(f"parameter 'routing_key' must be a string or a whole number, got {key!r}")
    return key_of(key)


def _deadline(body: InferJson, now: float) -> float | None:
    """From the ``timeout`` parameter, in microseconds as Triton has it."""
    timeout_us = body.parameters.get("timeout")
    if timeout_us is None:
        return None
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or not 0 <= timeout_us < 2**63:
        raise InvalidRequestError(f"parameter 'timeout' must be a whole number of microseconds, got {timeout_us!r}")
    return now + timeout_us / 1e6


def decode_inputs(body: InferJson, signature: Signature, max_rows: int) -> tuple[Tensors, int]:
    """Arrays ``[rows]`` by input name.

    Raises:
        InvalidRequestError: The body does not fit the signature.
        TooLargeError: It has more than ``max_rows`` rows.
    """
    by_name = {tensor.name: tensor for tensor in body.inputs}
    check_input_names(signature, [tensor.name for tensor in body.inputs])
    check_output_names(signature, [output.name for output in body.outputs])
    tensors: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        tensor = by_name[spec.name]
        check_datatype(spec, tensor.datatype)
        rows = check_shape(spec, tensor.shape, max_rows=max_rows)
        tensors[spec.name] = from_list(spec, rows, tensor.data)
        check_finite(spec, tensors[spec.name])
    return tensors, check_same_rows(tensors)


def infer_json(body: InferJson, answer: Answer) -> dict[str, Any]:
    """The body of an infer response."""
    manifest = answer.version.bundle.manifest
    wanted = [output.name for output in body.outputs] or [spec.name for spec in manifest.signature.outputs]
    return {
        "model_name": manifest.name,
        "model_version": str(manifest.version),
        "id": body.id or answer.prediction_id,
        "parameters": {"prediction_id": answer.prediction_id, "arm": answer.arm},
        "outputs": [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [answer.rows],
                "data": np.asarray(answer.outputs[name], dtype=np.float64).tolist(),
            }
            for name in wanted
        ],
    }
