"""The training step on several nodes: a TrainJob of Kubeflow Trainer, made and waited for.

Its nodes and this step mount the same home. They run ``driftwheel train``, which leaves the job's result there and the run in
MLflow, where the step then finds them.
"""

from typing import TYPE_CHECKING

from driftwheel.errors import ConfigurationError, TrainingError
from driftwheel.pipelines.steps import check_job
from driftwheel.settings import Settings
from driftwheel.wheel.cluster import TRAIN_JOBS, Cluster, Object, condition, object_name, own_cluster, wait_for
from driftwheel.wheel.job_manifests import train_job_manifest
from driftwheel.wheel.lifecycle import find_dataset
from driftwheel.wheel.progress import Reporter

if TYPE_CHECKING:
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

_DELETION_S = 120.0
"""The most that the deletion of a TrainJob with its pods may take; their ranks save first."""

_SPARE_S = 600.0
"""How much longer than its deadline a TrainJob is waited for: it says itself that it is over."""


def job_name(model: str, job: str) -> str:
    """A TrainJob's name: that of the same training is the same, so a step that is repeated finds it."""
    return object_name("driftwheel", model, job)


def train_job(
    model: str, job: str, *, estimator: str | None, learn: bool, deadline_s: int
) -> "TrainerV1alpha1TrainJob":
    """The TrainJob that trains a job.

    Args:
        job: Its key.
        deadline_s: The TrainJob fails after so many seconds.
    """
    words = ["train", model, "--register-only", *(["--estimator", estimator] if estimator else [])]
    words += ["--learn"] if learn else []
    annotations = {"driftwheel/job": job}
    return train_job_manifest(job_name(model, job), words, annotations=annotations, deadline_s=deadline_s)


def run_train_job(
    cluster: Cluster,
    model: str,
    job: str,
    reporter: Reporter,
    *,
    estimator: str | None,
    learn: bool,
    timeout_s: float,
    every_s: float = 10.0,
) -> None:
    """Have a job trained, and wait until it is. One that runs already is waited for; one that failed is made anew.

    Args:
        timeout_s: The TrainJob is ended after so long.
        every_s: How often it is looked at.

    Raises:
        TrainingError: It failed.
        DriftwheelError: Kubernetes cannot be reached, refuses, or does not say how it ended.
    """
    name = job_name(model, job)
    if (before := cluster.read(TRAIN_JOBS, name)) is not None and condition(before, "Failed"):
        reporter.note(f"TrainJob {name} failed before; it is made anew")
        cluster.delete(TRAIN_JOBS, name)
        wait_for(
            lambda: cluster.read(TRAIN_JOBS, name) is None or None,
            what=f"deleting TrainJob {name}",
            timeout_s=_DELETION_S,
            every_s=every_s,
        )
        before = None
    if before is None:
        made = train_job(model, job, estimator=estimator, learn=learn, deadline_s=max(1, int(timeout_s)))
        cluster.create(TRAIN_JOBS, made.to_dict())
    with reporter.task(f"Training {model} in TrainJob {name}") as task:
        ended = wait_for(
            lambda: _ended(cluster, name), what=f"TrainJob {name}", timeout_s=timeout_s + _SPARE_S, every_s=every_s
        )
        if (failed := condition(ended, "Failed")) is not None:
            raise TrainingError(
                f"TrainJob {name} failed: {failed.get('reason', '')}: {failed.get('message', 'it does not say why')}",
                hint=f"kubectl logs --selector jobset.sigs.k8s.io/jobset-name={name} says more",
            )
        task.finish("complete")


def train_elsewhere(
    settings: Settings,
    model: str,
    reporter: Reporter,
    *,
    fingerprint: str,
    job: str,
    estimator: str | None,
    learn: bool,
    cluster: Cluster | None = None,
    every_s: float = 10.0,
) -> None:
    """Have a job trained by a TrainJob, unless it is on record already.

    Args:
        fingerprint: Of the prepared data.
        job: The job's key.
        cluster: Where; the one that this pod runs in unless given.
        every_s: How often the TrainJob is looked at.

    Raises:
        TrainingError: It failed, or it is not what would be trained with these settings.
        ConfigurationError: It is done, and its result is not here.
        DriftwheelError: Kubernetes cannot be reached, or refuses.
    """
    from training.tracking import finished_run

    check_job(settings, model, reporter, dataset=find_dataset(settings, fingerprint), job=job, estimator=estimator)
    if finished_run(settings, job) is not None:
        reporter.note(f"job {job} is on record: it was trained before")
        return
    run_train_job(
        cluster or own_cluster(),
        model,
        job,
        reporter,
        estimator=estimator,
        learn=learn,
        timeout_s=settings.training.timeout_s,
        every_s=every_s,
    )
    if finished_run(settings, job) is None:
        raise ConfigurationError(
            f"TrainJob {job_name(model, job)} is complete, but job {job} is not on record here",
            hint="its nodes and the pipeline's steps must mount the same home and have the same settings",
        )


def _ended(cluster: Cluster, name: str) -> Object | None:
    found = cluster.read(TRAIN_JOBS, name)
    if found is None:
        raise TrainingError(f"TrainJob {name} was deleted while it was waited for")
    return found if condition(found, "Complete") or condition(found, "Failed") else None
