import dataclasses

import numpy as np
import pandas as pd
import pytest

from benchmarks.drift.customers import DAY_S, NOTHING, Customers, Shift
from driftwheel.settings import DriftSettings
from monitoring.drift.decision import decide_drift
from monitoring.drift.hours import DAY, ENOUGH, WEEK, Hours, cycles_of, hours_of, seconds_of
from monitoring.drift.job import score_windows
from monitoring.drift.scoring import first_rows, score_window
from monitoring.drift.watches import binned
from monitoring.drift.yardstick import Yardstick

SETTINGS = DriftSettings()


def stream(seed, cycle):
    customers = Customers(np.random.default_rng(seed), cycle=cycle)
    return customers, customers.reference(())


def statuses(customers, yardstick, windows=12, shift=NOTHING):
    """What is decided after each window of a day."""
    scored = [score_window(customers.window(shift, number, 2000), yardstick) for number in range(windows)]
    return [decide_drift(scored[max(0, end - 3) : end], SETTINGS).status for end in range(2, windows + 1)]


def test_a_day_that_comes_and_goes_is_no_drift_where_the_reference_has_times():
    customers, reference = stream(0, cycle=0.3)
    assert set(statuses(customers, Yardstick.of(reference, SETTINGS, seed=0))) == {"stable"}
    reference = dataclasses.replace(reference, frame=reference.frame.drop(columns="at"))
    assert "drift" in statuses(customers, Yardstick.of(reference, SETTINGS, seed=0))


def test_a_shift_is_found_on_top_of_a_cycle():
    customers, reference = stream(1, cycle=0.3)
    yardstick = Yardstick.of(reference, SETTINGS, seed=0)
    assert statuses(customers, yardstick, shift=Shift(mean=0.4))[1:] == ["drift"] * 10


def test_windows_say_which_hours_they_were_compared_with():
    for cycle, hours in ((0.3, "day"), (0.0, None)):
        customers, reference = stream(2, cycle=cycle)
        yardstick = Yardstick.of(reference, SETTINGS, seed=0)
        assert score_window(customers.window(NOTHING, 5, 2000), yardstick).hours == hours
        without = customers.window(NOTHING, 5, 2000).drop(columns="at")
        assert score_window(without, yardstick).hours is None


def test_no_cycle_is_seen_where_there_is_none():
    """Of 40 references at most 2 (expected: 0.4 at the level of the test)."""
    seen = 0
    for seed in range(40):
        _, reference = stream(100 + seed, cycle=0.0)
        seen += bool(Yardstick.of(reference, SETTINGS, seed=0).cycles)
    assert seen <= 2


def test_weekdays_are_seen_too():
    customers, reference = stream(3, cycle=0.0)
    seconds = seconds_of(reference.frame)
    assert seconds is not None
    weekend = seconds % WEEK.period_s // 86_400 >= 5
    reference.frame.loc[weekend, "in_change"] += 0.5
    assert Yardstick.of(reference, SETTINGS, seed=0).cycles == (WEEK,)
    assert customers is not None


def test_a_users_rows_of_one_evening_are_no_cycle():
    """Each user has a taste and an hour of their own, so that rows of one hour are alike, and users are not."""
    rng = np.random.default_rng(4)
    _, reference = stream(4, cycle=0.0)
    yardstick = Yardstick.of(reference, SETTINGS, seed=0)
    users = np.repeat(np.arange(1000), 10)
    seconds = np.repeat(rng.random(1000) * 30 * DAY_S, 10)
    reference.frame["in_balance"] = np.repeat(rng.standard_normal(1000), 10).astype(np.float32)
    bins = binned(reference.frame, yardstick.all_watches)
    assert cycles_of(seconds, yardstick.all_watches, bins, users) == ()


@pytest.mark.parametrize("what", ["one day only", "few rows", "no times"])
def test_what_cannot_be_told_is_not_told(what):
    _, reference = stream(5, cycle=2.0)
    frame = reference.frame
    assert Yardstick.of(reference, SETTINGS, seed=0).cycles == (DAY,)
    if what == "one day only":
        frame["at"] = pd.Timestamp("2026-01-01", tz="UTC") + (frame["at"] - frame["at"].dt.floor("D"))
    elif what == "few rows":
        frame.loc[ENOUGH - 1 :, "at"] = pd.NaT
    else:
        frame["at"] = pd.NaT
    assert Yardstick.of(reference, SETTINGS, seed=0).cycles == ()


def test_hours_are_taken_around_midnight_and_as_near_as_it_takes():
    seconds = np.arange(0, 30 * DAY_S, 300.0)  # 288 a day
    hours = Hours(DAY, 23.5 * 3600, 3600.0)
    rows = hours.rows_of(seconds)
    assert rows is not None
    of_day = seconds[rows] % DAY_S / 3600
    assert ((of_day >= 22.9) | (of_day <= 1.1)).all()
    assert ENOUGH <= rows.sum() <= ENOUGH + 120
    assert hours.rows_of(seconds[: 3 * 288]) is None
    assert hours.rows_of(seconds, np.arange(len(seconds)) % 101) is not None
    assert hours.rows_of(seconds, np.arange(len(seconds)) % 99) is None
    assert hours.rows_of(seconds[:100]) is None


def test_a_window_of_a_whole_day_is_compared_with_all():
    day = pd.DataFrame({"at": pd.date_range("2026-01-01", periods=2000, freq="43s", tz="UTC")})
    assert hours_of(day, (DAY,)) == ()
    assert hours_of(day.head(100), (DAY,))[0].length_s == pytest.approx(4260, abs=60)
    assert [hours.cycle.name for hours in hours_of(day.head(100), (DAY, WEEK))] == ["week", "day"]
    assert hours_of(day.head(100), ()) == ()


def test_a_retrained_version_on_a_cycle_is_compared_with_the_same_hours_of_its_first_day():
    customers, reference = stream(6, cycle=0.3)
    yardstick = Yardstick.of(reference, SETTINGS, seed=0)
    shift = Shift(mean=0.5)
    table = pd.concat([customers.window(shift, number, 2000) for number in range(20)], ignore_index=True)
    assert 23_900 < first_rows(table, yardstick) < 24_100
    windows = score_windows(table, reference, SETTINGS, retrained=True, seed=0)
    decision = decide_drift(windows, SETTINGS)
    assert all(window.since_first for window in windows)
    assert (decision.status, decision.answered) == ("drift", True)
    # Within the first day there is nothing to compare with yet.
    early = score_windows(table.head(20_000), reference, SETTINGS, retrained=True, seed=0)
    assert [window.since_first for window in early] == [()] * 3


def test_a_shift_on_the_last_day_is_no_weekly_cycle():
    """Most rows are of the last three days, and the newest of them differ: that is what a retrain after a shift learns from."""
    customers = Customers(np.random.default_rng(7), cycle=0.3)
    reference = customers.reference([(NOTHING, 0, 40), (Shift(mean=0.4), 40, 3)])
    assert Yardstick.of(reference, SETTINGS, seed=0).cycles == (DAY,)
