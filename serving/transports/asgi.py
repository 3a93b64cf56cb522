"""What the transports share of ASGI: types, headers, a body that cannot grow past its limit, and clients that go away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from driftwheel.errors import OverloadedError, TooLargeError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_FIRST_LOOK_S = 0.02
"""A client that leaves sooner is not noticed; calls answered sooner pay nothing for the looking."""

_LONGEST_LOOK_S = 1.0


class ClientGoneError(Exception):
    """The client closed its stream before it had its answer; there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of that name (lower case), or nothing."""
    return find_header(scope["headers"], name)


def find_header(headers: Headers, name: bytes) -> bytes:
    """The first header of that name (lower case), or nothing."""
    for key, value in headers:
        if key == name:
            return value
    return b""


class UnfinishedBytes:
    """What requests that are still arriving hold together: many clients that never finish must not take all memory.

    Args:
        most: The bound, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            OverloadedError: That would be over the bound.
        """
        if self._held + size > self._most:
            raise OverloadedError(
                f"the requests that are still arriving may hold {self._most} bytes, and that is reached"
            )
        self._held += size

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        self._held -= size


async def read_body(scope: Scope, receive: Receive, limit: int, unfinished: UnfinishedBytes) -> bytes:
    """The whole request body.

    Raises:
        TooLargeError: It is, or says that it is, over ``limit`` bytes.
        OverloadedError: All that are still arriving hold too much.
        ClientGoneError: The client went away.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the request body has {int(declared)} bytes; at most {limit} are read")
    return await rest_of_body(await receive(), receive, limit, unfinished)


async def rest_of_body(event: dict[str, Any], receive: Receive, limit: int, unfinished: UnfinishedBytes) -> bytes:
    """The whole request body, of which ``event`` brought the beginning. In a single piece it is never unfinished.

    Raises:
        TooLargeError, OverloadedError, ClientGoneError: As ``read_body``.
    """
    body: bytes = event.get("body", b"")
    if event["type"] == "http.request" and not event.get("more_body", False) and len(body) <= limit:
        return body
    chunks, held = [body], 0
    try:
        while event["type"] == "http.request" and held + len(chunks[-1]) <= limit:
            unfinished.take(len(chunks[-1]))
            held += len(chunks[-1])
            if not event.get("more_body", False):
                return b"".join(chunks)
            event = await receive()
            chunks.append(event.get("body", b""))
    finally:
        unfinished.give(held)
    if event["type"] != "http.request":
        raise ClientGoneError
    raise TooLargeError(f"the request body has more than {limit} bytes")


class Departure:
    """Looks from time to time whether the client is still there, and calls back once it has left.

    The front door has no event for that, but tells when it is asked for more of the body. Each look waits twice as long as
    the one before: how late a departure is noticed is in proportion to how long the call has waited, and thousands of
    waiting calls cost little. Only once the whole request has been read. Calls that are answered before the first look pay
    for one timer.
    """

    def __init__(self, receive: Receive) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.happened = False
        self._receive = receive
        self._over = False
        self._wait_s = _FIRST_LOOK_S
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_FIRST_LOOK_S, self._look)

    def forget(self) -> None:
        """The call is over: nobody is to be told any more."""
        self._over = True
        self._timer.cancel()

    def _look(self) -> None:
        # Never cancelled: the front door would set its result all the same, and complain. It ends with the call at the latest.
        asyncio.ensure_future(self._receive()).add_done_callback(self._seen)

    def _seen(self, event: asyncio.Future[dict[str, Any]]) -> None:
        if self._over or event.cancelled():
            return
        if event.exception() is None and event.result()["type"] != "http.disconnect":
            self._wait_s = min(2 * self._wait_s, _LONGEST_LOOK_S)
            self._timer = self._loop.call_later(self._wait_s, self._look)
            return
        self.happened = True
        for callback in self.callbacks:
            callback()
