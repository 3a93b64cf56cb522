"""The components that have retrains run in Jobs or TrainJobs: who may do what, and that it is enough."""

import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from driftwheel.settings import RetrainSettings, load_settings
from driftwheel.wheel.cluster import CRON_JOBS, JOBS, PODS, TRAIN_JOBS
from driftwheel.wheel.job_manifests import Retrain, job_manifest
from tests.k8s.manifests import K8S, Object, build

RUNNERS = {"retrain-jobs": "kubernetes-job", "retrain-trainjobs": "train-job"}
RULES = {
    "retrain-jobs": {
        (JOBS.group, JOBS.plural): {"get", "create", "delete"},
        (CRON_JOBS.group, CRON_JOBS.plural): {"get"},
        (PODS.group, PODS.plural): {"list"},
    },
    "retrain-trainjobs": {
        (TRAIN_JOBS.group, TRAIN_JOBS.plural): {"get", "create", "delete"},
        (PODS.group, PODS.plural): {"list"},
    },
}


def objects(folder: Path, component: str) -> list[Object]:
    """The wheel with a component, as an overlay of a user's would have it."""
    wheel, components = K8S / "wheel", [K8S / "components" / name for name in (component, "images")]
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [os.path.relpath(wheel, folder.resolve())],
                "components": [os.path.relpath(path, folder.resolve()) for path in components],
            }
        )
    )
    return list(yaml.safe_load_all(build(folder)))


def only(found: list[Object], kind: str, name: str) -> Object:
    (one,) = [one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


@pytest.mark.parametrize("component", RUNNERS)
def test_nobody_but_the_watcher_has_a_token_and_it_may_do_what_it_needs(
    component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = objects(tmp_path, component)
    for one in found:
        kubernetes_validate.validate(one, "1.33", strict=True)
    with_token = list[str]()
    for one in found:
        if one["kind"] in ("Deployment", "CronJob"):
            spec = one["spec"] if one["kind"] == "Deployment" else one["spec"]["jobTemplate"]["spec"]
            pod = spec["template"]["spec"]
            assert pod["serviceAccountName"] in ("driftwheel-wheel", "driftwheel-retrainer")
            if pod["automountServiceAccountToken"] or pod["serviceAccountName"] == "driftwheel-retrainer":
                with_token.append(one["metadata"]["name"])
    assert with_token == ["driftwheel-watcher"]
    (role,) = [one for one in found if one["kind"] in ("Role", "ClusterRole")]
    assert role["kind"] == "Role"
    rules = {
        (group, plural): rule for rule in role["rules"] for group in rule["apiGroups"] for plural in rule["resources"]
    }
    assert {what: set(rule["verbs"]) for what, rule in rules.items()} == RULES[component]
    if (template := rules.get((CRON_JOBS.group, CRON_JOBS.plural))) is not None:
        assert template["resourceNames"] == [RetrainSettings().job_template]
    (binding,) = [one for one in found if one["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [one["name"] for one in binding["subjects"]] == ["driftwheel-retrainer"]
    assert only(found, "ServiceAccount", "driftwheel-retrainer")["metadata"]["namespace"] == "driftwheel"

    watcher = only(found, "Deployment", "driftwheel-watcher")["spec"]["template"]
    policy = only(found, "NetworkPolicy", "driftwheel-retrainer")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= watcher["metadata"]["labels"].items()
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {443, 6443}
    (container,) = watcher["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert load_settings().retrain.runner == RUNNERS[component]


def test_the_job_that_is_made_is_one_that_a_cluster_takes(tmp_path: Path) -> None:
    found = objects(tmp_path, "retrain-jobs")
    template = only(found, "CronJob", RetrainSettings().job_template)
    made = job_manifest(template, "driftwheel-retrain-mf-0", Retrain(model="mf", reason="r", trigger="alert"), {})
    kubernetes_validate.validate(made, "1.33", strict=True)
    pod = made["spec"]["template"]
    policy = only(found, "NetworkPolicy", "driftwheel-wheel")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["serviceAccountName"] == "driftwheel-wheel"
    (container,) = pod["spec"]["containers"]
    assert container["image"].startswith("driftwheel-training:")
    watcher = only(found, "Deployment", "driftwheel-watcher")["spec"]["template"]["spec"]
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in watcher["volumes"]}
    assert {one["name"]: one.get("persistentVolumeClaim") for one in pod["spec"]["volumes"]} == claims, "one home"
