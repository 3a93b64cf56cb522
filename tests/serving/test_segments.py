import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import direct_stream, segments
from serving.sealing import seal_finished
from serving.segments import SegmentWriter, whole_batches

SCHEMA = pa.schema([pa.field("n", pa.int64())])

WRITER = """
import sys, time
from pathlib import Path
import pyarrow as pa
from serving.segments import SegmentWriter
schema = pa.schema([pa.field("n", pa.int64())])
writer = SegmentWriter(Path(sys.argv[1]), finish_bytes=10**9, finish_after_s=1e9)
for n in range(10**9):
    writer.append(pa.record_batch([pa.array([n])], schema=schema))
    print(n, flush=True)
"""


def batch(*values: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.int64())], schema=SCHEMA)


def rows(folder: Path) -> list[int]:
    return [n for path in sorted(folder.glob("*.parquet")) for n in pq.read_table(path)["n"].to_pylist()]


def test_a_full_segment_is_finished_and_can_be_sealed(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=500, finish_after_s=1e9)
    writer.append(batch(1, 2))
    assert (seal_finished(tmp_path), rows(tmp_path)) == (0, [])
    writer.append(batch(3), batch(4))
    assert (seal_finished(tmp_path), rows(tmp_path), list(tmp_path.glob("*.arrows"))) == (1, [1, 2, 3, 4], [])
    writer.append(batch(5))
    writer.finish()
    assert (seal_finished(tmp_path), rows(tmp_path)) == (1, [1, 2, 3, 4, 5])


def test_an_old_segment_is_finished(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=0)
    writer.append(batch(1))
    writer.finish_if_due()
    assert (seal_finished(tmp_path), rows(tmp_path)) == (1, [1])


def test_the_whole_part_of_a_torn_segment_is_kept(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(batch(*range(100)))
    (path,) = tmp_path.glob("*.arrows")
    whole = writer._open.size
    writer.append(batch(*range(100)))
    content = path.read_bytes()
    for cut in (whole, whole + 1, whole + 9, writer._open.size - 1):
        torn = tmp_path / f"torn-{cut}.arrows"
        torn.write_bytes(content[:cut])
        assert [b.num_rows for b in whole_batches(torn)[0]] == [100]
    writer.finish()


def lists(integer: pa.DataType, *values: list[int]) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(values, pa.list_(integer))})


def test_the_whole_part_of_a_torn_narrow_segment_is_sealed_wide(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(lists(pa.int16(), [1, -2], []))
    whole = writer.bytes
    writer.append(lists(pa.int16(), [3] * 100))
    writer.finish()
    (path,) = tmp_path.glob("*.arrows")
    os.truncate(path, whole + 100)
    assert seal_finished(tmp_path) == 1
    (sealed,) = tmp_path.glob("*.parquet")
    stored = pq.read_table(sealed)
    assert stored.column("n").type.value_type == pa.int64()
    assert stored.column("n").to_pylist() == [[1, -2], []]
    assert path.with_suffix(segments.TORN_SUFFIX).exists()


def test_a_wider_batch_that_cannot_be_written_leaves_the_narrow_segment_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(lists(pa.int32(), [1]))
    with monkeypatch.context() as full:
        full.setattr(direct_stream.os, "pwrite", lambda *arguments: 0)
        with pytest.raises(OSError, match="No space left"):
            writer.append(lists(pa.int64(), [2**40]))
    writer.append(lists(pa.int64(), [2**50]), lists(pa.int16(), [7]))
    writer.finish()
    seal_finished(tmp_path)
    assert rows(tmp_path) == [[1], [2**50], [7]]


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_segment_torn_in_its_schema_holds_nothing(tmp_path: Path, length: int) -> None:
    writer = SegmentWriter(tmp_path / "w", finish_bytes=10**9, finish_after_s=1e9)
    writer.append(batch(1))
    (path,) = (tmp_path / "w").glob("*.arrows")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x.arrows").write_bytes(path.read_bytes()[:length])
    writer.finish()
    assert seal_finished(tmp_path / "t") == 1
    assert [path.suffix for path in (tmp_path / "t").iterdir()] == ([".torn"] if length else [])


@given(st.lists(st.lists(st.integers(0, 2000), min_size=1, max_size=4), min_size=1, max_size=6))
def test_an_open_stream_is_whole_after_each_write_whatever_the_sizes(appends: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, written = Path(folder) / "x.arrows", 0
        stream = direct_stream.DirectStream(path, SCHEMA, direct_stream.Staging())
        for sizes in appends:
            stream.append([batch(*range(written + 7, written + 7 + size)) for size in sizes])
            written += sum(sizes)
            batches, torn = whole_batches(path)
            assert (sum(one.num_rows for one in batches), torn) == (written, False)
        stream.close()
        assert path.stat().st_size == stream.size + len(direct_stream.END_OF_STREAM)
        with pa.ipc.open_stream(path) as reader:
            assert [len(one) for one in reader] == [size for sizes in appends for size in sizes]


def test_a_file_system_without_direct_access_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refused(path: Path, flags: int, mode: int) -> int:
        file = opened(path, flags & ~os.O_DIRECT, mode)
        if flags & os.O_DIRECT:
            os.close(file)
            raise OSError(22, "Invalid argument")
        return file

    with monkeypatch.context() as patch:
        patch.setattr(direct_stream.os, "open", refused)
        stream = direct_stream.DirectStream(tmp_path / "x.arrows", SCHEMA, direct_stream.Staging())
    stream.append([batch(1, 2)])
    stream.close()
    assert whole_batches(tmp_path / "x.arrows")[0][0].num_rows == 2


def test_a_full_disk_loses_no_row_that_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(batch(1, 2))

    write, room = os.pwrite, [8192, 0]

    def write_until_full(file: int, content: memoryview, at: int) -> int:
        return write(file, content[: room.pop(0)], at)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(direct_stream.os, "pwrite", write_until_full)
        writer.append(batch(*range(5000)))
    assert room == []
    writer.append(batch(4, 5))
    writer.append(batch(6))
    writer.finish()
    assert seal_finished(tmp_path) == 2
    assert sorted(rows(tmp_path)) == [1, 2, 4, 5, 6]


def test_a_segment_that_cannot_be_sealed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=1, finish_after_s=1e9)
    writer.append(batch(1))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert seal_finished(tmp_path) == 0
    assert seal_finished(tmp_path) == 1
    assert rows(tmp_path) == [1]


def test_a_segment_that_cannot_be_read_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=1, finish_after_s=1e9)
    writer.append(batch(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        assert seal_finished(tmp_path) == 0
    assert seal_finished(tmp_path) == 1
    assert rows(tmp_path) == [1]


def test_a_living_process_segment_is_left_alone(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(batch(1))
    assert seal_finished(tmp_path) == 0
    writer.append(batch(2))
    writer.finish()
    assert (seal_finished(tmp_path), rows(tmp_path)) == (1, [1, 2])


def test_a_killed_writer_loses_nothing_that_it_had_acknowledged(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(200)][-1]
        os.kill(process.pid, signal.SIGKILL)
    assert seal_finished(tmp_path) == 1
    stored = rows(tmp_path)
    assert stored == list(range(len(stored)))
    assert len(stored) > acknowledged


def test_a_segment_that_another_worker_repairs_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = segments.fcntl.flock

    def repaired_first(file, how: int) -> None:
        monkeypatch.setattr(segments.fcntl, "flock", locked)
        assert seal_finished(tmp_path) == 1
        locked(file, how)

    monkeypatch.setattr(segments.fcntl, "flock", repaired_first)
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(batch(1, 2))
    assert seal_finished(tmp_path) == 0
    writer.finish()
    assert (seal_finished(tmp_path), rows(tmp_path)) == (1, [1, 2])
