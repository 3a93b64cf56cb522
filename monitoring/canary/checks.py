"""The rows of a verdict's table: hard guards, and the four sequential tests against their margins."""

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

GUARD_MARGIN = 0.2
"""A share of errors or of empty answers this much above control's aborts even below the minimum sample."""

MIN_EMPTY = 5
"""Empty answers of the candidate below which they are the callers' doing (who excluded all there is), whatever control's
share is."""

_TESTS = 4
"""Tests that share the chance of a false abort."""

_MARGINS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 80)])
"""Where ``at_least`` is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table.

    ``control``, ``candidate`` and ``difference`` are the estimates, None where there is nothing to estimate from.
    ``limit`` is what the difference may be, ``at_least`` what it is shown to be, with the judge's confidence, however
    often one looked (0: nothing shown). ``log_e`` is the evidence that the limit is exceeded and ``needed`` how much of
    it aborts; both None where nothing is tested.
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
    """The checks that abort at once, however little is known. They go on when the candidate has all traffic, against
    what control did before.
    """
    control, candidate = evidence.control, evidence.candidate_overall
    return (
        _not_finite(control, candidate, settings),
        _wide_guard("many errors", _errors_of(control), _errors_of(candidate), evidence, settings),
        _wide_guard(
            "many empty answers", _empty_of(control), _empty_of(candidate), evidence, settings, least=MIN_EMPTY
        ),
    )


@dataclass(frozen=True, slots=True)
class _Share:
    hits: int
    requests: int

    @property
    def rate(self) -> float | None:
        return self.hits / self.requests if self.requests else None


def _errors_of(arm: ArmEvidence) -> _Share:
    return _Share(arm.errors, arm.requests)


def _empty_of(arm: ArmEvidence) -> _Share:
    # Evidence from before ``recommends`` was counted has none.
    return _Share(arm.empty, max(arm.recommends, arm.empty))


def _log_e(control: _Share, candidate: _Share, margin: float) -> float:
    return float(log_e_errors(control.requests, control.hits, candidate.requests, candidate.hits, margin=margin))


def _not_finite(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    """The first answer that is no number aborts, unless control gives such answers too: then a higher share does."""
    before, after = (_Share(arm.not_finite, arm.requests) for arm in (control, candidate))
    more = _log_e(before, after, 0.0) >= _needed(settings, 1)
    return _guard("not finite", before.hits, after.hits, fails=after.hits > 0 and (before.hits == 0 or more))


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


def _wide_guard(
    name: str, control: _Share, candidate: _Share, evidence: Evidence, settings: JudgeSettings, *, least: int = 1
) -> Check:
    """A test of shares at a margin so wide that it needs no minimum sample. While there is a control it costs no alpha:
    whenever it speaks, the test at the narrow margin does too.
    """
    margin = max(GUARD_MARGIN, settings.error_margin)
    # A candidate that got all traffic at once is held against a control that never failed.
    known = _Share(0, candidate.requests) if evidence.weight >= 1 and not control.requests else control
    log_e, needed = _log_e(known, candidate, margin), _needed(settings, _TESTS)
    check = _guard(name, control.hits, candidate.hits, fails=candidate.hits >= least and log_e >= needed)
    return dataclasses.replace(check, limit=margin, log_e=log_e, needed=needed)


def soft_checks(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, ...]:
    """Errors, empty answers, latency and quality where both arms answered side by side, with the chance of a false abort
    shared among them by Holm (1979).

    One over an e-process is a p-value at any stopping time, which is all that Holm asks for.
    """
    checks = (
        _errors(evidence.control, evidence.candidate, settings),
        _empty(evidence.control, evidence.candidate, settings),
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


def _errors(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    waiting = min(control.requests, candidate.requests) < settings.min_requests
    check = _share_check("errors", _errors_of(control), _errors_of(candidate), "failed", settings)
    return dataclasses.replace(check, outcome="waiting" if waiting else "fine")


def _empty(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    """A few empty answers are the callers' doing. More are evidence, at any sample: the test is exact."""
    check = _share_check("empty answers", _empty_of(control), _empty_of(candidate), "were empty", settings)
    return check if candidate.empty >= MIN_EMPTY else dataclasses.replace(check, log_e=None, at_least=0.0)


def _share_check(name: str, control: _Share, candidate: _Share, what: str, settings: JudgeSettings) -> Check:
    counts = (control.requests, control.hits, candidate.requests, candidate.hits)
    return Check(
        name=name,
        outcome="fine",
        unit="share of requests",
        control=control.rate,
        candidate=candidate.rate,
        difference=_minus(candidate.rate, control.rate),
        limit=settings.error_margin,
        at_least=_at_least(lambda m: log_e_errors(*counts, margin=np.minimum(m, 1.0)), settings),
        log_e=_log_e(control, candidate, settings.error_margin),
        detail=f"{candidate.hits} of {candidate.requests} {what}, control {control.hits} of {control.requests}",
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
    shown = _MARGINS[log_e(_MARGINS) >= _needed(settings, _TESTS)]
    return float(shown.max()) if len(shown) else 0.0


def named(checks: Sequence[Check], name: str) -> Check:
    """The check of that name."""
    return next(check for check in checks if check.name == name)
