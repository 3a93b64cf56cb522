"""What every manifest must hold to."""

import re
from typing import Any

import pytest

from tests.k8s.manifests import TARGETS, Object, built, containers, of_kind, pod_templates


def faults(target: str, check: Any) -> list[str]:
    """The containers of a target that a check refuses."""
    return [
        f"{owner}: {container['name']}"
        for owner, template in pod_templates(target)
        for container in containers(template)
        if not check(template["spec"], container)
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_no_container_runs_as_root(target: str) -> None:
    def check(pod: Object, container: Object) -> bool:
        whole, own = pod["securityContext"], container.get("securityContext", {})
        user = own.get("runAsUser", whole.get("runAsUser", 0))
        return bool(own.get("runAsNonRoot", whole.get("runAsNonRoot"))) and user >= 999

    assert faults(target, check) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_container_is_restricted_and_cannot_write_to_its_image(target: str) -> None:
    def check(pod: Object, container: Object) -> bool:
        own = container["securityContext"]
        return (
            pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            and own["allowPrivilegeEscalation"] is False
            and own["readOnlyRootFilesystem"] is True
            and own["capabilities"] == {"drop": ["ALL"]}
            and not own.get("privileged")
            and not any(pod.get(host) for host in ("hostNetwork", "hostPID", "hostIPC"))
            and not any("hostPath" in volume for volume in pod.get("volumes", []))
        )

    assert faults(target, check) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_container_has_requests_and_limits(target: str) -> None:
    def check(pod: Object, container: Object) -> bool:
        del pod
        resources = container["resources"]
        return {"cpu", "memory"} <= set(resources["requests"]) and {"cpu", "memory"} <= set(resources["limits"])

    assert faults(target, check) == []


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_runs_on_is_probed(target: str) -> None:
    jobs = ("Job", "CronJob", "TrainingRuntime")
    unprobed = list[str]()
    for owner, template in pod_templates(target):
        own = template["spec"]["containers"] if not owner.startswith(jobs) else []
        sidecars = [c for c in template["spec"].get("initContainers", []) if c.get("restartPolicy") == "Always"]
        for container in [*own, *sidecars]:
            if "livenessProbe" not in container or ("ports" in container and "readinessProbe" not in container):
                unprobed.append(f"{owner}: {container['name']}")
    assert unprobed == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_must_end_comes_before_what_runs_beside_the_server(target: str) -> None:
    for owner, template in pod_templates(target):
        sidecars = [one.get("restartPolicy") == "Always" for one in template["spec"].get("initContainers", [])]
        assert sidecars == sorted(sidecars), owner


@pytest.mark.parametrize("target", TARGETS)
def test_every_image_has_a_version(target: str) -> None:
    def check(pod: Object, container: Object) -> bool:
        del pod
        name, _, tag = container["image"].rpartition("/")[2].partition(":")
        return bool(name) and bool(re.search(r"\d", tag)) and tag != "latest"

    assert faults(target, check) == []


@pytest.mark.parametrize("target", TARGETS)
def test_no_pod_gets_a_token_of_the_cluster_or_the_default_account(target: str) -> None:
    accounts = {one["metadata"]["name"] for one in of_kind(target, "ServiceAccount")}
    for owner, template in pod_templates(target):
        assert template["spec"].get("automountServiceAccountToken") is False, owner
        assert template["spec"].get("serviceAccountName") in accounts, owner
    assert of_kind(target, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_is_written_into_a_manifest(target: str) -> None:
    assert of_kind(target, "Secret") == []
    for owner, template in pod_templates(target):
        for container in containers(template):
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|ACCESS_KEY", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), (owner, variable["name"])


@pytest.mark.parametrize("target", TARGETS)
def test_selectors_match_pods_of_this_target(target: str) -> None:
    labels = [
        template["metadata"]["labels"] for owner, template in pod_templates(target) if "ServingRuntime" not in owner
    ]
    labels += [
        {"serving.kserve.io/inferenceservice": one["metadata"]["name"]} for one in of_kind(target, "InferenceService")
    ]
    for owner, selector in selectors(target):
        assert selector is not None, owner
        assert any(selector.items() <= one.items() for one in labels), (owner, selector)
    for one in of_kind(target, "Deployment", "StatefulSet"):
        wanted = one["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= one["spec"]["template"]["metadata"]["labels"].items(), one["metadata"]["name"]
        alike = [o for o in of_kind(target, "Deployment", "StatefulSet") if o is not one]
        for other in alike:
            assert not wanted.items() <= other["spec"]["template"]["metadata"]["labels"].items(), (
                "two own the same pods"
            )


def selectors(target: str) -> list[tuple[str, dict[str, str] | None]]:
    found: list[tuple[str, dict[str, str] | None]] = []
    for one in built(target):
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Service":
            found.append((name, one["spec"]["selector"]))
        elif one["kind"] == "PodDisruptionBudget":
            found.append((name, one["spec"]["selector"]["matchLabels"]))
        elif one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"]:
            found.append((name, one["spec"]["podSelector"]["matchLabels"]))
    for owner, template in pod_templates(target):
        spreads = template["spec"].get("topologySpreadConstraints", [])
        found += [(f"{owner}: spread", spread["labelSelector"]["matchLabels"]) for spread in spreads]
        affinity = template["spec"].get("affinity", {}).get("podAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        found += [(f"{owner}: affinity", term["labelSelector"]["matchLabels"]) for term in terms]
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_pod_is_under_a_network_policy_of_its_own(target: str) -> None:
    policies = [one["spec"]["podSelector"].get("matchLabels") for one in of_kind(target, "NetworkPolicy")]
    own = [labels for labels in policies if labels]
    for owner, template in pod_templates(target):
        if owner.startswith("ServingRuntime"):
            continue  # its pods' labels are KServe's; test_selectors has them
        assert any(one.items() <= template["metadata"]["labels"].items() for one in own), owner


@pytest.mark.parametrize("target", TARGETS)
def test_a_disruption_leaves_somebody_and_servers_spread(target: str) -> None:
    servers = [one for one in of_kind(target, "Deployment") if one["metadata"]["name"].startswith("driftwheel")]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in of_kind(target, "PodDisruptionBudget")]
    for one in servers:
        template = one["spec"]["template"]
        if template["metadata"]["labels"]["app.kubernetes.io/component"] != "serving":
            continue
        assert any(budget.items() <= template["metadata"]["labels"].items() for budget in budgets)
        assert template["spec"]["topologySpreadConstraints"]
