"""The rules of others, as their documentation gives them, on the same streams. None of them sees labels by itself; Kayenta is
given the mean loss as a metric of its own.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.canary.streams import Look
from monitoring.canary.evidence import LATENCY_BOUNDS_US

P99_LIMIT_US = 20_000.0
"""An absolute limit for the p99, as the threshold rules want one: a quarter above control's true one of 16 ms."""

ARGO_SUCCESS, ARGO_FAILURE_LIMIT = 0.95, 3
"""The analysis template of Argo Rollouts' documentation: success rate at least 0.95, more than 3 failed measurements abort."""

FLAGGER_SUCCESS, FLAGGER_THRESHOLD = 0.99, 5
"""The canary of Flagger's documentation: success rate at least 99%, the fifth failed check rolls back."""

KAYENTA_CONFIDENCE, KAYENTA_TOLERANCE = 0.98, 0.25
"""Kayenta's NetflixACA judge: Mann-Whitney with 98% confidence; a shift counts beyond a quarter of its estimate."""

KAYENTA_EVERY = 10
"""Looks from one of Kayenta's judgements to the next; each sees all looks until then, as points of a time series."""


def thresholds(
    stream: Iterator[Look], *, releases: int, per_look: int, success: float, failures: int
) -> NDArray[np.int64]:
    """At how many candidate requests each release was aborted (0: never): at the check that is failure number ``failures``.
    A check fails where this look's success rate or p99 is beyond its limit.
    """
    aborted, failed = np.zeros(releases, np.int64), np.zeros(releases, np.int64)
    for look in stream:
        bad = 1 - look.errors_now[1] / per_look < success
        failed += bad | (_p99(look.histograms_now[1]) > P99_LIMIT_US)
        aborted[(aborted == 0) & (failed >= failures)] = look.requests
    return aborted


def kayenta(stream: Iterator[Look], *, releases: int, per_look: int) -> NDArray[np.int64]:
    """As ``thresholds``: a release is aborted when one of its three metrics is High, so that less than 75 of 100 points
    remain.
    """
    aborted = np.zeros(releases, np.int64)
    series: list[NDArray[np.float64]] = []  # of each look: [metrics, arms, releases]
    for number, look in enumerate(stream, start=1):
        p99 = np.stack([_p99(histogram) for histogram in look.histograms_now])
        losses = look.pairs_now[:, [1, 0]].T / per_look
        series.append(np.stack([look.errors_now / per_look, p99, losses]))
        if number % KAYENTA_EVERY:
            continue
        high = _is_high(np.stack(series)).any(axis=0)
        aborted[(aborted == 0) & high] = look.requests
    return aborted


def _is_high(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the canary's points ``[looks, metrics, arms, releases]`` are above the baseline's: the lower end of the
    confidence interval of their Hodges-Lehmann shift is beyond the tolerance. ``[metrics, releases]``.
    """
    n = len(points)
    shifts = np.sort((points[:, None, :, 1] - points[None, :, :, 0]).reshape(n * n, *points.shape[1:2], -1), axis=0)
    deviation = np.sqrt(n * n * (2 * n + 1) / 12)
    low = int(max(np.floor(n * n / 2 - ndtri((1 + KAYENTA_CONFIDENCE) / 2) * deviation), 0))
    estimate = np.median(shifts, axis=0)
    return (estimate > 0) & (shifts[low] > KAYENTA_TOLERANCE * estimate)


def _p99(histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = histograms.sum(-1, keepdims=True)
    bucket = np.argmax(histograms.cumsum(-1) >= 0.99 * totals, axis=-1)
    return LATENCY_BOUNDS_US[np.minimum(bucket, len(LATENCY_BOUNDS_US) - 1)]
