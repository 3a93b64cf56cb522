"""``/metrics``: of one process its own registry, of several their sum, whichever of them is asked."""

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from driftwheel.settings import Settings
from serving.metrics_sum import Sum, supervised
from serving.snapshots import Family, Sample, Snapshot, Supervision, WorkerFile, metrics_folder, read_all
from serving.torchserve_metrics import TorchServeMetrics

_log = structlog.get_logger()

_Result = TypeVar("_Result")

_PUBLISH_EVERY_S = 1.0
"""How old the other workers' samples are at most, and what the counters lose at most when a worker is killed."""


class MetricsPage:
    """What ``/metrics`` answers. Used from one event loop.

    Args:
        registry: This process's own metrics.
        settle: Counts what has been put off; called before the registry is read.
    """

    def __init__(self, registry: CollectorRegistry, settings: Settings, *, settle: Callable[[], None]) -> None:
        self._registry = registry
        self._settle = settle
        self._shared: _Shared | None = None
        if settings.serving.workers > 1:
            self._shared = _Shared(registry, settings, settle)
        else:
            registry.register(_Alone())
        on_torchserve = settings.serving.runs_on("torchserve")
        self._torchserve = TorchServeMetrics(settings.home / "torchserve") if on_torchserve else None

    async def start(self) -> None:
        """Let the other workers know of this one from now on, where there are others."""
        if self._shared is not None:
            await self._shared.start()

    async def close(self) -> None:
        """Leave the last counts for the others."""
        if self._shared is not None:
            await self._shared.close()
        if self._torchserve is not None:
            self._torchserve.close()

    async def content(self) -> bytes:
        """The page, in Prometheus' text format."""
        own = await self._own()
        return own if self._torchserve is None else own + await self._torchserve.content()

    async def _own(self) -> bytes:
        if self._shared is not None:
            return await self._shared.content()
        self._settle()
        return generate_latest(self._registry)


class _Alone(Collector):
    """What a server of one process says of its workers."""

    def collect(self) -> Iterable[Metric]:
        return supervised(Supervision())


class _Shared:
    """One worker's part in a sum of several."""

    def __init__(self, registry: CollectorRegistry, settings: Settings, settle: Callable[[], None]) -> None:
        self._registry = registry
        self._settle = settle
        self._folder = metrics_folder(settings, supervisor=os.getppid())
        self._file = WorkerFile(self._folder, process=os.getpid())
        # Snapshots must reach the file in the order in which they were taken: one is taken at a time, and one thread writes.
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._publisher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._with_snapshot(self._write)
        self._publisher = asyncio.create_task(self._publish_forever())

    async def close(self) -> None:
        if self._publisher is not None:
            self._publisher.cancel()
            await asyncio.gather(self._publisher, return_exceptions=True)
        await self._with_snapshot(self._write)
        self._thread.shutdown()

    async def content(self) -> bytes:
        return await self._with_snapshot(self._page)

    def _page(self, snapshot: Snapshot) -> bytes:
        # What is told here is in the file first: no later answer, of any worker, can be lower.
        self._write(snapshot)
        return generate_latest(Sum(*read_all(self._folder, {self._file.name: snapshot})))

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._file.write(snapshot)
        except OSError as error:  # a full disk must not blind those who would see it
            _log.error("metrics.not_published", folder=str(self._folder), reason=str(error))

    async def _publish_forever(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_EVERY_S)
            try:
                await self._with_snapshot(self._write)
            except Exception:  # noqa: BLE001 (one that ended would leave this worker's counts behind for good)
                _log.exception("metrics.not_published", folder=str(self._folder))

    async def _with_snapshot(self, work: Callable[[Snapshot], _Result]) -> _Result:
        """Take a snapshot here, where the counting is done, and use it over there, where a slow disk holds up nobody."""
        async with self._turn:
            self._settle()
            done: Future[_Result] = self._thread.submit(work, await snapshot_of(self._registry))
        return await asyncio.wrap_future(done)


async def snapshot_of(registry: Collector) -> Snapshot:
    """Everything that a registry holds now. Requests go on between one family and the next: all at once would take longer
    than an answer may.
    """
    families: Snapshot = []
    for metric in registry.collect():
        samples = [Sample(line.name, line.labels, (line.value,)) for line in metric.samples]
        families.append(Family(metric.name, metric.type, metric.documentation, samples))
        await asyncio.sleep(0)
    return families
