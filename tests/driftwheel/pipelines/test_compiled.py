"""The pipeline that Kubeflow gets: what is committed is what the source compiles to, and it holds what it promises."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from driftwheel.pipelines.kserve import ROLLOUTS
from driftwheel.wheel.cluster import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES, TRAIN_JOBS

ROOT = Path(__file__).parent.parent.parent.parent
FOLDER = ROOT / "k8s/pipelines"
STEPS = ["prepare", "train", "evaluate", "gate", "export", "deploy"]

Object = dict[str, Any]


@pytest.fixture(scope="module")
def documents() -> tuple[Object, Object]:
    """The pipeline, and what of it is Kubernetes' own."""
    pipeline, platform = yaml.safe_load_all((FOLDER / "driftwheel.yaml").read_text())
    return pipeline, platform


def tasks_of(pipeline: Object) -> dict[str, Object]:
    """All tasks, those behind the condition included."""
    found = dict(pipeline["root"]["dag"]["tasks"])
    for component in pipeline["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def test_what_is_committed_is_what_the_source_compiles_to() -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([FOLDER / "check.sh"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_pipeline_that_was_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "k8s/pipelines").mkdir(parents=True)
    (tmp_path / "k8s/pipelines/check.sh").write_bytes((FOLDER / "check.sh").read_bytes())
    changed = (FOLDER / "driftwheel.yaml").read_text().replace("enableCache: true", "enableCache: false")
    (tmp_path / "k8s/pipelines/driftwheel.yaml").write_text(changed)
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = ["sh", tmp_path / "k8s/pipelines/check.sh"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, "run make pipeline" in done.stderr) == (1, True), done.stderr


def test_export_and_deploy_hang_on_the_verdict(documents: tuple[Object, Object]) -> None:
    root = documents[0]["root"]["dag"]["tasks"]
    (condition,) = [task for task in root.values() if "triggerPolicy" in task]
    assert condition["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--gate-passed'] == true"
    )
    passed = condition["inputs"]["parameters"]["pipelinechannel--gate-passed"]["taskOutputParameter"]
    assert passed == {"producerTask": "gate", "outputParameterKey": "passed"}
    behind = documents[0]["components"][condition["componentRef"]["name"]]["dag"]["tasks"]
    assert set(behind) == {"export", "deploy"}
    assert "export" in behind["deploy"]["dependentTasks"]
    assert {name for name in root if name in STEPS} == {"prepare", "train", "evaluate", "gate"}


def test_a_training_is_found_again_by_its_job_and_nothing_else_is(documents: tuple[Object, Object]) -> None:
    tasks = tasks_of(documents[0])
    cached = {name for name in STEPS if tasks[name].get("cachingOptions", {}).get("enableCache")}
    assert cached == {"train"}
    assert "artifacts" not in tasks["train"]["inputs"], (
        "an artifact is another one in each run: it would never be found"
    )
    told = {name: one.get("taskOutputParameter") for name, one in tasks["train"]["inputs"]["parameters"].items()}
    assert told["job"] == {"producerTask": "prepare", "outputParameterKey": "job"}


def test_every_step_is_tried_again(documents: tuple[Object, Object]) -> None:
    for name in STEPS:
        policy = tasks_of(documents[0])[name]["retryPolicy"]
        assert policy["maxRetryCount"] == 2, name
        assert policy["backoffDuration"] == "30s", name


def test_images_are_ours_and_of_one_version(documents: tuple[Object, Object]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"].values()
    images = {one["container"]["image"] for one in executors}
    built = yaml.safe_load((ROOT / "k8s/training/kustomization.yaml").read_text())["images"]
    assert images == {f"{built[0]['name']}:{built[0]['newTag']}"}
    for one in executors:
        assert {"cpuLimit", "memoryLimit", "cpuRequest", "memoryRequest"} <= _numbers(one["container"]["resources"])
        assert "pip install" not in " ".join(one["container"]["command"]), "the image has all that a step needs"


def test_the_image_has_what_runs_components() -> None:
    assert re.search(
        r"^FROM sources AS training-build\nRUN .*[\[,]pipeline[\],]",
        (ROOT / "docker/Dockerfile").read_text(),
        flags=re.MULTILINE,
    )


def _numbers(resources: Object) -> set[str]:
    return {name.removeprefix("resource")[:1].lower() + name.removeprefix("resource")[1:] for name in resources}


def test_every_step_has_the_home_and_is_nobody(documents: tuple[Object, Object]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(documents[0]["deploymentSpec"]["executors"])
    for one in executors.values():
        (mount,) = one["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("driftwheel-home", "/home/driftwheel")
        assert one["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert int(one["activeDeadlineSeconds"]) > 0
        assert all(known["optional"] for known in one["configMapAsEnv"])
    with_keys = {name for name, one in executors.items() if "secretAsEnv" in one}
    assert with_keys == {"exec-prepare", "exec-deploy"}


def test_artifacts_are_typed(documents: tuple[Object, Object]) -> None:
    kinds = {
        (name.removeprefix("comp-"), output): one["artifactType"]["schemaTitle"]
        for name, component in documents[0]["components"].items()
        for output, one in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        if name.removeprefix("comp-") in STEPS
    }
    assert kinds == {
        ("prepare", "data"): "system.Dataset",
        ("prepare", "plan"): "system.Markdown",
        ("train", "trained"): "system.Model",
        ("train", "report"): "system.HTML",
        ("evaluate", "metrics"): "system.Metrics",
        ("evaluate", "classification"): "system.ClassificationMetrics",
        ("evaluate", "comparison"): "system.Markdown",
        ("gate", "verdict"): "system.Markdown",
        ("export", "bundle"): "system.Model",
    }


def test_the_role_allows_what_the_steps_ask_for() -> None:
    objects = list(yaml.safe_load_all((FOLDER / "access.yaml").read_text()))
    role = next(one for one in objects if one["kind"] == "Role")
    allowed = {(rule["apiGroups"][0], rule["resources"][0]): rule for rule in role["rules"]}
    asked = {TRAIN_JOBS: {"get", "create", "delete"}, INFERENCE_SERVICES: {"get", "patch"}, DEPLOYMENTS: {"get"}}
    asked[CONFIG_MAPS] = {"patch"}
    assert {key: set(rule["verbs"]) for key, rule in allowed.items()} == {
        (kind.group, kind.plural): verbs for kind, verbs in asked.items()
    }
    assert allowed["", "configmaps"]["resourceNames"] == [ROLLOUTS]


def test_what_is_applied_is_what_kubernetes_takes(documents: tuple[Object, Object]) -> None:
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "driftwheel.yaml"} == set(named)
    for name in named:
        for one in yaml.safe_load_all((FOLDER / name).read_text()):
            kubernetes_validate.validate(one, "1.33", strict=True)
    policy = yaml.safe_load((FOLDER / "network.yaml").read_text())
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for one in documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert one["podMetadata"]["labels"] == selected


def compiled(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "driftwheel", "pipeline", "compile", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_another_image_and_claim_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    image = "registry.example.com:5000/training@sha256:" + "0" * 64
    done = compiled("--output", str(path), "--image", image, "--claim", "my-home")
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert set(re.findall(r"image: (\S+)", text)) == {image}
    assert "constant: my-home" in text
    assert [one.name for one in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "pipeline.json"], "--output must end in .yaml, got pipeline.json"),
        (["--image", "registry.example.com:5000/training"], "--image must have a tag or a digest"),
    ],
)
def test_what_cannot_be_compiled_is_one_clear_message(words: list[str], says: str) -> None:
    done = compiled(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
