"""A candidate in shadow, behind the real server: copies are answered, recorded and judged, and nobody is told of them."""

import time
from collections import Counter
from pathlib import Path

import pytest

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.log_layout import predictions_folder, shadow_log
from driftwheel.rollout import Rollout, advance, read_rollout, start_candidate
from driftwheel.settings import Settings
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import Evidence
from monitoring.windows import read_predictions
from serving._proto import open_inference_pb2 as pb
from tests.bundles import make_rating_bundle
from tests.serving.conftest import Live, connected, prepared_home, rating_request, running
from tests.serving.test_server import wait_for_state

BY = {"by": "test", "now": "2026-01-01T00:00:00Z"}
USERS = list(range(1000, 1060))


def evidence_of(settings: Settings) -> Evidence:
    manifest = read_manifest(bundle_folder(settings.models, "mf", 2))
    rollout = read_rollout(settings.rollouts, "mf")
    return collect_evidence(settings.prediction_log, rollout, manifest.signature, manifest.task)


def ask_all(live: Live, *, versions: set[str]) -> list[pb.ModelInferResponse]:
    answers = [live.stub.ModelInfer(rating_request([user], [10])) for user in USERS]
    assert {answer.model_version for answer in answers} <= versions
    return answers


def wait_for(settings: Settings, copies: int, *, originals: int = 0) -> Evidence:
    """Wait until so many copies are logged and, while there is no other traffic, what they are copies of."""
    end = time.monotonic() + 60
    while (
        seen := evidence_of(settings)
    ).shadow.candidate.requests < copies or seen.shadow.control.requests < originals:
        assert time.monotonic() < end, seen.shadow
        time.sleep(0.2)
    return seen


def test_copies_are_answered_and_only_control_is_told(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 0.5, 1.0), shadow=1.0, **BY)
        wait_for_state(live.stub, "2", "READY")
        answers = ask_all(live, versions={"1"})
        feedback = [{"prediction_id": one.id, "label": 3.0} for one in answers]
        assert live.http.post("/v1/feedback", json={"feedback": feedback}).status_code == 200
        live.http.post("/v1/recommend", json={"user_id": 7, "k": 3}).raise_for_status()
        seen = wait_for(settings, len(USERS) + 1, originals=len(USERS) + 1)
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
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 0.3, 1.0), shadow=0.5, **BY)
        rollout: Rollout = advance(settings.rollouts, "mf", by="test", now=now)
        assert (rollout.weight, rollout.split_at) == (0.3, now)
        wait_for_state(live.stub, "2", "READY")
        arms = Counter(one.parameters["arm"].string_param for one in ask_all(live, versions={"1", "2"}))
        end = time.monotonic() + 60
        # Every answer is in one of three logs, each written at its own moment; a third of all is the candidate's.
        while (seen := wait_for(settings, 5)).control.requests + seen.candidate.requests < (
            arms["control"] + arms["candidate"]
        ):
            assert time.monotonic() < end, seen
            time.sleep(0.2)
        assert (seen.control.requests, seen.candidate.requests) == (arms["control"], arms["candidate"])
        assert min(arms["control"] - 4, arms["candidate"]) > 0
        assert seen.shadow.candidate.requests <= seen.control.requests


def test_copies_that_find_no_room_are_dropped_and_counted_and_every_caller_is_answered(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.0, 1.0), shadow=1.0, **BY)
        wait_for_state(live.stub, "2", "READY")
        # Copies of 600 rows never fit; of the others, as many as come faster than the candidate answers are dropped too.
        sizes = [rows for _ in range(25) for rows in (600, 300, 1)]
        waiting = [
            live.stub.ModelInfer.future(rating_request([user] * rows, [10] * rows)) for user, rows in enumerate(sizes)
        ]
        assert [answer.result().outputs[0].shape[0] for answer in waiting] == sizes

        def counted(name: str) -> float:
            lines = [line for line in live.http.get("/metrics").text.splitlines() if line.startswith(name)]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        end = time.monotonic() + 60
        copied, dropped = 'driftwheel_requests_total{arm="shadow"', "driftwheel_shadow_dropped_requests_total{"
        while (seen := (counted(copied), counted(dropped)))[0] + seen[1] < len(sizes):
            assert time.monotonic() < end, seen
            time.sleep(0.1)
        assert seen[0] + seen[1] == len(sizes)
        assert seen[1] >= 25
        # Nor are copies among the sizes and waits of callers' requests.
        assert counted('driftwheel_request_rows_count{model="mf"') == len(sizes)


def test_each_of_several_candidates_gets_every_copy(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    make_rating_bundle(settings.models, 3, shift=0.5)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        rollout = start_candidate(settings.rollouts, "mf", 2, rivals=(3,), steps=(0.0, 0.3), shadow=1.0, **BY)
        for version in ("2", "3"):
            wait_for_state(live.stub, version, "READY")
        ask_all(live, versions={"1"})
        live.http.post("/v1/recommend", json={"user_id": 7, "k": 3}).raise_for_status()
        signature = read_manifest(bundle_folder(settings.models, "mf", 2)).signature
        for version, delta in ((2, 0.25), (3, 0.5)):
            end, own = time.monotonic() + 60, rollout.about(version)
            while min(
                (seen := collect_evidence(settings.prediction_log, own, signature, "rating").shadow).control.requests,
                seen.candidate.requests,
            ) <= len(USERS):
                assert time.monotonic() < end, seen
                time.sleep(0.2)
            assert seen.agreement.mean_delta == pytest.approx(delta, abs=1e-5)
            assert seen.agreement.lists == 1
