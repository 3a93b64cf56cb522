"""Latencies of both arms side by side, one slice of time after the other.

What holds a machine up for a moment (a pause of the garbage collector, another process) makes requests slow that lie close
together, and such are often one user's or one batch, and so of one arm. They are no independent witnesses; slices of time are.
In each of them the slowest requests of both arms are compared, and it counts once, however many were slow.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftwheel.predictions import OK
from monitoring.canary.evidence import RATIO_BOUNDS

if TYPE_CHECKING:
    import pandas as pd

Integers = NDArray[np.int64]

SLICE_US = 250_000
"""How long a slice is at least. A hold-up that lasts longer counts more than once."""

SLICE_REQUESTS = 25
"""Requests of each arm that a slice has at least, however long that takes."""

LATENCY_FLOOR_US = 1000.0
"""Latencies below this are taken for this: nobody feels them."""

ONE_IN = 100
"""What is compared is the latency that one request in so many reaches; of fewer requests, the longest."""


def latency_ratios(control: "pd.DataFrame", candidate: "pd.DataFrame") -> tuple[int, ...]:
    """Slices by how many times control's slowest requests the candidate's took: a histogram over ``RATIO_BOUNDS``; empty where
    there is no slice.

    Args:
        control: Logged rows of what is compared.
        candidate: Likewise.
    """
    arms = [_answered(rows) for rows in (control, candidate)]
    at_us, latency_us = (np.concatenate(both) for both in zip(*arms, strict=True))
    is_candidate = np.repeat([False, True], [len(at) for at, _ in arms])
    order = np.argsort(at_us, kind="stable")
    _, ratios = slice_ratios(at_us[order], latency_us[order], is_candidate[order])
    return count_ratios(ratios) if len(ratios) else ()


def _answered(rows: "pd.DataFrame") -> tuple[Integers, Integers]:
    """When each request was answered, microseconds since the epoch, and how long that took."""
    import pandas as pd

    requests = rows[rows["code"] == OK].drop_duplicates("prediction_id")
    at = pd.DatetimeIndex(requests["at"]).as_unit("us")
    return np.asarray(at.asi8), requests["latency_us"].to_numpy(dtype=np.int64)


def count_ratios(ratios: NDArray[np.float64]) -> tuple[int, ...]:
    """The histogram of ratios over ``RATIO_BOUNDS``; bucket ``i`` is (bound i-1, bound i]."""
    buckets = np.searchsorted(RATIO_BOUNDS, ratios, side="left")
    return tuple(np.bincount(buckets, minlength=len(RATIO_BOUNDS) + 1).tolist())


def slice_ratios(
    at_us: Integers, latency_us: NDArray[np.number], is_candidate: NDArray[np.bool_]
) -> tuple[Integers, NDArray[np.float64]]:
    """Cut requests ``[requests]`` of both arms, in the order of their time, into slices ``[slices]``.

    Of each slice as many requests of either arm are looked at, evenly spaced in time where one has more: where the arms are
    equally fast, either is then the slower one with the same chance, whatever befell them together or by turns. The last slice
    is left open, for what is still to come may belong to it.

    Returns:
        Where each slice ends (the position after its last request), and the candidate's latency over control's.
    """
    ends = _ends(at_us, is_candidate)
    positions = [np.flatnonzero(is_candidate == arm) for arm in (False, True)]
    places = [np.searchsorted(ends, position, side="right") for position in positions]
    looked_at = np.minimum(*(np.bincount(place, minlength=len(ends) + 1)[:-1] for place in places))
    control, candidate = (
        np.maximum(_slow(latency_us[position], place, looked_at), LATENCY_FLOOR_US)
        for position, place in zip(positions, places, strict=True)
    )
    return ends, candidate / control


def _ends(at_us: Integers, is_candidate: NDArray[np.bool_]) -> Integers:
    positions = [np.flatnonzero(is_candidate == arm) for arm in (False, True)]
    candidates, ends, begin = np.concatenate([[0], is_candidate.cumsum()]), list[int](), 0
    while True:
        before = (begin - candidates[begin], candidates[begin])
        wanted = [taken + SLICE_REQUESTS - 1 for taken in before]
        if any(want >= len(position) for want, position in zip(wanted, positions, strict=True)):
            break
        enough = max(int(position[want]) for want, position in zip(wanted, positions, strict=True)) + 1
        begin = max(enough, int(np.searchsorted(at_us, at_us[begin] + SLICE_US)))
        if begin >= len(at_us):
            break
        ends.append(begin)
    return np.asarray(ends, dtype=np.int64)


def _slow(latency_us: NDArray[np.number], place: Integers, looked_at: Integers) -> NDArray[np.number]:
    """Of one arm's requests, in the order of their time, the latency ``[slices]`` that one in ``ONE_IN`` reaches.

    Args:
        place: The slice of each request; those of the open one are left out.
        looked_at: How many requests of each slice, evenly spaced.
    """
    latency_us, place = latency_us[place < len(looked_at)], place[place < len(looked_at)]
    there = np.bincount(place, minlength=len(looked_at))
    rank = np.arange(len(place)) - (there.cumsum() - there)[place]
    share = looked_at[place]
    taken = (rank + 1) * share // there[place] > rank * share // there[place]
    latency_us, place = latency_us[taken], place[taken]
    ascending = latency_us[np.lexsort((latency_us, place))]
    return ascending[looked_at.cumsum() - -(-looked_at // ONE_IN)]
