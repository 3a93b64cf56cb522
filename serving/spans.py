"""OpenTelemetry: a span for each request that continues its caller's trace, and what the core did inside it.

Names and attributes follow OpenTelemetry's semantic conventions for RPC and HTTP servers. Spans are exported by a thread
of the SDK's, in batches; where the collector is slow or gone, spans are dropped and requests go on.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from threading import Thread
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from driftwheel.errors import NotFoundError
from driftwheel.serving_settings import TracingSettings
from serving.about import server_version
from serving.recommending import RecommendAnswer, RecommendCall
from serving.service import Answer, InferCall, InferenceService
from serving.transports.asgi import Receive, Scope, Send
from serving.transports.routing import Route, Router, requested_path

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = structlog.get_logger()
_context = TraceContextTextMapPropagator()

_EXPORT_TIMEOUT_S = 3.0
"""How long the collector may take for one batch."""

_FLUSH_S = 4.0
"""How long the server waits at its end for the last spans to leave."""

_SILENCE_S = 60.0
"""How long after one complaint about the collector the next one is held back."""

_LONGEST_ATTRIBUTE = 256
"""Paths and model names are what the caller makes them."""

_PATH = "/v1/traces"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

_GRPC_FAULTS = frozenset({2, 4, 12, 13, 14, 15})
"""The codes that are the server's fault by the conventions: the others are the caller's."""

_UNIMPLEMENTED = 12


class Tracing:
    """Where spans are made and sent from. One for each server process.

    Args:
        endpoint: The collector: OTLP over HTTP, with or without ``/v1/traces``.
    """

    def __init__(self, settings: TracingSettings, endpoint: str) -> None:
        resource = Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": server_version(),
                "service.instance.id": str(os.getpid()),
            }
        )
        logging.getLogger("opentelemetry").addHandler(_Complaints())
        logging.getLogger("opentelemetry").propagate = False
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=resource,
            span_limits=SpanLimits(max_attribute_length=_LONGEST_ATTRIBUTE),
            shutdown_on_exit=False,
        )
        url = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(url if url.endswith(_PATH) else url + _PATH, timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=settings.export_interval_ms)
        )
        self._tracer = self._provider.get_tracer("driftwheel.serving", server_version())

    def grpc(self, transport: Asgi) -> Asgi:
        """A gRPC transport, with a span around each call."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            path: str = scope["path"].removeprefix("/")
            service, _, method = path.rpartition("/")
            attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
            await self._run(transport, scope, receive, send, name=path, attributes=attributes, end=_end_grpc)

        return traced

    def http(self, transport: Asgi, routes: Sequence[Route]) -> Asgi:
        """An HTTP transport of these routes, with a span around each request, called by its route."""
        router = Router(routes)

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            name = method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
            attributes = {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]}
            with contextlib.suppress(NotFoundError):
                attributes["http.route"] = next(iter(router.find(requested_path(scope)).routes.values())).path
                name = f"{method} {attributes['http.route']}"
            await self._run(transport, scope, receive, send, name=name, attributes=attributes, end=_end_http)

        return traced

    async def _run(
        self,
        transport: Asgi,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        name: str,
        attributes: dict[str, str],
        end: Callable[[Span, bytes], None],
    ) -> None:
        status = b""

        async def watched(event: dict[str, Any]) -> None:
            nonlocal status
            status = _status_in(event) or status
            await send(event)

        with self._tracer.start_as_current_span(
            name, context=_context.extract(_trace_headers(scope)), kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            with structlog.contextvars.bound_contextvars(trace_id=trace_id):
                await transport(scope, receive, watched)
            end(span, status)

    def service(self, *parts: Any) -> InferenceService:
        """The core, telling the span of the request what it did."""
        return _TracedService(self._tracer, *parts)

    async def flush(self) -> None:
        """Send what there is, as far as the collector takes it in time."""
        await self._in_time(self._provider.force_flush)

    async def stop(self) -> None:
        """Send what is left, as far as the collector takes it in time, and end."""
        await self._in_time(self._provider.shutdown)

    async def _in_time(self, work: Callable[[], object]) -> None:
        # A thread of its own that the process need not wait for: the SDK would wait up to half a minute.
        flushing = Thread(target=work, name="tracing-flush", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH_S)


class _TracedService(InferenceService):
    def __init__(self, tracer: trace.Tracer, *parts: Any) -> None:
        super().__init__(*parts)
        self._tracer = tracer

    async def infer(self, call: InferCall) -> Answer:
        span = trace.get_current_span()
        span.set_attribute("driftwheel.model", call.model)
        answer = await super().infer(call)
        if span.is_recording():
            _describe(span, call.protocol, answer)
            span.set_attribute("driftwheel.rows", answer.rows)
            self._add_stages(answer)
        return answer

    async def recommend(self, call: RecommendCall) -> list[RecommendAnswer]:
        answers = await super().recommend(call)
        span = trace.get_current_span()
        span.set_attribute("driftwheel.users", len(answers))
        if len(answers) == 1:
            _describe(span, call.protocol, answers[0])
        return answers

    def _add_stages(self, answer: Answer) -> None:
        """What the batcher measured, as spans that end about now: waiting for the run, and the run."""
        ended = time.time_ns()
        began = ended - int(answer.run_s * 1e9)
        queued = began - int(answer.queued_s * 1e9)
        self._tracer.start_span("queue", start_time=queued).end(began)
        self._tracer.start_span("compute", start_time=began).end(ended)


def _describe(span: Span, protocol: str, answer: Answer | RecommendAnswer) -> None:
    span.set_attributes(
        {
            "driftwheel.model": answer.version.name,
            "driftwheel.version": answer.version.version,
            "driftwheel.arm": str(answer.arm),
            "driftwheel.protocol": protocol,
            "driftwheel.prediction_id": answer.prediction_id,
        }
    )


def _trace_headers(scope: Scope) -> dict[str, str]:
    """The caller's trace context (W3C); a tracestate may come in parts."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        if key in (b"traceparent", b"tracestate"):
            name, text = key.decode(), value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _status_in(event: dict[str, Any]) -> bytes:
    """The status that an event bears: gRPC's in its headers, or HTTP's, or nothing."""
    for key, value in event.get("headers", ()):
        if key == b"grpc-status":
            return value
    return str(event["status"]).encode() if event["type"] == "http.response.start" else b""


def _end_grpc(span: Span, status: bytes) -> None:
    """Without a status the client has gone before there was one."""
    if not status:
        return
    code = int(status)
    span.set_attribute("rpc.grpc.status_code", code)
    if code == _UNIMPLEMENTED:  # the caller made the name up, and names must not grow without bound
        span.update_name("grpc")
    if code in _GRPC_FAULTS:
        span.set_status(StatusCode.ERROR)


def _end_http(span: Span, status: bytes) -> None:
    if not status:
        return
    code = int(status)
    span.set_attribute("http.response.status_code", code)
    if code >= 500:
        span.set_attribute("error.type", str(code))
        span.set_status(StatusCode.ERROR)


class _Complaints(logging.Handler):
    """What OpenTelemetry has to say, as events of ours; while a collector is gone, one a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_S
            _log.warning("tracing.trouble", says=record.getMessage()[:300], next_in_s=_SILENCE_S)
