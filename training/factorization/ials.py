"""Implicit alternating least squares: Hu, Koren and Volinsky, *Collaborative Filtering for Implicit Feedback Datasets*, 2008,
with the damping that grows with what a row holds as in Rendle, Krichene, Zhang and Koren, *Revisiting the Performance of iALS
on Item Recommendation Benchmarks*, 2022.

What a user rated is to score one, with a weight that grows with the rating; every item, rated or not, is to score zero, with
a small one. In the end users are solved once more with newer ratings weighing more: what they want next is what counts.
"""

import torch
from torch import Tensor

from training.config import IalsConfig
from training.factorization.als import State
from training.factorization.chunks import Chunk, chunked, rows_of, with_end
from training.factorization.exchange import spread_rows, total
from training.factorization.shards import Shard, Triples


class ImplicitLeastSquares:
    """Tables ``[rows, factors]``; what a user likes of an item is their product, about 0 to 1."""

    def __init__(
        self, shard: Shard, config: IalsConfig, seed: int, device: torch.device, *, low: float, high: float
    ) -> None:
        self._shard = shard
        self._config = config
        self.mean = shard.mean
        floor = liked_from(config, low, high)
        self._by_user = chunked(_weighted(shard.by_user, floor, high), shard.items, config.factors, device)
        self._by_item = chunked(_weighted(shard.by_item, floor, high), shard.users, config.factors, device)
        start, spread = torch.Generator().manual_seed(seed), 0.1 / config.factors**0.5
        self.users = torch.zeros(shard.users, config.factors, device=device)
        self.items = (torch.randn(shard.items, config.factors, generator=start) * spread).to(device)
        self.items[0] = 0.0

    def sweep(self, number: int) -> float:
        """Solve users, then items; the weighted squared error over what was rated, per rating, as it stands then."""
        del number  # nothing is random in a sweep
        shard = self._shard
        self._solve(self._by_user, self.users, self.items)
        spread_rows(self.users, shard.user_bounds)
        error = self._solve(self._by_item, self.items, self.users)
        spread_rows(self.items, shard.item_bounds)
        return total(error).item() / shard.rows

    def finish(self) -> None:
        """Solve users with newer ratings weighing more. A sweep after it begins as if it had not been."""
        self._solve(self._by_user, self.users, self.items, half_life=self._config.half_life)
        spread_rows(self.users, self._shard.user_bounds)

    def state(self) -> State:
        """What a checkpoint keeps."""
        return {"users": self.users, "items": self.items}

    def restore(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.users.copy_(state["users"])
        self.items.copy_(state["items"])

    def _solve(self, chunks: list[Chunk], table: Tensor, other: Tensor, *, half_life: float = 0.0) -> Tensor:
        """Solve this rank's rows of a table; the weighted squared error over their ratings, in double precision."""
        config = self._config
        background = config.unobserved_weight * (other.T @ other)
        ended = with_end(other)
        table.zero_()  # rows without anything liked
        error = torch.zeros((), dtype=torch.double, device=table.device)
        for chunk in chunks:
            x = rows_of(ended, chunk.columns)
            weight = chunk.values
            if half_life:
                # What fills a row up comes after its newest rating; there the power would overflow, and make 0 no number.
                age = chunk.counts[:, None] - 1 - torch.arange(weight.shape[1], device=weight.device)
                weight = weight * torch.exp2(-age.clamp(min=0) / half_life)
            gram = background + torch.bmm((x * weight[..., None]).transpose(1, 2), x)
            held = chunk.counts + config.unobserved_weight * (len(other) - 1)
            gram.diagonal(dim1=1, dim2=2).add_((config.damping * held)[:, None])
            moment = torch.bmm(x.transpose(1, 2), weight[..., None])
            solution = torch.cholesky_solve(moment, torch.linalg.cholesky(gram))
            error += (weight * (1 - torch.bmm(x, solution)[..., 0]).square()).sum(dtype=torch.double)
            table[chunk.rows] = solution[..., 0]
        return error


def liked_from(config: IalsConfig, low: float, high: float) -> float:
    """The rating from which on more is liked more; at and below it nothing is."""
    return low + config.liked_share * (high - low)


def _weighted(ratings: Triples, floor: float, high: float) -> Triples:
    """What was liked at all, with weights above 0 to 1, in the order in which it came."""
    weight = (ratings.value - floor) / (high - floor)
    liked = weight > 0
    return Triples(ratings.row[liked], ratings.column[liked], weight[liked].astype("float32"))
