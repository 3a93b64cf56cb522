"""A study's trials as plain data: what the table, the plots and the record are made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.tuning.spaces import Params

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ERROR = "error"
"""The attribute of a trial that failed by its own doing: why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial."""

    number: int
    state: str
    """``complete``, ``pruned``, ``fail``, ``running`` or ``waiting``."""
    value: float | None
    """The best validation metric; of a pruned trial, where it stood."""
    params: Params
    epochs: int
    """The last that was reported."""
    seconds: float
    """From its beginning to its end."""
    error: str | None
    """Why training failed."""

    @property
    def done(self) -> bool:
        """Whether it ran to an end of its own. What was interrupted, or lost with its worker, did not."""
        return self.state in {"complete", "pruned"} or self.error is not None

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self.state == "running" and self.error is None

    @property
    def waiting(self) -> bool:
        """Whether the next worker that asks will get it."""
        return self.state == "waiting"


def rows_of(study: "Study") -> list[TrialRow]:
    """All trials, by number."""
    return [_row(trial) for trial in study.get_trials(deepcopy=False)]


def best_rows(rows: list[TrialRow]) -> list[TrialRow]:
    """The trials that were trained to their end, the best first."""
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    return sorted(complete, key=lambda row: (row.value or 0.0, row.number))


def _row(trial: "FrozenTrial") -> TrialRow:
    began, ended = trial.datetime_start, trial.datetime_complete
    return TrialRow(
        number=trial.number,
        state=trial.state.name.lower(),
        value=trial.value,
        params=dict(trial.params),
        epochs=max(trial.intermediate_values, default=0),
        seconds=(ended - began).total_seconds() if began and ended else 0.0,
        error=trial.user_attrs.get(ERROR),
    )
