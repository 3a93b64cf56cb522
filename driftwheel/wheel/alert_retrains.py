"""Retrains that alerts ask for: one a firing, where the policy allows it, each in a process or a pod of its own."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter

from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import current_rollout
from driftwheel.wheel.retrain_runner import runner_for
from driftwheel.wheel.retraining import permission_without_drift
from monitoring.alert_webhook import Alert
from monitoring.ledger import Ledger

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

    Raises:
        ConfigurationError: ``retrain.runner`` needs a cluster, and this is no pod with a service account.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._retrains = runner_for(settings)
        self._answers = Counter(
            "driftwheel_alerts_received", "Alerts by what was done about them.", ["outcome"], registry=registry
        )

    def answer(self, alerts: Iterable[Alert]) -> list[Answer]:
        """Act on alerts, one after the other.

        Raises:
            DataError: The ledger cannot be used.
            DriftwheelError: A retrain cannot be started.
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
            self._retrains.close()

    def _answer(self, alert: Alert) -> Answer:
        outcome, detail = self._decided(alert)
        if outcome == "started":
            words = self._retrains.start(alert.model, reason=alert.reason, trigger="alert")
            detail = f"{alert.reason}; what it says is in {words}"
        return Answer(alert=alert.name, model=alert.model, outcome=outcome, detail=detail)

    def _decided(
        self, alert: Alert
    ) -> tuple[Literal["started", "declined", "repeated", "resolved", "unknown model"], str]:
        model = alert.model
        if alert.status == "resolved":
            return "resolved", "nothing to do"
        if current_rollout(self._settings, model) is None:
            return "unknown model", f"no version of {model} is in service"
        if self._retrains.going_on(model):
            return "declined", "a retrain is going on"
        for entry in Ledger(self._settings.ledger).entries(model, "retrain"):
            if entry.payload.get("event") == "finished" and entry.payload["reason"] == alert.reason:
                return "repeated", f"answered already: {entry.payload['outcome']}"
        verdict = permission_without_drift(self._settings, model, alert.reason)
        return ("started" if verdict.allowed else "declined"), verdict.reason
