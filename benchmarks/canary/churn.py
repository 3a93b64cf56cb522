"""A churn candidate in shadow: both versions score the same customers, and the real judge looks at the area under the curve."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.canary.judging import SETTINGS
from driftwheel.rollout import Rollout
from monitoring.canary.evidence import ArmEvidence, Evidence, ShadowEvidence
from monitoring.canary.judge import judge
from monitoring.canary.paired import PairedAuc, pair_auc, pair_losses

_ROLLOUT = Rollout(model="simulated", stable=1, candidate=2, weight=0.01, state="running")
_TRUTH, _STABLE, _EQUAL, _WORSE = 1.65, 0.5, 0.5, 0.775
"""Standard deviations: of the customers' log odds, and of what stable, an equal and a worse candidate add to them."""


def run(
    rng: np.random.Generator, *, worse: bool, releases: int, looks: int, per_look: int
) -> tuple[NDArray[np.int64], float]:
    """At how many labelled predictions each release was aborted (0: never), and the mean area lost in the end."""
    aborted, lost = np.zeros(releases, np.int64), []
    for release in range(releases):
        rows = looks * per_look
        truth = _TRUTH * rng.standard_normal(rows) - 1.5
        label = (rng.random(rows) < expit(truth)).astype(np.float64)
        stable = expit(truth + _STABLE * rng.standard_normal(rows))
        candidate = expit(truth + (_WORSE if worse else _EQUAL) * rng.standard_normal(rows))
        for end in range(per_look, rows + 1, per_look):
            auc = pair_auc(candidate[:end], stable[:end], label[:end])
            if _aborts(auc, candidate[:end], stable[:end], label[:end]):
                aborted[release] = end
                break
        auc = pair_auc(candidate, stable, label)
        lost.append(auc.control - auc.candidate)
    return aborted, float(np.mean(lost))


def _aborts(
    auc: PairedAuc, candidate: NDArray[np.float64], stable: NDArray[np.float64], label: NDArray[np.float64]
) -> bool:
    pairs = pair_losses(np.square(candidate - label), np.square(stable - label), np.arange(len(label)))
    arm = ArmEvidence(requests=len(label), fresh_requests=len(label))
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
    return judge(evidence, _ROLLOUT, SETTINGS).decision == "ABORT"
