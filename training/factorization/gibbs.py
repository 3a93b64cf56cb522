"""Bayesian matrix factorization by Gibbs sampling: Salakhutdinov and Mnih, *Bayesian Probabilistic Matrix Factorization using
Markov Chain Monte Carlo*, 2008, with each row's bias drawn together with its vector.

Rows are drawn from their joint normal distribution given the other table; the tables' means and precisions from a
normal-Wishart distribution, and the precision of the ratings from a gamma distribution, for each user a share of it: some
people's ratings follow nothing (Lakshminarayanan, Bouchard and Archambeau, *Robust Bayesian Matrix Factorisation*, 2011). What
else is known of rows moves their means, see ``side_information``. So there is no damping to tune, and the mean over draws is
better than the best single one.

What is random follows from the seed, the sweep and the table alone: a run that goes on from a checkpoint, or is spread over
other ranks, draws the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import BayesConfig
from training.factorization.choices import choice_features
from training.factorization.chunks import Chunk, chunked, rows_of, with_end
from training.factorization.estimator import Estimator, Finished, State
from training.factorization.exchange import spread_rows, total
from training.factorization.normal_wishart import draw_normal_wishart
from training.factorization.posterior import posterior_mean
from training.factorization.shards import Shard
from training.factorization.side_information import Expectation, directions
from training.factorization.user_prior import fit_user_prior
from training.models.fold_in import FoldIn

_USERS, _ITEMS, _NOISE, _START = range(4)
_FIRST_PRECISION = 1.5
"""Of a rating, before the first draw; it is forgotten within a few sweeps."""
_STEADINESS = 8.0
"""How many ratings it takes until a user's own precision is believed as much as that of all."""


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
        self._trust = torch.ones(shard.users + 1, device=device)
        """Of each user, what their ratings' precision is times that of all; the last is what missing ratings point to."""
        counts = total(torch.from_numpy(np.bincount(shard.by_user.row, minlength=shard.users)).to(device))
        self._counts = counts.cpu().numpy()
        """Ratings by each user, over all ranks."""
        self._expected = self._expectations(width, device)
        self.kept: list[tuple[Tensor, Tensor]] = []
        """Draws of both tables that the posterior mean is taken over."""
        self._scored: _Scored | None = None

    def sweep(self, number: int) -> float:
        """Draw everything once; the mean squared error of that draw over the training split."""
        shard = self._shard
        self._draw(self._by_user, self.users, self.items, number, _USERS, shard.user_bounds)
        squared = torch.zeros(shard.users + 1, dtype=torch.double, device=self.users.device)
        self._draw(self._by_item, self.items, self.users, number, _ITEMS, shard.item_bounds, squared)
        squared = total(squared[:-1])
        self._draw_noise(squared.cpu().numpy(), number)
        if self._is_kept(number):
            self.kept.append((self.users.clone(), self.items.clone()))
        return float(squared.sum()) / shard.rows

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        """Unclipped scores ``[n]`` of indices ``[n]``: the mean over the kept draws, or of the present one before the first."""
        if not self.kept:
            return self.mean + _products(self.users[user], self.items[item])
        scored = self._scored
        if scored is None or scored.user is not user or scored.item is not item:
            scored = self._scored = _Scored(user, item, torch.zeros(len(user), device=self.users.device))
        for users, items in self.kept[scored.draws :]:
            scored.summed += _products(users[user], items[item])
        scored.draws = len(self.kept)
        return self.mean + scored.summed / scored.draws

    def state(self) -> State:
        """What a checkpoint keeps."""
        kept = {}
        if self.kept:
            kept = {f"kept_{n}": torch.stack(tables) for n, tables in enumerate(zip(*self.kept, strict=True))}
        means = {f"mean_{n}": one.mean for n, one in enumerate(self._all_expected())}
        damping = torch.tensor([one.damping for one in self._all_expected()], dtype=torch.double)
        drawn = {"precision": self._precision, "trust": self._trust, "damping": damping, **means}
        return {"users": self.users, "items": self.items, **drawn, **kept}

    def restore(self, state: State) -> None:
        """Go on from a checkpoint."""
        self._scored = None
        self.users.copy_(state["users"])
        self.items.copy_(state["items"])
        self._precision = state["precision"]
        self._trust.copy_(state["trust"])
        for n, (one, damping) in enumerate(zip(self._all_expected(), state["damping"].tolist(), strict=True)):
            one.mean, one.damping = state[f"mean_{n}"].to(self.users.device), damping
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

    def _expectations(self, width: int, device: torch.device) -> tuple[list[Expectation], list[Expectation]]:
        """Of the tables of users and items, one for each kind of what is known of their rows."""
        tables: tuple[list[Tensor], list[Tensor]] = ([], [])
        if self._config.choice_factors:
            users, items = choice_features(self._shard, self._config.choice_factors, device)
            tables = ([users], [items])
        if self._config.item_features:
            tables[1].extend(torch.from_numpy(one).to(device) for one in self._shard.item_features)
        users, items = ([Expectation(directions(table[1:]), width) for table in side] for side in tables)
        return users, items

    def _all_expected(self) -> list[Expectation]:
        return [*self._expected[_USERS], *self._expected[_ITEMS]]

    def _draw_noise(self, squared: NDArray[np.float64], number: int) -> None:
        """Draw the precision of ratings, then what each user's is times it.

        Args:
            squared: Sums of squared errors over each user's ratings ``[users]``.
        """
        random = self._random(number, _NOISE)
        shape, trust = 1 + self._shard.rows / 2, self._trust[:-1].double().cpu().numpy()
        precision = random.standard_gamma(shape) / (1 + trust @ squared / 2)
        drawn = random.standard_gamma((_STEADINESS + self._counts) / 2) / ((_STEADINESS + precision * squared) / 2)
        self._precision = torch.tensor(precision, dtype=torch.double)
        self._trust[:-1] = torch.from_numpy(drawn)

    def _draw_prior(self, table: Tensor, what: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw what the rows of a table are expected to be ``[rows, k]``, and their precision about it ``[k, k]``."""
        expected, device = self._expected[what], table.device
        known = torch.zeros_like(table[1:])
        for one in expected:
            known += one.mean
        mean, precision = (value.to(device) for value in draw_normal_wishart((table[1:] - known).cpu(), random))
        for one in expected:
            known -= one.mean
            one.draw(table[1:] - mean - known, precision, random)
            known += one.mean
        return torch.cat([mean[None], mean + known]), precision

    def _draw(
        self,
        chunks: list[Chunk],
        table: Tensor,
        other: Tensor,
        number: int,
        what: int,
        bounds: NDArray[np.int64],
        squared: Tensor | None = None,
    ) -> None:
        """Draw a table given the other: first what its rows are expected to be, then this rank's rows.

        Args:
            squared: What squared errors of this rank's ratings are added to, for each row of the other table and its end.
        """
        random, device, width = self._random(number, what), table.device, table.shape[1]
        mean, precision = self._draw_prior(table, what, random)
        noise = _normal(random, *table.shape).to(device)
        # Rows without ratings are drawn from the prior; all ranks do the same.
        prior = torch.linalg.cholesky(precision)
        table[1:] = mean[1:] + torch.linalg.solve_triangular(prior.T, noise[1:].T, upper=True).T
        table[0] = mean[0]
        design, pulled, of_rating = self._design(other), mean @ precision, float(self._precision)
        for chunk in chunks:
            known = rows_of(design, chunk.columns)
            known[..., width] = chunk.values - known[..., width]
            x, x_and_target = known[..., :width], known[..., : width + 1]
            if what == _USERS:
                weighted, weight = x, of_rating * self._trust[chunk.rows][:, None, None]
            else:
                weighted, weight = x * self._trust[chunk.columns][..., None], of_rating
            sums = torch.bmm(weighted.transpose(1, 2), x_and_target).mul_(weight)
            root = torch.linalg.cholesky(sums[..., :-1] + precision)
            moment = sums[..., -1:] + pulled[chunk.rows][..., None]
            turned = torch.linalg.solve_triangular(root, moment, upper=False) + noise[chunk.rows][..., None]
            drawn = torch.linalg.solve_triangular(root.transpose(1, 2), turned, upper=True)
            if squared is not None:
                error = known[..., width] - torch.bmm(x, drawn)[..., 0]
                squared.index_add_(0, chunk.columns.flatten(), error.double().square().flatten())
            table[chunk.rows] = drawn[..., 0]
        spread_rows(table, bounds)

    def _design(self, other: Tensor) -> Tensor:
        """Of each row of a table: its vector, a 1 for the bias to be drawn, and what a rating is by the row's own bias alone;
        with a row of zeros at the end.
        """
        design = with_end(torch.cat([other, other[:, -1:] + self.mean], dim=1))
        design[:-1, -2] = 1.0
        return design


@dataclass(slots=True)
class _Scored:
    """Pairs that are asked about after each sweep, and the sum of their scores over the draws seen: only new ones are added."""

    user: Tensor
    item: Tensor
    summed: Tensor
    draws: int = 0


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Scores ``[n]`` of rows of both tables, without the mean of all."""
    return left[:, -1] + right[:, -1] + (left[:, :-1] * right[:, :-1]).sum(-1)


def _normal(random: np.random.Generator, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(random.standard_normal((rows, columns), dtype=np.float32))
