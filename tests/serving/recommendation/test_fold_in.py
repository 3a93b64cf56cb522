import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.recommendation.fold_in import fold_in


def test_one_rating_by_hand():
    """One item with the vector (1, 0), 2 above expectation, all damping 1: a third of it for each of what can give way."""
    user = fold_in(np.array([[1.0, 0.0, 9.0]], dtype=np.float32), np.array([2.0]), vector_damping=1.0, bias_damping=1.0)
    np.testing.assert_allclose(user, [2 / 3, 0, 2 / 3], rtol=1e-6)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32), st.sampled_from([0.1, 4.0, 20.0]))
def test_no_step_in_any_direction_is_better(ratings: int, factors: int, seed: int, damping: float):
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((ratings, factors + 1)).astype(np.float32)
    residuals = rng.standard_normal(ratings)
    user = fold_in(items, residuals, vector_damping=damping, bias_damping=damping / 5).astype(np.float64)

    def loss(user):
        errors = residuals - items[:, :-1].astype(np.float64) @ user[:-1] - user[-1]
        return (errors**2).sum() + damping * (user[:-1] ** 2).sum() + damping / 5 * user[-1] ** 2

    for step in 1e-3 * rng.standard_normal((20, factors + 1)):
        assert loss(user + step) >= loss(user) - 1e-7


@pytest.mark.parametrize("ratings", [2, 9])
def test_without_damping_there_is_still_an_answer(ratings: int):
    items = np.ones((ratings, 5), dtype=np.float32)
    user = fold_in(items, np.ones(ratings), vector_damping=0.0, bias_damping=0.0)
    np.testing.assert_allclose(items[0, :-1] @ user[:-1] + user[-1], 1.0, atol=1e-4)
