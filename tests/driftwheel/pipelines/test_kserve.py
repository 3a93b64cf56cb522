"""The deploy step on KServe: pods first, then what they serve."""

import json
from pathlib import Path
from typing import Any

import pytest

from driftwheel.errors import ConfigurationError, DriftwheelError
from driftwheel.pipelines.deployment import check_target
from driftwheel.pipelines.kserve import BUNDLES, ROLLOUTS, deploy_to_service
from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import Settings
from driftwheel.wheel.cluster import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES
from driftwheel.wheel.progress import SILENT
from tests.driftwheel.pipelines.stand_in import StandIn, stand_in

STORE = "s3://driftwheel/prod"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Version 3 of mf serves, version 4 is on trial."""
    made = Settings(home=tmp_path / "home")
    serve_stable(made.rollouts, "mf", 3, by="test", now="2026-01-01T00:00:00Z")
    start_candidate(made.rollouts, "mf", 4, steps=(0.5, 1.0), by="test", now="2026-01-01T00:00:00Z")
    return made


def set_up(api: StandIn, *, uri: str = f"{STORE}/models") -> None:
    api.put(INFERENCE_SERVICES, "driftwheel", {"spec": {"predictor": {"minReplicas": 2, "model": {"storageUri": uri}}}})
    api.put(CONFIG_MAPS, ROLLOUTS, {"data": {"mf.json": "old", "churn.json": "other"}})
    api.put(
        DEPLOYMENTS,
        "driftwheel-predictor",
        {"spec": {"replicas": 2, "template": {"metadata": {}}}, "status": rolled(0)},
    )


def rolled(new: int) -> dict[str, int]:
    """A Deployment's status: so many of two pods are new, and one too many is there until both are."""
    return {"observedGeneration": 1, "replicas": 2 if new == 2 else 3, "updatedReplicas": new, "availableReplicas": 2}


def replacing(api: StandIn, method: str, path: str) -> None:
    """KServe hands the annotations on to the Deployment, whose controller replaces a pod between two looks."""
    deployment = api.get(DEPLOYMENTS, "driftwheel-predictor")
    if method == "PATCH" and "inferenceservices" in path:
        predictor = api.get(INFERENCE_SERVICES, "driftwheel")["spec"]["predictor"]
        deployment["spec"]["template"]["metadata"]["annotations"] = dict(predictor["annotations"])
    elif method == "GET" and "deployments" in path and deployment["status"]["updatedReplicas"] < 2:
        deployment["status"] = rolled(deployment["status"]["updatedReplicas"] + 1)


def deploy(cluster: Any, settings: Settings, **changes: Any) -> None:
    arguments = {"store": STORE, "timeout_s": 60.0, "every_s": 0.01} | changes
    deploy_to_service(cluster, settings, "mf", "driftwheel", SILENT, **arguments)


def test_the_pods_are_new_before_they_are_told_what_to_serve(settings: Settings) -> None:
    with stand_in(replacing) as (api, cluster):
        set_up(api)
        deploy(cluster, settings)
        service, rollouts = api.get(INFERENCE_SERVICES, "driftwheel"), api.get(CONFIG_MAPS, ROLLOUTS)
        last = [(method, path.split("/")[-2]) for method, path in api.calls]
    assert service["spec"]["predictor"]["annotations"] == {BUNDLES: "mf-3.mf-4"}
    assert service["spec"]["predictor"]["minReplicas"] == 2
    assert json.loads(rollouts["data"]["mf.json"])["candidate"] == 4
    assert rollouts["data"]["churn.json"] == "other"
    assert last == [
        ("GET", "inferenceservices"),
        ("PATCH", "inferenceservices"),
        *[("GET", "deployments")] * 3,
        ("PATCH", "configmaps"),
    ]


def test_pods_that_do_not_come_up_are_told_nothing(settings: Settings) -> None:
    with stand_in() as (api, cluster):
        set_up(api)
        with pytest.raises(DriftwheelError, match=r"driftwheel: new pods took longer than 0\.1 s"):
            deploy(cluster, settings, timeout_s=0.1)
        assert api.get(CONFIG_MAPS, ROLLOUTS)["data"]["mf.json"] == "old"


def test_a_service_that_reads_another_store_is_left_alone(settings: Settings) -> None:
    with stand_in() as (api, cluster):
        set_up(api, uri="s3://other/models")
        with pytest.raises(
            ConfigurationError, match=r"from s3://other/models, and they are published to s3://driftwheel/prod/models"
        ):
            deploy(cluster, settings)
        assert {method for method, _ in api.calls} == {"GET"}


def test_what_is_not_there_is_named(settings: Settings) -> None:
    with stand_in(replacing) as (api, cluster):
        with pytest.raises(ConfigurationError, match="no InferenceService 'driftwheel' in namespace driftwheel"):
            deploy(cluster, settings)
        set_up(api)
        del api.objects[f"{CONFIG_MAPS.path('driftwheel')}/{ROLLOUTS}"]
        with pytest.raises(DriftwheelError, match=r"PATCH .*configmaps/driftwheel-rollouts with 404 .*not found"):
            deploy(cluster, settings)


def test_a_target_that_cannot_be_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    check_target("", "")
    check_target(str(tmp_path), "driftwheel")
    with pytest.raises(ConfigurationError, match="service is 'driftwheel', and store is empty"):
        check_target("", "driftwheel")
    with pytest.raises(ConfigurationError, match="nonsense"):
        check_target("nonsense://bucket", "")
