"""Snapshots are deleted by age and size, and no training set of the kept past changes by a bit."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from driftwheel.feature_store import FeatureSettings
from training.features.offline import (
    CUSTOMERS,
    ITEMS,
    USERS,
    reading,
    snapshot_moment,
    snapshots,
    write_history,
    write_snapshot,
)
from training.features.retention import Expired, expire
from training.features.store import FeatureRepository
from training.features.tables import KNOWN_AT, aggregate_rows, customer_rows

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK_S = 7 * 86_400.0
AGES = (40, 20, 10, 8, 7, 3, 0)
"""Of the snapshots, in days."""


def customers(day: int) -> pd.DataFrame:
    """Two customers; the second is in the table of every other snapshot only."""
    table = pd.DataFrame(
        {"customer_id": ["stays", "comes and goes"], "plan": ["a", "b"], "tenure": [float(day), -float(day)]}
    )
    return table.assign(churned=0.0).head(2 if day % 2 else 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    for age in AGES:
        write_snapshot(folder, customer_rows(customers(age), NOW - age * DAY), NOW - age * DAY)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "features")


def ages(folder: Path) -> tuple[int, ...]:
    return tuple((NOW - moment).days for path in snapshots(folder) if (moment := snapshot_moment(path)))


@pytest.mark.parametrize(
    ("keep_days", "kept"),
    [(33.1, AGES), (20, (20, 10, 8, 7, 3, 0)), (2.5, (8, 7, 3, 0)), (0.5, (7, 3, 0)), (1, (8, 7, 3, 0))],
)
def test_what_rows_of_the_kept_days_may_be_answered_with_stays(
    folder: Path, keep_days: float, kept: tuple[int, ...]
) -> None:
    expired = expire(folder, FeatureSettings(keep_days=keep_days, max_age_s=WEEK_S), now=NOW)
    assert ages(folder) == kept
    assert (expired.snapshots, expired.excess_bytes) == (len(AGES) - len(kept), 0)


def test_without_a_limit_all_stay(folder: Path) -> None:
    assert expire(folder, FeatureSettings(), now=NOW + 1000 * DAY) == Expired()
    assert ages(folder) == AGES


def test_the_newest_stays_however_old_it_is(folder: Path) -> None:
    expire(folder, FeatureSettings(keep_days=1), now=NOW + 1000 * DAY)
    assert ages(folder) == (0,)


def test_a_moment_that_has_not_come_makes_nothing_old(folder: Path) -> None:
    ahead = NOW + 3650 * DAY
    write_snapshot(folder, customer_rows(customers(1), ahead), ahead)
    expire(folder, FeatureSettings(keep_days=20, max_age_s=WEEK_S), now=NOW)
    assert ages(folder) == (20, 10, 8, 7, 3, 0, -3650)


def test_of_what_is_too_much_the_oldest_go_and_never_what_is_fresh(folder: Path) -> None:
    for path in snapshots(folder):
        with path.open("r+b") as file:
            file.truncate(2**20)  # of a size that can be counted in MiB
    roomy = FeatureSettings(keep_mib=5, max_age_s=WEEK_S)
    assert expire(folder, roomy, now=NOW) == Expired(snapshots=2, bytes=2 * 2**20)
    assert ages(folder) == (10, 8, 7, 3, 0)
    tight = FeatureSettings(keep_mib=1, max_age_s=WEEK_S)
    assert expire(folder, tight, now=NOW) == Expired(snapshots=2, bytes=2 * 2**20, excess_bytes=2 * 2**20)
    assert ages(folder) == (7, 3, 0)


def test_files_of_other_names_are_left_alone(folder: Path) -> None:
    foreign = [folder / CUSTOMERS / f"{name}.parquet" for name in ("2020-import", "99-import")]
    for path in foreign:
        shutil.copy(snapshots(folder)[0], path)
    expire(folder, FeatureSettings(keep_days=1, max_age_s=1), now=NOW + 1000 * DAY)
    assert ages(folder) == (0,)
    assert all(path.exists() for path in foreign)


def test_nothing_is_deleted_under_the_hands_of_a_reader(folder: Path) -> None:
    settings = FeatureSettings(keep_days=1, max_age_s=WEEK_S)
    with reading(folder), reading(folder):
        assert expire(folder, settings, now=NOW) == Expired(postponed=True)
    assert ages(folder) == AGES
    assert expire(folder, settings, now=NOW).snapshots == 3


def test_training_sets_of_the_kept_days_are_the_same_before_and_after(folder: Path) -> None:
    ratings = pd.DataFrame({"user_id": [1], "item_id": [2], "rating": [3.0], "at": [NOW.timestamp() - 10]})
    write_history(folder, USERS, aggregate_rows(ratings, "user_id", "item_id", "user_"))
    write_history(folder, ITEMS, aggregate_rows(ratings, "item_id", "user_id", "item_"))
    settings = FeatureSettings(keep_days=5, max_age_s=WEEK_S)
    repository = FeatureRepository(settings, folder)
    repository.apply()
    hours = [NOW - timedelta(hours=hour) for hour in range(0, 5 * 24 + 1, 8)]
    rows = pd.DataFrame(
        [(name, pd.Timestamp(at)) for at in hours for name in ("stays", "comes and goes")],
        columns=["customer_id", KNOWN_AT],
    )
    before = repository.as_known(rows, [CUSTOMERS])
    assert expire(folder, settings, now=NOW).snapshots == 2
    pd.testing.assert_frame_equal(repository.as_known(rows, [CUSTOMERS]), before)
    assert before.groupby("customer_id")["tenure"].nunique().min() > 1
