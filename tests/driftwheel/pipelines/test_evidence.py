"""What a run shows, beside what scikit-learn says of the same scores."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from driftwheel.pipelines.evidence import evaluation_page, gate_page, question, roc_curve
from driftwheel.pipelines.steps import Evaluation
from training.answers import Answers
from training.data.dataset import Dataset
from training.gate import GateVerdict
from training.metrics import churn_metrics, roc_auc

RNG = np.random.default_rng(7)
ACTUAL = (RNG.random(4000) < 0.3).astype(np.float32)
SCORE = np.clip(0.3 * ACTUAL + RNG.random(4000), 0, 1).astype(np.float32)


def answers(dataset: Dataset, predicted: np.ndarray, actual: np.ndarray) -> Answers:
    return Answers(dataset.signature, {}, predicted, actual, None)


def test_the_curve_is_scikit_learns_at_fewer_points() -> None:
    curve = roc_curve(SCORE, ACTUAL == 1)
    false, true, threshold = sklearn_metrics.roc_curve(ACTUAL, SCORE, drop_intermediate=False)
    whole = {float(t): (f, h) for f, h, t in zip(false, true, threshold, strict=True)}
    assert len(curve.threshold) == 100
    points = zip(curve.false_positive_rate, curve.true_positive_rate, curve.threshold, strict=True)
    for f, h, t in list(points)[1:]:
        assert (f, h) == pytest.approx(whole[t])
    area = float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))
    assert area == pytest.approx(roc_auc(SCORE, ACTUAL), abs=2e-3)


def test_a_curve_begins_with_nobody_and_ends_with_all() -> None:
    for score in (SCORE, np.full(4000, 0.5, np.float32), np.round(SCORE, 1)):
        curve = roc_curve(score, ACTUAL == 1)
        assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0.0, 0.0)
        assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1.0, 1.0)
        assert curve.threshold == sorted(set(curve.threshold), reverse=True)
        assert np.isfinite(curve.threshold).all()
    assert roc_curve(SCORE, np.zeros(4000, bool)).threshold == []


def test_customers_are_called_at_the_threshold_of_their_costs(customers: Dataset) -> None:
    measured = churn_metrics(SCORE, ACTUAL)
    asked = question(answers(customers, SCORE, ACTUAL), measured)
    expected = sklearn_metrics.confusion_matrix(ACTUAL == 1, measured["threshold"] <= SCORE)
    assert asked.confusion() == expected.tolist()
    assert asked.categories == ("stays", "leaves")


def test_ratings_are_asked_for_what_was_worth_recommending(small_ratings: Dataset) -> None:
    actual = RNG.choice(np.arange(0.5, 5.5, 0.5), 1000).astype(np.float32)
    predicted = (actual + RNG.normal(0, 1, 1000)).astype(np.float32)
    asked = question(answers(small_ratings, predicted, actual), {"rmse": 1.0})
    assert asked.threshold == 3.875
    assert asked.confusion() == sklearn_metrics.confusion_matrix(actual >= 4, predicted >= 3.875).tolist()


@pytest.mark.parametrize(
    ("champion", "says"),
    [
        (None, "Nothing else is in service."),
        ({}, "What is in service has learned from these rows"),
        ({"auc": 0.8}, "| auc | 0.9000 | 0.8000 |"),
    ],
)
def test_a_page_says_what_it_compares_with(customers: Dataset, champion: dict[str, float] | None, says: str) -> None:
    evaluation = Evaluation(metrics={"auc": 0.9}, champion=champion, answers=answers(customers, SCORE, ACTUAL))
    page = evaluation_page("churn", 2, evaluation)
    assert page.startswith("# churn version 2 on 4,000 rows held out\n")
    assert says in page


def test_a_verdict_comes_with_its_reasons() -> None:
    page = gate_page("mf", 3, GateVerdict(passed=False, reasons=("rmse 2 is worse", "no champion")))
    assert page == "# mf version 3: refused\n\n- rmse 2 is worse\n- no champion\n"
