"""A real TorchServe over archives of small bundles: bare, without a token, a worker for each version."""

import importlib.util
import json
import logging
import shutil
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.models import make_factor_bundle
from benchmarks.rivals.base import ServerProcess, free_port
from driftwheel.bundle import Bundle
from exporters.archive import write_archive
from serving._proto import torchserve_inference_pb2 as pb
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from tests.bundles import make_churn_bundle, make_rating_bundle
from tests.serving.torchserve.in_worker import HANDLERS, Served, served, unpacked

BATCH, DELAY_MS = 32, 50
"""Long enough for what several clients send to meet in a batch."""

_START_TIMEOUT_S = 240.0
_QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="STDOUT" target="SYSTEM_OUT"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
"""


@dataclass
class Running:
    """A TorchServe, its clients, and the bundles in it: ``mf`` 1 and 2, ``churn`` 1 and ``films`` 1, which is larger."""

    http: httpx.Client
    management: httpx.Client
    metrics: httpx.Client
    stub: InferenceAPIsServiceStub
    bundles: dict[tuple[str, int], Bundle]
    log: Path

    def predict(self, model: str, version: int = 1, **inputs: bytes) -> bytes:
        """The answer's bytes over gRPC."""
        return self.send(model, version, **inputs).result(timeout=60).prediction

    def send(self, model: str, version: int = 1, **inputs: bytes) -> grpc.Future:
        """A call over gRPC, under way."""
        request = pb.PredictionsRequest(model_name=model, model_version=str(version), input=inputs)
        return self.stub.Predictions.future(request, timeout=60)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Bundle]:
    """By name and version."""
    models = tmp_path_factory.mktemp("torchserve-models")
    made = [
        make_rating_bundle(models, 1),
        make_rating_bundle(models, 2, shift=0.25),
        make_churn_bundle(models, 1),
        make_factor_bundle(models, 1, name="films", users=300, items=900, factors=16),
    ]
    return {(bundle.name, bundle.version): bundle for bundle in made}


@pytest.fixture(scope="session")
def torchserve(bundles: dict[tuple[str, int], Bundle], tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """One server for all tests: none changes it."""
    if importlib.util.find_spec("ts") is None:
        pytest.skip("needs torchserve")
    if shutil.which("java") is None:
        pytest.skip("needs Java (Debian: openjdk-17-jre-headless)")
    folder = tmp_path_factory.mktemp("torchserve")
    process, ports = ServerProcess(), [free_port() for _ in range(5)]
    _prepare(folder, bundles, ports)
    command = [
        str(Path(sys.executable).parent / "torchserve"),
        "--start",
        "--foreground",
        "--ncs",
        "--disable-token-auth",
    ]
    command += ["--model-store", str(folder / "store"), "--ts-config", str(folder / "config.properties")]
    command += ["--log-config", str(folder / "log4j2.xml")]
    process.launch(command, folder / "server.log", env={"TMPDIR": str(folder), "LOG_LOCATION": str(folder)}, cwd=folder)
    clients = [httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) for port in ports[:3]]
    channel = grpc.insecure_channel(f"127.0.0.1:{ports[3]}")
    try:
        _await_ready(process, clients[1], bundles, folder / "server.log")
        yield Running(*clients, InferenceAPIsServiceStub(channel), bundles, folder / "server.log")
    finally:
        channel.close()
        for client in clients:
            client.close()
        process.stop()


def _prepare(folder: Path, bundles: dict[tuple[str, int], Bundle], ports: list[int]) -> None:
    (folder / "store").mkdir()
    (folder / "log4j2.xml").write_text(_QUIET)
    models: dict[str, dict[str, object]] = {}
    for (name, version), bundle in bundles.items():
        archive = write_archive(bundle)
        shutil.copy(archive, folder / "store")
        models.setdefault(name, {})[str(version)] = {
            "defaultVersion": version == 1,
            "marName": archive.name,
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": BATCH,
            "maxBatchDelay": DELAY_MS,
            "responseTimeout": 60,
        }
    inference, management, metrics, grpc_inference, grpc_management = ports
    settings = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_inference,
        "grpc_management_port": grpc_management,
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "metrics_config": HANDLERS / "driftwheel_metrics.yaml",
        "job_queue_size": 1000,
        "load_models": "all",
        "models": json.dumps(models),
    }
    (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def _await_ready(
    process: ServerProcess, management: httpx.Client, bundles: dict[tuple[str, int], Bundle], log: Path
) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    waiting = set(bundles)
    while waiting:
        process.check_alive()
        assert time.monotonic() < give_up, f"{waiting} did not load:\n{log.read_text()[-3000:]}"
        time.sleep(0.1)
        waiting = {one for one in waiting if not _is_ready(management, *one)}


def _is_ready(management: httpx.Client, name: str, version: int) -> bool:
    try:
        answer = management.get(f"/models/{name}/{version}")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and any(one["status"] == "READY" for one in answer.json()[0]["workers"])


@pytest.fixture
def _as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The handlers' folder on the path; and logging as it was, afterwards."""
    monkeypatch.syspath_prepend(str(HANDLERS))
    loggers = [logging.getLogger(name) for name in (None, "ts.metrics.caching_metric", "ts.service")]
    before = [(one.level, list(one.filters)) for one in loggers]
    yield
    for one, (level, filters) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.filters[:] = filters


@pytest.fixture(scope="session")
def folders(bundles, tmp_path_factory) -> dict[str, Path]:
    return {name: unpacked(bundles[name, 1], tmp_path_factory.mktemp(name)) for name in ("mf", "churn", "films")}


@pytest.fixture
def mf(bundles, folders, _as_in_a_worker) -> Served:
    return served(bundles["mf", 1], folders["mf"]).start()


@pytest.fixture
def churn(bundles, folders, _as_in_a_worker) -> Served:
    return served(bundles["churn", 1], folders["churn"]).start()


@pytest.fixture
def films(bundles, folders, _as_in_a_worker) -> Served:
    return served(bundles["films", 1], folders["films"]).start()
