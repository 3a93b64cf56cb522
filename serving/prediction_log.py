"""The prediction log and the feedback log: bounded, off the hot path, safe against a kill.

Every flush interval, and sooner where there is much, what the recorder has gathered is made into Arrow batches, and a
thread writes them; that interval is what a kill loses at most; a power cut may take some seconds more, since nobody was
promised those rows. Feedback is acknowledged only once it is on disk; callers that arrive while the disk is busy share the
next write.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from driftwheel.contracts import Arm, Signature
from driftwheel.errors import UnavailableError
from driftwheel.log_layout import feedback_folder, predictions_folder, shadow_log
from driftwheel.predictions import FEEDBACK_SCHEMA, INPUT_PREFIX, OUTPUT_PREFIX, ROWS, request_schema
from driftwheel.serving_settings import LogSettings
from monitoring.metrics import ServingMetrics
from serving.columns import GatheredColumn, TextColumn, offsets_of
from serving.gathering import Gathered
from serving.recording import Series
from serving.segments import SegmentWriter

_log = structlog.get_logger()

_AT_ONCE = 4
"""Buffers that are written together: after a slow moment of the disk, all that waits would need as much memory again."""


_TURN_S = 1e-4
"""The event loop gets its turn before each column of texts, which are built on the log's thread: else it would wait for that
for up to the interpreter's 5 ms. To have the interpreter switch sooner costs small requests 4% of their rate."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One late label."""

    prediction_id: str
    row: int
    label: float
    model: str


@dataclass(slots=True)
class _Table:
    writer: SegmentWriter
    signature: Signature
    pending: list[tuple[Series, Gathered]] = field(default_factory=list["tuple[Series, Gathered]"])

    @property
    def has_text(self) -> bool:
        return any(spec.datatype == "BYTES" for spec in self.signature.inputs)


class PredictionLog:
    """Used from one event loop; writes on one thread of its own.

    Args:
        folder: The log's root.
        now_us: The time, in microseconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        settings: LogSettings,
        metrics: ServingMetrics,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._metrics = metrics
        self._now_us = now_us
        self.before_flush: Callable[[], None] = lambda: None
        """Called at each flush: what has been gathered is to be added now."""
        self._tables: dict[tuple[str, int, bool], _Table] = {}
        self._pending_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prediction-log")
        # Somebody waits for feedback to be on disk, and must not wait for a segment of predictions to be sealed.
        self._feedback_thread = ThreadPoolExecutor(1, thread_name_prefix="feedback-log")
        self._writing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._write: asyncio.Future[None] | None = None
        self._finish: asyncio.Future[None] | None = None
        self._closing = asyncio.Event()
        self._feedback_writer = self._writer(feedback_folder(folder), sync=True)
        self._feedback_pending: list[Feedback] = []
        self._feedback_flush: asyncio.Future[None] | None = None

    def _writer(self, folder: Path, *, sync: bool = False) -> SegmentWriter:
        settings = self._settings
        return SegmentWriter(
            folder,
            finish_bytes=settings.seal_mib * 2**20,
            finish_after_s=settings.seal_after_s,
            sync=sync,
        )

    async def start(self) -> None:
        """Flush on a schedule."""
        self._flusher = asyncio.create_task(self._flush_forever())

    async def close(self) -> None:
        """Write all that is pending and finish every segment."""
        # Asked to end and not cancelled: a cancelled flush would lose the rows that it had taken.
        self._closing.set()
        if self._flusher is not None:
            await self._flusher
        await self.flush()
        for table in self._tables.values():
            await self._guarded(_on_thread(self._thread, table.writer.finish))
        await self._guarded(_on_thread(self._feedback_thread, self._feedback_writer.finish))
        self._thread.shutdown()
        self._feedback_thread.shutdown()

    def add(self, series: Series, gathered: Gathered) -> None:
        """Take requests, to be written soon, or drop and count them when too much is pending. ``series`` gets the buffers
        back.
        """
        size = gathered.held_bytes
        if self._pending_bytes + size > self._settings.max_pending_mib * 2**20:
            self._metrics.dropped_rows.labels(series.model).inc(gathered.rows)
            series.give_back(gathered)
            return
        self._pending_bytes += size
        key = (series.model, series.version, series.arm is Arm.SHADOW)
        table = self._tables.get(key)
        if table is None:
            root = shadow_log(self._folder) if series.arm is Arm.SHADOW else self._folder
            folder = predictions_folder(root, series.model, series.version)
            table = self._tables[key] = _Table(self._writer(folder), series.signature)
        table.pending.append((series, gathered))
        if self._write is None or self._write.done():
            self._write = asyncio.ensure_future(self._write_pending())

    async def forget(self, model: str, version: int) -> None:
        """Write and finish what there is of a version that has been retired."""
        await self.flush()
        for in_shadow in (False, True):
            if (table := self._tables.pop((model, version, in_shadow), None)) is not None:
                await self._guarded(_on_thread(self._thread, table.writer.finish))

    async def accept(self, feedback: Sequence[Feedback]) -> None:
        """Return once the labels are on disk.

        Raises:
            UnavailableError: They could not be written; none was accepted.
        """
        self._feedback_pending.extend(feedback)
        if self._feedback_flush is None:
            self._feedback_flush = asyncio.ensure_future(self._flush_feedback())
        await asyncio.shield(self._feedback_flush)

    async def _flush_feedback(self) -> None:
        # One turn of the loop, so that callers who are ready now share the write.
        await asyncio.sleep(0)
        pending, self._feedback_pending = self._feedback_pending, []
        self._feedback_flush = None
        batch = _feedback_batch(pending, self._now_us())
        try:
            await _on_thread(self._feedback_thread, self._feedback_writer.append, batch)
        except Exception as error:
            _log.exception("log.feedback_failed", labels=len(pending))
            raise UnavailableError(f"the feedback could not be written ({error}); nothing was accepted") from error
        for feedback in pending:
            self._metrics.feedback.labels(feedback.model).inc()

    async def _flush_forever(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._settings.flush_interval_ms / 1000)
            # Never waits for a disk that stalls: what arrives is to be counted, and dropped when it is too much.
            self.before_flush()
            if self._finish is None or self._finish.done():
                self._finish = asyncio.ensure_future(self._finish_due())
        if self._finish is not None:
            await self._finish

    async def flush(self) -> None:
        """Write what is pending now. What cannot be written is counted as dropped; serving goes on."""
        self.before_flush()
        await self._write_pending()

    async def _write_pending(self) -> None:
        async with self._writing:
            while taken := [
                (key, table, table.pending[:_AT_ONCE]) for key, table in self._tables.items() if table.pending
            ]:
                for _, table, pending in taken:
                    del table.pending[: len(pending)]
                for (model, *_), table, pending in taken:
                    rows, held = (sum(getattr(one, name) for _, one in pending) for name in ("rows", "held_bytes"))
                    written = await self._guarded(_write(self._thread, table, pending))
                    (self._metrics.logged_rows if written else self._metrics.dropped_rows).labels(model).inc(rows)
                    self._pending_bytes -= held

    async def _finish_due(self) -> None:
        async with self._writing:  # nothing is staged in what is finished
            for table in list(self._tables.values()):
                await self._guarded(_on_thread(self._thread, table.writer.finish_if_due))
        await self._guarded(_on_thread(self._feedback_thread, self._feedback_writer.finish_if_due))

    @staticmethod
    async def _guarded(work: Awaitable[None]) -> bool:
        """Whether the work was done. A full disk, or whatever else it was, must not end the log."""
        try:
            await work
        except Exception:  # noqa: BLE001 (see above; it is logged and counted)
            _log.exception("log.write_failed")
            return False
        return True


async def _on_thread(thread: Executor, work: Callable[..., None], *arguments: Any) -> None:
    await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)


async def _write(thread: Executor, table: _Table, pending: Sequence[tuple[Series, Gathered]]) -> None:
    """Write requests, and give their buffers back.

    Batches of numbers are built here, on the event loop, and the thread does nothing but wait for the disk. One that builds
    them asks for the interpreter's lock some fifteen times, and takes it from the loop each time. Texts take long to build,
    and the loop gets its turns between their columns.
    """
    try:
        staged = not table.has_text and table.writer.stage(*_batches(table, pending))
        if not staged:
            await _on_thread(thread, _append, table, pending)
    finally:
        for series, gathered in pending:
            series.give_back(gathered)
    if staged:
        await _on_thread(thread, table.writer.write_staged)


def _append(table: _Table, pending: Sequence[tuple[Series, Gathered]]) -> None:
    table.writer.append(*_batches(table, pending))


def _batches(table: _Table, pending: Sequence[tuple[Series, Gathered]]) -> list[pa.RecordBatch]:
    return [request_batch(table.signature, series, gathered) for series, gathered in pending]


def request_batch(signature: Signature, series: Series, gathered: Gathered) -> pa.RecordBatch:
    """One row for each request, the columns of ``request_schema``, integers in lists as narrow as they fit.

    Shares the memory of ``gathered``, which takes no more requests until it is emptied: to be written before that.
    """
    schema = request_schema(signature)
    count = len(gathered)
    at_us, total_s, _, rows = gathered.facts().T
    columns: dict[str, pa.Array] = {
        "prediction_id": pa.StringArray.from_buffers(
            count, pa.py_buffer(offsets_of(gathered.ids.sizes())), pa.py_buffer(gathered.ids.content())
        ),
        "at": pa.array(at_us.astype(np.int64), schema.field("at").type),
        "arm": pa.repeat(pa.scalar(str(series.arm), pa.string()), count),
        "kind": pa.repeat(pa.scalar(series.kind, pa.string()), count),
        "code": pa.repeat(pa.scalar(series.code, pa.string()), count),
        "latency_us": pa.array((total_s * 1e6).astype(np.int32)),
        ROWS: pa.array(rows.astype(np.int32)),
    }
    for prefix, group in ((INPUT_PREFIX, gathered.inputs), (OUTPUT_PREFIX, gathered.outputs)):
        for column in group:
            name = prefix + column.name
            columns[name] = _lists(column)
    fields = [field.with_type(columns[field.name].type) for field in schema]
    return pa.record_batch([columns[name] for name in schema.names], schema=pa.schema(fields))


def _lists(column: GatheredColumn) -> pa.ListArray:
    """A list for each request, null where there is none."""
    if isinstance(column, TextColumn):
        time.sleep(_TURN_S)
        return pa.array(column.values, pa.list_(pa.string()))
    sizes = column.sizes()
    offsets = offsets_of(np.maximum(sizes, 0) // column.dtype.itemsize)
    numbers = pa.array(column.values())  # without a copy
    missing = sizes < 0
    return pa.ListArray.from_arrays(pa.array(offsets), numbers, mask=pa.array(missing) if missing.any() else None)


def _feedback_batch(pending: Sequence[Feedback], at_us: int) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([feedback.prediction_id for feedback in pending]),
            pa.array([feedback.row for feedback in pending], pa.int32()),
            pa.array([at_us] * len(pending), FEEDBACK_SCHEMA.field("at").type),
            pa.array([feedback.label for feedback in pending], pa.float32()),
            pa.array([feedback.model for feedback in pending]),
        ],
        schema=FEEDBACK_SCHEMA,
    )
