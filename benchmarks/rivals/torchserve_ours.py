"""TorchServe with our archive and our settings: called directly, and behind our server."""

import json
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.base import WARM_UP_S, Workplace
from benchmarks.rivals.driftwheel import Driftwheel
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.rivals.torchserve_swept import Choice, Swept
from benchmarks.tools.messages import Call, columns_of, json_of, prediction, predictions_call
from benchmarks.tools.processes import tree
from driftwheel.settings import Settings
from serving.torchserve.lifecycle import running_instance


class Chosen:
    """Workers and batches of a TorchServe that runs already, and is warm."""

    warm_up_s = WARM_UP_S
    installed = True

    def __init__(self, name: str, swept: Swept, choice: Choice) -> None:
        self.name = name
        self.target = swept.target
        self._swept = swept
        self._choice = choice

    def start(self, workplace: Workplace) -> None:
        del workplace
        self._swept.choose(self._choice)

    def stop(self) -> None:
        """It stays for the next choice."""

    def restart(self) -> None:
        """Start TorchServe anew, which has stopped answering."""
        self._swept.restart()

    def pids(self) -> list[int]:
        return self._swept.pids()

    def call(self, rows: int) -> Call:
        return predictions_call(columns_of(rows), version="1")

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return np.frombuffer(prediction(answer), "<f4")


class ChosenJson(Chosen):
    """The same, asked as the plain handler is."""

    def call(self, rows: int) -> Call:
        return predictions_call(json_of(rows), version="1")

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return np.array(json.loads(prediction(answer)), np.float32)


class BehindTheDoor(Driftwheel):
    """Our server before what ``driftwheel torchserve up`` starts: tokens on, a worker for each of the two versions."""

    def __init__(self, name: str) -> None:
        super().__init__(name, serving={"backend": "torchserve"})
        self.warm_up_s = TorchServe.warm_up_s
        self._settings: Settings | None = None

    def start(self, workplace: Workplace) -> None:
        self._settings = self._home(workplace)
        _torchserve("up", self._settings)
        self._serve(self._settings, workplace)

    def stop(self) -> None:
        super().stop()
        if self._settings is not None:
            _torchserve("down", self._settings)
            self._settings = None

    def pids(self) -> list[int]:
        found = None if self._settings is None else running_instance(self._settings)
        return super().pids() + (tree(found[0].pid) if found else [])


def _torchserve(verb: str, settings: Settings) -> None:
    command = [sys.executable, "-m", "driftwheel", "torchserve", verb]
    done = subprocess.run(
        command, env=settings.child_environment(), capture_output=True, text=True, check=False, timeout=180
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"driftwheel torchserve {verb} ended with code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
