"""What both versions answered to the same requests."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import named
from monitoring.canary.evidence import ArmEvidence, ShadowEvidence, decode_evidence, encode_evidence
from monitoring.canary.judge import judge
from monitoring.canary.paired import list_agreement, pair_auc, pair_losses, score_agreement

from .arms import ROLLOUT, evidence

SETTINGS = JudgeSettings()
ARM = ArmEvidence(requests=1000, fresh_requests=1000)


def residuals(rng, rows, *, own, worse_by=1.0):
    shared = rng.standard_normal(rows)
    mine = np.sqrt((1 + own**2) * worse_by**2 - 1)
    return np.square(shared + mine * rng.standard_normal(rows)), np.square(shared + own * rng.standard_normal(rows))


def verdict_on(shadow, rollout=ROLLOUT, task="rating"):
    seen = dataclasses.replace(evidence(ARM, ARM, rollout), shadow=shadow, task=task)
    assert decode_evidence(encode_evidence(seen)) == seen
    return judge(seen, rollout, SETTINGS)


def test_the_variance_of_a_paired_difference_is_what_simulation_says():
    rng = np.random.default_rng(0)
    means, estimates = [], []
    for _ in range(400):
        whose = np.repeat(np.arange(60), 5)
        stable = rng.normal(1, 1, 60)[whose] + rng.normal(0, 1, 300)
        candidate = stable + 0.2 * (rng.normal(0, 1, 60)[whose] + rng.normal(0, 1, 300))
        mean, variance = pair_losses(candidate, stable, whose).excess(1.0)
        means.append(mean)
        estimates.append(variance)
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.15)


def test_pairs_show_what_arms_apart_cannot():
    """RMSE 2% higher, within 10,000 labels that both answered."""
    rng = np.random.default_rng(1)
    candidate, stable = residuals(rng, 10_000, own=0.2, worse_by=1.02)
    found = verdict_on(ShadowEvidence(pairs=pair_losses(candidate, stable, np.arange(10_000))))
    assert found.decision == "ABORT"
    assert found.reasons[0].startswith("paired quality: 10000 labels")
    assert 0 < named(found.checks, "paired quality").at_least < 0.08


def test_equal_versions_in_shadow_hardly_ever_abort():
    rng = np.random.default_rng(2)
    aborted = 0
    for _ in range(60):
        candidate, stable = residuals(rng, 5000, own=0.2)
        for rows in (300, 1000, 5000):
            pairs = pair_losses(candidate[:rows], stable[:rows], np.arange(rows))
            aborted += verdict_on(ShadowEvidence(pairs=pairs)).decision == "ABORT"
    assert aborted <= 1


def test_areas_under_the_curve_are_those_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    label = (rng.random(500) < 0.3).astype(float)
    scores = [np.round(label + rng.normal(0, 1, 500), 1) for _ in range(2)]
    auc = pair_auc(scores[0], scores[1], label)
    assert auc.candidate == pytest.approx(roc_auc_score(label, scores[0]))
    assert auc.control == pytest.approx(roc_auc_score(label, scores[1]))


def test_the_variance_of_a_difference_of_areas_is_what_simulation_says():
    rng = np.random.default_rng(4)
    differences, variances = [], []
    for _ in range(300):
        label = (rng.random(400) < 0.3).astype(float)
        stable = label + rng.normal(0, 1, 400)
        auc = pair_auc(stable + rng.normal(0, 0.5, 400), stable, label)
        differences.append(auc.control - auc.candidate)
        variances.append(auc.variance)
    assert np.mean(variances) == pytest.approx(np.var(differences), rel=0.25)


def test_a_lost_area_aborts_a_churn_model():
    rng = np.random.default_rng(5)
    truth = 1.65 * rng.standard_normal(10_000) - 1.5
    label = (rng.random(10_000) < 1 / (1 + np.exp(-truth))).astype(float)
    stable, candidate = (truth + s * rng.standard_normal(10_000) for s in (0.5, 0.9))
    found = verdict_on(ShadowEvidence(auc=pair_auc(candidate, stable, label)), task="churn")
    assert found.reasons[0].startswith("paired AUC")
    assert verdict_on(ShadowEvidence(auc=pair_auc(stable, candidate, label)), task="churn").decision == "STEP"


@given(st.lists(st.integers(0, 30), unique=True, max_size=12), st.lists(st.integers(0, 30), unique=True, max_size=12))
def test_agreement_of_lists_is_symmetric_and_bounded(one, other):
    assert list_agreement(one, other) == pytest.approx(list_agreement(other, one))
    assert all(0 <= value <= 1 for value in list_agreement(one, other))
    assert list_agreement(one, one) == (1.0, pytest.approx(1.0))


def test_what_differs_at_the_top_weighs_more():
    top, bottom = list_agreement([1, 2, 3, 4], [9, 2, 3, 4]), list_agreement([1, 2, 3, 4], [1, 2, 3, 9])
    assert top[0] == bottom[0] == 0.75
    assert top[1] < bottom[1]


def test_agreement_of_scores():
    rng = np.random.default_rng(6)
    stable = rng.normal(3, 1, 5000)
    same, shifted = score_agreement(stable, stable), score_agreement(stable + 0.5, stable)
    assert (same.mean_delta, same.psi) == (0.0, 0.0)
    assert shifted.mean_absolute_delta == pytest.approx(0.5)
    assert shifted.psi > 0.2


IN_SHADOW = dataclasses.replace(ROLLOUT, steps=(0.0, 0.5, 1.0), weight=0.0, shadow=0.1)


@pytest.mark.parametrize(
    ("copies", "decision"),
    [
        ({"requests": 300}, "STEP"),
        ({"requests": 100}, "HOLD"),
        ({"requests": 100, "not_finite": 1}, "ABORT"),
        ({"requests": 100, "errors": 90}, "ABORT"),
        ({"requests": 100, "scored": 100, "lowest": 3.0, "highest": 3.0}, "ABORT"),
    ],
)
def test_shadow_has_its_minimum_sample_and_its_guards(copies, decision):
    candidate = ArmEvidence(fresh_requests=copies["requests"], **copies)
    control = ArmEvidence(requests=300, fresh_requests=300, scored=300, lowest=1.0, highest=5.0)
    nothing = ArmEvidence()
    seen = dataclasses.replace(
        evidence(nothing, nothing, IN_SHADOW), shadow=ShadowEvidence(candidate=candidate, control=control)
    )
    assert judge(seen, IN_SHADOW, SETTINGS).decision == decision
