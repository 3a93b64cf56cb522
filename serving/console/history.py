"""What the wheel decided about a model, newest first: from the ledger's entries to what the page shows of them."""

from pathlib import Path

import msgspec

from serving.console.drifts import DriftLine, drift_line
from serving.console.ledger import LedgerEntry, LedgerReader, decoded
from serving.console.looks import Look, read_look

MOST_VERDICTS = 30
MOST_DRIFTS = 60
MOST_RETRAINS = 30
MOST_ROLLOUTS = 30


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a verdict's table, as ``monitoring.canary.check`` has it."""

    name: str
    outcome: str
    unit: str = ""
    control: float | None = None
    candidate: float | None = None
    difference: float | None = None
    limit: float | None = None
    at_least: float | None = None
    log_e: float | None = None
    needed: float | None = None
    detail: str = ""


class _Verdict(msgspec.Struct, frozen=True):
    decision: str
    summary: str = ""
    reasons: list[str] = []
    checks: list[Check] = []


class _RolloutThen(msgspec.Struct, frozen=True):
    stable: int
    candidate: int | None = None
    weight: float = 0.0
    started_at: str = ""
    began: list[int] = []


class _VerdictPayload(msgspec.Struct, frozen=True):
    verdict: _Verdict
    rollout: _RolloutThen


class VerdictLine(msgspec.Struct, frozen=True, kw_only=True):
    """A look of the judge at a candidate. What an entry does not hold in a known form is left out."""

    id: int
    at: str
    summary: str
    decision: str = ""
    reasons: list[str] = []
    stable: int | None = None
    candidate: int | None = None
    weight: float | None = None
    started_at: str = ""
    """When the candidate's trial began: what tells one trial from another."""
    began: list[int] = []
    """All versions of the trial, where several were on trial at its start."""
    checks: list[Check] = []


class _RetrainPayload(msgspec.Struct, frozen=True):
    event: str = "whole"
    started_at: str = ""
    reason: str = ""
    trigger: str = ""
    result: str = ""
    version: int | None = None


class RetrainLine(msgspec.Struct, frozen=True, kw_only=True):
    """A retrain. ``finished_at`` is empty while it runs, and for one that was killed."""

    id: int
    started_at: str
    finished_at: str = ""
    summary: str = ""
    reason: str = ""
    trigger: str = ""
    result: str = ""
    version: int | None = None


class RolloutLine(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the rollout, or of which versions are archived."""

    id: int
    at: str
    summary: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, each list newest first but for ``arms``."""

    model: str
    verdicts: list[VerdictLine]
    arms: list[VerdictLine]
    """Of the trial that was judged last, the newest look at each of its versions, in the order in which they began; of one
    that was dropped, its last. ``id`` is that of the newest entry about it, which may be older.
    """
    drifts: list[DriftLine]
    retrains: list[RetrainLine]
    gates: list[RolloutLine]
    rollouts: list[RolloutLine]


def read_history(ledger: LedgerReader, reports: Path, looks: Path, model: str) -> History:
    """Everything that the ledger and the folders of reports and of looks have of a model.

    Raises:
        UnavailableError: The ledger cannot be read.
    """
    verdicts = [_verdict(entry) for entry in ledger.newest(model, "verdict", limit=MOST_VERDICTS)]
    look = read_look(looks, model)
    return History(
        model=model,
        verdicts=verdicts,
        arms=[_newest(arm, look) for arm in _arms(ledger, model, verdicts[0])] if verdicts else [],
        drifts=[drift_line(entry, reports, model) for entry in ledger.newest(model, "drift", limit=MOST_DRIFTS)],
        retrains=read_retrains(ledger, model, limit=MOST_RETRAINS),
        gates=_lines(ledger.newest(model, "gate", limit=MOST_ROLLOUTS)),
        rollouts=_lines(ledger.newest(model, "rollout", limit=MOST_ROLLOUTS)),
    )


def read_retrains(ledger: LedgerReader, model: str, *, limit: int) -> list[RetrainLine]:
    """The newest retrains of a model, newest first, each made of its start and its end.

    Raises:
        UnavailableError: The ledger cannot be read.
    """
    return _retrains(ledger.newest(model, "retrain", limit=2 * limit))[:limit]


def _lines(entries: list[LedgerEntry]) -> list[RolloutLine]:
    return [RolloutLine(id=entry.id, at=entry.at, summary=entry.summary) for entry in entries]


def _verdict(entry: LedgerEntry) -> VerdictLine:
    payload = decoded(entry, _VerdictPayload)
    if payload is None:
        return VerdictLine(id=entry.id, at=entry.at, summary=entry.summary)
    return _line(entry.id, entry.at, payload, entry.summary)


def _line(number: int, at: str, payload: _VerdictPayload, summary: str) -> VerdictLine:
    return VerdictLine(
        id=number,
        at=at,
        summary=summary,
        decision=payload.verdict.decision,
        reasons=payload.verdict.reasons,
        stable=payload.rollout.stable,
        candidate=payload.rollout.candidate,
        weight=payload.rollout.weight,
        started_at=payload.rollout.started_at,
        began=payload.rollout.began,
        checks=payload.verdict.checks,
    )


def _arms(ledger: LedgerReader, model: str, newest: VerdictLine) -> list[VerdictLine]:
    """The newest verdict on each version of the newest verdict's trial. An arm that was dropped has had none for long."""
    if not newest.began:
        return [newest]
    entries = [ledger.newest_verdict(model, version, started_at=newest.started_at) for version in newest.began]
    return [_verdict(entry) for entry in entries if entry is not None]


def _newest(arm: VerdictLine, look: Look) -> VerdictLine:
    """The newest look at the version that a verdict is about, where that was in the same trial, and later."""
    try:
        payload = msgspec.convert(look.payloads.get(str(arm.candidate)), _VerdictPayload)
    except msgspec.ValidationError:
        return arm
    is_later = payload.rollout.started_at == arm.started_at and look.at > arm.at
    return _line(arm.id, look.at, payload, payload.verdict.summary) if is_later else arm


def _retrains(entries: list[LedgerEntry]) -> list[RetrainLine]:
    """Each start with the end that follows it; ``entries`` and what comes back are newest first."""
    made: list[RetrainLine] = []
    for entry in reversed(entries):
        payload = decoded(entry, _RetrainPayload) or _RetrainPayload()
        line = RetrainLine(
            id=entry.id,
            started_at=entry.at if payload.event == "started" else payload.started_at,
            finished_at="" if payload.event == "started" else entry.at,
            summary=entry.summary,
            reason=payload.reason,
            trigger=payload.trigger,
            result=payload.result,
            version=payload.version,
        )
        if payload.event == "finished" and made and made[-1].started_at == payload.started_at:
            made.pop()
        made.append(line)
    return made[::-1]
