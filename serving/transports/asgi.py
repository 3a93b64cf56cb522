"""What the transports share of ASGI: types, headers, and a body that cannot grow past its limit."""

from collections.abc import Awaitable, Callable
from typing import Any

from driftwheel.errors import TooLargeError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client closed its stream before the request was whole; there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of that name (lower case), or nothing."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return b""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body.

    Raises:
        TooLargeError: It is, or says that it is, over ``limit`` bytes.
        ClientGoneError: The client went away.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the request body has {int(declared)} bytes; at most {limit} are read")
    event = await receive()
    body: bytes = event.get("body", b"")
    if event["type"] == "http.request" and not event.get("more_body", False) and len(body) <= limit:
        return body
    chunks, size = [body], len(body)
    while event["type"] == "http.request" and event.get("more_body", False) and size <= limit:
        event = await receive()
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
    if event["type"] != "http.request":
        raise ClientGoneError
    if size > limit:
        raise TooLargeError(f"the request body has more than {limit} bytes")
    return b"".join(chunks)
