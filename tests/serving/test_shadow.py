"""A candidate in shadow, behind the real server: copies are answered, recorded and judged, and nobody is told of them."""

import time
from pathlib import Path

import pytest

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.log_layout import predictions_folder, shadow_log
from driftwheel.rollout import Rollout, advance, read_rollout, start_candidate
from driftwheel.settings import Settings
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import Evidence
from monitoring.windows import read_predictions
from tests.serving.conftest import Live, connected, prepared_home, rating_request, running

BY = {"by": "test", "now": "2026-01-01T00:00:00Z"}
USERS = list(range(1000, 1060))


def evidence_of(settings: Settings) -> Evidence:
    manifest = read_manifest(bundle_folder(settings.models, "mf", 2))
    rollout = read_rollout(settings.rollouts, "mf")
    return collect_evidence(settings.prediction_log, rollout, manifest.signature, manifest.task)


def ask_all(live: Live, *, versions: set[str]) -> list[str]:
    answers = [live.stub.ModelInfer(rating_request([user], [10])) for user in USERS]
    assert {answer.model_version for answer in answers} <= versions
    return [answer.id for answer in answers]


def wait_for(settings: Settings, copies: int) -> Evidence:
    end = time.monotonic() + 20
    while (seen := evidence_of(settings)).shadow.candidate.requests < copies:
        assert time.monotonic() < end, seen.shadow
        time.sleep(0.2)
    return seen


def test_copies_are_answered_and_only_control_is_told(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 0.5, 1.0), shadow=1.0, **BY)
        time.sleep(0.8)
        ids = ask_all(live, versions={"1"})
        feedback = [{"prediction_id": one, "label": 3.0} for one in ids]
        assert live.http.post("/v1/feedback", json={"feedback": feedback}).status_code == 200
        live.http.post("/v1/recommend", json={"user_id": 7, "k": 3}).raise_for_status()
        seen = wait_for(settings, len(USERS) + 1)
        assert seen.control.requests == seen.candidate.requests == 0
        assert (seen.shadow.control.requests, seen.shadow.agreement.rows) == (len(USERS) + 1, len(USERS))
        # Version 2 of these bundles adds a quarter to every score.
        assert seen.shadow.agreement.mean_delta == pytest.approx(0.25, abs=1e-5)
        assert (seen.shadow.agreement.lists, seen.shadow.agreement.overlap) == (1, 1.0)
        assert (seen.shadow.pairs.labelled, seen.shadow.pairs.clusters) == (len(USERS), len(USERS))
        metrics = live.http.get("/metrics").text
        assert 'driftwheel_shadow_score_delta_count{model="mf",version="2"}' in metrics
        assert 'arm="shadow"' in metrics
        # Monitoring of the traffic sees none of it.
        assert read_predictions(settings.prediction_log, "mf", version=2).empty
        assert predictions_folder(shadow_log(settings.prediction_log), "mf", 2).is_dir()


def test_with_traffic_of_its_own_control_is_still_copied(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 0.3, 1.0), shadow=0.5, **BY)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        rollout: Rollout = advance(settings.rollouts, "mf", by="test", now=now)
        assert (rollout.weight, rollout.split_at) == (0.3, now)
        time.sleep(0.8)
        ask_all(live, versions={"1", "2"})
        seen = wait_for(settings, 5)
        assert seen.control.requests > 0
        assert seen.candidate.requests > 0
        assert seen.shadow.candidate.requests <= seen.control.requests
