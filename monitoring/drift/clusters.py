"""Rows of one user are not independent: how much that widens the null distribution of each statistic.

A window of 2,000 ratings may come from 30 people. Tests that take its rows for independent ones alarm on every such
window, since 30 people are always different from the 30 before. What follows treats users as the units, after Rao &
Scott (1984), "On chi-squared tests for multiway contingency tables with cell proportions estimated from survey data",
Annals of Statistics 12(1), with the F reference of Thomas & Rao (1987) for few clusters.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.calibration import SMALLEST_P, Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClusteredCounts:
    """Shares of bins among the rows of a sample, and their cluster-robust covariance."""

    shares: Floats
    """``[bins]``."""
    covariance: Floats
    """Of ``shares``, ``[bins, bins]``."""
    clusters: int
    rows: int
    size: float
    """Rows of the cluster that a row at random is in, on average."""

    @classmethod
    def of(cls, bins: Ints, clusters: Ints, *, size: int) -> "ClusteredCounts":
        """From the bin and the cluster of each row, ``[rows]`` both, clusters numbered from 0; ``size`` bins in all."""
        groups = int(clusters.max()) + 1 if len(clusters) else 0
        counts = np.bincount(clusters * size + bins, minlength=groups * size).reshape(groups, size)
        rows = counts.sum(axis=1, keepdims=True)
        shares = counts.sum(axis=0) / max(len(bins), 1)
        residuals = (counts - rows * shares) / max(len(bins), 1)
        covariance = residuals.T @ residuals * groups / max(groups - 1, 1)
        return cls(shares, covariance, groups, len(bins), float(np.square(rows).sum()) / max(len(bins), 1))

    def first(self, bins: int) -> "ClusteredCounts":
        """The same of the first bins only, as shares of all rows."""
        return replace(self, shares=self.shares[:bins], covariance=self.covariance[:bins, :bins])


def divergence_p_value(statistic: float, before: ClusteredCounts, now: ClusteredCounts) -> float:
    """The chance of a Jensen-Shannon divergence this large between two samples of users.

    Near 0 the divergence is an eighth of a quadratic form of the shares' differences, so it follows an eighth of a
    weighted sum of chi-squares; their weights are the eigenvalues of the shares' covariance in that form.
    """
    middle = np.maximum((before.shares + now.shares) / 2, 1e-9)
    form = (before.covariance + now.covariance) / np.sqrt(np.outer(middle, middle))
    trace, squares = float(np.trace(form)), float(np.square(form).sum())
    if trace <= 0 or squares <= 0:
        return 1.0 if statistic <= 0 else SMALLEST_P
    freedom = trace**2 / squares
    spare = max(min(before.clusters, now.clusters) - 1, 1)
    return _f_tail(8 * statistic / trace, freedom, freedom * spare)


def contrast_p_value(scores: Floats, before: ClusteredCounts, now: ClusteredCounts) -> float:
    """Two-sided p-value of the difference in the mean of ``scores [bins]`` between two samples of users."""
    difference = float(scores @ (now.shares - before.shares))
    variances = [float(scores @ sample.covariance @ scores) for sample in (before, now)]
    return _welch(difference, variances, before, now)


def rate_contrast_p_value(before: ClusteredCounts, now: ClusteredCounts) -> float:
    """Two-sided p-value of the difference in a rate, the share of the second of two bins, between two samples of users.

    A sample in which a rare thing hardly happened shows hardly any variance, and would be sure of its low rate. So neither
    variance counts as less than a common rate has, with rows of one user as much alike as they are in ``before``.
    """
    rate = (before.shares[1] * before.rows + now.shares[1] * now.rows) / max(before.rows + now.rows, 1)
    own = float(before.shares[1] * (1 - before.shares[1])) / max(before.rows, 1)
    inflated = float(before.covariance[1, 1]) / own if own > 0 else 1.0
    # The intraclass correlation (Kish 1965): rows of one user add up to a variance of 1 + (size - 1) alike.
    alike = min(max((inflated - 1) / (before.size - 1), 0.0), 1.0) if before.size > 1 else 0.0
    variances = [
        max(float(one.covariance[1, 1]), float(rate * (1 - rate)) / max(one.rows, 1) * (1 + (one.size - 1) * alike))
        for one in (before, now)
    ]
    return _welch(float(now.shares[1] - before.shares[1]), variances, before, now)


def _welch(difference: float, variances: list[float], before: ClusteredCounts, now: ClusteredCounts) -> float:
    if sum(variances) <= 0:
        return 1.0 if not difference else SMALLEST_P
    # Welch (1947): the sample that the uncertainty comes from says how well it is known.
    known = sum(v**2 / max(sample.clusters - 1, 1) for v, sample in zip(variances, (before, now), strict=True))
    return _f_tail(difference**2 / sum(variances), 1.0, sum(variances) ** 2 / known)


def _f_tail(ratio: float, numerator: float, denominator: float) -> float:
    from scipy.special import betainc

    inside = denominator / (denominator + numerator * ratio)
    p_value = float(betainc(denominator / 2, numerator / 2, inside))
    return SMALLEST_P if math.isnan(p_value) else max(p_value, SMALLEST_P)
