"""Deleting what the prediction log need not keep any longer: by age, by size, and never what somebody still waits for.

A segment counts as old as its last change: sealed late, it is kept a little longer. Predictions go first, and labels once no
prediction is left that they could be about. Nobody holds a lock on what readers look at; one whose segment is deleted under
its hands passes it over.
"""

import fcntl
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from driftwheel.errors import DriftwheelError
from driftwheel.log_layout import OPEN_SUFFIX
from driftwheel.log_segments import Segment, list_segments
from driftwheel.rollout import list_rollouts, read_rollout

_log = structlog.get_logger()

DAY_S = 86_400.0

_LOOK_EVERY_S = 60.0

_SLACK_S = 3600.0
"""How much earlier than its segment's name a row may be: it waited for a disk, or a clock was set."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long, and how much."""

    rollouts_folder: str
    """Where it is said what is on trial."""
    keep_s: float | None = None
    """Segments of this age go; None: never."""
    keep_bytes: int | None = None
    """Of more than so much the oldest go; None: never."""
    labels_within_s: float = 0.0
    """Predictions younger than this stay: labels for them may come."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What was deleted, and what could not be for somebody still waits for it."""

    segments: int = 0
    bytes: int = 0
    excess_bytes: int = 0
    """What the log still holds beyond its limit."""


def trials(rollouts: Path) -> dict[str, float]:
    """The models that have a candidate on trial, and since when, in seconds since the epoch.

    Raises:
        DriftwheelError: A rollout cannot be read.
    """
    began: dict[str, float] = {}
    for model in list_rollouts(rollouts):
        rollout = read_rollout(rollouts, model)
        if rollout.candidate is not None:
            began[model] = datetime.fromisoformat(rollout.started_at).timestamp()
    return began


def expire(log: Path, retention: Retention, *, on_trial: Mapping[str, float], now_s: float) -> Expired:
    """Delete what is too old, and of what is too much the oldest.

    Never predictions that labels may still come for, nor those that a running trial is judged by; nor labels that a kept
    prediction may have.

    Args:
        log: The log's root.
        on_trial: As ``trials`` has it.
        now_s: The present, in seconds since the epoch.
    """
    segments = list(list_segments(log))
    deletable = sorted(
        (one for one in segments if one.model is not None and not _awaited(one, retention, on_trial, now_s)),
        key=lambda one: one.ended_s,
    )
    gone: set[Path] = set()
    excess = sum(one.bytes for one in segments) - (retention.keep_bytes or 0)
    for one in deletable:
        too_old = retention.keep_s is not None and one.ended_s < now_s - retention.keep_s
        too_much = retention.keep_bytes is not None and excess > 0
        if (too_old or too_much) and _deleted(one.path):
            gone.add(one.path)
            excess -= one.bytes
    kept = [one.began_s for one in segments if one.model is not None and one.path not in gone]
    # A label comes after its prediction: what is older than all of these is about none of them.
    needed_from = min(kept, default=now_s - retention.labels_within_s) - _SLACK_S
    for one in segments:
        if one.model is None and one.ended_s < needed_from and _deleted(one.path):
            gone.add(one.path)
            excess -= one.bytes
    freed = sum(one.bytes for one in segments if one.path in gone)
    return Expired(len(gone), freed, max(excess, 0) if retention.keep_bytes is not None else 0)


def _awaited(segment: Segment, retention: Retention, on_trial: Mapping[str, float], now_s: float) -> bool:
    """Whether labels or a judge may still want a segment of predictions."""
    began = on_trial.get(segment.model or "")
    return segment.ended_s >= now_s - retention.labels_within_s or (began is not None and segment.ended_s >= began)


def _deleted(path: Path) -> bool:
    """Delete a segment, unless a process writes to it or seals it."""
    with suppress(FileNotFoundError, BlockingIOError), _free(path):
        path.unlink()
        return True
    return False


@contextmanager
def _free(path: Path) -> Generator[None]:
    if path.suffix != OPEN_SUFFIX:
        yield
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class Expirer:
    """Deletes now and then. Used by the supervisor.

    Args:
        log: The log's root.
        clock: Seconds, monotonic.
        now_s: The present, in seconds since the epoch.
    """

    def __init__(
        self,
        log: Path,
        retention: Retention,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._log_folder = log
        self._retention = retention
        self._clock = clock
        self._now_s = now_s
        self._next_look_s = clock()
        self._excess = False

    def look(self) -> None:
        """Delete when it is time. What cannot be deleted, or read, is said and tried again."""
        retention = self._retention
        if (retention.keep_s is None and retention.keep_bytes is None) or self._clock() < self._next_look_s:
            return
        self._next_look_s = self._clock() + _LOOK_EVERY_S
        try:
            on_trial = trials(Path(retention.rollouts_folder))
            expired = expire(self._log_folder, retention, on_trial=on_trial, now_s=self._now_s())
        except (OSError, DriftwheelError) as error:
            _log.error("log.expire_failed", reason=str(error))
            return
        if expired.segments:
            _log.info("log.expired", segments=expired.segments, bytes=expired.bytes)
        if expired.excess_bytes and not self._excess:
            why = "labels may come for the rest, or a trial needs it"
            _log.warning("log.over_its_limit", excess_bytes=expired.excess_bytes, why=why)
        self._excess = expired.excess_bytes > 0
