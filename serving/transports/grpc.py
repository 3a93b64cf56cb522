"""gRPC, framed here: every Python gRPC server measured spends most of its time in its own transport, while Envoy has already
done HTTP/2 by the time we see a call. What the methods do lies in the services (``oip_service``, ``health_grpc``, ...).
"""

import asyncio
import time

from driftwheel.errors import RequestError, UnimplementedError
from serving.access import Access
from serving.recording import Recorder
from serving.transports.asgi import ClientGoneError, Headers, Receive, Scope, Send, UnfinishedBytes, rest_of_body
from serving.transports.framing import (
    PREFIX,
    PREFIX_BYTES,
    answer_encoding,
    check_size,
    deadline,
    framed_compressed,
    unframed,
)
from serving.transports.grpc_calls import PROTOCOL, CallContext, GrpcService, Method, Streaming, Unary, parsed
from serving.transports.grpc_status import OK_TRAILERS, START, send_status, start_with, status_of
from serving.transports.grpc_streams import Streams
from serving.versions import ARM_HEADER, ROUTING_KEY_HEADER, parse_pin

__all__ = ["PROTOCOL", "CallContext", "GrpcService", "GrpcTransport", "Method", "Streaming", "Unary", "parsed"]


_CONTENT_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})


class GrpcTransport:
    """Answers gRPC calls.

    Args:
        services: Whose methods are answered.
        access: Asked before a body is read.
        recorder: Counts the calls that no service has seen.
        max_request_bytes: The largest message that is read.
        unfinished: Shared by all that read requests.
    """

    def __init__(
        self,
        *services: GrpcService,
        access: Access,
        recorder: Recorder,
        max_request_bytes: int,
        unfinished: UnfinishedBytes,
    ) -> None:
        self._methods: dict[str, Method] = {path: m for service in services for path, m in service.methods().items()}
        self._access = access
        self._recorder = recorder
        self._limit = max_request_bytes
        self._longest_body = max_request_bytes + PREFIX_BYTES
        self._unfinished = unfinished
        self._streams = Streams(max_request_bytes, self._trailers_of, unfinished)

    @property
    def paths(self) -> frozenset[str]:
        """Of all methods; no HTTP route of ours has such a path."""
        return frozenset(self._methods)

    def drain(self) -> None:
        """End the streams: each answers what it has read, and then tells its client to go elsewhere."""
        self._streams.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call, from the ASGI server."""
        method = self._methods.get(scope["path"])
        headers = dict(scope["headers"])
        if not isinstance(method, Unary) or headers.get(b"content-type") not in _CONTENT_TYPES:
            await self._not_unary(method, headers, scope, receive, send)
            return
        ctx = CallContext(None, scope["headers"], receive)
        message = None
        try:
            self._access.require(method.role, headers.get(b"authorization", b""))
            event = await receive()
            body = event.get("body", b"")
            if event["type"] != "http.request" or event.get("more_body") or len(body) > self._longest_body:
                check_size(body, self._limit)
                body = await rest_of_body(event, receive, self._longest_body, self._unfinished)
            _heed(headers, ctx)
            message = unframed(body, headers, self._limit)
            answer = await method.handler(message, ctx)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 (whatever it was, the caller gets an answer and the server goes on)
            await send_status(send, self._trailers_of(error, scope["path"], count=message is None))
            return
        except asyncio.CancelledError:
            if ctx.departure is None or not ctx.departure.happened:
                raise
            return  # nobody waits for the answer, and what they waited for has been called off
        finally:
            if ctx.departure is not None:
                ctx.departure.forget()
        if body[0] and (encoding := answer_encoding(headers)):
            await send(start_with([(b"grpc-encoding", encoding), *(ctx.reply_headers or ())]))
            await send({"type": "http.response.body", "body": framed_compressed(answer, encoding)})
        else:
            await send(START if ctx.reply_headers is None else start_with(ctx.reply_headers))
            await send({"type": "http.response.body", "body": PREFIX.pack(0, len(answer)) + answer})
        await send(OK_TRAILERS)

    async def _not_unary(
        self, method: Method | None, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A stream, or what is no call of ours."""
        if headers.get(b"content-type") not in _CONTENT_TYPES:
            await _refuse_content_type(send)
            return
        try:
            if not isinstance(method, Streaming):
                raise UnimplementedError(f"no method {scope['path']}")
            self._access.require(method.role, headers.get(b"authorization", b""))
        except RequestError as error:
            await send_status(send, self._trailers_of(error, scope["path"]))
            return
        await self._streams.run(method, scope, receive, send)

    def _trailers_of(self, error: Exception, path: str, *, count: bool = True) -> Headers:
        """An error as its caller sees it.

        Args:
            count: Even though it is a RequestError: no service has seen the call, so none has counted it.
        """
        code, trailers = status_of(error, path)
        if count or not isinstance(error, RequestError):
            self._recorder.refused(code, model="unknown", protocol=PROTOCOL)
        return trailers


def _heed(headers: dict[bytes, bytes], ctx: CallContext) -> None:
    """Read what the headers ask for besides the method."""
    if timeout := headers.get(b"grpc-timeout"):
        ctx.deadline = deadline(timeout, time.monotonic())
    if arm := headers.get(ARM_HEADER):
        ctx.pin = parse_pin(arm)
    if key := headers.get(ROUTING_KEY_HEADER):
        ctx.routing_key = key


async def _refuse_content_type(send: Send) -> None:
    """gRPC-Web, JSON over gRPC and the like, in HTTP's own words: who sends them may not know gRPC's."""
    body = b'{"error":"calls must have content-type application/grpc or application/grpc+proto"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 415, "headers": headers})
    await send({"type": "http.response.body", "body": body})
