"""The training step in a TrainJob: submitted, waited for, and its result found in the home that its nodes share."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from driftwheel.errors import ConfigurationError, DriftwheelError, TrainingError
from driftwheel.pipelines import steps
from driftwheel.pipelines.train_job import job_name, run_train_job, train_elsewhere, train_job
from driftwheel.settings import Settings, TrainingSettings
from driftwheel.wheel.cluster import TRAIN_JOBS, Cluster
from driftwheel.wheel.job_manifests import COMMAND, RUNTIME
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.sources import Sources
from tests.command_lines import parsed
from tests.driftwheel.pipelines.stand_in import StandIn, stand_in
from tests.training.samples import small_table
from training.data.sources import CustomersSource, RatingsSource

JOB = "rating-0123456789abcdef-ba5eba11"
NAME = job_name("mf", JOB)
ROOT = Path(__file__).parent.parent.parent.parent


def ends(kind: str, message: str = "") -> Callable[[StandIn, str, str], None]:
    """Trainer's controller, under which every job that is made comes to such an end after a look or two."""

    def controller(api: StandIn, method: str, path: str) -> None:
        if method == "GET" and path in api.objects:
            at = "2026-01-01T00:00:00Z"
            conditions = [
                {"type": kind, "status": "True", "reason": "Test", "message": message, "lastTransitionTime": at}
            ]
            api.objects[path].setdefault("status", {})["conditions"] = conditions

    return controller


def run(cluster: Cluster, *, timeout_s: float = 10.0) -> None:
    run_train_job(cluster, "mf", JOB, SILENT, estimator="sgd", learn=True, timeout_s=timeout_s, every_s=0.01)


def test_a_job_is_made_and_waited_for() -> None:
    with stand_in(ends("Complete")) as (api, cluster):
        run(cluster)
        made = api.get(TRAIN_JOBS, NAME)
        assert [method for method, _ in api.calls] == ["GET", "POST", "GET", "GET"]
    spec = TrainerV1alpha1TrainJob.from_dict(made).spec
    assert spec is not None
    assert (spec.runtime_ref.kind, spec.runtime_ref.name) == ("TrainingRuntime", RUNTIME)
    assert spec.active_deadline_seconds == 10
    assert spec.trainer is not None
    (variable,) = spec.trainer.env or []
    assert variable.value == "train mf --register-only --estimator sgd --learn"
    options = parsed(["--home", "/home/driftwheel", *variable.value.split()])
    assert (options["model"], options["register_only"], options["estimator"], options["learn"]) == (
        "mf",
        True,
        "sgd",
        True,
    )


def test_the_runtime_takes_what_the_job_tells_it() -> None:
    runtime = yaml.safe_load((ROOT / "k8s/training/runtime.yaml").read_text())
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert runtime["metadata"]["name"] == RUNTIME
    assert f"driftwheel --home /home/driftwheel ${{{COMMAND}:-" in container["args"][0]
    claims = [volume.get("persistentVolumeClaim") for volume in job["template"]["spec"]["template"]["spec"]["volumes"]]
    assert any(claims)


def test_a_name_is_one_that_kubernetes_takes() -> None:
    for model in ("mf", "Model_" + "x" * 50):
        name, other = job_name(model, JOB), job_name(model, f"{JOB}-bf16")
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])", name)
        assert name != other
    made = train_job("mf", JOB, estimator=None, learn=False, deadline_s=1)
    assert made.spec is not None
    assert made.spec.trainer is not None
    assert [one.value for one in made.spec.trainer.env or []] == ["train mf --register-only"]


def test_a_step_that_is_repeated_finds_its_job() -> None:
    with stand_in(ends("Complete")) as (api, cluster):
        api.put(TRAIN_JOBS, NAME, {"spec": {}})
        run(cluster)
        assert "POST" not in {method for method, _ in api.calls}


def test_a_job_that_fails_says_why_and_is_made_anew() -> None:
    with stand_in(ends("Failed", "the deadline is over")) as (api, cluster):
        for made in (1, 2):
            with pytest.raises(TrainingError, match=f"TrainJob {NAME} failed: Test: the deadline is over"):
                run(cluster)
            assert [method for method, _ in api.calls].count("POST") == made
        assert [method for method, _ in api.calls].count("DELETE") == 1


def test_a_cluster_that_refuses_or_is_gone_is_named() -> None:
    def vanishes(api: StandIn, method: str, path: str) -> None:
        if method == "POST":
            api.objects.clear()

    with stand_in(vanishes) as (_, cluster), pytest.raises(TrainingError, match="was deleted while it was waited for"):
        run(cluster)
    with pytest.raises(DriftwheelError, match="the Kubernetes API cannot be reached"):
        run(cluster)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_step_goes_on_with_what_the_nodes_left(tmp_path: Path) -> None:
    """The nodes are played by the command that the runtime would run, on the same home."""
    settings = Settings(home=tmp_path / "home", training=TrainingSettings(ranks=1))
    small_table(2000).to_csv(tmp_path / "ratings.csv", index=False)
    sources = Sources(ratings=RatingsSource(path=str(tmp_path / "ratings.csv")), customers=CustomersSource())
    prepared = steps.prepare(settings, "mf", SILENT, sources=sources, estimator="als", learn=False)
    what: dict[str, Any] = {"fingerprint": prepared.dataset.fingerprint, "job": prepared.job, "estimator": "als"}
    nodes = list[threading.Thread]()

    def trainer(api: StandIn, method: str, path: str) -> None:
        if method != "POST":
            return
        (variable,) = api.objects[path]["spec"]["trainer"]["env"]
        command = [sys.executable, "-m", "driftwheel", "--home", str(settings.home), *variable["value"].split()]

        def node() -> None:
            done = subprocess.run(command, env=settings.child_environment(), capture_output=True)
            condition = {"type": "Failed" if done.returncode else "Complete", "status": "True"}
            api.objects[path]["status"] = {"conditions": [condition | {"message": done.stderr.decode()}]}

        nodes.append(threading.Thread(target=node))
        nodes[-1].start()

    with stand_in(trainer) as (api, cluster):
        train_elsewhere(settings, "mf", SILENT, learn=False, cluster=cluster, every_s=0.2, **what)
        assert len(nodes) == 1
        calls = len(api.calls)
        train_elsewhere(settings, "mf", SILENT, learn=False, cluster=cluster, **what)
        assert len(api.calls) == calls, "it is on record: nobody is asked"
    trained = {path: path.stat().st_mtime_ns for path in settings.jobs.glob("*/model/*")}
    made = steps.train(settings, "mf", SILENT, **what)
    assert (made.version, made.shipped.key) == (1, prepared.job)
    assert {path: path.stat().st_mtime_ns for path in settings.jobs.glob("*/model/*")} == trained
    assert not settings.models.exists(), "export is another step's"
    with pytest.raises(TrainingError, match=f"the run was to train job {prepared.job}, and would train rating-"):
        steps.train(settings, "mf", SILENT, **what | {"estimator": "ials"})


def test_a_result_that_is_not_here_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", training=TrainingSettings(ranks=1))
    small_table(500).to_csv(tmp_path / "ratings.csv", index=False)
    sources = Sources(ratings=RatingsSource(path=str(tmp_path / "ratings.csv")), customers=CustomersSource())
    prepared = steps.prepare(settings, "mf", SILENT, sources=sources, estimator="als", learn=False)
    with (
        stand_in(ends("Complete")) as (_, cluster),
        pytest.raises(ConfigurationError, match="is complete, but job .* is not on record here"),
    ):
        train_elsewhere(
            settings,
            "mf",
            SILENT,
            fingerprint=prepared.dataset.fingerprint,
            job=prepared.job,
            estimator="als",
            learn=False,
            cluster=cluster,
            every_s=0.01,
        )
