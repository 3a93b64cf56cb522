"""HTTP: routes, the answers' envelope, and errors as JSON. What each path does lies in ``oip_rest`` and ``typed``."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from driftwheel.errors import NotFoundError, OverloadedError, RequestError, UnauthenticatedError
from serving.codes import INTERNAL, METHOD_NOT_ALLOWED, code_of, shortened
from serving.recording import Recorder
from serving.transports.asgi import ClientGoneError, Headers, Receive, Scope, Send, header, read_body

_log = structlog.get_logger()

PROTOCOL = "http"
JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body has been read."""

    parts: tuple[str, ...]
    """The variable parts of the path, in order."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``body`` is sent as it is."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list[tuple[bytes, bytes]])


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, with ``{}`` for each variable part."""

    method: str
    path: str
    handler: Handler

    def match(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """The variable parts, or None where the path is another."""
        pattern = split_path(self.path)
        if len(pattern) != len(path):
            return None
        if any(want not in ("{}", have) for want, have in zip(pattern, path, strict=True)):
            return None
        return tuple(have for want, have in zip(pattern, path, strict=True) if want == "{}")


def split_path(path: str) -> tuple[str, ...]:
    """The parts of a path."""
    return tuple(part for part in path.split("/") if part)


def json_response(value: object, *, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status=status)


class HttpTransport:
    """Answers HTTP requests."""

    def __init__(self, routes: list[Route], recorder: Recorder, *, max_request_bytes: int) -> None:
        self._routes = routes
        self._fixed = {(route.method, split_path(route.path)): route for route in routes if "{}" not in route.path}
        self._recorder = recorder
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from the ASGI server."""
        try:
            response = await self._respond(scope, receive)
        except ClientGoneError:
            return
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        try:
            _refuse_other_sites(scope)
            route, parts = self._find(scope["method"], split_path(scope["path"]))
            if route is None:
                return _not_allowed(parts)
            body = await read_body(scope, receive, self._max_request_bytes)
            return await route.handler(Request(parts, body))
        except RequestError as error:
            return error_response(error)
        except ClientGoneError:
            raise
        except Exception:  # noqa: BLE001 (whatever it was, the caller gets an answer and the server goes on)
            _log.exception("http.fault", path=scope["path"])
            self._recorder.refused(INTERNAL, model="unknown", protocol=PROTOCOL)
            return json_response({"error": "the server failed on this request; its log says why"}, status=INTERNAL.http)

    def _find(self, method: str, path: tuple[str, ...]) -> tuple[Route | None, tuple[str, ...]]:
        """The route with its path's variable parts; or None with the methods that the path does know.

        Raises:
            NotFoundError: No route has such a path.
        """
        wanted = "GET" if method == "HEAD" else method
        if route := self._fixed.get((wanted, path)):
            return route, ()
        allowed: list[str] = []
        for route in self._routes:
            if (parts := route.match(path)) is not None:
                if route.method == wanted:
                    return route, parts
                allowed.append(route.method)
        if not allowed:
            raise NotFoundError(f"no such path: /{'/'.join(path)}"[:200])
        return None, tuple(allowed)


def _refuse_other_sites(scope: Scope) -> None:
    """Refuse what a page of another site made a browser send: a loopback port is no secret from web pages.

    Raises:
        UnauthenticatedError: The browser says that it is so (Fetch Metadata, ``Sec-Fetch-Site``).
    """
    if header(scope, b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise UnauthenticatedError("requests from pages of other sites are refused")


def _not_allowed(methods: tuple[str, ...]) -> Response:
    names = ", ".join(sorted(set(methods)))
    body = msgspec.json.encode({"error": f"this path takes {names}"})
    return Response(body, status=METHOD_NOT_ALLOWED.http, headers=[(b"allow", names.encode())])


def error_response(error: RequestError) -> Response:
    """An error as the protocols write it: ``{"error": message}``."""
    headers: Headers = []
    if isinstance(error, OverloadedError):
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    return Response(
        msgspec.json.encode({"error": shortened(error.message)}), status=code_of(error).http, headers=headers
    )
