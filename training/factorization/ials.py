"""Implicit alternating least squares: Hu, Koren and Volinsky, *Collaborative Filtering for Implicit Feedback Datasets*, 2008,
with the damping that grows with what a row holds as in Rendle, Krichene, Zhang and Koren, *Revisiting the Performance of iALS
on Item Recommendation Benchmarks*, 2022.

What a user rated is to score one, with a weight that grows with the rating; every item, rated or not, is to score zero, with
a small one. In the end users are solved once more with newer ratings weighing more: what they want next is what counts.
"""

import torch
from torch import Tensor

from driftwheel.contracts import Preference
from training.config import IalsConfig
from training.factorization.chunks import Chunk, chunked, rows_of, with_end
from training.factorization.estimator import Estimator, Factorization, Finished, State
from training.factorization.exchange import spread_rows, total
from training.factorization.shards import Shard, Triples
from training.models.fold_in import FoldIn

_CHUNK_ROWS = 1 << 18

_LEAST_SCALE = 1e-3
"""Where ratings say nothing of what is chosen, the order must remain."""


class ImplicitLeastSquares(Estimator):
    """Tables ``[rows, factors]``; what a user likes of an item is their product, about 0 to 1."""

    stops_early = False
    ranks = True

    def __init__(
        self, shard: Shard, config: IalsConfig, seed: int, device: torch.device, *, low: float, high: float
    ) -> None:
        self._shard = shard
        self._config = config
        self._range = low, high
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

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        """How much users like items, about 0 to 1."""
        return (self.users[user] * self.items[item]).sum(-1)

    def finish(self) -> Finished:
        """Solve users with newer ratings weighing more. A sweep after it begins as if it had not been.

        What is liked is put on the scale of ratings, so that scores mean something to people: the order in which a user's items
        come does not change by it.
        """
        config = self._config
        self._solve(self._by_user, self.users, self.items, half_life=config.half_life)
        spread_rows(self.users, self._shard.user_bounds)
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
        nothing = torch.zeros_like(self.items[:, 0])
        return Finished(
            Factorization(self.mean, self.users * scale, self.items, bias, nothing), FoldIn(preference=preference)
        )

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

    def _rating_scale(self) -> tuple[float, Tensor]:
        """How many stars more a liking of one means, by least squares within users over all ratings, and what each user gives
        besides ``[users]``.
        """
        shard, device = self._shard, self.users.device
        user = torch.from_numpy(shard.by_user.row).long().to(device)
        item = torch.from_numpy(shard.by_user.column).long().to(device)
        rating = torch.from_numpy(shard.by_user.value).to(device) - shard.mean
        parts = [slice(n, n + _CHUNK_ROWS) for n in range(0, len(user), _CHUNK_ROWS)]
        products = [(self.users[user[part]] * self.items[item[part]]).sum(-1) for part in parts]
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


def liked_from(config: IalsConfig, low: float, high: float) -> float:
    """The rating from which on more is liked more; at and below it nothing is."""
    return low + config.liked_share * (high - low)


def _weighted(ratings: Triples, floor: float, high: float) -> Triples:
    """What was liked at all, with weights above 0 to 1, in the order in which it came."""
    weight = (ratings.value - floor) / (high - floor)
    liked = weight > 0
    return Triples(ratings.row[liked], ratings.column[liked], weight[liked].astype("float32"))
