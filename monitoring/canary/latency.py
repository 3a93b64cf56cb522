"""The test of latencies: in how many slices of time the candidate was slower than it may be."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import Check, at_least, needed_alone
from monitoring.canary.evidence import LATENCY_BOUNDS_US, RATIO_BOUNDS, ArmEvidence, Evidence
from monitoring.canary.sequential import Floats, log_e_more_often

QUANTILE = 0.99
"""The latency quantile that is shown."""


def latency(evidence: Evidence, settings: JudgeSettings) -> Check:
    """How often the slowest requests of a slice took the candidate more than ``1 + latency_margin`` times as long as control.

    If it is as fast as it may be, that happens in every second slice at most, whatever held both arms up: a coin. Too few
    slices to tell are those that would show nothing if it happened in all of them.
    """
    ratios = np.asarray(evidence.latency_ratios or (0,), dtype=np.int64)
    slices, needed = int(ratios.sum()), needed_alone("latency", settings)
    p99 = [_quantile(arm) for arm in (evidence.control, evidence.candidate)]
    few = min(evidence.control.requests, evidence.candidate.requests) < settings.min_requests
    waiting = few or float(log_e_more_often(slices, slices, 0, margin=0.0)) < needed
    slower = int(slower_slices(ratios, settings.latency_margin))
    told = f"p99 {_ms(p99[1])}, control {_ms(p99[0])}; too slow in {slower} of {slices} slices of time"

    def log_e(margin: Floats) -> Floats:
        return log_e_latency(ratios, margin)

    return Check(
        name="latency",
        outcome="waiting" if waiting else "fine",
        unit="p99 in microseconds; difference as a share",
        control=p99[0],
        candidate=p99[1],
        difference=p99[1] / p99[0] - 1 if p99[0] and p99[1] else None,
        limit=settings.latency_margin,
        at_least=at_least(log_e, needed),
        log_e=float(log_e(np.asarray(settings.latency_margin))),
        detail=f"latencies of {slices} slices of time are too few to tell" if waiting else told,
    )


def log_e_latency(ratios: NDArray[Any], margin: ArrayLike) -> Floats:
    """Evidence that the candidate is slower than control by more than ``margin``.

    Args:
        ratios: Histograms ``[..., buckets]`` over ``RATIO_BOUNDS``.
        margin: A number; or an array, where there is one histogram.
    """
    slices, slower = ratios.sum(-1), slower_slices(ratios, margin)
    return log_e_more_often(slices, slower, slices - slower, margin=0.0)


def slower_slices(ratios: NDArray[Any], margin: ArrayLike) -> NDArray[Any]:
    """Slices with a ratio above ``1 + margin``, which is rounded up to the next bound."""
    above = np.concatenate([ratios[..., ::-1].cumsum(-1)[..., ::-1], np.zeros_like(ratios[..., :1])], axis=-1)
    bound = np.searchsorted(RATIO_BOUNDS, 1.0 + np.asarray(margin), side="left")
    return np.take(above, np.minimum(bound + 1, ratios.shape[-1]), axis=-1)


def _quantile(arm: ArmEvidence) -> float | None:
    """The upper bound of the bucket that the quantile lies in, microseconds."""
    if not (total := sum(arm.latency_counts)):
        return None
    bucket = int(np.searchsorted(np.cumsum(arm.latency_counts), QUANTILE * total))
    return float(LATENCY_BOUNDS_US[min(bucket, len(LATENCY_BOUNDS_US) - 1)])


def _ms(microseconds: float | None) -> str:
    return "unknown" if microseconds is None else f"{microseconds / 1000:.2f} ms"
