"""A churn candidate in shadow: both versions score the same customers, and losses and areas under the curve are compared.

As in ``judging``, the evidence of all looks at a release is weighed at once, and the judge itself is asked wherever a test
could turn its verdict, and at a sample of all other looks: on the very evidence that it gets in service, which must be what was
weighed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.canary.judging import SETTINGS
from driftwheel.rollout import Rollout
from monitoring.canary.check import MIN_CLUSTERS, needed_alone
from monitoring.canary.evidence import ArmEvidence, Evidence, ShadowEvidence
from monitoring.canary.judge import Verdict, judge
from monitoring.canary.paired import PairedAuc, pair_auc, pair_losses
from monitoring.canary.sequential import log_e_mean

_ROLLOUT = Rollout(model="simulated", stable=1, candidate=2, weight=0.01, state="running")
_TRUTH, _STABLE, _EQUAL, _WORSE = 1.65, 0.5, 0.5, 0.775
"""Standard deviations: of the customers' log odds, and of what stable, an equal and a worse candidate add to them."""

_SAMPLE = 0.0005
"""The share of all other looks at which the judge is asked, too."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Release:
    """What both versions answered ``[rows]``, and what was true."""

    candidate: Floats
    stable: Floats
    label: Floats
    """0 or 1."""


@dataclass(slots=True)
class Outcome:
    """What came of the releases."""

    aborted_at: NDArray[np.int64]
    """Labelled predictions of each; 0: never aborted."""
    checks: list[str] = field(default_factory=list[str])
    """Which check aborted."""
    areas: list[float] = field(default_factory=list[float])
    """The area that each had lost in the end."""
    judged: int = 0
    """How often the judge itself was asked."""


def run(rng: np.random.Generator, *, worse: bool, releases: int, looks: int, per_look: int) -> Outcome:
    """Look at every release until it is aborted."""
    ends = np.arange(1, looks + 1) * per_look
    outcome = Outcome(np.zeros(releases, np.int64))
    for number in range(releases):
        release = draw(rng, looks * per_look, worse=worse)
        areas = list(paired_areas(release, ends))
        outcome.areas.append(areas[-1].control - areas[-1].candidate)
        suspicious = _auc_is_loud(areas) | _loss_is_loud(release, ends)
        for at in np.flatnonzero(suspicious | (rng.random(looks) < _SAMPLE)):
            verdict = _ask(release, int(ends[at]), areas[at])
            outcome.judged += 1
            if verdict.decision != "ABORT":
                continue
            if not suspicious[at]:
                raise AssertionError(f"the judge aborts where no test does: {verdict.summary}")
            outcome.aborted_at[number] = ends[at]
            outcome.checks.append(verdict.reasons[0].partition(":")[0])
            break
    return outcome


def draw(rng: np.random.Generator, rows: int, *, worse: bool) -> Release:
    """One release of so many labelled rows."""
    truth = _TRUTH * rng.standard_normal(rows) - 1.5
    label = (rng.random(rows) < expit(truth)).astype(np.float64)
    stable = expit(truth + _STABLE * rng.standard_normal(rows))
    candidate = expit(truth + (_WORSE if worse else _EQUAL) * rng.standard_normal(rows))
    return Release(candidate, stable, label)


def paired_areas(release: Release, ends: NDArray[np.int64]) -> Iterator[PairedAuc]:
    """What ``pair_auc`` makes of the first rows, for each of ``ends``. Scores are sorted once, and no two are equal."""
    positive = release.label > 0.5
    arms = zip(*(_placements(scores, positive, ends) for scores in (release.candidate, release.stable)), strict=True)
    for end, (candidate, control) in zip(ends, arms, strict=True):
        of, other = positive[:end], ~positive[:end]
        m, n = int(of.sum()), int(other.sum())
        difference = control - candidate
        variance = np.var(difference[of], ddof=1) / m + np.var(difference[other], ddof=1) / n
        yield PairedAuc(
            positives=m,
            negatives=n,
            candidate=float(candidate[of].mean()),
            control=float(control[of].mean()),
            variance=float(variance),
        )


def _placements(scores: Floats, positive: NDArray[np.bool_], ends: NDArray[np.int64]) -> Iterator[Floats]:
    """For each of the first rows: the share of the other class that is on the right side of it. ``[end]`` for each end."""
    order = np.argsort(scores)
    for end in ends:
        rows = order[order < end]
        of = positive[rows]
        negatives = np.cumsum(~of)
        positives = np.arange(1, end + 1) - negatives
        placed = np.empty(end)
        placed[rows] = np.where(of, negatives / negatives[-1], 1.0 - positives / positives[-1])
        yield placed


def _auc_is_loud(areas: list[PairedAuc]) -> NDArray[np.bool_]:
    """Where the test of areas may reject ``[looks]``."""
    m, n, lost, variance = np.array([(a.positives, a.negatives, a.control - a.candidate, a.variance) for a in areas]).T
    fewer = np.minimum(m, n)
    evidence = log_e_mean(lost - SETTINGS.auc_margin, variance, m + n, fewer)
    # Holm's first rejection takes as much as a test needs alone; the others come after it.
    return (m + n >= SETTINGS.min_labels) & (fewer >= MIN_CLUSTERS) & (evidence >= needed_alone("paired AUC", SETTINGS))


def _loss_is_loud(release: Release, ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where the test of Brier scores may reject ``[looks]``; each customer is asked about once."""
    losses = [np.square(scores - release.label) for scores in (release.candidate, release.stable)]
    excess = losses[0] - (1.0 + SETTINGS.quality_margin) * losses[1]
    mean = np.cumsum(excess)[ends - 1] / ends
    between = np.cumsum(np.square(excess))[ends - 1] - ends * mean**2
    evidence = log_e_mean(mean, np.maximum(between, 0.0) / ends / (ends - 1), ends, ends)
    return (ends >= SETTINGS.min_labels) & (evidence >= needed_alone("paired quality", SETTINGS))


def _ask(release: Release, end: int, weighed: PairedAuc) -> Verdict:
    candidate, stable, label = release.candidate[:end], release.stable[:end], release.label[:end]
    auc = pair_auc(candidate, stable, label)
    for name in ("positives", "negatives", "candidate", "control", "variance"):
        if not np.isclose(getattr(auc, name), getattr(weighed, name), rtol=1e-9, atol=0):
            raise AssertionError(f"the areas that were weighed are not the judge's: {weighed} for {auc}")
    pairs = pair_losses(np.square(candidate - label), np.square(stable - label), np.arange(end))
    arm = ArmEvidence(requests=end, fresh_requests=end)
    evidence = Evidence(
        model=_ROLLOUT.model,
        task="churn",
        stable_version=1,
        candidate_version=2,
        weight=_ROLLOUT.weight,
        step=0,
        since="",
        control=arm,
        candidate=arm,
        shadow=ShadowEvidence(pairs=pairs, auc=auc),
    )
    return judge(evidence, _ROLLOUT, SETTINGS)
