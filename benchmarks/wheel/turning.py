"""A home that is served and watched by processes of their own, as somebody would run them, and traffic for it."""

import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.client import Client
from driftwheel.contracts import Signature
from driftwheel.processes import tied
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.replay import replay
from driftwheel.wheel.server import ensured_server
from monitoring.ledger import Entry, Ledger

STEPS = (0.25, 0.5, 1.0)

CHUNK_ROWS = 200
"""Rows sent between two looks at the clock."""

_LONGEST_RETRAIN_S = 900.0


def settings_of(home: Path, ranks: int) -> Settings:
    """Defaults, but for what hours of traffic in a minute make too slow: looks every second or two, no cool-down."""
    return load_settings(
        home=home,
        serving={"port": 0},
        training={"ranks": ranks},
        drift={"check_every_s": 2.0},
        judge={"look_every_s": 1.0},
        retrain={"cool_down_s": 0.0, "steps": STEPS},
        log_level="warning",
    )


def command(settings: Settings, *words: str) -> None:
    """Run a command of ``driftwheel`` to its end.

    Raises:
        CalledProcessError: It failed; what it said is on standard error.
    """
    print("driftwheel", *words, flush=True)
    subprocess.run([sys.executable, "-m", "driftwheel", *words], env=settings.child_environment(), check=True)


class Home:
    """A home under ``driftwheel serve`` and ``driftwheel drift watch --retrain --judge``. Use ``Home.turning``."""

    def __init__(self, settings: Settings, model: str, client: Client, rows_per_s: float) -> None:
        self.settings = settings
        self.model = model
        self._client = client
        self._rows_per_s = rows_per_s
        self._retraining = False
        """Whether a retrain is going on, as far as the loop has said."""

    @classmethod
    @contextmanager
    def turning(cls, settings: Settings, model: str, rows_per_s: float) -> Generator["Home"]:
        """Serve and watch while the block runs."""
        with ensured_server(settings) as address, connect(settings, address.target) as client:
            home = cls(settings, model, client, rows_per_s)
            with home._watched():
                yield home

    @property
    def signature(self) -> Signature:
        """Of the version in service."""
        stable = read_rollout(self.settings.rollouts, self.model).stable
        return read_manifest(bundle_folder(self.settings.models, self.model, stable)).signature

    def send(self, rows: pd.DataFrame, *, key_column: str | None = None) -> dict[str, int]:
        """Send rows and their labels at the pace, waiting while a retrain is going on: to traffic of years, training is a
        moment. What failed, by code.
        """
        failed: dict[str, int] = {}
        for begin in range(0, len(rows), CHUNK_ROWS):
            self._wait_for_retrain()
            began = time.monotonic()
            chunk = rows.iloc[begin : begin + CHUNK_ROWS]
            report = replay(self._client, self.model, self.signature, chunk, key_column=key_column)
            for code, count in report.failed.items():
                failed[code] = failed.get(code, 0) + count
            time.sleep(max(began + len(chunk) / self._rows_per_s - time.monotonic(), 0.0))
        self._wait_for_retrain()
        return failed

    @property
    def on_trial(self) -> bool:
        """Whether a candidate is."""
        return read_rollout(self.settings.rollouts, self.model).candidate is not None

    def entries(self, kind: Any) -> list[Entry]:
        """What the ledger has of the model."""
        return Ledger(self.settings.ledger).entries(self.model, kind)

    def finished_retrains(self) -> list[Entry]:
        """Those that ended, however they did."""
        return [entry for entry in self.entries("retrain") if entry.payload["event"] == "finished"]

    def _wait_for_retrain(self) -> None:
        began = time.monotonic()
        while self._retraining:
            if time.monotonic() - began > _LONGEST_RETRAIN_S:
                raise TimeoutError(f"a retrain of {self.model} has not ended after {_LONGEST_RETRAIN_S:g} s")
            time.sleep(0.1)

    @contextmanager
    def _watched(self) -> Generator[None]:
        process = subprocess.Popen(
            tied([sys.executable, "-m", "driftwheel", "drift", "watch", self.model, "--retrain", "--judge"]),
            env=self.settings.child_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        listener = threading.Thread(target=self._listen, args=(cast("IO[str]", process.stderr),))
        listener.start()
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            listener.join()

    def _listen(self, words: IO[str]) -> None:
        """Print what the loop says. While a retrain is going on, it says nothing of the model."""
        began = time.monotonic()
        for line in words:
            print(f"{time.monotonic() - began:6.1f} s  {line}", end="", flush=True)
            if line.startswith(f"{self.model}: "):
                self._retraining = line.startswith(f"{self.model}: retraining (")
