"""Every object is one that a cluster takes: core kinds by Kubernetes' own schemas, others by the models that packages ship."""

from typing import Any

import kserve
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from cloudcoil.models.prometheus_operator import v1alpha1 as operator_alpha
from kserve.models.v1alpha1_serving_runtime import V1alpha1ServingRuntime
from kserve.models.v1beta1_inference_service import V1beta1InferenceService
from kubeflow_trainer_api import models as trainer

from tests.k8s.manifests import OVERLAYS, TARGETS, built, named

CORE = {"v1", "apps/v1", "batch/v1", "autoscaling/v2", "networking.k8s.io/v1", "policy/v1"}
KSERVE = {"InferenceService": V1beta1InferenceService, "ServingRuntime": V1alpha1ServingRuntime}
TRAINER = {"TrainJob": trainer.TrainerV1alpha1TrainJob, "TrainingRuntime": trainer.TrainerV1alpha1TrainingRuntime}
CLOUDCOIL = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("monitoring.coreos.com/v1", "PrometheusRule"): operator.PrometheusRule,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): operator.ServiceMonitor,
    ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"): operator_alpha.AlertmanagerConfig,
}
"""Generated from the definitions that KEDA and the Prometheus operator install."""
WITHOUT_MODELS = {
    # No package on PyPI ships models or schemas of the Gateway API; what test_agreement asks of these is what they refer to.
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
}


def test_there_is_an_overlay_for_each_way_to_run() -> None:
    wanted = {"dev", "prod-gpu", "prod-gpu-keda", "torchserve", "kserve"}
    assert {name.removeprefix("overlays/") for name in OVERLAYS} == wanted


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_core_kinds_pass_kubernetes_own_schemas(target: str, version: str) -> None:
    objects = [one for one in built(target) if one["apiVersion"] in CORE]
    assert objects or target == "training"
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_other_kinds_pass_the_models_of_their_projects(target: str) -> None:
    for one in built(target):
        if one["apiVersion"] in CORE:
            continue
        if one["kind"] in KSERVE:
            assert unknown_to_kserve(one, KSERVE[one["kind"]]) == []
        elif one["kind"] in TRAINER:
            model = TRAINER[one["kind"]].from_dict(one)
            assert lost(one, model.to_dict()) == []
        elif (cls := CLOUDCOIL.get((one["apiVersion"], one["kind"]))) is not None:
            assert lost(one, cls.model_validate(one).model_dump(mode="json", by_alias=True, exclude_none=True)) == []
        else:
            assert (one["apiVersion"], one["kind"]) in WITHOUT_MODELS


def test_the_checks_see_a_field_that_is_misspelt() -> None:
    service = {"apiVersion": "serving.kserve.io/v1beta1", "spec": {"predictor": {"minReplica": 1}}}
    assert unknown_to_kserve(service, V1beta1InferenceService) == ["spec.predictor.minReplica"]
    job = {"spec": {"runtimeRef": {"name": "driftwheel"}, "trainer": {"numNode": 2}}}
    assert lost(job, trainer.TrainerV1alpha1TrainJob.from_dict(job).to_dict()) == ["spec.trainer.numNode"]
    config = named("overlays/prod-gpu", "AlertmanagerConfig", "driftwheel")
    wrong = {**config, "spec": {**config["spec"], "route": {**config["spec"]["route"], "repeatIntervall": "1h"}}}
    kept = operator_alpha.AlertmanagerConfig.model_validate(wrong).model_dump(by_alias=True, exclude_none=True)
    assert lost(wrong, kept) == ["spec.route.repeatIntervall"]


def unknown_to_kserve(value: Any, model: Any, path: str = "") -> list[str]:
    """The fields of a value that a model of the kserve package does not have, at any depth (Kubernetes' own models, which
    are embedded in them, included).
    """
    known = {json: (name, model.openapi_types[name]) for name, json in model.attribute_map.items()}
    found = list[str]()
    for field, content in value.items():
        here = f"{path}.{field}".lstrip(".")
        if field not in known:
            found.append(here)
            continue
        kind = known[field][1]
        items = content if kind.startswith("list[") else [content]
        inner = kind.removeprefix("list[").rstrip("]")
        if (cls := class_of(inner)) is not None:
            for item in items:
                found += unknown_to_kserve(item, cls, here)
    return found


def class_of(name: str) -> Any:
    import kubernetes.client

    cls = getattr(kserve, name, None) or getattr(kubernetes.client, name, None)
    return cls if hasattr(cls, "openapi_types") else None


def lost(value: Any, kept: Any, path: str = "") -> list[str]:
    """What of a value is not in what a model kept of it."""
    if isinstance(value, dict) and isinstance(kept, dict):
        return [
            fault
            for key, inner in value.items()
            for fault in ([f"{path}.{key}".lstrip(".")] if key not in kept else lost(inner, kept[key], f"{path}.{key}"))
        ]
    if isinstance(value, list) and isinstance(kept, list):
        return [
            fault
            for i, pair in enumerate(zip(value, kept, strict=True))
            for fault in lost(*pair, path=f"{path}[{i}]".lstrip("."))
        ]
    return []
