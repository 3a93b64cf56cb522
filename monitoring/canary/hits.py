"""Recommendations that were taken: feedback about a row of a list says that the user took its item."""

from typing import TYPE_CHECKING

import numpy as np

from driftwheel.contracts import Signature
from driftwheel.predictions import INPUT_PREFIX, OK
from driftwheel.settings import JudgeSettings
from monitoring.canary.check import MIN_CLUSTERS, Check, at_least, needed_alone
from monitoring.canary.evidence import Evidence
from monitoring.canary.sequential import Floats, log_e_mean
from monitoring.losses import LossSums, sum_losses

if TYPE_CHECKING:
    import pandas as pd

MIN_HITS = 50
"""Lists of both arms that were taken from, below which a mean of zeros and ones is not normal enough to test."""


def count_hits(rows: "pd.DataFrame", signature: Signature) -> LossSums:
    """1 for each list that something was taken from, 0 for the others, in clusters of users. Empty lists are left out."""
    items = [INPUT_PREFIX + spec.name for spec in signature.inputs if spec.role == "id"]
    if len(items) < 2 or signature.key_input is None:
        return LossSums()
    listed = rows[(rows["kind"] == "recommend") & (rows["code"] == OK) & rows[items[-1]].notna()]
    user = INPUT_PREFIX + signature.key_input
    lists = (
        listed.assign(taken=listed["label"].notna())
        .groupby("prediction_id", sort=False)
        .agg({"taken": "any", user: "first"})
    )
    clusters, _ = lists[user].factorize(use_na_sentinel=False)
    return sum_losses(lists["taken"].to_numpy(dtype=np.float64), clusters)


def hit_rate(evidence: Evidence, settings: JudgeSettings) -> Check:
    """The share of lists that something was taken from against ``1 - quality_margin`` times control's."""
    control, candidate = evidence.control.hits, evidence.candidate.hits
    lists, users = min(control.labelled, candidate.labelled), min(control.clusters, candidate.clusters)
    taken = round(control.loss_sum + candidate.loss_sum)
    waiting = lists < settings.min_labels or users < MIN_CLUSTERS or taken < MIN_HITS
    rates = [arm.mean if arm.labelled else None for arm in (control, candidate)]

    def log_e(margin: Floats) -> Floats:
        kept = 1.0 - np.minimum(np.asarray(margin), 1.0)
        variance = candidate.variance_of_mean + kept**2 * control.variance_of_mean
        return log_e_mean(kept * control.mean - candidate.mean, variance, control.labelled + candidate.labelled, users)

    return Check(
        name="hit rate",
        outcome="waiting" if waiting else "fine",
        unit="share of lists; difference as a share",
        control=rates[0],
        candidate=rates[1],
        difference=rates[1] / rates[0] - 1 if rates[0] and rates[1] is not None else None,
        limit=settings.quality_margin,
        at_least=0.0 if waiting else at_least(log_e, needed_alone("hit rate", settings)),
        log_e=None if waiting else float(log_e(np.asarray(settings.quality_margin))),
        detail=f"{candidate.loss_sum:.0f} of {candidate.labelled} lists were taken from, "
        f"control {control.loss_sum:.0f} of {control.labelled}",
    )
