"""Where a table of rows is cut into windows: so many rows each, or so many hours."""

from typing import TYPE_CHECKING

import numpy as np

from driftwheel.errors import DataError
from driftwheel.settings import DriftSettings
from monitoring.drift.hours import seconds_of

if TYPE_CHECKING:
    import pandas as pd

_HOUR_S = 3600.0


def cut(table: "pd.DataFrame", settings: DriftSettings) -> list[tuple[int, int]]:
    """The newest windows, oldest first, at most ``settings.windows`` of them: the first row of each, and the one behind its
    last. None has fewer than ``settings.window_rows`` rows.

    Hours are counted back from the newest row, so that no window waits for a clock; stretches with too few rows are
    passed over.

    Args:
        table: Oldest row first.

    Raises:
        DataError: Windows are to be of hours, and the rows have no times.
    """
    size = settings.window_rows
    if settings.window_hours is None:
        number = min(len(table) // size, settings.windows)
        return [(start, start + size) for start in range(len(table) - number * size, len(table), size)]
    if not len(table):
        return []
    seconds = seconds_of(table)
    if seconds is None or np.isnan(seconds).any():
        raise DataError(
            "drift.window_hours cuts rows by their times in the column 'at', and the table lacks them",
            hint="leave drift.window_hours out: windows are then of drift.window_rows rows",
        )
    ago = np.floor((seconds[-1] - seconds) / (settings.window_hours * _HOUR_S))
    _, starts, rows = np.unique(-ago, return_index=True, return_counts=True)
    windows = [(int(start), int(start + many)) for start, many in zip(starts, rows, strict=True) if many >= size]
    return windows[-settings.windows :]
