"""The tests on what stable and candidate answered to the same requests."""

import numpy as np

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import MIN_CLUSTERS, Check, at_least, needed_alone
from monitoring.canary.evidence import Evidence
from monitoring.canary.sequential import Floats, log_e_mean
from monitoring.losses import loss_name


def paired_checks(evidence: Evidence, settings: JudgeSettings) -> tuple[Check, Check]:
    """Mean loss and, for churn, area under the ROC curve."""
    return _paired_loss(evidence, settings), _paired_auc(evidence, settings)


def _paired_loss(evidence: Evidence, settings: JudgeSettings) -> Check:
    """The mean of ``candidate's loss - (1 + quality_margin) * stable's`` over the same rows, clustered by user."""
    pairs = evidence.shadow.pairs
    waiting = pairs.labelled < settings.min_labels or pairs.clusters < MIN_CLUSTERS
    means = [total / pairs.labelled if pairs.labelled else None for total in (pairs.control_sum, pairs.candidate_sum)]

    def log_e(margin: Floats) -> Floats:
        mean, variance = pairs.excess(1.0 + np.asarray(margin))
        return log_e_mean(mean, variance, pairs.labelled, pairs.clusters)

    return Check(
        name="paired quality",
        outcome="waiting" if waiting else "fine",
        unit=f"mean {loss_name(evidence.task)}; difference as a share",
        control=means[0],
        candidate=means[1],
        difference=means[1] / means[0] - 1 if means[0] and means[1] is not None else None,
        limit=settings.quality_margin,
        at_least=0.0 if waiting else at_least(log_e, needed_alone("paired quality", settings)),
        log_e=None if waiting else float(log_e(np.asarray(settings.quality_margin))),
        detail=f"{pairs.labelled} labels that both answered, of {pairs.clusters} users",
    )


def _paired_auc(evidence: Evidence, settings: JudgeSettings) -> Check:
    """How much area the candidate loses on the same rows, as DeLong et al. (1988) estimate it; rows are independent."""
    auc = evidence.shadow.auc
    labelled, fewer = auc.positives + auc.negatives, min(auc.positives, auc.negatives)
    waiting = labelled < settings.min_labels or fewer < MIN_CLUSTERS
    lost = auc.control - auc.candidate

    def log_e(margin: Floats) -> Floats:
        return log_e_mean(lost - np.asarray(margin), auc.variance, labelled, fewer)

    return Check(
        name="paired AUC",
        outcome="waiting" if waiting else "fine",
        unit="area under the ROC curve; difference is what is lost",
        control=None if waiting else auc.control,
        candidate=None if waiting else auc.candidate,
        difference=None if waiting else lost,
        limit=settings.auc_margin,
        at_least=0.0 if waiting else at_least(log_e, needed_alone("paired AUC", settings)),
        log_e=None if waiting else float(log_e(np.asarray(settings.auc_margin))),
        detail=f"{labelled} labels that both answered, {auc.positives} of them positive",
    )
