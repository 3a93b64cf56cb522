"""The segments of a log, as their names and the file system tell of them: nothing is read."""

import calendar
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from driftwheel.files import TEMPORARY_PREFIX
from driftwheel.log_layout import OPEN_SUFFIX, SEALED_SUFFIX, TORN_SUFFIX, feedback_folder, shadow_log

_SUFFIXES = (OPEN_SUFFIX, SEALED_SUFFIX, TORN_SUFFIX)


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a log."""

    path: Path
    model: str | None
    """None: of feedback, where the labels of all models lie together."""
    version: int | None
    in_shadow: bool
    began_s: float
    """When it was begun, in seconds since the epoch: some rows may be a moment older."""
    ended_s: float
    """When it was last written or sealed: no row is younger."""
    bytes: int


def list_segments(log: Path) -> Iterator[Segment]:
    """All segments under a log's root, sealed or not, in no order."""
    for root in (log, shadow_log(log)):
        for folder in (root / "predictions").glob("*/*"):
            if folder.name.isdecimal():
                yield from _in_folder(folder, folder.parent.name, int(folder.name), in_shadow=root != log)
    yield from _in_folder(feedback_folder(log), None, None, in_shadow=False)


def _in_folder(folder: Path, model: str | None, version: int | None, *, in_shadow: bool) -> Iterator[Segment]:
    for path in folder.glob("*"):
        if path.suffix not in _SUFFIXES or path.name.startswith(TEMPORARY_PREFIX):
            continue
        with suppress(FileNotFoundError):  # it was sealed meanwhile
            status = path.stat()
            began_s = _stamp(path, otherwise=status.st_mtime)
            yield Segment(path, model, version, in_shadow, began_s, status.st_mtime, status.st_size)


def _stamp(path: Path, *, otherwise: float) -> float:
    """The time in a segment's name; a file that somebody else put there need not have one."""
    try:
        return float(calendar.timegm(time.strptime(path.name.partition("-")[0], "%Y%m%dT%H%M%S")))
    except ValueError:
        return otherwise
