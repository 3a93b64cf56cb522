"""The one table from errors to the transports' codes."""

from dataclasses import dataclass

from driftwheel.errors import (
    BundleError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelFaultError,
    NotFiniteError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnsupportedMediaError,
)


@dataclass(frozen=True, slots=True)
class Code:
    """How an outcome is called: gRPC's name (also in metrics and in the log), gRPC's number, HTTP's status."""

    name: str
    grpc: int
    http: int


_LONGEST_MESSAGE = 1000

OK_CODE = Code("OK", 0, 200)
INTERNAL = Code("INTERNAL", 13, 500)
"""What no row below names: a fault of ours."""

_CODES: dict[type[Exception], Code] = {
    InvalidRequestError: Code("INVALID_ARGUMENT", 3, 400),
    NotFoundError: Code("NOT_FOUND", 5, 404),
    UnauthenticatedError: Code("UNAUTHENTICATED", 16, 401),
    PermissionDeniedError: Code("PERMISSION_DENIED", 7, 403),
    UnsupportedMediaError: Code("INVALID_ARGUMENT", 3, 415),
    UnimplementedError: Code("UNIMPLEMENTED", 12, 501),
    TooLargeError: Code("RESOURCE_EXHAUSTED", 8, 413),
    OverloadedError: Code("RESOURCE_EXHAUSTED", 8, 429),
    DeadlineExceededError: Code("DEADLINE_EXCEEDED", 4, 504),
    UnavailableError: Code("UNAVAILABLE", 14, 503),
    ModelFaultError: INTERNAL,
    NotFiniteError: Code("NOT_FINITE", 13, 500),  # a name of its own: the canary judge aborts on the first one
    BundleError: INTERNAL,
}

UNIMPLEMENTED = Code("UNIMPLEMENTED", 12, 404)
METHOD_NOT_ALLOWED = Code("UNIMPLEMENTED", 12, 405)


def code_of(error: RequestError) -> Code:
    """The code of an error."""
    return _CODES.get(type(error), INTERNAL)


def shortened(message: str) -> str:
    """A message that fits: it may quote what the caller sent, and gRPC clients refuse trailers over 8 KiB."""
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"
