"""What a call of the client ends in when it has no answer.

::

    ClientError                     the server refused or failed; ``code`` is gRPC's name for why
    ├── InvalidRequestError         the request does not fit the model's signature
    ├── NotFoundError               no such model, version or method
    ├── UnauthenticatedError        no token, or a wrong one
    ├── PermissionDeniedError       a token for something else
    ├── TooLargeError               over a limit of the server's or the client's
    ├── OverloadedError             the queue is full; ``retry_after_s`` says when to come back
    ├── DeadlineExceededError       no answer in time
    ├── UnavailableError            no server there, or it is draining, or the model is loading
    └── ServerFaultError            the server or the model failed
"""

from collections.abc import Iterable
from typing import Any

import grpc

from driftwheel.errors import DriftwheelError

_PUSHBACK = "grpc-retry-pushback-ms"
_LONGEST_BODY = 500


class ClientError(DriftwheelError):
    """The server refused or failed.

    Args:
        code: gRPC's name for why, for example ``NOT_FOUND``, over HTTP too.
        message: The server's.
        retry_after_s: How long the server asks to wait, in seconds; negative: it asks not to come back.
        unprocessed: Whether the server surely did nothing of what was asked.
    """

    def __init__(
        self, code: str, message: str, *, retry_after_s: float | None = None, unprocessed: bool = False
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_s = retry_after_s
        self.unprocessed = unprocessed


class InvalidRequestError(ClientError):
    """The request does not fit the model's signature."""


class NotFoundError(ClientError):
    """No such model, version or method."""


class UnauthenticatedError(ClientError):
    """No token, or a wrong one."""


class PermissionDeniedError(ClientError):
    """A token for something else."""


class TooLargeError(ClientError):
    """Over a limit of the server's or the client's."""


class OverloadedError(ClientError):
    """The queue is full, or a rate limit is reached."""


class DeadlineExceededError(ClientError):
    """No answer in time. The server drops what has not begun by then."""


class UnavailableError(ClientError):
    """No server there, or it is draining, or the model is loading."""


class ServerFaultError(ClientError):
    """The server or the model failed, or answered with something that is no answer."""


_BY_CODE: dict[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "UNIMPLEMENTED": NotFoundError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAVAILABLE": UnavailableError,
    "INTERNAL": ServerFaultError,
    "UNKNOWN": ServerFaultError,
    "DATA_LOSS": ServerFaultError,
}

_BY_STATUS: dict[int, tuple[str, type[ClientError]]] = {
    400: ("INVALID_ARGUMENT", InvalidRequestError),
    401: ("UNAUTHENTICATED", UnauthenticatedError),
    403: ("PERMISSION_DENIED", PermissionDeniedError),
    404: ("NOT_FOUND", NotFoundError),
    405: ("UNIMPLEMENTED", NotFoundError),
    408: ("DEADLINE_EXCEEDED", DeadlineExceededError),
    413: ("RESOURCE_EXHAUSTED", TooLargeError),
    415: ("INVALID_ARGUMENT", InvalidRequestError),
    429: ("RESOURCE_EXHAUSTED", OverloadedError),
    503: ("UNAVAILABLE", UnavailableError),
    504: ("DEADLINE_EXCEEDED", DeadlineExceededError),
}


def from_rpc(error: grpc.RpcError) -> ClientError:
    """What grpcio raised (blocking or asynchronous), by its meaning."""
    # Every error that a stub raises is also a grpc.Call, which the base class does not say.
    call: Any = error
    code: str = call.code().name
    after_s = _pushback_s(call.trailing_metadata() or ())
    if code == "RESOURCE_EXHAUSTED":
        # Of one code for two meanings, only the one that time cures says when to come back.
        kind = TooLargeError if after_s is None else OverloadedError
    else:
        kind = _BY_CODE.get(code, ClientError)
    return kind(code, call.details() or "", retry_after_s=after_s)


def _pushback_s(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """The wait that the server asks for; one that is no number means, as in gRPC's own retries, not to come back."""
    for key, value in metadata:
        if key == _PUSHBACK:
            text = value if isinstance(value, str) else value.decode("latin-1")
            return int(text) / 1000 if text.removeprefix("-").isdecimal() else -1.0
    return None


def from_status(status: int, message: str, retry_after: str | None) -> ClientError:
    """An HTTP answer that is not 200, by its meaning.

    Args:
        message: The body's ``error``, or the body.
        retry_after: The header of that name; a date in it is not read.
    """
    fallback = ("INTERNAL", ServerFaultError) if status >= 500 else ("UNKNOWN", ClientError)
    code, kind = _BY_STATUS.get(status, fallback)
    after_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return kind(code, message[:_LONGEST_BODY], retry_after_s=after_s, unprocessed=status in (429, 503))
