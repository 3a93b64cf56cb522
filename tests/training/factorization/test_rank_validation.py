"""What is measured after a sweep is what the finished model would be measured as."""

import numpy as np
import pytest
import torch

from training.data.dataset import EncodedSplit
from training.factorization.estimator import Factorization
from training.factorization.rank_validation import RankValidation
from training.factorization.shards import Shard, Triples, whole_shard
from training.final_metrics import rankings_judged
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

USERS, ITEMS = 31, 41


def triples(random: np.random.Generator, rows: int) -> Triples:
    pairs = random.choice((USERS - 1) * (ITEMS - 1), rows, replace=False)
    user, item = (side.astype(np.int32) + 1 for side in np.divmod(pairs, ITEMS - 1))
    return Triples(user, item, random.integers(1, 6, rows).astype(np.float32))


@pytest.fixture
def shard() -> Shard:
    train = triples(np.random.default_rng(0), 300)
    return whole_shard(train.row, train.column, train.value, users=USERS, items=ITEMS)


@pytest.fixture
def valid(shard: Shard) -> Triples:
    """With ids that training did not know."""
    rows = triples(np.random.default_rng(1), 200)
    new = ~np.isin(rows.row * ITEMS + rows.column, shard.by_user.row * ITEMS + shard.by_user.column)
    user, item = rows.row[new].copy(), rows.column[new].copy()
    user[:5], item[5:10] = 0, 0
    return Triples(user, item, rows.value[new])


def split(ratings: Triples) -> EncodedSplit:
    feed = {"user_index": ratings.row.astype(np.int64), "item_index": ratings.column.astype(np.int64)}
    return EncodedSplit(feed, ratings.value)


def test_it_is_the_finished_models_ndcg(alone, shard: Shard, valid: Triples, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.factorization.rank_validation._MOST_FLOATS", 7 * ITEMS)  # several parts
    model = MatrixFactorization(MatrixFactorizationShape(users=USERS, items=ITEMS, factors=3, low=1.0, high=5.0))
    with torch.no_grad():
        for table in (model.user_vector, model.item_vector, model.item_bias):
            table.weight.copy_(torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(2)))
        found = Factorization(
            0.0,
            model.user_vector.weight,
            model.item_vector.weight,
            torch.zeros(USERS),
            model.item_bias.weight[:, 0],
        )
        validation = RankValidation(shard, valid, first=1, end=USERS, relevant_from=4.0, most_users=1000)
        loss = validation.ndcg_loss(found)
        expected = rankings_judged(model, split(shard.by_user), split(valid))["ndcg_at_10"]
    assert loss == pytest.approx(1 - expected)
    assert 0 < loss < 1


def test_nobody_to_ask_is_no_number(alone, shard: Shard, valid: Triples):
    nothing = Factorization(
        0.0, *(torch.zeros(size, 2) for size in (USERS, ITEMS)), torch.zeros(USERS), torch.zeros(ITEMS)
    )
    for first, threshold in ((1, 6.0), (USERS, 4.0)):
        validation = RankValidation(shard, valid, first=first, end=USERS, relevant_from=threshold, most_users=10)
        assert validation.ndcg_loss(nothing) is None
