"""The prediction log and the feedback log: bounded, off the hot path, safe against a kill.

A prediction costs the event loop one tuple in a list; a thread turns lists into Arrow batches every flush interval, and that
interval is what a crash loses at most. Feedback is acknowledged only once it is on disk; callers that arrive while the disk
is busy share the next write.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from driftwheel.contracts import Arm, Signature
from driftwheel.errors import UnavailableError
from driftwheel.predictions import (
    FEEDBACK_SCHEMA,
    INPUT_PREFIX,
    OUTPUT_PREFIX,
    feedback_folder,
    prediction_schema,
    predictions_folder,
)
from driftwheel.preprocessing import Tensors
from driftwheel.settings import LogSettings
from monitoring.metrics import ServingMetrics
from serving.codec import text
from serving.segments import SegmentWriter, repair_segments

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Logged:
    """One answered request. ``outputs`` is None where the model failed."""

    prediction_id: str
    at_us: int
    arm: Arm
    kind: str
    code: str
    latency_us: int
    rows: int
    inputs: Tensors
    outputs: Tensors | None


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
    pending: list[Logged]


class PredictionLog:
    """Used from one event loop; writes on one thread of its own.

    Args:
        folder: The log's root.
        now_us: The time, in microseconds since the epoch.
        chance: Uniform in [0, 1), for sampling.
    """

    def __init__(
        self,
        folder: Path,
        settings: LogSettings,
        metrics: ServingMetrics,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._metrics = metrics
        self._now_us = now_us
        self._chance = chance
        self._tables: dict[tuple[str, int], _Table] = {}
        self._pending_rows = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prediction-log")
        self._flusher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._feedback_writer = self._writer(feedback_folder(folder), FEEDBACK_SCHEMA)
        self._feedback_pending: list[Feedback] = []
        self._feedback_flush: asyncio.Future[None] | None = None

    def _writer(self, folder: Path, schema: pa.Schema) -> SegmentWriter:
        settings = self._settings
        return SegmentWriter(folder, schema, seal_rows=settings.seal_rows, seal_after_s=settings.seal_after_s)

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
        for writer in self._writers():
            await self._guarded(writer.seal)
        self._thread.shutdown()

    def wants(self) -> bool:
        """Whether this request falls into the sample."""
        sample = self._settings.sample
        return sample >= 1.0 or self._chance() < sample

    def now_us(self) -> int:
        """The time that rows are stamped with, in microseconds since the epoch."""
        return self._now_us()

    def add(self, model: str, version: int, signature: Signature, logged: Logged) -> None:
        """Take a request for the next flush, or drop and count it when too much is pending."""
        if self._pending_rows + logged.rows > self._settings.max_pending_rows:
            self._metrics.dropped_rows.labels(model).inc(logged.rows)
            return
        self._pending_rows += logged.rows
        table = self._tables.get((model, version))
        if table is None:
            folder = predictions_folder(self._folder, model, version)
            table = _Table(self._writer(folder, prediction_schema(signature)), signature, [])
            self._tables[(model, version)] = table
        table.pending.append(logged)

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
            await self._on_thread(self._feedback_writer.append, batch)
        except Exception as error:
            _log.exception("log.feedback_failed", labels=len(pending))
            raise UnavailableError(f"the feedback could not be written ({error}); nothing was accepted") from error
        for feedback in pending:
            self._metrics.feedback.labels(feedback.model).inc()

    async def _flush_forever(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._settings.flush_interval_ms / 1000)
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending now. What cannot be written is counted as dropped; serving goes on."""
        taken = [(key, table, table.pending) for key, table in self._tables.items() if table.pending]
        for _, table, _ in taken:
            table.pending = []
        self._pending_rows = 0
        for (model, _), table, pending in taken:
            rows = sum(logged.rows for logged in pending)
            written = await self._guarded(_write, table, pending)
            (self._metrics.logged_rows if written else self._metrics.dropped_rows).labels(model).inc(rows)
        await self._guarded(self._seal_due)

    async def _guarded(self, work: Callable[..., None], *arguments: Any) -> bool:
        """Whether the work was done. A full disk, or whatever else it was, must not end the log."""
        try:
            await self._on_thread(work, *arguments)
        except Exception:  # noqa: BLE001 (see above; it is logged and counted)
            _log.exception("log.write_failed")
            return False
        return True

    async def _on_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _writers(self) -> list[SegmentWriter]:
        return [self._feedback_writer, *(table.writer for table in self._tables.values())]

    def _seal_due(self) -> None:
        for writer in self._writers():
            writer.seal_if_due()


def _write(table: _Table, pending: list[Logged]) -> None:
    table.writer.append(prediction_batch(table.signature, pending))


def prediction_batch(signature: Signature, pending: Sequence[Logged]) -> pa.RecordBatch:
    """One row for each row of each request."""
    counts = np.array([logged.rows for logged in pending])
    schema = prediction_schema(signature)

    def repeated(values: list[Any], arrow_type: pa.DataType) -> pa.Array:
        return pa.array(values, arrow_type).take(pa.array(np.repeat(np.arange(len(pending)), counts)))

    columns: dict[str, pa.Array] = {
        "prediction_id": repeated([logged.prediction_id for logged in pending], pa.string()),
        "row": pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
        "at": repeated([logged.at_us for logged in pending], schema.field("at").type),
        "arm": repeated([str(logged.arm) for logged in pending], pa.string()),
        "kind": repeated([logged.kind for logged in pending], pa.string()),
        "code": repeated([logged.code for logged in pending], pa.string()),
        "latency_us": repeated([logged.latency_us for logged in pending], pa.int32()),
    }
    for spec in signature.inputs:
        arrays = [logged.inputs.get(spec.name) for logged in pending]
        columns[INPUT_PREFIX + spec.name] = _column(arrays, counts, schema.field(INPUT_PREFIX + spec.name).type)
    for spec in signature.outputs:
        arrays = [None if logged.outputs is None else logged.outputs.get(spec.name) for logged in pending]
        columns[OUTPUT_PREFIX + spec.name] = _column(arrays, counts, schema.field(OUTPUT_PREFIX + spec.name).type)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _column(arrays: Sequence[NDArray[Any] | None], counts: NDArray[Any], arrow_type: pa.DataType) -> pa.Array:
    if pa.types.is_string(arrow_type):
        values: list[str | None] = []
        for array, count in zip(arrays, counts, strict=True):
            values.extend([None] * int(count) if array is None else text(array))
        return pa.array(values, arrow_type)
    if all(array is not None for array in arrays):
        return pa.array(np.concatenate([array for array in arrays if array is not None]), arrow_type)
    parts = [
        pa.nulls(int(count), arrow_type) if array is None else pa.array(array, arrow_type)
        for array, count in zip(arrays, counts, strict=True)
    ]
    return pa.concat_arrays(parts)


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
