"""Drift decisions: from the ledger's entries to what the page shows of them."""

from pathlib import Path

import msgspec

from serving.console.ledger import LedgerEntry, decoded
from serving.console.reports import has_report, report_name


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


class Estimated(msgspec.Struct, frozen=True):
    """What a classifier's own probabilities let expect of the newest window, before labels are there, beside the reference."""

    outcome: str
    reference_loss: float | None = None
    window_loss: float | None = None
    reference_auc: float | None = None
    window_auc: float | None = None


class Recommended(msgspec.Struct, frozen=True):
    """What the newest lists hold. ``asked_top_share`` is the reference's."""

    lists: int
    empty_lists: int = 0
    coverage: float | None = None
    top_share: float | None = None
    asked_top_share: float | None = None


class _Window(msgspec.Struct, frozen=True):
    quality: Quality | None = None
    estimated: Estimated | None = None


class _DriftPayload(msgspec.Struct, frozen=True):
    version: int
    decision: _Drift
    windows: list[_Window] = []
    recommended: Recommended | None = None


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
    estimated: Estimated | None = None
    recommended: Recommended | None = None
    report: str | None = None
    """The path of its Evidently report on this server; None where none was written, or it is gone."""


def drift_line(entry: LedgerEntry, reports: Path, model: str) -> DriftLine:
    """A drift decision as the page shows it: its summary alone, where its evidence cannot be read."""
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
        estimated=payload.windows[-1].estimated if payload.windows else None,
        recommended=payload.recommended,
        report=f"/console/reports/{model}/{name}" if has_report(reports, model, name) else None,
    )


def drift_status(entry: LedgerEntry) -> str:
    """The status of a drift decision; empty where it is not known."""
    payload = decoded(entry, _DriftPayload)
    return payload.decision.status if payload else ""
