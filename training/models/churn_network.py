"""A network for tables: embedded categories, encoded numbers, missing values and calibration handled inside."""

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
    bins: int = 0
    """Pieces of each number's piecewise linear encoding; none leaves the standardised number alone."""
    heads: int = 1
    """Multi-layer perceptrons side by side, whose log odds are averaged."""


class ChurnNetwork(nn.Module):
    """Multi-layer perceptrons beside a linear path, over category vectors, encoded numbers and missing flags.

    Category index 0 (unknown or missing) has the zero vector. A missing number (NaN) counts as the mean, and its flag
    is 1. A number goes in standardised, and as how far it has come through each of its bins, 0 to 1 (the piecewise
    linear encoding of Gorishniy, Rubachev and Babenko, *On Embeddings for Numerical Features in Tabular Deep Learning*,
    2022): so the linear path alone is an additive model of linear splines.

    The heads differ by how they begin and what dropout leaves them; each is trained by itself (an ensemble in one graph).
    Probabilities are calibrated by Platt's scaling, ``sigmoid(scale * log odds + bias)``.

    Buffers, taken from the training split: ``number_mean`` and ``number_deviation`` ``[numbers]``; ``number_edges``
    ``[numbers, bins + 1]``, rising, the last repeated where there are fewer. From the valid split:
    ``calibration_scale`` and ``calibration_bias``, scalars.
    """

    number_mean: Tensor
    number_deviation: Tensor
    number_edges: Tensor
    calibration_scale: Tensor
    calibration_bias: Tensor

    def __init__(self, shape: ChurnNetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = nn.ModuleList(nn.Embedding(rows, shape.embedding, padding_idx=0) for rows in shape.categories)
        self.register_buffer("number_mean", torch.zeros(shape.numbers))
        self.register_buffer("number_deviation", torch.ones(shape.numbers))
        self.register_buffer("number_edges", torch.zeros(shape.numbers, shape.bins + 1))
        self.register_buffer("calibration_scale", torch.ones(()))
        self.register_buffer("calibration_bias", torch.zeros(()))
        width = len(shape.categories) * shape.embedding + (2 + shape.bins) * shape.numbers
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, *shape.hidden[:-1]), shape.hidden, strict=True) if shape.hidden else ():
            layers += [_ParallelLinear(shape.heads, inputs, outputs), nn.ReLU(), nn.Dropout(shape.dropout)]
        layers.append(_ParallelLinear(shape.heads, shape.hidden[-1] if shape.hidden else width, 1))
        self.deep = nn.Sequential(*layers)
        self.wide = nn.Linear(width, 1)

    def forward(self, category: Tensor, number: Tensor) -> Tensor:
        """Calibrated probabilities float32 ``[n]`` of leaving.

        Args:
            category: int64 ``[n, categories]``.
            number: float32 ``[n, numbers]``, NaN where missing.
        """
        return torch.sigmoid(self.calibration_scale * self.logits(category, number) + self.calibration_bias)

    def logits(self, category: Tensor, number: Tensor) -> Tensor:
        """Log odds float32 ``[n]`` before calibration: the mean of the heads'."""
        return self.head_logits(category, number).mean(dim=0)

    def head_logits(self, category: Tensor, number: Tensor) -> Tensor:
        """The log odds of each head, float32 ``[heads, n]``: what training follows."""
        features = self.features(category, number)
        return (self.deep(features.unsqueeze(0)) + self.wide(features)).squeeze(-1)

    def features(self, category: Tensor, number: Tensor) -> Tensor:
        """What all heads see: encoded numbers, missing flags and category vectors, float32 ``[n, width]``."""
        missing = torch.isnan(number)
        present = torch.where(missing, self.number_mean, number)
        standard = (present - self.number_mean) / self.number_deviation
        standard = standard.clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        vectors = [embed(category[:, column]) for column, embed in enumerate(self.embeddings)]
        pieces = [self._pieces(present)] if self.shape.bins else []
        return torch.cat([standard, missing.to(standard.dtype), *pieces, *vectors], dim=-1)

    def _pieces(self, present: Tensor) -> Tensor:
        """How far each number has come through each of its bins, float32 ``[n, numbers * bins]``."""
        low, high = self.number_edges[:, :-1], self.number_edges[:, 1:]
        width = torch.where(high > low, high - low, torch.ones_like(low))  # a bin without width stays at 0
        within = torch.minimum(torch.maximum(present.unsqueeze(-1), low), high)
        return ((within - low) / width).flatten(start_dim=1)


class _ParallelLinear(nn.Module):
    """As many linear layers as there are heads: ``[heads or 1, n, inputs]`` to ``[heads, n, outputs]``."""

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # as nn.Linear begins
        self.weight = nn.Parameter(torch.empty(heads, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, 1, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.matmul(rows, self.weight) + self.bias
