"""The application inside the front door: it puts the parts together, and tells gRPC calls from HTTP requests."""

import asyncio
import gc
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.about import server_version
from serving.access import Access
from serving.console.routes import Console
from serving.features import OnlineFeatures
from serving.metrics_page import MetricsPage
from serving.prediction_log import PredictionLog
from serving.recording import Recorder
from serving.repository import ModelRepository
from serving.runtime import drain_requested, last_flush_requested, report_drained
from serving.service import InferenceService
from serving.tracing import start_tracing
from serving.transports.asgi import Receive, Scope, Send, UnfinishedBytes, header
from serving.transports.grpc import GrpcTransport
from serving.transports.grpc_services import grpc_services
from serving.transports.http import HttpTransport, Request, Response, Route
from serving.transports.oip_rest import OipRest
from serving.transports.openapi import METRICS_DOC, AboutPages
from serving.transports.torchserve_rest import TorchServeRest
from serving.transports.triton_rest import TritonRest
from serving.transports.typed import Typed

_log = structlog.get_logger()

_THREADS = 4
"""For loading bundles and for runs too long for the event loop; onnxruntime lets go of the interpreter while it runs."""


def _settle_interpreter() -> None:
    """Once everything is loaded. What is loaded stays: the collector need not look at it again, and what requests leave in
    the log's lists until the next flush is no garbage either.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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
        grpc = scope["path"] in self._grpc_paths or header(scope, b"content-type").startswith(b"application/grpc")
        transport = self._answer_grpc if grpc else self._answer_http
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
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
        settings = self._settings
        # It writes a line for each malformed form: whoever sends those could fill the disk.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        # Arrow's own allocator keeps what a flush has used; the system's is trimmed with all the rest.
        pa.set_memory_pool(pa.system_memory_pool())
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="model")
        self._log = PredictionLog(settings.prediction_log, settings.log, metrics)
        self._recorder = recorder = Recorder(
            metrics, self._log.add, sample=settings.log.sample, enabled=settings.serving.metrics
        )
        self._log.before_flush = recorder.drain
        self._repository = repository = ModelRepository(
            settings,
            metrics,
            self._executor,
            runs_of=recorder.runs_of,
            clock=time.monotonic,
            on_retired=self._log.forget,
            on_forgotten=recorder.forget,
        )
        self._tracing = start_tracing(settings)
        make_service = self._tracing.service if self._tracing else InferenceService
        self._service = make_service(repository, self._log, recorder, settings.serving)
        metrics.ready.set_function(lambda: float(self._service.ready))
        self._page = MetricsPage(registry, settings, settle=recorder.drain)
        self._features = (
            OnlineFeatures(settings.features, settings.features_folder, metrics) if settings.features.serve else None
        )
        access = Access(settings.security.token_file)
        unfinished = UnfinishedBytes(settings.security.max_unfinished_bytes)
        routes = [
            Route("GET", "/metrics", self._answer_metrics, role=None, doc=METRICS_DOC),
            *OipRest(self._service).routes(),
            *TritonRest(self._service, recorder).routes(),
            *Typed(self._service, self._features).routes(),
            *TorchServeRest(self._service).routes(),
        ]
        self._console = Console(settings, access)
        routes += [*AboutPages(routes).routes(), *self._console.routes()]
        self._grpc = GrpcTransport(
            *grpc_services(self._service, recorder, self._features),
            access=access,
            recorder=recorder,
            max_request_bytes=settings.serving.max_request_bytes,
            unfinished=unfinished,
        )
        self._http = HttpTransport(
            routes,
            recorder,
            access=access,
            max_request_bytes=settings.serving.max_request_bytes,
            unfinished=unfinished,
        )
        self._grpc_paths = self._grpc.paths  # most calls are told by it, which is cheaper than to look for their header
        self._answer_grpc = self._tracing.grpc(self._grpc) if self._tracing else self._grpc
        self._answer_http = self._tracing.http(self._http, routes) if self._tracing else self._http
        await self._log.start()
        await asyncio.gather(repository.sync(), *([self._features.open()] if self._features else ()))
        await self._page.start()
        self._tasks = [asyncio.create_task(repository.watch()), asyncio.create_task(self._watch_for_drain())]
        _settle_interpreter()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._service.close()
        if self._features:
            self._features.close()
        await self._repository.close()
        await self._log.close()
        await self._page.close()
        self._console.close()
        if self._tracing:
            await self._tracing.stop()
        self._executor.shutdown(cancel_futures=True)

    async def _watch_for_drain(self) -> None:
        """Readiness off as soon as the supervisor asks; once it says that all has been answered, flush the log and say so."""
        while not drain_requested(self._settings):
            await asyncio.sleep(self._settings.serving.poll_interval_ms / 1000)  # a file has no event to wait for
        self._service.draining = True
        self._grpc.drain()
        _log.info("server.draining", in_flight=self._in_flight)
        while self._in_flight or not last_flush_requested(self._settings):
            await asyncio.sleep(0.02)
        await self._log.flush()
        if self._tracing:
            await self._tracing.flush()
        report_drained(self._settings)

    async def _answer_metrics(self, request: Request) -> Response:
        del request
        return Response(await self._page.content(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
