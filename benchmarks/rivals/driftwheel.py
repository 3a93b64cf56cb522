"""Driftwheel itself, as ``driftwheel serve`` starts it, over two versions in a running split."""

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.base import START_TIMEOUT_S, WARM_UP_S, ServerProcess, Workplace
from benchmarks.tools.messages import Call, infer_call, infer_scores
from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from serving.runtime import server_address

_BY = {"by": "benchmark", "now": "2026-01-01T00:00:00Z"}


class Driftwheel:
    """One server process under its supervisor.

    Args:
        sections: Settings that differ from the defaults, by section.
    """

    def __init__(self, name: str, **sections: dict[str, Any]) -> None:
        self.name = name
        self.warm_up_s = WARM_UP_S
        self.installed = True
        self._sections = sections
        self._process = ServerProcess()
        self.target = ""

    def start(self, workplace: Workplace) -> None:
        self._serve(self._home(workplace), workplace)

    def _home(self, workplace: Workplace) -> Settings:
        """Settings, and the split."""
        sections: dict[str, Any] = {**self._sections, "serving": {"port": 0, **self._sections.get("serving", {})}}
        settings = load_settings(home=workplace.folder, models_folder=workplace.models, log_level="warning", **sections)
        serve_stable(settings.rollouts, "mf", 1, by=_BY["by"], now=_BY["now"])
        start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), by=_BY["by"], now=_BY["now"])
        return settings

    def _serve(self, settings: Settings, workplace: Workplace) -> None:
        command = [sys.executable, "-m", "driftwheel", "serve"]
        self._process.launch(command, workplace.folder / "server.log", env=settings.child_environment())
        give_up = time.monotonic() + START_TIMEOUT_S
        while (address := server_address(settings)) is None or address.pid != self._process.root:
            self._process.check_alive()
            if time.monotonic() > give_up:
                raise RuntimeError(f"{self.name} did not announce itself")
            time.sleep(0.05)
        self.target = address.target

    def stop(self) -> None:
        self._process.stop()

    def pids(self) -> list[int]:
        return self._process.pids()

    def call(self, rows: int) -> Call:
        return infer_call(rows)

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return infer_scores(answer)
