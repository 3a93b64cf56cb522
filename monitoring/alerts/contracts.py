"""What a rule is, as Prometheus reads it."""

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["page", "ticket", "info"]
"""Somebody gets up; somebody looks in working hours; it is shown."""

SERVER = 'job="driftwheel"'
TRAFFIC = f'{SERVER},arm!="shadow"'
"""Of the server's series that have an arm, those of callers' requests: a copy in shadow is nobody's."""

WATCHER = 'job="driftwheel-watcher"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A series that is computed at every evaluation."""

    record: str
    expr: str

    def rule(self) -> dict[str, Any]:
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert. Its runbook is ``docs/runbooks/<name>.md``.

    ``retrains``: where it fires, Alertmanager asks for a retrain of the model in its labels.
    """

    name: str
    expr: str
    hold: str
    """How long the expression must be true, in Prometheus' words."""
    severity: Severity
    summary: str
    """One sentence; a template of Prometheus'."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    retrains: bool = False

    def rule(self) -> dict[str, Any]:
        action = {"action": "retrain"} if self.retrains else {}
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity, **action, **self.labels},
            "annotations": {"summary": self.summary, "runbook_url": f"docs/runbooks/{self.name}.md"},
        }
