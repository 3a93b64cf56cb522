import numpy as np
import torch

from training.factorization.choices import choice_features
from training.factorization.shards import Shard, whole_shard

CPU = torch.device("cpu")


def table(shard: Shard) -> torch.Tensor:
    rated = torch.zeros(shard.users, shard.items, dtype=torch.double)
    rated[torch.from_numpy(shard.by_user.row).long(), torch.from_numpy(shard.by_user.column).long()] = 1.0
    return rated / rated.sum(1, keepdim=True).clamp(min=1.0).sqrt() / (rated.sum(0) + 3.0).sqrt()


def test_all_directions_give_the_table_back(alone, planted: Shard):
    """Products of users, and of items, are those of the rows and columns of the table."""
    users, items = choice_features(planted, 120, CPU)
    expected = table(planted)
    torch.testing.assert_close(users @ users.T, expected @ expected.T)
    torch.testing.assert_close(items @ items.T, expected.T @ expected)
    assert users[0].abs().max() < 1e-12
    assert items[0].abs().max() < 1e-12


def test_two_circles_of_users_are_the_strongest_direction_but_one(alone):
    """Users 1 to 20 choose among the first 15 items, the others among the rest."""
    random = np.random.default_rng(4)
    circle = np.arange(40) // 20
    pairs = [(user, circle[user] * 15 + item) for user in range(40) for item in random.permutation(15)[:8]]
    user, item = (np.array(side, dtype=np.int32) + 1 for side in zip(*pairs, strict=True))
    shard = whole_shard(user, item, np.ones(len(pairs), dtype=np.float32), users=41, items=31)
    users, items = choice_features(shard, 2, CPU)
    same = users[1:] @ users[1:].T
    alike = torch.from_numpy(circle[:, None] == circle)
    assert same[alike].min() > 10 * same[~alike].abs().max()
    assert items.shape == (31, 2)
