import pandas as pd
import pytest

from driftwheel.errors import DataError
from driftwheel.settings import DriftSettings
from monitoring.drift.cutting import cut


def rows_at(*minutes: float) -> pd.DataFrame:
    return pd.DataFrame({"at": [f"{pd.Timestamp('2026-01-01', tz='UTC') + pd.Timedelta(minutes=m)}" for m in minutes]})


def test_windows_of_rows_are_the_newest_whole_ones() -> None:
    settings = DriftSettings(window_rows=100, windows=3)
    assert cut(rows_at(*range(99)), settings) == []
    assert cut(rows_at(*range(250)), settings) == [(50, 150), (150, 250)]
    assert cut(rows_at(*range(450)), settings) == [(150, 250), (250, 350), (350, 450)]


def hour(number: int, rows: int) -> list[float]:
    """So many rows, evenly within an hour, the last one at its end."""
    return [60 * number + 60 * (row + 1) / rows for row in range(rows)]


def test_windows_of_hours_end_with_the_newest_row_and_thin_ones_are_passed_over() -> None:
    settings = DriftSettings(window_rows=100, windows=2, window_hours=1)
    table = rows_at(*hour(0, 120), *hour(1, 40), *hour(2, 200), *hour(3, 100))
    assert cut(table, settings) == [(160, 360), (360, 460)]
    assert cut(table, settings.model_copy(update={"windows": 5})) == [(0, 120), (160, 360), (360, 460)]
    assert cut(rows_at(*hour(0, 40)), settings) == []
    assert cut(rows_at(), settings) == []


def test_rows_without_times_cannot_be_cut_by_hours() -> None:
    with pytest.raises(DataError, match=r"drift\.window_hours"):
        cut(pd.DataFrame({"in_age": [1.0] * 500}), DriftSettings(window_hours=24))
