"""The rules of others, as their documentation gives them, on the same windows. Each looks at one window at a time, and at the
columns that it can read: inputs and predictions, ids too where there are some, as numbers, which is what a table of ratings is
to them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import kstwo

Floats = NDArray[np.float64]
Rule = Callable[[pd.DataFrame], bool]

EVIDENTLY_DISTANCE = 0.1
"""Evidently, with more than 1,000 rows of reference: a number drifts from a Wasserstein distance of 0.1 on, divided by the
reference's standard deviation; a category from a Jensen-Shannon distance of 0.1 on. A test compares this with Evidently."""

EVIDENTLY_SHARE = 0.5
"""Evidently: a data set drifts where this share of its columns does."""

NANNYML_DEVIATIONS = 3.0
"""NannyML: a chunk alarms where its Jensen-Shannon distance to the reference is three standard deviations above the mean of the
reference's own chunks."""

KS_ALPHA, PSI_LIMIT = 0.05, 0.2
"""What is usually written by hand: a Kolmogorov-Smirnov test of each number at 5%, a population stability index above 0.2."""


@dataclass(frozen=True, slots=True)
class _Columns:
    numbers: Mapping[str, Floats]
    """Of the reference, sorted, without missing values."""
    categories: Mapping[str, "pd.Series[float]"]
    """The share of each value in the reference."""


class _Remembered:
    """What a function found of the last window."""

    def __init__(self, function: Callable[[pd.DataFrame], float]) -> None:
        self._function = function
        self._last: tuple[pd.DataFrame, float] | None = None

    def of(self, window: pd.DataFrame) -> float:
        """The same as the function."""
        if self._last is None or self._last[0] is not window:
            self._last = window, self._function(window)
        return self._last[1]


RULE_NAMES = ("Evidently, half of the columns", "Evidently, any column", "NannyML, 3 sigma", "KS and PSI")


def rules(reference: pd.DataFrame, *, window_rows: int) -> dict[str, Rule]:
    """Each of ``RULE_NAMES``: whether it calls a window. Evidently's two share what they compute of the window before."""
    columns = _columns(reference)
    share = _Remembered(lambda window: _evidently(columns, window))
    found: tuple[Rule, ...] = (
        lambda window: share.of(window) >= EVIDENTLY_SHARE,
        lambda window: share.of(window) > 0,
        _nannyml(reference, columns, window_rows),
        lambda window: _ks_and_psi(columns, window),
    )
    return dict(zip(RULE_NAMES, found, strict=True))


def _columns(table: pd.DataFrame) -> _Columns:
    numbers: dict[str, Floats] = {}
    categories: dict[str, pd.Series[float]] = {}
    for name in map(str, table.columns):
        if not name.startswith(("in_", "out_")):
            continue
        if table[name].dtype.kind == "O":
            categories[name] = table[name].value_counts(normalize=True)
        else:
            numbers[name] = np.sort(_present(table, name))
    return _Columns(numbers, categories)


def _present(table: pd.DataFrame, name: str) -> Floats:
    values = table[name].to_numpy(dtype=np.float64)
    return values[np.isfinite(values)]


def _shares(window: pd.DataFrame, name: str, before: "pd.Series[float]") -> tuple[Floats, Floats]:
    now = window[name].value_counts(normalize=True)
    both = before.index.union(now.index)
    old, new = (side.reindex(both, fill_value=0.0).to_numpy().astype(np.float64) for side in (before, now))
    return old, new


def _evidently(columns: _Columns, window: pd.DataFrame) -> float:
    """The share of columns that drift."""
    drifted = 0
    for name, before in columns.numbers.items():
        distance = wasserstein(before, np.sort(_present(window, name))) / max(before.std(), 0.001)
        drifted += bool(distance >= EVIDENTLY_DISTANCE)
    for name, before in columns.categories.items():
        drifted += bool(jensenshannon(*_shares(window, name, before), base=2) >= EVIDENTLY_DISTANCE)
    return drifted / (len(columns.numbers) + len(columns.categories))


def _distances(columns: _Columns, edges: Mapping[str, Floats], window: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, before in columns.numbers.items():
        values = np.clip(_present(window, name), edges[name][0], edges[name][-1])
        counts = [np.histogram(side, edges[name])[0] for side in (before, values)]
        found[name] = float(jensenshannon(*counts, base=2))
    for name, before in columns.categories.items():
        found[name] = float(jensenshannon(*_shares(window, name, before), base=2))
    return found


def _nannyml(reference: pd.DataFrame, columns: _Columns, window_rows: int) -> Rule:
    edges = {name: np.histogram_bin_edges(values, bins="doane") for name, values in columns.numbers.items()}
    starts = range(0, len(reference) - window_rows + 1, window_rows)
    chunks = [_distances(columns, edges, reference.iloc[start : start + window_rows]) for start in starts]
    table = pd.DataFrame(chunks)
    limits = table.mean() + NANNYML_DEVIATIONS * table.std(ddof=0)

    def calls(window: pd.DataFrame) -> bool:
        return any(distance > limits[name] for name, distance in _distances(columns, edges, window).items())

    return calls


def _ks_and_psi(columns: _Columns, window: pd.DataFrame) -> bool:
    for name, before in columns.numbers.items():
        values = _present(window, name)
        if _ks_p_value(before, np.sort(values)) < KS_ALPHA:
            return True
        inner = np.unique(np.quantile(before, np.arange(0.1, 0.95, 0.1)))
        counts = [np.bincount(np.searchsorted(inner, side), minlength=len(inner) + 1) for side in (before, values)]
        if _psi(counts[0] / max(len(before), 1), counts[1] / max(len(values), 1)) > PSI_LIMIT:
            return True
    return any(_psi(*_shares(window, name, before)) > PSI_LIMIT for name, before in columns.categories.items())


def _cdfs(before: Floats, now: Floats) -> tuple[Floats, Floats, Floats]:
    """All values of two sorted samples, sorted, and both distribution functions there."""
    values = np.sort(np.concatenate([before, now]), kind="stable")
    old, new = (np.searchsorted(side, values, side="right") / max(len(side), 1) for side in (before, now))
    return values, old, new


def _ks_p_value(before: Floats, now: Floats) -> float:
    """The asymptotic one, as scipy has it; the reference is sorted already."""
    _, old, new = _cdfs(before, now)
    size = len(before) * len(now) / max(len(before) + len(now), 1)
    return float(kstwo.sf(np.abs(old - new).max(initial=0.0), np.round(size)))


def wasserstein(before: Floats, now: Floats) -> float:
    """The area between the distribution functions of two sorted samples."""
    values, old, new = _cdfs(before, now)
    return float((np.abs(old - new)[:-1] * np.diff(values)).sum())


def _psi(before: Floats, now: Floats) -> float:
    before, now = np.maximum(before, 1e-4), np.maximum(now, 1e-4)
    return float(((now - before) * np.log(now / before)).sum())
