"""Log segments: an Arrow stream while a process appends to it, Parquet once it is sealed.

A process that serves only appends, and begins a new stream where one is large or old. Sealing reads, checks and writes all
again, and is left to another process (``sealing``). A killed process leaves its stream behind, perhaps with a torn
tail; what is whole in it is sealed like any other. A lock on the open file tells a stream that is done with from a living
one: the kernel lets go of it however the process ended.

Nothing is deleted before its rows have been read back from where they went.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from driftwheel.files import replaced
from driftwheel.log_layout import OPEN_SUFFIX, SEALED_SUFFIX, TORN_SUFFIX
from driftwheel.predictions import is_whole, widened
from serving.direct_stream import END_OF_STREAM, DirectStream, Staging, is_closed
from serving.unflushed import busiest

_log = structlog.get_logger()


class SegmentWriter:
    """Appends record batches to one table's segments. One thread at a time.

    A segment has the schema of the batches that it begins with. Batches that differ in how wide their integers are may follow:
    narrower ones are widened, wider ones begin a new segment, which is at most one more for each that would have been.

    Args:
        folder: Where the table's segments lie.
        finish_bytes: Size at which a segment is due to be finished.
        finish_after_s: Age in seconds at which it is.
        sync: Whether ``append`` waits until the disk has it.
    """

    def __init__(self, folder: Path, *, finish_bytes: int, finish_after_s: float, sync: bool = False) -> None:
        self._folder = folder
        self._finish_bytes = finish_bytes
        self._finish_after_s = finish_after_s
        self._sync = sync
        self._count = 0
        self._open: _OpenSegment | None = None
        self._staging = Staging()

    @property
    def bytes(self) -> int:
        """Of the open segment; 0 where none is."""
        return self._open.size if self._open else 0

    def append(self, *batches: pa.RecordBatch) -> None:
        """Hand batches to the kernel: they survive this process, and with ``sync`` a power cut too, once this returns.

        Raises:
            OSError: They could not be written, none of them. What was written before is whole, and the next call begins a
                new segment.
        """
        schema = self._schema_with(batches)
        if self._open and not self._open.schema.equals(schema):
            self.finish()
        self._stage(self._open or self._begin(schema), batches)
        self.write_staged()

    def stage(self, *batches: pa.RecordBatch) -> bool:
        """Copy batches to where ``write_staged`` will take them from, without a system call: no disk can hold this up, and
        they may be forgotten at once. False where that needs a new segment: then ``append`` them.
        """
        segment = self._open
        if not segment or not segment.schema.equals(self._schema_with(batches)):
            return False
        self._stage(segment, batches)
        return True

    def write_staged(self) -> None:
        """Hand to the kernel what is staged. Raises as ``append`` does. Nothing is staged meanwhile."""
        segment = self._open
        assert segment is not None  # noqa: S101 (something is staged)
        try:
            segment.write(sync=self._sync)
        except BaseException:
            self._open = None
            segment.abandon()
            raise
        if segment.size >= self._finish_bytes:
            self.finish()

    def _schema_with(self, batches: Sequence[pa.RecordBatch]) -> pa.Schema:
        return _widest([*([self._open.schema] if self._open else []), *(batch.schema for batch in batches)])

    def _stage(self, segment: "_OpenSegment", batches: Sequence[pa.RecordBatch]) -> None:
        schema = segment.schema
        try:
            segment.stage([batch if batch.schema.equals(schema) else batch.cast(schema) for batch in batches])
        except BaseException:
            self._open = None
            segment.abandon()
            raise

    def finish_if_due(self) -> None:
        """Finish a segment that is old enough. Raises as ``finish`` does."""
        if self._open and self._open.age_s() >= self._finish_after_s:
            self.finish()

    def finish(self) -> None:
        """Leave the open segment to be sealed; nothing to do when none is open.

        Raises:
            OSError: Its end could not be written. All its rows are there, and the next call of ``append`` begins a new one.
        """
        segment, self._open = self._open, None
        if segment:
            segment.finish()

    def _begin(self, schema: pa.Schema) -> "_OpenSegment":
        self._folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{self._count}{OPEN_SUFFIX}"
        self._count += 1
        self._open = _OpenSegment(path, schema, self._staging)
        return self._open


class _OpenSegment:
    """A stream that is being written."""

    def __init__(self, path: Path, schema: pa.Schema, staging: Staging) -> None:
        self._path = path
        self.schema = schema
        self._stream = _created_and_locked(path, schema, staging)
        self._opened_s = time.monotonic()
        self._staged_rows = 0
        self.rows = 0

    @property
    def size(self) -> int:
        return self._stream.size

    def age_s(self) -> float:
        return time.monotonic() - self._opened_s

    def stage(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._stream.stage(batches)
        self._staged_rows = sum(batch.num_rows for batch in batches)

    def write(self, *, sync: bool) -> None:
        self._stream.write()
        if sync:
            self._stream.sync()
        self.rows += self._staged_rows

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.cut()
        self.finish()
        _log.error("log.segment_abandoned", segment=str(self._path), whole_rows=self.rows)

    def finish(self) -> None:
        self._stream.close()  # which lets go of the lock


def _widest(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One that has room for all of them."""
    first = schemas[0]
    if all(schema.equals(first) for schema in schemas):
        return first
    return pa.unify_schemas(list(schemas), promote_options="permissive")


def _created_and_locked(path: Path, schema: pa.Schema, staging: Staging) -> DirectStream:
    """A new file with our lock on it. Between the two, the sealer can take it for a dead one's, and delete it."""
    while True:
        stream = DirectStream(path, schema, staging)
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()


def whole_batches(path: Path) -> tuple[list[pa.RecordBatch], bool]:
    """The batches of a stream up to its torn tail, widened, and whether it has one.

    Raises:
        OSError: The file cannot be read.
    """
    content = path.read_bytes()  # what fails here is the disk, what fails below is the content
    batches: list[pa.RecordBatch] = []
    try:
        with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
            while is_whole(batch := stream.read_next_batch()):
                batches.append(widened(batch))
    except StopIteration:
        return batches, False
    except (pa.ArrowInvalid, OSError) as error:
        # Cut short by a kill: what comes before is whole, what comes after was never acknowledged.
        _log.info("log.torn_tail", segment=str(path), whole_batches=len(batches), reason=str(error))
    else:
        _log.warning("log.noise", segment=str(path), whole_batches=len(batches))
        return batches, True
    return batches, not content.endswith(END_OF_STREAM)


def seal_segment(path: Path, *, compression: str = "none", flush_interval_s: float = 0.0) -> Path | None:
    """Write a stream's whole batches as Parquet, and only then delete the stream; None where it held nothing.

    Args:
        compression: As Parquet names it.
        flush_interval_s: How often its writer wrote. Of one that was killed it is said what that can have cost.

    Raises:
        OSError: They cannot be read back or written. The stream is left as it is.
    """
    batches, torn = whole_batches(path)
    sealed: Path | None = None
    if (torn or not is_closed(path)) and (lost := busiest(batches, flush_interval_s)):
        rows = sum(batch.num_rows for batch in batches)
        _log.warning("log.writer_killed", segment=str(path), whole_requests=rows, lost_predictions_at_most=lost)
    if batches:
        sealed = path.with_suffix(SEALED_SUFFIX)
        with replaced(sealed) as temporary:
            # What repeats (arm, kind, code) is kept once. Ids and scores do not repeat: a dictionary of them costs the
            # server more than all the rest, and so do statistics of their columns that no reader asks for.
            table = pa.Table.from_batches(batches)
            text: Any = [name for name in ("arm", "kind", "code", "model") if name in table.column_names]
            stamps: Any = [name for name in ("at",) if name in table.column_names]
            pq.write_table(
                table,
                temporary,
                compression=compression,
                use_dictionary=text,
                write_statistics=stamps,
                write_batch_size=2**20,  # values that are encoded at a time; the default of 1024 takes a third longer
            )
    if torn and path.stat().st_size:
        path.rename(path.with_suffix(TORN_SUFFIX))
    else:
        path.unlink()
    return sealed
