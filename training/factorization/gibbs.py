"""Bayesian matrix factorization by Gibbs sampling: Salakhutdinov and Mnih, *Bayesian Probabilistic Matrix Factorization using
Markov Chain Monte Carlo*, 2008, with each row's bias drawn together with its vector.

Rows are drawn from their joint normal distribution given the other table; the tables' means and precisions from a
normal-Wishart distribution, and the precision of the ratings from a gamma distribution. So there is no damping to tune, and
the mean over draws is better than the best single one.

What is random follows from the seed, the sweep and the table alone: a run that goes on from a checkpoint, or is spread over
other ranks, draws the same.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import BayesConfig
from training.factorization.chunks import Chunk, chunked, rows_of, with_end
from training.factorization.estimator import Estimator, Finished, State
from training.factorization.exchange import spread_rows, total
from training.factorization.posterior import posterior_mean
from training.factorization.shards import Shard
from training.factorization.user_prior import fit_user_prior
from training.models.fold_in import FoldIn

_USERS, _ITEMS, _NOISE, _START = range(4)
_PRIOR_ROWS = 2.0
"""How many rows at zero the means' prior weighs as much as."""
_FIRST_PRECISION = 1.5
"""Of a rating, before the first draw; it is forgotten within a few sweeps."""


class GibbsSampler(Estimator):
    """Tables ``[rows, factors + 1]`` of vector and bias. Their row 0 is the mean that unknown ids have."""

    stops_early = False
    """More draws are never worse, so all are used."""

    def __init__(self, shard: Shard, config: BayesConfig, seed: int, device: torch.device) -> None:
        self._shard = shard
        self._config = config
        self._seed = seed
        self.mean = shard.mean
        width = config.factors + 1
        self._by_user = chunked(shard.by_user, shard.items, width, device)
        self._by_item = chunked(shard.by_item, shard.users, width, device)
        self._precision = torch.tensor(_FIRST_PRECISION, dtype=torch.double)
        start = self._random(0, _START)
        self.users = (_normal(start, shard.users, width) * 0.1).to(device)
        self.items = (_normal(start, shard.items, width) * 0.1).to(device)
        self.users[:, -1] = self.items[:, -1] = 0.0
        self.kept: list[tuple[Tensor, Tensor]] = []
        """Draws of both tables that the posterior mean is taken over."""

    def sweep(self, number: int) -> float:
        """Draw everything once; the mean squared error of that draw over the training split."""
        shard = self._shard
        self._draw(self._by_user, self.users, self.items, number, _USERS, shard.user_bounds)
        error = self._draw(self._by_item, self.items, self.users, number, _ITEMS, shard.item_bounds)
        squared = total(error).item()
        draw = self._random(number, _NOISE).standard_gamma(1 + shard.rows / 2)
        self._precision = torch.tensor(draw / (1 + squared / 2), dtype=torch.double)
        if self._is_kept(number):
            self.kept.append((self.users.clone(), self.items.clone()))
        return squared / shard.rows

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        """Unclipped scores ``[n]`` of indices ``[n]``: the mean over the kept draws, or of the present one before the first."""
        draws = self.kept or [(self.users, self.items)]
        summed = torch.zeros(len(user), device=self.users.device)
        for users, items in draws:
            left, right = users[user], items[item]
            summed += left[:, -1] + right[:, -1] + (left[:, :-1] * right[:, :-1]).sum(-1)
        return self.mean + summed / len(draws)

    def state(self) -> State:
        """What a checkpoint keeps."""
        kept = {}
        if self.kept:
            kept = {f"kept_{n}": torch.stack(tables) for n, tables in enumerate(zip(*self.kept, strict=True))}
        return {"users": self.users, "items": self.items, "precision": self._precision, **kept}

    def restore(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.users.copy_(state["users"])
        self.items.copy_(state["items"])
        self._precision = state["precision"]
        if "kept_0" in state:
            device = self.users.device
            self.kept = [
                (users.to(device), items.to(device))
                for users, items in zip(state["kept_0"], state["kept_1"], strict=True)
            ]

    def finish(self) -> Finished:
        """The mean of the kept draws, and the prior that its users are best explained by."""
        draws = self.kept or [(self.users, self.items)]
        found = posterior_mean(draws, self.mean, self._config.kept_factors)
        shard, width = self._shard, self._config.kept_factors
        chunks = chunked(shard.by_user, shard.items, width, self.users.device)
        prior = fit_user_prior(chunks, found.items, found.item_bias, found.mean)
        return Finished(found, FoldIn(prior=prior.cpu().numpy()))

    def _is_kept(self, number: int) -> bool:
        """Draws that follow each other are alike: of those after the burn-in, evenly spread ones are kept."""
        config = self._config
        after = number - config.burn_in
        every = max(1, -(-(config.epochs - config.burn_in) // config.samples))
        return after >= 0 and after % every == 0

    def _random(self, number: int, what: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number, what])

    def _draw(
        self, chunks: list[Chunk], table: Tensor, other: Tensor, number: int, what: int, bounds: NDArray[np.int64]
    ) -> Tensor:
        """Draw a table given the other: first its mean and precision from what it is now, then this rank's rows.

        Returns:
            The sum of squared errors over this rank's ratings, in double precision.
        """
        random, device = self._random(number, what), table.device
        mean, precision = draw_normal_wishart(table[1:].cpu(), random)
        mean, precision = mean.to(device), precision.to(device)
        noise = _normal(random, *table.shape).to(device)
        # Rows without ratings are drawn from the prior; all ranks do the same.
        prior = torch.linalg.cholesky(precision)
        table[1:] = mean + torch.linalg.solve_triangular(prior.T, noise[1:].T, upper=True).T
        table[0] = mean
        design = with_end(other)
        bias = design[:, -1:].clone()
        design[:-1, -1] = 1.0
        of_rating = self._precision.to(device, torch.float32)
        pulled = precision @ mean
        error = torch.zeros((), dtype=torch.double, device=device)
        for chunk in chunks:
            x = rows_of(design, chunk.columns)
            target = (chunk.values - self.mean * (chunk.columns < len(other))) - rows_of(bias, chunk.columns)[..., 0]
            gram = torch.baddbmm(precision, x.transpose(1, 2), x, alpha=float(of_rating))
            moment = pulled[:, None] + of_rating * torch.bmm(x.transpose(1, 2), target[..., None])
            root = torch.linalg.cholesky(gram)
            drawn = torch.cholesky_solve(moment, root)
            drawn += torch.linalg.solve_triangular(root.transpose(1, 2), noise[chunk.rows][..., None], upper=True)
            error += (target - torch.bmm(x, drawn)[..., 0]).square().sum(dtype=torch.double)
            table[chunk.rows] = drawn[..., 0]
        spread_rows(table, bounds)
        return error


def draw_normal_wishart(rows: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A mean ``[k]`` and a precision ``[k, k]`` from what rows ``[n, k]`` leave of a vague prior: mean 0 with the weight of
    two rows, and a Wishart distribution of ``k`` degrees of freedom around the identity.
    """
    x = rows.double()
    count, width = x.shape
    average = x.mean(0)
    centred = x - average
    shrunk = count * _PRIOR_ROWS / (count + _PRIOR_ROWS)
    scatter = torch.eye(width, dtype=torch.double) + centred.T @ centred + shrunk * torch.outer(average, average)
    # Bartlett's decomposition: the precision is R R' with R = (a root of the inverse scatter) times a random triangle.
    triangle = torch.tril(torch.from_numpy(random.standard_normal((width, width))), -1)
    triangle += torch.diag(torch.from_numpy(random.chisquare(width + count - np.arange(width))).sqrt())
    root = torch.linalg.cholesky(torch.linalg.inv(scatter)) @ triangle
    spread = torch.linalg.solve_triangular(root.T, torch.from_numpy(random.standard_normal((width, 1))), upper=True)
    mean = count * average / (count + _PRIOR_ROWS) + spread[:, 0] / (count + _PRIOR_ROWS) ** 0.5
    return mean.float(), (root @ root.T).float()


def _normal(random: np.random.Generator, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(random.standard_normal((rows, columns), dtype=np.float32))
