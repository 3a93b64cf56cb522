"""What a row of a table is expected to be before its own ratings count: a linear function of what else is known of it, drawn
with all the rest. Simm et al., *Macau: Scalable Bayesian Factorization with High-Dimensional Side Information*, 2017; here
over rows and not over weights, as Adams, Dahl and Murray, *Incorporating Side Information in Probabilistic Matrix
Factorization with Gaussian Processes*, 2010, so that features cost as much as they have directions, however many they are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LEAST = 1e-6
"""Directions weaker than this share of all are rounding."""
_FIRST_DAMPING = 4.0
"""Before the first draw; forgotten within a few sweeps."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Features of rows, turned so that they do not overlap."""

    vectors: Tensor
    """Float32 ``[rows, r]``, orthonormal."""
    strengths: Tensor
    """Float32 ``[r]``: squared lengths of the features along the vectors, 1 for the average row over all of them."""


def directions(features: Tensor) -> Directions:
    """Those of a table ``[rows, f]``. What all rows share is no feature: columns are centred."""
    centred = features.double() - features.double().mean(0)
    squared, turned = torch.linalg.eigh(centred.T @ centred)
    strong = squared > _LEAST * squared.sum()
    squared = squared[strong]
    vectors = centred @ turned[:, strong] / squared.sqrt()
    return Directions(vectors.float().contiguous(), (squared * len(features) / squared.sum()).float())


class Expectation:
    """``mean`` ``[rows, k]``: what one kind of features adds to the rows' prior mean. A priori its weights have the rows' own
    precision times ``damping``, so that a feature that says nothing is damped away.
    """

    def __init__(self, given: Directions, width: int) -> None:
        self._given = given
        self.mean = given.vectors.new_zeros(len(given.vectors), width)
        self.damping = _FIRST_DAMPING

    def draw(self, rest: Tensor, precision: Tensor, random: np.random.Generator) -> None:
        """Draw it, then its damping, which a gamma distribution as vague as one weight is put on.

        Args:
            rest: What it has to explain ``[rows, k]``: the rows without everything else that is expected of them.
            precision: Of the rows about their means ``[k, k]``.
        """
        vectors, strengths = self._given.vectors, self._given.strengths[:, None]
        noise = torch.from_numpy(random.standard_normal(rest.shape, dtype=np.float32)).to(rest.device)
        root = torch.linalg.cholesky(precision)
        # Turned after it was drawn, the noise does not depend on the sign or the order of the directions.
        noise, explained = (vectors.T @ torch.cat([noise, rest], dim=1)).split(rest.shape[1], dim=1)
        turned = torch.linalg.solve_triangular(root.T, noise.T, upper=True).T
        share = strengths / (strengths + self.damping)
        drawn = share * explained + share.sqrt() * turned
        squared = float((drawn @ precision * drawn / strengths).sum(dtype=torch.double))
        self.damping = float(random.standard_gamma((1 + drawn.numel()) / 2) / ((1 + squared) / 2))
        self.mean = vectors @ drawn
