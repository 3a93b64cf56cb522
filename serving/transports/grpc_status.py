"""How a gRPC answer begins and ends: its headers, its status, and what an error says."""

from typing import Any
from urllib.parse import quote

import structlog

from driftwheel.errors import OverloadedError, RequestError, UnimplementedError
from serving.codes import INTERNAL, Code, code_of, shortened
from serving.transports.asgi import Headers, Send
from serving.transports.framing import ACCEPTED_ENCODINGS

_log = structlog.get_logger()

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what grpc-message leaves as it is: printable ASCII but the percent sign

START = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
OK: Headers = [(b"grpc-status", b"0")]
OK_TRAILERS = {"type": "http.response.trailers", "headers": OK, "more_trailers": False}


def start_with(headers: Headers) -> dict[str, Any]:
    """How an answer with more headers begins."""
    return {**START, "headers": [_CONTENT_TYPE, *headers]}


def status_of(error: Exception, path: str) -> tuple[Code, Headers]:
    """What an error is to the caller: its code, and the headers or trailers that say so. A fault of ours is logged."""
    if not isinstance(error, RequestError):
        _log.error("grpc.fault", path=path, exc_info=error)
        return INTERNAL, status(INTERNAL, "the server failed on this request; its log says why")
    code = code_of(error)
    headers = status(code, error.message)
    if isinstance(error, OverloadedError):
        headers.append((b"grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000)).encode()))
    if isinstance(error, UnimplementedError):
        headers.append((b"grpc-accept-encoding", ACCEPTED_ENCODINGS))  # it may have been the message's compression
    return code, headers


def status(code: Code, message: str) -> Headers:
    """A status as headers or trailers."""
    return [
        (b"grpc-status", str(code.grpc).encode()),
        (b"grpc-message", quote(shortened(message), safe=_PLAIN).encode()),
    ]


async def send_status(send: Send, headers: Headers) -> None:
    """An answer that is a status and nothing else (gRPC's "Trailers-Only")."""
    await send({"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *headers]})
    await send({"type": "http.response.body", "body": b""})
