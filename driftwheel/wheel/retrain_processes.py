"""Retrains in processes of their own, for whoever goes on with other things meanwhile."""

import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import structlog

from driftwheel.errors import DriftwheelError
from driftwheel.files import is_locked
from driftwheel.processes import tied
from driftwheel.settings import Settings
from monitoring.retrain import Trigger

_STOP_TIMEOUT_S = 45.0
"""How long a retrain that is told to end may take: it waits for its ranks to save first, for up to 40 s."""

_log = structlog.get_logger()


class RetrainProcesses:
    """Starts ``driftwheel retrain``, one process a model, which ends with this process however that ends. Threads may share
    one, but start one retrain at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def going_on(self, model: str) -> bool:
        """Whether a retrain of a model is going on, ours or anybody's."""
        process = self._running.get(model)
        ours = process is not None and process.poll() is None
        return ours or is_locked(self._settings.runtime / f"retrain-{model}.lock")

    def start(self, model: str, *, reason: str, trigger: Trigger) -> str:
        """Start one; where what it says goes.

        Raises:
            DriftwheelError: The process cannot be started.
        """
        words = self._settings.runtime / f"retrain-{model}.log"
        words.parent.mkdir(parents=True, exist_ok=True)
        command = ["retrain", model, "--reason", reason, "--trigger", trigger]
        started: Future[subprocess.Popen[bytes]] = Future()
        # The kernel ties a child to the thread that started it: the caller's own may end too soon.
        keeper = threading.Thread(target=self._see_through, args=(model, command, words, started), daemon=True)
        keeper.start()
        self._running[model] = started.result()
        return str(words)

    def close(self) -> None:
        """End those that are going on; each saves a checkpoint, and the next one goes on from there."""
        running = list(self._running.values())
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _see_through(
        self, model: str, command: list[str], words: Path, started: "Future[subprocess.Popen[bytes]]"
    ) -> None:
        try:
            with words.open("wb") as output:
                process = subprocess.Popen(
                    tied([sys.executable, "-m", "driftwheel", *command]),
                    env=self._settings.child_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            started.set_exception(DriftwheelError(f"a retrain of {model} cannot be started: {error}"))
            return
        except BaseException as error:  # whoever waits must hear of it
            started.set_exception(error)
            raise
        started.set_result(process)
        code = process.wait()
        say = _log.info if code == 0 else _log.error
        say("retrain.ended", model=model, command=command, exit_code=code, last_words=str(words))
