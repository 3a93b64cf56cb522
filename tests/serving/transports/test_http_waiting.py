"""Clients that leave, that set deadlines and that come too many, while a model is busy."""

import contextlib
import http.client
import json
from collections.abc import Callable, Generator
from unittest import mock

import grpc
import pytest

from serving.front_door import running
from tests.serving.conftest import Live, connected, prepared_home, rating_request, scores_of
from tests.serving.transports.test_grpc_cancellation import ATTEMPTS, SLOW_USER, number, slow_graph, until
from tests.serving.transports.test_http import infer_body

pytestmark = pytest.mark.system

ROWS = infer_body([7, 15, 99], [10, 20, 30])
PREDICTIONS = [{"user_id": 7, "item_id": 10}] * 3


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server whose model can be kept busy, with a short queue."""
    limits = {"port": 0, "inline_run_us": 0, "max_queued_rows": 3, "backend": "onnx"}
    with mock.patch("tests.bundles.rating_graph", slow_graph):
        settings = prepared_home(tmp_path_factory.mktemp("home"), serving=limits)
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server


def occupy(live: Live) -> grpc.Future:
    """Let the model run for about a second; it has begun, or is done already where this machine was slow to look."""
    slow = live.stub.ModelInfer.future(rating_request([SLOW_USER], [10]), timeout=60)
    until(lambda: slow.done() or number(live, "driftwheel_requests_in_flight") >= 2)  # this question is the other one
    return slow


def in_time(attempt: Callable[[], bool]) -> None:
    """Repeat what shows something only while the model is busy, until it was busy all the while."""
    assert any(attempt() for _ in range(ATTEMPTS)), "the model was done too soon each time"


@pytest.mark.parametrize(("path", "body"), [("/v2/models/mf/infer", ROWS), ("/predictions/mf", PREDICTIONS)])
def test_a_client_that_leaves_is_not_answered(busy: Live, path: str, body: object) -> None:
    def attempt() -> bool:
        cancelled, runs = number(busy, "driftwheel_cancelled_requests_total"), number(busy, "driftwheel_run_rows_count")
        slow = occupy(busy)
        with contextlib.closing(http.client.HTTPConnection(busy.address.target, timeout=60)) as leaving:
            leaving.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            until(lambda: slow.done() or number(busy, "driftwheel_queued_rows") >= 3)
            leaving.close()
            until(lambda: slow.done() or number(busy, "driftwheel_cancelled_requests_total") > cancelled)
        was_busy = not slow.done()
        assert scores_of(slow.result()) == pytest.approx([3.3])
        assert busy.http.post(path, json=body).status_code == 200
        until(lambda: number(busy, "driftwheel_requests_in_flight") == 1)
        if was_busy:
            assert number(busy, "driftwheel_cancelled_requests_total") - cancelled == 1
            assert number(busy, "driftwheel_run_rows_count") - runs == 2
        return was_busy

    in_time(attempt)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v2/models/mf/infer", {**ROWS, "parameters": {"timeout": 50_000}}, {}),
        ("/predictions/mf", PREDICTIONS, {"x-request-timeout-ms": "50"}),
    ],
)
def test_what_expires_in_the_queue_is_not_run(busy: Live, path: str, body: object, headers: dict) -> None:
    def attempt() -> bool:
        runs = number(busy, "driftwheel_run_rows_count")
        slow = occupy(busy)
        answer = busy.http.post(path, json=body, headers=headers)
        was_busy = not slow.done()
        assert scores_of(slow.result()) == pytest.approx([3.3])
        if was_busy:
            assert answer.status_code == 504, answer.text
            assert number(busy, "driftwheel_run_rows_count") - runs == 1
        return was_busy

    in_time(attempt)


def test_too_much_at_once_is_told_when_to_come_again(busy: Live) -> None:
    def attempt() -> bool:
        slow = occupy(busy)
        waiting = busy.stub.ModelInfer.future(rating_request([7, 15, 99], [10, 20, 30]), timeout=60)
        until(lambda: slow.done() or number(busy, "driftwheel_queued_rows") >= 3)
        answers = [
            busy.http.post(path, json=body)
            for path, body in (("/v2/models/mf/infer", ROWS), ("/predictions/mf", PREDICTIONS))
        ]
        was_busy = not slow.done()
        assert len(scores_of(waiting.result())) == 3
        for answer in answers if was_busy else ():
            assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (429, True), answer.text
        return was_busy

    in_time(attempt)
