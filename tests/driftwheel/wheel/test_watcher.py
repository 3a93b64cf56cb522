"""The watcher over HTTP: metrics for all, retrains for those with a token, and only where the policy allows."""

import json
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from driftwheel.errors import AddressInUseError
from driftwheel.rollout import Rollout, abort, promote, read_rollout, serve_stable, start_candidate
from driftwheel.settings import MonitoringSettings, Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.judging import record_rollout
from driftwheel.wheel.watcher import watching
from monitoring.alert_webhook import MOST_BYTES, parse_notification
from monitoring.canary.evidence import ArmEvidence, Evidence
from monitoring.canary.judge import judge, record
from monitoring.ledger import Ledger
from monitoring.retrain import lease
from serving.tokens import Role, add_token
from tests.monitoring.test_alert_webhook import notification

USED = (Role.RETRAIN, Role.INFER, Role.CONSOLE)


class World:
    """A home with a model in service, and a watcher of it."""

    def __init__(self, settings: Settings, url: str, tokens: dict[str, str]) -> None:
        self.settings = settings
        self.tokens = tokens
        self.client = httpx.Client(base_url=url, trust_env=False)

    def bearer(self, as_: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens.get(as_, as_)}"}

    def post(self, content: Any, as_: str | None = "retrain", **headers: str) -> httpx.Response:
        if as_ is not None:
            headers |= self.bearer(as_)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.client.post("/v1/alerts", content=body, headers=headers)

    def outcome(self, **changes: Any) -> tuple[str, str]:
        answer = self.post(notification(**changes))
        assert answer.status_code == 200, answer.text
        (one,) = answer.json()["alerts"]
        return one["outcome"], one["detail"]

    def retrained(self, event: str = "finished", at: str | None = None, reason: str = "r") -> None:
        payload = {
            "event": event,
            "reason": reason,
            "trigger": "alert",
            "result": "refused",
            "outcome": "made version 2",
        }
        Ledger(self.settings.ledger).append("retrain", "mf", at=at or now(), summary="s", payload=payload)


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    token_file = tmp_path / "tokens.toml"
    tokens = {role.value: add_token(token_file, role.value, frozenset({role})) for role in USED}
    settings = Settings(home=tmp_path / "home", monitoring=MonitoringSettings(port=0, token_file=token_file))
    serve_stable(settings.rollouts, "mf", 1, by="test", now=now())
    with watching(settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made = World(settings, f"http://127.0.0.1:{server.server_address[1]}", tokens)
        yield made
        made.client.close()
        server.shutdown()
        thread.join()


def test_metrics_are_prometheus_own_format(world: World) -> None:
    families = {family.name for family in text_string_to_metric_families(world.client.get("/metrics").text)}
    assert {"driftwheel_stable_version", "driftwheel_drift_status", "process_cpu_seconds"} <= families
    assert world.client.get("/healthz").text == "ok\n"


@pytest.mark.parametrize(
    ("token", "code"), [(None, 401), ("wrong", 401), ("infer", 403)], ids=["none", "wrong", "for something else"]
)
def test_a_retrain_needs_its_token(world: World, token: str | None, code: int) -> None:
    assert world.post(notification(), token).status_code == code
    assert Ledger(world.settings.ledger).entries("mf", "retrain") == []


def test_what_is_wrong_is_said(world: World) -> None:
    assert world.post(b"{").status_code == 400
    assert "labels.model" in world.post(notification(labels={"alertname": "A"})).json()["error"]
    assert world.post(b" " * (MOST_BYTES + 1)).status_code == 413
    assert world.client.get("/else").status_code == 404
    assert world.client.post("/metrics").status_code == 404
    chunked = world.client.post(
        "/v1/alerts", content=iter([b"{}"]), headers={"authorization": f"Bearer {world.tokens['retrain']}"}
    )
    assert chunked.status_code == 501


def test_another_name_for_this_machine_is_refused(world: World) -> None:
    assert world.client.get("/metrics", headers={"host": "evil.example"}).status_code == 403
    assert world.client.get("/metrics", headers={"host": "localhost:1"}).status_code == 200
    assert world.client.get("/metrics", headers={"host": "[::1]:1"}).status_code == 200


def test_what_needs_nothing(world: World) -> None:
    assert world.outcome(status="resolved")[0] == "resolved"
    assert world.outcome(labels={"alertname": "A", "model": "other"})[0] == "unknown model"


def test_the_policy_holds(world: World) -> None:
    world.retrained("started")
    world.retrained()
    assert "cool-down" in world.outcome()[1]
    start_candidate(world.settings.rollouts, "mf", 2, by="test", now=now())
    assert world.outcome() == ("declined", "a candidate is on trial already")
    with lease(world.settings.runtime / "retrain-mf.lock"):
        assert world.outcome() == ("declined", "a retrain is going on")


def test_broken_data_is_never_learned_from(world: World) -> None:
    decision = {"status": "broken data", "schema_broken": True}
    Ledger(world.settings.ledger).append(
        "drift", "mf", at=now(), summary="broken data: x", payload={"decision": decision}
    )
    assert world.outcome() == ("declined", "blocked by broken data: x")


def test_one_firing_is_answered_once(world: World) -> None:
    (alert,) = parse_notification(json.dumps(notification()).encode())
    world.retrained("started", "2026-01-02T03:04:06+00:00", alert.reason)
    world.retrained("finished", "2026-01-02T03:04:07+00:00", alert.reason)
    assert world.outcome() == ("repeated", "answered already: made version 2")


def test_what_is_allowed_starts_in_a_process_of_its_own(world: World) -> None:
    """It ends with the watcher, as the fixture ends."""
    outcome, detail = world.outcome(labels={"alertname": "A", "model": "mf", "action": "retrain"})
    assert (outcome, "retrain-mf.log" in detail) == ("started", True)
    assert world.outcome() == ("declined", "a retrain is going on")
    page = world.client.get("/metrics").text
    assert 'driftwheel_alerts_received_total{outcome="started"} 1.0' in page


def test_a_port_that_is_taken(world: World) -> None:
    port = world.client.base_url.port
    monitoring = world.settings.monitoring.model_copy(update={"port": port})
    with pytest.raises(AddressInUseError), watching(world.settings.model_copy(update={"monitoring": monitoring})):
        pass


def template() -> dict[str, Any]:
    """The metric of the analysis that the guide has for Argo Rollouts."""
    guide = (Path(__file__).parents[3] / "docs/kubernetes.md").read_text()
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "AnalysisTemplate" in block)
    (metric,) = yaml.safe_load(block)["spec"]["metrics"]
    return metric


def analysed(world: World, version: int) -> tuple[str, bool]:
    """What Argo's controller makes of one measurement: the result, and whether it fails the analysis."""
    metric = template()
    web, filled = metric["provider"]["web"], {"model": "mf", "version": str(version), "token": world.tokens["console"]}

    def fill(text: str) -> str:
        return re.sub(r"\{\{args\.(\w+)\}\}", lambda found: filled[found[1]], text)

    headers = {header["key"]: fill(header["value"]) for header in web["headers"]}
    answer = world.client.get(urlsplit(fill(web["url"])).path, headers=headers).raise_for_status().json()
    result = answer[web["jsonPath"].removeprefix("{$.").removesuffix("}")]
    failing = metric["failureCondition"].removeprefix('result == "').removesuffix('"')
    return result, result == failing


def judged(world: World, decision: str) -> None:
    """A look that says so, in the ledger."""
    rollout = read_rollout(world.settings.rollouts, "mf")
    arm = ArmEvidence()
    evidence = Evidence(
        model="mf",
        task="rating",
        stable_version=1,
        candidate_version=2,
        weight=0.0,
        step=0,
        since=rollout.started_at,
        control=arm,
        candidate=arm,
        refused="no graph" if decision == "ABORT" else "",
    )
    verdict = judge(evidence, rollout, world.settings.judge)
    assert verdict.decision == decision
    payload = record(evidence, rollout, world.settings.judge, verdict)
    Ledger(world.settings.ledger).append("verdict", "mf", at=now(), summary=verdict.summary, payload=payload)


def changed(world: World, change: Callable[..., Rollout], *args: Any, **more: Any) -> None:
    """Change the rollout, and write it down as every command does."""
    rollout = change(world.settings.rollouts, "mf", *args, by="test", now=now(), **more)
    record_rollout(Ledger(world.settings.ledger), rollout, by="test")


def test_an_analysis_of_argo_rollouts_fails_when_the_judge_aborts_and_only_then(world: World) -> None:
    assert analysed(world, 1) == ("PROMOTE", False)
    assert world.client.get("/v1/releases/mf/2", headers=world.bearer("console")).status_code == 404
    changed(world, start_candidate, 2)
    assert analysed(world, 2) == ("HOLD", False)
    judged(world, "HOLD")
    assert analysed(world, 2) == ("HOLD", False)
    judged(world, "ABORT")
    assert analysed(world, 2) == ("ABORT", True)
    changed(world, abort)
    assert analysed(world, 2) == ("ABORT", True)
    changed(world, start_candidate, 2)  # what was said in the trial before counts no more
    assert analysed(world, 2) == ("HOLD", False)
    changed(world, promote)
    assert [analysed(world, version) for version in (1, 2)] == [("ABORT", True), ("PROMOTE", False)]


@pytest.mark.parametrize(("token", "code"), [("nobody", 401), ("infer", 403)])
def test_how_a_release_stands_needs_the_role_console(world: World, token: str, code: int) -> None:
    assert world.client.get("/v1/releases/mf/1", headers=world.bearer(token)).status_code == code
