"""What both arms of many releases answer, look by look, as the sums that the judge's evidence is made of.

Errors are coins. Latencies are log-normal (median 5 ms, sigma 0.5: a p99 of 16 ms), times a factor for the candidate. Labels
come for every request, in pairs: residuals of stable and candidate share most of their noise, as those of two trainings on
nearly the same rows do. Sums over a look's labels are drawn from a pool of looks that were simulated row by row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from monitoring.canary.evidence import LATENCY_BOUNDS_US

_MEDIAN_US, _SIGMA = 5000.0, 0.5
_POOL = 4000
_OWN = 0.2
"""The standard deviation of what is a version's own in its residuals, where the shared part's is 1."""


@dataclass(frozen=True, slots=True)
class World:
    """One kind of release.

    ``errors`` are the rates of control and candidate, ``slower`` multiplies the candidate's latencies, ``rmse`` its RMSE;
    ``not_finite`` is the share of its answers that are NaN.
    """

    name: str
    errors: tuple[float, float] = (0.01, 0.01)
    slower: float = 1.0
    rmse: float = 1.0
    not_finite: float = 0.0


@dataclass(slots=True)
class Look:
    """What has come in so far: ``[releases]``, histograms ``[releases, buckets]``, and pairs ``[releases, 5]`` (losses of
    candidate and stable, and their three products).

    ``errors_now`` and the like are of this look alone, which is all that others' rules look at.
    """

    requests: int
    errors: NDArray[np.int64]
    histograms: NDArray[np.int64]
    not_finite: NDArray[np.int64]
    pairs: NDArray[np.float64]
    errors_now: NDArray[np.int64]
    histograms_now: NDArray[np.int64]
    pairs_now: NDArray[np.float64]


def looks(world: World, rng: np.random.Generator, *, releases: int, count: int, per_look: int) -> Iterator[Look]:
    """``count`` looks at ``releases`` of a kind, ``per_look`` requests of each arm from one to the next. Arrays of two arms
    have control first: ``errors [2, releases]``, ``histograms [2, releases, buckets]``.
    """
    pool, shares = _pool(world, rng, per_look), [_bucket_shares(1.0), _bucket_shares(world.slower)]
    buckets = len(LATENCY_BOUNDS_US) + 1
    errors, not_finite = np.zeros((2, releases), np.int64), np.zeros(releases, np.int64)
    histograms, pairs = np.zeros((2, releases, buckets), np.int64), np.zeros((releases, 5))
    for look in range(1, count + 1):
        errors_now = np.stack([rng.binomial(per_look, rate, releases) for rate in world.errors])
        histograms_now = np.stack(
            [rng.multinomial(per_look - failed, share) for failed, share in zip(errors_now, shares, strict=True)]
        )
        pairs_now = pool[rng.integers(0, len(pool), releases)]
        errors, histograms, pairs = errors + errors_now, histograms + histograms_now, pairs + pairs_now
        not_finite = not_finite + rng.binomial(per_look, world.not_finite, releases)
        yield Look(look * per_look, errors, histograms, not_finite, pairs, errors_now, histograms_now, pairs_now)


def _bucket_shares(slower: float) -> NDArray[np.float64]:
    below = ndtr(np.log(LATENCY_BOUNDS_US / (_MEDIAN_US * slower)) / _SIGMA)
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
