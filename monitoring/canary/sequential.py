"""Tests that stay valid however often one looks, vectorised over rollouts.

Each returns the logarithm of an *e-process*: a number that starts at 1 and, if the candidate is no worse than allowed,
exceeds ``1 / alpha`` *at any time at all* with a chance of at most ``alpha`` (Ville's inequality). So a judge may look
after every request, and stop when it likes, without adding to its false alarms. See Howard, Ramdas, McAuliffe & Sekhon
(2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), and Waudby-Smith
& Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B 86(1).

Requests are taken as independent of each other; only the quality test allows for clusters (one user's rows).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

QUANTILE = 0.99
"""The latency quantile that is compared."""

_FEWER = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
_MORE = np.array([1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 25.0])
"""Bets on the share above a quantile, as multiples of what it must be (1 - QUANTILE)."""

_ERROR_PRIORS = ((0.5, 0.5), (0.5, 50.0))
"""Half the bets on an error rate are spread over all rates, half over small ones."""

_PRIOR_ROWS = 300.0
"""How wide the quality test's mixture is: it is sharpest at about 14 times as many labelled rows of both arms."""


def log_e_errors(
    control_n: ArrayLike, control_errors: ArrayLike, n: ArrayLike, errors: ArrayLike, *, margin: ArrayLike
) -> Floats:
    """Evidence that the candidate's error rate exceeds control's by more than ``margin``. Arguments broadcast.

    Beta-binomial mixtures (Howard et al. 2021, section 3) of both arms against the best explanation of the same counts
    that keeps within the margin (universal inference: Wasserman, Ramdas & Balakrishnan 2020). Exact at any count,
    zero errors included.
    """
    from scipy.special import betaln, xlog1py, xlogy

    n0, e0, n1, e1, allowed = (
        np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(control_n, control_errors, n, errors, margin)
    )

    def log_likelihood(p0: Floats, p1: Floats) -> Floats:
        return xlogy(e0, p0) + xlog1py(n0 - e0, -p0) + xlogy(e1, p1) + xlog1py(n1 - e1, -p1)

    rate0, rate1 = e0 / np.maximum(n0, 1), e1 / np.maximum(n1, 1)
    within = rate1 <= rate0 + allowed
    # Outside, the best explanation lies on the edge p1 = p0 + margin, between the two observed rates.
    edge = _maximise(lambda p: log_likelihood(p, np.minimum(p + allowed, 1.0)), rate0, np.maximum(rate1 - allowed, 0))
    best = np.where(within, log_likelihood(rate0, rate1), edge)
    mixtures = [
        np.logaddexp.reduce([betaln(e + a, n - e + b) - betaln(a, b) for a, b in _ERROR_PRIORS]) - math.log(2)
        for n, e in ((n0, e0), (n1, e1))
    ]
    return mixtures[0] + mixtures[1] - best


def _maximise(function: Any, low: Floats, high: Floats) -> Floats:
    """The maximum of a concave function between ``low`` and ``high``, elementwise, by ternary search."""
    low, high = np.minimum(low, high), np.maximum(low, high)
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        rising = function(left) < function(right)
        low, high = np.where(rising, left, low), np.where(rising, high, right)
    return function((low + high) / 2)


def log_e_latency(
    control_counts: NDArray[Any], counts: NDArray[Any], bounds_us: Floats, *, margin: ArrayLike, floor_us: float
) -> Floats:
    """Evidence that the candidate's p99 exceeds ``(1 + margin) * max(control's p99, floor_us)``.

    If control's true p99 were ``q``, then 1% of control's requests would lie at or above ``q`` and, if the candidate
    were no slower than allowed, at most 1% of its requests above ``(1 + margin) * q``: two bounded means that can be
    bet against (Howard & Ramdas 2022, "Sequential estimation of quantiles", Bernoulli 28(3), for a fixed quantile). The
    evidence is the product of both bets at the ``q`` that it speaks least against; buckets are read to the candidate's
    advantage.

    Args:
        control_counts: Histograms ``[..., buckets]`` over ``bounds_us``, the last bucket above them all.
        counts: The candidate's, likewise.
        margin: A number, or an array ``[...]``.
    """
    above_control, above = _above(control_counts), _above(counts)
    # Bucket i lies above bound i - 1; q may be anywhere in it, so control keeps the whole bucket.
    at_or_above = np.concatenate([control_counts.sum(-1, keepdims=True), above_control], -1)
    slack = 1.0 + np.asarray(margin, dtype=np.float64)[..., None]
    limits = slack * np.maximum(np.append(bounds_us, np.inf), floor_us)
    edge = np.searchsorted(bounds_us, limits, side="left")
    padded = np.concatenate([above, np.zeros_like(above[..., :1])], -1)
    exceeding = np.take_along_axis(*np.broadcast_arrays(padded, edge), axis=-1)
    few = _log_bet(at_or_above, control_counts.sum(-1, keepdims=True), _FEWER)
    many = _log_bet(exceeding, counts.sum(-1, keepdims=True), _MORE)
    return (few + many).min(axis=-1)


def _above(counts: NDArray[Any]) -> NDArray[Any]:
    """Observations above each bound: ``[..., buckets - 1]``."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]


def _log_bet(hits: NDArray[Any], n: NDArray[Any], multiples: Floats) -> Floats:
    """The log of an even mixture of likelihood ratios of ``hits`` in ``n`` against a share of ``1 - QUANTILE``."""
    share = 1.0 - QUANTILE
    log_ratios = hits[..., None] * np.log(multiples) + (n - hits)[..., None] * np.log(
        (1 - multiples * share) / (1 - share)
    )
    return np.logaddexp.reduce(log_ratios, axis=-1) - math.log(len(multiples))


def log_e_mean(excess: ArrayLike, variance: ArrayLike, rows: ArrayLike, clusters: ArrayLike) -> Floats:
    """Evidence that a mean is above 0, from its estimate, the estimate's variance and the rows behind it.

    ``clusters`` is how many users the variance was estimated from, of the arm with fewer: with few of them, an estimate
    counts as Student's t for as much as a normal one would.

    The one-sided normal mixture (Howard et al. 2021, proposition 6) with an estimated variance: an asymptotic confidence
    sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and asymptotic
    confidence sequences", Annals of Statistics 52(6)). Valid from a few hundred rows on; the judge waits for them.
    """
    from scipy.special import log_ndtr, ndtri, stdtr

    estimate, spread, n, groups = (
        np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(excess, variance, rows, clusters)
    )
    t = np.divide(estimate, np.sqrt(spread), out=np.zeros_like(estimate), where=spread > 0)
    # The lower tail keeps its digits where the upper one rounds to 1.
    z = -np.sign(t) * ndtri(np.maximum(stdtr(np.maximum(groups - 1, 1), -np.abs(t)), 1e-300))
    ratio = n / _PRIOR_ROWS
    shrink = ratio / (1.0 + ratio)
    return math.log(2) + log_ndtr(z * np.sqrt(shrink)) + 0.5 * z**2 * shrink - 0.5 * np.log1p(ratio)
