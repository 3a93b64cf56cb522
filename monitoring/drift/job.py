"""The drift job: the newest windows of the log against a bundle's reference, a decision and a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from driftwheel.bundle import Bundle
from driftwheel.contracts import Arm
from driftwheel.predictions import INPUT_PREFIX, OK, OUTPUT_PREFIX
from driftwheel.settings import DriftSettings
from monitoring.drift.decision import DriftDecision, decide_drift
from monitoring.drift.monitors import Monitor, build_monitors, users_of
from monitoring.drift.quality import judge_quality, labelled_losses
from monitoring.drift.reference import Reference, load_reference
from monitoring.drift.schema import schema_faults
from monitoring.drift.scores import WindowScores
from monitoring.losses import LossSums

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult:
    """A decision, the scored windows that it followed from, and where the reports lie (None where none was made)."""

    decision: DriftDecision
    windows: tuple[WindowScores, ...]
    rows: int
    """Rows that were there to be cut into windows."""
    report_html: Path | None = None
    report_json: Path | None = None


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
    seed: int = 0,
) -> DriftResult:
    """Compare what a version was asked lately with what it was shipped with.

    Args:
        since: Rows from before do not count, ISO 8601.
        now: The time of the job, ISO 8601; it names the reports.
        window: The user's own table instead of the log: columns named as inputs or as the log's columns, oldest first;
            predictions and ``label`` if they are there.
        html: Write the Evidently report, which takes seconds; the decision does not need it.

    Raises:
        BundleError: The bundle has no usable reference.
    """
    reference = load_reference(bundle)
    table = read_rows(log, bundle, since=since) if window is None else as_logged(window, reference)
    windows = score_windows(table, reference, settings, seed=seed)
    decision = decide_drift(windows, settings)
    if not windows:
        return DriftResult(decision=decision, windows=(), rows=len(table))
    report_html = report_json = None
    if html:
        from monitoring.drift.report import write_report

        newest = table.tail(len(windows) * settings.window_rows)
        report_html, report_json = write_report(reports, reference, newest, decision, now=now, seed=seed)
    return DriftResult(
        decision=decision, windows=windows, rows=len(table), report_html=report_html, report_json=report_json
    )


def read_rows(log: Path, bundle: Bundle, *, since: str | None) -> "pd.DataFrame":
    """The labelled rows that a version answered in traffic, oldest first.

    Not the rows of "recommend": those are the model's choice, not what it was asked. Not pinned ones: those are tests.
    """
    from monitoring.windows import read_feedback, read_predictions, with_labels

    rows = read_predictions(log, bundle.name, version=bundle.version, since=since)
    rows = rows[(rows["kind"] == "infer") & (rows["code"] == OK) & (rows["arm"] != Arm.PINNED)]
    return with_labels(rows, read_feedback(log, bundle.name, since=since))


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
    table: "pd.DataFrame", reference: Reference, settings: DriftSettings, *, seed: int
) -> tuple[WindowScores, ...]:
    """Score the newest whole windows of a table, oldest first, at most ``settings.windows``."""
    size = settings.window_rows
    number = min(len(table) // size, settings.windows)
    if not number:
        return ()
    monitors = build_monitors(reference, window_rows=size, units=settings.units, seed=seed)
    expected = labelled_losses(reference.frame, reference.signature, reference.manifest.task)
    starts = range(len(table) - number * size, len(table), size)
    cut = (table.iloc[start : start + size] for start in starts)
    return tuple(score_window(window, reference, monitors, expected, settings) for window in cut)


def score_window(
    window: "pd.DataFrame",
    reference: Reference,
    monitors: Sequence[Monitor],
    expected: LossSums,
    settings: DriftSettings,
) -> WindowScores:
    """Score one window. A column that is absent is a fault, and its monitors say nothing.

    Args:
        expected: The losses of the reference.
    """
    task = reference.manifest.task
    realized = labelled_losses(window, reference.signature, task)
    users = users_of(window, reference.signature)
    scores = tuple(m.score(window[m.column], users) for m in monitors if m.column in window.columns)
    timed = "at" in window.columns
    return WindowScores(
        start=str(window["at"].iloc[0]) if timed else None,
        end=str(window["at"].iloc[-1]) if timed else None,
        rows=len(window),
        scores=scores,
        quality=judge_quality(expected, realized, task=task, margin=settings.quality_margin, alpha=settings.alpha),
        faults=schema_faults(window, reference),
    )
