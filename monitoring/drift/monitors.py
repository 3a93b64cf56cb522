"""How one column of a window is compared with the reference's: histograms, and shares of rows."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.calibration import GammaTail, jensen_shannon, rate_p_value, ridits, shift
from monitoring.drift.clusters import ClusteredCounts, Ints, contrast_p_value, divergence_p_value, rate_contrast_p_value
from monitoring.drift.scores import Group, Kind, MonitorScore


class Monitor(Protocol):
    """Scores one column of a window."""

    @property
    def name(self) -> str:
        """Unique among a model's monitors."""
        ...

    def score(self, bins: Ints, clusters: Ints | None) -> MonitorScore | None:
        """How far this column of a window is from the reference's; None where neither could tell a difference at all.

        Args:
            bins: What its values count as ``[rows]``.
            clusters: The user of each row ``[rows]``, numbered from 0; None where rows are independent.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramMonitor:
    """The Jensen-Shannon divergence over bins; where bins have an order, also whether they shifted as a whole.

    A shift shows in the Mann-Whitney test long before it shows in a divergence that knows no order; the smaller of both
    p-values counts, doubled. Where rows come in clusters, a p-value is never smaller than clusters allow.
    """

    name: str
    column: str
    group: Group
    kind: Kind
    labels: tuple[str, ...]
    reference_counts: NDArray[np.int64]
    null: GammaTail
    clustered: ClusteredCounts | None = None
    """The reference's shares with users as the units."""
    ordered: int = 0
    """How many of the bins, from the first on, have an order."""

    def score(self, bins: Ints, clusters: Ints | None) -> MonitorScore:
        counts = np.bincount(bins, minlength=len(self.labels))
        now = None if clusters is None else ClusteredCounts.of(bins, clusters, size=len(counts))
        statistic = float(jensen_shannon(self.reference_counts, counts))
        p_value = self._p_divergence(statistic, now)
        if self.ordered:
            p_value = min(1.0, 2 * min(p_value, self._p_shift(counts, now)))
        return MonitorScore(
            monitor=self.name,
            column=self.column,
            group=self.group,
            kind=self.kind,
            statistic=statistic,
            p_value=p_value,
            why=self._why(counts),
        )

    def _p_divergence(self, statistic: float, now: ClusteredCounts | None) -> float:
        p_value = self.null.p_value(statistic)
        if self.clustered is None or now is None:
            return p_value
        return max(p_value, divergence_p_value(statistic, self.clustered, now))

    def _p_shift(self, counts: NDArray[np.int64], now: ClusteredCounts | None) -> float:
        before, after = self.reference_counts[: self.ordered], counts[: self.ordered]
        p_value = shift(before, after)[1]
        if self.clustered is None or now is None:
            return p_value
        scores = ridits(before, after)
        return max(p_value, contrast_p_value(scores, self.clustered.first(self.ordered), now.first(self.ordered)))

    def _why(self, counts: NDArray[np.int64]) -> str:
        before, now = (h / max(h.sum(), 1) for h in (self.reference_counts, counts))
        most = int(np.argmax(np.square(now - before) / np.maximum(now + before, 1e-12)))
        change = f"{self.labels[most]}: {before[most]:.1%} of rows before, {now[most]:.1%} now"
        above = shift(self.reference_counts[: self.ordered], counts[: self.ordered])[0]
        if abs(above - 0.5) < 0.01:
            return change
        return f"values are {'higher' if above > 0.5 else 'lower'} (in {max(above, 1 - above):.1%} of pairs); {change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateMonitor:
    """A share of rows, compared exactly; where rows come in clusters, never more surely than clusters allow.

    Where neither side has a hit there is nothing that could be rejected, and it takes no part in Holm's procedure (Tarone
    1990): else each column without missing values would make it harder for all others to alarm.
    """

    name: str
    column: str
    kind: Kind
    what: str
    hit: int
    """The bin whose share it is."""
    reference_hits: int
    reference_rows: int
    clustered: ClusteredCounts | None = None
    group: Group = "input"

    def score(self, bins: Ints, clusters: Ints | None) -> MonitorScore | None:
        found = (bins == self.hit).astype(np.int64)
        hits, rows = int(found.sum()), len(found)
        if not hits and not self.reference_hits:
            return None
        before, now = self.reference_hits / max(self.reference_rows, 1), hits / max(rows, 1)
        p_value = rate_p_value(self.reference_hits, self.reference_rows, hits, rows)
        if self.clustered is not None and clusters is not None:
            p_value = max(p_value, rate_contrast_p_value(self.clustered, rate_counts(found, clusters)))
        return MonitorScore(
            monitor=self.name,
            column=self.column,
            group=self.group,
            kind=self.kind,
            statistic=now - before,
            p_value=p_value,
            why=f"{self.what}: {before:.1%} of rows before, {now:.1%} now",
        )


def rate_counts(found: Ints, clusters: Ints) -> ClusteredCounts:
    """Shares of rows without and with a hit. A user with both answers is added to either sample, of an even row each:
    where all users agree, there would be no variance at all.
    """
    rows = np.concatenate([found, [0, 1]])
    last = int(clusters.max()) + 1 if len(clusters) else 0
    return ClusteredCounts.of(rows, np.concatenate([clusters, [last, last + 1]]), size=2)
