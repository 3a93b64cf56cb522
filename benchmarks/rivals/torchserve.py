"""TorchServe 0.12, tuned as well as it can be: one worker, large batches, binary bodies, no logs, no system metrics."""

import importlib.util
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.base import ServerProcess, Workplace, free_port
from benchmarks.tools.messages import Call, columns_of, prediction, predictions_call
from driftwheel.bundle import ONNX_GRAPH

BATCH, DELAY_MS = 64, 2

_QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="STDOUT" target="SYSTEM_OUT"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers><Root level="error"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
"""


class TorchServe:
    """Java's frontend and one Python worker."""

    needs = "ts"
    rest = False
    """Whether it is asked over REST rather than gRPC."""
    warm_up_s = 12.0  # Java compiles what runs often; its rate doubles on the way
    handler = Path(__file__).parent / "torchserve_handler.py"

    def __init__(self, name: str = "TorchServe") -> None:
        self.name = name
        self._process = ServerProcess()
        self.target = ""

    @property
    def installed(self) -> bool:
        """Whether it can take part here: the package and Java."""
        return importlib.util.find_spec(self.needs) is not None and shutil.which("java") is not None

    def start(self, workplace: Workplace) -> None:
        folder = workplace.folder
        _archive(folder, self.graph(workplace), self.handler)
        grpc_port, *http = (free_port() for _ in range(5))
        settings = _listeners(grpc_port, http) | self.settings()
        (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [str(Path(sys.executable).parent / "torchserve"), "--start", "--foreground", "--disable-token-auth"]
        command += ["--model-store", str(folder), "--ts-config", str(folder / "config.properties")]
        command += self.flags(folder)
        environment = {"TMPDIR": str(folder), "LOG_LOCATION": str(folder), "METRICS_LOCATION": str(folder)}
        self._process.launch(command, folder / "server.log", env=environment, cwd=folder)
        self.target = f"127.0.0.1:{http[0] if self.rest else grpc_port}"
        self._process.await_answer(self.target, self.call(1))

    def stop(self) -> None:
        self._process.stop()

    def pids(self) -> list[int]:
        """The frontend and the worker; the launcher only waits for them, and is left out."""
        return self._process.pids()[1:]

    def call(self, rows: int) -> Call:
        return predictions_call(columns_of(rows))

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return np.frombuffer(prediction(answer), "<f4")

    def graph(self, workplace: Workplace) -> Path:
        """The file that its handler loads: ``model`` with this file's ending, in the archive."""
        return workplace.bundle.path(ONNX_GRAPH)

    def settings(self) -> dict[str, object]:
        """What its configuration says beside where it listens."""
        model = {
            "defaultVersion": True,
            "marName": "mf.mar",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": BATCH,
            "maxBatchDelay": DELAY_MS,
            "responseTimeout": 120,
        }
        return {
            "disable_system_metrics": "true",
            "async_logging": "true",
            "load_models": "mf.mar",
            "job_queue_size": 1000,
            "models": json.dumps({"mf": {"1.0": model}}),
        }

    def flags(self, folder: Path) -> list[str]:
        """What more stands on its command line."""
        (folder / "log4j2.xml").write_text(_QUIET)
        return ["--ncs", "--log-config", str(folder / "log4j2.xml")]


def _archive(folder: Path, graph: Path, handler: Path) -> None:
    """A .mar is a zip with a manifest."""
    packed = f"model{graph.suffix}"
    manifest = {
        "runtime": "python",
        "model": {"modelName": "mf", "modelVersion": "1.0", "handler": handler.name, "serializedFile": packed},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(folder / "mf.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.write(handler, handler.name)
        archive.write(graph, packed)


def _listeners(grpc_port: int, http: list[int]) -> dict[str, object]:
    inference, management, metrics, grpc_management = http
    return {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_port,
        "grpc_management_port": grpc_management,
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
    }
