import numpy as np
import pytest
import torch

from training.config import IalsConfig
from training.factorization.ials import ImplicitLeastSquares
from training.factorization.shards import Shard, whole_shard

CPU = torch.device("cpu")
CONFIG = IalsConfig(factors=3, unobserved_weight=0.2, damping=0.01, liked_share=0.2, half_life=2.0)


@pytest.fixture
def shard() -> Shard:
    """Two groups of users with a taste of their own; a rating of 1 is not liked, and the last item is nobody's."""
    random = np.random.default_rng(3)
    user, item, rating = [], [], []
    for one in range(1, 41):
        first = 1 if one % 2 else 11
        for other in random.permutation(10)[:6] + first:
            user.append(one), item.append(other), rating.append(random.choice([1.0, 3.0, 5.0]))
    columns = np.array(user, dtype=np.int32), np.array(item, dtype=np.int32), np.array(rating, dtype=np.float32)
    return whole_shard(*columns, users=41, items=22)


def weights(ratings: np.ndarray) -> np.ndarray:
    return np.maximum((ratings - 1.4) / 3.6, 0)  # a fifth of the range from 0.5 to 5 is 1.4


def test_users_are_the_weighted_ridge_over_all_items(alone, shard: Shard):
    solver = ImplicitLeastSquares(shard, CONFIG, 0, CPU, low=0.5, high=5.0)
    solver.sweep(0)
    items = solver.items.clone().double().numpy()
    solver.finish()
    for user in (1, 2, 17):
        mine = shard.by_user.row == user
        weight = weights(shard.by_user.value[mine])
        liked = weight > 0
        vectors, weight = items[shard.by_user.column[mine][liked]], weight[liked]
        weight = weight * 0.5 ** (np.arange(len(weight))[::-1] / 2.0)
        gram = 0.2 * items.T @ items + (vectors * weight[:, None]).T @ vectors
        gram += 0.01 * (len(weight) + 0.2 * 21) * np.eye(3)
        np.testing.assert_allclose(solver.users[user], np.linalg.solve(gram, weight @ vectors), rtol=1e-3, atol=1e-5)


def test_a_taste_is_found_and_scores_are_ratings(alone, shard: Shard):
    estimator = ImplicitLeastSquares(shard, CONFIG, 0, CPU, low=0.5, high=5.0)
    for number in range(10):
        estimator.sweep(number)
    finished = estimator.finish()
    found, preference = finished.factorization, finished.fold_in.preference
    scores = found.users @ found.items.T
    own, others = scores[1::2, 1:11].mean(), scores[1::2, 11:21].mean()
    assert own > others
    assert preference is not None
    assert preference.scale > 0
    assert preference.liked_from == pytest.approx(1.4)
    user, item = torch.from_numpy(shard.by_user.row).long(), torch.from_numpy(shard.by_user.column).long()
    predicted = found.mean + found.user_bias[user] + (found.users[user] * found.items[item]).sum(-1)
    error = float((predicted - torch.from_numpy(shard.by_user.value)).square().mean())
    assert error < float(shard.by_user.value.var())


def test_a_user_who_likes_nothing_has_no_vector(alone):
    columns = np.array([1, 2, 2], dtype=np.int32), np.array([1, 1, 2], dtype=np.int32)
    shard = whole_shard(*columns, np.array([1.0, 5.0, 4.0], dtype=np.float32), users=3, items=3)
    solver = ImplicitLeastSquares(shard, CONFIG, 0, CPU, low=0.5, high=5.0)
    solver.sweep(0)
    assert not solver.users[1].any()
    assert solver.users[2].any()


def test_a_user_of_very_many_ratings_is_solved_too(alone):
    """1,100 ratings stand in rows of 1,536: what fills them up must not count, however short the half-life."""
    item = np.arange(1, 1101, dtype=np.int32)
    shard = whole_shard(np.ones_like(item), item, np.full(1100, 5.0, dtype=np.float32), users=2, items=1101)
    solver = ImplicitLeastSquares(shard, CONFIG, 0, CPU, low=0.5, high=5.0)
    solver.sweep(0)
    solver.finish()
    assert solver.users[1].isfinite().all()
    assert solver.users[1].any()
