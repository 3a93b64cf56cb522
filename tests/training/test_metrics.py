import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from training.metrics import (
    Costs,
    Relevant,
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


RANKED = np.array([[1, 2, 3, 4], [4, 5, 6, -1], [0, 5, 4, 7], [2, 1, 0, 3]])
"""What four users are shown; the last has nothing relevant."""

RELEVANT = Relevant(np.array([0, 0, 1, 2, 2, 2]), np.array([2, 9, 7, 0, 5, 7]))
POPULARITY = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1])


def test_ranking_metrics_are_those_computed_by_hand():
    third, half = 1 / np.log2(4), 1 / np.log2(3)
    found = ranking_metrics(RANKED, RELEVANT, POPULARITY, cutoffs=(2, 4))
    expected = {
        "recall_at_2": (1 / 2 + 0 + 2 / 3) / 3,
        "recall_at_4": (1 / 2 + 0 + 3 / 3) / 3,
        "hit_rate_at_2": 2 / 3,
        "hit_rate_at_4": 2 / 3,
        "ndcg_at_2": (half / (1 + half) + 0 + 1) / 3,
        "ndcg_at_4": (half / (1 + half) + 0 + (1 + half + 1 / np.log2(5)) / (1 + half + third)) / 3,
        "map_at_2": ((1 / 2) / 2 + 0 + (1 + 1) / 2) / 3,
        "map_at_4": ((1 / 2) / 2 + 0 + (1 + 1 + 3 / 4) / 3) / 3,
        "mrr_at_2": (1 / 2 + 0 + 1) / 3,
        "mrr_at_4": (1 / 2 + 0 + 1) / 3,
        "coverage_at_2": 5 / 8,  # 0, 1, 2, 4 and 5
        "coverage_at_4": 7 / 8,  # 7 was never seen
        "popularity_at_2": (0.35 + 0.1 + 0.3) / 3,
        "popularity_at_4": (0.25 + 0.1 + 0.175) / 3,
    }
    assert found == pytest.approx(expected)


def test_rankings_without_anything_relevant_have_no_metrics():
    nothing = Relevant(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    assert ranking_metrics(RANKED, nothing, POPULARITY, cutoffs=(2,)) == {}


def test_rankings_shorter_than_a_cutoff_are_refused():
    with pytest.raises(ValueError, match="rankings of 4 items cannot be judged at 20"):
        ranking_metrics(RANKED, RELEVANT, POPULARITY)


def test_a_list_that_ends_early_is_judged_by_what_it_has():
    found = ranking_metrics(
        np.array([[3, -1], [-1, -1]]), Relevant(np.array([0, 1]), np.array([3, 3])), POPULARITY, cutoffs=(2,)
    )
    assert (found["recall_at_2"], found["ndcg_at_2"], found["popularity_at_2"]) == (0.5, 0.5, 0.2)


@given(st.integers(0, 2**32 - 1))
def test_ndcg_agrees_with_scikit_learn(seed: int):
    random = np.random.default_rng(seed)
    scores, relevant = random.random((5, 30)), random.random((5, 30)) < 0.2
    relevant[:, 0] = True
    ranked = np.argsort(-scores, axis=1)
    found = ranking_metrics(ranked, Relevant(*np.nonzero(relevant)), np.ones(30), cutoffs=(10, 30))
    for k in (10, 30):
        assert found[f"ndcg_at_{k}"] == pytest.approx(reference.ndcg_score(relevant, scores, k=k))
    assert found["map_at_30"] == pytest.approx(
        np.mean([reference.average_precision_score(*pair) for pair in zip(relevant, scores, strict=True)])
    )
    assert found["recall_at_30"] == found["hit_rate_at_30"] == found["coverage_at_30"] == 1
