"""What is exported is accepted by those that it is for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from driftwheel.errors import ConfigurationError
from driftwheel.wheel.monitoring_files import Places, export_files

PLACES = Places(
    servers=("a.example:8080", "[::1]:8081"),
    watcher="w:1",
    alertmanager="m:2",
    prometheus="https://p.example/prom",
    runbooks="https://wiki.example/runbooks/",
)


def test_every_place_is_where_it_belongs(tmp_path: Path) -> None:
    names = export_files(tmp_path, PLACES)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == names
    prometheus = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}
    assert targets == {"driftwheel": ["a.example:8080", "[::1]:8081"], "driftwheel-watcher": ["w:1"]}
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["m:2"]
    alertmanager = yaml.safe_load((tmp_path / "alertmanager/alertmanager.yml").read_text())
    hooks = [hook for receiver in alertmanager["receivers"] for hook in receiver.get("webhook_configs", ())]
    assert [hook["url"] for hook in hooks] == ["http://w:1/v1/alerts"]
    source = yaml.safe_load((tmp_path / "grafana/provisioning/datasources/driftwheel.yaml").read_text())
    assert source["datasources"][0]["url"] == "https://p.example/prom"
    provider = yaml.safe_load((tmp_path / "grafana/provisioning/dashboards/driftwheel.yaml").read_text())
    pages = Path(provider["providers"][0]["options"]["path"])
    assert len([json.loads(path.read_text()) for path in pages.glob("*.json")]) == 5
    rules = (tmp_path / "prometheus/rules/driftwheel.yaml").read_text()
    assert "runbook_url: https://wiki.example/runbooks/DriftwheelServerDown.md" in rules
    assert "docs/runbooks" not in rules + "".join(path.read_text() for path in pages.glob("*.json"))


@pytest.mark.parametrize(
    ("places", "named"),
    [
        ({"servers": ("a",)}, "--server must be HOST:PORT, got 'a'"),
        ({"watcher": 'a"b:1'}, "--watcher"),
        ({"alertmanager": "http://a:1"}, "--alertmanager"),
        ({"prometheus": "localhost:9090"}, "--prometheus must be a URL"),
        ({"runbooks": "https://a\nb"}, "--runbooks"),
    ],
)
def test_what_is_no_address_is_refused(places: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Places(**places)  # pyright: ignore[reportArgumentType]
    assert named in caught.value.message


@pytest.mark.system
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")
@pytest.mark.skipif(shutil.which("amtool") is None, reason="needs the Debian package prometheus-alertmanager")
def test_prometheus_and_alertmanager_accept_their_files(tmp_path: Path) -> None:
    export_files(tmp_path, PLACES)
    for command in (
        ["promtool", "check", "config", tmp_path / "prometheus/prometheus.yml"],
        ["amtool", "check-config", tmp_path / "alertmanager/alertmanager.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
