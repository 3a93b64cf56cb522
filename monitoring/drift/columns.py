"""From the columns of a table to bins: what each monitor counts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from driftwheel.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.int64]

_LEVELS = np.array([0.01, 0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.99])
"""The reference's quantiles that bins end at; narrow at both ends, where a change of tails would drown otherwise."""

POPULARITY_BUCKETS = 20
TOP = 50
MISSING = "missing"


class Binning(Protocol):
    """Assigns every row of a column to one of ``labels``."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the bins are called, in order."""
        ...

    def assign(self, column: "pd.Series[Any]") -> Ints:
        """Positions ``[rows]`` in ``labels``."""
        ...


def as_numbers(column: "pd.Series[Any]") -> NDArray[np.float32]:
    """A column as float32, as models see it; what is no finite number becomes NaN."""
    import pandas as pd

    with np.errstate(over="ignore"):  # too large for float32 is infinite, as it would be to the model
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
        numbers = (
            column.to_numpy().astype(np.float32)
            if plain
            else pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float32, na_value=np.nan)
        )
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))


def is_missing(column: "pd.Series[Any]", *, number: bool) -> NDArray[np.bool_]:
    """Which rows hold nothing: null, an empty text, or (in a column of numbers) what is no number."""
    if number:
        return np.isnan(as_numbers(column))
    missing = column.isna().to_numpy(dtype=bool)
    return missing | (column.astype(object) == "").to_numpy(dtype=bool) if column.dtype.kind == "O" else missing


def indices(column: "pd.Series[Any]", vocabulary: Vocabulary) -> Ints:
    """Positions ``[rows]`` of values in a vocabulary's entries, -1 where they are not in it."""
    import pandas as pd

    entries = _entries(vocabulary)
    if vocabulary.is_text:
        return entries.get_indexer(pd.Index(column.astype(object))).astype(np.int64)
    # A column with gaps comes as floats.
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return entries.get_indexer(numbers).astype(np.int64)


@lru_cache(maxsize=64)
def _entries(vocabulary: Vocabulary) -> "pd.Index[Any]":
    """A vocabulary as pandas looks values up in it; a million ids take a second, and every window asks."""
    import pandas as pd

    return pd.Index(vocabulary.entries, dtype=object if vocabulary.is_text else np.float64)


@dataclass(frozen=True, slots=True)
class QuantileBins:
    """Bins between quantiles of the reference, and a last one for missing values."""

    edges: NDArray[np.float32]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, column: "pd.Series[Any]") -> "QuantileBins":
        """Bins with the quantiles of this column; of an empty column, a single one."""
        numbers = as_numbers(column)
        present = numbers[~np.isnan(numbers)]
        # Existing values as edges, so that float rounding cannot split a value that many rows share.
        edges = np.unique(np.quantile(present, _LEVELS, method="inverted_cdf")) if len(present) else present
        ends = ["", *(f"{edge:.4g}" for edge in edges)]
        inner = [f"{low} to {high}" if low else f"up to {high}" for low, high in pairwise(ends)]
        return cls(edges, (*inner, f"above {ends[-1]}" if len(edges) else "any number", MISSING))

    def assign(self, column: "pd.Series[Any]") -> Ints:
        numbers = as_numbers(column)
        bins = np.searchsorted(self.edges, numbers, side="left").astype(np.int64)
        bins[np.isnan(numbers)] = len(self.labels) - 1
        return bins


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """A bin for each category, one for unknown ones and one for missing values."""

    vocabulary: Vocabulary
    labels: tuple[str, ...]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "CategoryBins":
        return cls(vocabulary, (*map(str, vocabulary.entries), "unknown", MISSING))

    def assign(self, column: "pd.Series[Any]") -> Ints:
        found = indices(column, self.vocabulary)
        strange = np.flatnonzero(found < 0)
        if len(strange):
            missing = is_missing(column.iloc[strange], number=False)
            found[strange] = np.where(missing, len(self.labels) - 1, len(self.labels) - 2)
        return found


@dataclass(frozen=True, slots=True)
class PopularityBins:
    """Ids by how often the sample that the buckets were defined on had them; about equal mass each.

    Never measure a distance to that same sample: there, the most popular ids look more popular than they are.
    """

    ids: "pd.Index[Any]"
    """Sorted."""
    buckets: Ints
    top: NDArray[np.bool_]
    """Which ids are among the ``TOP`` most frequent."""
    labels: tuple[str, ...]

    @classmethod
    def of(cls, column: "pd.Series[Any]") -> "PopularityBins":
        import pandas as pd

        counts = column.value_counts()
        ranked = counts.to_numpy()
        before = ranked.cumsum() - ranked
        buckets = (before * POPULARITY_BUCKETS // max(int(ranked.sum()), 1)).astype(np.int64)
        ids = counts.index.to_numpy()
        order = np.argsort(ids)
        step = 100 // POPULARITY_BUCKETS
        labels = tuple(f"ids in the {low}-{low + step}% of mass, most popular first" for low in range(0, 100, step))
        return cls(pd.Index(ids[order]), buckets[order], order < TOP, (*labels, "rarer ids"))

    def _find(self, column: "pd.Series[Any]") -> Ints:
        import pandas as pd

        return self.ids.get_indexer(pd.Index(column)).astype(np.int64)

    def assign(self, column: "pd.Series[Any]") -> Ints:
        position = self._find(column)
        bins = np.full(len(position), len(self.labels) - 1, dtype=np.int64)
        bins[position >= 0] = self.buckets[position[position >= 0]]
        return bins

    def in_top(self, column: "pd.Series[Any]") -> NDArray[np.bool_]:
        """Which rows hold one of the ``TOP`` most frequent ids."""
        position = self._find(column)
        known = position >= 0
        known[known] = self.top[position[known]]
        return known


@dataclass(frozen=True, slots=True)
class HitBins:
    """Two bins: rows that something is so for, and the others first."""

    hits: Callable[["pd.Series[Any]"], NDArray[np.bool_]]
    labels: tuple[str, ...] = ("no", "yes")

    def assign(self, column: "pd.Series[Any]") -> Ints:
        return self.hits(column).astype(np.int64)
