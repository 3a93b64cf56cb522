"""The pipeline: prepare -> train -> evaluate -> gate -> export -> deploy.

There are two graphs of the same steps. In the cluster's, export and deploy hang on the gate's verdict (``dsl.If``), so that no
pod is started for a version that was refused. kfp's runner on this machine takes every condition for false; so the local graph
has none. The steps behind the gate look at the verdict themselves in both.
"""

# pyright: reportUntypedFunctionDecorator=false
# (kfp has no types of its own)

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from driftwheel.files import replaced
from driftwheel.pipelines import components

IMAGE = components.IMAGE
HOME = "/home/driftwheel"
CLAIM = "driftwheel-home"
SETTINGS = "driftwheel-pipeline"
"""A ConfigMap that may be there, for what all steps are to know."""
STORE_KEYS = "driftwheel-store"
"""The Secret that may be there, with the keys of the store of tables and bundles: the publisher's (docs/kubernetes.md)."""

_DESCRIPTION = "Prepares data, trains a version, judges it beside the one in service, and lets it in if it passes."
_USER = 10001
"""Of the images."""
_HOUR_S = 3600

_OF_SETTINGS = {"tracking-uri": "DRIFTWHEEL_TRACKING__URI", "seed": "DRIFTWHEEL_TRAINING__SEED"}
_OF_STORE = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}

Task = Any
"""A ``kfp.dsl.PipelineTask``, or an output of one: kfp has no types of its parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tasks:
    prepare: Task
    train: Task
    evaluate: Task
    gate: Task


def _until_the_gate(
    *, home: Task, model: Task, estimator: Task, learn: Task, train_job: Task, **target: Task
) -> _Tasks:
    what = {"home": home, "model": model}
    prepare = _step(components.prepare(**what, estimator=estimator, learn=learn, **target))
    fingerprint, job = prepare.outputs["fingerprint"], prepare.outputs["job"]
    # Known by its job, that is by data, configuration and seed: the same one is never trained twice. The other steps depend
    # on what is in service, or on tables that change behind their names.
    train = _step(
        components.train(
            **what, fingerprint=fingerprint, job=job, estimator=estimator, learn=learn, train_job=train_job
        ),
        cached=True,
    )
    trained = {"version": train.outputs["version"], "fingerprint": fingerprint, "trained": train.outputs["trained"]}
    evaluate = _step(components.evaluate(**what, **trained))
    gate = _step(components.gate(**what, **trained, metrics=evaluate.outputs["metrics"]))
    return _Tasks(prepare=prepare, train=train, evaluate=evaluate, gate=gate)


def _behind_the_gate(tasks: _Tasks, *, home: Task, model: Task, store: Task, service: Task) -> tuple[Task, Task]:
    version, passed = tasks.train.outputs["version"], tasks.gate.outputs["passed"]
    what = {"home": home, "model": model, "version": version, "passed": passed}
    export = _step(
        components.export(
            **what, fingerprint=tasks.prepare.outputs["fingerprint"], trained=tasks.train.outputs["trained"]
        )
    )
    deploy = _step(components.deploy(**what, store=store, service=service, bundle=export.outputs["bundle"]))
    return export, deploy


def _step(task: Task, *, cached: bool = False) -> Task:
    """Every step finds what it did before, so it may be repeated: what failed may have been the network, or a node."""
    task.set_caching_options(enable_caching=cached)
    return task.set_retry(num_retries=2, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")


def cluster_pipeline(*, image: str, claim: str) -> Any:
    """The pipeline for Kubeflow.

    Args:
        image: What all steps run in: of the Dockerfile's target ``training``, with a tag or a digest.
        claim: The PersistentVolumeClaim that holds the home; every step mounts it.
    """

    @dsl.pipeline(name="driftwheel", description=_DESCRIPTION)
    def pipeline(
        model: str = "mf",
        sources: str = "",
        estimator: str = "",
        learn: bool = False,
        train_job: bool = False,
        store: str = "",
        service: str = "",
    ) -> None:
        target = {"store": store, "service": service}
        tasks = _until_the_gate(
            home=HOME, model=model, sources=sources, estimator=estimator, learn=learn, train_job=train_job, **target
        )
        with dsl.If(tasks.gate.outputs["passed"] == True, name="passed the gate"):  # noqa: E712 (it becomes an expression)
            export, deploy = _behind_the_gate(tasks, home=HOME, model=model, **target)
        place = {"image": image, "claim": claim}
        _place(tasks.prepare, **place, cpu=1, memory="4Gi", timeout_s=_HOUR_S)
        _place(tasks.train, **place, cpu=2, memory="8Gi", timeout_s=12 * _HOUR_S)
        for task in (tasks.evaluate, tasks.gate, export, deploy):
            _place(task, **place, cpu=1, memory="4Gi", timeout_s=_HOUR_S)
        for task in (tasks.prepare, deploy):  # which read tables from a store, and write to one
            kubernetes.use_secret_as_env(task, STORE_KEYS, _OF_STORE, optional=True)

    return pipeline


def _place(task: Task, *, image: str, claim: str, cpu: int, memory: str, timeout_s: int) -> None:
    """What runs it, as whom, on which home, and how much it may take: of processors, twice its request."""
    task.set_container_image(image)
    task.set_cpu_request(str(cpu)).set_cpu_limit(str(2 * cpu))
    task.set_memory_request(memory).set_memory_limit(memory)
    kubernetes.mount_pvc(task, pvc_name=claim, mount_path=HOME)
    kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_USER, run_as_non_root=True)
    kubernetes.set_timeout(task, timeout_s)
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "driftwheel")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "pipeline")
    kubernetes.use_config_map_as_env(task, SETTINGS, _OF_SETTINGS, optional=True)


class LocalOutcome(NamedTuple):
    """What the local pipeline hands back: parameters, and artifacts of its steps."""

    version: int
    passed: bool
    reasons: str
    entry: str
    metrics: dsl.Metrics
    classification: dsl.ClassificationMetrics
    comparison: dsl.Markdown
    verdict: dsl.Markdown


@dsl.pipeline(name="driftwheel-local", description=_DESCRIPTION)
def local_pipeline(home: str, model: str, sources: str, estimator: str, learn: bool, store: str) -> LocalOutcome:
    """The pipeline for ``kfp.local``."""
    target = {"store": store, "service": ""}
    tasks = _until_the_gate(
        home=home, model=model, sources=sources, estimator=estimator, learn=learn, train_job=False, **target
    )
    _, deploy = _behind_the_gate(tasks, home=home, model=model, **target)
    return LocalOutcome(
        version=tasks.train.outputs["version"],
        entry=deploy.outputs["entry"],
        **{name: tasks.gate.outputs[name] for name in ("passed", "reasons", "verdict")},
        **{name: tasks.evaluate.outputs[name] for name in ("metrics", "classification", "comparison")},
    )


def compile_pipeline(path: Path, *, image: str = IMAGE, claim: str = CLAIM) -> None:
    """Write the pipeline for Kubeflow as YAML.

    Args:
        path: Where to; its name must end in ``.yaml``.
        image: As for ``cluster_pipeline``.
        claim: As for ``cluster_pipeline``.
    """
    from kfp.compiler import Compiler

    with replaced(path) as temporary:
        Compiler().compile(cluster_pipeline(image=image, claim=claim), package_path=str(temporary))
