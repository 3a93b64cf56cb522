"""A whole server: switching, refusing, dying and draining under real traffic."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pyarrow.parquet as pq
import pytest

from driftwheel.bundle import bundle_folder
from driftwheel.errors import AddressInUseError, BusyError, ConfigurationError
from driftwheel.rollout import abort, advance, promote, read_rollout, serve_stable, start_candidate
from driftwheel.settings import Settings
from monitoring.windows import read_predictions
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.addresses import check_address
from serving.front_door import running
from serving.runtime import server_address
from serving.sealing import seal_finished
from serving.split import Split
from tests.bundles import make_rating_bundle
from tests.serving.conftest import BY, connected, prepared_home, rating_request, scores_of

pytestmark = pytest.mark.system


class Traffic:
    """A grpcio client that keeps calling from a thread of its own, and remembers every answer and failure."""

    def __init__(self, target: str, users: list[int]) -> None:
        self.versions: Counter[tuple[int, str, str]] = Counter()
        self.wrong: list[object] = []
        self.calls = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(target, users))

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, calls: int) -> None:
        """Wait for so many more calls."""
        until = self.calls + calls
        give_up = time.monotonic() + 60
        while self.calls < until and time.monotonic() < give_up:
            time.sleep(0.01)
        assert self.calls >= until

    def _run(self, target: str, users: list[int]) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not self._stop.is_set():
                for user in users:
                    self._call(stub, user)

    def _call(self, stub: GRPCInferenceServiceStub, user: int) -> None:
        try:
            answer = stub.ModelInfer(rating_request([user], [10]), timeout=60)
        except grpc.RpcError as error:
            self.wrong.append((error.code(), error.details()))
        else:
            version, arm = answer.model_version, answer.parameters["arm"].string_param
            known = {7: 0.1, 15: 0.2, 400: 0.3}.get(user, 0.0)
            expected = 3.0 + known + (0.25 if version == "2" else 0.0)
            if abs(scores_of(answer)[0] - expected) > 1e-5:
                self.wrong.append((version, user, scores_of(answer)))
            self.versions[(user, version, arm)] += 1
        self.calls += 1


def follows(traffic: Traffic, settings: Settings, users: list[int]) -> bool:
    """Whether the next answers, four or so to each user, are all of the version that the rollout gives the user."""
    split = Split(read_rollout(settings.rollouts, "mf"))
    traffic.wait_for(2)  # what was under way
    traffic.versions.clear()
    traffic.wait_for(4 * len(users))
    seen = {(user, int(version)) for user, version, _ in traffic.versions}
    return seen == {(user, split.place(str(user).encode())[1]) for user in users}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in a server."""
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.05)


def test_a_release_fails_no_call_and_keeps_users_in_their_arm(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    users = [7, 15, 400, *range(1000, 1040)]
    with running(settings) as (_, address), Traffic(address.target, users) as traffic:
        traffic.wait_for(100)
        start_candidate(settings.rollouts, "mf", 2, steps=(0.25, 0.5, 1.0), **BY)
        for change in (advance, advance, promote):
            wait_until(lambda: follows(traffic, settings, users), "the server follows the rollout")
            assert follows(traffic, settings, users)  # and goes on like that
            change(settings.rollouts, "mf", **BY)
        wait_until(lambda: follows(traffic, settings, users), "version 2 has all")
        assert {version for (_, version, _) in traffic.versions} == {"2"}
    assert traffic.wrong == []


def test_a_damaged_candidate_is_refused_and_stable_goes_on(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    graph = bundle_folder(settings.models, "mf", 2) / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
        refused = wait_for_state(live.stub, "2", "UNAVAILABLE")
        assert "model.onnx is damaged" in refused.reason
        assert {live.stub.ModelInfer(rating_request([u], [10])).model_version for u in range(50)} == {"1"}
        abort(settings.rollouts, "mf", **BY)
        serve_stable(settings.rollouts, "churn", 9, **BY)  # a version that is not there
        failed = 'driftwheel_bundle_load_failures_total{{model="{}"}}'.format
        wait_until(lambda: failed("churn") in live.http.get("/metrics").text, "churn version 9 is tried")
        assert live.http.get("/v2/models/churn").status_code == 200
        assert failed("mf") in live.http.get("/metrics").text


def test_a_bundle_broken_in_an_unforeseen_way_stops_nobody(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    manifest = bundle_folder(settings.models, "mf", 2) / "bundle.json"
    manifest.unlink()
    manifest.mkdir()
    with running(settings) as (door, address), connected(settings, door, address) as live:
        start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
        assert "IsADirectoryError" in wait_for_state(live.stub, "2", "UNAVAILABLE").reason
        (settings.rollouts / "other.json").write_text("{")
        wait_until(lambda: live.http.get("/v2/health/ready").status_code == 503, "it is not ready")
        (settings.rollouts / "other.json").unlink()
        abort(settings.rollouts, "mf", **BY)  # the watcher still follows
        wait_until(lambda: live.http.get("/v2/health/ready").status_code == 200, "it is ready again")
        assert live.stub.ModelInfer(rating_request([7], [10])).model_version == "1"


def test_a_version_that_crashes_is_on_record_for_the_judge(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    make_rating_bundle(settings.models, 3, users=2)
    serve_stable(settings.rollouts, "mf", 3, **BY)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        answer = live.http.post("/v1/recommend", json={"user_id": 400, "k": 2})
        assert (answer.status_code, "mf version 3 failed on this request" in answer.json()["error"]) == (500, True)
        assert 'arm="stable",code="INTERNAL",model="mf"' in live.http.get("/metrics").text
    (path,) = settings.prediction_log.rglob("mf/3/*.parquet")
    assert [(row["code"], row["kind"]) for row in pq.read_table(path).to_pylist()] == [("INTERNAL", "recommend")]


def test_a_server_with_a_damaged_stable_version_serves_the_others_and_is_not_ready(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    path = bundle_folder(settings.models, "mf", 1) / "golden.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with running(settings) as (door, address), connected(settings, door, address) as live:
        assert live.http.get("/v2/health/ready").status_code == 503
        answer = live.http.post("/v1/recommend", json={"user_id": 7, "model": "mf"})
        assert (answer.status_code, "golden.npz is damaged" in answer.json()["error"]) == (503, True)
        assert live.http.post("/v1/churn", json={"customers": [{}]}).status_code == 200
        path.write_bytes(whole)  # put right, it is taken without a restart
        give_up = time.monotonic() + 60
        while live.http.get("/v2/health/ready").status_code != 200 and time.monotonic() < give_up:
            time.sleep(0.1)
        assert live.http.post("/v1/recommend", json={"user_id": 7}).status_code == 200


def wait_for_state(stub: GRPCInferenceServiceStub, version: str, state: str):
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        for one in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models:
            if (one.name, one.version, one.state) == ("mf", version, state):
                return one
        time.sleep(0.05)
    raise AssertionError(f"version {version} never became {state}")


def serve(settings: Settings, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "driftwheel", "serve", *flags]
    return subprocess.Popen(command, env=settings.child_environment(), stderr=subprocess.PIPE, text=True)


def wait_up(settings: Settings, process: subprocess.Popen) -> str:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        address = server_address(settings)
        if address is not None and address.pid == process.pid:
            return address.target
        time.sleep(0.02)
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_sigterm_drains_without_a_failed_call_and_seals_the_log(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    process = serve(settings)
    target = wait_up(settings, process)
    failed, answered, stop = [], [0], threading.Event()

    def call() -> None:
        with grpc.insecure_channel(target) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.ModelInfer(rating_request([7] * 500, [10] * 500), timeout=60)
                    answered[0] += 1
                except grpc.RpcError as error:
                    # Once the port is closed a new connection is refused; a call under way must never be cut.
                    if error.code() != grpc.StatusCode.UNAVAILABLE or "onnect" not in (error.details() or ""):
                        failed.append((error.code(), error.details()))
                    return

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: answered[0] >= 100, "calls are answered")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    stop.set()
    for thread in threads:
        thread.join()
    assert (process.returncode, failed) == (0, []), errors
    assert list(settings.prediction_log.rglob("*.arrows")) == []
    stored = [pq.read_table(path)["rows"].to_pylist() for path in settings.prediction_log.rglob("mf/**/*.parquet")]
    assert [rows for segment in stored for rows in segment] == [500] * answered[0]


def envoy_of(process: subprocess.Popen) -> int:
    """The process id of a supervisor's Envoy."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def give_feedback(url: str, count: int) -> list[str]:
    """So many answers with acknowledged feedback; their prediction ids."""
    accepted = []
    with httpx.Client(base_url=url) as client:
        for _ in range(count):
            given = client.post("/v1/recommend", json={"user_id": 7, "k": 1}).json()["prediction_id"]
            client.post("/v1/feedback", json={"feedback": [{"prediction_id": given, "label": 4}]}).raise_for_status()
            accepted.append(given)
    return accepted


def test_a_killed_supervisor_takes_envoy_with_it(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    process = serve(settings)
    url = f"http://{wait_up(settings, process)}"
    accepted = give_feedback(url, 5)
    process.kill()
    process.communicate()
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and _listening(url):
        time.sleep(0.05)
    assert not _listening(url)
    seal_finished(settings.prediction_log)
    (feedback,) = (settings.prediction_log / "feedback").glob("[!.]*.parquet")
    assert pq.read_table(feedback)["prediction_id"].to_pylist() == accepted


def test_a_killed_envoy_loses_no_feedback_and_at_most_one_flush_of_predictions(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    process = serve(settings)
    url = f"http://{wait_up(settings, process)}"
    accepted = give_feedback(url, 50)
    wait_until(lambda: len(read_predictions(settings.prediction_log, "mf")) == len(accepted), "all are flushed")
    os.kill(envoy_of(process), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "the server ended by itself" in errors) == (1, True), errors
    # The supervisor has sealed what the kill left.
    (feedback,) = (settings.prediction_log / "feedback").glob("[!.]*.parquet")
    stored = pq.read_table(feedback)["prediction_id"].to_pylist()
    assert stored == accepted
    again = serve(settings)
    wait_up(settings, again)
    (predictions,) = settings.prediction_log.rglob("mf/**/*.parquet")
    assert pq.read_table(predictions)["prediction_id"].to_pylist() == accepted
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)


def _listening(url: str) -> bool:
    try:
        httpx.get(f"{url}/v2/health/live", timeout=1)
    except httpx.HTTPError:
        return False
    return True


def test_a_port_in_use_is_one_clear_message(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"port {port} on 127.0.0.1 is in use"):
            check_address("127.0.0.1", port)
        process = serve(settings, "--port", str(port))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"error: port {port} on 127.0.0.1 is in use" in errors
    assert "Traceback" not in errors


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on 192.0.2.1:80"):
        check_address("192.0.2.1", 80)


def test_a_home_is_served_once(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with (
        running(settings),
        pytest.raises(BusyError, match=f"already going on in process {os.getpid()}"),
        running(settings),
    ):
        pass


def test_nothing_to_serve_says_what_to_do(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "driftwheel", "--home", str(tmp_path), "serve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, "nothing to serve" in process.stderr, "next:" in process.stderr) == (2, True, True)


TRITON = """
import sys
import numpy as np
import tritonclient.{kind} as triton
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mf")
inputs = []
for name, values in (("user_id", [7, 15]), ("item_id", [10, 20])):
    tensor = triton.InferInput(name, [2], "INT64")
    tensor.set_data_from_numpy(np.array(values){binary})
    inputs.append(tensor)
answer = client.infer("mf", inputs, outputs=[triton.InferRequestedOutput("score"{output})])
print(answer.as_numpy("score").astype(float).round(4).tolist())
"""


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_tritons_client_gets_the_same(live, kind: str) -> None:
    binary = ", binary_data=False" if kind == "http" else ""
    code = TRITON.format(kind=kind, binary=binary, output=binary)
    # In a process of its own: Triton's client registers the same protocol messages as ours.
    command = [sys.executable, "-W", "ignore", "-c", code, live.address.target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[3.1, 3.7]", done.stderr
