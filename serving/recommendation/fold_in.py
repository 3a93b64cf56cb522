"""Users that training did not know, from the ratings that they bring."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import FactorParameters, Preference

_LEAST_DAMPING = 1e-6
"""Without any, ratings fewer than the factors would have no single solution."""

FoldIn = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float32]]
"""From rows of the item table ``[m]``, m >= 1, and ratings ``[m]``, oldest first, to a vector and bias ``[factors + 1]``."""


def fold_in_of(
    items: NDArray[np.float32], parameters: FactorParameters, prior: NDArray[np.float32] | None = None
) -> FoldIn:
    """How a model's users are folded in.

    Args:
        items: Rows of vector and bias ``[items, factors + 1]``.
        prior: The covariance ``[factors + 1, factors + 1]`` of users' vectors and biases, in units of the noise's variance.
    """
    if parameters.preference is not None:
        return LikedFoldIn(items, parameters.mean, parameters.preference)
    if prior is None:
        damping = np.full(items.shape[1], max(parameters.vector_damping, _LEAST_DAMPING))
        damping[-1] = max(parameters.bias_damping, _LEAST_DAMPING)
        return RatedFoldIn(items, parameters.mean, np.diag(1 / np.sqrt(damping)))
    root = np.linalg.cholesky(prior.astype(np.float64)).astype(np.float64, copy=False)
    return RatedFoldIn(items, parameters.mean, root)


class RatedFoldIn:
    """What training would find with all items held fixed: a ridge regression, which is the posterior mean of a normal prior.

    Args:
        root: ``R [factors + 1, factors + 1]`` of the prior's covariance ``R R'``.
    """

    def __init__(self, items: NDArray[np.float32], mean: float, root: NDArray[np.float64]) -> None:
        self._items = items
        self._mean = mean
        self._root = root

    def __call__(self, rows: NDArray[np.int64], ratings: NDArray[np.float64]) -> NDArray[np.float32]:
        design = self._items[rows].astype(np.float64)
        above = ratings - self._mean - design[:, -1]
        design[:, -1] = 1.0
        design = design @ self._root
        if len(design) < design.shape[1]:  # the same solution, from the smaller system
            kernel = design @ design.T
            kernel[np.diag_indices_from(kernel)] += 1.0
            return (self._root @ (design.T @ np.linalg.solve(kernel, above))).astype(np.float32)
        gram = design.T @ design
        gram[np.diag_indices_from(gram)] += 1.0
        return (self._root @ np.linalg.solve(gram, design.T @ above)).astype(np.float32)


class LikedFoldIn:
    """For a factorization of what users choose: see ``driftwheel.contracts.Preference``."""

    def __init__(self, items: NDArray[np.float32], mean: float, preference: Preference) -> None:
        vectors = items[:, :-1]
        self._items = items
        self._mean = mean
        self._preference = preference
        self._background = preference.unobserved_weight * (vectors.T @ vectors).astype(np.float64)
        self._damping = preference.damping * preference.unobserved_weight * len(items)

    def __call__(self, rows: NDArray[np.int64], ratings: NDArray[np.float64]) -> NDArray[np.float32]:
        preference, design = self._preference, self._items[rows].astype(np.float64)
        weights = self._weights(ratings)
        liked = weights > 0
        vectors = design[liked, :-1]
        gram = self._background + (vectors * weights[liked, None]).T @ vectors
        gram[np.diag_indices_from(gram)] += self._damping + preference.damping * len(vectors)
        vector = preference.scale * np.linalg.solve(gram, weights[liked] @ vectors)
        generosity = (ratings - self._mean).sum() / (len(ratings) + preference.bias_damping)
        bias = generosity - (design[:, :-1] @ vector).mean()
        return np.append(vector, bias).astype(np.float32)

    def _weights(self, ratings: NDArray[np.float64]) -> NDArray[np.float64]:
        """0 for what is not liked; of what is, the newest weighs most."""
        preference = self._preference
        weights = np.maximum(ratings - preference.liked_from, 0.0) / preference.span
        if preference.half_life > 0:
            liked = weights > 0
            age = np.cumsum(liked[::-1])[::-1] - 1
            weights[liked] *= np.exp2(-age[liked] / preference.half_life)
        return weights
