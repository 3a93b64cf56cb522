"""One turn of the wheel: what ``driftwheel up`` does between its first line and its table.

Each step calls what a command of its own calls, and each finds what an interrupted turn finished before it.
"""

import dataclasses
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from driftwheel.bundle import bundle_folder, read_bundle, read_manifest
from driftwheel.client import Client
from driftwheel.contracts import Task
from driftwheel.errors import DriftwheelError
from driftwheel.files import TEMPORARY_PREFIX, remove_leftovers, write_atomically
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.judging import look
from driftwheel.wheel.lifecycle import current_rollout, enter, make_version, sync_aliases
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.replay import ReplayReport, replay
from driftwheel.wheel.retraining import permission, retrain
from driftwheel.wheel.server import ensured_server, wait_until_loaded
from driftwheel.wheel.sources import Sources, cut_date, remember
from driftwheel.wheel.watching import check_drift
from monitoring.ledger import Ledger
from serving.runtime import ServerAddress

if TYPE_CHECKING:
    import pandas as pd

    from training.data.dataset import Dataset

STEPS = (0.25, 0.5, 1.0)
"""The candidate's shares in ``up``, whose traffic is too little for the default plan's 1 % step."""

WATCH_ROWS = 12_000
"""Ratings replayed before the drift job looks."""

CANARY_ROWS = 8_000
"""Ratings replayed at most while the judge watches a candidate."""

LOOK_EVERY_ROWS = 400
"""Rows between two looks of the judge."""

CANARY_ROWS_PER_S = 400.0
"""While the judge watches, no faster than that, and mixed: it compares latencies by quarters of a second in which both arms
have answered, and recorded ratings are one user's for hundreds of rows."""

_LEFTOVERS_AGE_S = 3600.0


@dataclass(slots=True)
class ModelReport:
    """What a turn did to one model."""

    model: str
    task: Task
    started_with: int = 0
    in_service: int = 0
    traffic: ReplayReport = field(default_factory=ReplayReport)
    drift: str = "not looked at"
    drift_report: Path | None = None
    retrain: str = "not needed"
    verdict: str = "no candidate"
    gate: str = ""
    known_user: int | str | None = None
    """Somebody to ask the server about."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True)
class TurnReport:
    """What a turn did."""

    address: ServerAddress
    cut: str
    models: list[ModelReport]
    seconds: float = 0.0


class Turn:
    """A turn under way.

    Raises:
        DriftwheelError: A step failed; what was there before it goes on serving.
    """

    def __init__(self, settings: Settings, sources: Sources, reporter: Reporter) -> None:
        self._settings = settings
        self._sources = sources
        self._reporter = reporter
        self._cursor = settings.home / "replay.json"

    @contextmanager
    def run(self) -> Generator[TurnReport]:
        """Turn once, and yield the report with the server still up."""
        started = time.monotonic()
        self._tidy()
        cut = self._sources.until or cut_date(self._sources.ratings)
        reports = [ModelReport(self._sources.rating_model, "rating"), ModelReport(self._sources.churn_model, "churn")]
        datasets = {report.model: self._dataset_for_first(report, cut) for report in reports}
        remember(self._settings, dataclasses.replace(self._sources, until=cut))
        for report in reports:
            self._first_version(report, datasets[report.model])
        with ensured_server(self._settings) as address, connect(self._settings, address.target) as client:
            self._reporter.note(f"serving at {address.url}")
            rows = {report.task: self._sources.traffic(report.task, self._settings, since=cut)[0] for report in reports}
            for report in reports:
                self._watch(client, report, rows[report.task])
            for report in reports:
                self._look_for_drift(report)
            for report in reports:
                self._retrain_if_due(report, cut)
            for report in reports:
                self._see_candidate_through(client, report, rows[report.task])
                self._sum_up(report)
            yield TurnReport(address, cut, reports, time.monotonic() - started)

    def _tidy(self) -> None:
        """Delete what killed processes left half-written, where nobody can still be writing."""
        for leftover in self._settings.home.rglob(f"{TEMPORARY_PREFIX}*"):
            remove_leftovers(leftover.parent, older_than_s=_LEFTOVERS_AGE_S, now_s=time.time())

    def _dataset_for_first(self, report: ModelReport, cut: str) -> "Dataset | None":
        """Step 1, for both models before anything is trained; None where a version is in service already."""
        rollout = current_rollout(self._settings, report.model)
        if rollout is not None:
            # Makes sure of it: a kill can have come between the rollout and the registry.
            sync_aliases(self._settings, rollout)
            report.started_with = rollout.stable
            self._reporter.note(f"{report.model} version {rollout.stable} is in service already")
            return None
        with self._reporter.task(f"Preparing {report.model} data") as task:
            dataset = self._sources.prepare(report.task, self._settings, until=cut, learn=False)
            task.finish(f"{sum(dataset.rows.values()):,} rows, fingerprint {dataset.fingerprint[:12]}")
        return dataset

    def _first_version(self, report: ModelReport, dataset: "Dataset | None") -> None:
        """Steps 2 to 4: training, gate, export, and into service."""
        if dataset is None:
            return
        made = make_version(self._settings, report.model, dataset, self._reporter)
        if made.bundle is None:
            raise DriftwheelError(
                f"the first version of {report.model} did not pass the gate: {'; '.join(made.verdict.reasons)}",
                hint="driftwheel models list shows its metrics; train with other data or settings",
            )
        enter(self._settings, made, by="up")
        report.started_with = made.version

    def _replay_next(
        self,
        client: Client,
        report: ModelReport,
        rows: "pd.DataFrame",
        count: int,
        on_progress: Callable[[int, int], None],
        *,
        mixed: bool = False,
    ) -> ReplayReport:
        """Replay the next rows where the last turn left off; none once all have been seen.

        Args:
            mixed: In no order, and no faster than ``CANARY_ROWS_PER_S``. If that is interrupted, they all come again.
        """
        done = self._cursors().get(report.model, 0)
        chunk = rows.iloc[done : done + count]
        chunk = chunk.sample(frac=1.0, random_state=done) if mixed else chunk
        rollout = read_rollout(self._settings.rollouts, report.model)
        signature = read_manifest(bundle_folder(self._settings.models, report.model, rollout.stable)).signature

        def progress(answered: int) -> None:
            if not mixed or answered == len(chunk):
                self._write_cursor(report.model, done + answered)
            on_progress(answered, len(chunk))

        key = None if signature.key_input else "customer"
        part = replay(
            client,
            report.model,
            signature,
            chunk,
            key_column=key,
            rows_per_s=CANARY_ROWS_PER_S if mixed else None,
            on_progress=progress,
        )
        # The log is written in the background; what was just answered is on disk after the next flush.
        time.sleep(2 * self._settings.log.flush_interval_ms / 1000)
        report.traffic.add(part)
        return part

    def _cursors(self) -> dict[str, int]:
        return msgspec.json.decode(self._cursor.read_bytes(), type=dict[str, int]) if self._cursor.exists() else {}

    def _write_cursor(self, model: str, position: int) -> None:
        write_atomically(self._cursor, msgspec.json.encode({**self._cursors(), model: position}))

    def _watch(self, client: Client, report: ModelReport, rows: "pd.DataFrame") -> None:
        """Step 6: traffic for the version in service. One that has a candidate gets its traffic in step 8."""
        rollout = read_rollout(self._settings.rollouts, report.model)
        wait_until_loaded(client, report.model, rollout.stable)
        if rollout.candidate is None:
            what = "ratings in time order" if report.task == "rating" else "customers"
            with self._reporter.task(f"Replaying {what} to {report.model}") as task:
                part = self._replay_next(
                    client, report, rows, WATCH_ROWS, lambda n, all_: task.update(n, all_, f"{n:,} of {all_:,}")
                )
                task.finish(
                    str(part)
                    if part.sent
                    else "all recorded rows have been replayed; driftwheel replay sends them again"
                )

    def _look_for_drift(self, report: ModelReport) -> None:
        """Step 7."""
        with self._reporter.task(f"Looking for drift in {report.model}'s traffic") as task:
            result = check_drift(self._settings, report.model)
            task.finish(result.decision.summary)
        report.drift, report.drift_report = result.decision.summary, result.report_html
        verdict = permission(self._settings, report.model, result.decision)
        report.retrain = "due" if verdict.allowed else verdict.reason

    def _retrain_if_due(self, report: ModelReport, cut: str) -> None:
        """Step 8, first half."""
        if report.retrain != "due":
            return
        reason = f"drift job: {report.drift}"
        outcome = retrain(
            self._settings,
            self._sources,
            report.model,
            self._reporter,
            reason=reason,
            trigger="drift",
            until=cut,
            steps=STEPS,
        )
        report.retrain = outcome.outcome

    def _see_candidate_through(self, client: Client, report: ModelReport, rows: "pd.DataFrame") -> None:
        """Step 8, second half: traffic for both arms, a look of the judge after each part of it."""
        rollout = read_rollout(self._settings.rollouts, report.model)
        if rollout.candidate is None:
            return
        wait_until_loaded(client, report.model, rollout.candidate)
        replayed = 0
        with self._reporter.task(f"Judging {report.model} version {rollout.candidate} on live traffic") as task:
            while rollout.candidate is not None and replayed < CANARY_ROWS:
                sent = self._replay_next(client, report, rows, LOOK_EVERY_ROWS, lambda n, all_: None, mixed=True).sent
                replayed += sent
                verdict, rollout = look(self._settings, report.model)
                report.verdict = verdict.summary
                task.update(replayed, CANARY_ROWS, f"{verdict.decision} at {rollout.weight:.0%}")
                if verdict.decision != "HOLD":
                    self._reporter.note(verdict.summary)
                if not sent and verdict.decision == "HOLD":
                    break  # no more recorded traffic: the candidate stays on trial until there is some
            task.finish(f"{replayed:,} calls, {report.verdict}")

    def _sum_up(self, report: ModelReport) -> None:
        rollout = read_rollout(self._settings.rollouts, report.model)
        report.in_service = rollout.stable
        bundle = read_bundle(self._settings.models, report.model, rollout.stable)
        report.metrics = bundle.manifest.metrics
        report.gate = next((entry.summary for entry in Ledger(self._settings.ledger).latest(report.model, "gate")), "")
        if (key := bundle.manifest.signature.key_input) is not None:
            report.known_user = bundle.vocabularies()[key].entries[0]
