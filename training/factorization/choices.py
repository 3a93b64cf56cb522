"""Who rated what, whatever they thought of it, as features of users and items: people choose what they expect to like. Koren,
*Factorization Meets the Neighborhood*, 2008, has it in the score (SVD++); as a prior it leaves the score as it is.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from training.factorization.exchange import total
from training.factorization.shards import Shard, Triples

_ROUNDS, _SPARE = 4, 16
"""As in ``posterior``."""
_DAMPING = 3.0
"""Ratings that an item's are thinned by: who rated a film that hardly anybody did says little about it."""


def choice_features(shard: Shard, factors: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features ``[users, factors]`` and ``[items, factors]``, double precision, or fewer columns for a small table: the
    strongest singular vectors of the table of ones and zeros by their values, after rows and columns were brought to about
    the same length. All ranks call it together.
    """
    of_users, of_items = _Choices(shard.by_user, shard.users, device), _Choices(shard.by_item, shard.items, device)
    user_weights = of_users.counts.clamp(min=1.0).rsqrt()[:, None]
    item_weights = (of_items.counts + _DAMPING).rsqrt()[:, None]

    def by_item(table: Tensor) -> Tensor:
        return user_weights * (of_users @ (item_weights * table))

    def by_user(table: Tensor) -> Tensor:
        return item_weights * (of_items @ (user_weights * table))

    width = min(factors + _SPARE, shard.users - 1, shard.items - 1)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(shard.items, width, generator=random, dtype=torch.double).to(device)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(by_user(torch.linalg.qr(by_item(basis)).Q)).Q
    users, strengths, turned = torch.linalg.svd(by_item(basis), full_matrices=False)
    kept = slice(0, factors)
    return (users * strengths)[:, kept], (basis @ turned.T * strengths)[:, kept]


class _Choices:
    """The table of ones and zeros ``[rows, columns]``, of which a rank holds its own rows."""

    def __init__(self, ratings: Triples, rows: int, device: torch.device) -> None:
        row = torch.from_numpy(ratings.row).long()
        counts = torch.bincount(row, minlength=rows)
        self._columns = torch.from_numpy(ratings.column).long()[torch.argsort(row, stable=True)].to(device)
        self._starts = (counts.cumsum(0) - counts).to(device)
        self.counts = total(counts.double().to(device))
        """Ratings of each row, over all ranks."""

    def __matmul__(self, table: Tensor) -> Tensor:
        """The product with ``[columns, width]``, whole on every rank."""
        return total(embedding_bag(self._columns, table, self._starts, mode="sum"))
