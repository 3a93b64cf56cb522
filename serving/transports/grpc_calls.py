"""What a gRPC service of ours is made of: methods by path, and what each call knows of its caller."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from msgspec import Struct

from driftwheel.errors import InvalidRequestError
from serving.access import Role
from serving.codec import Raw
from serving.transports.asgi import Departure, Headers, Receive, find_header
from serving.versions import Pin

PROTOCOL = "grpc"

M = TypeVar("M", bound=Message)


class CallContext(Struct, eq=False):
    """What a handler may know of its call."""

    deadline: float | None
    """When the caller stops waiting, by ``time.monotonic``; None: never."""
    headers: Headers
    """As they came, names in lower case."""
    receive: Receive | None = None
    """The call's ASGI ``receive``, once the whole request has been read; None: nobody is seen to leave."""
    reply_headers: Headers | None = None
    """More headers for the answer, where a handler sets them."""
    pin: Pin | None = None
    """What the header ``x-driftwheel-arm`` asked for; a version that the message names goes before it."""
    routing_key: bytes | None = None
    """What the header ``x-driftwheel-routing-key`` gives the split to hash; a parameter of the message goes before it."""
    departure: Departure | None = None
    """The watch for a client that leaves, where somebody asked for it; ``forget`` it once the call is over."""

    def header(self, name: bytes) -> bytes:
        """The first header of that name (lower case), or nothing."""
        return find_header(self.headers, name)

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called on the event loop if the client leaves before it is answered. Costs nothing to those who
        do not ask; meant for calls that have to wait. In a stream whose client may still send, does nothing: whoever reads
        its requests hears of a client that left.
        """
        if self.receive is None:
            return
        if self.departure is None:
            self.departure = Departure(self.receive)
        self.departure.callbacks.append(callback)

    def request_ended(self, receive: Receive) -> None:
        """The whole request of a stream has been read: from here on ``receive`` tells of nothing but a client that left."""
        self.receive = receive


@dataclass(frozen=True, slots=True)
class Unary:
    """A method of one request and one answer."""

    handler: Callable[[Raw, CallContext], Awaitable[bytes]]
    """From the request's message to the answer's; raises RequestErrors."""
    role: Role | None
    """Who may call it; None: everybody."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method whose requests, answers, or both are many."""

    handler: Callable[[AsyncIterator[bytes], CallContext], AsyncIterator[bytes]]
    """From the requests' messages, in order, to the answers'; raises RequestErrors, which end the stream."""
    role: Role | None
    """Who may call it; None: everybody."""


Method = Unary | Streaming


class GrpcService(Protocol):
    """A service: its methods by full path (``/package.Service/Method``)."""

    def methods(self) -> Mapping[str, Method]: ...


def parsed(kind: type[M], message: Raw) -> M:
    """Parse a message.

    Raises:
        InvalidRequestError: The bytes are not one.
    """
    try:
        return kind.FromString(cast("bytes", message))  # any buffer will do, though its stubs say bytes
    except DecodeError as error:
        raise InvalidRequestError(f"the message is not a {kind.DESCRIPTOR.full_name}: {error}") from None
