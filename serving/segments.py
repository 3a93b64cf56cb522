"""Log segments: an Arrow stream while a process appends to it, Parquet once it is sealed.

A killed process leaves its stream behind, perhaps with a torn tail. The next start seals what is whole in it. A lock on the
open file tells a dead process's segment from a living one's: the kernel lets go of it however the process ended.

Nothing is deleted before its rows have been read back from where they went.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from driftwheel.files import replaced
from driftwheel.predictions import OPEN_SUFFIX, SEALED_SUFFIX, is_whole

_log = structlog.get_logger()

TORN_SUFFIX = ".torn"
"""What a stream with a torn tail is renamed to once its whole part is sealed; for people, no reader looks at it."""

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class SegmentWriter:
    """Appends record batches to one table's segments. One thread at a time.

    Args:
        folder: Where the table's segments lie.
        seal_bytes: Size at which a segment is due to be sealed.
        seal_after_s: Age in seconds at which it is.
        compression: Of the sealed file, as Parquet names it.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, *, seal_bytes: int, seal_after_s: float, compression: str = "none"
    ) -> None:
        self._folder = folder
        self._schema = schema
        self._seal_bytes = seal_bytes
        self._compression = compression
        self._seal_after_s = seal_after_s
        self._count = 0
        self._open: _OpenSegment | None = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Write a batch through to the disk; it survives this process and, once this returns, a power cut.

        Raises:
            OSError: It could not be written. What was written before is whole, and the next call begins a new segment.
        """
        segment = self._open or self._begin()
        try:
            segment.append(batch)
        except BaseException:
            self._open = None
            segment.abandon()
            raise

    def seal_if_due(self) -> None:
        """Seal a segment that is large or old enough.

        Raises:
            OSError: It could not be sealed. It stays as it is, for the next start to seal, and the next call of
                ``append`` begins a new one.
        """
        segment = self._open
        if segment and (segment.good_bytes >= self._seal_bytes or segment.age_s() >= self._seal_after_s):
            self.seal()

    def seal(self) -> None:
        """Turn the open segment into Parquet; nothing to do when none is open. Raises as ``seal_if_due`` does."""
        segment, self._open = self._open, None
        if segment:
            segment.seal(self._compression)

    def _begin(self) -> "_OpenSegment":
        self._folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{self._count}{OPEN_SUFFIX}"
        self._count += 1
        self._open = _OpenSegment(path, self._schema)
        return self._open


class _OpenSegment:
    """A stream that is being written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._file: BinaryIO = _created_and_locked(path)
        try:
            self._stream = pa.ipc.new_stream(self._file, schema)
        except BaseException:
            self._file.close()
            raise
        self.good_bytes = 0
        self._opened_s = time.monotonic()
        self.rows = 0

    def age_s(self) -> float:
        return time.monotonic() - self._opened_s

    def append(self, batch: pa.RecordBatch) -> None:
        self._stream.write_batch(batch)
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self.good_bytes = self._file.tell()
        self.rows += batch.num_rows

    def abandon(self) -> None:
        """Cut off what a failed write left, and let go: behind a tear nothing could be read."""
        with contextlib.suppress(OSError, ValueError):
            os.ftruncate(self._file.fileno(), self.good_bytes)
        with contextlib.suppress(OSError):
            self._file.close()
        _log.error("log.segment_abandoned", segment=str(self._path), whole_rows=self.rows)

    def seal(self, compression: str) -> None:
        # Closing the file lets go of the lock, so that comes last.
        with self._file:
            self._stream.close()
            self._file.flush()
            seal_segment(self._path, rows=self.rows, compression=compression)


def _created_and_locked(path: Path) -> BinaryIO:
    """A new file with our lock on it. Between the two, another worker's repair can take it for a dead one's, and delete it."""
    while True:
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def whole_batches(path: Path) -> tuple[list[pa.RecordBatch], bool]:
    """The batches of a stream up to its torn tail, and whether it has one.

    Raises:
        OSError: The file cannot be read.
    """
    content = path.read_bytes()  # what fails here is the disk, what fails below is the content
    batches: list[pa.RecordBatch] = []
    try:
        with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
            while is_whole(batch := stream.read_next_batch()):
                batches.append(batch)
    except StopIteration:
        return batches, False
    except (pa.ArrowInvalid, OSError) as error:
        # Cut short by a kill: what comes before is whole, what comes after was never acknowledged.
        _log.info("log.torn_tail", segment=str(path), whole_batches=len(batches), reason=str(error))
    else:
        _log.warning("log.noise", segment=str(path), whole_batches=len(batches))
        return batches, True
    return batches, not content.endswith(_END_OF_STREAM)


def seal_segment(path: Path, *, rows: int | None = None, compression: str = "none") -> Path | None:
    """Write a stream's whole batches as Parquet, and only then delete the stream; None where it held nothing.

    Args:
        rows: How many there must be, where the writer knows.

    Raises:
        OSError: They cannot be read back or written. The stream is left as it is.
    """
    batches, torn = whole_batches(path)
    found = sum(batch.num_rows for batch in batches)
    if rows is not None and found != rows:
        raise OSError(f"log segment {path} reads back as {found} rows, {rows} were written")
    sealed: Path | None = None
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


def repair_segments(root: Path) -> int:
    """Seal every segment under ``root`` that a dead process left open; how many there were.

    One that cannot be read is left as it is, and said so: the log goes on beside it.
    """
    repaired = 0
    for path in sorted(root.rglob(f"*{OPEN_SUFFIX}")):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sealed = seal_segment(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # its process lives, or another one that starts just now was quicker
        except OSError as error:
            _log.error("log.repair_failed", segment=str(path), reason=str(error))
            continue
        repaired += 1
        _log.info("log.repaired", segment=str(path), sealed=str(sealed) if sealed else None)
    return repaired
