"""Several real workers behind one port: shared, killed, switched and drained under real traffic."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import grpc
import httpx
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from driftwheel.client import Client
from driftwheel.errors import AddressInUseError
from driftwheel.rollout import serve_stable
from driftwheel.settings import Settings
from driftwheel.wheel.server import ensured_server, wait_until_loaded
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.front_door import running
from serving.runtime import ServerAddress, server_address
from tests.serving.conftest import BY, prepared_home, rating_request

pytestmark = pytest.mark.system

REQUESTS = "driftwheel_requests_total"


class Server:
    """A ``driftwheel serve`` with two workers."""

    def __init__(self, settings: Settings, log: Path, *flags: str) -> None:
        self.settings = settings
        self.log = log
        command = [sys.executable, "-m", "driftwheel", "serve", *flags]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=settings.child_environment(), stderr=output)
        self.address = self._wait_until_up()

    def _wait_until_up(self) -> ServerAddress:
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and self.process.poll() is None:
            if (address := server_address(self.settings)) is not None and address.pid == self.process.pid:
                return address
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    @property
    def workers(self) -> list[int]:
        """The process ids of the living workers; whoever seals the log is a child of the supervisor too."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "envoy\n"]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        assert self.process.wait(60) == 0, self.log.read_text()

    def recommend(self) -> tuple[str, int]:
        """Ask over a connection of its own: which process answered, and with which version."""
        body = {"user_id": 7, "k": 1}
        with httpx.Client(base_url=self.address.url, timeout=60) as client:
            _, version, token = client.post("/v1/recommend", json=body).json()["prediction_id"].split(".")
        return token[:12], int(version)

    def metrics(self) -> dict[tuple[str, ...], float]:
        page = httpx.get(f"{self.address.url}/metrics", timeout=60).text
        return {
            (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def requests(self) -> float:
        return sum(value for key, value in self.metrics().items() if key[0] == REQUESTS and "model=mf" in key)


def wait_for(what, described: str) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(f"never: {described}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    home = tmp_path_factory.mktemp("home")
    server = Server(prepared_home(home, serving={"port": 0}), home / "server.log", "--workers", "2")
    yield server
    server.stop()


def test_both_workers_answer_and_their_metrics_add_up(server: Server) -> None:
    asked = Counter[str]()
    wait_for(lambda: asked.update([server.recommend()[0]]) or len(asked) == 2, "both workers answer")
    for _ in range(20):
        asked[server.recommend()[0]] += 1
    wait_for(lambda: server.requests() == asked.total(), "the sum of both is told")
    seen = [server.requests() for _ in range(20)]  # of one and of the other
    assert seen == [asked.total()] * 20
    metrics = server.metrics()
    assert metrics[("driftwheel_workers_up",)] == metrics[("driftwheel_workers",)] == 2
    assert metrics[("driftwheel_ready",)] == 1
    assert metrics[("driftwheel_worker_restarts_total",)] == 0


def test_a_rollout_switches_in_all_workers(server: Server) -> None:
    serve_stable(server.settings.rollouts, "mf", 2, **BY)
    loaded = ("driftwheel_model_version_loaded", "arm=stable", "model=mf", "version=2")
    wait_for(lambda: server.metrics().get(loaded) == 1, "version 2 is loaded everywhere")
    answered = {server.recommend() for _ in range(30)}
    assert {version for _, version in answered} == {2}
    assert len(answered) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_shared_port_is_closed_to_any_other_server(server: Server, tmp_path: Path, workers: int) -> None:
    other = prepared_home(tmp_path, serving={"port": server.address.port, "workers": workers})
    with pytest.raises(AddressInUseError, match=f"port {server.address.port} on 127.0.0.1 is in use"), running(other):
        pass


def test_the_wheel_uses_a_server_of_several_workers(server: Server) -> None:
    with ensured_server(server.settings) as address, Client(address.target) as client:
        assert address == server.address
        wait_until_loaded(client, "churn", 1)


class Callers:
    """Threads that call over connections of their own, beginning a new one every few calls and when one breaks."""

    def __init__(self, address: ServerAddress, *, until_refused: bool = False) -> None:
        self.answered = 0
        self.failures_in_a_row = 0
        self.cut: list[object] = []
        self._address = address
        self._until_refused = until_refused
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, calls: int) -> None:
        until = self.answered + calls
        wait_for(lambda: self.answered >= until, f"{calls} more calls are answered")

    def _call(self) -> None:
        failures = 0
        while not self._stop.is_set():
            with grpc.insecure_channel(self._address.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    self._call_over(GRPCInferenceServiceStub(channel))
                    failures = 0
                except grpc.RpcError as error:
                    failures += 1
                    self.failures_in_a_row = max(failures, self.failures_in_a_row)
                    # A refused connection is no call yet; what had been sent must be answered.
                    if error.code() != grpc.StatusCode.UNAVAILABLE or "onnect" not in (error.details() or ""):
                        self.cut.append((error.code(), error.details()))
                    if self._until_refused:
                        return
                    self._stop.wait(0.05)  # as clients do that try again

    def _call_over(self, stub: GRPCInferenceServiceStub) -> None:
        for _ in range(25):
            stub.ModelInfer(rating_request([7] * 100, [10] * 100), timeout=60)
            with self._lock:
                self.answered += 1
            if self._stop.wait(0.002):  # the processors are for the servers that start meanwhile
                return


class Scraper:
    """Scrapes whichever worker it meets, and remembers every count that was lower than before."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last: dict[tuple[str, ...], float] = {}
        self.lower: list[object] = []
        self.scrapes = 0

    def scrape(self) -> dict[tuple[str, ...], float]:
        try:
            metrics = self._server.metrics()
        except httpx.TransportError:
            return self._last  # the killed worker's own connection
        counts = {
            key: value for key, value in metrics.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))
        }
        self.lower += [
            (key, value, counts.get(key)) for key, value in self._last.items() if counts.get(key, -1.0) < value
        ]
        self._last = counts
        self.scrapes += 1
        return metrics


def give_feedback(server: Server) -> str | None:
    """An answer and a label for it; its prediction id, None where the killed worker broke the connection."""
    try:
        with httpx.Client(base_url=server.address.url, timeout=60) as client:
            given = client.post("/v1/recommend", json={"user_id": 7, "k": 1}).json()["prediction_id"]
            client.post("/v1/feedback", json={"feedback": [{"prediction_id": given, "label": 4}]}).raise_for_status()
            return given
    except httpx.TransportError:
        return None


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    server = Server(prepared_home(tmp_path, serving={"port": 0, "workers": 2}), tmp_path / "server.log")
    scraper, accepted = Scraper(server), []
    first = server.workers
    with Callers(server.address) as callers:
        callers.wait_for(100)
        accepted += [give_feedback(server) for _ in range(10)]
        scraper.scrape()
        os.kill(first[0], signal.SIGKILL)
        callers.wait_for(100)  # the other one goes on
        accepted += [give_feedback(server) for _ in range(10)]
        wait_for(lambda: scraper.scrape().get(("driftwheel_worker_restarts_total",)) == 1, "a restart is told")
        wait_for(lambda: scraper.scrape()[("driftwheel_workers_up",)] == 2, "both are up again")
        callers.wait_for(100)
    assert len(server.workers) == 2
    assert first[0] not in server.workers
    assert first[1] in server.workers
    # A call that the dead worker had, and perhaps a connection that its socket still took.
    assert callers.failures_in_a_row <= 3
    wait_for(lambda: len({server.recommend()[0] for _ in range(4)}) == 2, "the new one answers too")
    assert (scraper.lower, scraper.scrapes > 2) == ([], True)
    server.stop()
    assert "signal SIGKILL" in server.log.read_text()
    stored = (server.settings.prediction_log / "feedback").glob("[!.]*.parquet")
    kept = [one for path in stored for one in pq.read_table(path)["prediction_id"].to_pylist()]
    assert {one for one in accepted if one is not None} <= set(kept)
    assert list(server.settings.prediction_log.rglob("*.arrows")) == []


def test_ctrl_c_drains_all_workers_without_a_cut_call(tmp_path: Path) -> None:
    server = Server(prepared_home(tmp_path, serving={"port": 0, "workers": 2}), tmp_path / "server.log")
    with Callers(server.address, until_refused=True) as callers:
        callers.wait_for(200)
        server.stop(signal.SIGINT)
    assert callers.cut == []
    sealed = list(server.settings.prediction_log.rglob("mf/**/*.parquet"))
    assert len({path.name.split("-")[1] for path in sealed}) == 2  # processes
    assert list(server.settings.prediction_log.rglob("*.arrows")) == []
    assert sum(pq.read_metadata(path).num_rows for path in sealed) == callers.answered
