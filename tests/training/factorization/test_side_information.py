import numpy as np
import pytest
import torch

from training.factorization.side_information import Expectation, directions


def normal(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def test_directions_are_the_features_without_what_all_rows_share():
    features = normal(np.random.default_rng(1), 50, 3) + 7
    features = torch.cat([features, features[:, :1]], dim=1)
    found = directions(features)
    assert found.vectors.shape == (50, 3)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(3), atol=1e-5, rtol=0)
    centred = features - features.mean(0)
    products = centred @ centred.T
    turned = found.vectors * found.strengths @ found.vectors.T
    torch.testing.assert_close(turned, products / products.diagonal().mean(), atol=1e-4, rtol=1e-4)


def test_the_mean_of_draws_is_the_ridge_solution():
    """Over many draws with the damping held: what ridge regression on the features with that damping says."""
    random = np.random.default_rng(2)
    given = directions(normal(random, 40, 5))
    rows, precision = normal(random, 40, 2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    expectation = Expectation(given, 2)
    drawn: list[torch.Tensor] = []
    for _ in range(4000):
        expectation.damping = 1.5
        expectation.draw(rows, precision, random)
        drawn.append(expectation.mean)
    features = given.vectors * given.strengths.sqrt()
    weights = torch.linalg.solve(features.T @ features + 1.5 * torch.eye(5), features.T @ rows)
    average = torch.stack(drawn).mean(0)
    torch.testing.assert_close(average, features @ weights, atol=0.04, rtol=0)
    spread = given.vectors.T @ (torch.stack(drawn) - average)
    share = given.strengths / (given.strengths + 1.5)
    expected = share[:, None, None] * torch.linalg.inv(precision)
    found = torch.einsum("nra,nrb->rab", spread, spread) / len(drawn)
    torch.testing.assert_close(found, expected, atol=0.04, rtol=0.1)


def test_features_without_a_difference_are_no_directions():
    for features in (torch.ones(5, 2), torch.zeros(5, 0)):
        expectation = Expectation(directions(features), 2)
        expectation.draw(torch.ones(5, 2), torch.eye(2), np.random.default_rng(1))
        assert torch.equal(expectation.mean, torch.zeros(5, 2))


@pytest.mark.parametrize(("says", "least", "most"), [(1.0, 0.0, 1.0), (0.0, 10.0, np.inf)])
def test_features_that_say_nothing_are_damped_away(says: float, least: float, most: float):
    random = np.random.default_rng(3)
    features = normal(random, 400, 10)
    rows = says * features @ normal(random, 10, 3) + normal(random, 400, 3)
    expectation = Expectation(directions(features), 3)
    dampings: list[float] = []
    for _ in range(200):
        expectation.draw(rows - rows.mean(0), torch.eye(3), random)
        dampings.append(expectation.damping)
    assert least < float(np.median(dampings[50:])) < most
