import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import FactorParameters, Preference
from serving.recommendation.fold_in import fold_in_of


def parameters(**changes: object) -> FactorParameters:
    return FactorParameters(**{"mean": 3.0, "low": 0.5, "high": 5.0, **changes})


def everything(count: int) -> np.ndarray:
    return np.arange(count)


def test_one_rating_by_hand():
    """One item with the vector (1, 0), 2 above expectation, all damping 1: a third of it for each of what can give way."""
    items = np.array([[1.0, 0.0, 9.0]], dtype=np.float32)
    user = fold_in_of(items, parameters(vector_damping=1.0, bias_damping=1.0))(everything(1), np.array([14.0]))
    np.testing.assert_allclose(user, [2 / 3, 0, 2 / 3], rtol=1e-6)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32), st.sampled_from([0.1, 4.0, 20.0]))
def test_no_step_in_any_direction_is_better(ratings: int, factors: int, seed: int, damping: float):
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((ratings, factors + 1)).astype(np.float32)
    residuals = rng.standard_normal(ratings)
    fold_in = fold_in_of(items, parameters(vector_damping=damping, bias_damping=damping / 5))
    user = fold_in(everything(ratings), residuals + 3.0 + items[:, -1]).astype(np.float64)

    def loss(user):
        errors = residuals - items[:, :-1].astype(np.float64) @ user[:-1] - user[-1]
        return (errors**2).sum() + damping * (user[:-1] ** 2).sum() + damping / 5 * user[-1] ** 2

    for step in 1e-3 * rng.standard_normal((20, factors + 1)):
        assert loss(user + step) >= loss(user) - 1e-7


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32))
def test_a_prior_is_the_posterior_mean_of_that_normal_distribution(ratings: int, factors: int, seed: int):
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((ratings, factors + 1)).astype(np.float32)
    mixing = rng.standard_normal((factors + 1, factors + 1))
    prior = (mixing @ mixing.T + np.eye(factors + 1)).astype(np.float32)
    given_ratings = rng.uniform(0.5, 5, ratings)
    user = fold_in_of(items, parameters(), prior)(everything(ratings), given_ratings)

    design = np.hstack([items[:, :-1], np.ones((ratings, 1))]).astype(np.float64)
    precision = np.linalg.inv(prior.astype(np.float64)) + design.T @ design
    expected = np.linalg.solve(precision, design.T @ (given_ratings - 3.0 - items[:, -1]))
    np.testing.assert_allclose(user, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ratings", [2, 9])
def test_without_damping_there_is_still_an_answer(ratings: int):
    items = np.ones((ratings, 5), dtype=np.float32)
    user = fold_in_of(items, parameters())(everything(ratings), np.full(ratings, 5.0))
    np.testing.assert_allclose(items[0, :-1] @ user[:-1] + user[-1], 1.0, atol=1e-4)


PREFERENCE = Preference(
    unobserved_weight=0.5, damping=0.1, liked_from=1.0, span=4.0, half_life=1.0, scale=2.0, bias_damping=1.0
)


def test_what_is_liked_is_solved_for_as_training_does():
    """Of four items, those rated 5 and 3 are liked, with weights 1 (halved, as one liked item came later) and 0.5."""
    rng = np.random.default_rng(0)
    items = np.hstack([rng.standard_normal((4, 2)), np.zeros((4, 1))]).astype(np.float32)
    rows, ratings = np.array([2, 0, 3]), np.array([5.0, 1.0, 3.0])
    user = fold_in_of(items, parameters(preference=PREFERENCE))(rows, ratings)

    vectors, weights = items[:, :2].astype(np.float64), np.array([0.0, 0.0, 0.5, 0.5])
    gram = 0.5 * vectors.T @ vectors + (vectors * weights[:, None]).T @ vectors + 0.1 * (2 + 0.5 * 4) * np.eye(2)
    vector = 2.0 * np.linalg.solve(gram, weights @ vectors)
    np.testing.assert_allclose(user[:2], vector, rtol=1e-5)
    generosity = (ratings - 3.0).sum() / (3 + 1)
    np.testing.assert_allclose(user[2], generosity - (vectors[rows] @ vector).mean(), rtol=1e-5)


def test_the_newest_likes_count_most():
    items = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=np.float32)
    fold_in = fold_in_of(items, parameters(preference=PREFERENCE))
    first, last = (fold_in(np.array(rows), np.array([5.0, 5.0])) for rows in ([0, 1], [1, 0]))
    assert first[1] > first[0]
    np.testing.assert_allclose(first[:2], last[1::-1], rtol=1e-6)


def test_a_user_who_likes_nothing_gets_no_vector():
    items = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=np.float32)
    user = fold_in_of(items, parameters(preference=PREFERENCE))(np.array([0]), np.array([1.0]))
    np.testing.assert_allclose(user, [0.0, 0.0, -1.0])
