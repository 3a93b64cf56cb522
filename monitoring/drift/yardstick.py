"""A sample that windows are compared with, and the monitors calibrated on it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from driftwheel.settings import DriftSettings
from monitoring.drift.clusters import Ints
from monitoring.drift.estimated import expected_auc, expected_losses, is_calibrated
from monitoring.drift.hours import Cycle, Hours, Seconds, cycles_of, hours_of, seconds_of
from monitoring.drift.monitors import Monitor
from monitoring.drift.quality import labelled_losses
from monitoring.drift.reference import Reference
from monitoring.drift.schema import Shares, shares_of
from monitoring.drift.watches import Watch, binned, calibrate, users_of, watches
from monitoring.losses import LossSums

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Measures:
    """What one window is measured by."""

    monitors: tuple[Monitor, ...]
    losses: LossSums
    """Of the sample's rows."""
    expected: LossSums
    """The losses that their probabilities promise, and the area under the ROC curve."""
    expected_auc: float | None
    rows: NDArray[np.bool_]
    """Which rows of the sample are compared with."""
    hours: Literal["day", "week"] | None
    """The cycle whose hours they were chosen by; None: all rows."""


@dataclass(slots=True)
class Yardstick:
    """A sample under the log's column names, its rows already in their bins. Made by ``of`` and ``against``."""

    reference: Reference
    frame: "pd.DataFrame"
    all_watches: tuple[Watch, ...]
    bins: dict[str, Ints]
    counted: list[NDArray[np.bool_]]
    users: Ints | None
    seconds: Seconds | None
    cycles: tuple[Cycle, ...]
    settings: DriftSettings
    seed: int
    shares: dict[str, Shares]
    """Of the reference, which broken data is told by."""
    calibrated: bool
    """The model's probabilities are what came of the reference."""
    _made: dict[Hours | None, Measures] = field(default_factory=dict["Hours | None", Measures])

    @classmethod
    def of(cls, reference: Reference, settings: DriftSettings, *, seed: int) -> "Yardstick":
        """The reference of a bundle. Where its rows have times (``at``) and change with the hour or the weekday, a window is
        compared with those of its own hours.
        """
        all_watches = watches(reference, seed=seed)
        frame = reference.frame
        bins = binned(frame, all_watches)
        users, seconds = users_of(frame, reference.signature), seconds_of(frame)
        cycles = cycles_of(seconds, all_watches, bins, users)
        if settings.units == "rows":
            users = None
        return cls(
            reference,
            frame,
            all_watches,
            bins,
            [watch.estimating for watch in all_watches],
            users,
            seconds,
            cycles,
            settings,
            seed,
            shares_of(frame, reference.signature, all_watches, bins),
            is_calibrated(reference, margin=settings.quality_margin, alpha=settings.alpha),
        )

    def against(self, frame: "pd.DataFrame") -> "Yardstick":
        """Other rows of the same model, in the bins of this one's inputs, and with its cycles."""
        present = [watch for watch in self.all_watches if watch.group == "input" and watch.column in frame.columns]
        return Yardstick(
            self.reference,
            frame,
            tuple(present),
            binned(frame, present),
            [np.ones(len(frame), dtype=bool)] * len(present),
            users_of(frame, self.reference.signature) if self.settings.units == "users" else None,
            seconds_of(frame),
            self.cycles,
            self.settings,
            self.seed,
            self.shares,
            self.calibrated,
        )

    def measures(self, window: "pd.DataFrame") -> Measures:
        """What to measure a window by: rows of its own hours where there is a cycle and there are enough of them, else all."""
        return self.measures_of_its_hours(window) or self._measures_of(None, np.ones(len(self.frame), dtype=bool))

    def measures_of_its_hours(self, window: "pd.DataFrame") -> Measures | None:
        """Likewise; None where there is a cycle, and there are not enough rows of the window's hours."""
        asked = hours_of(window, self.cycles)
        for hours in asked:
            if hours in self._made:
                return self._made[hours]
            rows = None if self.seconds is None else hours.rows_of(self.seconds, self.users)
            if rows is not None:
                return self._measures_of(hours, rows)
        return None if asked else self._measures_of(None, np.ones(len(self.frame), dtype=bool))

    def _measures_of(self, hours: Hours | None, rows: NDArray[np.bool_]) -> Measures:
        if hours not in self._made:
            self._made[hours] = self._calibrated(rows, None if hours is None else hours.cycle.name)
        return self._made[hours]

    def _calibrated(self, rows: NDArray[np.bool_], hours: Literal["day", "week"] | None) -> Measures:
        counted = [one & rows for one in self.counted]
        monitors = calibrate(
            self.all_watches, self.bins, counted, self.users, window_rows=self.settings.window_rows, seed=self.seed
        )
        frame = self.frame[rows]
        return Measures(
            monitors,
            labelled_losses(frame, self.reference.signature, self.reference.manifest.task),
            expected_losses(frame, self.reference),
            expected_auc(frame, self.reference),
            rows,
            hours,
        )
