"""Requests, answers and routes, and from a path to its routes: one step down a tree for each part of the path."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote

from driftwheel.errors import InvalidRequestError, NotFoundError, RequestError
from serving.access import Role
from serving.codes import Code
from serving.transports.asgi import Departure, Headers, Receive, Scope, find_header
from serving.versions import ARM_HEADER, ROUTING_KEY_HEADER, Pin, parse_pin

JSON = b"application/json"
TIMEOUT_HEADER = b"x-request-timeout-ms"
LONGEST_TIMEOUT_MS = 86_400_000
LARGEST_NUMBER = 10**9
"""Of a query parameter."""


@dataclass
class Request:
    """A request whose body has been read, and decompressed."""

    parts: tuple[str, ...]
    """The variable parts of the path, in order."""
    body: bytes
    headers: Headers = field(default_factory=list[tuple[bytes, bytes]])
    query_string: bytes = b""
    taken: bool = False
    """Set by a handler that hands the request to the core, which counts its own refusals from there on."""

    receive: Receive | None = None
    """Of the ASGI call; None where nobody can leave (tests)."""
    _departure: Departure | None = field(default=None, init=False)

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called if the client leaves before it is answered. Costs nothing to those who do not ask."""
        if self.receive is None:
            return
        if self._departure is None:
            self._departure = Departure(self.receive)
        self._departure.callbacks.append(callback)

    @property
    def client_left(self) -> bool:
        """Whether somebody asked, and the client is gone."""
        return self._departure is not None and self._departure.happened

    def close(self) -> None:
        """The request is over: nobody is to be told any more."""
        if self._departure is not None:
            self._departure.forget()

    def header(self, name: bytes) -> bytes:
        """The first header of that name (lower case), or nothing."""
        return find_header(self.headers, name)

    def optional_header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case), which may be empty; None where there is none."""
        return next((value for key, value in self.headers if key == name), None)

    def pin(self, version: int | None) -> Pin | None:
        """What is to answer: the version that the path or the body names, or else what ``x-driftwheel-arm`` asks for.

        Raises:
            InvalidRequestError: The header names nothing that can be asked for.
        """
        arm = self.optional_header(ARM_HEADER)
        asked = None if arm is None else parse_pin(arm)
        return asked if version is None else version

    def routing_key(self, named: bytes | None = None) -> bytes | None:
        """What the split hashes: the key that the body names, or else that of ``x-driftwheel-routing-key``; None: the id."""
        return named if named is not None else self.header(ROUTING_KEY_HEADER) or None

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters behind the path; of those that came twice, the last.

        Raises:
            InvalidRequestError: They are too many.
        """
        try:
            return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=100))
        except ValueError:
            raise InvalidRequestError("the query may have at most 100 parameters") from None

    def number(self, name: str, default: int) -> int:
        """A query parameter that is a whole number.

        Raises:
            InvalidRequestError: It is something else.
        """
        value = self.query.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 11 and int(value) <= LARGEST_NUMBER):
            raise InvalidRequestError(f"{name} must be a whole number up to {LARGEST_NUMBER}, got {value[:40]!r}")
        return int(value)

    def deadline(self) -> float | None:
        """When the caller stops waiting by its header ``x-request-timeout-ms``, on the clock of ``time.monotonic``.

        Raises:
            InvalidRequestError: It is not a whole number of milliseconds.
        """
        value = self.optional_header(TIMEOUT_HEADER)
        if value is None:
            return None
        if not (value.isdigit() and len(value) < 12 and int(value) <= LONGEST_TIMEOUT_MS):
            raise InvalidRequestError(
                f"header x-request-timeout-ms must be a whole number of milliseconds up to {LONGEST_TIMEOUT_MS}, got "
                f"{value.decode('latin-1')[:40]!r}"
            )
        return time.monotonic() + int(value) / 1000


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; ``body`` is sent as it is, or compressed where the client likes that."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list[tuple[bytes, bytes]])
    encoded: bool = False
    """Whether ``body`` is as it is to be sent, and ``headers`` say how: large answers are compressed beside the event loop."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request was not answered."""

    code: Code
    message: str
    error: type[Exception] = RequestError


Handler = Callable[[Request], Awaitable[Response]]
FaultBody = Callable[[Fault], Any]
"""What a fault looks like as JSON; protocols differ."""


def error_body(fault: Fault) -> dict[str, str]:
    """As the Open Inference Protocol has it."""
    return {"error": fault.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Doc:
    """What the OpenAPI page says about a route. Types are msgspec structs."""

    summary: str
    tag: str
    body: Any = None
    """The type of the request's JSON body."""
    body_required: bool = True
    example: Any = None
    """A body to try."""
    answer: Any = None
    """The type of the JSON answer; None where ``media`` is not JSON."""
    media: str = JSON.decode()
    """The answer's content type."""
    statuses: Sequence[int] = ()
    """What it answers with besides 200 and the codes that follow from its role and body."""
    query: Sequence[tuple[str, str]] = ()
    """Parameters behind the path, each with what it does."""
    binary: bool = False
    """Whether tensors may come and go as bytes behind the JSON."""
    any_body: str = ""
    """Says what bodies of other content types mean, where any may come."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, with ``{name}`` for each variable part."""

    method: str
    path: str
    handler: Handler
    role: Role | None = field(kw_only=True)
    """Who may call it; None: everybody."""
    doc: Doc | None = field(default=None, kw_only=True)
    fault_body: FaultBody = field(default=error_body, kw_only=True)


@dataclass(slots=True)
class _Node:
    fixed: dict[str, "_Node"] = field(default_factory=dict[str, "_Node"])
    variable: "_Node | None" = None
    routes: dict[str, Route] = field(default_factory=dict[str, Route])

    def child(self, part: str) -> "_Node":
        if part.startswith("{"):
            self.variable = self.variable or _Node()
            return self.variable
        return self.fixed.setdefault(part, _Node())


@dataclass(frozen=True, slots=True)
class Match:
    """The routes that share a path, by method, and the path's variable parts."""

    routes: dict[str, Route]
    parts: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The methods that the path takes, as an Allow header lists them."""
        also = {"OPTIONS", *({"HEAD"} if "GET" in self.routes else ())}
        return ", ".join(sorted({*self.routes, *also}))


class Router:
    """Finds routes. A fixed part goes before a variable one (``/v2/models/stats`` before ``/v2/models/{model}``)."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for part in split_path(route.path):
                node = node.child(part)
            if route.method in node.routes:
                raise ValueError(f"two routes for {route.method} {route.path}")
            node.routes[route.method] = route

    def find(self, path: tuple[str, ...]) -> Match:
        """The routes of a path.

        Raises:
            NotFoundError: There are none.
        """
        found = _descend(self._root, path, ())
        if found is None:
            raise NotFoundError(f"no such path: /{'/'.join(path)}"[:200])
        return found


def _descend(node: _Node, path: tuple[str, ...], parts: tuple[str, ...]) -> Match | None:
    if not path:
        return Match(node.routes, parts) if node.routes else None
    head, rest = path[0], path[1:]
    if (fixed := node.fixed.get(head)) is not None and (found := _descend(fixed, rest, parts)) is not None:
        return found
    return _descend(node.variable, rest, (*parts, head)) if node.variable is not None and head else None


def split_path(path: str) -> tuple[str, ...]:
    """The parts of a path; a slash at its end means nothing."""
    stripped = path.strip("/")
    return tuple(stripped.split("/")) if stripped else ()


def requested_path(scope: Scope) -> tuple[str, ...]:
    """The parts of a request's path, percent-decoded one by one: ``%2F`` in a name does not split it."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw:
        return split_path(scope["path"])
    return tuple(unquote(part) for part in split_path(raw.decode("latin-1")))
