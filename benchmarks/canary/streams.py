"""What both arms of many releases answer, look by look, as the sums that the judge's evidence is made of.

Errors are coins. Latencies are log-normal (median 5 ms, sigma 0.5: a p99 of 16 ms), times a factor for the candidate. Of a
slice of time only the latency that is compared is drawn, as the order statistic that it is; where there are bursts, every
request is. Labels come for every request, in pairs: residuals of stable and candidate share most of their noise, as those of
two trainings on nearly the same rows do. Sums over a look's labels are drawn from a pool of looks that were simulated row by
row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmarks.canary.bursts import MEDIAN_US, SIGMA, Buckets, bursty_releases
from monitoring.canary.evidence import LATENCY_BOUNDS_US, RATIO_BOUNDS
from monitoring.canary.slices import ONE_IN, SLICE_REQUESTS

_POOL = 4000
_OWN = 0.2
"""The standard deviation of what is a version's own in its residuals, where the shared part's is 1."""


@dataclass(frozen=True, slots=True)
class World:
    """One kind of release.

    ``errors`` are the rates of control and candidate, ``slower`` multiplies the candidate's latencies, ``rmse`` its RMSE;
    ``not_finite`` is the share of its answers that are NaN. ``per_slice`` is how many requests each arm gets in a slice of
    time. With ``bursts`` the machine is held up now and then, while users ask much at a time.
    """

    name: str
    errors: tuple[float, float] = (0.01, 0.01)
    slower: float = 1.0
    rmse: float = 1.0
    not_finite: float = 0.0
    per_slice: int = SLICE_REQUESTS
    bursts: bool = False


@dataclass(slots=True)
class Look:
    """What has come in so far: ``[releases]``, histograms and ratios ``[releases, buckets]``, and pairs ``[releases, 5]``
    (losses of candidate and stable, and their three products).

    ``errors_now`` and the like are of this look alone, which is all that others' rules look at.
    """

    requests: int
    errors: NDArray[np.int64]
    histograms: NDArray[np.int64]
    ratios: NDArray[np.int64]
    not_finite: NDArray[np.int64]
    pairs: NDArray[np.float64]
    errors_now: NDArray[np.int64]
    histograms_now: NDArray[np.int64]
    pairs_now: NDArray[np.float64]


def looks(world: World, rng: np.random.Generator, *, releases: int, count: int, per_look: int) -> Iterator[Look]:
    """``count`` looks at ``releases`` of a kind, ``per_look`` requests of each arm from one to the next. Arrays of two arms
    have control first: ``errors [2, releases]``, ``histograms [2, releases, buckets]``.
    """
    pool, latencies = _pool(world, rng, per_look), _latencies(world, rng, releases, count, per_look)
    buckets = len(LATENCY_BOUNDS_US) + 1
    errors, not_finite = np.zeros((2, releases), np.int64), np.zeros(releases, np.int64)
    histograms, pairs = np.zeros((2, releases, buckets), np.int64), np.zeros((releases, 5))
    ratios = np.zeros((releases, len(RATIO_BOUNDS) + 1), np.int64)
    for look, (histograms_now, ratios_now) in enumerate(latencies, start=1):
        errors_now = np.stack([rng.binomial(per_look, rate, releases) for rate in world.errors])
        pairs_now = pool[rng.integers(0, len(pool), releases)]
        errors, histograms, pairs = errors + errors_now, histograms + histograms_now, pairs + pairs_now
        not_finite, ratios = not_finite + rng.binomial(per_look, world.not_finite, releases), ratios + ratios_now
        yield Look(
            look * per_look, errors, histograms, ratios, not_finite, pairs, errors_now, histograms_now, pairs_now
        )


def _latencies(world: World, rng: np.random.Generator, releases: int, count: int, per_look: int) -> Iterator[Buckets]:
    """Of each look the histograms of both arms ``[2, releases, buckets]`` and that of ratios ``[releases, buckets]``."""
    if world.bursts:
        yield from bursty_releases(rng, releases=releases, count=count, per_look=per_look)
        return
    shares, slower = [_bucket_shares(1.0), _bucket_shares(world.slower)], np.array([1.0, world.slower])
    # Of many requests, the latency that one in so many reaches.
    reached = -(-world.per_slice // ONE_IN)
    for look in range(1, count + 1):
        slices = look * per_look // world.per_slice - (look - 1) * per_look // world.per_slice
        below = rng.beta(world.per_slice - reached + 1, reached, (slices, releases, 2))
        control, candidate = np.moveaxis(slower * MEDIAN_US * np.exp(SIGMA * ndtri(below)), -1, 0)
        histograms = np.stack([rng.multinomial(per_look, share, releases) for share in shares])
        yield histograms, _counted(np.searchsorted(RATIO_BOUNDS, candidate / control), releases)


def _counted(buckets: NDArray[np.int64], releases: int) -> NDArray[np.int64]:
    """Histograms ``[releases, buckets]`` of ratios ``[slices, releases]``."""
    width = len(RATIO_BOUNDS) + 1
    flat = (np.arange(releases) * width + buckets).ravel()
    return np.bincount(flat, minlength=releases * width).reshape(releases, width)


def _bucket_shares(slower: float) -> NDArray[np.float64]:
    below = ndtr(np.log(LATENCY_BOUNDS_US / (MEDIAN_US * slower)) / SIGMA)
    return np.diff(below, prepend=0.0, append=1.0)


def _pool(world: World, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Looks ``[pool, 5]`` of ``rows`` labelled rows."""
    found = np.empty((_POOL, 5))
    own = np.sqrt((1 + _OWN**2) * world.rmse**2 - 1)
    for number in range(_POOL):
        shared = rng.standard_normal(rows)
        stable = np.square(shared + _OWN * rng.standard_normal(rows))
        candidate = np.square(shared + own * rng.standard_normal(rows))
        found[number] = (
            candidate.sum(),
            stable.sum(),
            candidate @ candidate,
            candidate @ stable,
            stable @ stable,
        )
    return found
