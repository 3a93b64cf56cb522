"""Differences between two models: what is right by construction, and what the intervals cover."""

import numpy as np
import pytest

from training.comparison import differences, ranking_differences
from training.config import ChurnConfig
from training.metrics import Relevant, ranking_metrics


def ratings(seed: int, users: int = 200, each: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Users ``[rows]`` and ratings ``[rows]``."""
    random = np.random.default_rng(seed)
    return np.repeat(np.arange(users), each), random.uniform(1, 5, users * each)


def test_one_model_beside_itself_differs_by_nothing() -> None:
    users, actual = ratings(0)
    answers = actual + np.random.default_rng(1).normal(0, 1, len(actual))
    for clusters in (None, users):
        found = differences("rating", answers, answers, actual, clusters=clusters, resamples=100)
        assert [one.metric for one in found] == ["rmse", "mae"]
        assert {(one.delta, one.low, one.high, one.better) for one in found} == {(0.0, 0.0, 0.0, None)}


def test_the_better_one_is_named_whichever_side_it_stands_on() -> None:
    users, actual = ratings(0)
    noise = np.random.default_rng(1).normal(0, 1, len(actual))
    good, bad = actual + 0.5 * noise, actual + noise
    for a, b, better in ((bad, good, "b"), (good, bad, "a")):
        (rmse, _) = differences("rating", a, b, actual, clusters=users, resamples=200)
        assert rmse.better == better
        assert rmse.delta == pytest.approx(rmse.b - rmse.a)
        assert rmse.low < rmse.delta < rmse.high
        assert (rmse.delta < 0) == (better == "b")


def test_of_probabilities_higher_or_lower_is_better_by_the_metric() -> None:
    random = np.random.default_rng(3)
    truth = random.uniform(0.02, 0.98, 3000)
    actual = (random.uniform(size=3000) < truth).astype(float)
    found = differences(
        "churn", np.full(3000, 0.5) + random.normal(0, 1e-3, 3000), truth, actual, clusters=None, resamples=100
    )
    assert {one.metric: one.better for one in found} == dict.fromkeys(
        ("log_loss", "brier", "f1", "cost", "auc", "average_precision"), "b"
    ) | {"ece": next(one for one in found if one.metric == "ece").better}
    by_cost = differences(
        "churn", truth, truth, actual, clusters=None, resamples=100, config=ChurnConfig(missed_cost=50.0)
    )
    assert (
        next(one for one in by_cost if one.metric == "cost").a != next(one for one in found if one.metric == "cost").b
    )


def test_the_same_seed_draws_the_same() -> None:
    users, actual = ratings(0)
    a, b = (actual + np.random.default_rng(seed).normal(0, 1, len(actual)) for seed in (1, 2))
    once, again, other = (
        differences("rating", a, b, actual, clusters=users, resamples=100, seed=seed) for seed in (7, 7, 8)
    )
    assert once == again != other


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Both models err alike on average, and a user's errors are alike: of 95 % intervals over users, about one in twenty
    misses 0, and of those over rows, many more do.
    """
    missed = {"users": 0, "rows": 0}
    worlds = 60
    for seed in range(worlds):
        random = np.random.default_rng(seed)
        users, actual = ratings(seed, users=60, each=20)
        a, b = (actual + random.normal(0, 1, 60)[users] + random.normal(0, 0.3, len(actual)) for _ in range(2))
        for kind, clusters in (("users", users), ("rows", None)):
            rmse = differences("rating", a, b, actual, clusters=clusters, resamples=200, seed=seed)[0]
            missed[kind] += rmse.better is not None
    assert missed["users"] <= 0.2 * worlds
    assert missed["rows"] >= 0.4 * worlds


def test_whole_users_are_drawn() -> None:
    """Two users, one of whom a model gets all wrong: a resample has none, one or two of them."""
    users, actual = np.repeat([0, 1], [3, 30]), np.zeros(33)
    good, bad = np.zeros(33), np.where(users == 0, 1.0, 0.0)
    (_, mae) = differences("rating", good, bad, actual, clusters=users, resamples=100)
    assert (mae.low, mae.high) == (0.0, 1.0)


def test_a_resample_with_one_class_only_does_not_count() -> None:
    actual = np.array([1.0, *[0.0] * 9])
    a, b = np.linspace(0.1, 0.9, 10), np.linspace(0.9, 0.1, 10)
    auc = next(one for one in differences("churn", a, b, actual, clusters=None, resamples=200) if one.metric == "auc")
    assert (auc.a, auc.b) == (0.0, 1.0)
    assert np.isfinite([auc.low, auc.high]).all()


def test_progress_is_told() -> None:
    users, actual = ratings(0, users=5)
    seen: list[tuple[int, int]] = []
    differences(
        "rating", actual, actual, actual, clusters=users, resamples=100, on_progress=lambda n, of: seen.append((n, of))
    )
    assert seen[-1] == (100, 100)


def lists(seed: int, users: int, items: int = 50) -> np.ndarray:
    """Random lists of 20 of the items, for users ``[users, 20]``."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :20]


def test_lists_are_compared_by_the_metrics_that_training_has() -> None:
    a, b = lists(0, 80), lists(1, 80)
    random = np.random.default_rng(2)
    row = np.repeat(np.arange(5, 80), 3)  # five users have nothing to find
    relevant = Relevant(row, random.permuted(np.tile(np.arange(50), (75, 1)), axis=1)[:, :3].ravel())
    popularity = random.uniform(size=50)
    found = ranking_differences(a, b, relevant, popularity, resamples=100)
    first, second = (ranking_metrics(side, relevant, popularity) for side in (a, b))
    assert {one.metric for one in found} == first.keys()
    for one in found:
        assert (one.a, one.b) == pytest.approx((first[one.metric], second[one.metric]))
        assert one.delta == pytest.approx(one.b - one.a)
        plain = one.metric.startswith(("coverage", "popularity"))
        assert (one.low is None, one.high is None) == (plain, plain)
        if one.low is not None and one.high is not None:
            assert one.low <= one.delta <= one.high
    assert [one.better for one in ranking_differences(a, a, relevant, popularity, resamples=100)] == [None] * len(found)
    with pytest.raises(ValueError, match="nobody has anything relevant"):
        ranking_differences(a, b, Relevant(row[:0], row[:0]), popularity)


def test_lists_that_find_more_are_better_on_either_side() -> None:
    bad = lists(0, 80)
    good = bad.copy()
    good[:, 0] = 50
    relevant, popularity = Relevant(np.arange(80), np.full(80, 50)), np.full(51, 0.1)
    for a, b, better in ((bad, good, "b"), (good, bad, "a")):
        found = {one.metric: one for one in ranking_differences(a, b, relevant, popularity, resamples=100)}
        assert found["ndcg_at_10"].better == found["mrr_at_20"].better == found["recall_at_20"].better == better
        assert found["popularity_at_10"].better is None


def test_the_interval_of_lists_holds_the_true_difference_about_as_often_as_it_says() -> None:
    """Of users who find one thing with chances of .3 and .5, in either list independently: 95 of 100 intervals, give or take."""
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(100):
        sides = []
        for chance in (0.3, 0.5):
            side = np.tile(np.arange(20), (150, 1))
            side[random.uniform(size=150) < chance, 0] = 20
            sides.append(side)
        relevant = Relevant(np.arange(150), np.full(150, 20))
        found = ranking_differences(*sides, relevant, np.full(21, 0.1), resamples=200, seed=trial)
        one = next(one for one in found if one.metric == "hit_rate_at_10")
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= 0.2 <= one.high
    assert 86 <= covered <= 100
