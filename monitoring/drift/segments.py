"""Where a change is: whether it is mainly in the rows of one category."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.calibration import jensen_shannon
from monitoring.drift.clusters import Ints
from monitoring.drift.watches import Watch

MIN_ROWS = 100
"""Rows of a segment, on either side, below which it is not looked at."""

MAX_VALUES = 30
"""Categories of more values than this are not cut by."""

FACTOR = 2.0
"""A segment is named where its own divergence is shown to be so many times that of all rows."""


def where_most(
    name: str,
    watches: Sequence[Watch],
    before: Mapping[str, Ints],
    rows: NDArray[np.bool_],
    now: Mapping[str, Ints],
) -> str:
    """The segment that what is watched changed most in, "contract = Month-to-month (55% of the rows)"; "" where the change is
    not shown to be mainly in one.

    Args:
        name: Of the watch.
        before: The sample's rows in bins, by watch.
        rows: Those that the window is compared with ``[rows of the sample]``.
        now: The window's rows in bins.
    """
    watch = next(one for one in watches if one.name == name)
    used, old, new, size = rows & watch.estimating, before[name], now[name], len(watch.binning.labels)
    if watch.hit is not None:
        old, new, size = (old == watch.hit).astype(np.int64), (new == watch.hit).astype(np.int64), 2
    best, found = FACTOR * _divergence(old[used], new, size, deviations=0), ""
    for segment in watches:
        labels = segment.binning.labels
        cuts = segment.kind == "category" and segment.column != watch.column and segment.name in now
        if not cuts or len(labels) > MAX_VALUES:
            continue
        for value, label in enumerate(labels):
            mine, yours = old[used & (before[segment.name] == value)], new[now[segment.name] == value]
            if min(len(mine), len(yours)) < MIN_ROWS:
                continue
            divergence = _divergence(mine, yours, size, deviations=3)
            if divergence > best:
                best, found = divergence, f"{segment.name} = {label} ({len(yours) / len(new):.0%} of the rows)"
    return found


def _divergence(old: Ints, new: Ints, size: int, *, deviations: float) -> float:
    """Of two samples, less what chance alone would show, and less so many standard deviations of it.

    Eight times the divergence, over the sum of one by each sample's rows, is a noncentral chi-square.
    """
    counts = [np.bincount(side, minlength=size) for side in (old, new)]
    freedom = max(int(((counts[0] + counts[1]) > 0).sum()) - 1, 0)
    unit = (1 / max(len(old), 1) + 1 / max(len(new), 1)) / 8
    beyond = max(float(jensen_shannon(*counts)) / unit - freedom, 0.0)
    return max(beyond - deviations * float(np.sqrt(2 * freedom + 4 * beyond)), 0.0) * unit
