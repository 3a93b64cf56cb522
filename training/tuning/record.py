"""Put a study on record in MLflow."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from driftwheel.files import waiting_lock
from driftwheel.settings import Settings
from training.config import config_fields
from training.data.dataset import Dataset
from training.mlflow_store import KEY_TAG, experiment_id, open_client, quiet
from training.tracking import dataset_input
from training.tuning.best import Tuned
from training.tuning.plots import best_so_far, study_plots
from training.tuning.trials import TrialRow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_BATCH = 1000
"""The most metrics that one call may bring."""


def track_study(
    tuned: Tuned, rows: list[TrialRow], importance: dict[str, float], dataset: Dataset, settings: Settings
) -> str:
    """Record a study as it stands, with parameters, values, data and plots, and return the run's id.

    A study of that many trials that is on record already is found again, so that each of its workers may call this.
    """
    key = f"{tuned.study}-{tuned.trials}"
    with quiet(), waiting_lock(settings.runtime / "tuning" / "record.lock"):
        client = open_client(settings)
        experiment = experiment_id(client, settings)
        query = f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'FINISHED'"
        if found := client.search_runs([experiment], filter_string=query, max_results=1):
            return found[0].info.run_id
        tags = {KEY_TAG: key, "task": tuned.task, "model": tuned.model, "study": tuned.study, "kind": "tuning"}
        run_id = client.create_run(experiment, run_name=f"tuning {key}", tags=tags).info.run_id
        try:
            _log_numbers(client, run_id, tuned, rows, importance)
            client.log_inputs(run_id, [dataset_input(dataset, "tuning")])
            _log_files(client, run_id, rows, importance, tuned.metric)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    return run_id


def _log_numbers(
    client: "MlflowClient", run_id: str, tuned: Tuned, rows: list[TrialRow], importance: dict[str, float]
) -> None:
    from mlflow.entities import Param

    params = {
        **config_fields(tuned.config),
        "best_trial": tuned.trial,
        "metric": tuned.metric,
        "data_fingerprint": tuned.fingerprint,
    }
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    metrics = _metrics(tuned, rows, importance)
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _metrics(tuned: Tuned, rows: list[TrialRow], importance: dict[str, float]) -> "list[Metric]":
    """The step of a trial's value is its number."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    single = {f"best_{tuned.metric}": tuned.value, "trials": float(tuned.trials)}
    single |= {f"trials_{state}": float(sum(row.state == state for row in rows)) for state in ("complete", "pruned")}
    single |= {f"importance_{name}": share for name, share in importance.items()}
    by_trial = [("trial_value", row.number, row.value) for row in rows if row.value is not None]
    by_trial += [("best_so_far", number, value) for number, value in best_so_far(rows)]
    return [Metric(name, value, now_ms, 0) for name, value in single.items()] + [
        Metric(name, value, now_ms, number) for name, number, value in by_trial
    ]


def _log_files(
    client: "MlflowClient", run_id: str, rows: list[TrialRow], importance: dict[str, float], metric: str
) -> None:
    with TemporaryDirectory() as folder:
        for name, figure in study_plots(rows, importance, metric):
            figure.savefig(Path(folder) / name, dpi=100)
        client.log_artifacts(run_id, folder, "plots")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trials.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        client.log_artifact(run_id, str(path))
