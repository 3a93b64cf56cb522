import dataclasses

import numpy as np
import pytest
import torch

from training.config import AlsConfig
from training.factorization.als import AlternatingLeastSquares, ridge
from training.factorization.shards import Shard

CPU = torch.device("cpu")
CONFIG = AlsConfig(factors=3, vector_damping=2.0, bias_damping=1.0)


@pytest.mark.parametrize("ratings", [1, 4, 5, 30])
def test_both_systems_have_the_solution_of_the_ridge(ratings: int):
    random = torch.Generator().manual_seed(0)
    x, target = torch.randn(6, ratings, 5, generator=random), torch.randn(6, ratings, generator=random)
    expected = torch.linalg.solve(x.transpose(1, 2) @ x + torch.eye(5), x.transpose(1, 2) @ target[..., None])
    torch.testing.assert_close(ridge(x, target), expected[..., 0], rtol=1e-4, atol=1e-5)


def penalized(solver: AlternatingLeastSquares, shard: Shard) -> float:
    rows = shard.by_user
    scores = solver.scores(torch.from_numpy(rows.row).long(), torch.from_numpy(rows.column).long())
    error = (scores - torch.from_numpy(rows.value)).square().sum()
    tables = torch.cat([solver.users, solver.items]).square()
    return float(error + CONFIG.vector_damping * tables[:, :-1].sum() + CONFIG.bias_damping * tables[:, -1].sum())


def test_every_sweep_lowers_what_is_minimised_and_says_the_error(alone, planted: Shard):
    solver = AlternatingLeastSquares(planted, CONFIG, 0, CPU)
    losses = [penalized(solver, planted)]
    for number in range(8):
        told = solver.sweep(number)
        losses.append(penalized(solver, planted))
    assert (np.diff(losses) <= 1e-3 * np.array(losses[:-1])).all()
    rows = planted.by_user
    scores = solver.scores(torch.from_numpy(rows.row).long(), torch.from_numpy(rows.column).long())
    assert told == pytest.approx(float((scores - torch.from_numpy(rows.value)).square().mean()), rel=1e-4)
    assert 0.4**2 < told < 0.55**2  # the noise, less what is fitted to it


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(alone, planted: Shard):
    whole, first, then = (AlternatingLeastSquares(planted, CONFIG, 0, CPU) for _ in range(3))
    for number in range(4):
        whole.sweep(number)
    first.sweep(0)
    first.sweep(1)
    then.restore({name: value.clone() for name, value in first.state().items()})
    then.sweep(2)
    then.sweep(3)
    assert torch.equal(then.items, whole.items)


def test_rows_without_ratings_stay_at_zero(alone, planted: Shard):
    larger = dataclasses.replace(planted, users=210, user_bounds=np.array([1, 210]))
    solver = AlternatingLeastSquares(larger, CONFIG, 0, CPU)
    solver.sweep(0)
    assert not solver.users[201:].any()
    assert not solver.users[0].any()
