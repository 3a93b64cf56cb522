"""Retrains in a cluster: one at a time whoever asks, and none that ends without an entry in the ledger."""

import copy
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from driftwheel.errors import ConfigurationError, DriftwheelError
from driftwheel.settings import RetrainSettings, Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.cluster import CRON_JOBS, JOBS, PODS, TRAIN_JOBS, Cluster
from driftwheel.wheel.job_manifests import COMMAND, REASON, WORKS, Retrain, job_manifest
from driftwheel.wheel.retrain_jobs import RetrainJobs
from driftwheel.wheel.retrain_processes import RetrainProcesses
from driftwheel.wheel.retrain_runner import runner_for
from driftwheel.wheel.retraining import RetrainOutcome, record_end, record_start
from monitoring.ledger import Entry, Ledger
from monitoring.retrain import Trigger, lease, may_start
from tests.command_lines import parsed
from tests.driftwheel.pipelines.stand_in import Object, StandIn, stand_in

K8S = Path(__file__).parents[3] / "k8s"
TEMPLATE = yaml.safe_load((K8S / "wheel/retrain.yaml").read_text())
WHY = """alert "Drift's found" (mf); since 12:00, $HOME *"""
KILLED = {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
NO_IMAGE = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}


class World:
    """A home, and a cluster that has its template."""

    def __init__(self, home: Path, api: StandIn, cluster: Cluster) -> None:
        self.settings = Settings(home=home, retrain=RetrainSettings(runner="kubernetes-job"))
        self.api, self.cluster, self.clock = api, cluster, 0.0
        api.put(CRON_JOBS, "driftwheel-retrain", {**TEMPLATE, "metadata": {"name": "driftwheel-retrain"}})
        self.retrains = self.runner()

    def runner(self, runner: str = "kubernetes-job") -> RetrainJobs:
        return RetrainJobs(self.settings, self.cluster, WORKS[runner], every_s=0.01, clock=lambda: self.clock)

    def start(self) -> Object:
        """Have ``mf`` retrained, by an alert; the Job."""
        self.retrains.start("mf", reason=WHY, trigger="alert")
        (job,) = self.jobs()
        return job

    def jobs(self) -> list[Object]:
        with self.api.lock:
            return [one for path, one in self.api.objects.items() if path.startswith(JOBS.path("driftwheel"))]

    def pod(self, job: Object, **status: Any) -> None:
        name = job["metadata"]["name"]
        metadata = {"name": f"{name}-x", "labels": {"batch.kubernetes.io/job-name": name}}
        with self.api.lock:
            self.api.put(PODS, f"{name}-x", {"metadata": metadata, "status": status})

    def end(self, job: Object, kind: str, reason: str = "") -> None:
        with self.api.lock:
            job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason}]}

    def entries(self) -> list[Entry]:
        return Ledger(self.settings.ledger).entries("mf", "retrain")

    def ended(self) -> Entry:
        """The end of a retrain, once the ledger has it."""
        until(lambda: bool(self.entries()) and self.entries()[-1].payload["event"] == "finished")
        return self.entries()[-1]

    def over(self) -> None:
        """Wait until nobody follows anything any more."""
        until(lambda: not any(one.is_alive() for one in self.retrains._followers.values()))


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with stand_in() as (api, cluster):
        made = World(tmp_path / "home", api, cluster)
        with closing(made.retrains):
            yield made


def test_the_job_is_the_templates_with_the_words_of_this_retrain(world: World) -> None:
    said = world.retrains.start("mf", reason=WHY, trigger="alert")
    (job,) = world.jobs()
    name = job["metadata"]["name"]
    assert name.startswith("driftwheel-retrain-mf-")
    assert said == f"the pods' log: kubectl logs --selector batch.kubernetes.io/job-name={name}"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    options = parsed(container["args"])
    assert (options["home"], options["model"]) == (Path("/home/driftwheel"), "mf")
    assert (options["reason"], options["trigger"], options["on_drift"]) == (WHY, "alert", False)
    (usual,) = TEMPLATE["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == usual["resources"]
    assert job["spec"]["activeDeadlineSeconds"] == TEMPLATE["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]


def test_a_second_loop_and_a_restart_start_no_second_one(world: World) -> None:
    job = world.start()
    with closing(world.runner()) as other:
        other.start("mf", reason="the schedule", trigger="schedule")
        assert world.jobs() == [job]
        with closing(world.runner()) as third:
            assert third.going_on("mf")
            assert not third.going_on("churn")
    assert world.jobs() == [job], "only what started it deletes it"


def test_what_the_pod_wrote_down_is_the_end(world: World) -> None:
    job = world.start()
    assert world.retrains.going_on("mf")
    started = now()
    record_start(world.settings, "mf", started, WHY, "alert")
    refused = RetrainOutcome(outcome="made version 2: refused by the gate", result="refused")
    record_end(world.settings, "mf", started, WHY, "alert", refused)
    world.end(job, "Complete")
    world.over()
    assert [entry.payload["event"] for entry in world.entries()] == ["started", "finished"]
    assert not world.retrains.going_on("mf")
    world.retrains.start("mf", reason="again", trigger="drift")
    assert len({one["metadata"]["name"] for one in world.jobs()}) == 2


def test_a_pod_that_was_killed_before_it_wrote_anything_counts_as_a_failed_retrain(world: World) -> None:
    job = world.start()
    with closing(world.runner()) as other:
        assert other.going_on("mf")
        world.pod(job, containerStatuses=[KILLED])
        world.end(job, "Failed", "BackoffLimitExceeded")
        entry = world.ended()
        world.over()
        until(lambda: not other._followers["mf"].is_alive())
    assert [one.payload["event"] for one in world.entries()] == ["started", "finished"], "two followers, one entry"
    name = job["metadata"]["name"]
    assert entry.payload["outcome"] == (
        f"failed: Job {name} failed: BackoffLimitExceeded; pod {name}-x: OOMKilled (exit code 137)"
    )
    assert (entry.payload["result"], entry.payload["trigger"], entry.payload["reason"]) == ("failed", "alert", WHY)
    verdict = may_start(
        world.entries(), now=now(), settings=world.settings.retrain, reason=WHY, candidate_in_flight=False
    )
    assert verdict.reason.startswith("cool-down: ")


def test_a_pod_that_was_killed_later_has_its_retrain_closed(world: World) -> None:
    record_start(world.settings, "mf", "2026-01-01T00:00:00Z", "one that was interrupted before", "drift")
    job = world.start()
    started = now()
    record_start(world.settings, "mf", started, WHY, "alert")
    world.pod(job, reason="Evicted", message="the node was low on memory")
    world.end(job, "Failed", "DeadlineExceeded")
    entry = world.ended()
    assert [one.payload["event"] for one in world.entries()] == ["started", "started", "finished"]
    assert entry.payload["started_at"] == started
    assert entry.payload["outcome"].endswith("-x: Evicted: the node was low on memory")


def test_what_was_wrong_with_pods_is_told_though_they_are_gone(world: World) -> None:
    job = world.start()
    name = job["metadata"]["name"]
    world.pod(job, containerStatuses=[NO_IMAGE])
    listed = f"{PODS.path('driftwheel')}?labelSelector=batch.kubernetes.io%2Fjob-name%3D{name}"
    seen = world.api.calls.count(("GET", listed))
    until(lambda: world.api.calls.count(("GET", listed)) > seen + 1)
    with world.api.lock:
        del world.api.objects[f"{PODS.path('driftwheel')}/{name}-x"]
    world.end(job, "Failed", "DeadlineExceeded")
    assert world.ended().payload["outcome"].endswith(f"DeadlineExceeded; pod {name}-x: ErrImagePull: not found")


def test_one_that_works_on_another_home_is_told(world: World) -> None:
    world.end(world.start(), "Complete")
    assert world.ended().payload["outcome"].endswith("is complete, but its end is not on record in this home")


def test_one_that_does_not_say_that_its_deadline_is_over_is_deleted(world: World) -> None:
    world.start()
    world.clock = 14_400.0 + 601.0
    assert world.ended().payload["outcome"].endswith("took longer than its 14400 s, and did not say so")
    assert world.jobs() == []


def test_one_that_makes_way_for_a_person_leaves_the_end_to_it(world: World) -> None:
    with lease(world.settings.runtime / "retrain-mf.lock"):
        world.end(world.start(), "Failed", "BackoffLimitExceeded")
        world.over()
        assert world.entries() == []
        assert world.retrains.going_on("mf")


def test_closing_deletes_what_is_going_on_and_what_has_ended_stays(world: World) -> None:
    world.end(world.start(), "Failed")
    world.ended()
    world.over()
    world.retrains.start("mf", reason="again", trigger="drift")
    assert len(world.jobs()) == 2
    world.retrains.close()
    (left,) = world.jobs()
    assert "status" in left
    assert len(world.entries()) == 2, "what was ended on purpose did not fail, and is taken up again"


def test_one_that_somebody_deletes_is_not_waited_for(world: World) -> None:
    job = world.start()
    world.cluster.delete(JOBS, job["metadata"]["name"])
    world.over()
    assert not world.retrains.going_on("mf")
    assert world.entries() == []


def test_a_template_that_is_none_is_named(world: World) -> None:
    def changed(change: Callable[[Any], None]) -> Object:
        template = copy.deepcopy(TEMPLATE)
        change(template["spec"]["jobTemplate"]["spec"])
        return template

    for template, fault in (
        (changed(lambda spec: spec.pop("activeDeadlineSeconds")), "must have .*activeDeadlineSeconds, and has none"),
        (changed(lambda spec: spec["template"]["spec"]["containers"][0].pop("args")), "one container .* got 0"),
    ):
        world.api.put(CRON_JOBS, "driftwheel-retrain", template)
        with pytest.raises(ConfigurationError, match=f"CronJob driftwheel-retrain .*{fault}"):
            world.start()
    world.cluster.delete(CRON_JOBS, "driftwheel-retrain")
    with pytest.raises(ConfigurationError, match="job_template must name a CronJob of the namespace driftwheel, got"):
        world.start()
    assert world.jobs() == []


@pytest.mark.parametrize("trigger", get_args(Trigger))
def test_a_train_job_has_the_runtimes_first_node_retrain(world: World, trigger: Trigger) -> None:
    with closing(world.runner("train-job")) as retrains:
        retrains.start("mf", reason=WHY, trigger=trigger)
        (made,) = [one for path, one in world.api.objects.items() if path.startswith(TRAIN_JOBS.path("driftwheel"))]
        env = {one["name"]: one["value"] for one in made["spec"]["trainer"]["env"]}
        runtime = yaml.safe_load((K8S / "training/runtime.yaml").read_text())
        (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        (script,) = job["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
        (line,) = [line.strip() for line in script.splitlines() if f"${{{COMMAND}:-" in line]
        assert set(env) == {COMMAND, REASON}
        shown = f"driftwheel() {{ printf '%s\\n' \"$@\"; }}\n{line.partition(' & ')[0]}"
        told = subprocess.run(["sh", "-ec", shown], env=env, capture_output=True, text=True, check=True)
        options = parsed(told.stdout.splitlines())
        assert (options["model"], options["reason"], options["trigger"]) == ("mf", WHY, trigger)
        world.end(made, "Failed", "Test")
        assert "TrainJob driftwheel-retrain-mf-" in world.ended().payload["outcome"]


def test_the_settings_choose(tmp_path: Path) -> None:
    assert isinstance(runner_for(Settings(home=tmp_path)), RetrainProcesses)
    in_jobs = Settings(home=tmp_path, retrain=RetrainSettings(runner="kubernetes-job"))
    with pytest.raises(ConfigurationError, match="this asks Kubernetes, and can do so in a pod"):
        runner_for(in_jobs)
    with pytest.raises(ValidationError, match="runner"):
        Settings.model_validate({"home": tmp_path, "retrain": {"runner": "kubernetes"}})


def test_a_cluster_that_is_gone_is_an_error_once_and_hinders_nobody(tmp_path: Path) -> None:
    with stand_in() as (api, cluster):
        world = World(tmp_path / "home", api, cluster)
    with pytest.raises(DriftwheelError, match="the Kubernetes API cannot be reached"):
        world.retrains.going_on("mf")
    assert not world.retrains.going_on("mf")


def test_labels_of_the_template_are_the_jobs() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["jobTemplate"]["metadata"] = {"labels": {"team": "shop"}}
    made = job_manifest(template, "n", Retrain(model="mf", reason=WHY, trigger="drift"), {})
    assert made["metadata"] == {"name": "n", "labels": {"team": "shop"}, "annotations": {}}
    assert made["spec"]["ttlSecondsAfterFinished"] == 86_400
