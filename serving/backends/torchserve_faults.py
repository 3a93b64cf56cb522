"""What a failed call to TorchServe means.

TorchServe tells most of its own faults apart only by their words, and over gRPC by the Java class on the last line. A call that
never came to it, or whose connection broke, has no such line.
"""

from enum import Enum, auto

import grpc
import msgspec

from driftwheel.errors import ModelFaultError, OverloadedError, RequestError, UnavailableError

ERROR_MARK = b'{"code":'
"""How the archive's answer to a request begins that it refused. TorchServe's gRPC drops the status of single requests of a
batch; as numbers these bytes would be 7e28, which no output is."""

_UNREGISTERED = ("ModelNotFoundException", "ModelVersionNotFoundException")

Code = grpc.StatusCode


class _Refusal(msgspec.Struct):
    code: int
    message: str


def refusal(answer: bytes) -> str:
    """What the archive says to a request that it refused.

    Args:
        answer: It begins with ``ERROR_MARK``.
    """
    try:
        return msgspec.json.decode(answer, type=_Refusal).message[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return answer[:300].decode(errors="replace")


class Again(Enum):
    """What may be done about a failed call. Predictions change nothing, so asking twice is safe."""

    IF_IT_ANSWERS = auto()
    """Once more, if TorchServe still answers: the connection broke, or the token is an old one."""
    AT_ONCE = auto()
    """Once more: the worker that had it is gone."""
    NO = auto()


def again(error: grpc.RpcError) -> Again:
    """Whether a failed call may be tried a second time."""
    if _worker_died(error):
        return Again.AT_ONCE
    return Again.IF_IT_ANSWERS if _refused(error) or _broken(error) else Again.NO


def fault_of(error: grpc.RpcError, *, label: str, target: str, timeout_s: float) -> RequestError:
    """A failed call as our own error.

    Args:
        label: The version, for people: ``mf version 3``.
        target: Where TorchServe listens.
        timeout_s: How long the call was given.
    """
    where, said = f"TorchServe at {target}", first_line(error)
    if (reason := _why_unavailable(error, label, timeout_s)) is not None:
        return UnavailableError(f"{where} {reason}")
    if _worker_died(error):
        return ModelFaultError(f"the model failed: a worker of {where} died of this run twice")
    if error.code() is Code.RESOURCE_EXHAUSTED and _told_by_torchserve(error):
        return OverloadedError(f"{where} has too much to do: {said}")
    return ModelFaultError(f"the model failed: {said}")


def is_unregistered(error: grpc.RpcError) -> bool:
    """Whether TorchServe has no such version."""
    return any(name in str(error.details()) for name in _UNREGISTERED)


def first_line(error: grpc.RpcError) -> str:
    """What a failed call says, without the Java class that TorchServe puts on a second line."""
    return str(error.details()).partition("\n")[0][:300]


def _why_unavailable(error: grpc.RpcError, label: str, timeout_s: float) -> str | None:
    details, said = str(error.details()), first_line(error)
    reasons = (
        (is_unregistered(error), f"has no {label}: {said}"),
        ("has no worker" in details, f"has no worker that takes requests for {label}, or its queue is full"),
        (error.code() is Code.DEADLINE_EXCEEDED, f"gave no answer of {label} within {timeout_s:g} s"),
        (_refused(error), f"refuses our token: {said}"),
        (_broken(error), f"does not answer: {said}"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def _told_by_torchserve(error: grpc.RpcError) -> bool:
    return "org.pytorch.serve" in str(error.details())


def _worker_died(error: grpc.RpcError) -> bool:
    return "Worker died" in str(error.details())


def _refused(error: grpc.RpcError) -> bool:
    return error.code() in (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)


def _broken(error: grpc.RpcError) -> bool:
    return error.code() in (Code.UNAVAILABLE, Code.CANCELLED) and not _told_by_torchserve(error)
