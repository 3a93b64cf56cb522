"""What the steps of the pipeline do: the same functions that ``driftwheel train --enter`` calls, a step at a time.

All steps work on one home. What goes from one to the next are names: a fingerprint, a job, a version; what they name lies in
the home and in MLflow. Nothing here knows Kubeflow.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from driftwheel.bundle import Bundle, read_bundle
from driftwheel.errors import ConfigurationError, TrainingError
from driftwheel.rollout import Rollout
from driftwheel.settings import Settings
from driftwheel.wheel.dry_run import TrainingPlan, plan_training, planned_jobs
from driftwheel.wheel.lifecycle import (
    Entry,
    TrackedVersion,
    champion_metrics,
    enter_bundle,
    export_version,
    find_dataset,
    judge_version,
    train_version,
)
from driftwheel.wheel.parameters import check_estimator, chosen_parameters
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.sources import Sources, recall, remember

if TYPE_CHECKING:
    from training.answers import Answers
    from training.data.dataset import Dataset
    from training.gate import GateVerdict
    from training.job import TrainedModel

_PACKAGED: dict[str, Any] = {"ratings": {}, "customers": {}}


def sources_from(settings: Settings, text: str) -> Sources:
    """The tables that a run names.

    Args:
        text: Fields of ``Sources`` as JSON, those that are not as they are by default:
            ``{"ratings": {"path": "s3://..."}}``. Empty: what this home was trained on, or else the packaged tables.

    Raises:
        ConfigurationError: It is no JSON, a field is unknown, or has another type.
    """
    if not text:
        return recall(settings) or msgspec.convert(_PACKAGED, Sources)
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
        found = msgspec.convert({**_PACKAGED, **given}, Sources)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"sources cannot be used: {error}, got {text!r}") from None
    if unknown := set(given) - set(Sources.__dataclass_fields__):
        known = ", ".join(Sources.__dataclass_fields__)
        raise ConfigurationError(f"sources has no field {', '.join(sorted(unknown))}; its fields are {known}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Data, and the training that it is for."""

    dataset: "Dataset"
    job: str
    """The key of the job that makes the weights to be shipped: data, configuration and seed. Two runs with the same one
    would train the same."""
    plan: TrainingPlan


def prepare(
    settings: Settings, model: str, reporter: Reporter, *, sources: Sources, estimator: str | None, learn: bool
) -> Prepared:
    """Prepare a model's data, or find it prepared, and say what would be trained on it.

    Raises:
        DataError: A table cannot be used, or none is known for that model.
        ConfigurationError: The task is not learned by that estimator.
    """
    task = sources.task_of(model)
    check_estimator(task, estimator)
    dataset = sources.prepare(task, settings, until=sources.until, learn=learn)
    remember(settings, sources)
    return Prepared(
        dataset=dataset,
        job=_job(settings, model, dataset, reporter, estimator),
        plan=plan_training(settings, model, dataset, reporter, estimator=estimator, enters=True),
    )


def _job(settings: Settings, model: str, dataset: "Dataset", reporter: Reporter, estimator: str | None) -> str:
    parameters = chosen_parameters(settings, model, dataset, reporter, estimator=estimator)
    return planned_jobs(settings, dataset, parameters.config)["shipped"]


def train(
    settings: Settings, model: str, reporter: Reporter, *, fingerprint: str, job: str, estimator: str | None
) -> TrackedVersion:
    """Train, or go on where an interrupted step stopped, or find it trained: by this step before, or by a TrainJob.

    Args:
        fingerprint: Of the prepared data.
        job: What ``prepare`` said would be trained.

    Raises:
        TrainingError: The job failed; or it would be another one now, since settings or tuned parameters have changed.
        DataError: The data is not in this home.
    """
    dataset = find_dataset(settings, fingerprint)
    check_job(settings, model, reporter, dataset=dataset, job=job, estimator=estimator)
    return train_version(settings, model, dataset, reporter, estimator=estimator)


def check_job(
    settings: Settings, model: str, reporter: Reporter, *, dataset: "Dataset", job: str, estimator: str | None
) -> None:
    """Make sure that what would be trained here is what was planned.

    Raises:
        TrainingError: It is not.
    """
    now = _job(settings, model, dataset, reporter, estimator)
    if now != job:
        raise TrainingError(
            f"the run was to train job {job}, and would train {now} here: the seed, the precision, the parameters or the "
            f"tuned parameters of {model} have changed since its data was prepared",
            hint="start the pipeline again; all steps must have the same settings",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a version and the one in service reach on the same rows, which neither has learned from."""

    metrics: dict[str, float]
    champion: dict[str, float] | None
    """None where nothing else is in service; empty where what is knows those rows."""
    answers: "Answers"
    """The version's own, row by row."""


def evaluate(settings: Settings, model: str, version: int, trained: "TrainedModel", fingerprint: str) -> Evaluation:
    """Gather what the gate judges by.

    Raises:
        DataError: The data is not in this home.
        TrainingError: The version's run has no answers on record.
    """
    from training.answers import FILE, read_answers
    from training.config import config_from
    from training.mlflow_store import EVALUATION_FOLDER
    from training.registry import Registry
    from training.run_record import fetch_file

    dataset = find_dataset(settings, fingerprint)
    champion = champion_metrics(settings, model, version, dataset, config_from(trained.task, trained.config))
    run_id = Registry(settings).run_of(model, version)
    with TemporaryDirectory() as folder:
        path = fetch_file(settings, run_id, f"{EVALUATION_FOLDER}/{FILE}", Path(folder))
        if path is None:
            raise TrainingError(f"the run of version {version} of {model} has no answers on record")
        return Evaluation(metrics=trained.metrics, champion=champion, answers=read_answers(path))


def gate(
    settings: Settings,
    model: str,
    version: int,
    trained: "TrainedModel",
    champion: dict[str, float] | None,
    reporter: Reporter,
    *,
    fingerprint: str,
) -> "GateVerdict":
    """Judge, and write the verdict into the ledger.

    Raises:
        DataError: The data is not in this home.
    """
    dataset = find_dataset(settings, fingerprint)
    return judge_version(settings, model, version, dataset, trained, champion, reporter)


def export(
    settings: Settings, model: str, version: int, trained: "TrainedModel", reporter: Reporter, *, fingerprint: str
) -> Bundle:
    """Write a version's bundle into the home, or find it there.

    Raises:
        ExportError: A graph differs from the model.
    """
    from training.data.refit import refit_dataset
    from training.registry import Registry

    full = refit_dataset(find_dataset(settings, fingerprint))
    run_id = Registry(settings).run_of(model, version)
    return export_version(settings, model, version, run_id, trained, full, reporter)


def deploy(settings: Settings, model: str, version: int) -> tuple[Entry, Rollout | None]:
    """Let an exported version in: the first one serves at once, later ones go on trial. Done again, it changes nothing.

    Raises:
        RolloutError: Another candidate is on trial.
        BundleError: The bundle is damaged.
    """
    return enter_bundle(settings, read_bundle(settings.models, model, version), by="pipeline")
