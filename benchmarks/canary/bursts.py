"""Latencies of equal releases on a machine that is held up now and then, request by request.

Users ask 50 times in a row, one of control and one of the candidate in either order. Every five seconds on average everything
takes 5 to 20 times as long, for 50 to 500 ms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monitoring.canary.evidence import LATENCY_BOUNDS_US, RATIO_BOUNDS
from monitoring.canary.slices import slice_ratios

MEDIAN_US, SIGMA = 5000.0, 0.5

RUN = 50
"""Requests of a user in a row."""

RATE = 200.0
"""Requests a second."""

BURSTS_PER_S = 0.2
LASTS_S = (0.05, 0.5)
TIMES = (5.0, 20.0)

Buckets = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Of one look, the histograms of both arms ``[2, releases, buckets]`` and that of ratios ``[releases, buckets]``."""


def bursty_releases(rng: np.random.Generator, *, releases: int, count: int, per_look: int) -> Iterator[Buckets]:
    """``count`` looks at ``releases``.

    Raises:
        ValueError: A look would end within somebody's requests.
    """
    if per_look % RUN:
        raise ValueError(f"looks after {per_look} requests of each arm cut the {RUN} of a user apart")
    rows, widths = 2 * per_look * count, (len(LATENCY_BOUNDS_US) + 1, len(RATIO_BOUNDS) + 1)
    latencies = np.empty((2, releases, count * per_look), np.int16)
    slices = [np.empty((2, 0), np.int64)] * releases
    for release in range(releases):
        at_us, latency_us, is_candidate = _requests(rng, rows)
        buckets = np.searchsorted(LATENCY_BOUNDS_US, latency_us)
        latencies[:, release] = buckets[~is_candidate], buckets[is_candidate]
        ends, ratios = slice_ratios(at_us, latency_us, is_candidate)
        # A slice is closed by the first request after it.
        slices[release] = np.stack([ends // (2 * per_look), np.searchsorted(RATIO_BOUNDS, ratios)])
    number = np.repeat(np.arange(releases), [one.shape[1] for one in slices])
    look_of, ratio_of = np.concatenate(slices, axis=1)
    for look in range(count):
        now = latencies[:, :, look * per_look : (look + 1) * per_look]
        histograms = [_counted(arm, np.arange(releases)[:, None], releases, widths[0]) for arm in now]
        seen = look_of == look
        yield np.stack(histograms), _counted(ratio_of[seen], number[seen], releases, widths[1])


def _counted(buckets: NDArray[np.integer], release: NDArray[np.int64], releases: int, width: int) -> NDArray[np.int64]:
    return np.bincount((release * width + buckets).ravel(), minlength=releases * width).reshape(releases, width)


def _requests(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """One release: when each request was answered and how long that took, microseconds, and whether by the candidate."""
    seconds = np.cumsum(rng.exponential(1 / RATE, rows))
    first = rng.random((rows // (2 * RUN), 1)) < 0.5
    is_candidate = np.repeat(np.concatenate([first, ~first], axis=1).ravel(), RUN)
    begins = np.sort(rng.random(rng.poisson(BURSTS_PER_S * seconds[-1])) * seconds[-1])
    ends, times = begins + rng.uniform(*LASTS_S, len(begins)), rng.uniform(*TIMES, len(begins))
    # Behind a beginning before all, with which nothing is slower.
    last = np.searchsorted(begins, seconds)
    held_up = seconds < np.concatenate([[0.0], ends])[last]
    factor = np.where(held_up, np.concatenate([[1.0], times])[last], 1.0)
    latency_us = rng.lognormal(np.log(MEDIAN_US), SIGMA, rows) * factor
    return (seconds * 1e6).astype(np.int64), latency_us, is_candidate
