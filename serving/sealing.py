"""Sealing log segments beside the server: in a short-lived process, when the machine has time.

Parquet can wait, since readers take finished segments as well; answers cannot.

Run as ``python -m serving.sealing FOLDER COMPRESSION FLUSH_INTERVAL_S``.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from driftwheel.files import TEMPORARY_PREFIX
from driftwheel.log_layout import OPEN_SUFFIX
from driftwheel.processes import tied

_log = structlog.get_logger()

_LOOK_EVERY_S = 5.0

_QUIET = 0.5
"""The share of the processors that must have been idle since the last look. Less, and sealing would take from the answers
what they need: not only the processor, whose idle moments it would get, but its caches and the disk."""

_MOST_WAITING_BYTES = 2**31
"""Of finished segments; with more of them, sealing waits no longer."""

_END_TIMEOUT_S = 10.0


def finished_segments(root: Path) -> Iterator[Path]:
    """The streams under ``root`` that no process writes to any more, oldest first. Each is locked while the caller looks at
    it, so that two do not seal the same one.
    """
    for path in sorted(root.rglob(f"*{OPEN_SUFFIX}")):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
        except (BlockingIOError, FileNotFoundError):
            continue  # its process lives, or another one was quicker


def seal_finished(root: Path, compression: str = "none", flush_interval_s: float = 0.0) -> int:
    """Seal every segment under ``root`` that no process writes to any more; how many those were.

    One that cannot be read or written is left as it is, and said so: the log goes on beside it.

    Args:
        compression: As Parquet names it.
        flush_interval_s: How often the segments' writers wrote.
    """
    from serving.segments import seal_segment  # pyarrow would cost the start of whoever only looks a third of a second

    count = 0
    for path in finished_segments(root):
        try:
            seal_segment(path, compression=compression, flush_interval_s=flush_interval_s)
        except OSError as error:
            _log.error("log.seal_failed", segment=str(path), reason=str(error))
            continue
        count += 1
    return count


class Idleness:
    """How idle the machine's processors are."""

    def __init__(self, counters: Path = Path("/proc/stat")) -> None:
        self._counters = counters
        self._last = self._read()

    def share(self) -> float:
        """Of the time since the last call, in [0, 1]; 1 on systems that do not tell."""
        idle, whole = self._read()
        idle_before, whole_before = self._last
        self._last = idle, whole
        return (idle - idle_before) / (whole - whole_before) if whole > whole_before else 1.0

    def _read(self) -> tuple[int, int]:
        """Idle time and all time since the start, over all processors."""
        try:
            times = [int(field) for field in self._counters.read_text().partition("\n")[0].split()[1:]]
        except OSError:
            return 0, 0
        return times[3] + times[4], sum(
            times[:8]
        )  # idle and waiting for the disk; a guest's time is in the user's already


class Sealer:
    """Starts the process when there is something to seal. Used by the supervisor.

    Args:
        folder: The log's root.
        compression: As Parquet names it.
        flush_interval_s: How often the segments' writers write.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, folder: Path, compression: str, flush_interval_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._compression = compression
        self._flush_interval_s = flush_interval_s
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._next_look_s = clock() + _LOOK_EVERY_S
        self._idle = Idleness()

    def look(self) -> None:
        """Start it when it is time; never waits."""
        if self._process is not None:
            if (code := self._process.poll()) is None:
                return
            self._process = None
            if code:
                _log.error("log.sealing_failed", code=code)
        if self._clock() < self._next_look_s:
            return
        self._next_look_s = self._clock() + _LOOK_EVERY_S
        quiet = self._idle.share() >= _QUIET
        waiting = sum(path.stat().st_size for path in finished_segments(self._folder))
        if waiting and (quiet or waiting >= _MOST_WAITING_BYTES):
            self._process = subprocess.Popen(
                tied(
                    [
                        sys.executable,
                        "-m",
                        "serving.sealing",
                        str(self._folder),
                        self._compression,
                        str(self._flush_interval_s),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C on the terminal is for the supervisor
            )

    def close(self) -> None:
        """End the process, and seal here what is left, once nobody writes to this home's log any more."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        seal_finished(self._folder, self._compression, self._flush_interval_s)
        for unfinished in self._folder.rglob(f"{TEMPORARY_PREFIX}*"):
            unfinished.unlink(missing_ok=True)  # its rows are in the segment that has just been sealed


def main() -> None:
    """Seal what is finished, and end."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    folder, compression, flush_interval_s = sys.argv[1:]
    seal_finished(Path(folder), compression, float(flush_interval_s))


if __name__ == "__main__":
    main()
