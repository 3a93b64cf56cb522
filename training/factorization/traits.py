"""What is known of items, as features: categories as ones and zeros, numbers as smooth bumps along their range."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEPARATOR = "|"
"""Between the categories of one item."""

_BUMPS, _WIDTH = 32, 2.0
"""Of a number, evenly over its values; and how wide each is, in distances between two of them."""


def category_features(values: Sequence[str | None]) -> NDArray[np.float32]:
    """``[n, categories]``, each row of length one; zeros where nothing is known.

    Args:
        values: For each item its categories, with ``SEPARATOR`` between them.
    """
    of_items = [sorted({word.strip() for word in (value or "").split(SEPARATOR)} - {""}) for value in values]
    names = {name: column for column, name in enumerate(sorted({name for names in of_items for name in names}))}
    features = np.zeros((len(values), len(names)), dtype=np.float32)
    for row, mine in enumerate(of_items):
        features[row, [names[name] for name in mine]] = max(len(mine), 1) ** -0.5
    return features


def placed(features: NDArray[np.float32], index: NDArray[np.int64], rows: int) -> NDArray[np.float32]:
    """Features ``[n, f]`` as rows ``index`` ``[n]`` of a table ``[rows, f]``; other rows are what these are on average."""
    table = np.zeros((rows, features.shape[1]), dtype=np.float32)
    if len(index):
        table[:] = features.mean(axis=0)
        table[index] = features
    return table


def number_features(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """``[n, bumps]``: how near each value is to places along the range; no columns where all are the same."""
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if low == high:
        return np.zeros((len(values), 0), dtype=np.float32)
    places, distance = np.linspace(low, high, _BUMPS, retstep=True)
    return np.exp(-0.5 * ((values[:, None] - places) / (_WIDTH * distance)) ** 2).astype(np.float32)
