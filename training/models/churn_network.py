"""A network for tables: embedded categories, standardised numbers, and missing values handled inside."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MOST_DEVIATIONS = 10.0
"""Numbers further from the mean are pulled in to this many standard deviations, infinite ones too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnNetworkShape:
    """What it takes to build the module before its weights are read."""

    categories: tuple[int, ...]
    """Rows of each category's table, the unknown included."""
    numbers: int
    embedding: int
    """The width of a category's vector."""
    hidden: tuple[int, ...]
    """The widths of the hidden layers; none leaves a logistic regression."""
    dropout: float


class ChurnNetwork(nn.Module):
    """A multi-layer perceptron beside a linear path, over category vectors, standardised numbers and missing flags.

    Category index 0 (unknown or missing) has the zero vector. A missing number (NaN) counts as the mean, and its flag
    is 1. ``number_mean`` and ``number_deviation`` ``[numbers]`` are buffers, taken from the training split.
    """

    number_mean: Tensor
    number_deviation: Tensor

    def __init__(self, shape: ChurnNetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = nn.ModuleList(nn.Embedding(rows, shape.embedding, padding_idx=0) for rows in shape.categories)
        self.register_buffer("number_mean", torch.zeros(shape.numbers))
        self.register_buffer("number_deviation", torch.ones(shape.numbers))
        width = len(shape.categories) * shape.embedding + 2 * shape.numbers
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, *shape.hidden[:-1]), shape.hidden, strict=True) if shape.hidden else ():
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(shape.dropout)]
        self.hidden = nn.Sequential(*layers)
        self.deep = nn.Linear(shape.hidden[-1] if shape.hidden else width, 1)
        self.wide = nn.Linear(width, 1)

    def forward(self, category: Tensor, number: Tensor) -> Tensor:
        """Probabilities float32 ``[n]`` of leaving.

        Args:
            category: int64 ``[n, categories]``.
            number: float32 ``[n, numbers]``, NaN where missing.
        """
        return torch.sigmoid(self.logits(category, number))

    def logits(self, category: Tensor, number: Tensor) -> Tensor:
        """Log odds float32 ``[n]``: what training follows."""
        features = self._features(category, number)
        return (self.deep(self.hidden(features)) + self.wide(features)).squeeze(-1)

    def _features(self, category: Tensor, number: Tensor) -> Tensor:
        missing = torch.isnan(number)
        standard = (number - self.number_mean) / self.number_deviation
        standard = torch.where(missing, torch.zeros_like(standard), standard.clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS))
        vectors = [embed(category[:, column]) for column, embed in enumerate(self.embeddings)]
        return torch.cat([standard, missing.to(standard.dtype), *vectors], dim=-1)
