import time
from pathlib import Path

import pyarrow as pa
import pytest

from driftwheel.log_layout import predictions_folder
from driftwheel.settings import Settings, load_settings
from serving import sealing
from serving.sealing import Idleness, Sealer
from serving.segments import SegmentWriter

SCHEMA = pa.schema([pa.field("n", pa.int64())])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, log_level="error")


@pytest.fixture
def folder(settings: Settings) -> Path:
    return predictions_folder(settings.prediction_log, "mf", 1)


def write(folder: Path, *, finish: bool) -> SegmentWriter:
    writer = SegmentWriter(folder, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(pa.record_batch([pa.array([1, 2])], schema=SCHEMA))
    if finish:
        writer.finish()
    return writer


def suffixes(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


class World:
    """A sealer whose clock is ours, on a machine as busy as we say."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.idle = 0.0, 1.0
        monkeypatch.setattr(Idleness, "share", lambda _: self.idle)
        self.sealer = Sealer(settings.prediction_log, settings.log.compression, 0.1, clock=lambda: self.now)

    def look_until(self, folder: Path, wanted: list[str]) -> None:
        give_up = time.monotonic() + 60
        while suffixes(folder) != wanted:
            assert time.monotonic() < give_up
            self.now += 1
            self.sealer.look()
            time.sleep(0.02)


@pytest.fixture
def world(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(settings, monkeypatch)


@pytest.mark.system
def test_finished_segments_are_sealed_and_open_ones_left(world: World, folder: Path) -> None:
    write(folder, finish=True)
    (folder / "20260101T000000-1-0.arrows").write_bytes(next(folder.glob("*.arrows")).read_bytes())
    living = write(folder / "living", finish=False)
    world.look_until(folder, ["", ".parquet", ".parquet"])
    assert suffixes(folder / "living") == [".arrows"]
    living.finish()
    world.sealer.close()
    assert suffixes(folder / "living") == [".parquet"]


@pytest.mark.system
def test_a_busy_machine_seals_only_when_too_much_waits(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, finish=True)
    world.idle = 0.4
    for _ in range(20):
        world.now += 1
        world.sealer.look()
    assert (world.sealer._process, suffixes(folder)) == (None, [".arrows"])
    monkeypatch.setattr(sealing, "_MOST_WAITING_BYTES", 100)
    world.look_until(folder, [".parquet"])
    world.sealer.close()


def test_what_a_killed_sealer_left_is_cleared_away(world: World, folder: Path) -> None:
    write(folder, finish=True)
    (folder / ".tmp-half.parquet").write_bytes(b"PAR1")
    world.sealer.close()
    assert suffixes(folder) == [".parquet"]


def test_idleness_is_the_share_since_the_last_look(tmp_path: Path) -> None:
    counters = tmp_path / "stat"
    counters.write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1\n")
    idle = Idleness(counters)
    counters.write_text("cpu  160 0 50 830 60 0 0 0 0 0\ncpu0 1\n")
    assert idle.share() == pytest.approx(0.4)
    counters.unlink()
    assert (idle.share(), Idleness(counters).share()) == (1.0, 1.0)
