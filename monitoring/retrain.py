"""Whether a retrain may start by itself, and the lease that only one at a time can hold."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from driftwheel.files import exclusive_lock
from driftwheel.settings import RetrainSettings
from monitoring.drift.decision import DriftDecision
from monitoring.ledger import Entry
from monitoring.segments import moment

STARTED = "started"
"""The payload's ``event`` of the ledger entry that opens a retrain. Entries without an event, of older releases, were
written at the end and stand for a whole retrain: they open one and end it."""

Trigger = Literal["by hand", "drift", "alert", "schedule"]
"""What sets off a retrain; the ledger keeps it, and metrics count by it."""

_BUDGET_DAYS = 30

FINISHED = "finished"
"""The ``event`` of the entry that ends one, however it ended. A killed retrain has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainVerdict:
    """Whether a retrain may start, and why or why not."""

    allowed: bool
    reason: str


def may_retrain(
    history: Sequence[Entry],
    *,
    now: str,
    settings: RetrainSettings,
    decision: DriftDecision,
    candidate_in_flight: bool,
) -> RetrainVerdict:
    """Decide whether a drift decision may start a retrain now.

    An interrupted retrain (the newest that started has not finished) may be taken up again at once: its cool-down would
    only keep the wheel from what it had decided. Every such start counts towards the daily cap. One that is still running
    looks the same from here; the lease keeps a second one out.

    Args:
        history: Ledger entries of one model; those of the kind "retrain" that open one count, however they ended.
        now: The time, ISO 8601.
        candidate_in_flight: A candidate is on trial already.
    """
    reason = decision.summary
    if decision.schema_broken:
        return RetrainVerdict(allowed=False, reason=f"blocked by broken data: {'; '.join(decision.faults)}")
    if not decision.retrain:
        return RetrainVerdict(allowed=False, reason=f"not needed: {reason}")
    return may_start(history, now=now, settings=settings, reason=reason, candidate_in_flight=candidate_in_flight)


def may_start(
    history: Sequence[Entry], *, now: str, settings: RetrainSettings, reason: str, candidate_in_flight: bool
) -> RetrainVerdict:
    """Decide whether a retrain that is wanted for some reason may start by itself now: one candidate at a time, cool-down,
    daily cap, budget. Arguments as ``may_retrain`` has them.
    """
    if candidate_in_flight:
        return RetrainVerdict(allowed=False, reason="a candidate is on trial already")
    interrupted = _interrupted(history)
    if too_soon := _too_soon(history, moment(now), settings, interrupted=interrupted):
        return RetrainVerdict(allowed=False, reason=too_soon)
    return RetrainVerdict(allowed=True, reason=f"takes up an interrupted retrain: {reason}" if interrupted else reason)


def _too_soon(history: Sequence[Entry], now: datetime, settings: RetrainSettings, *, interrupted: bool) -> str | None:
    """What of the cap, the cool-down and the budget forbids a start, None where none does."""
    starts = sorted(moment(entry.at) for entry in history if _opens(entry))
    today = [start for start in starts if start > now - timedelta(days=1)]
    if len(today) >= settings.daily_cap:
        return f"daily cap: {len(today)} of {settings.daily_cap} in 24 hours"
    left = settings.cool_down_s - (now - starts[-1]).total_seconds() if starts else 0.0
    if left > 0 and not interrupted:
        return f"cool-down: {left:.0f} s of {settings.cool_down_s:.0f} s left"
    if settings.budget_hours is not None:
        spent = sum(_hours(entry) for entry in history if moment(entry.at) > now - timedelta(days=_BUDGET_DAYS))
        if spent >= settings.budget_hours:
            return f"budget: {spent:.1f} of {settings.budget_hours:g} hours in {_BUDGET_DAYS} days"
    return None


def _hours(entry: Entry) -> float:
    """How long a retrain took that this entry ends; of one that was killed nobody knows."""
    started = entry.payload.get("started_at") if entry.kind == "retrain" else None
    return 0.0 if started is None else (moment(entry.at) - moment(started)).total_seconds() / 3600


def _opens(entry: Entry) -> bool:
    return entry.kind == "retrain" and entry.payload.get("event", STARTED) == STARTED


def _interrupted(history: Sequence[Entry]) -> bool:
    """Whether the newest retrain started and did not finish."""
    retrains = [entry for entry in history if entry.kind == "retrain"]
    return bool(retrains) and max(retrains, key=lambda entry: entry.id).payload.get("event") == STARTED


@contextmanager
def lease(path: Path) -> Generator[None]:
    """Hold the right to retrain; the kernel takes it back when this process ends, however it ends.

    Raises:
        BusyError: Another process holds it.
    """
    with exclusive_lock(path, purpose="a retrain"):
        yield
