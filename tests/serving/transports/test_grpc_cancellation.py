"""Clients that leave while their calls wait for a busy model, over the real front door."""

import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from unittest import mock

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.front_door import running
from tests import bundles
from tests.serving.conftest import Live, connected, prepared_home, rating_request, scores_of

pytestmark = pytest.mark.system

SLOW_USER = 400
TRIPS = 400_000
"""Turns of a loop inside the graph for the slow user: about a second."""
ATTEMPTS = 10
"""How often a test begins anew when the model was done before the test had done its part, as on a machine that is busy."""


def slow_graph(users: np.ndarray, items: np.ndarray) -> bytes:
    """The rating graph, but asking for one user takes long."""
    turn = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum_in", "nothing"], ["sum_out"])],
        "turn",
        [
            bundles._value("turn_number", TensorProto.INT64, []),
            bundles._value("go", TensorProto.BOOL, []),
            bundles._value("sum_in", TensorProto.FLOAT, []),
        ],
        [bundles._value("go_on", TensorProto.BOOL, []), bundles._value("sum_out", TensorProto.FLOAT, [])],
    )
    nodes = [
        helper.make_node("Gather", ["trips", "user_index"], ["wanted"]),
        helper.make_node("ReduceMax", ["wanted"], ["turns"], keepdims=0),
        helper.make_node("Loop", ["turns", "", "nothing"], ["waited"], body=turn),
        helper.make_node("Gather", ["users", "user_index"], ["u"]),
        helper.make_node("Gather", ["items", "item_index"], ["i"]),
        helper.make_node("Add", ["u", "i"], ["sum"]),
        helper.make_node("Add", ["sum", "waited"], ["all"]),
        helper.make_node("Clip", ["all", "low", "high"], ["score"]),
    ]
    weights = {
        "users": users,
        "items": items,
        "trips": np.array([0, 0, 0, TRIPS]),
        "nothing": np.float32(0),
        "low": np.float32(0.5),
        "high": np.float32(5),
    }
    inputs = [
        bundles._value("user_index", TensorProto.INT64, ["n"]),
        bundles._value("item_index", TensorProto.INT64, ["n"]),
    ]
    return bundles._model(nodes, inputs, [bundles._value("score", TensorProto.FLOAT, ["n"])], weights)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server whose model can be kept busy; runs go to a thread, so that it hears of what happens meanwhile."""
    with mock.patch("tests.bundles.rating_graph", slow_graph):
        settings = prepared_home(
            tmp_path_factory.mktemp("home"), serving={"port": 0, "inline_run_us": 0, "backend": "onnx"}
        )
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server


def number(live: Live, metric: str) -> float:
    """The sum of a metric's samples."""
    page = live.http.get("/metrics").text
    return sum(float(value) for value in re.findall(rf"^{metric}(?:{{[^}}]*}})? ([0-9.e+]+)$", page, re.MULTILINE))


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


WaitInLine = Callable[[GRPCInferenceServiceStub], Callable[[], object]]
"""Makes a call, and returns what calls it off."""


def cancels(live: Live, wait_in_line: WaitInLine, *, rows: int = 3) -> tuple[float, float]:
    """Keep the model busy, have a call wait behind it, and call that one off; how many were cancelled, and how many ran.

    Args:
        rows: That the call brings.
    """
    for _ in range(ATTEMPTS):
        if (found := cancels_in_time(live, wait_in_line, rows)) is not None:
            return found
    raise AssertionError("no cancelled call was noticed while it still waited")


def cancels_in_time(live: Live, wait_in_line: WaitInLine, rows: int) -> tuple[float, float] | None:
    """None where the model was done too soon."""
    cancelled, runs = number(live, "driftwheel_cancelled_requests_total"), number(live, "driftwheel_run_rows_count")
    tasks = number(live, "driftwheel_event_loop_tasks")
    slow = live.stub.ModelInfer.future(rating_request([SLOW_USER], [10]), timeout=60)
    until(lambda: slow.done() or number(live, "driftwheel_requests_in_flight") >= 2)  # this question is the other one
    call_off = wait_in_line(live.stub)
    until(lambda: slow.done() or number(live, "driftwheel_queued_rows") >= rows)
    call_off()
    until(lambda: slow.done() or number(live, "driftwheel_cancelled_requests_total") > cancelled)
    in_time = not slow.done()
    assert scores_of(slow.result()) == pytest.approx([3.3])
    assert scores_of(live.stub.ModelInfer(rating_request([7], [10]), timeout=20)) == pytest.approx([3.1])
    until(lambda: number(live, "driftwheel_event_loop_tasks") <= tasks)
    cancelled = number(live, "driftwheel_cancelled_requests_total") - cancelled
    return (cancelled, number(live, "driftwheel_run_rows_count") - runs) if in_time else None


def test_a_cancelled_call_does_not_run(busy: Live) -> None:
    def wait_in_line(stub: GRPCInferenceServiceStub) -> Callable[[], object]:
        return stub.ModelInfer.future(rating_request([7, 15, 99], [10, 20, 30]), timeout=60).cancel

    assert cancels(busy, wait_in_line) == (1, 2)


def test_a_call_whose_connection_breaks_does_not_run(busy: Live) -> None:
    def wait_in_line(stub: GRPCInferenceServiceStub) -> Callable[[], object]:
        channel = grpc.insecure_channel(busy.address.target)
        calls.append(GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=60))  # or else it is dropped
        return channel.close

    request, calls = rating_request([7, 15, 99], [10, 20, 30]), []

    assert cancels(busy, wait_in_line) == (1, 2)


def test_a_cancelled_stream_runs_nothing_more(busy: Live) -> None:
    def wait_in_line(stub: GRPCInferenceServiceStub) -> Callable[[], object]:
        requests = iter([rating_request([7, 15, 99], [10, 20, 30])] * 4)

        def and_then_nothing() -> Generator[pb.ModelInferRequest]:
            yield from requests
            cancelled.wait(60)

        cancelled = threading.Event()
        stream = stub.ModelStreamInfer(and_then_nothing(), timeout=60)

        def call_off() -> None:
            stream.cancel()
            cancelled.set()

        return call_off

    assert cancels(busy, wait_in_line, rows=12) == (4, 2)


def test_an_expired_call_does_not_run(busy: Live) -> None:
    for _ in range(ATTEMPTS):
        runs = number(busy, "driftwheel_run_rows_count")
        slow = busy.stub.ModelInfer.future(rating_request([SLOW_USER], [10]), timeout=60)
        until(lambda slow=slow: slow.done() or number(busy, "driftwheel_requests_in_flight") >= 2)
        call = busy.stub.ModelInfer.future(rating_request([7, 15, 99], [10, 20, 30]), timeout=0.1)
        code, in_time = call.code(), not slow.done()  # the code is there once the call has ended
        slow.result()
        if in_time:
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert number(busy, "driftwheel_run_rows_count") - runs == 1
            return
    raise AssertionError("no call expired while the model was busy")


def test_a_drain_lets_a_stream_answer_what_it_has_read(tmp_path: Path) -> None:
    with mock.patch("tests.bundles.rating_graph", slow_graph):
        serving = {"port": 0, "inline_run_us": 0, "drain_timeout_s": 60, "backend": "onnx"}
        settings = prepared_home(tmp_path, serving=serving)
    with running(settings) as (door, address):
        channel = grpc.insecure_channel(address.target)
        with connected(settings, door, address) as live:

            def request_and_hold() -> Generator[pb.ModelInferRequest]:
                yield rating_request([SLOW_USER], [10])
                until(stream.done)

            stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(request_and_hold(), timeout=60)
            until(lambda: number(live, "driftwheel_requests_in_flight") >= 2)
    # The server has drained and ended; what it sent on the way is here.
    assert scores_of(next(stream).infer_response) == pytest.approx([3.3])
    with pytest.raises(grpc.RpcError) as ended:
        next(stream)
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in ended.value.details()
    channel.close()
