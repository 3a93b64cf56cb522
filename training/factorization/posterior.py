"""Many draws of a factorization as one: their mean score is a product of factors again, of as many as all draws have together,
and few of those carry all but a trace of it.
"""

import torch
from torch import Tensor

from training.factorization.estimator import Factorization

_SPARE, _ROUNDS = 16, 4
"""Of the randomized decomposition: Halko, Martinsson and Tropp, *Finding Structure with Randomness*, 2011."""


def posterior_mean(draws: list[tuple[Tensor, Tensor]], mean: float, factors: int) -> Factorization:
    """The factorization of ``factors`` factors that is nearest to the mean of draws.

    Args:
        draws: Tables ``[rows, k + 1]`` of vector and bias; row 0 is what unknown ids have, and goes into the biases, so that
            an unknown user gets what is left for the average one.
        mean: Of the ratings: what the draws' scores are counted from.
    """
    users, items = (torch.stack([draw[side] for draw in draws]) for side in range(2))
    of_user, of_item = users[:, :1], items[:, :1]
    user, item = (users - of_user)[..., :-1], (items - of_item)[..., :-1]
    user_bias = (users - of_user)[..., -1] + (user * of_item[..., :-1]).sum(-1)
    item_bias = (items - of_item)[..., -1] + (item * of_user[..., :-1]).sum(-1)
    shared = of_user[..., -1] + of_item[..., -1] + (of_user[..., :-1] * of_item[..., :-1]).sum(-1)
    left, right = _truncated(_side_by_side(user), _side_by_side(item) / len(draws), factors)
    return Factorization(mean + float(shared.mean()), left, right, user_bias.mean(0), item_bias.mean(0))


def _side_by_side(draws: Tensor) -> Tensor:
    """``[draws, rows, k]`` as ``[rows, draws * k]``."""
    return draws.permute(1, 0, 2).flatten(1)


def _truncated(left: Tensor, right: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """``a [n, f], b [m, f]`` with ``a b'`` nearest to ``left right'``, without that product ever standing in memory."""
    width = min(factors + _SPARE, *left.shape, *right.shape)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(right.shape[0], width, generator=random).to(left)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(left @ (right.T @ basis)).Q
        basis = torch.linalg.qr(right @ (left.T @ basis)).Q
    small, size, turned = torch.linalg.svd(left @ (right.T @ basis), full_matrices=False)
    root = size.sqrt()
    kept = min(factors, width)
    a, b = (small * root)[:, :kept], (basis @ turned.T * root)[:, :kept]
    missing = factors - kept
    return torch.nn.functional.pad(a, (0, missing)), torch.nn.functional.pad(b, (0, missing))
