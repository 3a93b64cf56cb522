"""The Open Inference Protocol over gRPC, framed here: every Python gRPC server measured spends most of its time in its own
transport, while Envoy has already done HTTP/2 by the time we see a call.

A unary call is one frame in (a flag byte, a 4-byte big-endian length, a message), one frame out, and trailers with the
status. See gRPC's "PROTOCOL-HTTP2" document.
"""

import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

import structlog
from google.protobuf.message import DecodeError, Message

from driftwheel.contracts import InputSpec, OutputSpec
from driftwheel.errors import InvalidRequestError, OverloadedError, RequestError, TooLargeError
from serving._proto import open_inference_pb2 as pb
from serving.about import PLATFORM, PROTOCOL_EXTENSIONS, SERVER_NAME, server_version
from serving.codes import INTERNAL, UNIMPLEMENTED, Code, code_of, shortened
from serving.recording import Recorder
from serving.service import InferenceService
from serving.transports.asgi import ClientGoneError, Receive, Scope, Send, header, read_body
from serving.transports.oip_grpc import infer_call, infer_response
from serving.versions import parse_version

_log = structlog.get_logger()

PROTOCOL = "grpc"
SERVICE_PREFIX = "/inference.GRPCInferenceService/"

_FRAME = struct.Struct(">BI")
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_OK_TRAILERS = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

Method = Callable[[bytes, float | None], Awaitable[Message]]
M = TypeVar("M", bound=Message)


class GrpcTransport:
    """Answers one unary gRPC call at a time per stream."""

    def __init__(self, service: InferenceService, recorder: Recorder) -> None:
        self._service = service
        self._recorder = recorder
        self._methods: dict[str, Method] = {
            f"{SERVICE_PREFIX}ModelInfer": self._model_infer,
            f"{SERVICE_PREFIX}ModelMetadata": self._model_metadata,
            f"{SERVICE_PREFIX}ModelReady": self._model_ready,
            f"{SERVICE_PREFIX}ServerMetadata": self._server_metadata,
            f"{SERVICE_PREFIX}ServerLive": self._server_live,
            f"{SERVICE_PREFIX}ServerReady": self._server_ready,
            f"{SERVICE_PREFIX}RepositoryIndex": self._repository_index,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call, from the ASGI server."""
        try:
            method = self._methods.get(scope["path"])
            if method is None:
                self._recorder.refused(UNIMPLEMENTED, model="unknown", protocol=PROTOCOL)
                await _send_error(send, UNIMPLEMENTED, f"no method {scope['path']}")
                return
            message = await read_message(scope, receive, self._service.settings.max_request_bytes)
            answer = await method(message, deadline(header(scope, b"grpc-timeout"), time.monotonic()))
        except ClientGoneError:
            return
        except RequestError as error:
            retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else None
            await _send_error(send, code_of(error), error.message, retry_after_s=retry_after_s)
            return
        except Exception:  # noqa: BLE001 (whatever it was, the caller gets an answer and the server goes on)
            _log.exception("grpc.fault", path=scope["path"])
            self._recorder.refused(INTERNAL, model="unknown", protocol=PROTOCOL)
            await _send_error(send, INTERNAL, "the server failed on this request; its log says why")
            return
        body = answer.SerializeToString()
        await send(_START)
        await send({"type": "http.response.body", "body": _FRAME.pack(0, len(body)) + body})
        await send(_OK_TRAILERS)

    async def _model_infer(self, message: bytes, expires: float | None) -> Message:
        request = parsed(pb.ModelInferRequest, message)
        call = infer_call(request, expires, self._service.settings.max_rows_per_request)
        return infer_response(request, await self._service.infer(call))

    async def _model_metadata(self, message: bytes, expires: float | None) -> Message:
        del expires
        request = parsed(pb.ModelMetadataRequest, message)
        served = self._service.repository.model(request.name)
        loaded = served.pinned(parse_version(request.version)) if request.version else served.stable
        signature = loaded.bundle.manifest.signature
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(version) for version in sorted(served.versions)],
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in signature.inputs],
            outputs=[_tensor_metadata(spec) for spec in signature.outputs],
        )

    async def _model_ready(self, message: bytes, expires: float | None) -> Message:
        del expires
        request = parsed(pb.ModelReadyRequest, message)
        try:
            served = self._service.repository.model(request.name)
            if request.version:
                served.pinned(parse_version(request.version))
        except RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, message: bytes, expires: float | None) -> Message:
        del expires
        parsed(pb.ServerMetadataRequest, message)
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version(), extensions=PROTOCOL_EXTENSIONS)

    async def _server_live(self, message: bytes, expires: float | None) -> Message:
        del expires
        parsed(pb.ServerLiveRequest, message)
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, message: bytes, expires: float | None) -> Message:
        del expires
        parsed(pb.ServerReadyRequest, message)
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def _repository_index(self, message: bytes, expires: float | None) -> Message:
        del expires
        request = parsed(pb.RepositoryIndexRequest, message)
        entries = [
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.name, version=str(entry.version), state=entry.state, reason=entry.reason
            )
            for entry in self._service.repository.index()
            if entry.state == "READY" or not request.ready
        ]
        return pb.RepositoryIndexResponse(models=entries)


def parsed(kind: type[M], message: bytes) -> M:
    """Parse a message.

    Raises:
        InvalidRequestError: The bytes are not one.
    """
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidRequestError(f"the message is not a {kind.DESCRIPTOR.full_name}: {error}") from None


def _tensor_metadata(spec: InputSpec | OutputSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1])


async def read_message(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The one message of a unary call.

    Raises:
        InvalidRequestError: The body is not one whole frame, or is compressed in a way that we do not know.
        TooLargeError: It is over ``limit`` bytes, compressed or not.
    """
    body = await read_body(scope, receive, limit + _FRAME.size)
    if len(body) < _FRAME.size:
        raise InvalidRequestError(f"a gRPC call must hold one message, got {len(body)} bytes")
    compressed, length = _FRAME.unpack_from(body)
    if len(body) != length + _FRAME.size:
        raise InvalidRequestError(f"the gRPC frame claims {length} bytes, {len(body) - _FRAME.size} came")
    message = body[_FRAME.size :]
    return _decompressed(message, header(scope, b"grpc-encoding"), limit) if compressed else message


def _decompressed(message: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding != b"gzip":
        raise InvalidRequestError(f"messages may be compressed with gzip, got {encoding.decode('latin-1')[:40]!r}")
    inflater = zlib.decompressobj(wbits=31)
    try:
        inflated = inflater.decompress(message, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the message is not gzip: {error}") from None
    if len(inflated) > limit:
        raise TooLargeError(f"the message has more than {limit} bytes once decompressed")
    if not inflater.eof:
        raise InvalidRequestError("the gzip message is cut short")
    return inflated


def deadline(timeout: bytes, now: float) -> float | None:
    """When the caller stops waiting, from a ``grpc-timeout`` header; None where it is absent.

    Raises:
        InvalidRequestError: It is not 1 to 8 digits and a unit.
    """
    if not timeout:
        return None
    digits, unit = timeout[:-1], _UNITS_S.get(timeout[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise InvalidRequestError(
            f"grpc-timeout must be up to 8 digits and a unit, got {timeout.decode('latin-1')[:40]!r}"
        )
    return now + int(digits) * unit


async def _send_error(send: Send, code: Code, message: str, *, retry_after_s: float | None = None) -> None:
    headers = [
        (b"grpc-status", str(code.grpc).encode()),
        (b"grpc-message", quote(shortened(message), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()),
    ]
    if retry_after_s is not None:
        headers.append((b"grpc-retry-pushback-ms", str(int(retry_after_s * 1000)).encode()))
    await send(_START)
    await send({"type": "http.response.body", "body": b""})
    await send({"type": "http.response.trailers", "headers": headers, "more_trailers": False})
