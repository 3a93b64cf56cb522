"""Every error that Driftwheel raises on purpose.

::

    DriftwheelError                 one clear message, and what to do next
    ├── ConfigurationError          a setting or flag cannot be used
    │   └── AddressInUseError       another process holds the port
    ├── DataError                   a table from outside cannot be used
    ├── BundleError                 a model bundle is missing a part or is damaged
    ├── ExportError                 an exported graph disagrees with the model it came from
    ├── TrainingError               a training job ended badly
    ├── RolloutError                a rollout cannot make the step asked for
    ├── BusyError                   another process holds the lock
    └── RequestError                a call to the server cannot be answered
        ├── InvalidRequestError     the request does not fit the model's signature
        ├── NotFoundError           no such model, version or path
        ├── UnauthenticatedError    no token, or a wrong one
        ├── PermissionDeniedError   the token's role does not reach that far
        ├── UnsupportedMediaError   the request's content type or encoding is not one that is read
        ├── UnimplementedError      the protocol has such a method, this server does not
        ├── TooLargeError           the request is over a size limit
        ├── OverloadedError         the queue is full, try again later
        ├── DeadlineExceededError   the caller's deadline passed before the answer
        ├── UnavailableError        the model is loading, or the server is draining
        └── ModelFaultError         the model itself failed
            └── NotFiniteError      the model answered with something that is not a number

No transport is imported here: each transport maps these classes to its own codes in one table, and the command line
maps them to exit codes.
"""


class DriftwheelError(Exception):
    """The root of the tree. ``str(error)`` names the thing at fault, what was expected and what came.

    Args:
        message: One sentence for the person or program that caused it.
        hint: What to do next; the command line prints it on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigurationError(DriftwheelError):
    """A setting or flag cannot be used."""


class AddressInUseError(ConfigurationError):
    """Another process holds the port."""


class DataError(DriftwheelError):
    """A table from outside cannot be used."""


class BundleError(DriftwheelError):
    """A model bundle is missing a part or is damaged."""


class ExportError(DriftwheelError):
    """An exported graph disagrees with the model that it came from."""


class TrainingError(DriftwheelError):
    """A training job ended badly."""


class RolloutError(DriftwheelError):
    """A rollout cannot make the step asked for."""


class BusyError(DriftwheelError):
    """Another process holds the lock."""


class RequestError(DriftwheelError):
    """A call to the server cannot be answered."""


class InvalidRequestError(RequestError):
    """The request does not fit the model's signature."""


class NotFoundError(RequestError):
    """No such model, version or path."""


class UnauthenticatedError(RequestError):
    """No token, or a wrong one."""


class PermissionDeniedError(RequestError):
    """The token is good, but not for this; or nobody may, as no token is set."""


class UnsupportedMediaError(RequestError):
    """The request's content type or encoding is not one that is read."""


class UnimplementedError(RequestError):
    """The protocol has such a method, this server does not."""


class TooLargeError(RequestError):
    """The request is over a size limit."""


class OverloadedError(RequestError):
    """The queue is full, try again later.

    Args:
        retry_after_s: How long the caller should wait, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(RequestError):
    """The caller's deadline passed before the answer."""


class UnavailableError(RequestError):
    """The model is loading, or the server is draining."""


class ModelFaultError(RequestError):
    """The model itself failed."""


class NotFiniteError(ModelFaultError):
    """The model answered with something that is not a number."""
