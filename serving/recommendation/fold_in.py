"""Users that training did not know, from the ratings that they bring."""

import numpy as np
from numpy.typing import NDArray

_LEAST_DAMPING = 1e-6
"""Without any, ratings fewer than the factors would have no single solution."""


def fold_in(
    items: NDArray[np.float32],
    residuals: NDArray[np.float64],
    *,
    vector_damping: float,
    bias_damping: float,
) -> NDArray[np.float32]:
    """The user vector and bias, float32 ``[factors + 1]``, that training would find with all items held fixed.

    A ridge regression: it minimises ``sum((residuals - vectors @ u - b)^2) + vector_damping |u|^2 + bias_damping b^2``.

    Args:
        items: The rated items' vectors (and biases, which are not looked at), float32 ``[m, factors + 1]``, m >= 1.
        residuals: What the ratings are above mean and item bias, ``[m]``.
    """
    design = items.astype(np.float64)
    design[:, -1] = 1.0
    damping = np.full(design.shape[1], max(vector_damping, _LEAST_DAMPING))
    damping[-1] = max(bias_damping, _LEAST_DAMPING)
    if len(design) < design.shape[1]:  # the same solution, from the smaller system
        kernel = (design / damping) @ design.T
        kernel[np.diag_indices_from(kernel)] += 1.0
        solution = (design.T @ np.linalg.solve(kernel, residuals)) / damping
    else:
        gram = design.T @ design
        gram[np.diag_indices_from(gram)] += damping
        solution = np.linalg.solve(gram, design.T @ residuals)
    return solution.astype(np.float32)
