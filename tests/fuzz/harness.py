"""The application without its front door: one request in, what it answered out, and what no answer may be."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftwheel.rollout import serve_stable
from driftwheel.settings import Settings, load_settings
from serving.app import Application
from tests.bundles import make_churn_bundle, make_rating_bundle
from tests.fuzz.wire import LIMIT, Wire

HTTP_STATUSES = frozenset({200, 204, 400, 401, 403, 404, 405, 413, 415, 429, 501, 503, 504})
"""Any but those that say that the server is at fault."""

GRPC_STATUSES = frozenset({0, 3, 4, 5, 7, 8, 12, 14, 16})
"""OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE,
UNAUTHENTICATED: any but UNKNOWN and INTERNAL."""


class ServerFaultError(AssertionError):
    """The server answered with a fault of its own, twice, not in order, or not at all."""


@dataclass
class Answer:
    """What was sent."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False

    @property
    def grpc_status(self) -> int:
        """From the trailers, or from the headers of an answer that has nothing else; -1 where it is in neither or both."""
        found = [part[b"grpc-status"] for part in (self.headers, self.trailers) if b"grpc-status" in part]
        return int(found[0]) if len(found) == 1 and found[0].isdigit() else -1


def small_home(folder: Path) -> Settings:
    """A home with a rating and a churn model, and tight limits."""
    limits = {"max_request_bytes": LIMIT, "max_rows_per_request": 50}
    settings = load_settings(home=folder, log_level="error", serving=limits)
    make_rating_bundle(settings.models, 1)
    make_churn_bundle(settings.models, 1)
    for name in ("mf", "churn"):
        serve_stable(settings.rollouts, name, 1, by="fuzz", now="2026-01-01T00:00:00Z")
    return settings


class InProcess:
    """A started application on an event loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._app = Application(settings)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._lifespan = self._loop.create_task(self._app({"type": "lifespan"}, self._events.get, self._said.put))
        self._tell("lifespan.startup")
        if self.ask(Wire("GET", b"/v2/health/ready", [], [b""])).status != 200:
            raise RuntimeError("no model can answer: there is nothing to test")

    def _tell(self, event: str) -> None:
        self._events.put_nowait({"type": event})
        answer = self._loop.run_until_complete(self._said.get())
        if answer["type"] != f"{event}.complete":
            raise RuntimeError(f"{event}: {answer}")

    def close(self) -> None:
        """Shut it down."""
        self._tell("lifespan.shutdown")
        self._loop.run_until_complete(self._lifespan)
        self._loop.close()

    def ask(self, wire: Wire) -> Answer:
        """Send one request, and check what comes.

        Raises:
            ServerFaultError: It is no answer, or says that the server is at fault.
        """
        answer = self._loop.run_until_complete(asyncio.wait_for(self._exchange(wire), timeout=20))
        if not wire.leaves:
            check(wire, answer)
        return answer

    async def _exchange(self, wire: Wire) -> Answer:
        answer = Answer()
        over: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        events = _request_events(wire)

        async def receive() -> dict[str, Any]:
            return events.pop(0) if events else await asyncio.shield(over)

        async def send(event: dict[str, Any]) -> None:
            _take(answer, event)

        await self._app(wire.scope, receive, send)
        over.set_result({"type": "http.disconnect"})
        await asyncio.sleep(0)
        return answer


def _request_events(wire: Wire) -> list[dict[str, Any]]:
    *early, last = wire.chunks
    events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in early]
    if wire.leaves:
        return [*events, {"type": "http.disconnect"}]
    return [*events, {"type": "http.request", "body": last, "more_body": False}]


def _take(answer: Answer, event: dict[str, Any]) -> None:
    """Add an ASGI event to an answer, in the order that ASGI allows."""
    kind = event["type"]
    if kind == "http.response.start" and not answer.status:
        answer.status, answer.headers = event["status"], dict(event["headers"])
    elif kind == "http.response.body" and answer.status and not answer.ended:
        answer.body += event.get("body", b"")
        answer.ended = not event.get("more_body", False)
    elif kind == "http.response.trailers" and answer.ended and not answer.trailers:
        answer.trailers = dict(event["headers"])
    else:
        raise ServerFaultError(f"{kind} out of order")
    for name, value in event.get("headers", ()):
        if not name or b"\r" in value or b"\n" in value or b"\0" in value:
            raise ServerFaultError(f"header {name!r} cannot be sent: {value!r}")


def check(wire: Wire, answer: Answer) -> None:
    """See that an answer is one.

    Raises:
        ServerFaultError: It is not, or says that the server is at fault.
    """
    if not answer.ended:
        raise ServerFaultError("no whole answer")
    if wire.is_grpc:
        if answer.status != 200 or answer.grpc_status not in GRPC_STATUSES:
            raise ServerFaultError(f"HTTP {answer.status}, {answer.headers}, {answer.trailers}")
        return
    if answer.status not in HTTP_STATUSES:
        raise ServerFaultError(f"HTTP {answer.status}: {answer.body[:500]!r}")
    if (
        answer.headers.get(b"content-type") == b"application/json"
        and b"content-encoding" not in answer.headers
        and answer.body
    ):
        json.loads(answer.body)
