"""How likely a distance is when nothing has changed: the null distribution of each statistic."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
"""Pairs of a reference and a window that the null distribution is fitted to."""

SMALLEST_P = 1e-300


def jensen_shannon(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """The Jensen-Shannon divergence in nats (Lin 1991) of histograms ``[..., bins]``: 0 when equal, log 2 at most."""
    p, q = (h / np.maximum(h.sum(axis=-1, keepdims=True), 1) for h in (p, q))
    middle = (p + q) / 2
    terms = [np.where(h > 0, h * np.log(np.divide(h, middle, out=np.ones_like(h), where=h > 0)), 0.0) for h in (p, q)]
    return np.maximum((terms[0] + terms[1]).sum(axis=-1) / 2, 0.0)


@dataclass(frozen=True, slots=True)
class GammaTail:
    """A gamma distribution fitted to a bootstrapped statistic, for tails that no bootstrap is long enough for.

    The divergence of two samples of one population is asymptotically a sum of squared normals, which a gamma with the
    same mean and variance follows far into its tail (Satterthwaite 1946).
    """

    shape: float
    scale: float

    def p_value(self, statistic: float) -> float:
        """The chance of a statistic this large or larger."""
        from scipy.special import gammaincc

        return max(float(gammaincc(self.shape, statistic / self.scale)), SMALLEST_P)

    def threshold(self, alpha: float) -> float:
        """The statistic whose p-value is ``alpha``."""
        from scipy.special import gammainccinv

        return float(gammainccinv(self.shape, alpha)) * self.scale


def fit_null(reference_counts: NDArray[Any], window_rows: int, *, seed: int) -> GammaTail:
    """Fit the null distribution of ``jensen_shannon`` between a reference and a window of ``window_rows``.

    Both are resampled, since a reference of a few thousand rows is itself only a sample. Bins that the reference lacks
    get half a row, or a single odd value would count as impossible.
    """
    rng = np.random.default_rng(seed)
    rows = int(reference_counts.sum())
    shares = (reference_counts + 0.5) / (rows + 0.5 * len(reference_counts))
    references = rng.multinomial(rows, shares, size=RESAMPLES)
    windows = rng.multinomial(window_rows, shares, size=RESAMPLES)
    statistics = jensen_shannon(references, windows)
    mean, variance = float(statistics.mean()), float(statistics.var())
    if variance <= 0:
        return GammaTail(shape=1.0, scale=1.0 / max(rows, window_rows))
    return GammaTail(shape=mean**2 / variance, scale=variance / mean)


def ridits(reference_counts: NDArray[Any], counts: NDArray[Any]) -> Floats:
    """A score for each ordered bin, its mid-rank among all rows (Bross 1958), 0 to 1; empty bins between others too."""
    pooled = (reference_counts + counts) / max(int(reference_counts.sum() + counts.sum()), 1)
    return pooled.cumsum() - pooled / 2


def shift(reference_counts: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float]:
    """Whether ordered bins have shifted as a whole: the Mann-Whitney test on them, as a test of mean ridits.

    Returns:
        The chance that a row of the window lies above one of the reference (0.5: no shift), and the two-sided p-value.
    """
    from scipy.special import erfc

    n0, n1 = int(reference_counts.sum()), int(counts.sum())
    if not n0 or not n1:
        return 0.5, 1.0
    pooled = (reference_counts + counts) / (n0 + n1)
    ranks = ridits(reference_counts, counts)
    spread = float((pooled * np.square(ranks - 0.5)).sum())
    if spread <= 0:
        return 0.5, 1.0
    difference = float((counts / n1 - reference_counts / n0) @ ranks)
    z = difference / math.sqrt(spread * (1 / n0 + 1 / n1))
    return 0.5 + difference, max(float(erfc(abs(z) / math.sqrt(2))), SMALLEST_P)


def rate_p_value(reference_hits: int, reference_rows: int, hits: int, rows: int) -> float:
    """Two-sided p-value of ``hits`` in ``rows`` given the reference's, from the beta-binomial predictive distribution.

    With Jeffreys' prior on the common rate: exact in small counts, and aware that the reference is a sample too.
    """
    below, above = _rate_tails(reference_hits, reference_rows, rows)
    return min(max(2 * float(min(below[hits], above[hits])), SMALLEST_P), 1.0)


@lru_cache(maxsize=64)
def _rate_tails(reference_hits: int, reference_rows: int, rows: int) -> tuple[Floats, Floats]:
    """The chance of at most, and of at least, ``[rows + 1]`` hits; a monitor asks for the same ones in every window."""
    from scipy.special import betaln, gammaln

    a, b = reference_hits + 0.5, reference_rows - reference_hits + 0.5
    k = np.arange(rows + 1)
    log_choose = gammaln(rows + 1) - gammaln(k + 1) - gammaln(rows - k + 1)
    mass = np.exp(log_choose + betaln(k + a, rows - k + b) - betaln(a, b))
    return mass.cumsum(), mass[::-1].cumsum()[::-1]


def holm(p_values: NDArray[Any], alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected with a family-wise error rate of ``alpha`` (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    passing = p_values[order] <= alpha / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passing)
    return rejected
