"""Traffic that changes with the hour or the weekday: whether it does, and which rows of a sample are of a window's hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.calibration import ridits
from monitoring.drift.clusters import Ints
from monitoring.drift.watches import Watch

if TYPE_CHECKING:
    import pandas as pd

Seconds = NDArray[np.float64]

ENOUGH = 500
"""Rows of a window's own hours below which all hours are compared with it."""

ENOUGH_USERS = 100
"""Likewise users, where they are what is independent of each other."""

ALPHA = 0.01
"""How sure it has to be that a sample changes with the hour. What this test cannot see among all rows of the reference is too
little to show in one window, and rows of all hours tell more than those of a few."""

_PERIODS = 1.5
"""Periods that the older and the newer half of a sample each have to span: within a single day, hours cannot be told from a
trend, nor weekdays from hours within a week."""
_BLOCK_ROWS = 25


@dataclass(frozen=True, slots=True)
class Cycle:
    """A day or a week: tested in blocks, and matched within ``reach_s`` of a window's own hours."""

    name: Literal["day", "week"]
    period_s: float
    block_s: float
    reach_s: float


DAY = Cycle("day", 86_400, 3 * 3600, 1.5 * 3600)
WEEK = Cycle("week", 7 * 86_400, 86_400, 12 * 3600)


def seconds_of(table: "pd.DataFrame") -> Seconds | None:
    """The times ``[rows]`` of a table since the epoch, NaN where a row has none; None where the table has no ``at``."""
    import pandas as pd

    if "at" not in table.columns:
        return None
    at = pd.to_datetime(
        table["at"], utc=True, errors="coerce", format="ISO8601"
    )  # with or without fractions of seconds
    return (at - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy().astype(np.float64)


def cycles_of(
    seconds: Seconds | None, all_watches: Sequence[Watch], bins: Mapping[str, Ints], users: Ints | None
) -> tuple[Cycle, ...]:
    """Which cycles show in a sample: whether any of its columns depends on the block of the day or on the weekday.

    Args:
        seconds: Of each row ``[rows]``.
        bins: Of each row, by watch.
        users: Of each row; of every user one row is looked at, since the rows of one user are not independent.
    """
    if seconds is None:
        return ()
    rows = np.flatnonzero(np.isfinite(seconds))
    if users is not None:
        rows = rows[np.unique(users[rows], return_index=True)[1]]
    if len(rows) < ENOUGH:
        return ()
    rows = rows[np.argsort(seconds[rows], kind="stable")]
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return tuple(
        cycle
        for cycle in (DAY, WEEK)
        if all(np.ptp(seconds[half]) >= _PERIODS * cycle.period_s for half in halves)
        and _shows([_p_values(cycle, seconds[half], all_watches, bins, half) for half in halves])
    )


def _shows(halves: Sequence[Mapping[str, float]]) -> bool:
    """Whether a test rejects in the older and in the newer half alike: a shift on one Sunday looks like a weekly cycle there,
    and there only. The square of the larger of two p-values is one again.
    """
    both = [max(halves[0][name], halves[1][name]) ** 2 for name in halves[0].keys() & halves[1].keys()]
    return bool(both) and min(both) * len(both) <= ALPHA


def _p_values(
    cycle: Cycle, seconds: Seconds, all_watches: Sequence[Watch], bins: Mapping[str, Ints], rows: Ints
) -> dict[str, float]:
    """Of each test of a dependence on the block of the cycle, by a name, over these rows."""
    blocks = (seconds % cycle.period_s // cycle.block_s).astype(np.int64)
    found: dict[str, float] = {}
    for watch in all_watches:
        size = len(watch.binning.labels)
        if watch.hit is not None and watch.hit > 1:
            continue  # its bins are another watch's
        cells = np.bincount(blocks * size + bins[watch.name][rows], minlength=(int(blocks.max()) + 1) * size)
        counts = cells.reshape(-1, size)
        counts = counts[counts.sum(axis=1) >= _BLOCK_ROWS]
        if len(counts) < 2:
            continue
        found[watch.name] = _independence(counts)
        if watch.kind == "number":
            found[f"{watch.name} ranks"] = _equal_ranks(counts[:, : size - 1])
    return found


def _independence(counts: NDArray[np.int64]) -> float:
    """Pearson's chi-square test of a table ``[blocks, bins]``; bins too rare for it are left out."""
    from scipy.special import chdtrc

    counts = counts[:, counts.sum(axis=0) >= 5 * len(counts)]
    if counts.shape[1] < 2:
        return 1.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    statistic = float((np.square(counts - expected) / np.maximum(expected, 1e-12)).sum())
    return float(chdtrc((len(counts) - 1) * (counts.shape[1] - 1), statistic))


def _equal_ranks(counts: NDArray[np.int64]) -> float:
    """The Kruskal-Wallis test of ordered bins ``[blocks, bins]``: far more sensitive to a mean that comes and goes."""
    from scipy.special import chdtrc

    total, rows = counts.sum(axis=0), counts.sum(axis=1)
    ranks = ridits(total, np.zeros_like(total))
    spread = float(total @ np.square(ranks - 0.5)) / max(int(total.sum()) - 1, 1)
    if spread <= 0 or (rows == 0).any():
        return 1.0
    means = counts @ ranks / rows
    return float(chdtrc(len(counts) - 1, float(rows @ np.square(means - 0.5)) / spread))


@dataclass(frozen=True, slots=True)
class Hours:
    """When a window lies within a cycle: from ``start_s`` after the cycle's beginning, for ``length_s``."""

    cycle: Cycle
    start_s: float
    length_s: float

    def rows_of(self, seconds: Seconds, users: Ints | None = None) -> NDArray[np.bool_] | None:
        """Which rows of a sample ``[rows]`` are of these hours, or as near to them as it takes to have ``ENOUGH``; None
        where there are not as many within the cycle's reach, or not of enough ``users [rows]``.
        """
        after = (seconds - self.start_s) % self.cycle.period_s
        away = np.where(after <= self.length_s, 0.0, np.minimum(after - self.length_s, self.cycle.period_s - after))
        away = np.where(np.isfinite(away), away, np.inf)
        if len(away) < ENOUGH:
            return None
        width = float(np.partition(away, ENOUGH - 1)[ENOUGH - 1])
        if width > self.cycle.reach_s:
            return None
        rows = away <= width
        few = users is not None and len(np.unique(users[rows])) < ENOUGH_USERS
        return None if few else rows


def hours_of(window: "pd.DataFrame", cycles: Sequence[Cycle]) -> tuple[Hours, ...]:
    """The hours of a window that a sample is to be cut down to, the best first; none where it covers a whole cycle.

    To the minute, so that windows of the same hours share what is calibrated for them.
    """
    seconds = seconds_of(window) if cycles else None
    if seconds is None or not np.isfinite(seconds).any():
        return ()
    start, length = float(np.nanmin(seconds)) // 60 * 60, -(-float(np.ptp(seconds[np.isfinite(seconds)])) // 60) * 60
    if DAY in cycles and WEEK in cycles:
        cycles = (Cycle("week", WEEK.period_s, WEEK.block_s, DAY.reach_s), DAY)
    return tuple(
        Hours(cycle, start % cycle.period_s, length) for cycle in cycles if length + 2 * cycle.reach_s < cycle.period_s
    )
