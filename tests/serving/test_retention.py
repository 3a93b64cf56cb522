"""Old segments go, the oldest first, and nothing goes that labels, a trial or a writer still needs."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.log_layout import feedback_folder, predictions_folder, shadow_log
from driftwheel.rollout import promote, serve_stable, start_candidate
from driftwheel.settings import load_settings
from serving.front_door import planned
from serving.retention import DAY_S, Expired, Expirer, Retention, expire, trials
from serving.segments import SegmentWriter, seal_segment

NOW_S = 1_800_000_000.0
SCHEMA = pa.schema([pa.field("n", pa.int64())])

KEPT_OPEN: list[SegmentWriter] = []
"""What would let go of its lock were it collected."""


def segment(folder: Path, days_ago: float, *, finish: bool = True, seal: bool = True) -> Path:
    """A real segment that was begun and last written so long before ``NOW_S``."""
    at_s = NOW_S - days_ago * DAY_S
    writer = SegmentWriter(folder / "new", finish_bytes=10**9, finish_after_s=1e9)
    writer.append(pa.record_batch([pa.array(range(1000))], schema=SCHEMA))
    if finish:
        writer.finish()
    (path,) = (folder / "new").iterdir()
    if finish and seal:
        sealed = seal_segment(path)
        assert sealed is not None
        path = sealed
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at_s))
    named = path.rename(folder / f"{stamp}-1-{len(list(folder.iterdir()))}{path.suffix}")
    os.utime(named, (at_s, at_s))
    KEPT_OPEN.append(writer)
    return named


class World:
    def __init__(self, log: Path) -> None:
        self.log = log
        self.predictions = predictions_folder(log, "mf", 1)
        self.feedback = feedback_folder(log)
        self.bytes = segment(self.predictions, 10).stat().st_size

    def days(self, **retention: float) -> list[float]:
        """The ages in days of the predictions that are left after ``expire``."""
        return self.expired(**retention)[1]

    def expired(self, on_trial: dict[str, float] | None = None, **retention: float) -> tuple[Expired, list[float]]:
        policy = Retention(rollouts_folder="", **retention)
        done = expire(self.log, policy, on_trial=on_trial or {}, now_s=NOW_S)
        return done, ages(self.predictions)


def ages(folder: Path) -> list[float]:
    return sorted(round((NOW_S - path.stat().st_mtime) / DAY_S, 3) for path in folder.glob("*.*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "log")


def test_what_is_too_old_goes(world: World) -> None:
    for days in (1, 3, 6, 8):
        segment(world.predictions, days)
    done, left = world.expired(keep_s=7 * DAY_S)
    assert (done.segments, left) == (2, [1, 3, 6])
    assert done.bytes == 2 * world.bytes


def test_of_too_much_the_oldest_goes_first(world: World) -> None:
    for days in (1, 3, 6, 8):
        segment(world.predictions, days)
    assert world.days(keep_bytes=5 * world.bytes) == [1, 3, 6, 8, 10]
    assert world.days(keep_bytes=3 * world.bytes) == [1, 3, 6]
    assert world.days(keep_bytes=3 * world.bytes - 1) == [1, 3]


def test_what_labels_may_come_for_stays(world: World) -> None:
    for days in (1, 3, 6):
        segment(world.predictions, days)
    done, left = world.expired(keep_bytes=1, labels_within_s=4 * DAY_S)
    assert left == [1, 3]
    assert done.excess_bytes == 2 * world.bytes - 1


def test_what_a_trial_is_judged_by_stays(world: World) -> None:
    shadow = predictions_folder(shadow_log(world.log), "mf", 2)
    segment(shadow, 4)
    other = predictions_folder(world.log, "churn", 1)
    segment(other, 4)
    for days in (3, 6):
        segment(world.predictions, days)
    _, left = world.expired(keep_s=1 * DAY_S, on_trial={"mf": NOW_S - 5 * DAY_S})
    assert (left, ages(shadow), ages(other)) == ([3], [4], [])


def test_labels_stay_while_a_prediction_is_there_that_they_may_be_about(world: World) -> None:
    for days in (1, 6):
        segment(world.predictions, days)
    for days in (0.5, 5, 7, 9):
        segment(world.feedback, days)
    assert world.days(keep_s=8 * DAY_S) == [1, 6]
    assert ages(world.feedback) == [0.5, 5]
    assert world.days(keep_s=2 * DAY_S) == [1]
    assert ages(world.feedback) == [0.5]


def test_labels_of_no_prediction_go_when_none_can_come_any_more(world: World) -> None:
    for days in (0.5, 5):
        segment(world.feedback, days)
    assert world.days(keep_s=2 * DAY_S, labels_within_s=1 * DAY_S) == []
    assert ages(world.feedback) == [0.5]


def test_a_segment_that_somebody_writes_to_stays(world: World) -> None:
    living = segment(world.predictions, 9, finish=False)
    dead = segment(world.predictions, 8, seal=False)
    world.days(keep_s=1 * DAY_S)
    assert (living.exists(), dead.exists()) == (True, False)


def test_a_foreign_file_is_left_alone(world: World) -> None:
    for name in ("notes.txt", ".tmp-half.parquet"):
        (world.predictions / name).write_text("x")
        os.utime(world.predictions / name, (0, 0))
    world.days(keep_s=1 * DAY_S)
    assert sorted(path.name for path in world.predictions.glob("*.*")) == [".tmp-half.parquet", "notes.txt"]


def test_what_is_on_trial_is_what_the_rollouts_say(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, by="test", now="2026-01-01T00:00:00+00:00")
    assert trials(tmp_path) == {}
    start_candidate(tmp_path, "mf", 2, by="test", now="2026-01-02T00:00:00+00:00")
    assert trials(tmp_path) == {"mf": 1_767_312_000.0}
    promote(tmp_path, "mf", by="test", now="2026-01-03T00:00:00+00:00")
    assert trials(tmp_path) == {}


def test_the_supervisors_part_deletes_once_a_minute(world: World, tmp_path: Path) -> None:
    clock = [0.0]
    policy = Retention(rollouts_folder=str(tmp_path / "rollouts"), keep_s=2 * DAY_S)
    expirer = Expirer(world.log, policy, clock=lambda: clock[0], now_s=lambda: NOW_S)
    expirer.look()
    assert ages(world.predictions) == []
    segment(world.predictions, 3)
    for clock[0], left in ((59.0, [3]), (61.0, [])):
        expirer.look()
        assert ages(world.predictions) == left


def test_a_rollout_that_cannot_be_read_deletes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mf.json").write_text("{")
    Expirer(world.log, Retention(rollouts_folder=str(tmp_path), keep_s=DAY_S), now_s=lambda: NOW_S).look()
    assert ages(world.predictions) == [10]
    assert "log.expire_failed" in "".join(capsys.readouterr())


def test_without_a_limit_nothing_goes(world: World) -> None:
    Expirer(world.log, Retention(rollouts_folder=""), now_s=lambda: NOW_S).look()
    assert ages(world.predictions) == [10]


def test_the_settings_reach_the_supervisor(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, log={"keep_days": 30, "keep_mib": 512, "labels_within_days": 2})
    expected = {"keep_s": 30 * DAY_S, "keep_bytes": 512 * 2**20, "labels_within_s": 2 * DAY_S}
    assert planned(settings).retention == Retention(rollouts_folder=str(settings.rollouts), **expected)


def test_an_age_that_labels_outlast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keep_days is 0.5, but labels may come for 1 days"):
        load_settings(home=tmp_path, log={"keep_days": 0.5})
