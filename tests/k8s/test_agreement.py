"""The manifests say what the code says: command lines, settings, ports, paths, metrics, and names among themselves."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry

from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.monitoring_secrets import TOKEN, ensure_token
from monitoring.metrics import ServingMetrics
from serving.transports import health_grpc, oip_service, recommend_grpc, torchserve_grpc
from tests.command_lines import parsed
from tests.k8s.manifests import ROOT, TARGETS, Object, built, containers, named, of_kind, pod_templates, text
from tests.watchers import codes_for

GRPC_SERVICES = {module.SERVICE for module in (health_grpc, oip_service, recommend_grpc, torchserve_grpc)}
OURS = re.compile(r"driftwheel-(serving|training|torchserve)")
DOCUMENT = (ROOT / "docs/kubernetes.md").read_text()


def our_secrets() -> dict[str, set[str]]:
    """The Secrets that docs/kubernetes.md has a person make, each with its keys."""
    found = dict[str, set[str]]()
    for kind, name, rest in re.findall(r"create secret (generic|tls) (\S+)((?:[^\\\n]|\\\n)*)", DOCUMENT):
        keys = set(re.findall(r"--from-(?:literal|file)=([^=]+)=", rest))
        found[name] = found.get(name, set()) | keys | ({"tls.crt", "tls.key"} if kind == "tls" else set())
    return found


def used_secrets(value: Any, field: str = "") -> Iterator[tuple[str, str | None]]:
    """Every Secret that a part of an object names, with the key that it takes of it; None if it takes the whole."""
    if isinstance(value, list):
        for one in value:
            yield from used_secrets(one, field)
    elif isinstance(value, dict):
        name = value.get("secretName", value.get("name"))
        if field in ("secret", "secretKeyRef", "secretRef", "credentials", "certificateRefs", "secrets"):
            for key in [item["key"] for item in value.get("items", [value | {"key": value.get("key")}])]:
                yield name, key
        for inner, content in value.items():
            yield from used_secrets(content, inner)


def our_commands(container: Object) -> list[list[str]]:
    """The words behind ``driftwheel`` in everything that a container of ours runs: itself, its probes, its hooks."""
    probes = [container.get(f"{name}Probe", {}) for name in ("startup", "liveness", "readiness")]
    lines = [container.get("command", ["driftwheel"]) + container.get("args", [])]
    lines += [probe["exec"]["command"] for probe in probes if "exec" in probe]
    found: list[list[str]] = []
    for line in lines:
        if line[0] == "driftwheel":
            found.append(line[1:])
        elif line[0] == "sh":
            script = line[2].replace("\\\n", " ")
            assert subprocess.run(["sh", "-n", "-c", script]).returncode == 0, script
            script = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", script)  # what a variable is if nobody sets it
            script = re.sub(r"\$\{\w+:\+[^}]*\}", "", script)
            found += [
                shlex.split(part)[1:]
                for part in re.findall(r"^\s*(?:exec )?(driftwheel [^&\n]*)", script, flags=re.MULTILINE)
            ]
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_command_line_parses_with_our_own_cli(target: str) -> None:
    seen = 0
    for owner, template in pod_templates(target):
        for container in containers(template):
            if not OURS.match(container["image"]) or container.get("command", [""])[0] == "mlflow":
                continue
            for words in our_commands(container):
                options = parsed(words)
                assert options["home"] == Path("/home/driftwheel"), (owner, words)
                seen += 1
    assert seen or target == "mlflow"


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["--home", "/home/driftwheel", "serve", "--prot", "8080"])


def settings_of(
    target: str, template: Object, container: Object, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Settings:
    """What a container's command would resolve to: its flags, its environment, its configuration file."""
    for variable in container.get("env", []):
        if variable["name"].startswith("DRIFTWHEEL_"):
            monkeypatch.setenv(variable["name"], variable["value"])
    options = parsed(our_commands(container)[0])
    config = None
    if options["config"] is not None:
        (name,) = {v["configMap"]["name"] for v in template["spec"]["volumes"] if v["name"] == "settings"}
        config = folder / "driftwheel.toml"
        config.write_text(named(target, "ConfigMap", name)["data"]["driftwheel.toml"])
    serving = {key: options[key] for key in ("host", "port") if options.get(key) is not None}
    return load_settings(config=config, home=options["home"], serving=serving)


@pytest.mark.parametrize("target", TARGETS)
def test_servers_listen_where_ports_services_and_probes_say(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for owner, template in pod_templates(target):
        for container in template["spec"]["containers"]:
            if container["name"] not in ("serving", "kserve-container"):
                continue
            settings = settings_of(target, template, container, monkeypatch, tmp_path)
            (port,) = container["ports"]
            assert (settings.serving.host, settings.serving.port) == ("0.0.0.0", port["containerPort"]), owner  # noqa: S104
            for name in ("startup", "liveness", "readiness"):
                probe = container[f"{name}Probe"]["httpGet"]
                assert probe["port"] in (port["name"], port["containerPort"])
                assert probe.get("scheme", "HTTP") == ("HTTPS" if settings.security.tls else "HTTP")
            assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            sealing = 10
            assert (
                pause + settings.serving.drain_timeout_s + sealing <= template["spec"]["terminationGracePeriodSeconds"]
            )
    for service in of_kind(target, "Service"):
        for port in service["spec"]["ports"]:
            selected = [
                container_port
                for owner, template in pod_templates(target)
                if "Runtime" not in owner
                and service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
                for container in containers(template)
                for container_port in container.get("ports", [])
            ]
            wanted = port.get("targetPort", port["port"])
            assert any(wanted in (one["name"], one["containerPort"]) for one in selected), service["metadata"]["name"]


def series() -> set[str]:
    """Every name under which a server's metric can be asked for."""
    found = set[str]()
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}
    registry = CollectorRegistry()
    ServingMetrics(registry)
    for family in registry.collect():
        found |= {family.name + suffix for suffix in suffixes[family.type]}
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_what_scales_asks_for_metrics_that_the_server_has(target: str) -> None:
    asked = set[str]()
    for one in of_kind(target, "HorizontalPodAutoscaler"):
        asked |= {metric["pods"]["metric"]["name"] for metric in one["spec"]["metrics"]}
    for one in of_kind(target, "ScaledObject"):
        for trigger in one["spec"]["triggers"]:
            asked |= set(re.findall(r"\b(driftwheel_\w+)\{", trigger["metadata"]["query"]))
    assert asked <= series()
    assert asked or "prod" not in target
    for one in of_kind(target, "HorizontalPodAutoscaler", "ScaledObject"):
        scaled = named(target, "Deployment", one["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in scaled["spec"], "each apply would undo what the autoscaler decided"


@pytest.mark.parametrize("target", TARGETS)
def test_every_volume_key_and_secret_that_is_used_exists(target: str) -> None:
    maps = {one["metadata"]["name"]: set(one["data"]) for one in of_kind(target, "ConfigMap")}
    claims = {one["metadata"]["name"] for one in of_kind(target, "PersistentVolumeClaim")}
    for owner, template in pod_templates(target):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        volumes |= {
            claim["metadata"]["name"]: {}
            for one in of_kind(target, "StatefulSet")
            if owner.endswith(f" {one['metadata']['name']}")
            for claim in one["spec"].get("volumeClaimTemplates", [])
        }
        for volume in volumes.values():
            if "configMap" in volume:
                items = {item["key"] for item in volume["configMap"].get("items", [])}
                assert items <= maps[volume["configMap"]["name"]], owner
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, owner
        for container in containers(template):
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= set(volumes), owner
            known = {variable["name"] for variable in container.get("env", [])}
            for source in container.get("envFrom", []):
                known |= our_secrets()[source["secretRef"]["name"]]
            used = re.findall(
                r"(?<!\$)\$\((\w+)\)", " ".join([*container.get("command", []), *container.get("args", [])])
            )
            assert set(used) <= known, owner


@pytest.mark.parametrize("target", TARGETS)
def test_every_secret_that_is_used_is_one_that_the_documents_make(target: str) -> None:
    made = our_secrets()
    for name, key in used_secrets(list(built(target))):
        assert name in made, (target, name)
        assert key is None or key in made[name], (target, name, key)


@pytest.mark.parametrize("target", TARGETS)
def test_every_setting_in_the_environment_is_one_of_ours(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, template in pod_templates(target):
        for container in containers(template):
            with monkeypatch.context() as patch:
                for variable in container.get("env", []):
                    if variable["name"].startswith("DRIFTWHEEL_"):
                        patch.setenv(variable["name"], variable.get("value", "anything"))
                load_settings()


@pytest.mark.parametrize("target", TARGETS)
def test_routes_lead_to_services_and_to_what_the_server_speaks(target: str) -> None:
    for route in of_kind(target, "GRPCRoute", "HTTPRoute"):
        assert all(named(target, "Gateway", parent["name"]) for parent in route["spec"]["parentRefs"])
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                ports = [port["port"] for port in named(target, "Service", backend["name"])["spec"]["ports"]]
                assert backend["port"] in ports
            for match in rule["matches"]:
                if "method" in match:
                    assert match["method"]["service"] in GRPC_SERVICES
    for monitor in of_kind(target, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        services = [one for one in of_kind(target, "Service") if wanted.items() <= one["metadata"]["labels"].items()]
        assert services
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["path"] == "/metrics"
            assert all(endpoint["port"] in [p["name"] for p in s["spec"]["ports"]] for s in services)


def test_alerts_and_dashboards_are_those_of_the_project() -> None:
    rules = yaml.safe_load((ROOT / "monitoring/alerts/rules.yaml").read_text())
    hint = "run k8s/components/monitoring/generate.sh"
    assert named("overlays/prod-gpu", "PrometheusRule", "driftwheel")["spec"] == rules, hint
    data = named("overlays/prod-gpu", "ConfigMap", "driftwheel-dashboards")["data"]
    shown = {path.name: path.read_text() for path in (ROOT / "monitoring/dashboards/json").glob("*.json")}
    assert data == shown
    assert sum(map(len, data.values())) < 900_000, "a ConfigMap holds a mebibyte"


def test_what_is_scraped_bears_the_job_that_rules_and_dashboards_ask_for() -> None:
    scraped = set[str]()
    for monitor in of_kind("overlays/prod-gpu", "ServiceMonitor"):
        label, wanted = monitor["spec"].get("jobLabel"), monitor["spec"]["selector"]["matchLabels"]
        for one in of_kind("overlays/prod-gpu", "Service"):
            if wanted.items() <= one["metadata"]["labels"].items():
                scraped.add(one["metadata"]["labels"][label] if label else one["metadata"]["name"])
    asked = set(re.findall(r'job="([^"]+)"', text("overlays/prod-gpu")))
    assert asked
    assert asked <= scraped


def test_alertmanager_is_told_of_retrains_as_without_the_operator() -> None:
    config = named("overlays/prod-gpu", "AlertmanagerConfig", "driftwheel")["spec"]
    (receiver,) = config["receivers"]
    (hook,) = receiver["webhookConfigs"]
    address = urlsplit(hook["url"])
    assert address.hostname is not None
    name, namespace, _ = address.hostname.split(".")
    service = named("overlays/prod-gpu", "Service", name)
    assert (namespace, address.path) == (service["metadata"]["namespace"], "/v1/alerts")
    assert address.port in [port["port"] for port in service["spec"]["ports"]]
    own = yaml.safe_load((ROOT / "monitoring/provisioning/alertmanager/alertmanager.yml").read_text())
    (route,) = [one for one in own["route"]["routes"] if one["receiver"] == "retrain"]
    told = config["route"]
    assert [f'{one["name"]}="{one["value"]}"' for one in told["matchers"]] == route["matchers"]
    assert told["repeatInterval"] == route["repeat_interval"]
    assert (told["groupBy"], told["groupWait"]) == (own["route"]["group_by"], own["route"]["group_wait"])
    assert hook["sendResolved"] is False


def test_alerts_that_ask_for_a_retrain_keep_the_namespace_that_the_operator_routes_by() -> None:
    groups = named("overlays/prod-gpu", "PrometheusRule", "driftwheel")["spec"]["groups"]
    asking = [rule for group in groups for rule in group["rules"] if rule.get("labels", {}).get("action") == "retrain"]
    assert asking
    for rule in asking:
        assert all("namespace" in kept for kept in re.findall(r"\bby \(([^)]*)\)", rule["expr"])), rule["alert"]


def test_the_watcher_lets_in_who_has_the_token_that_the_export_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "overlays/prod-gpu"
    template = dict(pod_templates(target))["Deployment driftwheel-watcher"]
    (container,) = containers(template)
    settings = settings_of(target, template, container, monkeypatch, tmp_path)
    assert settings.monitoring.token_file is not None
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "tokens"]
    assert settings.monitoring.token_file == Path(mount["mountPath"]) / "tokens.toml"
    ensure_token(tmp_path / "monitoring", tmp_path / "tokens.toml")
    token = (tmp_path / "monitoring" / TOKEN).read_text().strip()
    update = {"host": "127.0.0.1", "port": 0, "token_file": tmp_path / "tokens.toml"}
    own = settings.monitoring.model_copy(update=update)
    here = settings.model_copy(update={"home": tmp_path / "home", "monitoring": own})
    assert codes_for(here, token, "anything") == [200, 401]


def test_the_rollout_of_the_kserve_overlay_is_one_that_the_server_reads() -> None:
    from driftwheel.rollout import decode_rollout

    content = named("overlays/kserve", "ConfigMap", "driftwheel-rollouts")["data"]["mf.json"]
    assert decode_rollout(content.encode(), source=Path("mf.json")).stable == 1


@pytest.mark.parametrize("target", TARGETS)
def test_objects_are_of_one_namespace_and_named_once(target: str) -> None:
    assert all(one["metadata"].get("namespace") == "driftwheel" for one in built(target) if one["kind"] != "Namespace")
    names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in built(target)]
    assert len(set(names)) == len(names)
    assert "TODO" not in text(target)
