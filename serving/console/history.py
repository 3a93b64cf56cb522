"""What the wheel decided about a model, newest first: from the ledger's entries to what the page shows of them."""

from pathlib import Path
from typing import TypeVar

import msgspec

from serving.console.ledger import LedgerEntry, LedgerReader
from serving.console.reports import has_report, report_name

MOST_VERDICTS = 30
MOST_DRIFTS = 60
MOST_RETRAINS = 30
MOST_ROLLOUTS = 30

_Payload = TypeVar("_Payload")


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
    reasons: list[str] = []
    checks: list[Check] = []


class _RolloutThen(msgspec.Struct, frozen=True):
    stable: int
    candidate: int | None = None
    weight: float = 0.0


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
    checks: list[Check] = []


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One monitor in one drift decision, as ``monitoring.drift.decision`` has it."""

    monitor: str
    group: str
    drifted: bool
    alarms: int
    windows: int
    statistic: float | None = None
    p_value: float | None = None
    why: str = ""


class _Drift(msgspec.Struct, frozen=True):
    status: str
    retrain: bool = False
    quality_down: bool = False
    windows: int = 0
    outcomes: list[Outcome] = []


class Quality(msgspec.Struct, frozen=True):
    """The loss of the newest window's labelled rows beside the reference's."""

    outcome: str
    loss: str = ""
    labelled: int = 0
    reference_mean: float | None = None
    window_mean: float | None = None


class _Window(msgspec.Struct, frozen=True):
    quality: Quality | None = None


class _DriftPayload(msgspec.Struct, frozen=True):
    version: int
    decision: _Drift
    windows: list[_Window] = []


class DriftLine(msgspec.Struct, frozen=True, kw_only=True):
    """A drift decision."""

    id: int
    at: str
    summary: str
    version: int | None = None
    status: str = ""
    retrain: bool = False
    outcomes: list[Outcome] = []
    quality: Quality | None = None
    report: str | None = None
    """The path of its Evidently report on this server; None where none was written, or it is gone."""


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
    """All of it, each list newest first."""

    model: str
    verdicts: list[VerdictLine]
    drifts: list[DriftLine]
    retrains: list[RetrainLine]
    gates: list[RolloutLine]
    rollouts: list[RolloutLine]


def read_history(ledger: LedgerReader, reports: Path, model: str) -> History:
    """Everything that the ledger and the reports' folder have of a model.

    Raises:
        UnavailableError: The ledger cannot be read.
    """
    return History(
        model=model,
        verdicts=[_verdict(entry) for entry in ledger.newest(model, "verdict", limit=MOST_VERDICTS)],
        drifts=[_drift(entry, reports, model) for entry in ledger.newest(model, "drift", limit=MOST_DRIFTS)],
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


def decoded(entry: LedgerEntry, kind: type[_Payload]) -> _Payload | None:
    """An entry's evidence; None where it is too large, or another release wrote it in a form of its own."""
    if entry.payload is None:
        return None
    try:
        return msgspec.json.decode(entry.payload, type=kind)
    except msgspec.MsgspecError:
        return None


def drift_status(entry: LedgerEntry) -> str:
    """The status of a drift decision; empty where it is not known."""
    payload = decoded(entry, _DriftPayload)
    return payload.decision.status if payload else ""


def _lines(entries: list[LedgerEntry]) -> list[RolloutLine]:
    return [RolloutLine(id=entry.id, at=entry.at, summary=entry.summary) for entry in entries]


def _verdict(entry: LedgerEntry) -> VerdictLine:
    payload = decoded(entry, _VerdictPayload)
    if payload is None:
        return VerdictLine(id=entry.id, at=entry.at, summary=entry.summary)
    return VerdictLine(
        id=entry.id,
        at=entry.at,
        summary=entry.summary,
        decision=payload.verdict.decision,
        reasons=payload.verdict.reasons,
        stable=payload.rollout.stable,
        candidate=payload.rollout.candidate,
        weight=payload.rollout.weight,
        checks=payload.verdict.checks,
    )


def _drift(entry: LedgerEntry, reports: Path, model: str) -> DriftLine:
    payload = decoded(entry, _DriftPayload)
    if payload is None:
        return DriftLine(id=entry.id, at=entry.at, summary=entry.summary)
    name = report_name(model, payload.version, entry.at)
    return DriftLine(
        id=entry.id,
        at=entry.at,
        summary=entry.summary,
        version=payload.version,
        status=payload.decision.status,
        retrain=payload.decision.retrain,
        outcomes=payload.decision.outcomes,
        quality=payload.windows[-1].quality if payload.windows else None,
        report=f"/console/reports/{model}/{name}" if has_report(reports, model, name) else None,
    )


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
