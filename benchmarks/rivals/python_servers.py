"""Servers that are one Python program given a graph and a port, and speak the Open Inference Protocol over gRPC."""

import importlib.util
import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.base import WARM_UP_S, ServerProcess, Workplace, free_port
from benchmarks.tools.messages import Call, infer_call, infer_scores
from driftwheel.bundle import ONNX_GRAPH


class PythonServer:
    """A module of this folder, run with the graph's path, a gRPC port, and what else it takes.

    Args:
        needs: The package that it is about.
        spare_ports: How many more ports it takes.
    """

    def __init__(self, name: str, module: str, *flags: str, needs: str, spare_ports: int = 0) -> None:
        self.name = name
        self.warm_up_s = WARM_UP_S
        self.needs = needs
        self._module = module
        self._flags = flags
        self._spare_ports = spare_ports
        self._process = ServerProcess()
        self.target = ""

    @property
    def installed(self) -> bool:
        """Whether it can take part here."""
        return importlib.util.find_spec(self.needs) is not None

    def start(self, workplace: Workplace) -> None:
        port, *spare = (free_port() for _ in range(1 + self._spare_ports))
        graph = str(workplace.bundle.path(ONNX_GRAPH))
        command = [sys.executable, "-m", f"benchmarks.rivals.{self._module}", graph, *map(str, (port, *spare))]
        self._process.launch([*command, *self._flags], workplace.folder / "server.log")
        self.target = f"127.0.0.1:{port}"
        self._process.await_answer(self.target, self.call(1))

    def stop(self) -> None:
        self._process.stop()

    def pids(self) -> list[int]:
        return self._process.pids()

    def call(self, rows: int) -> Call:
        return infer_call(rows)

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return infer_scores(answer)
