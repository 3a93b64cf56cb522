"""An Arrow stream that is written past the page cache.

What a log writes nobody reads soon. By the page cache, a megabyte takes the kernel about four times the processor time (new
pages, a copy, and all of it once more when it is written back), and on a virtual machine, whose new pages come from the host,
it slowed down the whole server. Past it, memory, places and lengths must be multiples of a block; so the last, unfinished
block is kept and written again with what follows it.

After each write the file is a whole stream, with its end marker and zeros up to the end of the block: who reads it sees what
was written, and a kill in the middle of a write leaves a torn tail and nothing worse.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

_BLOCK = 4096

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_FIRST_BYTES = 2**16

_HUGE_PAGE = 2**21
"""The kernel pins and hands on each page that is written: of so large ones, a hundredth, which halves what a write costs."""


class Staging:
    """Memory that is aligned as the kernel wants it, for one stream after the other: taking it anew for each cost more than
    the copying.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, _FIRST_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def grow(self, size: int) -> None:
        """Have room for ``size`` bytes; what it held is not kept."""
        if size <= len(self.memory):
            return
        large = size > _HUGE_PAGE // 2
        size = -(-2 * size // _HUGE_PAGE) * _HUGE_PAGE if large else _blocks(2 * size)
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if large and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                self.memory.madvise(mmap.MADV_HUGEPAGE)


class DirectStream:
    """Appends record batches to a new file.

    Args:
        path: Must not exist.
        staging: Nobody else's until the stream is closed.

    Raises:
        OSError: It exists, or cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema, staging: Staging) -> None:
        self._schema = schema
        self._schema_bytes = schema.serialize().size
        self._margin = _blocks(self._schema_bytes)
        """Before the staged bytes: room for the schema, which a stream writes first, again and again."""
        self._staging = staging
        self._tail = 0
        """Bytes of the unfinished block, which are staged already."""
        self._block_at = 0
        """Where in the file it begins."""
        self._staged = 0
        """Where what is staged ends, from there."""
        self._file = _opened(path)

    def fileno(self) -> int:
        """Its descriptor, for locks."""
        return self._file

    @property
    def size(self) -> int:
        """Bytes of all that was appended, without the end marker."""
        return self._block_at + self._tail

    def append(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Stage batches and write them. Raises as ``write`` does."""
        self.stage(batches)
        self.write()

    def write(self) -> None:
        """Write what is staged; nothing else may be staged until this returns.

        Raises:
            OSError: It could not be written. What was there before may no longer end as a stream does: ``cut`` it.
        """
        end = self._staged
        self._write(end)
        whole = end // _BLOCK * _BLOCK
        self._block_at += whole
        self._tail = end - whole
        staged = self._margin + whole
        memory = self._staging.memory
        memory[self._margin : self._margin + self._tail] = memory[staged : staged + self._tail]

    def stage(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Put batches behind the unfinished block, to be written: a copy, no system call."""
        wanted = self._tail + self._schema_bytes + sum(map(pa.ipc.get_record_batch_size, batches)) + 2 * _BLOCK
        kept = self._staging.memory[self._margin : self._margin + self._tail]
        self._staging.grow(self._margin + wanted)
        memory = self._staging.memory
        begin = self._margin + self._tail - (self._schema_bytes if self.size else 0)
        sink = pa.FixedSizeBufferWriter(pa.py_buffer(memoryview(memory)[begin:]))
        stream = pa.ipc.new_stream(sink, self._schema)
        for batch in batches:
            stream.write_batch(batch)
        memory[self._margin : self._margin + self._tail] = kept
        self._staged = begin + sink.tell() - self._margin

    def _write(self, end: int) -> None:
        """Write what is staged, and the end marker behind it."""
        padded = _blocks(end + len(END_OF_STREAM))
        memory = self._staging.memory
        memory[self._margin + end : self._margin + padded] = END_OF_STREAM.ljust(padded - end, b"\0")
        staged = memoryview(memory)[self._margin : self._margin + padded]
        written = 0
        while written < padded:
            # A full disk may take a part, which need not end with a block.
            done = os.pwrite(self._file, staged[written:], self._block_at + written) // _BLOCK * _BLOCK
            if not done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += done

    def sync(self) -> None:
        """Wait until the disk has it."""
        os.fdatasync(self._file)

    def cut(self) -> None:
        """Cut off what a failed write left: behind a tear nothing could be read."""
        os.ftruncate(self._file, self.size)

    def close(self) -> None:
        """Cut off the padding, so that the file is a stream to its last byte, and close it."""
        try:
            os.ftruncate(self._file, self.size + len(END_OF_STREAM) if self.size else 0)
        finally:
            os.close(self._file)


def is_closed(path: Path) -> bool:
    """Whether a stream's writer closed it. One that was killed did not cut off the padding.

    Of 512 killed ones one ends with its block, and passes for closed.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(END_OF_STREAM), 0))
        return size % _BLOCK != 0 or file.read() == END_OF_STREAM


def _blocks(size: int) -> int:
    """``size`` rounded up to whole blocks."""
    return -(-size // _BLOCK) * _BLOCK


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)  # it was made all the same
        return os.open(path, flags, 0o666)  # a file system that has nothing but its page cache
