"""A real TorchServe 0.12 for tests: started, killed, frozen, and started again at the same or at other ports."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from serving.torchserve import address

PATIENCE_S = 90.0

_QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="STDOUT" target="SYSTEM_OUT"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
"""

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java (Debian: openjdk-17-jre-headless)")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class RunningTorchServe:
    """TorchServe with token authorization on. Each archive is one version of a model, with one worker.

    Args:
        home: Its folder is ``torchserve`` in there, where the server looks for its address.
        archives: By model and version, ``mf`` and ``3``.
    """

    def __init__(self, home: Path, archives: dict[tuple[str, str], Path]) -> None:
        self.folder = home / "torchserve"
        self.folder.mkdir(parents=True)
        self._store = self.folder / "store"
        self._store.mkdir()
        for archive in archives.values():
            shutil.copy(archive, self._store / archive.name)
        self._archives = archives
        self._process: subprocess.Popen[bytes] | None = None
        self.ports = free_ports(5)

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]

    @property
    def pid(self) -> int:
        """The launcher, which leads the process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def launch(self) -> None:
        """Start it and write its address down; it is not ready yet."""
        (self.folder / "log4j2.xml").write_text(_QUIET)
        (self.folder / "config.properties").write_text(self._properties())
        command = [Path(sys.executable).parent / "torchserve", "--start", "--foreground", "--model-store", self._store]
        command += ["--ts-config", self.folder / "config.properties", "--log-config", self.folder / "log4j2.xml"]
        environment = {"TMPDIR": self.folder, "LOG_LOCATION": self.folder, "METRICS_LOCATION": self.folder}
        with (self.folder / "server.log").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=self.folder,
                start_new_session=True,
            )
        inference, management, metrics, grpc, _ = self.ports
        place = address.TorchServeAddress(
            pid=self._process.pid,
            started_ticks=0,
            grpc=f"127.0.0.1:{grpc}",
            http=f"http://127.0.0.1:{inference}",
            management=f"http://127.0.0.1:{management}",
            metrics=f"http://127.0.0.1:{metrics}",
            key_file=str(self.folder / address.KEY_FILE),
            models={},
        )
        address.write(self.folder, place)

    def start(self) -> "RunningTorchServe":
        """Start it and wait until a worker of each version is ready."""
        self.launch()
        give_up = time.monotonic() + PATIENCE_S
        while not all(self.ready(name, version) for name, version in self._archives):
            assert self._process is not None
            assert self._process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.2)
        return self

    def ready(self, name: str, version: str) -> bool:
        """Whether a worker can run a version."""
        with contextlib.suppress(httpx.TransportError, OSError, ValueError):
            answer = self.manage("GET", f"/models/{name}/{version}")
            return answer.is_success and any(one["status"] == "READY" for one in answer.json()[0]["workers"])
        return False

    def worker(self, name: str, version: str) -> int:
        """The process of a version's worker."""
        (described,) = self.manage("GET", f"/models/{name}/{version}").json()
        return described["workers"][0]["pid"]

    def manage(self, method: str, path: str, **options) -> httpx.Response:
        """Call the management API."""
        place = address.read(self.folder)
        assert place is not None
        headers = {"authorization": f"Bearer {address.management_token(place)}"}
        return httpx.request(method, place.management + path, headers=headers, timeout=60, **options)

    def register(self, name: str, version: str) -> None:
        """Register a version's archive, with a worker."""
        query = {"url": self._archives[name, version].name, "initial_workers": 1, "synchronous": "true"}
        query |= {"batch_size": 8, "max_batch_delay": 1}
        answer = self.manage("POST", "/models", params=query)
        assert answer.is_success, answer.text

    def unregister(self, name: str, version: str) -> None:
        """Take a version out."""
        answer = self.manage("DELETE", f"/models/{name}/{version}")
        assert answer.is_success, answer.text

    def freeze(self) -> None:
        """It hangs: its connections stay open and nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _properties(self) -> str:
        inference, management, metrics, grpc, grpc_management = self.ports
        models: dict[str, dict[str, object]] = {}
        for (name, version), archive in self._archives.items():
            models.setdefault(name, {})[version] = {
                "defaultVersion": version == "1",
                "marName": archive.name,
                "minWorkers": 1,
                "maxWorkers": 1,
                "batchSize": 8,
                "maxBatchDelay": 1,
                "responseTimeout": 60,
            }
        settings = {
            "inference_address": f"http://127.0.0.1:{inference}",
            "management_address": f"http://127.0.0.1:{management}",
            "metrics_address": f"http://127.0.0.1:{metrics}",
            "grpc_inference_port": grpc,
            "grpc_management_port": grpc_management,
            "metrics_mode": "prometheus",
            "disable_system_metrics": "true",
            "enable_envvars_config": "false",
            "enable_model_api": "true",
            "load_models": ",".join(archive.name for archive in self._archives.values()),
            "models": json.dumps(models),
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())
