"""The whole wheel on real data: killed again and again, then turned to the end, then once more under a client's eyes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from driftwheel.bundle import list_models, list_versions, read_bundle
from driftwheel.client import Client
from driftwheel.preprocessing import encode
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings, load_settings
from monitoring.ledger import Ledger
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.runtime import server_address
from tests.command_lines import called
from training.mlflow_store import open_client

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent


def training_has_begun(settings: Settings) -> bool:
    return any(settings.jobs.rglob("progress.jsonl"))


def a_bundle_is_being_written(settings: Settings) -> bool:
    return any(settings.models.glob("churn/*"))


def the_server_is_up(settings: Settings) -> bool:
    return server_address(settings) is not None


def a_candidate_is_on_trial(settings: Settings) -> bool:
    path = settings.rollouts / "mf.json"
    return path.exists() and read_rollout(settings.rollouts, "mf").candidate is not None


KILL_WHEN = (
    (training_has_begun, 0.2),
    (a_bundle_is_being_written, 0.0),
    (the_server_is_up, 1.0),
    (a_candidate_is_on_trial, 1.0),
)
"""What to wait for and how many seconds longer, before the kill."""

EPOCHS = 30
"""An eighth of the default's draws: what a kill leaves, and what goes on after it, does not depend on how good a model is."""


def environment(settings: Settings) -> dict[str, str]:
    return settings.child_environment()


@dataclass
class World:
    """A home in which the wheel has been killed, and then turned once."""

    settings: Settings
    report: dict
    ledger_sizes: list[int] = field(default_factory=list)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def up(settings: Settings) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "driftwheel", "up", "--once", "--json"]
    return subprocess.Popen(
        command,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=settings.home.parent,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Kill ``up`` at several moments, check what it left each time, then let it end."""
    home = tmp_path_factory.mktemp("wheel") / "home"
    settings = load_settings(
        home=home,
        serving={"port": free_port()},
        retrain={"cool_down_s": 0},
        training={"parameters": {"epochs": EPOCHS}},
    )
    sizes: list[int] = []
    for reached, longer_s in KILL_WHEN:
        process = up(settings)
        try:
            give_up = time.monotonic() + 800
            while not reached(settings):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < give_up, reached.__name__
                time.sleep(0.01)
            time.sleep(longer_s)
        finally:
            process.kill()
            process.communicate()
        assert_sound(settings)
        sizes.append(ledger_size(settings))
    process = up(settings)
    out, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors
    return World(settings, json.loads(out), sizes)


def assert_sound(settings: Settings) -> None:
    """No half bundle, no rollout without its bundle, no version that the registry lost."""
    from training.registry import Registry

    versions = {name: list_versions(settings.models, name) for name in list_models(settings.models)}
    for name, numbers in versions.items():
        for number in numbers:
            read_bundle(settings.models, name, number)
        registered = [info.version for info in Registry(settings).versions(name)]
        assert set(numbers) <= set(registered)
    for path in settings.rollouts.glob("*.json"):
        read_bundle(settings.models, path.stem, read_rollout(settings.rollouts, path.stem).stable)


def ledger_size(settings: Settings) -> int:
    return len(Ledger(settings.ledger).entries()) if settings.ledger.exists() else 0


def test_a_killed_wheel_goes_on_and_loses_no_entry(world: World) -> None:
    sizes = [*world.ledger_sizes, ledger_size(world.settings)]
    assert sizes == sorted(sizes)
    assert_sound(world.settings)


def test_the_first_turn_finds_the_drift_retrains_and_decides(world: World) -> None:
    ratings, churn = world.report["models"]
    assert (ratings["model"], ratings["started_with"], churn["model"]) == ("mf", 1, "churn")
    assert (ratings["failed"], churn["failed"]) == ({}, {})
    assert ratings["calls"] == ratings["labels"] > 0
    (drift, *_) = Ledger(world.settings.ledger).entries("mf", "drift")
    assert drift.summary.startswith("drift: ")
    assert "item_id" in drift.summary
    retrain = Ledger(world.settings.ledger).latest("mf", "retrain")[0]
    assert retrain.summary.startswith("made version 2: entered on trial (drift job: drift: ")
    assert min(retrain.payload["cost"].values()) > 0
    assert ratings["verdict"].startswith(("PROMOTE", "ABORT", "HOLD"))
    assert (ratings["in_service"] == 2) == ratings["verdict"].startswith("PROMOTE")
    assert churn["drift"].startswith(("stable", "not enough rows"))
    assert churn["in_service"] == 1
    assert ratings["metrics"]["rmse"] < 1.1
    assert churn["metrics"]["auc"] > 0.8
    page = Path(ratings["drift_report"]).read_text()
    assert "<html" in page.lower()
    assert "item_id" in page
    run_id = read_bundle(world.settings.models, "mf", 1).manifest.training.run_id
    on_record = {Path(one.path).name for one in open_client(world.settings).list_artifacts(run_id, "drift")}
    assert Path(ratings["drift_report"]).name in on_record


def test_every_decision_is_in_the_ledger_and_can_be_replayed(world: World) -> None:
    from monitoring.canary.judge import replay as judge_again
    from monitoring.drift.decision import replay as decide_again

    ledger = Ledger(world.settings.ledger)
    kinds = Counter(entry.kind for entry in ledger.entries("mf"))
    assert min(kinds[kind] for kind in ("gate", "rollout", "drift", "retrain", "verdict")) >= 1
    for entry in ledger.entries("mf", "verdict"):
        then, again = judge_again(entry.payload)
        assert then == again
    for entry in ledger.entries(kind="drift"):
        then, again = decide_again(entry.payload)
        assert then == again


def test_the_registry_follows_the_rollout(world: World) -> None:
    from training.registry import Registry

    registry = Registry(world.settings)
    for name in ("mf", "churn"):
        assert registry.champion(name) == read_rollout(world.settings.rollouts, name).stable


def test_what_was_acknowledged_is_in_the_log(world: World) -> None:
    from monitoring.windows import read_feedback, read_predictions

    log = world.settings.prediction_log
    predictions, feedback = read_predictions(log, "mf"), read_feedback(log, "mf")
    assert len(predictions) >= len(feedback) >= 12_000 + world.report["models"][0]["labels"]
    assert len(set(feedback["prediction_id"]) - set(predictions["prediction_id"])) == 0


class Caller(threading.Thread):
    """A client that calls without a pause over gRPC (a stub of the public protocol) and HTTP, and forgives nothing."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.answers: dict[tuple[int, int], float] = {}
        """The score that a version gave a user for item 318."""
        self.calls = 0
        self.stop = threading.Event()
        self._target = target

    def run(self) -> None:
        with grpc.insecure_channel(self._target) as channel, httpx.Client(base_url=f"http://{self._target}") as http:
            stub = GRPCInferenceServiceStub(channel)
            user = 0
            while not self.stop.is_set():
                user = user % 700 + 1
                self.calls += 1
                try:
                    self._take(user, *(self._grpc(stub, user) if user % 2 else self._http(http, user)))
                except (grpc.RpcError, httpx.HTTPError, KeyError) as error:
                    self.failures.append(repr(error))
                time.sleep(0.005)

    def _take(self, user: int, version: str, score: float) -> None:
        before = self.answers.setdefault((int(version), user), score)
        if abs(before - score) > 1e-5:
            self.failures.append(f"version {version} gave user {user} {before} and {score}")

    def _grpc(self, stub: GRPCInferenceServiceStub, user: int) -> tuple[str, float]:
        request = pb.ModelInferRequest(
            model_name="mf",
            inputs=[
                {"name": "user_id", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [user]}},
                {"name": "item_id", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [318]}},
            ],
        )
        answer = stub.ModelInfer(request, timeout=60)
        return answer.model_version, float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0])

    def _http(self, http: httpx.Client, user: int) -> tuple[str, float]:
        inputs = [
            {"name": name, "datatype": "INT64", "shape": [1], "data": [value]}
            for name, value in (("user_id", user), ("item_id", 318))
        ]
        answer = http.post("/v2/models/mf/infer", json={"inputs": inputs}).raise_for_status().json()
        return answer["model_version"], answer["outputs"][0]["data"][0]

    def wait_for_version(self, version: int) -> None:
        """Wait until that version answers."""
        known = {key for key in self.answers if key[0] == version}
        give_up = time.monotonic() + 200
        while {key for key in self.answers if key[0] == version} == known and time.monotonic() < give_up:
            time.sleep(0.05)


@pytest.fixture(scope="module")
def second_turn(world: World) -> Generator[tuple[dict, Caller, str]]:
    """Another ``up --once`` beside a server of its own, then releases by hand, while a client calls through all of it."""
    settings = world.settings
    server = subprocess.Popen([sys.executable, "-m", "driftwheel", "serve"], env=environment(settings))
    try:
        give_up = time.monotonic() + 200
        while (address := server_address(settings)) is None or address.pid != server.pid:
            assert server.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        caller = Caller(address.target)
        caller.start()
        process = up(settings)
        out, errors = process.communicate(timeout=800)
        for version in (1, 2, 1, 2):
            promoted = called(settings.home, "canary", "promote", "mf", str(version))
            assert promoted.returncode == 0, promoted.stderr
            caller.answers = {key: score for key, score in caller.answers.items() if key[0] != version}
            caller.wait_for_version(version)
        caller.stop.set()
        caller.join()
        assert process.returncode == 0, errors
        yield json.loads(out), caller, address.target
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def test_a_second_turn_repeats_cleanly(world: World, second_turn: tuple[dict, Caller, str]) -> None:
    report, _, _ = second_turn
    first, second = world.report["models"][0], report["models"][0]
    assert second["started_with"] == first["in_service"]
    assert second["failed"] == {}
    assert_sound(world.settings)


def test_a_client_sees_not_one_failure_through_retraining_and_switching(
    world: World, second_turn: tuple[dict, Caller, str]
) -> None:
    _, caller, _ = second_turn
    assert caller.failures == []
    assert caller.calls > 500
    assert {1, 2} <= {version for version, _ in caller.answers}
    for version in {version for version, _ in caller.answers}:
        asked = [(user, score) for (one, user), score in caller.answers.items() if one == version]
        users, scores = np.array([user for user, _ in asked]), [score for _, score in asked]
        np.testing.assert_allclose(scores, exported_scores(world.settings, version, users), atol=1e-5)


def exported_scores(settings: Settings, version: int, users: np.ndarray) -> np.ndarray:
    """What a version's own graph gives these users for item 318."""
    import onnxruntime as ort

    bundle = read_bundle(settings.models, "mf", version)
    tensors = {"user_id": users, "item_id": np.full(len(users), 318)}
    feed = encode(bundle.manifest.signature, bundle.vocabularies(), tensors)
    return ort.InferenceSession(str(bundle.path("model.onnx"))).run(None, feed)[0]


def test_the_readme_examples_get_answers(second_turn: tuple[dict, Caller, str]) -> None:
    _, _, target = second_turn
    if shutil.which("curl") is None:
        pytest.skip("needs Debian's curl")
    readme = (ROOT / "README.md").read_text()
    lines = re.findall(r"^curl .*$", readme, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line.replace("localhost:8080", target)], capture_output=True, text=True, check=True
        )
        assert done.stdout, line
        assert '"error"' not in done.stdout, line
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    snippet = code[1].replace("localhost:8080", target)
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, env={**os.environ})
    assert (done.returncode, "stable" in done.stdout or "control" in done.stdout or "candidate" in done.stdout) == (
        0,
        True,
    ), done.stderr


def test_right_answers_are_the_bundles_own(world: World, second_turn: tuple[dict, Caller, str]) -> None:
    """The server's answers to the reference's rows are the ones that the model gave when it was exported."""
    import pandas as pd

    _, _, target = second_turn
    for name in ("mf", "churn"):
        rollout = read_rollout(world.settings.rollouts, name)
        bundle = read_bundle(world.settings.models, name, rollout.stable)
        rows = pd.read_parquet(bundle.path("reference.parquet")).head(500)
        tensors = {}
        for spec in bundle.manifest.signature.inputs:
            kind = {"INT64": np.int64, "FP32": np.float32, "BYTES": object}[spec.datatype]
            tensors[spec.name] = rows[f"in_{spec.name}"].to_numpy().astype(kind)
        output = bundle.manifest.signature.outputs[0].name
        with Client(target) as client:
            answer = client.infer(name, tensors, version=rollout.stable)
        np.testing.assert_allclose(answer.outputs[output], rows[f"out_{output}"], atol=1e-5)
