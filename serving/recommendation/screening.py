"""Which groups of items can hold a user's best ones: upper bounds from 8-bit products.

Item vectors are rounded to 8 bits and user vectors to 7, and the products of those are exact whole numbers. What rounding
can have changed is bounded by Cauchy and Schwarz: with ``v = s q + e`` and ``u = t p + d``,

    |u.v - s t p.q| <= |t p| |e| + |d| |v|

So the largest product of a group, with the group's largest ``|e|`` and ``|v|``, bounds the score of every item in it, and
groups whose bound is below the k-th best score found so far need not be looked at. The bias is one more column.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import BundleError
from serving.recommendation.product import Product

_TILE_ITEMS = 16_384
"""Items of one product: with 32 users its result is 2 MB, which the next step still finds in the cache."""
_TILE_GROUPS = 512
"""The most groups of a tile: the small product that bounds them then stays on the calling thread, in every BLAS."""
_COLUMN_STEP = 16
"""The integer kernels are fastest, by a third, when the inner dimension is a multiple of this."""
_ITEM_LEVELS = 127
_USER_LEVELS = 64
"""Not 127: see Product."""
_OFFSET = 128
"""From int8 to uint8."""
_ROUNDING = 2.0**-22
"""What 32-bit floats may round away in each of several additions, relative to the size of what is added."""
_NOWHERE = np.iinfo(np.int32).min


@dataclass(frozen=True, slots=True)
class Excluded:
    """Pairs of a user (position in the batch) and an item (row), sorted by item; both int64 ``[pairs]``."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _RoundedUsers:
    levels: NDArray[np.int8]
    """``[columns, b]``."""
    scale: NDArray[np.float32]
    """What one step of the integer product is worth, ``[b]``."""
    error: NDArray[np.float32]
    """What to multiply the groups' ``spread`` by, ``[spreads, b]``."""


def check_finite(items: NDArray[np.float32], first_row: int = 0) -> None:
    """Refuse items that cannot be ranked.

    Raises:
        BundleError: An item's vector or bias is not a finite number.
    """
    if not np.isfinite(items).all():
        row = first_row + int(np.flatnonzero(~np.isfinite(items).all(axis=1))[0])
        raise BundleError(f"the factors of the item with index {row + 1} are not all finite numbers")


class Screen:
    """The rounded catalogue: a quarter of its size, in memory.

    Group ``G`` holds the items ``G * group_items`` to ``(G + 1) * group_items - 1``. Within a tile, the first items of
    all groups come first, then all second ones and so on, so that a group's maximum is an elementwise maximum of long
    rows.

    Args:
        items: Rows of vector and bias, float32 ``[n, factors + 1]``.
        group_items: Items of a group.

    Raises:
        BundleError: An item's vector or bias is not a finite number.
    """

    def __init__(self, items: NDArray[np.float32], group_items: int) -> None:
        self._product = Product.of_integers()
        self.count = len(items)
        self.group_items = group_items
        self.groups = -(-self.count // group_items)
        self._tile_groups = min(_TILE_ITEMS // group_items, _TILE_GROUPS, self.groups)
        self.tiles = -(-self.groups // self._tile_groups)
        self._factors = items.shape[1] - 1
        self._slack = _ROUNDING * (self._factors + 8)
        columns = -(-items.shape[1] // _COLUMN_STEP) * _COLUMN_STEP
        self._levels = np.zeros((self.tiles, self._tile_groups * group_items, columns), dtype=np.uint8)
        self._spread = np.ones((self.tiles, self._tile_groups, 5), dtype=np.float32)
        """What the error of a bound is made of: the largest ``|e|`` and ``|v|`` of a group's items, what their biases
        lose by rounding and by being left out, and 1."""
        self._measure(items)
        for tile in range(self.tiles):
            self._round(tile, items)
        rows = np.arange(self.count, self.tiles * self._tile_groups * group_items, dtype=np.int64)
        self._padding = self._place(rows)[1]

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self._levels.nbytes + self._spread.nbytes

    def _measure(self, items: NDArray[np.float32]) -> None:
        """Choose what one level of an item's vector and of its bias is worth."""
        longest, low, high = 0.0, np.inf, -np.inf
        for start in range(0, self.count, _TILE_ITEMS):
            part = items[start : start + _TILE_ITEMS]
            check_finite(part, start)
            longest = max(longest, float(np.abs(part[:, :-1]).max(initial=0.0)))
            low, high = min(low, float(part[:, -1].min())), max(high, float(part[:, -1].max()))
        # No vector is longer; the products' offset, which is taken off again, is of this size too.
        self._longest = 2 * longest * self._factors**0.5
        self._largest_bias = max(abs(low), abs(high))
        self._step = longest / _ITEM_LEVELS or 1.0
        self._middle_bias = (low + high) / 2
        self._bias_step = (high - low) / 2 / _ITEM_LEVELS

    def _round(self, tile: int, items: NDArray[np.float32]) -> None:
        """Fill one tile, and note how far its groups' items are from what stands there."""
        start = tile * self._tile_groups * self.group_items
        part = np.zeros((self._tile_groups * self.group_items, self._factors + 1), dtype=np.float32)
        there = items[start : start + len(part)]
        part[: len(there)] = there
        part[: len(there), -1] -= self._middle_bias
        vectors, biases = part[:, :-1], part[:, -1]
        levels = np.rint(vectors / self._step)
        bias_levels = np.rint(biases / self._bias_step) if self._bias_step else np.zeros_like(biases)
        measures = (
            np.linalg.norm(vectors - levels * self._step, axis=1),
            np.linalg.norm(vectors, axis=1),
            np.abs(biases - bias_levels * self._bias_step),
            np.abs(biases),
        )
        for column, measure in enumerate(measures):
            self._spread[tile, :, column] = measure.reshape(-1, self.group_items).max(axis=1)
        rounded = np.column_stack([levels, bias_levels]) + _OFFSET
        by_place = rounded.reshape(self._tile_groups, self.group_items, -1).swapaxes(0, 1)
        self._levels[tile, :, : self._factors + 1] = by_place.reshape(len(part), -1)

    def _place(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tile of each item, and its row there."""
        group, place = np.divmod(items, self.group_items)
        tile, group_in_tile = np.divmod(group, self._tile_groups)
        return tile, place * self._tile_groups + group_in_tile

    def bounds(
        self, users: NDArray[np.float32], excluded: Excluded, first_tile: int, end_tile: int
    ) -> NDArray[np.float32]:
        """What no item of a group scores more than, user's bias and mean left out; hugely negative where all are excluded.

        Args:
            users: Vectors, float32 ``[b, factors]``, finite.
            first_tile: Only the groups of these tiles are looked at.

        Returns:
            float32 ``[groups of the tiles, b]``.
        """
        rounded = self._rounded(users)
        bounds = np.empty((end_tile - first_tile, self._tile_groups, len(users)), dtype=np.float32)
        tiles, rows = self._place(excluded.items)
        starts = np.searchsorted(tiles, np.arange(first_tile, end_tile + 1)).tolist()
        for position, tile in enumerate(range(first_tile, end_tile)):
            products = self._product(self._levels[tile], rounded.levels)
            some = slice(starts[position], starts[position + 1])
            if some.start < some.stop:
                products[rows[some], excluded.users[some]] = _NOWHERE
            if tile == self.tiles - 1:
                products[self._padding] = _NOWHERE
            largest = np.maximum.reduce(products.reshape(self.group_items, self._tile_groups, -1), axis=0)
            np.matmul(self._spread[tile], rounded.error, out=bounds[position])
            bounds[position] += np.multiply(largest, rounded.scale, dtype=np.float32, casting="same_kind")
        there = min(end_tile * self._tile_groups, self.groups) - first_tile * self._tile_groups
        return bounds.reshape(-1, len(users))[:there]

    def _rounded(self, users: NDArray[np.float32]) -> _RoundedUsers:
        """Round user vectors so that one level of the bias column is worth a whole number of levels."""
        finest = np.abs(users).max(axis=1, initial=0.0) / _USER_LEVELS
        finest = np.maximum(finest, np.finfo(np.float32).tiny)
        with np.errstate(over="ignore"):
            bias_level = np.minimum(np.floor(self._bias_step / (self._step * finest)), _USER_LEVELS)
        step = np.where(bias_level > 0, self._bias_step / (self._step * np.maximum(bias_level, 1.0)), finest)
        vector_levels = np.rint(users / step[:, None])
        levels = np.zeros((self._levels.shape[2], len(users)), dtype=np.int8)
        levels[: self._factors] = vector_levels.T
        levels[self._factors] = bias_level
        scale = step * self._step
        near = vector_levels * step[:, None]
        lengths = np.linalg.norm(users, axis=1)
        offset = _OFFSET * levels.sum(axis=0, dtype=np.int32) * scale
        rounding = self._slack * (lengths * self._longest + self._largest_bias)
        knows_biases = bias_level > 0
        error = [
            np.linalg.norm(near, axis=1),
            np.linalg.norm(users - near, axis=1),
            np.where(knows_biases, 1.0, 0.0),
            np.where(knows_biases, 0.0, 1.0),
            self._middle_bias - offset + rounding,
        ]
        return _RoundedUsers(levels, scale.astype(np.float32), np.stack(error).astype(np.float32))
