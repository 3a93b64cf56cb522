"""The real judge over simulated releases.

Its tests are functions of arrays, so the evidence of all releases is weighed at once; the judge itself is asked wherever one
of them, or a guard, could turn a verdict, and at a sample of all other looks, where it must agree that nothing did.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.canary.streams import Look
from driftwheel.rollout import Rollout
from driftwheel.settings import JudgeSettings
from monitoring.canary.check import needed_alone
from monitoring.canary.evidence import ArmEvidence, Evidence, ShadowEvidence
from monitoring.canary.judge import Verdict, judge
from monitoring.canary.latency import log_e_latency
from monitoring.canary.paired import PairedLosses
from monitoring.canary.sequential import log_e_mean, log_e_more_errors

SETTINGS = JudgeSettings()

_ROLLOUT = Rollout(
    model="simulated", stable=1, candidate=2, weight=0.01, state="running", started_at="2026-01-01T00:00:00Z"
)


@dataclass(slots=True)
class Outcome:
    """What came of ``releases``: at how many candidate requests each was aborted (0: never), and by which check."""

    aborted_at: NDArray[np.int64]
    checks: list[str]
    early_verdicts: int
    """Verdicts other than HOLD (or an abort by a guard) below the minimum sample."""
    judged: int
    """How often the judge itself was asked."""


def run(stream: Iterator[Look], *, releases: int, rng: np.random.Generator, sample: float = 0.0005) -> Outcome:
    """Look at every release until it is aborted."""
    outcome = Outcome(np.zeros(releases, np.int64), [], 0, 0)
    for look in stream:
        open_ = outcome.aborted_at == 0
        suspects = open_ & _suspicious(look)
        asked = suspects | (open_ & (rng.random(releases) < sample))
        for number in np.flatnonzero(asked):
            verdict = _ask(look, int(number))
            outcome.judged += 1
            if look.requests < SETTINGS.min_requests and verdict.decision not in ("HOLD", "ABORT"):
                outcome.early_verdicts += 1
            if verdict.decision != "ABORT":
                continue
            if not suspects[number]:
                raise AssertionError(f"the judge aborts where no test or guard does: {verdict.summary}")
            outcome.aborted_at[number] = look.requests
            outcome.checks.append(verdict.reasons[0].partition(":")[0])
            if look.requests < SETTINGS.min_requests and not look.not_finite[number]:
                outcome.early_verdicts += 1
    return outcome


def _suspicious(look: Look) -> NDArray[np.bool_]:
    """Where a test may reject, or a guard break."""
    n = look.requests
    e0, e1 = look.errors
    strengths = {
        "errors": log_e_more_errors(n, e0, n, e1),
        "latency": log_e_latency(look.ratios, SETTINGS.latency_margin),
        "paired quality": _paired(look),
    }
    # Holm's first rejection takes as much as a test needs alone; the others come after it.
    loud = np.any([strengths[name] >= needed_alone(name, SETTINGS) for name in strengths], axis=0)
    wide = (e1 - e0) > 0.15 * n
    return loud | wide | (look.not_finite > 0)


def _paired(look: Look) -> NDArray[np.float64]:
    n, slack = look.requests, 1 + SETTINGS.quality_margin
    c, s, cc, cs, ss = look.pairs.T
    mean = (c - slack * s) / n
    squares = cc - 2 * slack * cs + slack**2 * ss
    variance = np.maximum(squares - n * mean**2, 0) / n / max(n - 1, 1)
    return log_e_mean(mean, variance, n, n) if n >= SETTINGS.min_labels else np.full(len(c), -np.inf)


def _ask(look: Look, number: int) -> Verdict:
    n = look.requests
    arms = [
        ArmEvidence(
            requests=n,
            fresh_requests=n,
            errors=int(look.errors[arm, number]),
            latency_counts=tuple(look.histograms[arm, number].tolist()),
        )
        for arm in (0, 1)
    ]
    candidate = dataclasses.replace(arms[1], not_finite=int(look.not_finite[number]))
    c, s, cc, cs, ss = look.pairs[number]
    pairs = PairedLosses(labelled=n, candidate_sum=c, control_sum=s, clusters=n, cc=cc, cs=cs, ss=ss, cn=c, sn=s, nn=n)
    evidence = Evidence(
        model=_ROLLOUT.model,
        task="rating",
        stable_version=1,
        candidate_version=2,
        weight=_ROLLOUT.weight,
        step=0,
        since=_ROLLOUT.started_at,
        control=arms[0],
        candidate=candidate,
        shadow=ShadowEvidence(pairs=pairs),
        latency_ratios=tuple(look.ratios[number].tolist()),
    )
    return judge(evidence, _ROLLOUT, SETTINGS)
