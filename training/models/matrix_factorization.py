"""Biased matrix factorization: Koren, Bell and Volinsky, *Matrix Factorization Techniques for Recommender Systems*, 2009."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFactorizationShape:
    """What it takes to build the module before its weights are read."""

    users: int
    """Rows of the user table, the unknown included."""
    items: int
    """Rows of the item table, the unknown included."""
    factors: int
    low: float
    """The range that predictions are clipped to."""
    high: float


class MatrixFactorization(nn.Module):
    """``score = mean + user bias + item bias + user vector . item vector``, clipped to the rating range.

    Index 0 is the unknown: its vector and its bias are zero and get no gradient, so an unknown user falls back to the
    mean and the item's bias, an unknown item to the mean and the user's bias. The mean is learned, and so becomes that
    of the average user for the average item, not of the average rating: people who rate much rate lower, and most of
    those who come later are new.
    """

    def __init__(self, shape: MatrixFactorizationShape, table: Callable[..., nn.Embedding] | None = None) -> None:
        """Args:
        table: What makes a table from its rows, its columns and the ``spread`` of its first values, in place of one
            that is held whole.
        """
        super().__init__()
        make = table or _table
        self.shape = shape
        self.user_vector = make(shape.users, shape.factors, spread=0.05)
        self.item_vector = make(shape.items, shape.factors, spread=0.05)
        self.user_bias = make(shape.users, 1, spread=0.0)
        self.item_bias = make(shape.items, 1, spread=0.0)
        self.mean = nn.Parameter(torch.tensor((shape.low + shape.high) / 2))

    def forward(self, user_index: Tensor, item_index: Tensor) -> Tensor:
        """Scores float32 ``[n]`` of pairs of int64 indices ``[n]``."""
        return self.raw_scores(user_index, item_index).clamp(self.shape.low, self.shape.high)

    def raw_scores(self, user_index: Tensor, item_index: Tensor) -> Tensor:
        """Scores before they are clipped: what training follows (a clipped score has no gradient) and ranking sorts."""
        affinity = (self.user_vector(user_index) * self.item_vector(item_index)).sum(-1)
        return self.mean + self.user_bias(user_index).squeeze(-1) + self.item_bias(item_index).squeeze(-1) + affinity


def _table(rows: int, columns: int, *, spread: float) -> nn.Embedding:
    table = nn.Embedding(rows, columns, padding_idx=0)
    with torch.no_grad():
        table.weight.normal_(0.0, spread) if spread else table.weight.zero_()
        table.weight[0].zero_()
    return table
