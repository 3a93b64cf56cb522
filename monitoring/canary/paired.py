"""What stable and candidate answered to the same requests, in shadow: their difference has a small variance, so that far
fewer labels tell which one is better, and how alike they are is known before any label.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PSI_BINS = 10
_RBO_PERSISTENCE = 0.9
"""Of rank-biased overlap: each next rank counts nine tenths of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedLosses:
    """Losses of both versions over the same labelled rows, in clusters (users).

    With ``C_u``, ``S_u`` the sums of a cluster's losses (candidate's, stable's) and ``n_u`` its rows, the six last are the
    sums over clusters of their products.
    """

    labelled: int = 0
    candidate_sum: float = 0.0
    control_sum: float = 0.0
    clusters: int = 0
    cc: float = 0.0
    cs: float = 0.0
    ss: float = 0.0
    cn: float = 0.0
    sn: float = 0.0
    nn: float = 0.0

    def excess(self, slack: Any) -> tuple[Any, Any]:
        """The mean of ``candidate - slack * stable`` and that mean's cluster-robust variance."""
        rows = max(self.labelled, 1)
        mean = (self.candidate_sum - slack * self.control_sum) / rows
        squares = self.cc - 2 * slack * self.cs + slack**2 * self.ss
        between = squares - 2 * mean * (self.cn - slack * self.sn) + mean**2 * self.nn
        return mean, np.maximum(between, 0.0) / rows**2 * self.clusters / max(self.clusters - 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedAuc:
    """Areas under the ROC curve on the same labelled rows, and the variance of their difference (DeLong et al. 1988)."""

    positives: int = 0
    negatives: int = 0
    control: float = 0.0
    candidate: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike the answers were; all zero where there are none."""

    rows: int = 0
    """Scored rows that both answered."""
    mean_delta: float = 0.0
    """Of candidate's score minus stable's."""
    mean_absolute_delta: float = 0.0
    psi: float = 0.0
    """Population stability index of the scores, over tenths of stable's."""
    lists: int = 0
    """Recommendations that both answered."""
    overlap: float = 0.0
    """The mean share of a list's items that are in the other."""
    rank_biased_overlap: float = 0.0
    """Webber, Moffat & Zobel (2010), truncated and normalised to 1 for equal lists."""


def pair_losses(candidate: Floats, control: Floats, clusters: NDArray[Any]) -> PairedLosses:
    """Sums over losses ``[rows]`` of the same rows."""
    if not len(control):
        return PairedLosses()
    _, position = np.unique(clusters, return_inverse=True)
    c, s = np.bincount(position, weights=candidate), np.bincount(position, weights=control)
    n = np.bincount(position).astype(np.float64)
    products = {
        name: float(a @ b) for name, a, b in zip(_PRODUCTS, (c, c, s, c, s, n), (c, s, s, n, n, n), strict=True)
    }
    return PairedLosses(
        labelled=len(control),
        candidate_sum=float(candidate.sum()),
        control_sum=float(control.sum()),
        clusters=len(n),
        **products,
    )


_PRODUCTS = ("cc", "cs", "ss", "cn", "sn", "nn")


def pair_auc(candidate: Floats, control: Floats, label: Floats) -> PairedAuc:
    """Both areas from scores ``[rows]`` and labels 0 or 1 ``[rows]``; zeros where one class is missing."""
    positive = label > 0.5
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        return PairedAuc(positives=m, negatives=n)
    v10, v01 = zip(*(_placements(scores, positive) for scores in (candidate, control)), strict=True)
    # Differences of the placement values: their variances add up to that of the difference of the areas.
    variance = np.var(v10[1] - v10[0], ddof=1) / m + np.var(v01[1] - v01[0], ddof=1) / n
    return PairedAuc(
        positives=m, negatives=n, candidate=float(v10[0].mean()), control=float(v10[1].mean()), variance=float(variance)
    )


def _placements(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, and for each negative that of positives above it; ties half."""
    from scipy.stats import rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    above = (ranks[positive] - rankdata(scores[positive])) / n
    below = 1.0 - (ranks[~positive] - rankdata(scores[~positive])) / m
    return above, below


def score_agreement(candidate: Floats, control: Floats) -> Agreement:
    """How alike scores ``[rows]`` are."""
    if not len(control):
        return Agreement()
    delta = candidate - control
    edges = np.quantile(control, np.linspace(0, 1, _PSI_BINS + 1)[1:-1])
    shares = [np.bincount(np.searchsorted(edges, side), minlength=_PSI_BINS) + 0.5 for side in (candidate, control)]
    after, before = (counts / counts.sum() for counts in shares)
    return Agreement(
        rows=len(control),
        mean_delta=float(delta.mean()),
        mean_absolute_delta=float(np.abs(delta).mean()),
        psi=float(((after - before) * np.log(after / before)).sum()),
    )


def list_agreement(one: list[Any], other: list[Any]) -> tuple[float, float]:
    """Overlap and rank-biased overlap of two ranked lists; both 1 where both are empty."""
    depth = max(len(one), len(other))
    if not depth:
        return 1.0, 1.0
    weights = _RBO_PERSISTENCE ** np.arange(depth)
    shared = np.array([len(set(one[: d + 1]) & set(other[: d + 1])) / (d + 1) for d in range(depth)])
    return len(set(one) & set(other)) / depth, float((weights * shared).sum() / weights.sum())
