"""A TorchServe with our archive and our settings, whose workers and batches change while it runs.

Two things differ from what ``driftwheel torchserve up`` starts, for the sake of the measurement: it asks for no token, which
h2load could only be given on its command line, and its API for registering is on.
"""

import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.rivals.base import ServerProcess
from benchmarks.tools.messages import PREDICTIONS, Call
from benchmarks.tools.processes import cpu_seconds
from driftwheel.bundle import Bundle
from driftwheel.files import sha256_of
from driftwheel.serving_settings import TorchServeSettings
from exporters.archive import write_archive
from serving.torchserve.configuration import PROPERTIES, ArchivedVersion, environment, properties
from serving.torchserve.instance import Plan, prepare
from serving.torchserve.lifecycle import plan_for
from serving.torchserve.ports import chosen_ports


@dataclass(frozen=True, slots=True)
class Choice:
    """What is tried."""

    workers: int
    batch_size: int
    delay_ms: int


class Swept:
    """A TorchServe that is given other workers and batches while it runs."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        settings = TorchServeSettings()
        archive = write_archive(bundle)
        plan = plan_for(settings, [ArchivedVersion("mf", 1, archive, sha256_of(archive))])
        self._ports = chosen_ports(settings)
        self._folder = prepare(folder / "runs", plan, self._ports).folder
        empty = properties(settings, self._ports, [])
        (self._folder / PROPERTIES).write_text(empty)
        self._archive = archive.name
        self._process = ServerProcess()
        self._plan = plan
        self._launch(plan)
        self.target = f"127.0.0.1:{self._ports.grpc}"

    def restart(self) -> None:
        """End it, whether or not it answers, and start it anew: without a model, and cold."""
        self._process.stop()
        self._launch(self._plan)

    def _launch(self, plan: Plan) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="sweep-", dir=self._folder.parent))
        command = [*plan.command(scratch), "--disable-token-auth", "--enable-model-api"]
        variables = environment(os.environ, scratch)
        self._process.launch(command, self._folder / "console.log", env=variables, cwd=self._folder)
        self._process.await_answer(
            f"127.0.0.1:{self._ports.grpc}", Call(PREDICTIONS.replace("Predictions", "Ping"), b"")
        )

    def choose(self, choice: Choice) -> None:
        """Register the version anew."""
        if self._registered():
            self._manage("DELETE", "/models/mf/1")
        query = {"url": self._archive, "initial_workers": choice.workers, "synchronous": "true"}
        query |= {"batch_size": choice.batch_size, "max_batch_delay": choice.delay_ms, "response_timeout": 30}
        self._manage("POST", f"/models?{urlencode(query)}")

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return cpu_seconds(self.pids())

    def pids(self) -> list[int]:
        """Java and the workers."""
        return self._process.pids()

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def _registered(self) -> bool:
        return b"mf-1.mar" in self._manage("GET", "/models")

    def _manage(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._ports.management}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (loopback)
            return answer.read()
