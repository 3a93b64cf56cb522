"""What a call without an answer raises."""

from typing import Any

import grpc
import numpy as np
import pytest

from driftwheel.client import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerFaultError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.driftwheel.client.asking import LABELS, PAIR, Ask
from tests.driftwheel.client.scripted import grpc_server, http_server


class TestErrors:
    @pytest.mark.parametrize(
        ("question", "kind", "code", "says"),
        [
            (lambda c: c.infer("nope", PAIR), NotFoundError, "NOT_FOUND", "nope"),
            (lambda c: c.infer("mf", PAIR, version=9), NotFoundError, "NOT_FOUND", "9"),
            (
                lambda c: c.infer("mf", {**PAIR, "user_id": np.array([1.5])}),
                InvalidRequestError,
                "INVALID_ARGUMENT",
                "INT64",
            ),
            (lambda c: c.recommend("a"), InvalidRequestError, "INVALID_ARGUMENT", "user_id"),
            (lambda c: c.feedback([("mf", 0, 4.5)]), InvalidRequestError, "INVALID_ARGUMENT", "prediction_id"),
            (lambda c: c.recommend(1, model="nope"), NotFoundError, "NOT_FOUND", "nope"),
            (lambda c: c.feedback(LABELS * 9000), TooLargeError, "RESOURCE_EXHAUSTED", "bytes"),
            (lambda c: c.infer("mf", PAIR, timeout_s=0.0), DeadlineExceededError, "DEADLINE_EXCEEDED", ": "),
            (lambda c: c.feedback(LABELS, timeout_s=0.0), DeadlineExceededError, "DEADLINE_EXCEEDED", ": "),
        ],
    )
    def test_a_refusal_by_its_meaning(
        self, ask: Ask, target: str, question: Any, kind: type[ClientError], code: str, says: str
    ) -> None:
        with pytest.raises(kind, match=says) as raised:
            ask(target, question)
        assert raised.value.code == code

    def test_a_message_over_a_limit(self, ask: Ask, target: str) -> None:
        many = {name: np.repeat(values, 5000) for name, values in PAIR.items()}
        with pytest.raises(TooLargeError):
            ask(target, lambda client: client.infer("mf", many))
        with pytest.raises(TooLargeError):
            ask(target, lambda client: client.infer("mf", many), max_message_bytes=1024)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
            (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
            (grpc.StatusCode.INTERNAL, ServerFaultError),
            (grpc.StatusCode.ABORTED, ClientError),
        ],
    )
    def test_by_grpc_status(self, ask: Ask, status: grpc.StatusCode, kind: type[ClientError]) -> None:
        with grpc_server((status, "why", {})) as script, pytest.raises(ClientError, match="why") as raised:
            ask(script.target, lambda client: client.metadata("mf"))
        assert type(raised.value) is kind

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(401, UnauthenticatedError), (403, PermissionDeniedError), (500, ServerFaultError), (418, ClientError)],
    )
    def test_by_http_status(self, ask: Ask, status: int, kind: type[ClientError]) -> None:
        with (
            http_server((status, b'{"error": "why"}', {})) as script,
            pytest.raises(ClientError, match="why") as raised,
        ):
            ask(script.target, lambda client: client.feedback(LABELS))
        assert type(raised.value) is kind

    def test_what_is_no_answer(self, ask: Ask) -> None:
        with grpc_server(b"\xff") as script, pytest.raises(ServerFaultError, match="something else"):
            ask(script.target, lambda client: client.metadata("mf"))
        with http_server(b"<html>") as script, pytest.raises(ServerFaultError, match="something else"):
            ask(script.target, lambda client: client.feedback(LABELS))

    def test_nobody_there(self, ask: Ask) -> None:
        with http_server() as script:
            nobody = script.target
        with pytest.raises(UnavailableError):
            ask(nobody, lambda client: client.ready())
        pauses: list[float] = []
        with pytest.raises(UnavailableError) as raised:
            ask(nobody, lambda client: client.feedback(LABELS), pauses=pauses)
        assert raised.value.unprocessed
        assert len(pauses) == 3
