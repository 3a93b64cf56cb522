"""What images are made of, and what is run in them. No engine is needed: their steps are run as plain commands."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftwheel.settings import MonitoringSettings, Settings
from driftwheel.wheel.monitoring_secrets import PASSWORD, TOKEN
from tests.command_lines import parsed
from tests.watchers import codes_for

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


def test_what_images_are_installed_from_can_be_had_together() -> None:
    """Every extra is one of the project's, and no two files of constraints contradict each other."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {one for group in re.findall(r"\.\[([\w,]+)\]", DOCKERFILE) for one in group.split(",")}
    assert named
    assert named <= extras
    files = [ROOT / name for name in re.findall(r"^COPY (\S*constraints\.txt) ", DOCKERFILE, flags=re.MULTILINE)]
    files += [ROOT / "constraints.txt"]
    assert len(files) == 2
    pins = [dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), flags=re.MULTILINE)) for path in files]
    assert all(pins)
    assert {name for name in pins[0] if pins[1].get(name, pins[0][name]) != pins[0][name]} == set()


@pytest.mark.parametrize("target", IMAGES)
def test_torch_is_in_the_images_that_need_it_and_in_no_other(target: str) -> None:
    """TorchServe's workers import it, whatever they run."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (line,) = [one for one in stages()[f"{target}-build"] if "pip install" in one]
    left = re.findall(r"\.\[([\w,]+)\]", line)[0].split(",")
    names, seen = set[str](), set[str]()
    while left:
        extra = left.pop()
        seen.add(extra)
        for requirement in extras[extra]:
            inner = re.match(r"driftwheel\[([\w,]+)\]", requirement)
            left += [one for one in inner[1].split(",") if one not in seen] if inner else []
            names.add(re.split(r"[\[<>=]", requirement)[0])
    assert ("torch" in names) == (target in ("torchserve", "training"))


def test_what_packages_read_beside_their_code_is_installed() -> None:
    """An editable installation has every file; an image has those that the project names."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    packages = [name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]]
    of_the_build = {".py", ".pyi", ".c", ".sh", ".so", ".pyc"}
    there = {path for name in packages for path in (ROOT / name).rglob("*") if path.is_file()}
    read = {path for path in there if path.suffix not in of_the_build and path.name != "kustomization.yaml"}
    assert {path.relative_to(ROOT).as_posix() for path in read - shipped} == set()


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


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the compose file's volumes hold once ``monitoring-files`` has ended, its command run as a plain process."""
    folder = tmp_path_factory.mktemp("volumes")
    command = [local(word, folder) for word in SERVICES["monitoring-files"]["command"]]
    done = subprocess.run([sys.executable, "-m", "driftwheel", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def local(word: str, volumes: Path) -> str:
    """A word of a command with the volumes' places on this machine."""
    return word.replace("/etc/monitoring", f"{volumes}/monitoring").replace("/home/driftwheel", f"{volumes}/home")


def test_the_files_of_the_monitoring_services_are_those_that_the_export_writes(volumes: Path) -> None:
    for service in SERVICES.values():
        words = [*service.get("command", ()), *service.get("environment", {}).values()]
        for path in re.findall(r"/etc/monitoring/(\S+)", " ".join(words)):
            assert (volumes / "monitoring" / path).exists(), path
    scraped = yaml.safe_load((volumes / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for config in job["static_configs"] for target in config["targets"]}
    listening = {
        "serving": parsed(SERVICES["serving"]["command"])["port"],
        "watcher": parsed(SERVICES["watcher"]["command"])["port"],
    }
    assert {f"{name}:{port}" for name, port in listening.items()} <= targets


def test_alertmanager_is_let_in_by_the_watcher_and_nobody_else(volumes: Path) -> None:
    watcher = parsed([local(word, volumes) for word in SERVICES["watcher"]["command"]])
    written = volumes / "monitoring/alertmanager/alertmanager.yml"
    receivers = yaml.safe_load(written.read_text())["receivers"]
    (hook,) = [one for receiver in receivers for one in receiver.get("webhook_configs", ())]
    assert hook["url"] == f"http://watcher:{watcher['port']}/v1/alerts"
    token = (written.parent / hook["http_config"]["authorization"]["credentials_file"]).read_text().strip()
    own = MonitoringSettings(port=0, token_file=watcher["token_file"])
    assert codes_for(Settings(home=volumes / "home", monitoring=own), token, "anything") == [200, 401]
    assert not (volumes / "home/tokens.toml").exists()  # with it, the server would want tokens from everybody


def test_secrets_are_made_before_they_are_read_and_by_whom_they_may_be() -> None:
    readers = {"alertmanager": TOKEN, "grafana": PASSWORD}
    for name, service in LONG_LIVED.items():
        assert service.get("group_add", []) == (["10001"] if name in readers else []), name
        mounted = any(volume.startswith("monitoring:") for volume in service["volumes"])
        if mounted or name == "watcher":
            wanted = {"monitoring-files": {"condition": "service_completed_successfully"}}
            assert service["depends_on"] == wanted, name
        assert not mounted or "monitoring:/etc/monitoring:ro" in service["volumes"], name
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/etc/monitoring/{PASSWORD}"


def test_the_compose_file_needs_no_variables_and_no_image_of_ours_from_a_registry() -> None:
    assert "$" not in (ROOT / "docker/compose.yaml").read_text()
    for name, service in OURS.items():
        target = service["image"].removeprefix("driftwheel-").partition(":")[0]
        assert service["build"] == {"context": "..", "dockerfile": "docker/Dockerfile", "target": target}, name
        assert service["pull_policy"] == "build", name


def test_compose_itself_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("needs docker with its compose plugin")
    command = [
        docker,
        "compose",
        "--file",
        str(ROOT / "docker/compose.yaml"),
        "--profile",
        "train",
        "config",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
