"""One model under watch, window by window: the real scores, decision and retrain policy; time and training are simulated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pandas as pd

from benchmarks.drift.customers import DAY_S, START_S, WINDOWS_A_DAY, Shift
from driftwheel.settings import DriftSettings, RetrainSettings
from monitoring.drift.decision import NOTHING_BEFORE, Before, DriftDecision, decide_drift, record
from monitoring.drift.reference import Reference
from monitoring.drift.scores import WindowScores
from monitoring.drift.scoring import first_rows, score_window
from monitoring.drift.yardstick import Yardstick
from monitoring.ledger import Entry
from monitoring.retrain import FINISHED, STARTED, may_retrain

DRIFT, RETRAIN = DriftSettings(), RetrainSettings()

TRIAL = 3
"""Windows from the start of a retrain until its version is in service: a candidate is on trial meanwhile."""


class Stream(Protocol):
    """Where windows and references come from."""

    def window(self, shift: Shift, number: int, rows: int) -> pd.DataFrame:
        """Window ``number``."""
        ...

    def reference(self, past: Sequence[tuple[Shift, int, int]]) -> Reference:
        """What a version ships that learned from all parts (shift, first window, windows) of the past."""
        ...


@dataclass(slots=True)
class Wheel:
    """A model in service. ``see`` is what the drift job and ``retrain --on-drift`` do after each window."""

    stream: Stream
    seed: int
    retrains: list[int] = field(default_factory=list[int])
    """The windows after which one was started."""
    _yardstick: Yardstick = field(init=False)
    _version: int = 1
    _known: Yardstick | None = None
    """Of a version that a retrain made, once it has met enough: its first rows."""
    _first: list[pd.DataFrame] = field(default_factory=list[pd.DataFrame])
    _scored: list[WindowScores] = field(default_factory=list[WindowScores])
    _kept: Any = None
    """What the ledger would hold of the decision before."""
    _history: list[Entry] = field(default_factory=list[Entry])
    _past: list[tuple[Shift, int, int]] = field(default_factory=list["tuple[Shift, int, int]"])

    def __post_init__(self) -> None:
        self._yardstick = Yardstick.of(self.stream.reference(()), DRIFT, seed=self.seed)

    @property
    def reference(self) -> Reference:
        """Of the version in service."""
        return self._yardstick.reference

    def see(self, shift: Shift, number: int, window: pd.DataFrame) -> DriftDecision:
        """The decision after window ``number``; where it asks for a retrain and the policy allows, one starts."""
        on_trial = bool(self.retrains) and number <= self.retrains[-1] + TRIAL
        if self.retrains and number == self.retrains[-1] + TRIAL + 1:
            self._enter()
        self._remember(shift, number)
        self._scored = [*self._scored[1 - DRIFT.windows :], self._score(window)]
        before = NOTHING_BEFORE if self._kept is None else Before.of(self._kept, version=self._version)
        decision = decide_drift(self._scored, DRIFT, before)
        self._kept = record(self._scored, DRIFT, decision, version=self._version, before=before)
        at = datetime.fromtimestamp(START_S + (number + 1) * DAY_S / WINDOWS_A_DAY, UTC).isoformat()
        verdict = may_retrain(self._history, now=at, settings=RETRAIN, decision=decision, candidate_in_flight=on_trial)
        if verdict.allowed:
            self.retrains.append(number)
            for event in (STARTED, FINISHED):
                self._history.append(
                    Entry(
                        id=len(self._history),
                        at=at,
                        kind="retrain",
                        model="simulated",
                        summary=verdict.reason,
                        payload={"event": event},
                    )
                )
        return decision

    def _score(self, window: pd.DataFrame) -> WindowScores:
        scores = score_window(window, self._yardstick, retrained=self._version > 1, known=self._known)
        if self._version > 1 and self._known is None:
            self._first.append(window)
            table = pd.concat(self._first, ignore_index=True)
            needed = first_rows(table, self._yardstick)
            # Of a cycle the end is only seen when it is over.
            if needed < len(table) or not self._yardstick.cycles:
                self._known = self._yardstick.against(table.head(needed))
        return scores

    def _enter(self) -> None:
        """The new version: a reference out of all that has come until its training began, and windows of its own."""
        began = self.retrains[-1]
        past = [
            (shift, first, min(windows, began + 1 - first)) for shift, first, windows in self._past if first <= began
        ]
        self._yardstick = Yardstick.of(self.stream.reference(past), DRIFT, seed=self.seed)
        self._version, self._known, self._first, self._scored = self._version + 1, None, [], []

    def _remember(self, shift: Shift, number: int) -> None:
        if self._past and self._past[-1][0] == shift:
            last, first, windows = self._past[-1]
            self._past[-1] = (last, first, windows + 1)
        else:
            self._past.append((shift, number, 1))
