import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from training.metrics import (
    Costs,
    calibration_error,
    churn_metrics,
    confusion_counts,
    equal_mass_bins,
    f1,
    mean_cost,
    ranking_metrics,
    rating_metrics,
)


@pytest.fixture(params=["distinct", "tied"])
def scores(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    p = random.random(500)
    return (np.round(p, 1) if request.param == "tied" else p), (random.random(500) < p).astype(np.float32)


def test_churn_metrics_agree_with_scikit_learn(scores: tuple[np.ndarray, np.ndarray]):
    p, y = scores
    ours = churn_metrics(p, y)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    assert ours["auc"] == pytest.approx(reference.roc_auc_score(y, p))
    assert ours["average_precision"] == pytest.approx(reference.average_precision_score(y, p))
    assert ours["log_loss"] == pytest.approx(reference.log_loss(y, clipped))
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(y, p), rel=1e-5)
    assert ours["f1"] == pytest.approx(reference.f1_score(y, p >= 0.5))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc(label: float):
    metrics = churn_metrics(np.array([0.2, 0.9]), np.full(2, label))
    assert {"log_loss", "brier", "f1", "ece", "cost"} <= set(metrics)
    assert not {"auc", "average_precision"} & set(metrics)


PROBABILITIES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200)


@given(PROBABILITIES, st.floats(0, 1))
def test_confusion_counts_agree_with_scikit_learn(rows: list[tuple[float, bool]], threshold: float):
    p, y = np.array([p for p, _ in rows]), np.array([float(y) for _, y in rows])
    counts = confusion_counts(p, y, threshold)
    expected = reference.confusion_matrix(y, p >= threshold, labels=[False, True])
    assert list(counts.values()) == expected.ravel().tolist()
    assert f1(counts) == pytest.approx(reference.f1_score(y, p >= threshold, zero_division=0.0))


@given(PROBABILITIES)
def test_calibration_error_is_a_distance_of_probabilities(rows: list[tuple[float, bool]]):
    p, y = np.array([p for p, _ in rows]), np.array([float(y) for _, y in rows])
    error = calibration_error(p, y)
    assert abs(p.mean() - y.mean()) - 1e-12 <= error <= 1
    assert error <= np.abs(p - y).mean() + 1e-12
    assert calibration_error(y, y) == 0


def test_calibration_error_agrees_with_scikit_learns_curve():
    random = np.random.default_rng(4)
    p = random.permutation(np.linspace(0.001, 0.999, 1000))
    y = (random.random(1000) < p**2).astype(np.float64)
    share, mean = calibration_curve(y, p, n_bins=10, strategy="quantile")
    assert calibration_error(p, y) == pytest.approx(np.abs(share - mean).mean())
    assert calibration_error(p**2, y) < 0.05
    assert calibration_error(p, y) > 0.12


@given(PROBABILITIES)
def test_bins_hold_each_row_once_and_are_of_one_size(rows: list[tuple[float, bool]]):
    p = np.array([p for p, _ in rows])
    bins = equal_mass_bins(p)
    assert sorted(np.concatenate(bins).tolist()) == list(range(len(p)))
    assert max(map(len, bins)) - min(map(len, bins)) <= 1
    assert all(p[a].max() <= p[b].min() for a, b in itertools.pairwise(bins))


@pytest.mark.parametrize("costs", [Costs(), Costs(missed=1, needless=1), Costs(missed=1, needless=4)])
def test_the_threshold_by_cost_is_the_cheapest_where_probabilities_are_right(costs: Costs):
    random = np.random.default_rng(5)
    p = random.random(200_000)
    y = (random.random(len(p)) < p).astype(np.float64)
    best = mean_cost(p, y, costs.threshold, costs)
    assert all(best < mean_cost(p, y, costs.threshold + step, costs) for step in (-0.1, -0.05, 0.05, 0.1))
    metrics = churn_metrics(p, y, costs)
    assert (metrics["threshold"], metrics["cost"]) == (costs.threshold, best)
    mistakes = costs.missed * metrics["false_negatives"] + costs.needless * metrics["false_positives"]
    assert mistakes / len(p) == pytest.approx(best)


def test_rating_metrics():
    assert rating_metrics(np.array([3.0, 5.0]), np.array([4.0, 3.0])) == {"rmse": pytest.approx(2.5**0.5), "mae": 1.5}


def test_ranking_metrics():
    perfect = (np.array([1, 2, 3]), np.array([1, 2]))
    missed = (np.array([4, 5, 6]), np.array([7]))
    second = (np.array([4, 5, 6]), np.array([5]))
    assert ranking_metrics([perfect], k=3) == {"ndcg_at_3": 1.0, "recall_at_3": 1.0}
    assert ranking_metrics([perfect, missed], k=3) == {"ndcg_at_3": 0.5, "recall_at_3": 0.5}
    assert ranking_metrics([second], k=3)["ndcg_at_3"] == pytest.approx(1 / np.log2(3))
    assert ranking_metrics([], k=3) == {}
