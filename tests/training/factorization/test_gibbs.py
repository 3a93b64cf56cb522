import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.config import BayesConfig
from training.factorization.gibbs import GibbsSampler
from training.factorization.normal_wishart import draw_normal_wishart
from training.factorization.posterior import posterior_mean
from training.factorization.shards import Shard, whole_shard

CPU = torch.device("cpu")
CONFIG = BayesConfig(epochs=40, factors=2, burn_in=10, samples=15, kept_factors=8)


def sampled(planted: Shard, sweeps: int, seed: int = 0) -> GibbsSampler:
    sampler = GibbsSampler(planted, CONFIG, seed, CPU)
    for number in range(sweeps):
        sampler.sweep(number)
    return sampler


def test_means_and_precisions_are_drawn_as_the_formulas_say():
    """Over many draws: the mean about n / (n + 2) of the average, and the expected precision: degrees of freedom by scale."""
    random = np.random.default_rng(1)
    rows = torch.from_numpy(random.normal([2.0, -1.0], [1.0, 3.0], (50, 2)).astype(np.float32))
    draws = [draw_normal_wishart(rows, random) for _ in range(4000)]
    x = rows.double()
    average, centred = x.mean(0), x - x.mean(0)
    scatter = torch.eye(2).double() + centred.T @ centred + 50 * 2 / 52 * torch.outer(average, average)
    mean = torch.stack([draw[0] for draw in draws]).mean(0)
    precision = torch.stack([draw[1] for draw in draws]).mean(0)
    np.testing.assert_allclose(mean, average * 50 / 52, atol=0.03)
    expected = (50 + 2) * torch.linalg.inv(scatter)
    np.testing.assert_allclose(precision, expected, rtol=0.03, atol=0.01)


def test_the_noise_and_the_scores_are_found(alone, planted: Shard):
    sampler = sampled(planted, 40)
    precision = float(sampler.state()["precision"])
    assert precision == pytest.approx(1 / 0.5**2, rel=0.1)
    rows = planted.by_user
    scores = sampler.scores(torch.from_numpy(rows.row).long(), torch.from_numpy(rows.column).long())
    assert float((scores - torch.from_numpy(rows.value)).square().mean().sqrt()) < 0.5


def test_draws_are_kept_evenly_after_the_burn_in(alone, planted: Shard):
    sampler = GibbsSampler(planted, CONFIG, 0, CPU)
    counts: list[int] = []
    for number in range(40):
        sampler.sweep(number)
        counts.append(len(sampler.kept))
    assert counts[9] == 0
    assert counts[10] == 1
    assert counts[-1] == 15


def test_a_seed_draws_the_same_and_another_does_not(alone, planted: Shard):
    first, again, other = sampled(planted, 3), sampled(planted, 3), sampled(planted, 3, seed=1)
    assert torch.equal(first.items, again.items)
    assert not torch.equal(first.items, other.items)


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(alone, planted: Shard):
    whole, first = sampled(planted, 14), sampled(planted, 12)
    then = GibbsSampler(planted, CONFIG, 0, CPU)
    then.restore({name: value.clone() for name, value in first.state().items()})
    then.sweep(12)
    then.sweep(13)
    assert torch.equal(then.users, whole.users)
    assert len(then.kept) == len(whole.kept)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(then.kept, whole.kept, strict=True))


def test_the_mean_of_draws_is_a_factorization(alone, planted: Shard):
    """Four draws of two factors are one of eight, known and unknown ids alike."""
    sampler = sampled(planted, 18)
    draws = sampler.kept[-4:]
    found = posterior_mean(draws, planted.mean, 8)
    known = torch.arange(1, 50)
    expected = torch.zeros(49)
    for users, items in draws:
        expected += users[known, -1] + items[known, -1] + (users[known, :-1] * items[known, :-1]).sum(-1)
    products = (found.users[known] * found.items[known]).sum(-1)
    scores = found.mean + found.user_bias[known] + found.item_bias[known] + products
    torch.testing.assert_close(scores, planted.mean + expected / 4, rtol=1e-4, atol=1e-4)

    unknown = torch.stack([users[0, -1] + items[5, -1] + users[0, :-1] @ items[5, :-1] for users, items in draws])
    of_unknown = found.mean + found.item_bias[5]
    assert float(of_unknown) == pytest.approx(planted.mean + float(unknown.mean()), abs=1e-4)


def test_fewer_factors_keep_most_of_it(alone, planted: Shard):
    draws = sampled(planted, 25).kept
    whole, small = (posterior_mean(draws, planted.mean, factors) for factors in (2 * len(draws), 3))
    left, kept = whole.users @ whole.items.T, small.users @ small.items.T
    assert float((left - kept).norm() / left.norm()) < 0.2
    assert small.users.shape == (201, 3)


def test_users_whose_ratings_follow_nothing_are_trusted_less(alone, planted: Shard):
    random = np.random.default_rng(5)
    user, item, rating = planted.by_user.row, planted.by_user.column, planted.by_user.value.copy()
    rating[user <= 20] = random.normal(3, 2, int((user <= 20).sum()))
    sampler = sampled(whole_shard(user, item, rating, users=201, items=121), 20)
    trust = sampler.state()["trust"]
    assert trust[1:21].max() < trust[21:201].median() / 4


def test_what_is_known_of_items_and_who_chose_them_helps_where_ratings_are_few(alone):
    """Four ratings an item. There are two kinds of items and of users; users like one kind and mostly choose of it."""
    random = np.random.default_rng(6)
    kind = np.arange(400) % 2
    user = np.repeat(np.arange(80), 20)
    item = np.concatenate([_chosen(random, np.flatnonzero(kind == one % 2), 400) for one in range(80)])
    truth = np.where(kind[None] == np.arange(80)[:, None] % 2, 3.8, 2.2)
    rating = truth[user, item] + random.normal(0, 0.8, len(user))
    rows = (user + 1).astype(np.int32), (item + 1).astype(np.int32), rating.astype(np.float32)
    trait = np.concatenate([[0.5], kind]).astype(np.float32)[:, None]

    def error(choice_factors: int, *item_features: NDArray[np.float32]) -> float:
        config = dataclasses.replace(CONFIG, choice_factors=choice_factors)
        sampler = GibbsSampler(whole_shard(*rows, users=81, items=401, item_features=item_features), config, 0, CPU)
        for number in range(40):
            sampler.sweep(number)
        scores = sampler.scores(torch.arange(1, 81).repeat_interleave(400), torch.arange(1, 401).repeat(80))
        return float((scores - torch.from_numpy(truth.ravel())).square().mean().sqrt())

    nothing = error(0)
    assert error(8) < 0.8 * nothing
    assert error(0, trait) < 0.8 * nothing


def _chosen(random: np.random.Generator, liked: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """Fifteen that are liked, and five of the others."""
    others = np.setdiff1d(np.arange(items), liked)
    return np.concatenate([random.choice(liked, 15, replace=False), random.choice(others, 5, replace=False)])
