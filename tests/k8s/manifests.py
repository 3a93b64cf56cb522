"""What the overlays build to, and ways through it."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.relative_to(K8S).as_posix() for path in K8S.glob("overlays/*/kustomization.yaml"))
TARGETS = [*OVERLAYS, *(folder for folder in ("mlflow", "training") if (K8S / folder / "kustomization.yaml").exists())]
"""Everything that a person applies."""

Object = dict[str, Any]


def _builder() -> list[str]:
    """The command that builds a folder; Debian's kubectl is older than what the overlays are written in."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        done = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True)
        if "Kustomize Version: v5" in done.stdout:
            return ["kubectl", "kustomize"]
    pytest.skip("needs kustomize 5, by itself or in kubectl 1.27 or newer (kubernetes.io/docs/tasks/tools)")


def build(folder: Path) -> str:
    """What ``kubectl apply -k FOLDER`` would send."""
    done = subprocess.run([*_builder(), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return done.stdout


@functools.cache
def text(target: str) -> str:
    """What ``kubectl apply -k k8s/TARGET`` would send."""
    return build(K8S / target)


@functools.cache
def built(target: str) -> tuple[Object, ...]:
    """The objects of a target."""
    return tuple(yaml.safe_load_all(text(target)))


def of_kind(target: str, *kinds: str) -> list[Object]:
    return [one for one in built(target) if one["kind"] in kinds]


def named(target: str, kind: str, name: str) -> Object:
    (found,) = [one for one in of_kind(target, kind) if one["metadata"]["name"] == name]
    return found


def pod_templates(target: str) -> Iterator[tuple[str, Object]]:
    """Every pod template, by the kind and name of what it belongs to; ``{"metadata": ..., "spec": ...}``."""
    for one in built(target):
        name, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield name, spec["template"]
        elif one["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield f"{name} {job['name']}", job["template"]["spec"]["template"]
        elif one["kind"] == "ServingRuntime":
            (service,) = of_kind(target, "InferenceService")
            predictor = {k: v for k, v in service["spec"]["predictor"].items() if k != "model"}
            yield name, {"metadata": {"labels": {}}, "spec": {**predictor, **spec}}


def containers(template: Object) -> list[Object]:
    """All containers of a template, those that run before or beside the others included."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def every_container() -> list[Any]:
    """``(target, owner, template, container)`` for each container of each target, for parametrizing at run time."""
    return [
        (target, owner, template, container)
        for target in TARGETS
        for owner, template in pod_templates(target)
        for container in containers(template)
    ]
