"""Whether a retrain may start by itself, and the lease that only one at a time can hold."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from driftwheel.files import exclusive_lock
from driftwheel.settings import RetrainSettings
from monitoring.drift.decision import DriftDecision
from monitoring.ledger import Entry
from monitoring.segments import moment

STARTED = "started"
"""The payload's ``event`` of the ledger entry that opens a retrain. Entries without an event count as openings."""


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

    Args:
        history: Ledger entries of one model; those of the kind "retrain" that open one count, however they ended.
        now: The time, ISO 8601.
        candidate_in_flight: A candidate is on trial already.
    """
    starts = sorted(moment(entry.at) for entry in history if _opens(entry))
    today = [start for start in starts if start > moment(now) - timedelta(days=1)]
    elapsed_s = (moment(now) - starts[-1]).total_seconds() if starts else None
    if decision.schema_broken:
        return RetrainVerdict(allowed=False, reason=f"blocked by broken data: {'; '.join(decision.faults)}")
    if not decision.retrain:
        return RetrainVerdict(allowed=False, reason=f"not needed: {decision.summary}")
    if candidate_in_flight:
        return RetrainVerdict(allowed=False, reason="a candidate is on trial already")
    if len(today) >= settings.daily_cap:
        return RetrainVerdict(allowed=False, reason=f"daily cap: {len(today)} of {settings.daily_cap} in 24 hours")
    if elapsed_s is not None and elapsed_s < settings.cool_down_s:
        left = settings.cool_down_s - elapsed_s
        return RetrainVerdict(allowed=False, reason=f"cool-down: {left:.0f} s of {settings.cool_down_s:.0f} s left")
    return RetrainVerdict(allowed=True, reason=decision.summary)


def _opens(entry: Entry) -> bool:
    return entry.kind == "retrain" and entry.payload.get("event", STARTED) == STARTED


@contextmanager
def lease(path: Path) -> Generator[None]:
    """Hold the right to retrain; the kernel takes it back when this process ends, however it ends.

    Raises:
        BusyError: Another process holds it.
    """
    with exclusive_lock(path, purpose="a retrain"):
        yield
