import numpy as np
import torch

from training.factorization.chunks import chunked
from training.factorization.shards import Triples
from training.factorization.user_prior import fit_user_prior


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
