"""Tests that stay valid however often one looks, vectorised over rollouts.

Each returns the logarithm of an *e-process*: a number that starts at 1 and, if the candidate is no worse than allowed,
exceeds ``1 / alpha`` *at any time at all* with a chance of at most ``alpha`` (Ville's inequality). So a judge may look
after every request, and stop when it likes, without adding to its false alarms. See Howard, Ramdas, McAuliffe & Sekhon
(2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), and Waudby-Smith
& Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B 86(1).

Errors are taken as independent of each other. The quality test allows for clusters (one user's rows), and latencies are
compared by slices of time (``monitoring.canary.slices``).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_ERROR_PRIORS = ((0.5, 0.5), (0.5, 50.0))
"""Half the bets on an error rate are spread over all rates, half over small ones."""

_SHARES = ((0.575, 0.9), (0.75, 0.06), (0.9, 0.04))
"""Bets on the candidate's share of both arms' errors where half is expected, and how much is put on each. Most is on a
share that some hundred errors decide: half a point more errors than 1%, after 20,000 requests. More than that needs no
luck, and so less of the stake."""

_WAGERS = (0.2, 0.5, 0.8)
"""Of what may be staked on a single request, or slice, without ever losing all."""

_PRIOR_ROWS = 300.0
"""How wide the quality test's mixture is: it is sharpest at about 14 times as many labelled rows of both arms."""


def log_e_more_errors(control_n: ArrayLike, control_errors: ArrayLike, n: ArrayLike, errors: ArrayLike) -> Floats:
    """Evidence that the candidate's error rate is higher than control's at all. Arguments broadcast.

    Where the rates are equal, an error is the candidate's with the chance that a request is, whatever the rate: a coin
    whose bias is known, and no rate has to be estimated. The evidence is an even bet against that coin, a mixture of the
    bets in ``_SHARES`` (their odds carry over where the arms are not of one size).
    """
    n0, e0, n1, e1 = (
        np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(control_n, control_errors, n, errors)
    )
    expected = np.clip(n1 / np.maximum(n0 + n1, 1.0), 1e-9, 1 - 1e-9)[..., None]
    shares, stakes = np.asarray(_SHARES).T
    odds = shares / (1 - shares) * expected / (1 - expected)
    bets = odds / (1 + odds)
    log_ratios = e1[..., None] * np.log(bets / expected) + e0[..., None] * np.log((1 - bets) / (1 - expected))
    return np.logaddexp.reduce(log_ratios + np.log(stakes), axis=-1)


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


def log_e_more_often(requests: ArrayLike, more: ArrayLike, fewer: ArrayLike, *, margin: ArrayLike) -> Floats:
    """Evidence that, out of the same requests, the candidate has something more often than stable by over ``margin``.

    With ``d`` 1 where only the candidate has it (``more`` requests), -1 where only stable does (``fewer``) and 0 elsewhere:
    the wealth of gamblers who stake a fixed part of it on ``d - margin``, request after request (Waudby-Smith & Ramdas 2024).
    In which order they come makes no difference to it. The same goes for slices of time instead of requests. Arguments
    broadcast.
    """
    n, up, down, allowed = (
        np.asarray(v, dtype=np.float64)[..., None] for v in np.broadcast_arrays(requests, more, fewer, margin)
    )
    stake = np.asarray(_WAGERS) / (1.0 + allowed)
    wealth = (
        up * np.log1p(stake * (1.0 - allowed))
        + down * np.log1p(-stake * (1.0 + allowed))
        + (n - up - down) * np.log1p(-stake * allowed)
    )
    return np.logaddexp.reduce(wealth, axis=-1) - math.log(len(_WAGERS))


def _maximise(function: Any, low: Floats, high: Floats) -> Floats:
    """The maximum of a concave function between ``low`` and ``high``, elementwise, by ternary search."""
    low, high = np.minimum(low, high), np.maximum(low, high)
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        rising = function(left) < function(right)
        low, high = np.where(rising, left, low), np.where(rising, high, right)
    return function((low + high) / 2)


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
