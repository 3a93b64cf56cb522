"""A front door that plays what a client does; the other tests have the real one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from driftwheel.errors import InvalidRequestError
from serving.access import Access
from serving.codes import Code
from serving.transports.asgi import UnfinishedBytes
from serving.transports.grpc import CallContext, GrpcTransport, Method


class Refusals:
    """A recorder that only hears of refusals."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def refused(self, code: Code, *, model: str, protocol: str) -> None:
        self.codes.append(code.name)


class Door:
    """A front door that plays what a client does, and keeps what it is sent."""

    def __init__(self, *chunks: bytes, ends: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for position, chunk in enumerate(chunks):
            more = not (ends and position == len(chunks) - 1)
            self._events.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    async def receive(self) -> dict[str, Any]:
        if self._events.empty() and self._ended:
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self._events.get()

    _ended = False

    def body_ended(self) -> None:
        """From now on the door only tells that the client is there, as the real one does."""
        self._ended = True

    def client_leaves(self) -> None:
        self._events.put_nowait({"type": "http.disconnect"})

    async def send(self, event: dict[str, Any]) -> None:
        self.sent.append(event)

    @property
    def status(self) -> dict[str, str]:
        headers = self.sent[-1].get("headers") or self.sent[0]["headers"]
        return {name.decode(): value.decode() for name, value in headers}

    @property
    def messages(self) -> list[bytes]:
        return [event["body"][5:] for event in self.sent if event["type"].endswith("body") and event["body"]]


class Served:
    """One method under ``/test``."""

    def __init__(self, method: Method) -> None:
        self.refusals = Refusals()
        self._method = method
        self.transport = GrpcTransport(
            self, access=Access(), recorder=self.refusals, max_request_bytes=1000, unfinished=UnfinishedBytes(10_000)
        )

    def methods(self) -> dict[str, Method]:
        return {"/test": self._method}

    async def call(self, door: Door, *headers: tuple[bytes, bytes], path: str = "/test") -> None:
        headers = ((b"content-type", b"application/grpc"), *headers)
        await self.transport({"path": path, "headers": list(headers)}, door.receive, door.send)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run to the end, and leave no task behind."""

    async def alone() -> None:
        await asyncio.wait_for(work(), 10)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(alone())


async def echo(message: bytes, ctx: CallContext) -> bytes:
    return message


async def shout(requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncIterator[bytes]:
    async for message in requests:
        if message == b"bad":
            raise InvalidRequestError("bad came")
        yield message.upper()
