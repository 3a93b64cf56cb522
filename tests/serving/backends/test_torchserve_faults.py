"""What failed calls to TorchServe mean."""

import grpc
import pytest

from driftwheel.errors import ModelFaultError, OverloadedError, RequestError, UnavailableError
from serving.backends.torchserve_faults import Again, again, fault_of, first_line, is_unregistered, refusal

Code = grpc.StatusCode
JAVA = "org.pytorch.serve.http."


class Failed(grpc.RpcError):
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


# Codes and words are TorchServe's own, and gRPC's where nobody answered.
CASES = [
    (Code.INTERNAL, f"Worker died.\n{JAVA}InternalServerException", Again.AT_ONCE, ModelFaultError, "died of this run twice"),
    (Code.UNAVAILABLE, "failed to connect to all addresses", Again.IF_IT_ANSWERS, UnavailableError, "does not answer: failed"),
    (Code.UNAVAILABLE, "Socket closed", Again.IF_IT_ANSWERS, UnavailableError, "does not answer: Socket closed"),
    (Code.CANCELLED, "Channel closed!", Again.IF_IT_ANSWERS, UnavailableError, "does not answer: Channel closed!"),
    (Code.PERMISSION_DENIED, "Token Authorization failed", Again.IF_IT_ANSWERS, UnavailableError, "refuses our token"),
    (Code.UNAUTHENTICATED, None, Again.IF_IT_ANSWERS, UnavailableError, "refuses our token"),
    (Code.NOT_FOUND, f"Model not found: mf\n{JAVA}ModelNotFoundException", Again.NO, UnavailableError, "has no mf version 3: Model not found: mf"),
    (Code.NOT_FOUND, f"x\n{JAVA}ModelVersionNotFoundException", Again.NO, UnavailableError, "has no mf version 3: x"),
    (
        Code.INTERNAL,
        f'Model "mf" Version 3 has no worker to serve inference request.\n{JAVA}ServiceUnavailableException',
        Again.NO,
        UnavailableError,
        "has no worker that takes requests for mf version 3, or its queue is full",
    ),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Again.NO, UnavailableError, "gave no answer of mf version 3 within 1.5 s"),
    (Code.RESOURCE_EXHAUSTED, "busy\norg.pytorch.serve.X", Again.NO, OverloadedError, "has too much to do: busy"),
    (Code.RESOURCE_EXHAUSTED, "message larger than max", Again.NO, ModelFaultError, "the model failed: message larger than max"),
    (Code.UNAVAILABLE, "broken\norg.pytorch.serve.X", Again.NO, ModelFaultError, "the model failed: broken"),
    (Code.INVALID_ARGUMENT, "graph input 'user_index'\norg.pytorch.serve.X", Again.NO, ModelFaultError, "the model failed: graph input 'user_index'"),
    (Code.UNKNOWN, None, Again.NO, ModelFaultError, "the model failed"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "details", "advice", "error", "says"), CASES)
def test_what_a_failed_call_means(
    code: grpc.StatusCode, details: str | None, advice: Again, error: type[RequestError], says: str
) -> None:
    failed = Failed(code, details)
    fault = fault_of(failed, label="mf version 3", target="host:7070", timeout_s=1.5)
    assert (again(failed), type(fault)) == (advice, error)
    assert says in fault.message
    assert "org.pytorch" not in fault.message
    assert is_unregistered(failed) is ("has no mf version 3" in fault.message)
    if error is not ModelFaultError:
        assert fault.message.startswith("TorchServe at host:7070 ")


def test_messages_are_cut() -> None:
    assert first_line(Failed(Code.INTERNAL, "x" * 1000)) == "x" * 300
    assert refusal(b'{"code":' + b"x" * 1000) == '{"code":' + "x" * 292


def test_a_refusal_is_read_as_far_as_it_can_be() -> None:
    assert refusal(b'{"code":400,"type":"x","message":"no such row"}') == "no such row"
    assert refusal(b'{"code":\xff\xfe') == '{"code":\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}'
    assert refusal(b'{"code":"x","message":3}') == '{"code":"x","message":3}'
