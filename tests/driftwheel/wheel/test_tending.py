"""The loop over real customers: it checks, retrains and judges when each is due, and goes on whatever happens."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest
import yaml

from driftwheel.errors import BusyError, NotFoundError
from driftwheel.rollout import read_rollout, rollout_path, serve_stable, start_candidate
from driftwheel.settings import DriftSettings, JudgeSettings, MonitoringSettings, RetrainSettings, Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.cluster import CRON_JOBS
from driftwheel.wheel.job_manifests import WORKS
from driftwheel.wheel.retrain_jobs import RetrainJobs
from driftwheel.wheel.serving_on import turning
from driftwheel.wheel.tending import Tending, tending
from monitoring.canary.looks import newest_look
from monitoring.ledger import Entry, Ledger
from tests.driftwheel.pipelines.stand_in import stand_in
from tests.monitoring.worlds import CHURN, log_rows, make_bundle, telco, write_feedback, write_sealed

ROOT = Path(__file__).parents[3]
DRIFT = DriftSettings(window_rows=500, windows=2, windows_needed=1, check_every_s=300)


STABLE = "churn: version 1 in service: stable: no monitor drifts, quality is not shown to be down"


class World:
    """A home with a churn model in service, and a loop whose clock is ours."""

    def __init__(self, home: Path, *, retrain: RetrainSettings | None = None) -> None:
        retrain = retrain or RetrainSettings()
        self.settings = Settings(
            home=home, drift=DRIFT, retrain=retrain, judge=JudgeSettings(look_every_s=60, max_days=0)
        )
        self.customers = telco().sample(frac=1, random_state=0, ignore_index=True)
        make_bundle(self.settings.models, "churn", "churn", CHURN, self.customers.head(3500))
        serve_stable(self.settings.rollouts, "churn", 1, by="test", now=now())
        self.clock = 0.0
        self.said: list[str] = []

    def traffic(self, **changes: float) -> None:
        """A thousand customers, numbers multiplied by ``changes``."""
        rows = self.customers.tail(1000).copy()
        for column, factor in changes.items():
            rows[column] *= factor
        write_sealed(self.settings.prediction_log, "churn", 1, log_rows(rows, CHURN))

    def loop(self, *, retrain: bool = False, judge: bool = False) -> Tending:
        return Tending(self.settings, retrain=retrain, judge=judge, say=self.said.append, clock=lambda: self.clock)

    def entries(self, kind: str) -> list[Entry]:
        return Ledger(self.settings.ledger).entries("churn", kind)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home")


DEARER = {"in_monthly_charges": 1.4, "out_probability": 0.5}


def test_it_checks_when_it_is_due_and_says_what_has_changed(world: World) -> None:
    world.traffic()
    loop = world.loop()
    for world.clock, checks in ((0.0, 1), (299.0, 1), (300.0, 2)):
        loop.look()
        assert len(world.entries("drift")) == checks
    assert world.said == [STABLE]
    world.traffic(**DEARER)
    world.clock = 600.0
    loop.look()
    assert world.entries("drift")[-1].payload["decision"]["status"] == "drift"
    assert len(world.said) == 2
    assert world.entries("retrain") == []


def test_drift_starts_a_retrain_in_a_process_and_then_leaves_the_model_alone(world: World) -> None:
    world.traffic(**DEARER)
    with tending(world.settings, world.said.append, retrain=True, judge=False) as loop:
        loop.look()
        assert any(line.startswith("churn: retraining (drift job: ") for line in world.said), world.said
        started = wait_for_start(world)
        assert started.payload["trigger"] == "drift"
        loop._next_s.clear()
        loop.look()
        assert len(world.entries("drift")) == 1
    # Ended with the loop, whose lock is free again.
    with tending(world.settings, print, retrain=True, judge=False) as loop:
        assert not loop._retrains.going_on("churn")


def wait_for_start(world: World) -> Entry:
    give_up = time.monotonic() + 60
    while not (entries := world.entries("retrain")):
        assert time.monotonic() < give_up, (world.settings.runtime / "retrain-churn.log").read_text()
        time.sleep(0.05)
    return entries[0]


def test_drift_starts_a_retrain_in_the_cluster_and_then_leaves_the_model_alone(world: World) -> None:
    world.traffic(**DEARER)
    with stand_in() as (api, cluster):
        template = yaml.safe_load((ROOT / "k8s/wheel/retrain.yaml").read_text())
        api.put(CRON_JOBS, "driftwheel-retrain", template)
        retrains = RetrainJobs(world.settings, cluster, WORKS["kubernetes-job"])
        loop = Tending(world.settings, retrain=True, judge=False, say=world.said.append, retrains=retrains)
        loop.look()
        loop._next_s.clear()
        loop.look()
        (job,) = [one for one in api.objects.values() if one["kind"] == "Job"]
        assert job["metadata"]["annotations"]["driftwheel/reason"].startswith("drift job: ")
        assert world.said[-1].endswith(
            f"kubectl logs --selector batch.kubernetes.io/job-name={job['metadata']['name']}"
        )
        assert len(world.entries("drift")) == 1
        loop.close()
        assert [one["kind"] for one in api.objects.values()] == ["CronJob"]


def test_broken_data_is_told_and_never_learned_from(world: World) -> None:
    world.traffic(**DEARER, in_tenure=float("nan"))
    world.loop(retrain=True).look()
    assert world.entries("drift")[0].payload["decision"]["status"] == "broken data"
    assert [line for line in world.said if "broken data" in line]
    assert not [line for line in world.said if "retraining" in line]
    assert not (world.settings.runtime / "retrain-churn.log").exists()


def test_the_policy_holds_it_back(tmp_path: Path) -> None:
    world = World(tmp_path / "home", retrain=RetrainSettings(daily_cap=0))
    world.traffic(**DEARER)
    world.loop(retrain=True).look()
    assert world.said[-1] == "churn: not retrained: daily cap: 0 of 0 in 24 hours"


def test_what_is_long_overdue_is_retrained_on_schedule(tmp_path: Path) -> None:
    """The bundle was made on 1 January 2026."""
    world = World(tmp_path / "home", retrain=RetrainSettings(every_days=7))
    world.traffic()
    loop = world.loop(retrain=True)
    loop.look()
    try:
        assert wait_for_start(world).payload["trigger"] == "schedule"
    finally:
        loop.close()
    assert "the last training was at 2026-01-01 00:00 UTC, and every 7 days there is to be one" in world.said[-1]


def test_what_was_retrained_lately_is_not_overdue(tmp_path: Path) -> None:
    world = World(tmp_path / "home", retrain=RetrainSettings(every_days=7, cool_down_s=0))
    Ledger(world.settings.ledger).append("retrain", "churn", at=now(), summary="nothing new", payload={})
    world.traffic()
    world.loop(retrain=True).look()
    assert world.said == [STABLE]


def test_a_candidate_gets_the_judge_in_place_of_the_drift_job(world: World) -> None:
    make_bundle(world.settings.models, "churn", "churn", CHURN, world.customers.head(3500), version=2)
    start_candidate(world.settings.rollouts, "churn", 2, steps=(0.5, 1.0), by="test", now="2025-12-31T00:00:00Z")
    world.loop().look()
    assert (world.entries("verdict"), world.entries("drift")) == ([], [])
    loop = world.loop(judge=True)
    seen: list[str] = []
    for world.clock, looks in ((0.0, 1), (59.0, 1), (60.0, 2)):
        loop.look()
        newest = newest_look(world.settings.looks, "churn")
        assert newest is not None
        seen += [newest.at] if newest.at not in seen else []
        assert len(seen) == looks
    assert len(world.entries("verdict")) == 1  # the second look saw nothing new
    assert world.said == [f"churn: version 2 on trial: {world.entries('verdict')[0].summary}"]
    assert "HOLD" in world.said[0]


def test_what_the_judge_says_is_done(world: World) -> None:
    make_bundle(world.settings.models, "churn", "churn", CHURN, world.customers.head(3500), version=2)
    start_candidate(world.settings.rollouts, "churn", 2, steps=(0.5, 1.0), by="test", now="2025-12-31T00:00:00Z")
    rows = world.customers.tail(2000).reset_index(drop=True)
    better = rows.assign(out_probability=rows["out_probability"] * 0.2 + rows["label"] * 0.75)
    for version, arm, table in ((1, "control", rows), (2, "candidate", better)):
        ids = [f"{arm}{number}" for number in range(2000)]
        at = pd.Timestamp("2026-01-01", tz="UTC")
        logged = log_rows(
            table, CHURN, arm=[arm] * 2000, prediction_id=ids, at=list(pd.date_range(at, periods=2000, freq="s"))
        )
        write_sealed(world.settings.prediction_log, "churn", version, logged)
        stem = f"20260101T000000-1-{version}"
        write_feedback(world.settings.prediction_log, "churn", ids, table["label"].tolist(), at=at, stem=stem)
    loop = world.loop(judge=True)
    loop.look()
    assert [entry.payload["verdict"]["decision"] for entry in world.entries("verdict")] == ["STEP"]
    assert read_rollout(world.settings.rollouts, "churn").weight == 1.0


def test_one_model_that_fails_keeps_nobody_from_the_others(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.traffic()
    rollout_path(world.settings.rollouts, "broken").write_text("{")
    world.loop().look()
    assert len(world.entries("drift")) == 1
    assert "tending.failed" in "".join(capsys.readouterr())


def test_a_model_that_is_not_there_and_a_second_loop_are_refused(world: World) -> None:
    with pytest.raises(NotFoundError, match="'nobody' has no rollout"):
        tending(world.settings, print, models=["nobody"], retrain=False, judge=False).__enter__()
    with (
        tending(world.settings, print, retrain=False, judge=False),
        pytest.raises(BusyError, match="watching the models"),
    ):
        tending(world.settings, print, retrain=False, judge=False).__enter__()


def test_the_command_ends_when_it_is_told_to(world: World) -> None:
    world.traffic()
    command = [sys.executable, "-m", "driftwheel", "drift", "watch", "churn", "--every-s", "0.2"]
    process = subprocess.Popen(
        command, env=world.settings.child_environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    give_up = time.monotonic() + 60
    while len(world.entries("drift")) < 2:
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1].splitlines()
    assert (process.returncode, said[1:]) == (0, [STABLE, "Ending."])


def test_up_has_the_watcher_and_the_loop_beside_its_server(world: World) -> None:
    world.traffic()
    settings = world.settings.model_copy(update={"monitoring": MonitoringSettings(port=0)})
    threads = threading.active_count()
    with turning(settings, world.said.append) as look:
        look()
        url = world.said[0].removeprefix("Metrics of the wheel at ").removesuffix(".")
        page = httpx.get(url, trust_env=False).text
        assert 'driftwheel_drift_status{model="churn",status="stable"} 1.0' in page
        again: list[str] = []
        port = httpx.URL(url).port
        taken = settings.model_copy(update={"monitoring": MonitoringSettings(port=port)})
        with turning(taken, again.append) as nothing:
            nothing()
        assert again[0].startswith(f"No metrics of the wheel from here: port {port} ")
        assert again[1].startswith("The wheel is not turned from here: watching the models of ")
    assert threading.active_count() == threads
    assert len(world.entries("drift")) == 1
