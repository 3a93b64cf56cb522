import math

import pytest

from training.gate import GateBounds, decide


@pytest.mark.parametrize(
    ("task", "candidate", "champion", "passed"),
    [
        ("rating", {"rmse": 1.0}, None, True),
        ("rating", {"rmse": 1.2}, None, False),
        ("rating", {"rmse": 1.0}, {"rmse": 1.05}, True),
        ("rating", {"rmse": 1.0}, {"rmse": 1.0}, True),
        ("rating", {"rmse": 1.0015}, {"rmse": 1.0}, True),
        ("rating", {"rmse": 1.003}, {"rmse": 1.0}, False),
        ("rating", {"rmse": 1.2}, {"rmse": 1.5}, False),
        ("rating", {}, None, False),
        ("rating", {"rmse": math.nan}, None, False),
        ("rating", {"rmse": 1.0}, {"rmse": math.nan}, True),
        ("churn", {"auc": 0.85}, None, True),
        ("churn", {"auc": 0.79}, None, False),
        ("churn", {"auc": 0.85}, {"auc": 0.84}, True),
        ("churn", {"auc": 0.839}, {"auc": 0.84}, True),
        ("churn", {"auc": 0.83}, {"auc": 0.84}, False),
        ("churn", {"auc": 0.85}, {}, True),
        ("churn", {"log_loss": 0.4}, None, False),
    ],
)
def test_truth_table(task, candidate, champion, passed):
    verdict = decide(task, candidate, champion)
    assert verdict.passed is passed
    assert verdict.reasons
    assert decide(task, candidate, champion) == verdict


@pytest.mark.parametrize(("found", "passed"), [(0.0, False), (0.0005, False), (0.02, True)])
def test_what_ranks_must_find_something(found: float, passed):
    verdict = decide("rating", {"rmse": 0.9, "ndcg_at_10": found}, None, ranks=True)
    assert verdict.passed is passed
    assert f"ndcg_at_10 {found:.4f}" in verdict.reasons[0]


def test_reasons_say_what_was_compared():
    verdict = decide("rating", {"rmse": 1.01}, {"rmse": 1.0}, GateBounds(max_rmse=1.02))
    assert verdict.reasons == (
        "rmse 1.0100 is no worse than its bound 1.0200",
        "rmse 1.0100 is worse than the champion's 1.0000 by more than 0.002",
    )
