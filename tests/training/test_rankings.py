"""What a factorization ranks for a user, and how that is judged on the test split."""

import numpy as np
import pytest
import torch

from training.config import RatingConfig
from training.data.dataset import EncodedSplit
from training.final_metrics import final_metrics, rank_for
from training.inference import rank_items
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape


@pytest.fixture
def model() -> MatrixFactorization:
    """Two users and 30 items, of which each scores below the one before."""
    made = MatrixFactorization(MatrixFactorizationShape(users=3, items=31, factors=2, low=0.5, high=5.0))
    with torch.no_grad():
        made.user_vector.weight.zero_()
        made.item_bias.weight[1:, 0] = torch.linspace(1, -1, 30)
    return made


def encoded(rows: list[tuple[int, int, float]]) -> EncodedSplit:
    user, item, label = (np.array(column) for column in zip(*rows, strict=True))
    return EncodedSplit({"user_index": user, "item_index": item}, label.astype(np.float32))


def test_the_best_items_come_first_and_none_that_is_excluded(model: MatrixFactorization):
    assert rank_items(model, 1, np.array([1, 3]), 3).tolist() == [2, 4, 5]
    assert rank_items(model, 1, np.arange(1, 30), 3).tolist() == [30]


def test_rankings_are_judged_by_known_items_that_known_users_rated_high(model: MatrixFactorization):
    train = encoded([(1, 1, 4.0), (1, 2, 2.0), (2, 1, 3.0), (2, 30, 3.0)])
    test = encoded([(1, 3, 5.0), (1, 4, 2.0), (2, 15, 4.0), (2, 0, 5.0), (0, 5, 5.0)])
    metrics = final_metrics(model, train, test, RatingConfig())
    assert metrics["recall_at_10"] == 0.5  # the first place of one user, the 14th of the other
    assert metrics["recall_at_20"] == 1.0
    assert metrics["mrr_at_20"] == pytest.approx((1 + 1 / 14) / 2)
    assert metrics["coverage_at_20"] == pytest.approx(1 / 3)  # of 1, 2 and 30: the second user is shown 2
    assert metrics["popularity_at_10"] == pytest.approx((0 + 0.5 / 10) / 2)


def test_an_item_that_the_model_does_not_know_takes_no_other_off_the_list(model: MatrixFactorization):
    seen = {"user_index": np.array([1, 1, 2]), "item_index": np.array([0, 3, 0])}
    ranked = rank_for(model, np.array([2, 1]), seen, 31)
    assert ranked[0].tolist() == [*range(1, 31), -1]
    assert ranked[1].tolist() == [1, 2, *range(4, 31), -1, -1]
