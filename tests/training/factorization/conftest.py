"""A process group of one, and ratings with something to be found in them."""

from collections.abc import Generator

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.training.samples import shared_home, small_ratings  # noqa: F401 (pytest finds them by name)
from training.factorization.shards import Shard, whole_shard


@pytest.fixture
def alone() -> Generator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with torch.no_grad():
            yield
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def planted() -> Shard:
    """10,000 ratings by 200 users of 120 items: two factors, biases, and noise of half a star."""
    random = np.random.default_rng(7)
    users, items = random.normal(0, 0.8, (201, 3)), random.normal(0, 0.8, (121, 3))
    pairs = random.permutation(200 * 120)[:10_000]
    user, item = (pairs // 120 + 1).astype(np.int32), (pairs % 120 + 1).astype(np.int32)
    scores = 3 + (users[user, :2] * items[item, :2]).sum(1) + 0.5 * users[user, 2] + 0.5 * items[item, 2]
    rating = (scores + random.normal(0, 0.5, len(pairs))).astype(np.float32)
    return whole_shard(user, item, rating, users=201, items=121)
