"""Versions out of their bundles: read, checked, warmed up and proved in a thread, one on trial by one worker first."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from driftwheel.bundle import read_bundle
from driftwheel.settings import Settings
from serving.engine import LoadedVersion, load_version
from serving.loading import Loading, loading_folder

_TURN_S = 0.05
"""How often a worker looks whether it is its turn to load a candidate that another one loads first, in seconds."""


class VersionLoader:
    """Loads versions for one worker.

    Args:
        executor: Where they are loaded, and long runs run.
        runs_of: What the runs of a version, by name and number, are reported to: their rows and their seconds.
    """

    def __init__(
        self, settings: Settings, executor: Executor, runs_of: Callable[[str, int], Callable[[int, float], None]]
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._runs_of = runs_of
        self._attempts = Loading(loading_folder(settings.runtime))

    async def load(self, name: str, version: int, trial: str = "") -> LoadedVersion:
        """Load a version; one that is on trial since ``trial`` when it is this worker's turn.

        Raises:
            ModelFaultError: The processes that loaded it before died of it.
            DriftwheelError: It cannot be loaded; the message says why. A damaged bundle may raise anything else.
        """
        loop = asyncio.get_running_loop()
        while (loaded := await loop.run_in_executor(self._executor, self._attempt, name, version, trial)) is None:
            await asyncio.sleep(_TURN_S)
        return loaded

    def _attempt(self, name: str, version: int, trial: str) -> LoadedVersion | None:
        """None: another worker tries it first."""
        with self._attempts.attempt(name, version, trial) as ours:
            return self._load_now(name, version) if ours else None

    def _load_now(self, name: str, version: int) -> LoadedVersion:
        bundle = read_bundle(self._settings.models, name, version)
        return load_version(
            bundle,
            self._settings.serving,
            self._executor,
            on_run=self._runs_of(name, version),
            engine_cache=self._settings.engine_cache,
            torchserve=self._settings.home / "torchserve",
        )
