"""Put a drift report on record in MLflow, with the run that the version came from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from driftwheel.errors import TrainingError
from driftwheel.settings import Settings
from training.mlflow_store import is_empty, open_client, quiet, shown_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FOLDER = "drift"
"""The artifact folder of a run that reports go to."""

_BATCH = 1000
"""The most metrics that one call may bring."""


def record_drift(
    settings: Settings, run_id: str, files: Sequence[Path], metrics: Mapping[str, float], *, at_s: float
) -> None:
    """Add a report and numbers to a run. Numbers are points of curves ``drift/NAME``, whose steps are seconds since the epoch.
    Of the run's reports the newest ``drift.keep_reports`` stay.

    Args:
        files: The report's, whose names begin alike and end with their time.
        at_s: When they were found, in seconds since the epoch.

    Raises:
        TrainingError: MLflow has no such run, or cannot be reached.
    """
    if is_empty(settings):
        raise TrainingError("nothing is on record in MLflow")
    try:
        client = open_client(settings)
        with quiet():
            points = [_point(name, value, at_s) for name, value in metrics.items()]
            for start in range(0, len(points), _BATCH):
                client.log_batch(run_id, metrics=points[start : start + _BATCH])
            for path in files:
                client.log_artifact(run_id, str(path), FOLDER)
            _expire(client, run_id, settings)
    except Exception as error:  # MLflow's, its database's, or its store's: each has a tree of its own
        reason = str(error).replace(tracking_uri(settings), shown_uri(settings))  # which may hold a password
        raise TrainingError(f"MLflow took no drift report for run {run_id}: {reason}") from error


def _expire(client: "MlflowClient", run_id: str, settings: Settings) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    there = [one.path for one in client.list_artifacts(run_id, FOLDER)]
    old = sorted({PurePosixPath(path).stem for path in there})[: -settings.drift.keep_reports]
    if not old:
        return
    # MLflow's client has no call for it; `mlflow gc` does it so.
    uri = tracking_uri(settings)
    artifacts = str(client.get_run(run_id).info.artifact_uri)
    repository = get_artifact_repository(artifacts, tracking_uri=uri, registry_uri=uri)
    for path in there:
        if PurePosixPath(path).stem in old:
            repository.delete_artifacts(path)


def _point(name: str, value: float, at_s: float) -> "Metric":
    from mlflow.entities import Metric

    shown = re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII)  # columns may be called what metrics may not
    return Metric(f"{FOLDER}/{shown}", value, int(at_s * 1000), int(at_s))
