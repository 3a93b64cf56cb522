import numpy as np
import torch

from training.factorization.chunks import chunked
from training.factorization.shards import Triples
from training.factorization.user_prior import fit_user_prior, spread_users


def test_the_distribution_that_users_were_drawn_from_is_found(alone):
    """3,000 users of two factors and a bias, 30 ratings each, noise of a half: to be found as a multiple of a quarter."""
    random = np.random.default_rng(0)
    covariance = np.array([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]])
    users = random.multivariate_normal(np.zeros(3), covariance, 3001)
    items, bias = random.normal(0, 1, (101, 2)), random.normal(0, 0.5, 101)
    user = np.repeat(np.arange(1, 3001), 30)
    item = random.integers(1, 101, len(user))
    rating = (
        3.5 + bias[item] + (users[user, :2] * items[item]).sum(1) + users[user, 2] + random.normal(0, 0.5, len(user))
    )
    triples = Triples(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32))
    chunks = chunked(triples, 101, 2, torch.device("cpu"))
    found = fit_user_prior(chunks, torch.from_numpy(items).float(), torch.from_numpy(bias).float(), 3.5)
    np.testing.assert_allclose(found.numpy() * 0.25, covariance, atol=0.04)


def test_of_many_users_the_same_share_is_looked_at_whatever_they_rated():
    """Users of three ratings stand in chunks of one here, those of one in chunks of four."""
    counts = np.repeat([1, 3], [8000, 500])
    user = np.repeat(np.arange(1, 8501), counts).astype(np.int32)
    triples = Triples(user, np.ones_like(user), np.ones(len(user), dtype=np.float32))
    chunks = chunked(triples, 2, 1 << 18, torch.device("cpu"))
    assert len(chunks) == 2500
    picked = torch.cat([chunk.counts for chunk in spread_users(chunks)])
    assert [int((picked == count).sum()) for count in (1, 3)] == [2667, 167]  # each third of 8,500
    few = chunked(Triples(user[:9], user[:9], triples.value[:9]), 10, 2, torch.device("cpu"))
    assert sum(len(chunk.rows) for chunk in spread_users(few)) == 9
