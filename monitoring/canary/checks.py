"""The sequential tests against their margins."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import MIN_CLUSTERS, STAKES, Check, at_least, needed_alone, soft_alpha
from monitoring.canary.evidence import ArmEvidence, Evidence
from monitoring.canary.hits import hit_rate
from monitoring.canary.latency import latency
from monitoring.canary.paired_checks import paired_checks
from monitoring.canary.sequential import Floats, log_e_errors, log_e_mean, log_e_more_errors
from monitoring.losses import loss_name

MIN_EMPTY = 5
"""Empty answers of the candidate below which they are the callers' doing (who excluded all there is), whatever control's
share is."""


@dataclass(frozen=True, slots=True)
class Share:
    hits: int
    requests: int

    @property
    def rate(self) -> float | None:
        return self.hits / self.requests if self.requests else None


def errors_of(arm: ArmEvidence) -> Share:
    return Share(arm.errors, arm.requests)


def empty_of(arm: ArmEvidence) -> Share:
    # Evidence from before ``recommends`` was counted has none.
    return Share(arm.empty, max(arm.recommends, arm.empty))


def log_e_share(control: Share, candidate: Share, margin: float) -> float:
    """Evidence that the candidate's share is higher by more than ``margin``."""
    counts = (control.requests, control.hits, candidate.requests, candidate.hits)
    return float(log_e_errors(*counts, margin=margin) if margin else log_e_more_errors(*counts))


def soft_checks(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, ...]:
    """Errors, empty answers, latency and quality where both arms answered side by side, and quality where both answered the
    same requests. The chance of a false abort is shared among them by Holm (1979) with the weights ``STAKES``: what a test
    that rejects had staked goes to the others.

    One over an e-process is a p-value at any stopping time, which is all that Holm asks for.
    """
    checks = (
        _errors(evidence, settings),
        _empty(evidence.control, evidence.candidate, settings),
        latency(evidence, settings),
        _quality(evidence, settings),
        *paired_checks(evidence, settings),
        hit_rate(evidence, settings),
    )
    ranked = sorted(checks, key=lambda check: -_strength(check) - math.log(STAKES[check.name]))
    left, rejecting = sum(STAKES[check.name] for check in checks), True
    decided: dict[str, Check] = {}
    for check in ranked:
        needed = math.log(left / (STAKES[check.name] * soft_alpha(settings)))
        rejecting = rejecting and _strength(check) >= needed
        decided[check.name] = _decided(check, needed=needed, worse=rejecting)
        left -= STAKES[check.name] if rejecting else 0.0
    return (*(decided[check.name] for check in checks), *_log_loss(evidence))


def _strength(check: Check) -> float:
    return -math.inf if check.log_e is None or check.outcome == "waiting" else check.log_e


def _decided(check: Check, *, needed: float, worse: bool) -> Check:
    if check.outcome == "waiting":
        return dataclasses.replace(check, needed=needed)
    return dataclasses.replace(check, needed=needed, outcome="worse" if worse else "fine")


def _errors(evidence: Evidence, settings: JudgeSettings) -> Check:
    """Copies count too: a candidate that fails on them has shown it before any caller had to see it."""
    copies, control = evidence.shadow.candidate, evidence.control_overall
    candidate = Share(evidence.candidate.errors + copies.errors, evidence.candidate.requests + copies.requests)
    waiting = min(control.requests, candidate.requests) < settings.min_requests
    check = _share_check("errors", errors_of(control), candidate, "failed", settings)
    return dataclasses.replace(check, outcome="waiting" if waiting else "fine")


def _empty(control: ArmEvidence, candidate: ArmEvidence, settings: JudgeSettings) -> Check:
    """A few empty answers are the callers' doing. More are evidence, at any sample: the test is exact."""
    check = _share_check("empty answers", empty_of(control), empty_of(candidate), "were empty", settings)
    return check if candidate.empty >= MIN_EMPTY else dataclasses.replace(check, log_e=None, at_least=0.0)


def _share_check(name: str, control: Share, candidate: Share, what: str, settings: JudgeSettings) -> Check:
    counts = (control.requests, control.hits, candidate.requests, candidate.hits)
    return Check(
        name=name,
        outcome="fine",
        unit="share of requests",
        control=control.rate,
        candidate=candidate.rate,
        difference=_minus(candidate.rate, control.rate),
        limit=settings.error_margin,
        at_least=at_least(lambda m: log_e_errors(*counts, margin=np.minimum(m, 1.0)), needed_alone(name, settings)),
        log_e=log_e_share(control, candidate, settings.error_margin),
        detail=f"{candidate.hits} of {candidate.requests} {what}, control {control.hits} of {control.requests}",
    )


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
        at_least=0.0 if waiting else at_least(log_e, needed_alone("quality", settings)),
        log_e=None if waiting else float(log_e(np.asarray(settings.quality_margin))),
        detail=f"not enough labels: {counts}" if waiting else counts,
    )


def _log_loss(evidence: Evidence) -> tuple[Check, ...]:
    """Shown of churn models, and never tested: a single confident mistake can be as much of it as all the rest."""
    if evidence.task != "churn":
        return ()
    before, after = evidence.control.log_loss, evidence.candidate.log_loss
    return (
        Check(
            name="log loss",
            outcome="waiting" if before is None or after is None else "fine",
            unit="mean log loss",
            control=before,
            candidate=after,
            difference=_minus(after, before),
            detail="shown only; the Brier score decides",
        ),
    )


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
