"""One front door before a real TorchServe: the split, mixed placement, and what happens when TorchServe or a part of it dies."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from driftwheel.bundle import ONNX_GRAPH, Bundle, bundle_folder, read_bundle
from driftwheel.rollout import abort, serve_stable, start_candidate
from driftwheel.settings import Settings
from exporters.archive import write_archive
from serving._proto import open_inference_pb2 as pb
from serving._proto import torchserve_inference_pb2 as torchserve_pb
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from serving.front_door import running
from serving.torchserve import address
from tests import bundles
from tests.serving.conftest import BY, Live, connected, prepared_home, rating_request, scores_of
from tests.serving.torchserve.running import RunningTorchServe, needs_java
from tests.serving.torchserve.traffic import PATIENCE_S, Traffic, check, expected, wait_until

pytestmark = [pytest.mark.system, needs_java]

CALL_S = 20.0
"""How long a call may wait for TorchServe's answer."""

SOON_S = 15.0
"""Before that time is up: what takes a moment, on machines that have other things to do."""

SPOILED = 400
"""The user for whom the model ``spoiled`` gives what is no number."""

ON_TORCHSERVE = {"backend": "torchserve", "torchserve_timeout_s": CALL_S}


@dataclass
class World:
    """A TorchServe, and the server before it. A test leaves both as they were, but it may kill TorchServe."""

    live: Live
    torchserve: RunningTorchServe

    def metric(self, line: str) -> float:
        """A sample of our page, by its name and labels as they stand there."""
        page = self.live.http.get("/metrics").text
        (value,) = (row.rpartition(" ")[2] for row in page.splitlines() if row.startswith(f"{line} "))
        return float(value)

    @property
    def ready(self) -> bool:
        return self.live.http.get("/v2/health/ready").status_code == 200


@pytest.fixture(scope="module")
def torchserve_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    models = {"mf": ON_TORCHSERVE, "spoiled": ON_TORCHSERVE}
    return prepared_home(home, serving={"port": 0, "models": models})


@pytest.fixture(scope="module")
def torchserve(torchserve_home: Settings) -> Generator[RunningTorchServe]:
    """``mf`` 1 and 2, and ``spoiled``; ``churn`` runs in our own process."""
    pytest.importorskip("ts", reason="needs torchserve")
    models = torchserve_home.models
    made = [read_bundle(models, "mf", 1), read_bundle(models, "mf", 2), make_spoiled_bundle(models)]
    server = RunningTorchServe(torchserve_home.home, {(one.name, str(one.version)): write_archive(one) for one in made})
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def one_world(torchserve_home: Settings, torchserve: RunningTorchServe) -> Generator[World]:
    serve_stable(torchserve_home.rollouts, "spoiled", 1, **BY)
    with running(torchserve_home) as (door, at), connected(torchserve_home, door, at) as live:
        yield World(live, torchserve)


@pytest.fixture
def world(one_world: World) -> World:
    """The same for all tests; its TorchServe runs."""
    if not one_world.torchserve.runs:
        one_world.torchserve.start()
        wait_until(lambda: one_world.ready, "readiness on")
    return one_world


def make_spoiled_bundle(models: Path) -> Bundle:
    """``mf`` 1 under another name, with a hole in its table."""
    folder = bundle_folder(models, "spoiled", 1)
    shutil.copytree(bundle_folder(models, "mf", 1), folder)
    users, items = bundles.rating_tables(0.0)
    users[1 + bundles.USERS.index(SPOILED)] = np.nan
    (folder / ONNX_GRAPH).write_bytes(bundles.rating_graph(users, items))
    (folder / "bundle.json").unlink()
    vocabularies = read_bundle(models, "mf", 1).vocabularies()
    bundles._seal(folder, "spoiled", 1, "rating", bundles.RATING_SIGNATURE, vocabularies)
    return read_bundle(models, "spoiled", 1)


def platform(live: Live, version: int) -> str | None:
    """What runs a version of ``mf``; None where it is not loaded."""
    answer = live.http.get(f"/v2/models/mf/versions/{version}")
    return answer.json()["platform"] if answer.is_success else None


def infer_all(live: Live, users: list[int]) -> dict[int, Any]:
    """Each user's answer, many calls at once."""
    calls = {user: live.stub.ModelInfer.future(rating_request([user], [10]), timeout=PATIENCE_S) for user in users}
    return {user: call.result() for user, call in calls.items()}


USERS = list(range(1000, 4000))
WEIGHT = 0.2


def test_two_versions_behind_a_split(world: World) -> None:
    """The share is binomial: 4.5 standard deviations are left once in 150,000 runs."""
    live, rollouts = world.live, world.live.settings.rollouts
    start_candidate(rollouts, "mf", 2, steps=(WEIGHT, 1.0), **BY)
    try:
        wait_until(lambda: platform(live, 2), "loading the candidate")
        answers = infer_all(live, USERS)
        for user, answer in answers.items():
            check(user, answer)
        took_part = Counter((one.model_version, one.parameters["arm"].string_param) for one in answers.values())
        assert set(took_part) == {("1", "stable"), ("1", "control"), ("2", "candidate")}
        spread = (len(USERS) * WEIGHT * (1 - WEIGHT)) ** 0.5
        assert abs(took_part["2", "candidate"] - len(USERS) * WEIGHT) < 4.5 * spread, took_part
        for user in USERS[:40]:  # the same users in the same arms over HTTP, by TorchServe's own API
            (score,) = live.http.post("/predictions/mf", json=[{"user_id": user, "item_id": 10}]).json()
            assert score == pytest.approx(expected(user, answers[user].model_version))
    finally:
        abort(rollouts, "mf", **BY)
    wait_until(lambda: platform(live, 2) is None, "the candidate's end")


def test_torchserves_own_metrics_tell_the_versions_apart(world: World) -> None:
    page = world.live.http.get("/metrics").text
    mine = [line for line in page.splitlines() if line.startswith("driftwheel_torchserve_inference_requests_total")]
    assert {version for version in ("1", "2") for line in mine if f'model_version="{version}"' in line} == {"1", "2"}
    assert "default" not in "".join(mine)
    assert world.metric("driftwheel_torchserve_up") == 1.0
    assert platform(world.live, 1) == "torchserve_onnx"


def test_a_bad_request_fails_alone(world: World) -> None:
    """The requests share runs, and TorchServe refuses the runs that the bad one is in."""
    live, good = world.live, [7, 15, *range(1000, 1060)]
    runs = 'driftwheel_run_rows_count{model="spoiled",version="1"}'
    for users in (good, *[[*good[:30], SPOILED, *good[30:]]] * 5):
        calls = {user: live.stub.ModelInfer.future(_spoiled_request(user), timeout=PATIENCE_S) for user in users}
        for user, call in calls.items():
            if user == SPOILED:
                assert call.code() is grpc.StatusCode.INTERNAL
                assert "something that is not a number" in call.details()
            else:
                assert scores_of(call.result()) == pytest.approx([expected(user, "1")])
        if users is good:
            assert world.metric(runs) < len(good) / 2, "the requests must have shared runs"


def _spoiled_request(user: int) -> Any:
    request = rating_request([user], [10])
    request.model_name = "spoiled"
    return request


def test_torchserve_itself_asks_for_a_token(world: World) -> None:
    place = address.read(world.torchserve.folder)
    assert place is not None
    request = torchserve_pb.PredictionsRequest(
        model_name="mf", model_version="1", input={"data": b'[{"user_id": 7, "item_id": 10}]'}
    )
    with grpc.insecure_channel(place.grpc) as channel:
        stub = InferenceAPIsServiceStub(channel)
        for token in (None, "wrong", address.management_token(place)):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predictions(request, timeout=PATIENCE_S, metadata=_bearer(token))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        answer = stub.Predictions(request, timeout=PATIENCE_S, metadata=_bearer(address.inference_token(place)))
        assert answer.prediction == b"[3.0999999046325684]"
    assert world.live.http.get(f"{place.management}/models").status_code == 400
    assert world.torchserve.manage("GET", "/models").is_success


def _bearer(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}")]


def test_a_worker_that_dies_under_load_costs_no_wrong_answer(world: World) -> None:
    """Runs that it had are tried once more, and wait for the next worker."""
    torchserve = world.torchserve
    with Traffic(world.live.address.target) as traffic:
        traffic.wait_for(200)
        assert traffic.failures == []
        for _ in range(2):
            killed = torchserve.worker("mf", "1")
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda killed=killed: _replaced(torchserve, killed), "another worker")
            traffic.wait_for(100, traffic.answered.total)
        seen = len(traffic.failures)
        traffic.wait_for(500)
        assert len(traffic.failures) == seen
    assert traffic.codes() <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    assert world.ready


def _replaced(torchserve: RunningTorchServe, killed: int) -> bool:
    return torchserve.ready("mf", "1") and torchserve.worker("mf", "1") != killed


def test_a_version_is_taken_out_and_put_back_under_load(world: World) -> None:
    """TorchServe does not take out the version that it answers with by default. It may forget the calls in flight of one that
    it takes out; those end when their time is up.
    """
    torchserve = world.torchserve
    assert torchserve.manage("PUT", "/models/mf/2/set-default").is_success
    with Traffic(world.live.address.target) as traffic:
        traffic.wait_for(200)
        assert traffic.failures == []
        torchserve.unregister("mf", "1")
        wait_until(lambda: not world.ready, "readiness off")
        traffic.wait_for(20, lambda: len(traffic.failures))
        torchserve.register("mf", "1")
        wait_until(lambda: world.ready, "readiness on")
        back = time.monotonic()
        traffic.wait_for(500)
    assert [one for one in traffic.failures if one.at - one.took_s > back] == []
    assert traffic.codes() == {grpc.StatusCode.UNAVAILABLE}
    assert any("has no mf version 1" in one.details for one in traffic.failures)
    assert torchserve.manage("PUT", "/models/mf/1/set-default").is_success


def test_a_caller_waits_for_a_frozen_torchserve_no_longer_than_it_said(world: World) -> None:
    live, torchserve, body = world.live, world.torchserve, [{"user_id": 7, "item_id": 10}]
    torchserve.freeze()
    try:
        late = live.http.post("/predictions/mf", json=body, headers={"x-request-timeout-ms": "200"})
        assert (late.status_code, late.json()["type"]) == (504, "RequestTimeoutException")
        refused = live.http.post("/predictions/mf", json=body)  # and one that has time hears of it once it is seen
        assert refused.status_code == 503
        assert not world.ready
    finally:
        torchserve.thaw()
    wait_until(lambda: world.ready, "readiness on")
    (score,) = live.http.post("/predictions/mf", json=body).json()
    assert score == pytest.approx(expected(7, "1"))


def test_a_killed_torchserve_is_unavailable_at_once_and_comes_back_by_itself(world: World) -> None:
    live, torchserve = world.live, world.torchserve
    with Traffic(live.address.target) as traffic:
        traffic.wait_for(200)
        killed_at = time.monotonic()
        torchserve.kill()
        wait_until(lambda: traffic.failures, "a failure")
        wait_until(lambda: not world.ready, "readiness off")
        assert time.monotonic() - killed_at < SOON_S
        traffic.wait_for(100)
        assert max(one.took_s for one in traffic.failures) < SOON_S
        refused = live.http.post("/predictions/mf", json=[{"user_id": 7, "item_id": 10}])
        assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
        assert "does not answer" in refused.json()["message"]
        assert live.http.get("/models/mf").json()[0]["workers"][0]["status"] == "UNLOADED"
        index = {(one["name"], one["state"]) for one in live.http.post("/v2/repository/index", json={}).json()}
        assert {("mf", "UNAVAILABLE"), ("churn", "READY")} <= index
        wait_until(lambda: world.metric("driftwheel_torchserve_up") == 0.0, "the gauge")
        assert world.metric("driftwheel_ready") == 0.0
        assert world.live.http.get("/v2/models/mf/ready").status_code == 503
        assert world.live.http.get("/v2/models/mf/versions/1/ready").status_code == 503
        assert not world.live.stub.ModelReady(pb.ModelReadyRequest(name="mf"), timeout=60).ready
        assert live.http.post("/v1/churn", json={"customers": [{}]}).status_code == 200
        torchserve.start()
        wait_until(lambda: world.ready, "readiness on")
        back = time.monotonic()
        traffic.wait_for(500)
    assert [one for one in traffic.failures if one.at - one.took_s > back] == []
    assert traffic.codes() == {grpc.StatusCode.UNAVAILABLE}
    wait_until(lambda: world.metric("driftwheel_torchserve_up") == 1.0, "the gauge")


def test_stable_here_and_the_candidate_on_torchserve(world: World, tmp_path: Path) -> None:
    """The other way round is how one moves off TorchServe; either way what stays here outlives it."""
    (tmp_path / "torchserve").symlink_to(world.torchserve.folder)
    shutil.copytree(world.live.settings.models, tmp_path / "models")
    serving = {"port": 0, "models": {"mf": {"version_backends": {"2": "torchserve"}}}}
    settings = _mixed_home(world.live.settings, tmp_path, serving)
    with running(settings) as (door, at), connected(settings, door, at) as live:
        wait_until(lambda: platform(live, 2), "loading the candidate")
        assert platform(live, 1) not in (None, "torchserve_onnx")
        assert platform(live, 2) == "torchserve_onnx"
        answers = infer_all(live, USERS[:300])
        for user, answer in answers.items():
            check(user, answer)
        assert {one.model_version for one in answers.values()} == {"1", "2"}
        with Traffic(at.target, ["1", "2"]) as traffic:
            traffic.wait_for(100)
            world.torchserve.kill()
            traffic.wait_for(50, lambda: len(traffic.failures))
            traffic.wait_for(100, lambda: traffic.answered["1"])
            assert live.http.get("/v2/health/ready").status_code == 200
        assert {(one.version, one.code) for one in traffic.failures} == {("2", grpc.StatusCode.UNAVAILABLE)}


def _mixed_home(like: Settings, home: Path, serving: dict[str, Any]) -> Settings:
    from driftwheel.settings import load_settings

    settings = load_settings(home=home, serving=serving)
    assert settings.models != like.models
    serve_stable(settings.rollouts, "mf", 1, **BY)
    start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
    return settings
