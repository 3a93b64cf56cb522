"""How a factorization ranks while it is being solved: NDCG@10 over all items on the validation split, each rank for its own
users.
"""

import numpy as np
import torch
from torch import Tensor

from training.factorization.estimator import Factorization
from training.factorization.exchange import total
from training.factorization.shards import Shard, Triples
from training.metrics import Relevant, user_metrics

_CUTOFF = 10
_MOST_FLOATS = 1 << 24
"""Scores that stand in memory at once."""


class RankValidation:
    """One rank's users of training who rated anything of the validation split high.

    Args:
        valid: The whole validation split.
        first, end: This rank's users: from here, up to there.
        relevant_from: The rating from which on an item counts.
        most_users: Of so many evenly spread ones at most.
    """

    def __init__(
        self, shard: Shard, valid: Triples, *, first: int, end: int, relevant_from: float, most_users: int
    ) -> None:
        good = (valid.row >= first) & (valid.row < end) & (valid.column > 0) & (valid.value >= relevant_from)
        asked = np.unique(valid.row[good])
        self._asked = asked[:: max(1, -(-len(asked) // most_users))]
        good &= np.isin(valid.row, self._asked)
        self._relevant = Relevant(
            np.searchsorted(self._asked, valid.row[good]).astype(np.int64), valid.column[good].astype(np.int64)
        )
        seen = np.isin(shard.by_user.row, self._asked)
        place = np.searchsorted(self._asked, shard.by_user.row[seen])
        order = np.argsort(place, kind="stable")
        self._seen_by, self._seen = place[order], shard.by_user.column[seen][order].astype(np.int64)
        self._items = shard.items

    def ndcg_loss(self, found: Factorization) -> float | None:
        """1 - NDCG@10, the mean over the users of all ranks, which call it together; None where there are none."""
        ranked = np.full((len(self._asked), _CUTOFF), -1)
        step = max(1, _MOST_FLOATS // self._items)
        for start in range(0, len(ranked), step):
            best = self._best(found, start, start + step)
            ranked[start : start + step, : best.shape[1]] = best.cpu().numpy()
        each = user_metrics(ranked, self._relevant, self._items, cutoffs=(_CUTOFF,))[f"ndcg_at_{_CUTOFF}"]
        gained, users = total(
            torch.tensor([each.sum(), float(len(each))], dtype=torch.double, device=found.users.device)
        )
        return 1 - float(gained / users) if users else None

    def _best(self, found: Factorization, start: int, end: int) -> Tensor:
        """The items that come first for a run of users ``[n, up to 10]``, -1 where a list ends early."""
        asked = torch.from_numpy(self._asked[start:end]).long().to(found.users.device)
        scores = found.users[asked] @ found.items.T + found.item_bias
        scores[:, 0] = -torch.inf
        mine = slice(*np.searchsorted(self._seen_by, [start, end]))
        scores[torch.from_numpy(self._seen_by[mine] - start), torch.from_numpy(self._seen[mine])] = -torch.inf
        best = scores.topk(min(_CUTOFF, self._items))
        return best.indices.where(best.values > -torch.inf, -1)
