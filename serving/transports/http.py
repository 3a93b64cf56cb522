"""HTTP: who may call, the answers' envelope, and errors as JSON. What each path does lies in the files beside this one."""

import asyncio
import math

import msgspec
import structlog

from driftwheel.errors import OverloadedError, PermissionDeniedError, RequestError
from serving.access import Access
from serving.codes import INTERNAL, METHOD_NOT_ALLOWED, code_of, shortened
from serving.recording import Recorder
from serving.transports.asgi import ClientGoneError, Headers, Receive, Scope, Send, UnfinishedBytes, header, read_body
from serving.transports.compression import SMALLEST_COMPRESSED, accepted_encoding, decompressed
from serving.transports.deflate import deflate
from serving.transports.routing import (
    JSON,
    Doc,
    Fault,
    FaultBody,
    Match,
    Request,
    Response,
    Route,
    Router,
    error_body,
    requested_path,
)

__all__ = ["JSON", "PROTOCOL", "Doc", "HttpTransport", "Request", "Response", "Route", "encoded", "json_response"]

_log = structlog.get_logger()

PROTOCOL = "http"


def json_response(value: object, *, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status=status)


class HttpTransport:
    """Answers HTTP requests."""

    def __init__(
        self,
        routes: list[Route],
        recorder: Recorder,
        *,
        access: Access,
        max_request_bytes: int,
        unfinished: UnfinishedBytes,
    ) -> None:
        self._unfinished = unfinished
        self._router = Router(routes)
        self._recorder = recorder
        self._access = access
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from the ASGI server."""
        try:
            response = await self._respond(scope, receive)
        except ClientGoneError:
            return
        body, encoding = encoded(response, header(scope, b"accept-encoding"))
        described = [(b"content-type", response.content_type), (b"content-length", str(len(body)).encode())]
        headers = [
            *(described if response.status != 204 else ()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *encoding,
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        request = Request((), b"", scope["headers"], scope["query_string"], receive=receive)
        fault_body: FaultBody = error_body
        try:
            _refuse_other_sites(scope)
            match = self._router.find(requested_path(scope))
            method = scope["method"]
            route = match.routes.get("GET" if method == "HEAD" else method)
            if route is None:
                return self._without_route(method, match)
            fault_body = route.fault_body
            self._access.require(route.role, request.header(b"authorization"))
            body = await read_body(scope, receive, self._max_request_bytes, self._unfinished)
            request.parts = match.parts
            request.body = decompressed(body, request.header(b"content-encoding"), self._max_request_bytes)
            return await route.handler(request)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it was, the caller gets an answer and the server goes on)
            return self._failed(error, request, fault_body, scope["path"])
        except asyncio.CancelledError:
            if request.client_left:  # nobody waits for the answer, and what ran for them was told to stop
                raise ClientGoneError from None
            raise
        finally:
            request.close()

    def _failed(self, error: Exception, request: Request, fault_body: FaultBody, path: str) -> Response:
        if isinstance(error, RequestError):
            if not request.taken:
                self._recorder.refused(code_of(error), model="unknown", protocol=PROTOCOL)
            return _error_response(error, fault_body)
        _log.exception("http.fault", path=path, exc_info=error)
        self._recorder.refused(INTERNAL, model="unknown", protocol=PROTOCOL)
        return _fault_response(Fault(INTERNAL, "the server failed on this request; its log says why"), fault_body)

    def _without_route(self, method: str, match: Match) -> Response:
        """A path that does not know the method; every path knows OPTIONS."""
        allow = [(b"allow", match.allowed.encode())]
        if method == "OPTIONS":
            return Response(b"", status=204, headers=allow)
        self._recorder.refused(METHOD_NOT_ALLOWED, model="unknown", protocol=PROTOCOL)
        fault = Fault(METHOD_NOT_ALLOWED, f"this path takes {match.allowed}, got {method[:20]}")
        return _fault_response(fault, next(iter(match.routes.values())).fault_body, allow)


def _refuse_other_sites(scope: Scope) -> None:
    """Refuse what a page of another site made a browser send: a loopback port is no secret from web pages. A link that
    somebody follows is no such thing.

    Raises:
        PermissionDeniedError: The browser says that it is so (Fetch Metadata, ``Sec-Fetch-Site``).
    """
    if header(scope, b"sec-fetch-site") not in (b"cross-site", b"same-site"):
        return
    if scope["method"] != "GET" or header(scope, b"sec-fetch-mode") != b"navigate":
        raise PermissionDeniedError("requests from pages of other sites are refused")


def encoded(response: Response, accept: bytes) -> tuple[bytes, Headers]:
    """The body as it is sent, and the headers that say how."""
    if response.encoded or len(response.body) < SMALLEST_COMPRESSED:
        return response.body, []
    vary = (b"vary", b"accept-encoding")
    if (encoding := accepted_encoding(accept)) is None:
        return response.body, [vary]
    return deflate(response.body, encoding), [vary, (b"content-encoding", encoding.encode())]


def _error_response(error: RequestError, fault_body: FaultBody) -> Response:
    headers: Headers = []
    code = code_of(error)
    if isinstance(error, OverloadedError):
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    if code.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if code.http == 415:
        headers.append((b"accept-encoding", b"gzip, deflate"))
    return _fault_response(Fault(code, shortened(error.message), type(error)), fault_body, headers)


def _fault_response(fault: Fault, fault_body: FaultBody, headers: Headers | None = None) -> Response:
    return Response(msgspec.json.encode(fault_body(fault)), status=fault.code.http, headers=headers or [])
