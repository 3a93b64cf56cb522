"""Request bodies in JSON."""

from typing import TypeVar

import msgspec

from driftwheel.errors import InvalidRequestError, UnsupportedMediaError
from serving.transports.routing import Request

T = TypeVar("T")

_READ_AS_JSON = frozenset(
    {
        "",
        "application/json",
        "application/octet-stream",  # JSON with tensors as bytes behind it
        "application/x-www-form-urlencoded",  # what `curl -d` says when it is told nothing else
        "text/plain",
    }
)


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in lower case; empty where none came."""
    return request.header(b"content-type").decode("latin-1").partition(";")[0].strip().lower()


def check_media_type(request: Request) -> None:
    """Refuse bodies that say that they are something else than JSON.

    Raises:
        UnsupportedMediaError: They do.
    """
    kind = media_type(request)
    if kind not in _READ_AS_JSON and not kind.endswith("+json"):
        raise UnsupportedMediaError(f"the body must be application/json, got content-type {kind[:80]!r}")


def json_of(request: Request, kind: type[T]) -> T:
    """The body as ``kind``. Of an object's key that came twice, the last counts.

    Raises:
        UnsupportedMediaError: It says that it is something else.
        InvalidRequestError: It is not JSON, or not of that shape; the message names the field.
    """
    check_media_type(request)
    return decode_json(request.body, kind)


def decode_json(body: bytes, kind: type[T]) -> T:
    """Parse JSON.

    Raises:
        InvalidRequestError: It is not JSON, or not of that shape; the message names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the body cannot be used: {error}") from None
