"""Alternating least squares: each half-sweep solves the ridge regression of every row of one table exactly, given the other.

Zhou, Wilkinson, Schreiber and Pan, *Large-Scale Parallel Collaborative Filtering for the Netflix Prize*, 2008; with biases in
the system, and a damping that does not grow with the ratings, as the gradient-descent estimator has it.
"""

import torch
from torch import Tensor

from training.config import AlsConfig
from training.factorization.chunks import Chunk, chunked, rows_of, with_end
from training.factorization.estimator import Estimator, Factorization, Finished, State
from training.factorization.exchange import spread_rows, total
from training.factorization.shards import Shard
from training.models.fold_in import FoldIn


class AlternatingLeastSquares(Estimator):
    """Tables ``[rows, factors + 1]`` of vector and bias. Users are folded in by the ridge that it was trained with."""

    stops_early = True

    def __init__(self, shard: Shard, config: AlsConfig, seed: int, device: torch.device) -> None:
        self._shard = shard
        self._factors = config.factors
        self.mean = shard.mean
        width = config.factors + 1
        self._by_user = chunked(shard.by_user, shard.items, width, device)
        self._by_item = chunked(shard.by_item, shard.users, width, device)
        # Columns of the design are divided by the root of their damping, which makes the ridge's penalty one everywhere.
        damping = torch.tensor([config.vector_damping] * config.factors + [config.bias_damping], device=device)
        self._scale = damping.clamp(min=1e-6).rsqrt()
        start = torch.Generator().manual_seed(seed)
        self.users = torch.zeros(shard.users, width, device=device)
        self.items = (torch.randn(shard.items, width, generator=start) * 0.1).to(device)
        self.items[:, -1] = 0.0
        self.items[0] = 0.0

    def sweep(self, number: int) -> float:
        """Solve users, then items; the mean squared error over the training split, as it stands then."""
        del number  # nothing is random in a sweep
        shard = self._shard
        self._solve(self._by_user, self.users, self.items)
        spread_rows(self.users, shard.user_bounds)
        error = self._solve(self._by_item, self.items, self.users)
        spread_rows(self.items, shard.item_bounds)
        return total(error).item() / shard.rows

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        """Unclipped scores ``[n]`` of indices ``[n]``."""
        left, right = self.users[user], self.items[item]
        return self.mean + left[:, -1] + right[:, -1] + (left[:, :-1] * right[:, :-1]).sum(-1)

    def state(self) -> State:
        """What a checkpoint keeps."""
        return {"users": self.users, "items": self.items}

    def restore(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.users.copy_(state["users"])
        self.items.copy_(state["items"])

    def finish(self) -> Finished:
        """The tables as they are."""
        parts = self.users[:, :-1], self.items[:, :-1], self.users[:, -1], self.items[:, -1]
        return Finished(Factorization(self.mean, *parts), FoldIn())

    def _solve(self, chunks: list[Chunk], table: Tensor, other: Tensor) -> Tensor:
        """Solve this rank's rows of a table; the sum of squared errors over their ratings, in double precision."""
        design = with_end(other)
        bias = design[:, -1:].clone()
        design[:-1, -1] = 1.0
        design *= self._scale
        error = torch.zeros((), dtype=torch.double, device=table.device)
        for chunk in chunks:
            x = rows_of(design, chunk.columns)
            target = (chunk.values - self._shard.mean * (chunk.columns < len(other))) - rows_of(bias, chunk.columns)[
                ..., 0
            ]
            solution = ridge(x, target)
            missed = target - torch.bmm(x, solution[..., None])[..., 0]
            error += missed.square().sum(dtype=torch.double)
            table[chunk.rows] = solution * self._scale
        return error


def ridge(x: Tensor, target: Tensor) -> Tensor:
    """The ``z`` ``[r, k]`` that minimise ``|target - x z|^2 + |z|^2`` for each of ``r`` designs ``[r, d, k]``.

    Where there are fewer ratings than factors, the system of the ratings is the smaller one.
    """
    rows, ratings, width = x.shape
    if ratings < width:
        kernel = torch.bmm(x, x.transpose(1, 2))
        kernel.diagonal(dim1=1, dim2=2).add_(1.0)
        weights = torch.cholesky_solve(target[..., None], torch.linalg.cholesky(kernel))
        return torch.bmm(x.transpose(1, 2), weights)[..., 0]
    gram = torch.bmm(x.transpose(1, 2), x)
    gram.diagonal(dim1=1, dim2=2).add_(1.0)
    moment = torch.bmm(x.transpose(1, 2), target[..., None])
    return torch.cholesky_solve(moment, torch.linalg.cholesky(gram)).view(rows, width)
