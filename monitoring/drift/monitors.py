"""The monitors of a model: what is compared between the reference and each window, column by column."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import InputSpec, Signature
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from monitoring.drift.calibration import GammaTail, fit_null, jensen_shannon, rate_p_value, ridits, shift
from monitoring.drift.clusters import ClusteredCounts, Ints, contrast_p_value, divergence_p_value
from monitoring.drift.columns import TOP, Binning, CategoryBins, PopularityBins, QuantileBins, indices
from monitoring.drift.reference import Reference
from monitoring.drift.scores import Group, Kind, MonitorScore

if TYPE_CHECKING:
    import pandas as pd


Units = Literal["users", "rows"]


class Monitor(Protocol):
    """Scores one column of a window."""

    @property
    def column(self) -> str:
        """The table column that it looks at."""
        ...

    def score(self, column: "pd.Series[Any]", clusters: Ints | None) -> MonitorScore:
        """How far this column of a window is from the reference's.

        Args:
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
    binning: Binning
    reference_counts: NDArray[np.int64]
    null: GammaTail
    clustered: ClusteredCounts | None = None
    """The reference's shares with users as the units."""
    ordered: int = 0
    """How many of the bins, from the first on, have an order."""

    def score(self, column: "pd.Series[Any]", clusters: Ints | None) -> MonitorScore:
        bins = self.binning.assign(column)
        counts = np.bincount(bins, minlength=len(self.binning.labels))
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
        change = f"{self.binning.labels[most]}: {before[most]:.1%} of rows before, {now[most]:.1%} now"
        above = shift(self.reference_counts[: self.ordered], counts[: self.ordered])[0]
        if abs(above - 0.5) < 0.01:
            return change
        return f"values are {'higher' if above > 0.5 else 'lower'} (in {max(above, 1 - above):.1%} of pairs); {change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateMonitor:
    """A share of rows, compared exactly; where rows come in clusters, never more surely than clusters allow."""

    name: str
    column: str
    kind: Kind
    what: str
    hits: Callable[["pd.Series[Any]"], NDArray[np.bool_]]
    reference_hits: int
    reference_rows: int
    clustered: ClusteredCounts | None = None
    group: Group = "input"

    def score(self, column: "pd.Series[Any]", clusters: Ints | None) -> MonitorScore:
        found = self.hits(column)
        hits, rows = int(found.sum()), len(found)
        before, now = self.reference_hits / max(self.reference_rows, 1), hits / max(rows, 1)
        p_value = rate_p_value(self.reference_hits, self.reference_rows, hits, rows)
        if self.clustered is not None and clusters is not None:
            users = _rate_counts(found, clusters)
            p_value = max(p_value, contrast_p_value(np.array([0.0, 1.0]), self.clustered, users))
        return MonitorScore(
            monitor=self.name,
            column=self.column,
            group=self.group,
            kind=self.kind,
            statistic=now - before,
            p_value=p_value,
            why=f"{self.what}: {before:.1%} of rows before, {now:.1%} now",
        )


def _rate_counts(found: NDArray[np.bool_], clusters: Ints) -> ClusteredCounts:
    """Shares of rows without and with a hit. A user with both answers is added to either sample, of an even row each:
    where all users agree, there would be no variance at all.
    """
    rows = np.concatenate([found.astype(np.int64), [0, 1]])
    last = int(clusters.max()) + 1 if len(clusters) else 0
    return ClusteredCounts.of(rows, np.concatenate([clusters, [last, last + 1]]), size=2)


def users_of(table: "pd.DataFrame", signature: Signature) -> Ints | None:
    """The user of each row ``[rows]``, numbered from 0; None where the signature has no key, or the table lacks it."""
    key = None if signature.key_input is None else INPUT_PREFIX + signature.key_input
    if key is None or key not in table.columns:
        return None
    return table[key].factorize(use_na_sentinel=False)[0].astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Calibration:
    """What every monitor is made with."""

    reference: Reference
    window_rows: int
    seed: int
    users: Ints | None

    def histogram(
        self, name: str, kind: Kind, rows: Ints, column: str, binning: Binning, *, group: Group = "input"
    ) -> HistogramMonitor:
        """A monitor of a column over these rows of the reference."""
        bins = binning.assign(self.reference.frame[column].iloc[rows])
        counts = np.bincount(bins, minlength=len(binning.labels))
        return HistogramMonitor(
            name=name,
            column=column,
            group=group,
            kind=kind,
            binning=binning,
            reference_counts=counts,
            null=fit_null(counts, self.window_rows, seed=self.seed),
            clustered=None
            if self.users is None
            else ClusteredCounts.of(bins, _renumbered(self.users[rows]), size=len(counts)),
            ordered=len(counts) - 1 if kind == "number" else 0,
        )

    def rate(
        self,
        name: str,
        kind: Kind,
        rows: Ints,
        column: str,
        *,
        what: str,
        hits: Callable[["pd.Series[Any]"], NDArray[np.bool_]],
    ) -> RateMonitor:
        """A monitor of a share over these rows of the reference."""
        found = hits(self.reference.frame[column].iloc[rows])
        return RateMonitor(
            name=name,
            column=column,
            kind=kind,
            what=what,
            hits=hits,
            reference_hits=int(found.sum()),
            reference_rows=len(found),
            clustered=None if self.users is None else _rate_counts(found, _renumbered(self.users[rows])),
        )


def _renumbered(clusters: Ints) -> Ints:
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def build_monitors(reference: Reference, *, window_rows: int, units: Units = "rows", seed: int) -> tuple[Monitor, ...]:
    """Every monitor of a model, calibrated for windows of ``window_rows`` rows.

    Args:
        units: What is independent of each other, users (where the signature has a key) or rows.
        seed: Splits the reference for ids, and resamples for the null distributions.
    """
    users = users_of(reference.frame, reference.signature) if units == "users" else None
    calibration = _Calibration(reference, window_rows, seed, users)
    monitors: list[Monitor] = []
    for spec in reference.signature.inputs:
        monitors.extend(_input_monitors(spec, calibration))
    for output in reference.signature.outputs:
        column = OUTPUT_PREFIX + output.name
        rows, bins = np.arange(len(reference.frame)), QuantileBins.of(reference.frame[column])
        name = f"prediction {output.name}"
        monitors.append(calibration.histogram(name, "number", rows, column, bins, group="prediction"))
    return tuple(monitors)


def _input_monitors(spec: InputSpec, calibration: _Calibration) -> list[Monitor]:
    column = INPUT_PREFIX + spec.name
    values = calibration.reference.frame[column]
    rows = np.arange(len(values))
    if spec.role == "id":
        return _id_monitors(spec, column, calibration)
    if spec.role == "number":
        return [calibration.histogram(spec.name, "number", rows, column, QuantileBins.of(values))]
    bins = CategoryBins.of(calibration.reference.vocabularies[spec.name])
    return [calibration.histogram(spec.name, "category", rows, column, bins)]


def _id_monitors(spec: InputSpec, column: str, calibration: _Calibration) -> list[Monitor]:
    """The share of unknown ids; popularity and the share of the most popular; never the ids themselves.

    Of the key (the users), only unknown ones: which users come is chance, not drift.
    """
    vocabulary = calibration.reference.vocabularies[spec.name]
    values = calibration.reference.frame[column]
    shuffled = np.random.default_rng(calibration.seed).permutation(len(values))
    defining, estimating = shuffled[: len(values) // 2], shuffled[len(values) // 2 :]
    everything = np.arange(len(values))
    unknown = calibration.rate(
        f"{spec.name} unknown",
        "unknown",
        everything,
        column,
        what="unknown ids",
        hits=lambda ids: indices(ids, vocabulary) < 0,
    )
    if spec.name == calibration.reference.signature.key_input:
        return [unknown]
    bins = PopularityBins.of(values.iloc[defining])
    popularity = calibration.histogram(f"{spec.name} popularity", "popularity", estimating, column, bins)
    what = f"the {TOP} most popular ids"
    top = calibration.rate(f"{spec.name} top {TOP}", "top", estimating, column, what=what, hits=bins.in_top)
    return [unknown, popularity, top]
