"""The prediction log and the feedback log: bounded, off the hot path, safe against a kill.

Every flush interval a thread turns what the recorder has gathered into Arrow batches, and that interval is what a crash
loses at most. Feedback is acknowledged only once it is on disk; callers that arrive while the disk
is busy share the next write.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, Signature
from driftwheel.errors import UnavailableError
from driftwheel.predictions import (
    FEEDBACK_SCHEMA,
    INPUT_PREFIX,
    OUTPUT_PREFIX,
    ROWS,
    feedback_folder,
    predictions_folder,
    request_schema,
)
from driftwheel.serving_settings import LogSettings
from monitoring.metrics import ServingMetrics
from serving.codec import Column, text
from serving.recording import Record, Series
from serving.segments import SegmentWriter, repair_segments

_log = structlog.get_logger()


_REQUEST_BYTES = 500
_BYTES: dict[Datatype, int] = {"INT64": 8, "FP32": 4, "BYTES": 80}
"""About what a pending request takes of memory, and each of its values."""


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
    pending: list[tuple[Series, Sequence[Record]]]


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
        self._tables: dict[tuple[str, int], _Table] = {}
        self._pending_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prediction-log")
        # Somebody waits for feedback to be on disk, and must not wait for a segment of predictions to be sealed.
        self._feedback_thread = ThreadPoolExecutor(1, thread_name_prefix="feedback-log")
        self._writing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._feedback_writer = self._writer(feedback_folder(folder), FEEDBACK_SCHEMA)
        self._feedback_pending: list[Feedback] = []
        self._feedback_flush: asyncio.Future[None] | None = None

    def _writer(self, folder: Path, schema: pa.Schema) -> SegmentWriter:
        settings = self._settings
        return SegmentWriter(
            folder,
            schema,
            seal_bytes=settings.seal_mib * 2**20,
            seal_after_s=settings.seal_after_s,
            compression=settings.compression,
        )

    async def start(self) -> None:
        """Repair what a killed process left, then flush on a schedule."""
        await asyncio.get_running_loop().run_in_executor(self._thread, repair_segments, self._folder)
        self._flusher = asyncio.create_task(self._flush_forever())

    async def close(self) -> None:
        """Write all that is pending and seal every segment."""
        # Asked to end and not cancelled: a cancelled flush would lose the rows that it had taken.
        self._closing.set()
        if self._flusher is not None:
            await self._flusher
        await self.flush()
        for table in self._tables.values():
            await self._guarded(self._thread, table.writer.seal)
        await self._guarded(self._feedback_thread, self._feedback_writer.seal)
        self._thread.shutdown()
        self._feedback_thread.shutdown()

    def add(self, series: Series, records: Sequence[Record]) -> None:
        """Take requests for the next flush, or drop and count them when too much is pending."""
        size = _size(series, records)
        if self._pending_bytes + size > self._settings.max_pending_mib * 2**20:
            self._metrics.dropped_rows.labels(series.model).inc(sum(record[4] for record in records))
            return
        self._pending_bytes += size
        table = self._tables.get((series.model, series.version))
        if table is None:
            folder = predictions_folder(self._folder, series.model, series.version)
            table = _Table(self._writer(folder, request_schema(series.signature)), series.signature, [])
            self._tables[(series.model, series.version)] = table
        table.pending.append((series, records))

    async def forget(self, model: str, version: int) -> None:
        """Write and seal what there is of a version that has been retired."""
        await self.flush()
        if (table := self._tables.pop((model, version), None)) is not None:
            await self._guarded(self._thread, table.writer.seal)

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
        writing: asyncio.Task[None] | None = None
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._settings.flush_interval_ms / 1000)
            # A disk that stalls must not keep what arrives from being counted, and dropped when it is too much.
            self.before_flush()
            if writing is None or writing.done():
                writing = asyncio.create_task(self._write_pending())
        if writing is not None:
            await writing

    async def flush(self) -> None:
        """Write what is pending now. What cannot be written is counted as dropped; serving goes on."""
        self.before_flush()
        await self._write_pending()

    async def _write_pending(self) -> None:
        async with self._writing:
            taken = [(key, table, table.pending) for key, table in self._tables.items() if table.pending]
            for _, table, _ in taken:
                table.pending = []
            for (model, _), table, pending in taken:
                rows = sum(record[4] for _, records in pending for record in records)
                written = await self._guarded(self._thread, _write, table, pending)
                (self._metrics.logged_rows if written else self._metrics.dropped_rows).labels(model).inc(rows)
                self._pending_bytes -= sum(_size(series, records) for series, records in pending)
            for table in list(self._tables.values()):
                await self._guarded(self._thread, table.writer.seal_if_due)
            await self._guarded(self._feedback_thread, self._feedback_writer.seal_if_due)

    @staticmethod
    async def _guarded(thread: Executor, work: Callable[..., None], *arguments: Any) -> bool:
        """Whether the work was done. A full disk, or whatever else it was, must not end the log."""
        try:
            await _on_thread(thread, work, *arguments)
        except Exception:  # noqa: BLE001 (see above; it is logged and counted)
            _log.exception("log.write_failed")
            return False
        return True


async def _on_thread(thread: Executor, work: Callable[..., None], *arguments: Any) -> None:
    await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)


def _size(series: Series, records: Sequence[Record]) -> int:
    """About what pending records take of memory, in bytes."""
    row_bytes = sum(_BYTES[spec.datatype] for spec in (*series.signature.inputs, *series.signature.outputs))
    return sum(_REQUEST_BYTES + record[4] * row_bytes for record in records)


def _write(table: _Table, pending: Sequence[tuple[Series, Sequence[Record]]]) -> None:
    table.writer.append(request_batch(table.signature, pending))


def request_batch(signature: Signature, pending: Sequence[tuple[Series, Sequence[Record]]]) -> pa.RecordBatch:
    """One row for each request."""
    schema = request_schema(signature)
    records = [record for _, group in pending for record in group]
    ids, at_us, total_s, _, rows, inputs, outputs = zip(*records, strict=True)

    def of_series(value: Callable[[Series], str]) -> pa.Array:
        return pa.concat_arrays(
            [pa.repeat(pa.scalar(value(series), pa.string()), len(group)) for series, group in pending]
        )

    columns: dict[str, pa.Array] = {
        "prediction_id": pa.array(ids, pa.string()),
        "at": pa.array(at_us, schema.field("at").type),
        "arm": of_series(lambda series: str(series.arm)),
        "kind": of_series(lambda series: series.kind),
        "code": of_series(lambda series: series.code),
        "latency_us": pa.array((np.array(total_s) * 1e6).astype(np.int32)),
        ROWS: pa.array(rows, pa.int32()),
    }
    for spec in signature.inputs:
        name = INPUT_PREFIX + spec.name
        columns[name] = _lists([request.get(spec.name) for request in inputs], schema.field(name).type)
    for spec in signature.outputs:
        name = OUTPUT_PREFIX + spec.name
        given = [None if answer is None else answer.get(spec.name) for answer in outputs]
        columns[name] = _lists(given, schema.field(name).type)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _lists(values: Sequence[Column | None], arrow_type: pa.ListType) -> pa.ListArray:
    """A list for each request, null where there is none; numbers are copied once, as bytes."""
    kind = arrow_type.value_type
    if pa.types.is_string(kind):
        return pa.array([None if one is None or isinstance(one, bytes) else text(one) for one in values], arrow_type)
    dtype = np.dtype(kind.to_pandas_dtype())
    parts = [b"" if one is None else one if isinstance(one, bytes) else _bytes_of(one, dtype) for one in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([memoryview(part).nbytes // dtype.itemsize for part in parts], out=offsets[1:])
    numbers = pa.Array.from_buffers(kind, int(offsets[-1]), [None, pa.py_buffer(b"".join(parts))])
    missing = [one is None for one in values]
    return pa.ListArray.from_arrays(pa.array(offsets), numbers, mask=pa.array(missing) if any(missing) else None)


def _bytes_of(values: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype).data


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
