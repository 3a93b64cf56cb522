import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import segments
from serving.segments import SegmentWriter, repair_segments, whole_batches

SCHEMA = pa.schema([pa.field("n", pa.int64())])

WRITER = """
import sys, time
from pathlib import Path
import pyarrow as pa
from serving.segments import SegmentWriter
schema = pa.schema([pa.field("n", pa.int64())])
writer = SegmentWriter(Path(sys.argv[1]), schema, seal_bytes=10**9, seal_after_s=1e9)
for n in range(10**9):
    writer.append(pa.record_batch([pa.array([n])], schema=schema))
    print(n, flush=True)
"""


def batch(*values: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.int64())], schema=SCHEMA)


def rows(folder: Path) -> list[int]:
    return [n for path in sorted(folder.glob("*.parquet")) for n in pq.read_table(path)["n"].to_pylist()]


def test_a_full_segment_is_sealed(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=300, seal_after_s=1e9)
    writer.append(batch(1, 2))
    assert rows(tmp_path) == []
    writer.append(batch(3, 4))
    writer.seal_if_due()
    assert (rows(tmp_path), list(tmp_path.glob("*.arrows"))) == ([1, 2, 3, 4], [])
    writer.append(batch(5))
    writer.seal()
    assert rows(tmp_path) == [1, 2, 3, 4, 5]


def test_an_old_segment_is_sealed(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=10**9, seal_after_s=0)
    writer.append(batch(1))
    writer.seal_if_due()
    assert rows(tmp_path) == [1]


def test_the_whole_part_of_a_torn_segment_is_kept(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=10**9, seal_after_s=1e9)
    writer.append(batch(*range(100)))
    (path,) = tmp_path.glob("*.arrows")
    whole = path.stat().st_size
    writer.append(batch(*range(100)))
    content = path.read_bytes()
    for cut in (whole, whole + 1, whole + 9, len(content) - 1):
        torn = tmp_path / f"torn-{cut}.arrows"
        torn.write_bytes(content[:cut])
        assert [b.num_rows for b in whole_batches(torn)[0]] == [100]
    writer.seal()


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_segment_torn_in_its_schema_holds_nothing(tmp_path: Path, length: int) -> None:
    writer = SegmentWriter(tmp_path / "w", SCHEMA, seal_bytes=10**9, seal_after_s=1e9)
    writer.append(batch(1))
    (path,) = (tmp_path / "w").glob("*.arrows")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x.arrows").write_bytes(path.read_bytes()[:length])
    writer.seal()
    assert repair_segments(tmp_path / "t") == 1
    assert [path.suffix for path in (tmp_path / "t").iterdir()] == ([".torn"] if length else [])


def test_a_full_disk_loses_no_row_that_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=10**9, seal_after_s=1e9)
    writer.append(batch(1, 2))

    def write_half(_: pa.RecordBatch) -> None:
        writer._open._file.write(b"\xff\xff\xff\xff half a message")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer._open, "_stream", type("Full", (), {"write_batch": staticmethod(write_half)}))
    with pytest.raises(OSError, match="No space left"):
        writer.append(batch(3))
    writer.append(batch(4, 5))
    writer.append(batch(6))
    writer.seal()
    assert repair_segments(tmp_path) == 1
    assert sorted(rows(tmp_path)) == [1, 2, 4, 5, 6]


def test_a_segment_that_cannot_be_sealed_stays_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=1, seal_after_s=1e9)
    writer.append(batch(1))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            writer.seal_if_due()
    writer.append(batch(2))
    writer.seal()
    assert rows(tmp_path) == [2]
    assert repair_segments(tmp_path) == 1
    assert sorted(rows(tmp_path)) == [1, 2]


def test_a_segment_that_cannot_be_read_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=1, seal_after_s=1e9)
    writer.append(batch(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        with pytest.raises(OSError, match="Too many open files"):
            writer.seal()
        assert repair_segments(tmp_path) == 0
    assert repair_segments(tmp_path) == 1
    assert rows(tmp_path) == [1]


def test_a_living_process_segment_is_left_alone(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=10**9, seal_after_s=1e9)
    writer.append(batch(1))
    assert repair_segments(tmp_path) == 0
    writer.append(batch(2))
    writer.seal()
    assert rows(tmp_path) == [1, 2]


def test_a_killed_writer_loses_nothing_that_it_had_acknowledged(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(200)][-1]
        os.kill(process.pid, signal.SIGKILL)
    assert repair_segments(tmp_path) == 1
    stored = rows(tmp_path)
    assert stored == list(range(len(stored)))
    assert len(stored) > acknowledged


def test_a_segment_that_another_worker_repairs_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = segments.fcntl.flock

    def repaired_first(file, how: int) -> None:
        monkeypatch.setattr(segments.fcntl, "flock", locked)
        assert repair_segments(tmp_path) == 1
        locked(file, how)

    monkeypatch.setattr(segments.fcntl, "flock", repaired_first)
    writer = SegmentWriter(tmp_path, SCHEMA, seal_bytes=10**9, seal_after_s=1e9)
    writer.append(batch(1, 2))
    assert repair_segments(tmp_path) == 0
    writer.seal()
    assert rows(tmp_path) == [1, 2]
