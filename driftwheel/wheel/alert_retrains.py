"""Retrains that alerts ask for: one a firing, where the policy allows it, each in a process of its own."""

import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter

from driftwheel.errors import DriftwheelError
from driftwheel.files import is_locked
from driftwheel.processes import tied
from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import current_rollout
from driftwheel.wheel.retraining import permission_for_alert
from monitoring.alert_webhook import Alert
from monitoring.ledger import Ledger

_STOP_TIMEOUT_S = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was done about one alert, and why."""

    alert: str
    model: str
    outcome: Literal["started", "declined", "repeated", "resolved", "unknown model"]
    detail: str


class AlertRetrains:
    """Starts ``driftwheel retrain`` for alerts. Threads may share one.

    An alert is sent again and again while it fires. What ended one of its retrains, the ledger knows, across restarts;
    what the policy declines may be allowed when it is sent the next time.

    Args:
        registry: Where the answers are counted.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._answers = Counter(
            "driftwheel_alerts_received", "Alerts by what was done about them.", ["outcome"], registry=registry
        )

    def answer(self, alerts: Iterable[Alert]) -> list[Answer]:
        """Act on alerts, one after the other.

        Raises:
            DataError: The ledger cannot be used.
            DriftwheelError: A process cannot be started.
        """
        with self._turn:
            answers = [self._answer(alert) for alert in alerts]
        for one in answers:
            self._answers.labels(one.outcome).inc()
            _log.info("alert.answered", alert=one.alert, model=one.model, outcome=one.outcome, detail=one.detail)
        return answers

    def close(self) -> None:
        """End the retrains that are going on; each saves a checkpoint, and the next one goes on from there."""
        with self._turn:
            running = list(self._running.values())
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _answer(self, alert: Alert) -> Answer:
        outcome, detail = self._decided(alert)
        if outcome == "started":
            detail = f"{alert.reason}; what it says is in {self._start(alert)}"
        return Answer(alert=alert.name, model=alert.model, outcome=outcome, detail=detail)

    def _decided(
        self, alert: Alert
    ) -> tuple[Literal["started", "declined", "repeated", "resolved", "unknown model"], str]:
        model = alert.model
        if alert.status == "resolved":
            return "resolved", "nothing to do"
        if current_rollout(self._settings, model) is None:
            return "unknown model", f"no version of {model} is in service"
        process = self._running.get(model)
        if (process is not None and process.poll() is None) or is_locked(
            self._settings.runtime / f"retrain-{model}.lock"
        ):
            return "declined", "a retrain is going on"
        for entry in Ledger(self._settings.ledger).entries(model, "retrain"):
            if entry.payload.get("event") == "finished" and entry.payload["reason"] == alert.reason:
                return "repeated", f"answered already: {entry.payload['outcome']}"
        verdict = permission_for_alert(self._settings, model, alert.reason)
        return ("started" if verdict.allowed else "declined"), verdict.reason

    def _start(self, alert: Alert) -> Path:
        words = self._settings.runtime / f"retrain-{alert.model}.log"
        words.parent.mkdir(parents=True, exist_ok=True)
        started: Future[subprocess.Popen[bytes]] = Future()
        # The kernel ties a child to the thread that started it: a request's own thread would end too soon.
        keeper = threading.Thread(target=self._see_through, args=(alert, words, started), daemon=True)
        keeper.start()
        self._running[alert.model] = started.result()
        return words

    def _see_through(self, alert: Alert, words: Path, started: "Future[subprocess.Popen[bytes]]") -> None:
        command = ["retrain", alert.model, "--reason", alert.reason, "--trigger", "alert"]
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
            started.set_exception(DriftwheelError(f"a retrain of {alert.model} cannot be started: {error}"))
            return
        started.set_result(process)
        code = process.wait()
        say = _log.info if code == 0 else _log.error
        say("alert.retrain_ended", model=alert.model, alert=alert.name, exit_code=code, last_words=str(words))
