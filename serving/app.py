"""The application inside the front door: it puts the parts together, and tells gRPC calls from HTTP requests."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.about import server_version
from serving.prediction_log import PredictionLog
from serving.recording import Recorder
from serving.repository import ModelRepository
from serving.runtime import drain_requested, report_drained
from serving.service import InferenceService
from serving.transports.asgi import Receive, Scope, Send, header
from serving.transports.grpc import GrpcTransport
from serving.transports.http import HttpTransport, Request, Response, Route
from serving.transports.oip_rest import OipRest
from serving.transports.typed import Typed

_log = structlog.get_logger()

_THREADS = 4
"""For loading bundles and for runs too long for the event loop; onnxruntime lets go of the interpreter while it runs."""


class Application:
    """An ASGI application, its parts made at start-up on the event loop that will use them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, from the ASGI server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        transport = self._grpc if header(scope, b"content-type").startswith(b"application/grpc") else self._http
        self._in_flight += 1
        try:
            await transport(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:  # noqa: BLE001 (the server must not start half, and its log says why)
            _log.exception("server.start_failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        metrics = ServingMetrics(registry)
        metrics.build.info({"version": server_version()})
        metrics.in_flight.set_function(lambda: self._in_flight)
        settings = self._settings
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="model")
        self._log = PredictionLog(settings.prediction_log, settings.log, metrics)
        recorder = Recorder(self._log, metrics)
        self._repository = repository = ModelRepository(settings, metrics, self._executor, clock=time.monotonic)
        self._service = InferenceService(repository, self._log, recorder, settings.serving)
        metrics.ready.set_function(lambda: float(self._service.ready))
        routes = [
            Route("GET", "/metrics", self._metrics_page(registry)),
            *OipRest(self._service).routes(),
            *Typed(self._service).routes(),
        ]
        self._grpc = GrpcTransport(self._service, recorder)
        self._http = HttpTransport(routes, recorder, max_request_bytes=settings.serving.max_request_bytes)
        await self._log.start()
        await repository.sync()
        self._tasks = [asyncio.create_task(repository.watch()), asyncio.create_task(self._watch_for_drain())]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._repository.close()
        await self._log.close()
        self._executor.shutdown(cancel_futures=True)

    async def _watch_for_drain(self) -> None:
        """Readiness off as soon as the supervisor asks; once nothing is in flight, flush the log and say so."""
        while not drain_requested(self._settings):
            await asyncio.sleep(self._settings.serving.poll_interval_ms / 1000)  # a file has no event to wait for
        self._service.draining = True
        _log.info("server.draining", in_flight=self._in_flight)
        while self._in_flight:
            await asyncio.sleep(0.02)
        await self._log.flush()
        report_drained(self._settings)

    @staticmethod
    def _metrics_page(registry: CollectorRegistry):  # noqa: ANN205 (a Handler)
        async def page(request: Request) -> Response:
            del request
            return Response(generate_latest(registry), content_type=b"text/plain; version=0.0.4; charset=utf-8")

        return page
