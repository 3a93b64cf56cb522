"""What images are made of, and what is run in them. No engine is needed: their steps are run as plain commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_lines import parsed

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("driftwheel-")}
LONG_LIVED = {name: one for name, one in SERVICES.items() if one["restart"] != "no"}


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, in order; the first word of a stage's first one is what it is made from."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            name = words[3]
            found[name] = [words[1]]
        elif words and not line.startswith("#") and name:
            found[name].append(re.sub(" +", " ", line.strip()))
    return found


def shipped(target: str) -> list[str]:
    """The instructions that make an image, those of the stages that it is made from included."""
    made_from, *own = stages()[target]
    return [*(shipped(made_from) if made_from in stages() else [made_from]), *own]


IMAGES = ["serving", "serving-gpu", "torchserve", "training"]


@pytest.mark.parametrize("target", IMAGES)
def test_no_image_runs_as_root_or_holds_a_compiler(target: str) -> None:
    instructions = shipped(target)
    users = [line.split()[1] for line in instructions if line.startswith("USER ")]
    assert users[-1] == "10001:10001"
    assert not any("gcc" in line for line in instructions)
    assert any(line.startswith("HEALTHCHECK") for line in instructions)
    assert [line for line in instructions if line.startswith("ENTRYPOINT")] == ['ENTRYPOINT ["driftwheel"]']


def test_images_are_built_from_pinned_ones() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    tags = [python, *(one["image"] for one in SERVICES.values())]
    assert all(re.search(r":v?\d+\.\d+", tag) for tag in tags), tags
    assert all(one[0] == "${PYTHON}" or one[0] in stages() for one in stages().values())


def test_serving_images_are_installed_without_what_training_needs() -> None:
    extras = {
        name: set(re.findall(r'"?\.\[([\w,]+)\]', " ".join(lines)).pop().split(","))
        for name, lines in stages().items()
        if name.endswith("-build")
    }
    assert not {"train", "monitor", "torchserve"} & (extras["serving-build"] | extras["serving-gpu-build"])
    assert "train" in extras["training-build"]


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


@pytest.mark.parametrize("target", IMAGES)
def test_commands_of_images_parse_with_our_own_cli(target: str) -> None:
    (command,) = [line for line in shipped(target)[::-1] if line.startswith("CMD [")][:1]
    words = yaml.safe_load(command.removeprefix("CMD "))
    if words != ["--help"]:
        parsed(words)


@pytest.mark.parametrize("name", OURS)
def test_services_run_commands_of_ours_confined(name: str) -> None:
    service = OURS[name]
    parsed(service["command"])
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", LONG_LIVED)
def test_services_are_limited_probed_and_published_on_loopback_only(name: str) -> None:
    service = LONG_LIVED[name]
    assert service["mem_limit"]
    assert "healthcheck" in service or service["image"].startswith("driftwheel-serving:")  # that image has its own
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_files_of_the_monitoring_services_are_those_that_the_export_writes(tmp_path: Path) -> None:
    command = [word.replace("/etc/monitoring", str(tmp_path)) for word in SERVICES["monitoring-files"]["command"]]
    done = subprocess.run([sys.executable, "-m", "driftwheel", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for service in SERVICES.values():
        words = [*service["command"], *service.get("environment", {}).values()] if "command" in service else []
        for path in re.findall(r"/etc/monitoring/(\S+)", " ".join(words)):
            assert (tmp_path / path).exists(), path
    scraped = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for config in job["static_configs"] for target in config["targets"]}
    listening = {
        "serving": parsed(SERVICES["serving"]["command"])["port"],
        "watcher": parsed(SERVICES["watcher"]["command"])["port"],
    }
    assert {f"{name}:{port}" for name, port in listening.items()} <= targets


def test_the_workflow_names_what_there_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    assert set(workflow["jobs"]["images"]["strategy"]["matrix"]["target"]) == set(IMAGES)
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", one) for one in used), used
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert all(subprocess.run(["sh", "-n", "-c", script]).returncode == 0 for script in scripts)
    assert (ROOT / shlex.split(workflow["jobs"]["test"]["steps"][1]["run"])[0]).exists()
    (job,) = re.findall(r"--from=cronjob/(\S+)", " ".join(scripts))
    assert f"name: {job}\n" in (ROOT / "k8s/wheel/retrain.yaml").read_text()
