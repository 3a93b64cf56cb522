"""Log segments: an Arrow stream while a process appends to it, Parquet once it is sealed.

A killed process leaves its stream behind, perhaps with a torn tail. The next start seals what is whole in it. A lock on the
open file tells a dead process's segment from a living one's: the kernel lets go of it however the process ended.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from driftwheel.files import replaced
from driftwheel.predictions import OPEN_SUFFIX, SEALED_SUFFIX

_log = structlog.get_logger()


class SegmentWriter:
    """Appends record batches to one table's segments. One thread at a time.

    Args:
        folder: Where the table's segments lie.
        seal_rows: Rows after which a segment is sealed.
        seal_after_s: Age in seconds after which a segment is sealed.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, seal_rows: int, seal_after_s: float) -> None:
        self._folder = folder
        self._schema = schema
        self._seal_rows = seal_rows
        self._seal_after_s = seal_after_s
        self._count = 0
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self._rows = 0
        self._opened_s = 0.0

    def append(self, batch: pa.RecordBatch) -> None:
        """Write a batch through to the disk; it survives this process and, once this returns, a power cut."""
        if self._stream is None or self._file is None:
            self._open()
        assert self._stream is not None and self._file is not None  # noqa: S101, PT018 (for the type checker)
        self._stream.write_batch(batch)
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._rows += batch.num_rows
        if self._rows >= self._seal_rows:
            self.seal()

    def seal_if_old(self) -> None:
        """Seal a segment that has been open for long enough."""
        if self._stream is not None and time.monotonic() - self._opened_s >= self._seal_after_s:
            self.seal()

    def seal(self) -> None:
        """Turn the open segment into Parquet; nothing to do when none is open."""
        if self._stream is None or self._file is None or self._path is None:
            return
        self._stream.close()
        self._file.flush()
        seal_segment(self._path)
        self._file.close()
        self._stream = self._file = self._path = None

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self._path = self._folder / f"{stamp}-{os.getpid()}-{self._count}{OPEN_SUFFIX}"
        self._count += 1
        self._file = self._path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._stream = pa.ipc.new_stream(self._file, self._schema)
        self._rows = 0
        self._opened_s = time.monotonic()


def whole_batches(path: Path) -> list[pa.RecordBatch]:
    """The batches of a stream up to its torn tail, if it has one."""
    batches: list[pa.RecordBatch] = []
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            while True:
                batches.append(stream.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowInvalid, OSError) as error:
        # Cut short by a kill: what comes before is whole, what comes after was never acknowledged.
        _log.info("log.torn_tail", segment=str(path), whole_batches=len(batches), reason=str(error))
    return batches


def seal_segment(path: Path) -> Path | None:
    """Write a stream's whole batches as Parquet and delete the stream; None where it held nothing."""
    sealed: Path | None = None
    if batches := whole_batches(path):
        sealed = path.with_suffix(SEALED_SUFFIX)
        with replaced(sealed) as temporary:
            pq.write_table(pa.Table.from_batches(batches), temporary)
    path.unlink()
    return sealed


def repair_segments(root: Path) -> int:
    """Seal every segment under ``root`` that a dead process left open; how many there were."""
    repaired = 0
    for path in sorted(root.rglob(f"*{OPEN_SUFFIX}")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives
            sealed = seal_segment(path)
        repaired += 1
        _log.info("log.repaired", segment=str(path), sealed=str(sealed) if sealed else None)
    return repaired
