"""What is known of a user before any rating: the normal distribution that the users of training are best explained by, given
the items. Users who come later are folded in with it, see ``serving.recommendation.fold_in``.
"""

import torch
from torch import Tensor

from training.factorization.chunks import Chunk, rows_of, with_end
from training.factorization.exchange import total

_ROUNDS = 10
_USERS = 4000
_LEAST_VARIANCE = 1e-6


def fit_user_prior(chunks: list[Chunk], items: Tensor, item_bias: Tensor, mean: float) -> Tensor:
    """The covariance ``[factors + 1, factors + 1]`` of users' vectors and biases about zero, as a multiple of the noise's
    variance: empirical Bayes by expectation maximization (Dempster, Laird and Rubin, 1977) over up to 4,000 users
    of each rank. All ranks call it together.

    Args:
        chunks: The rank's ratings by user; it may have none.
        items: Vectors ``[items, factors]``, with ``item_bias`` ``[items]``.
    """
    design = with_end(torch.cat([items, torch.ones_like(items[:, :1])], dim=1)).double()
    bias = with_end(item_bias[:, None]).double()
    identity = torch.eye(design.shape[1], dtype=torch.double, device=items.device)
    seen = spread_users(chunks)
    users, ratings = (
        float(total(torch.tensor(float(count), dtype=torch.double, device=items.device)))
        for count in (sum(len(c.rows) for c in seen), sum(int((c.columns < len(items)).sum()) for c in seen))
    )
    covariance, noise = identity * 0.1, 0.5
    for _ in range(_ROUNDS):
        second = torch.zeros_like(identity)
        squared = torch.zeros((), dtype=torch.double, device=items.device)
        inverse = torch.linalg.inv(covariance)
        for chunk in seen:
            x = rows_of(design, chunk.columns)
            target = chunk.values.double() - mean * (chunk.columns < len(items)) - rows_of(bias, chunk.columns)[..., 0]
            gram = torch.bmm(x.transpose(1, 2), x)
            posterior = torch.linalg.inv(inverse + gram / noise)
            user = torch.bmm(posterior, torch.bmm(x.transpose(1, 2), target[..., None])) / noise
            second += posterior.sum(0) + (user @ user.transpose(1, 2)).sum(0)
            squared += (target - torch.bmm(x, user)[..., 0]).square().sum() + (posterior * gram).sum()
        covariance = total(second) / users + _LEAST_VARIANCE * identity
        noise = float(total(squared)) / ratings
    return (covariance / noise).float()


def spread_users(chunks: list[Chunk]) -> list[Chunk]:
    """Every n-th user, counted on from chunk to chunk: those who rated much stand in chunks of a few users each."""
    step, passed, picked = max(1, -(-sum(len(chunk.rows) for chunk in chunks) // _USERS)), 0, list[Chunk]()
    for chunk in chunks:
        mine = slice(-passed % step, None, step)
        passed += len(chunk.rows)
        picked.append(Chunk(chunk.rows[mine], chunk.columns[mine], chunk.values[mine], chunk.counts[mine]))
    return [chunk for chunk in picked if len(chunk.rows)]
