"""Recommendations that were taken, by arm; and the log loss of churn models, which is only shown."""

import dataclasses

import numpy as np
import pytest

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import named
from monitoring.canary.checks import soft_checks
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import decode_evidence, encode_evidence
from monitoring.canary.hits import hit_rate
from monitoring.canary.judge import judge
from monitoring.losses import LossSums, log_loss, sum_losses
from tests.monitoring.worlds import CHURN, RATING, log_rows, telco, write_feedback, write_sealed

from .arms import ROLLOUT, arm, evidence
from .test_evidence import requests

SETTINGS = JudgeSettings()


def taken(rng, lists, rate, users=200):
    """Lists of users who take more or less often, by ``rate`` on average."""
    whose = rng.integers(0, users, lists)
    likely = rate * rng.gamma(4, 0.25, users)[whose]
    return sum_losses((rng.random(lists) < likely).astype(float), whose)


def arms(control, candidate):
    rng = np.random.default_rng(0)
    return evidence(arm(rng, 500, labels=0, hits=control), arm(rng, 500, labels=0, hits=candidate))


def test_feedback_about_any_row_of_a_list_is_a_hit(tmp_path):
    lists = {"rows": 3, "kind": ["recommend"] * 300}
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 100, **lists))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 100, **lists))
    # Every list of the first 20 twice, and 30 more of control's; ratings do not matter.
    ids = [f"v{version}-{i}" for version in (1, 2) for i in range(20)] * 2 + [f"v1-{i}" for i in range(20, 50)]
    rows = [0] * 40 + [2] * 40 + [1] * 30
    write_feedback(tmp_path, "movies", ids, [1.0, 5.0] * 55, rows=rows)
    seen = collect_evidence(tmp_path, ROLLOUT, RATING, "rating")
    assert (seen.control.hits.labelled, seen.control.hits.loss_sum) == (100, 50)
    assert (seen.candidate.hits.labelled, seen.candidate.hits.loss_sum, seen.candidate.hits.clusters) == (100, 20, 40)
    assert decode_evidence(encode_evidence(seen)) == seen


def test_scored_requests_failures_and_empty_lists_are_no_lists(tmp_path):
    values = {
        "rows": 1,
        "kind": ["infer", "recommend", "recommend", "recommend"],
        "code": ["OK", "INTERNAL", "OK", "OK"],
        "item": [1, None, None, 7],
        "out": [3.0, None, None, 4.0],
    }
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 4, **values))
    assert collect_evidence(tmp_path, ROLLOUT, RATING, "rating").candidate.hits.labelled == 1


def test_lists_that_are_taken_less_often_abort():
    rng = np.random.default_rng(1)
    seen = arms(taken(rng, 8000, 0.10), taken(rng, 8000, 0.05))
    verdict = judge(seen, ROLLOUT, SETTINGS)
    assert (verdict.decision, verdict.reasons[0].startswith("hit rate: ")) == ("ABORT", True)
    check = named(verdict.checks, "hit rate")
    assert check.control == pytest.approx(0.10, abs=0.02)
    assert 0 < check.at_least < 0.6
    better = judge(arms(seen.candidate.hits, seen.control.hits), ROLLOUT, SETTINGS)
    assert named(better.checks, "hit rate").outcome == "fine"
    none = judge(arms(seen.control.hits, sum_losses(np.zeros(4000), np.arange(4000) % 200)), ROLLOUT, SETTINGS)
    assert none.decision == "ABORT"


@pytest.mark.parametrize(
    ("control", "candidate"),
    [
        (LossSums(), LossSums()),
        (taken(np.random.default_rng(2), 8000, 0.1), taken(np.random.default_rng(3), 150, 0.1)),
        (taken(np.random.default_rng(4), 3000, 0.005), taken(np.random.default_rng(5), 3000, 0.005)),
        (taken(np.random.default_rng(6), 8000, 0.1), taken(np.random.default_rng(7), 8000, 0.1, users=5)),
    ],
)
def test_too_few_lists_hits_or_users_are_waited_for(control, candidate):
    assert hit_rate(arms(control, candidate), SETTINGS).outcome == "waiting"


def test_equal_hit_rates_cross_no_more_often_than_promised():
    rng, crossed = np.random.default_rng(8), 0
    for _ in range(200):
        check = hit_rate(arms(taken(rng, 1500, 0.08), taken(rng, 1500, 0.08)), SETTINGS)
        crossed += check.log_e is not None and check.log_e >= -np.log(0.05)
    assert crossed <= 0.05 * 200


def test_log_loss_is_shown_of_churn_models_and_decides_nothing(tmp_path):
    table = telco().head(300)
    for version, name in ((1, "control"), (2, "candidate")):
        ids = [f"{name}{i}" for i in range(300)]
        wrong = table if version == 1 else table.assign(out_probability=1 - table["out_probability"])
        write_sealed(tmp_path, "churn", version, log_rows(wrong, CHURN, arm=[name] * 300, prediction_id=ids))
        stem = f"20260101T000000-1-{version}"
        write_feedback(tmp_path, "churn", ids, table["label"].tolist(), stem=stem)
    rollout = dataclasses.replace(ROLLOUT, model="churn")
    seen = collect_evidence(tmp_path, rollout, CHURN, "churn")
    p, y = table["out_probability"].to_numpy(np.float64), table["label"].to_numpy(np.float64)
    expected = float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
    check = named(soft_checks(seen, SETTINGS), "log loss")
    assert (check.control, check.outcome, check.log_e, check.needed) == (
        pytest.approx(expected, rel=1e-4),
        "fine",
        None,
        None,
    )
    assert check.candidate > 2 * check.control
    assert "log loss" not in {
        one.name
        for one in soft_checks(evidence(arm(np.random.default_rng(9), 9), arm(np.random.default_rng(9), 9)), SETTINGS)
    }


def test_the_log_loss_of_certainty_is_finite():
    assert log_loss(np.array([0.0, 1.0, 0.5]), np.array([1.0, 1.0, 0.0])) == pytest.approx(
        [16.6, 0.0, np.log(2)], abs=0.05
    )
