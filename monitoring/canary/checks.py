"""The rows of a verdict's table: hard guards, and the three sequential tests against their margins."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from driftwheel.settings import JudgeSettings
from monitoring.canary.evidence import LATENCY_BOUNDS_US, ArmEvidence, Evidence
from monitoring.canary.sequential import QUANTILE, Floats, log_e_errors, log_e_latency, log_e_mean
from monitoring.losses import loss_name

Outcome = Literal["fine", "worse", "waiting"]
"""``fine``: nothing was shown against the candidate. ``waiting``: too little is known to look."""

LATENCY_FLOOR_US = 1000.0
"""A candidate is never slower than allowed on account of a p99 below this times (1 + latency_margin)."""

MIN_CLUSTERS = 10
"""Users of each arm below which the spread between users, and so the quality test, means nothing."""

ERROR_GUARD_MARGIN = 0.2
"""An error rate this much above control's aborts even below the minimum sample."""

_MARGINS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 80)])
"""Where ``at_least`` is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table.

    ``control``, ``candidate`` and ``difference`` are the estimates, None where there is nothing to estimate from.
    ``limit`` is what the difference may be, ``at_least`` what it is shown to be, with the judge's confidence, however
    often one looked (0: nothing shown). ``log_e`` is the evidence that the limit is exceeded and ``needed`` how much of
    it aborts; both None for guards.
    """

    name: str
    outcome: Outcome
    unit: str
    control: float | None = None
    candidate: float | None = None
    difference: float | None = None
    limit: float = 0.0
    at_least: float = 0.0
    log_e: float | None = None
    needed: float | None = None
    detail: str


def guards(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, ...]:
    """The checks that abort at once, however little is known."""
    control, candidate = evidence.control, evidence.candidate
    return (
        _guard("not finite", control.not_finite, candidate.not_finite, fails=candidate.not_finite > 0),
        # Users who have seen everything get empty answers from any model.
        _guard("empty answers", control.empty, candidate.empty, fails=candidate.empty > 0 and control.empty == 0),
        _error_guard(control, candidate, settings),
    )


def _guard(name: str, control: int, candidate: int, *, fails: bool) -> Check:
    return Check(
        name=name,
        outcome="worse" if fails else "fine",
        unit="requests",
        control=control,
        candidate=candidate,
        difference=candidate - control,
        detail=f"{candidate} requests of the candidate, {control} of control",
    )


def _error_guard(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    """The test for errors at a margin so wide that it needs no minimum sample. It costs no alpha: whenever it speaks,
    the test at the narrow margin does too.
    """
    margin = max(ERROR_GUARD_MARGIN, settings.error_margin)
    evidence = _log_e_errors(control, candidate, margin)
    check = _guard("many errors", control.errors, candidate.errors, fails=evidence >= _needed(settings, 3))
    return dataclasses.replace(check, limit=margin, log_e=evidence, needed=_needed(settings, 3))


def soft_checks(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, ...]:
    """Errors, latency and quality, with the chance of a false abort shared among them by Holm (1979).

    One over an e-process is a p-value at any stopping time, which is all that Holm asks for.
    """
    checks = (
        _errors(evidence.control, evidence.candidate, settings),
        _latency(evidence.control, evidence.candidate, settings),
        _quality(evidence, settings),
    )
    ranked = sorted(range(len(checks)), key=lambda position: -_strength(checks[position]))
    outcomes = list(checks)
    rejecting = True
    for rank, position in enumerate(ranked):
        needed = _needed(settings, len(checks) - rank)
        rejecting = rejecting and _strength(checks[position]) >= needed
        outcomes[position] = _decided(checks[position], needed=needed, worse=rejecting)
    return tuple(outcomes)


def _strength(check: Check) -> float:
    return -math.inf if check.log_e is None or check.outcome == "waiting" else check.log_e


def _needed(settings: JudgeSettings, hypotheses: int) -> float:
    return math.log(hypotheses / settings.alpha)


def _decided(check: Check, *, needed: float, worse: bool) -> Check:
    if check.outcome == "waiting":
        return dataclasses.replace(check, needed=needed)
    return dataclasses.replace(check, needed=needed, outcome="worse" if worse else "fine")


def _log_e_errors(control: ArmEvidence, candidate: ArmEvidence, margin: float) -> float:
    return float(log_e_errors(control.requests, control.errors, candidate.requests, candidate.errors, margin=margin))


def _errors(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    counts = (control.requests, control.errors, candidate.requests, candidate.errors)
    rates = [arm.errors / arm.requests if arm.requests else None for arm in (control, candidate)]
    waiting = min(control.requests, candidate.requests) < settings.min_requests
    return Check(
        name="errors",
        outcome="waiting" if waiting else "fine",
        unit="share of requests",
        control=rates[0],
        candidate=rates[1],
        difference=_minus(rates[1], rates[0]),
        limit=settings.error_margin,
        at_least=_at_least(lambda m: log_e_errors(*counts, margin=np.minimum(m, 1.0)), settings),
        log_e=_log_e_errors(control, candidate, settings.error_margin),
        detail=f"{candidate.errors} of {candidate.requests} failed, control {control.errors} of {control.requests}",
    )


def _latency(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    before, after = (_histogram(arm) for arm in (control, candidate))
    p99 = [_quantile(histogram) for histogram in (before, after)]
    waiting = min(control.requests, candidate.requests) < settings.min_requests or None in p99

    def log_e(margin: Floats) -> Floats:
        return log_e_latency(before, after, LATENCY_BOUNDS_US, margin=margin, floor_us=LATENCY_FLOOR_US)

    return Check(
        name="latency",
        outcome="waiting" if waiting else "fine",
        unit="p99 in microseconds; difference as a share",
        control=p99[0],
        candidate=p99[1],
        difference=p99[1] / p99[0] - 1 if p99[0] and p99[1] else None,
        limit=settings.latency_margin,
        at_least=_at_least(log_e, settings),
        log_e=float(log_e(np.asarray(settings.latency_margin))),
        detail="no answers" if waiting else f"p99 {_ms(p99[1])}, control {_ms(p99[0])}",
    )


def _histogram(arm: ArmEvidence) -> np.ndarray:
    return np.asarray(arm.latency_counts or (0,) * (len(LATENCY_BOUNDS_US) + 1), dtype=np.int64)


def _quantile(histogram: np.ndarray) -> float | None:
    """The upper bound of the bucket that the quantile lies in, microseconds."""
    if not (total := histogram.sum()):
        return None
    bucket = int(np.searchsorted(histogram.cumsum(), QUANTILE * total))
    return float(LATENCY_BOUNDS_US[min(bucket, len(LATENCY_BOUNDS_US) - 1)])


def _ms(microseconds: float | None) -> str:
    return "unknown" if microseconds is None else f"{microseconds / 1000:.2f} ms"


def _quality(evidence: Evidence, settings: JudgeSettings) -> Check:
    """The mean loss against ``1 + quality_margin`` times control's."""
    control, candidate = evidence.control.losses, evidence.candidate.losses
    labelled, users = min(control.labelled, candidate.labelled), min(control.clusters, candidate.clusters)
    waiting = labelled < settings.min_labels or users < MIN_CLUSTERS
    name = loss_name(evidence.task)
    means = [arm.mean if arm.labelled else None for arm in (control, candidate)]

    def log_e(margin: Floats) -> Floats:
        slack = 1.0 + np.asarray(margin)
        variance = candidate.variance_of_mean + slack**2 * control.variance_of_mean
        return log_e_mean(candidate.mean - slack * control.mean, variance, control.labelled + candidate.labelled, users)

    counts = (
        f"{candidate.labelled} labels of {candidate.clusters} users, control {control.labelled} of {control.clusters}"
    )
    return Check(
        name="quality",
        outcome="waiting" if waiting else "fine",
        unit=f"mean {name}; difference as a share",
        control=means[0],
        candidate=means[1],
        difference=means[1] / means[0] - 1 if means[0] and means[1] is not None else None,
        limit=settings.quality_margin,
        at_least=0.0 if waiting else _at_least(log_e, settings),
        log_e=None if waiting else float(log_e(np.asarray(settings.quality_margin))),
        detail=f"not enough labels: {counts}" if waiting else counts,
    )


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _at_least(log_e: Callable[[Floats], Floats], settings: JudgeSettings) -> float:
    """The largest margin that the evidence speaks against as loudly as an abort by this check alone would need."""
    shown = _MARGINS[log_e(_MARGINS) >= _needed(settings, 3)]
    return float(shown.max()) if len(shown) else 0.0


def named(checks: Sequence[Check], name: str) -> Check:
    """The check of that name."""
    return next(check for check in checks if check.name == name)
