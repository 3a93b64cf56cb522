"""The estimators behind one face: sweep by sweep, then a model with what it takes to fold users in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from driftwheel.contracts import Preference
from training.config import AlsConfig, BayesConfig, IalsConfig, TrainConfig
from training.factorization.als import AlternatingLeastSquares, State
from training.factorization.chunks import chunked
from training.factorization.exchange import total
from training.factorization.gibbs import GibbsSampler
from training.factorization.ials import ImplicitLeastSquares, liked_from
from training.factorization.posterior import Factorization, posterior_mean
from training.factorization.shards import Shard
from training.factorization.user_prior import fit_user_prior
from training.models.fold_in import FoldIn

_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class Finished:
    """What an estimator leads to."""

    factorization: Factorization
    fold_in: FoldIn


class Estimator(ABC):
    """One rank's share. Methods that say so are called by all ranks together."""

    stops_early: bool
    """Whether a later sweep may be worse, so that the tables after the best one are kept."""

    @abstractmethod
    def sweep(self, number: int) -> float:
        """Better the tables once, all ranks together; the training loss. ``number`` counts from 0."""

    @abstractmethod
    def scores(self, user: Tensor, item: Tensor) -> Tensor | None:
        """Unclipped scores ``[n]`` of indices ``[n]``; None where it does not predict ratings."""

    @abstractmethod
    def state(self) -> State:
        """What a checkpoint keeps: the same on every rank."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from there."""

    @abstractmethod
    def finish(self) -> Finished:
        """All ranks together; the answer counts on rank 0."""


class Als(Estimator):
    """Alternating least squares. Users are folded in by the ridge that it was trained with."""

    stops_early = True

    def __init__(self, shard: Shard, config: AlsConfig, seed: int, device: torch.device) -> None:
        self._solver = AlternatingLeastSquares(shard, config, seed, device)

    def sweep(self, number: int) -> float:
        return self._solver.sweep(number)

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        return self._solver.scores(user, item)

    def state(self) -> State:
        return self._solver.state()

    def restore(self, state: State) -> None:
        self._solver.restore(state)

    def finish(self) -> Finished:
        users, items = self._solver.users, self._solver.items
        parts = users[:, :-1], items[:, :-1], users[:, -1], items[:, -1]
        return Finished(Factorization(self._solver.mean, *parts), FoldIn())


class Bayes(Estimator):
    """The mean of Gibbs samples. More of them are never worse, so all are used."""

    stops_early = False

    def __init__(self, shard: Shard, config: BayesConfig, seed: int, device: torch.device) -> None:
        self._sampler = GibbsSampler(shard, config, seed, device)
        self._shard, self._factors, self._device = shard, config.kept_factors, device

    def sweep(self, number: int) -> float:
        return self._sampler.sweep(number)

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        return self._sampler.scores(user, item)

    def state(self) -> State:
        return self._sampler.state()

    def restore(self, state: State) -> None:
        self._sampler.restore(state)

    def finish(self) -> Finished:
        draws = self._sampler.kept or [(self._sampler.users, self._sampler.items)]
        found = posterior_mean(draws, self._sampler.mean, self._factors)
        chunks = chunked(self._shard.by_user, self._shard.items, self._factors, self._device)
        prior = fit_user_prior(chunks, found.items, found.item_bias, found.mean)
        return Finished(found, FoldIn(prior=prior.cpu().numpy()))


class Ials(Estimator):
    """Implicit alternating least squares, put on the scale of ratings so that its scores mean something to people: the order
    in which a user's items come does not change by it.
    """

    stops_early = False

    def __init__(
        self, shard: Shard, config: IalsConfig, seed: int, device: torch.device, *, low: float, high: float
    ) -> None:
        self._solver = ImplicitLeastSquares(shard, config, seed, device, low=low, high=high)
        self._shard, self._config, self._range = shard, config, (low, high)

    def sweep(self, number: int) -> float:
        return self._solver.sweep(number)

    def scores(self, user: Tensor, item: Tensor) -> None:
        del user, item

    def state(self) -> State:
        return self._solver.state()

    def restore(self, state: State) -> None:
        self._solver.restore(state)

    def finish(self) -> Finished:
        solver, config = self._solver, self._config
        solver.finish()
        scale, bias = self._rating_scale()
        low, high = self._range
        floor = liked_from(config, low, high)
        preference = Preference(
            unobserved_weight=config.unobserved_weight,
            damping=config.damping,
            liked_from=floor,
            span=high - floor,
            half_life=config.half_life,
            scale=scale,
            bias_damping=config.bias_damping,
        )
        nothing = torch.zeros_like(solver.items[:, 0])
        return Finished(
            Factorization(solver.mean, solver.users * scale, solver.items, bias, nothing), FoldIn(preference=preference)
        )

    def _rating_scale(self) -> tuple[float, Tensor]:
        """How many stars more a liking of one means, by least squares within users over all ratings, and what each user gives
        besides ``[users]``.
        """
        shard, device = self._shard, self._solver.users.device
        user = torch.from_numpy(shard.by_user.row).long().to(device)
        item = torch.from_numpy(shard.by_user.column).long().to(device)
        rating = torch.from_numpy(shard.by_user.value).to(device) - shard.mean
        parts = [slice(n, n + _CHUNK_ROWS) for n in range(0, len(user), _CHUNK_ROWS)]
        products = [(self._solver.users[user[part]] * self._solver.items[item[part]]).sum(-1) for part in parts]
        liking = torch.cat(products) if products else torch.zeros(0, device=device)
        count, likings, ratings = (
            torch.zeros(shard.users, device=device).index_add_(0, user, value)
            for value in (torch.ones_like(rating), liking, rating)
        )
        safe = count.clamp(min=1)
        centred = liking - (likings / safe)[user]
        sums = total(torch.stack([(centred * rating).sum(), centred.square().sum()]).double())
        scale = max(float(sums[0] / sums[1].clamp(min=1e-12)), _LEAST_SCALE)
        bias = ratings / (count + self._config.bias_damping) - scale * likings / safe
        return scale, total(bias)  # each user is one rank's


_LEAST_SCALE = 1e-3
"""Where ratings say nothing of what is chosen, the order must remain."""


def build_estimator(
    shard: Shard, config: TrainConfig, seed: int, device: torch.device, *, low: float, high: float
) -> Estimator:
    """The estimator of a configuration, at its beginning.

    Args:
        low, high: The range of ratings.
    """
    if isinstance(config, BayesConfig):
        return Bayes(shard, config, seed, device)
    if isinstance(config, AlsConfig):
        return Als(shard, config, seed, device)
    if isinstance(config, IalsConfig):
        return Ials(shard, config, seed, device, low=low, high=high)
    raise TypeError(f"no factorization is solved by a {type(config).__name__}")
