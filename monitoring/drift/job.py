"""The drift job: the newest windows of the log against a bundle's reference, a decision and a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from driftwheel.bundle import Bundle
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from driftwheel.settings import DriftSettings
from monitoring.drift.cutting import cut
from monitoring.drift.decision import NOTHING_BEFORE, Before, DriftDecision, decide_drift
from monitoring.drift.recommended import measure_recommended, read_recommended
from monitoring.drift.reference import Reference, load_reference
from monitoring.drift.scores import Recommended, WindowScores
from monitoring.drift.scoring import first_rows, score_window
from monitoring.drift.yardstick import Yardstick
from monitoring.traffic import read_traffic

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult:
    """A decision, the scored windows that it followed from, and where the reports lie (None where none was made)."""

    decision: DriftDecision
    windows: tuple[WindowScores, ...]
    rows: int
    """Rows that were there to be cut into windows."""
    recommended: Recommended | None = None
    """The newest recommendations, as many items as the windows have rows; None where there are none."""
    report_html: Path | None = None
    report_json: Path | None = None
    run_id: str | None = None
    """The MLflow run that has the reports on record."""


def run_drift(
    *,
    log: Path,
    bundle: Bundle,
    reports: Path,
    settings: DriftSettings,
    since: str | None = None,
    now: str,
    window: "pd.DataFrame | None" = None,
    html: bool = True,
    retrained: bool = False,
    before: Before = NOTHING_BEFORE,
    seed: int = 0,
) -> DriftResult:
    """Compare what a version was asked lately with what it was shipped with.

    Args:
        since: Rows from before do not count, ISO 8601.
        now: The time of the job, ISO 8601; it names the reports.
        window: The user's own table instead of the log: columns named as inputs or as the log's columns, oldest first;
            predictions and ``label`` if they are there.
        html: Write the Evidently report, which takes seconds; the decision does not need it.
        retrained: A retrain made the version: only what differs from the first rows of the log too may set off another.
        before: What drifted in the decision before this one.

    Raises:
        BundleError: The bundle has no usable reference.
        DataError: Windows are to be of hours, and the rows have no times.
    """
    reference = load_reference(bundle)
    table = read_rows(log, bundle, since=since) if window is None else as_logged(window, reference)
    windows = score_windows(table, reference, settings, retrained=retrained and window is None, seed=seed)
    decision = decide_drift(windows, settings, before)
    recommended = None if window is not None else _recommended(log, bundle, reference, settings, since)
    if not windows:
        return DriftResult(decision=decision, windows=(), rows=len(table), recommended=recommended)
    report_html = report_json = None
    if html:
        from monitoring.drift.report import expire_reports, write_report

        spans = cut(table, settings)
        newest = table.iloc[spans[0][0] : spans[-1][1]]
        report_html, report_json = write_report(reports, reference, newest, decision, now=now, seed=seed)
        expire_reports(reports, settings.keep_reports)
    return DriftResult(
        decision=decision,
        windows=windows,
        rows=len(table),
        recommended=recommended,
        report_html=report_html,
        report_json=report_json,
    )


def _recommended(
    log: Path, bundle: Bundle, reference: Reference, settings: DriftSettings, since: str | None
) -> Recommended | None:
    table = read_recommended(log, bundle, since=since)
    return (
        None if table is None else measure_recommended(table.tail(settings.windows * settings.window_rows), reference)
    )


def read_rows(log: Path, bundle: Bundle, *, since: str | None) -> "pd.DataFrame":
    """The labelled rows that a version answered in traffic, oldest first."""
    signature = bundle.manifest.signature
    return read_traffic(log, bundle.name, version=bundle.version, signature=signature, since=since)


def as_logged(table: "pd.DataFrame", reference: Reference) -> "pd.DataFrame":
    """A user's table under the log's column names."""
    signature = reference.signature
    names = {spec.name: INPUT_PREFIX + spec.name for spec in signature.inputs}
    names |= {spec.name: OUTPUT_PREFIX + spec.name for spec in signature.outputs}
    names |= {signature.label: "label"}
    table = table.rename(columns={old: new for old, new in names.items() if new not in table.columns})
    for spec in signature.inputs:
        column = INPUT_PREFIX + spec.name
        if spec.datatype == "BYTES" and column in table.columns:  # as preparing does: True is the category "True"
            table[column] = table[column].map(str, na_action="ignore")
    return table


def score_windows(
    table: "pd.DataFrame", reference: Reference, settings: DriftSettings, *, retrained: bool = False, seed: int
) -> tuple[WindowScores, ...]:
    """Score the newest windows of a table, oldest first, as ``cut`` cuts them.

    Args:
        retrained: Score them against the table's first rows too.
    """
    spans = cut(table, settings)
    if not spans:
        return ()
    yardstick = Yardstick.of(reference, settings, seed=seed)
    first = table.head(first_rows(table, yardstick)) if retrained else None
    known = None if first is None else yardstick.against(first)
    return tuple(
        score_window(
            table.iloc[start:end],
            yardstick,
            retrained=retrained,
            known=None if first is None or start < len(first) else known,
        )
        for start, end in spans
    )
