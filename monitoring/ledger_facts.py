"""What the ledger's entries add up to: counts since the first entry, and the newest of each kind.

Entries are read once, in portions: a ledger of years costs a start some seconds and a scrape nothing.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from monitoring.ledger import Entry, Ledger
from monitoring.retrain import STARTED
from monitoring.segments import moment

_PORTION = 500


@dataclass(slots=True)
class ModelFacts:
    """One model's newest entries. Times are seconds since the epoch; None where there was none."""

    drift: dict[str, Any] | None = None
    """The newest drift decision's payload."""
    drift_at: float | None = None
    verdict: dict[str, Any] | None = None
    verdict_at: float | None = None
    gate_at: float | None = None
    rollout_at: float | None = None
    retrain_started_at: float | None = None
    retrain_finished_at: float | None = None
    retrain_success_at: float | None = None
    retrains_s: float = 0.0
    """How long all retrains that have ended took together, in seconds."""
    open_trigger: str | None = None
    """What set off the retrain that has started and not finished."""


@dataclass(slots=True)
class Facts:
    """All entries up to ``last_id``."""

    last_id: int = 0
    models: dict[str, ModelFacts] = field(default_factory=dict[str, ModelFacts])
    entries: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """By model and kind."""
    drifts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """By model and status."""
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """By model and decision."""
    gates: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """By model and what the gate said."""
    retrains: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    """By model, trigger and result. One that was killed counts once the next has started."""

    def follow(self, ledger: Ledger) -> None:
        """Take in what has been added since.

        Raises:
            DataError: The ledger cannot be read.
        """
        while portion := ledger.entries(limit=_PORTION, after=self.last_id):
            for entry in portion:
                self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take in one entry, newer than all before."""
        facts = self.models.setdefault(entry.model, ModelFacts())
        at = moment(entry.at).timestamp()
        match entry.kind:
            case "drift":
                facts.drift, facts.drift_at = entry.payload, at
                self.drifts[entry.model, entry.payload["decision"]["status"]] += 1
            case "verdict":
                facts.verdict, facts.verdict_at = entry.payload, at
                self.verdicts[entry.model, entry.payload["verdict"]["decision"]] += 1
            case "gate":
                facts.gate_at = at
                passed = entry.payload["verdict"]["passed"]
                self.gates[entry.model, "passed" if passed else "refused"] += 1
            case "rollout":
                facts.rollout_at = at
            case "retrain":
                self._add_retrain(entry, facts, at)
            case _:  # archiving has no time and no count of its own but that of its entries
                pass
        self.entries[entry.model, entry.kind] += 1
        self.last_id = entry.id

    def _add_retrain(self, entry: Entry, facts: ModelFacts, at: float) -> None:
        trigger = entry.payload.get("trigger", "unknown")
        if facts.open_trigger is not None and entry.payload.get("event") == STARTED:
            self.retrains[entry.model, facts.open_trigger, "interrupted"] += 1
        if entry.payload.get("event") == STARTED:
            facts.retrain_started_at, facts.open_trigger = at, trigger
            return
        # Entries of older releases have no result, and the oldest no "started" before them.
        failed = str(entry.payload.get("outcome", "")).startswith("failed")
        result = entry.payload.get("result", "failed" if failed else "unknown")
        facts.retrain_finished_at, facts.open_trigger = at, None
        if result != "failed":  # it did its work, whatever the gate thought of what it made
            facts.retrain_success_at = at
        self.retrains[entry.model, trigger, result] += 1
        if (started := entry.payload.get("started_at")) is not None:
            facts.retrains_s += at - moment(started).timestamp()
