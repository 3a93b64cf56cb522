"""What a cluster that is to train is asked for: a Job as one of its CronJobs would make it, or a TrainJob."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings
from driftwheel.wheel.cluster import CRON_JOBS, JOBS, TRAIN_JOBS, Cluster, Kind, Object

if TYPE_CHECKING:
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

RUNTIME = "driftwheel"
"""The TrainingRuntime in ``k8s/training``, which says how many nodes there are and what they are."""

COMMAND, REASON = "TRAIN", "REASON"
"""Variables of that runtime: what its first node does, as words behind ``driftwheel --home ...``, and a retrain's reason."""

_KEPT_S = 86_400
"""How long a Job that has ended stays for people to look at, where its template does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrain:
    """One retrain that a cluster is to do."""

    model: str
    reason: str
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a cluster does a retrain."""

    kind: Kind
    title: str
    """What people call an object of the kind."""
    pod_label: str
    """The label that its pods bear, whose value is its name."""
    manifest: Callable[[Settings, Cluster, str, Retrain, dict[str, str]], Object]
    """Makes the object; gets its name, the retrain, and annotations that it is to bear."""


def train_job_manifest(
    name: str,
    words: Sequence[str],
    *,
    annotations: Mapping[str, str],
    deadline_s: int,
    reason: str | None = None,
) -> "TrainerV1alpha1TrainJob":
    """A TrainJob whose first node runs a command of ours.

    Args:
        words: Those behind ``driftwheel --home ...``; a shell splits them, and knows no quotes in them.
        deadline_s: It fails after so many seconds.
        reason: Given to the command as ``--reason``, whatever it says.
    """
    from kubeflow_trainer_api import models

    variables = {COMMAND: " ".join(words), **({REASON: reason} if reason is not None else {})}
    return models.TrainerV1alpha1TrainJob(
        apiVersion=f"{TRAIN_JOBS.group}/{TRAIN_JOBS.version}",
        kind="TrainJob",
        metadata=models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(name=name, annotations=dict(annotations)),
        spec=models.TrainerV1alpha1TrainJobSpec(
            runtimeRef=models.TrainerV1alpha1RuntimeRef(
                apiGroup=TRAIN_JOBS.group, kind="TrainingRuntime", name=RUNTIME
            ),
            activeDeadlineSeconds=deadline_s,
            trainer=models.TrainerV1alpha1Trainer(
                env=[models.IoK8sApiCoreV1EnvVar(name=key, value=value) for key, value in variables.items()]
            ),
        ),
    )


def job_manifest(template: Object, name: str, retrain: Retrain, annotations: Mapping[str, str]) -> Object:
    """The Job that a CronJob would make, with another retrain's words in its container.

    Args:
        template: The CronJob. One of its containers has ``retrain`` among its ``args``: what stands before it is kept.

    Raises:
        ConfigurationError: It has no such container, or no deadline.
    """
    called = template["metadata"]["name"]
    job = copy.deepcopy(template["spec"]["jobTemplate"])
    spec, labels = job["spec"], job.get("metadata", {}).get("labels", {})
    if "activeDeadlineSeconds" not in spec:
        raise ConfigurationError(
            f"CronJob {called} must have spec.jobTemplate.spec.activeDeadlineSeconds, and has none"
        )
    containers = [one for one in spec["template"]["spec"]["containers"] if "retrain" in one.get("args", [])]
    if len(containers) != 1:
        raise ConfigurationError(
            f"CronJob {called} must have one container with 'retrain' among its args, got {len(containers)}",
            hint="k8s/wheel/retrain.yaml is one; retrain.job_template names the CronJob",
        )
    (container,) = containers
    before = container["args"][: container["args"].index("retrain")]
    words = ["retrain", retrain.model, "--reason", retrain.reason, "--trigger", retrain.trigger]
    container["args"] = [*before, *words]
    spec.setdefault("ttlSecondsAfterFinished", _KEPT_S)
    metadata = {"name": name, "labels": labels, "annotations": dict(annotations)}
    return {"apiVersion": f"{JOBS.group}/{JOBS.version}", "kind": "Job", "metadata": metadata, "spec": spec}


def _job(settings: Settings, cluster: Cluster, name: str, retrain: Retrain, annotations: dict[str, str]) -> Object:
    called = settings.retrain.job_template
    template = cluster.read(CRON_JOBS, called)
    if template is None:
        raise ConfigurationError(
            f"retrain.job_template must name a CronJob of the namespace {cluster.namespace}, got {called!r}",
            hint="k8s/wheel has driftwheel-retrain",
        )
    return job_manifest(template, name, retrain, annotations)


def _train_job(
    settings: Settings, cluster: Cluster, name: str, retrain: Retrain, annotations: dict[str, str]
) -> Object:
    del cluster
    words = ["retrain", retrain.model]
    if retrain.trigger != "by hand":  # which the command takes for granted
        words += ["--trigger", retrain.trigger]
    deadline_s = max(1, int(settings.training.timeout_s))
    made = train_job_manifest(name, words, annotations=annotations, deadline_s=deadline_s, reason=retrain.reason)
    return made.to_dict()


WORKS = {
    "kubernetes-job": Work(kind=JOBS, title="Job", pod_label="batch.kubernetes.io/job-name", manifest=_job),
    "train-job": Work(
        kind=TRAIN_JOBS, title="TrainJob", pod_label="jobset.sigs.k8s.io/jobset-name", manifest=_train_job
    ),
}
"""By ``retrain.runner``."""
