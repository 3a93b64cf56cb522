"""Recorded rows sent to a running server as traffic, in their order, with what really happened as feedback."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.client import Client, ClientError, PendingAnswer
from driftwheel.contracts import Signature
from driftwheel.errors import ConfigurationError, DataError
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.sources import Sources

if TYPE_CHECKING:
    import pandas as pd

IN_FLIGHT = 32
"""Calls under way at once."""

FEEDBACK_ROWS = 250
"""Labels sent together."""


@dataclass(slots=True)
class ReplayReport:
    """What became of the rows."""

    sent: int = 0
    labelled: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    """Failures by code."""
    by_arm: Counter[str] = field(default_factory=Counter[str])
    by_version: Counter[int] = field(default_factory=Counter[int])

    def add(self, other: "ReplayReport") -> None:
        """Add another report's counts to this one's."""
        self.sent += other.sent
        self.labelled += other.labelled
        self.failed.update(other.failed)
        self.by_arm.update(other.by_arm)
        self.by_version.update(other.by_version)

    def __str__(self) -> str:
        failures = sum(self.failed.values())
        return f"{self.sent:,} calls, {self.labelled:,} labels, {failures} failed"


def replay(
    client: Client,
    model: str,
    signature: Signature,
    rows: "pd.DataFrame",
    *,
    key_column: str | None = None,
    rows_per_s: float | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ReplayReport:
    """Send each row as one gRPC call, and its label (the column that the signature names) as feedback.

    Args:
        rows: Columns named as the signature's inputs, and the label's.
        key_column: What the canary split hashes, where the signature has no key of its own.
        rows_per_s: No faster than that; None: as fast as they are answered.

    Raises:
        ClientError: Feedback was refused. Failed calls are counted, not raised.
        DataError: The rows lack a column.
    """
    if absent := [
        name for name in [*(spec.name for spec in signature.inputs), signature.label] if name not in rows.columns
    ]:
        raise DataError(
            f"the rows to replay have no column {absent[0]!r}, which {model} takes; they have {', '.join(rows.columns)}",
            hint="name the table that the model was trained on",
        )
    report = ReplayReport()
    columns = {spec.name: _column(rows[spec.name], spec.datatype) for spec in signature.inputs}
    labels = rows[signature.label].to_numpy(dtype=np.float64)
    keys = rows[key_column].astype(str).tolist() if key_column else None
    pending: deque[tuple[int, PendingAnswer]] = deque()
    feedback: list[tuple[str, int, float]] = []
    began = time.monotonic()
    for row in range(len(rows)):
        if rows_per_s is not None:
            time.sleep(max(began + row / rows_per_s - time.monotonic(), 0.0))
        tensors = {name: values[row : row + 1] for name, values in columns.items()}
        pending.append((row, client.start_infer(model, tensors, routing_key=keys[row] if keys else None)))
        if len(pending) == IN_FLIGHT:
            _collect(*pending.popleft(), labels, feedback, report)
        if len(feedback) >= FEEDBACK_ROWS:
            _send(client, feedback, report)
            on_progress(row + 1)
    for row, answer in pending:
        _collect(row, answer, labels, feedback, report)
    _send(client, feedback, report)
    on_progress(len(rows))
    return report


def _column(values: "pd.Series[Any]", datatype: str) -> NDArray[Any]:
    if datatype == "BYTES":
        return values.where(values.notna(), None).to_numpy(dtype=object)
    return values.to_numpy(dtype=np.int64 if datatype == "INT64" else np.float32)


def _collect(
    row: int,
    answer: PendingAnswer,
    labels: NDArray[np.float64],
    feedback: list[tuple[str, int, float]],
    report: ReplayReport,
) -> None:
    report.sent += 1
    try:
        given = answer.result()
    except ClientError as error:
        report.failed[error.code] += 1
        return
    report.by_arm[given.arm] += 1
    report.by_version[given.version] += 1
    if np.isfinite(labels[row]):
        feedback.append((given.prediction_id, 0, labels[row]))


def _send(client: Client, feedback: list[tuple[str, int, float]], report: ReplayReport) -> None:
    if feedback:
        report.labelled += client.feedback(feedback)
        feedback.clear()


def replay_source(
    settings: Settings,
    sources: Sources,
    model: str,
    reporter: Reporter,
    *,
    target: str | None,
    since: str | None,
    limit: int | None,
    rows_per_s: float | None = None,
) -> ReplayReport:
    """Replay a source's rows to a server: the ratings from ``since`` on, or the customers kept out of training.

    Raises:
        ConfigurationError: No server of this home is up and no target was named.
    """
    from driftwheel.wheel.server import running_server

    if target is None:
        address = running_server(settings)
        if address is None:
            raise ConfigurationError(f"no server serves {settings.home}", hint="start one with driftwheel serve")
        target = address.target
    rows, key = sources.traffic(sources.task_of(model), settings, since=since)
    rows = rows if limit is None else rows.head(limit)
    rollout = read_rollout(settings.rollouts, model)
    signature = read_manifest(bundle_folder(settings.models, model, rollout.stable)).signature
    with connect(settings, target) as client, reporter.task(f"Replaying {len(rows):,} rows to {model}") as task:
        report = replay(
            client,
            model,
            signature,
            rows,
            key_column=key,
            rows_per_s=rows_per_s,
            on_progress=lambda n: task.update(n, len(rows), f"{n:,}"),
        )
        task.finish(str(report))
    return report
