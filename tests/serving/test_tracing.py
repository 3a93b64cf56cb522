"""Traces: a real server, a real collector of the protocol's own messages, and a server whose collector is gone."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from driftwheel.client import Client
from driftwheel.errors import ConfigurationError
from driftwheel.settings import load_settings
from serving import tracing
from serving._proto import open_inference_pb2 as pb
from serving.front_door import running
from serving.spans import Tracing, _Complaints
from tests.serving.conftest import Live, connected, prepared_home, rating_request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE}-{PARENT}-{flag}" for flag in ("01", "00"))
WAIT_S = 20.0


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self) -> None:
        self._arriving: Queue[tuple[Span, str]] = Queue()
        self._spans: list[Span] = []
        self.service_names: set[str] = set()

    def receive(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            (name,) = (a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            for scope in group.scope_spans:
                for span in scope.spans:
                    self._arriving.put((span, name))

    def find(self, fits: Callable[[Span], bool]) -> Span:
        """The first span that fits; waits for it."""
        while True:
            for span in self._spans:
                if fits(span):
                    return span
            try:
                span, name = self._arriving.get(timeout=WAIT_S)
            except Empty:
                raise AssertionError(f"no such span among {[span.name for span in self._spans]}") from None
            self._spans.append(span)
            self.service_names.add(name)

    def named(self, name: str) -> Span:
        return self.find(lambda span: span.name == name)

    def child(self, parent: Span, name: str) -> Span:
        return self.find(lambda span: span.name == name and span.parent_span_id == parent.span_id)

    def seen(self) -> list[Span]:
        return self._spans


@contextmanager
def collecting() -> Generator[tuple[Collector, str]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.receive(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Live, Collector]]:
    """A server that traces what its callers trace, and its collector."""
    with collecting() as (collector, endpoint):
        section = {"endpoint": endpoint, "sample": 0.0, "service_name": "models", "export_interval_ms": 50}
        settings = prepared_home(tmp_path_factory.mktemp("home"), tracing=section)
        with running(settings) as (door, address), connected(settings, door, address) as server:
            yield server, collector


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def of_trace(number: int) -> tuple[str, Callable[[Span], bool]]:
    """A traceparent of its own, and what tells its server span."""
    trace_id = f"{number:032x}"
    return f"00-{trace_id}-{PARENT}-01", lambda s: s.trace_id.hex() == trace_id and s.parent_span_id.hex() == PARENT


def test_a_grpc_call_continues_its_callers_trace(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(1)
    response = live.stub.ModelInfer(
        rating_request([15, 7], [40, 10]), metadata=[("traceparent", traceparent), ("tracestate", "vendor=x")]
    )
    span = collector.find(fits)
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    assert span.kind == Span.SpanKind.SPAN_KIND_SERVER
    assert span.trace_state == "vendor=x"
    assert attributes(span) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "driftwheel.model": "mf",
        "driftwheel.version": 1,
        "driftwheel.arm": "stable",
        "driftwheel.protocol": "grpc",
        "driftwheel.rows": 2,
        "driftwheel.prediction_id": response.parameters["prediction_id"].string_param,
    }
    assert collector.service_names == {"models"}


def test_what_the_core_did_lies_inside_the_span(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(2)
    live.stub.ModelInfer(rating_request([15], [40]), metadata=[("traceparent", traceparent)])
    span = collector.find(fits)
    queue, compute = collector.child(span, "queue"), collector.child(span, "compute")
    assert queue.trace_id == compute.trace_id == span.trace_id
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.start_time_unix_nano < compute.end_time_unix_nano <= span.end_time_unix_nano


def test_an_http_request_continues_its_callers_trace(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(3)
    body = {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": [1], "data": [value]}
            for name, value in (("user_id", 15), ("item_id", 40))
        ]
    }
    answer = live.http.post("/v2/models/mf/infer", json=body, headers={"traceparent": traceparent})
    span = collector.find(fits)
    given = attributes(span)
    assert span.name == f"POST {given['http.route']}"
    assert given["http.route"].startswith("/v2/models/{")
    assert given["url.path"] == "/v2/models/mf/infer"
    assert (given["http.request.method"], given["http.response.status_code"]) == ("POST", 200)
    assert (given["driftwheel.model"], given["driftwheel.protocol"]) == ("mf", "http")
    assert given["driftwheel.prediction_id"] == answer.json()["parameters"]["prediction_id"]
    assert collector.child(span, "compute")


def test_a_recommendation_says_what_answered(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(4)
    answer = live.http.post("/v1/recommend", json={"user_id": 15, "k": 2}, headers={"traceparent": traceparent})
    given = attributes(collector.find(fits))
    assert given["driftwheel.prediction_id"] == answer.json()["prediction_id"]
    assert (given["driftwheel.model"], given["driftwheel.version"], given["driftwheel.users"]) == ("mf", 1, 1)


def test_the_client_passes_a_trace_on(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(5)
    with Client(live.address.target, headers=lambda: {"traceparent": traceparent}) as client:
        client.infer("mf", {"user_id": np.array([15]), "item_id": np.array([40])})
    assert collector.find(fits).name == "inference.GRPCInferenceService/ModelInfer"


def test_only_the_servers_faults_are_faults(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(6)
    with pytest.raises(grpc.RpcError):
        live.stub.ModelInfer(pb.ModelInferRequest(model_name="nope"), metadata=[("traceparent", traceparent)])
    span = collector.find(fits)
    assert attributes(span)["rpc.grpc.status_code"] == 5
    assert span.status.code == Status.STATUS_CODE_UNSET
    traceparent, fits = of_trace(7)
    live.http.get("/no/such/path/" + "x" * 5000, headers={"traceparent": traceparent})
    span = collector.find(fits)
    assert len(attributes(span)["url.path"]) == 256
    assert (span.name, attributes(span)["http.response.status_code"]) == ("GET", 404)


def test_made_up_methods_make_no_names(traced: tuple[Live, Collector]) -> None:
    live, collector = traced
    traceparent, fits = of_trace(8)
    with Client(live.address.target) as client, pytest.raises(grpc.RpcError):
        client._channel.unary_unary("/made.Up/Method")(b"", metadata=[("traceparent", traceparent)])
    span = collector.find(fits)
    assert span.name == "grpc"
    assert span.status.code == Status.STATUS_CODE_ERROR
    traceparent, fits = of_trace(9)
    live.http.request("PROPFIND", "/v2", headers={"traceparent": traceparent})
    assert collector.find(fits).name.partition(" ")[0] == "_OTHER"


def test_the_callers_decision_holds(traced: tuple[Live, Collector]) -> None:
    """The server samples nothing by itself; of three calls one is traced by its caller."""
    live, collector = traced
    traceparent, fits = of_trace(10)
    live.stub.ModelInfer(rating_request([15], [40]), metadata=[("traceparent", NOT_SAMPLED)])
    live.stub.ModelInfer(rating_request([15], [40]))
    live.stub.ModelInfer(rating_request([15], [40]), metadata=[("traceparent", traceparent)])
    collector.find(fits)  # they are exported in order
    assert all(int(span.trace_id.hex(), 16) < 100 for span in collector.seen())


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-0-0-01", "ff-" + SAMPLED[3:], "x" * 5000])
def test_a_broken_trace_context_spoils_nothing(traced: tuple[Live, Collector], traceparent: str) -> None:
    live, _ = traced
    headers = {"traceparent": traceparent, "tracestate": "=,=;" * 50}
    assert live.http.get("/v2/models/mf", headers=headers).status_code == 200


def test_spans_left_at_the_end_are_sent(tmp_path: Path) -> None:
    with collecting() as (collector, endpoint):
        section = {"endpoint": f"{endpoint}/v1/traces", "export_interval_ms": 3_600_000}
        settings = prepared_home(tmp_path / "home", tracing=section)
        with running(settings) as (_, address), Client(address.target) as client:
            client.metadata("mf")
        assert collector.named("inference.GRPCInferenceService/ModelMetadata").parent_span_id == b""


def test_a_collector_that_is_gone_harms_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with collecting() as (_, endpoint):
        gone = endpoint
    settings = prepared_home(tmp_path / "home", tracing={"endpoint": gone, "export_interval_ms": 10})
    with running(settings) as (_, address), Client(address.target) as client:
        give_up = time.monotonic() + WAIT_S
        heard = ""
        while "tracing.trouble" not in heard and time.monotonic() < give_up:
            client.infer("mf", {"user_id": np.array([15]), "item_id": np.array([40])})
            heard += capfd.readouterr().err
        assert client.ready()
        assert heard.count("tracing.trouble") == 1


def test_log_lines_bear_the_trace() -> None:
    async def transport(scope: Any, receive: Any, send: Any) -> None:
        seen.update(structlog.contextvars.get_contextvars())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(event: dict[str, Any]) -> None:
        events.append(event)

    async def request() -> None:
        spans = Tracing(load_settings().tracing, "http://127.0.0.1:1")
        scope = {"method": "GET", "path": "/v2", "raw_path": b"/v2", "scheme": "http"}
        headers = [(b"traceparent", NOT_SAMPLED.encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
        await spans.http(transport, [])({**scope, "headers": headers}, None, send)  # type: ignore[arg-type]
        await spans.stop()

    seen: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    asyncio.run(request())
    assert seen == {"trace_id": TRACE}
    assert [event["status"] for event in events] == [200]
    assert structlog.contextvars.get_contextvars() == {}


def test_complaints_come_once_a_minute() -> None:
    handler = _Complaints()
    record = logging.LogRecord("opentelemetry", logging.ERROR, "", 0, "no %s", ("collector",), None)
    with capture_logs() as logs:
        handler.handle(record)
        handler.handle(record)
    assert [entry["says"] for entry in logs] == ["no collector"]


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys, serving.app, serving.entry; from serving.tracing import start_tracing\n"
        "assert start_tracing(serving.entry.settings) is None\n"
        "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(tracing={"endpoint": "http://localhost:4318"})
    tracing.check_tracing(settings)
    monkeypatch.setattr(tracing, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ConfigurationError, match=missing) as raised:
        tracing.start_tracing(settings)
    assert "driftwheel[tracing]" in str(raised.value.hint)
    tracing.check_tracing(load_settings())


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match=r"tracing\.endpoint"):
        load_settings(tracing={"endpoint": "localhost:4318"})
