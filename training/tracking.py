"""Put a training run on record in MLflow."""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driftwheel.settings import Settings
from training.answers import FILE as ANSWERS
from training.answers import measure, write_answers
from training.data.dataset import Dataset
from training.importance import Importance, permutation_importance
from training.job import EpochEvent, TrainedModel, write_json
from training.launch import Trained
from training.logged_model import WriteGraph, log_model
from training.mlflow_store import (
    CONTEXT_TAG,
    EVALUATION_FOLDER,
    KEY_TAG,
    WEIGHTS_FOLDER,
    experiment_id,
    is_empty,
    open_client,
    quiet,
)
from training.models.matrix_factorization import MatrixFactorization
from training.plots import figures, training_pictures
from training.ranking_record import write_rankings
from training.run_report import FILE as REPORT
from training.run_report import RunFacts, write_run_report

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_BATCH = 1000
"""The most metrics that one call may bring."""


def track(
    trained: Trained,
    dataset: Dataset,
    settings: Settings,
    *,
    full: Dataset,
    write_graph: WriteGraph,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Record a run with its parameters, metrics, data, plots, report and model, and return its id.

    Metrics and plots are of what was measured on the test split of ``dataset``; the model and its weights are those
    shipped, of ``full``. The same job recorded before is found again; a run that was cut off is marked as killed, and
    recorded anew.

    Args:
        write_graph: Writes the shipped model's graph.
        tags: What else is to be known of it, where its parameters came from for one.
    """
    shipped = trained.shipped
    client = open_client(settings)
    with quiet():
        experiment = experiment_id(client, settings)
        for run in _runs_of(client, experiment, shipped.key):
            if run.info.status == "FINISHED":
                return run.info.run_id
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
        run_id = client.create_run(experiment, run_name=shipped.key, tags=_tags(shipped, full) | dict(tags)).info.run_id
        try:
            _log_numbers(client, run_id, shipped, dataset, full)
            _log_files(client, run_id, trained, dataset, full)
            log_model(run_id, full, settings, write_graph)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    return run_id


def finished_run(settings: Settings, key: str) -> str | None:
    """The id of the run that has a job on record; None where there is none. Nothing is made for it."""
    if is_empty(settings):
        return None
    client = open_client(settings)
    with quiet():
        experiment = client.get_experiment_by_name(settings.tracking.experiment)
        found = _runs_of(client, experiment.experiment_id, key) if experiment else []
    return next((run.info.run_id for run in found if run.info.status == "FINISHED"), None)


def _runs_of(client: "MlflowClient", experiment: str, key: str) -> "list[Run]":
    return list(client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'"))


def _tags(trained: TrainedModel, dataset: Dataset) -> dict[str, str]:
    tags = {KEY_TAG: trained.key, "task": trained.task, "code_revision": trained.code_revision}
    return tags | ({"data_until": dataset.data_until} if dataset.data_until else {})


def _log_numbers(client: "MlflowClient", run_id: str, trained: TrainedModel, dataset: Dataset, full: Dataset) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    params = {
        **trained.config,
        "seed": trained.seed,
        "ranks": trained.ranks,
        "device": trained.device,
        "data_fingerprint": full.fingerprint,
        "evaluation_fingerprint": dataset.fingerprint,
        "refit_rows": trained.refit_rows,
        "refit_epochs": trained.refit_epochs,
        "data_source": dataset.source,
        **{f"rows_{split}": rows for split, rows in dataset.rows.items()},
        **{f"dropped_{reason.replace(' ', '_')}": rows for reason, rows in dataset.dropped.items()},
    }
    metrics = [
        Metric(name, value, now_ms, event.epoch)
        for event in trained.history
        for name, value in _of_epoch(event).items()
        if value is not None
    ]
    metrics += [Metric(f"test_{name}", value, now_ms, 0) for name, value in trained.metrics.items()]
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    client.log_inputs(run_id, [dataset_input(dataset, "evaluation"), dataset_input(full, "training")])


def _of_epoch(event: EpochEvent) -> dict[str, float | None]:
    """MLflow shows what begins with ``system/`` on a page of its own."""
    return {
        "train_loss": event.train_loss,
        "valid_metric": event.valid_metric,
        "epoch_seconds": event.seconds,
        "system/cpu_seconds": event.cpu_seconds,
        "system/peak_memory_megabytes": event.peak_memory_mb,
    }


def dataset_input(dataset: Dataset, context: str) -> Any:
    """A dataset as an input of a run, with what it was used for."""
    import msgspec
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    entity = MlflowDataset(
        name=f"{dataset.task} {dataset.fingerprint[:16]}",
        digest=dataset.fingerprint[:32],
        source_type="local" if "://" not in dataset.source else "remote",
        source=msgspec.json.encode({"uri": dataset.source}).decode(),
        profile=msgspec.json.encode({"rows": dataset.rows, "dropped": dataset.dropped}).decode(),
    )
    return DatasetInput(entity, [InputTag(CONTEXT_TAG, context)])


def _log_files(client: "MlflowClient", run_id: str, trained: Trained, dataset: Dataset, full: Dataset) -> None:
    """Answers and rankings on the test split, importance, plots, the page of them all, and the weights."""
    measured = measure(trained.measured, dataset)
    importance: list[Importance] = []
    if dataset.task == "churn":
        importance = permutation_importance(
            measured.model, dataset.signature, measured.split, seed=trained.shipped.seed
        )
    pictures = training_pictures(
        trained.evaluated, trained.shipped.metrics, measured.predicted, measured.split.label, importance
    )
    facts = RunFacts(
        evaluated=trained.evaluated,
        shipped=trained.shipped,
        dataset=dataset,
        full=full,
        pictures=pictures,
        importance=importance,
    )
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "plots").mkdir()
        for name, figure in figures(pictures):
            figure.savefig(folder / "plots" / name, dpi=100)
        (folder / EVALUATION_FOLDER).mkdir()
        write_answers(folder / EVALUATION_FOLDER / ANSWERS, dataset, measured.predicted)
        if isinstance(measured.model, MatrixFactorization):
            write_rankings(folder / EVALUATION_FOLDER, measured.model, measured.dataset)
        if importance:
            write_json(folder / EVALUATION_FOLDER / "importance.json", importance)
        (folder / REPORT).write_bytes(write_run_report(facts))
        client.log_artifacts(run_id, scratch)
    for file in sorted(trained.shipped.folder.iterdir()):
        client.log_artifact(run_id, str(file), WEIGHTS_FOLDER)
