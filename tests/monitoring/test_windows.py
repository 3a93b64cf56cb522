import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.log_layout import feedback_folder
from driftwheel.predictions import FEEDBACK_SCHEMA, is_whole
from monitoring.segments import read_segments
from monitoring.windows import labelled_examples, read_feedback, read_predictions, unknown_feedback, with_labels

from .worlds import RATING, START, as_requests, log_rows, write_feedback, write_open, write_sealed

APPENDER = """
import sys, time
import pyarrow as pa
from tests.monitoring.worlds import RATING, as_requests, log_rows, START
import pandas as pd
from datetime import timedelta
frame = pd.DataFrame({"in_user_id": range(50), "in_item_id": range(50), "out_rating": 3.0})
schema = as_requests(log_rows(frame, RATING)).schema
with pa.OSFile(sys.argv[1], "wb") as file:
    stream = pa.ipc.new_stream(file, schema)
    for number in range(100_000):
        ids = [f"b{number:06d}-{row}" for row in range(50)]
        table = as_requests(log_rows(frame, RATING, prediction_id=ids))
        stream.write_batch(table.to_batches()[0])
        print(number, flush=True)
"""


def ratings(rows, start=0):
    numbers = np.arange(start, start + rows)
    return pd.DataFrame({"in_user_id": numbers % 7, "in_item_id": numbers, "out_rating": 3.0 + numbers % 3})


def table_of(rows, start=0, **common):
    at = [START + timedelta(seconds=int(i)) for i in range(start, start + rows)]
    ids = [f"p{i:07d}" for i in range(start, start + rows)]
    return log_rows(ratings(rows, start), RATING, **{"at": at, "prediction_id": ids, **common})


def test_sealed_and_open_segments_come_in_time_order(tmp_path):
    write_open(tmp_path, "m", 1, table_of(150, 300))
    write_sealed(tmp_path, "m", 1, table_of(300))
    table = read_predictions(tmp_path, "m")
    assert table["in_item_id"].tolist() == list(range(450))
    assert table["at"].is_monotonic_increasing
    assert set(table["version"]) == {1}


def test_a_sealed_segment_wins_over_its_open_form(tmp_path):
    write_open(tmp_path, "m", 1, table_of(250), stem="20260101T000000-1-0")
    write_sealed(tmp_path, "m", 1, table_of(250), stem="20260101T000000-1-0")
    assert len(read_predictions(tmp_path, "m")) == 250


@pytest.mark.parametrize("narrow", ["int16", "int32"])
def test_open_segments_of_narrow_integers_are_read_beside_older_ones(tmp_path, narrow):
    write_sealed(tmp_path, "m", 1, table_of(50))
    write_open(tmp_path, "m", 1, table_of(50, 50))
    path = write_open(tmp_path, "m", 1, table_of(50, 100), stem="20260101T000000-1-2", integers=narrow)
    assert narrow in str(pa.ipc.open_stream(path.read_bytes()).schema)
    table = read_segments(path.parent)
    assert table is not None
    assert table.schema.field("in_item_id").type.value_type == pa.int64()
    assert read_predictions(tmp_path, "m")["in_item_id"].tolist() == list(range(150))


def test_temporary_files_and_other_files_are_passed_over(tmp_path):
    path = write_sealed(tmp_path, "m", 1, table_of(10))
    (path.parent / ".tmp-abc.parquet").write_bytes(b"half")
    (path.parent / "notes.txt").write_text("hello")
    assert len(read_predictions(tmp_path, "m")) == 10


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 40_000))
def test_a_torn_tail_costs_at_most_the_batches_it_is_in(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("log")
    path = write_open(folder, "m", 1, table_of(300))
    content = path.read_bytes()
    kept = content[: min(cut, len(content))]
    path.write_bytes(kept)
    rows = len(read_predictions(folder, "m"))
    assert rows % 100 == 0
    assert rows == 300 or len(kept) < len(content)


@settings(max_examples=25, deadline=None)
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_behind_the_last_whole_batch_does_no_harm(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("log")
    path = write_open(folder, "m", 1, table_of(200))
    path.write_bytes(path.read_bytes() + noise)
    assert len(read_predictions(folder, "m")) == 200


@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1), noise=st.binary(min_size=1, max_size=64))
def test_noise_within_a_stream_never_raises(tmp_path_factory, where, noise):
    folder = tmp_path_factory.mktemp("log")
    path = write_open(folder, "m", 1, table_of(200))
    content = path.read_bytes()
    at = int(where * (len(content) - len(noise)))
    path.write_bytes(content[:at] + noise + content[at + len(noise) :])
    assert len(read_predictions(folder, "m")) <= 200


def test_a_sealed_segment_replaced_while_it_is_read_is_read_from_one_file(tmp_path, monkeypatch):
    path = write_sealed(tmp_path, "m", 1, table_of(100))
    other = write_sealed(tmp_path, "m", 1, table_of(40).drop_columns("out_rating"), stem=".tmp-other")
    real = pq.read_table

    def replaced_first(source, **options):
        other.rename(path)
        return real(source, **options)

    monkeypatch.setattr(pq, "read_table", replaced_first)
    table = read_segments(path.parent)
    assert table is not None
    assert (table.num_rows, "out_rating" in table.column_names) == (100, True)


def test_a_process_killed_while_it_writes_loses_nothing_that_was_whole(tmp_path):
    path = write_open(tmp_path, "m", 1, table_of(1), stem="20260101T000000-1-0").with_name("20260101T000000-9-0.arrows")
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    live = read_segments(path.parent)  # while it writes
    assert live is not None
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    written = [line for line in process.stdout.read().split("\n") if line]
    process.stdout.close()
    process.wait()
    table = read_predictions(tmp_path, "m")
    batches = (len(table) - 1) // 50
    assert live.num_rows >= 20 * 50
    assert (len(table) - 1) % 50 == 0
    assert batches >= int(written[-1] if written else 19) + 1
    assert not table.duplicated(["prediction_id", "row"]).any()


def test_an_unreadable_sealed_segment_is_passed_over(tmp_path):
    write_sealed(tmp_path, "m", 1, table_of(10))
    path = write_sealed(tmp_path, "m", 1, table_of(10, 10), stem="20260102T000000-1-0")
    path.write_bytes(path.read_bytes()[:100])
    assert len(read_predictions(tmp_path, "m")) == 10


def test_readers_see_every_row_while_segments_are_sealed(tmp_path):
    written = [0]

    def seal_many():
        for number in range(120):
            stem = f"20260101T000000-1-{number}"
            unsealed = write_open(tmp_path, "m", 1, table_of(20, 20 * number), stem=stem)
            written[0] = number + 1
            half = write_sealed(tmp_path, "m", 1, table_of(20, 20 * number), stem=".tmp-half")
            half.rename(half.with_name(f"{stem}.parquet"))
            unsealed.unlink()

    thread = threading.Thread(target=seal_many)
    thread.start()
    while thread.is_alive():
        whole = written[0]
        table = read_predictions(tmp_path, "m")
        assert set(range(20 * whole)) <= set(table.get("in_item_id", ()))
        assert not table.duplicated("prediction_id").any()
    thread.join()


def test_times_versions_and_columns(tmp_path):
    write_sealed(tmp_path, "m", 1, table_of(100))
    write_sealed(tmp_path, "m", 2, table_of(100, 100))
    write_sealed(tmp_path, "other", 1, table_of(100, 500))
    assert len(read_predictions(tmp_path, "m")) == 200
    assert set(read_predictions(tmp_path, "m", version=2)["version"]) == {2}
    part = read_predictions(tmp_path, "m", since="2026-01-01T00:00:50Z", until="2026-01-01T00:02:00+00:00")
    assert (part["in_item_id"].min(), part["in_item_id"].max()) == (50, 119)
    narrow = read_predictions(tmp_path, "m", columns=["in_item_id"])
    assert set(narrow.columns) == {"prediction_id", "row", "at", "in_item_id", "version"}


def test_no_log_is_an_empty_table(tmp_path):
    table = read_predictions(tmp_path / "none", "m")
    assert table.empty
    assert {"prediction_id", "row", "at", "arm", "code"} <= set(table.columns)
    assert read_feedback(tmp_path / "none", "m").empty
    assert labelled_examples(tmp_path / "none", "m", task="rating").empty


def test_labels_join_exactly_once_and_the_last_one_holds(tmp_path):
    write_sealed(tmp_path, "m", 1, table_of(10))
    late, early = START + timedelta(hours=2), START + timedelta(hours=1)
    ids = ["p0000001", "p0000001", "p0000002", "nowhere", "p0000003"]
    write_feedback(tmp_path, "m", ids, [5.0, 4.0, 2.0, 1.0, float("nan")], at=early)
    # A later arrival in an earlier-named segment: time decides, not names.
    write_feedback(tmp_path, "m", ["p0000002"], [3.5], at=late, stem="20250101T000000-1-0")
    write_feedback(tmp_path, "other", ["p0000004"], [1.0], stem="20260101T000000-1-5")
    predictions, feedback = read_predictions(tmp_path, "m"), read_feedback(tmp_path, "m")
    labelled = with_labels(predictions, feedback)
    assert len(labelled) == 10
    assert labelled["label"].tolist()[:4] == [
        pytest.approx(float("nan"), nan_ok=True),
        4.0,
        3.5,
        pytest.approx(float("nan"), nan_ok=True),
    ]
    assert labelled["label"].notna().sum() == 2
    assert unknown_feedback(predictions, feedback) == 1
    assert with_labels(labelled, feedback).equals(labelled)


def test_rows_of_a_request_are_told_apart(tmp_path):
    table = table_of(3, prediction_id=["p"] * 3, row=np.arange(3, dtype=np.int32), at=[START] * 3)
    write_sealed(tmp_path, "m", 1, table)
    write_feedback(tmp_path, "m", ["p", "p"], [1.0, 2.0], rows=[2, 0])
    labels = with_labels(read_predictions(tmp_path, "m"), read_feedback(tmp_path, "m"))["label"]
    assert labels.fillna(-1).tolist() == [2.0, -1.0, 1.0]


def test_labelled_examples_are_what_training_reads(tmp_path):
    write_sealed(tmp_path, "m", 1, table_of(5))
    write_sealed(tmp_path, "m", 2, table_of(5, 5))
    write_feedback(tmp_path, "m", ["p0000007", "p0000001"], [4.5, 2.0])
    examples = labelled_examples(tmp_path, "m", task="rating")
    seconds = int(START.timestamp())
    assert examples.to_dict("list") == {
        "user_id": [1, 0],
        "item_id": [1, 7],
        "rating": [2.0, 4.5],
        "at": [seconds + 1, seconds + 7],
    }
    assert list(labelled_examples(tmp_path, "m", task="churn").columns) == ["user_id", "item_id", "label", "at"]


def test_an_empty_recommendation_teaches_nothing(tmp_path):
    big = 2**53 + 1  # no float holds it
    columns = {"in_item_id": [big, None, 7], "out_rating": [3.0, None, 4.0]}
    rows = log_rows(ratings(3), RATING, kind=["infer", "recommend", "recommend"], **columns)
    write_sealed(tmp_path, "m", 1, rows)
    write_feedback(tmp_path, "m", [f"p{i:07d}" for i in range(3)], [1.0, 2.0, 3.0])
    examples = labelled_examples(tmp_path, "m", task="rating")
    assert examples["item_id"].tolist() == [big, 7]
    assert examples["item_id"].dtype == np.int64
    assert examples["rating"].tolist() == [1.0, 3.0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 50), st.floats(0, 5, width=32)), max_size=40
    )
)
def test_any_feedback_leaves_predictions_as_they_are(entries):
    frame = pd.DataFrame(
        {"prediction_id": [str(i // 2) for i in range(20)], "row": np.array([0, 1] * 10, dtype=np.int32)}
    )
    ordered = sorted(entries, key=lambda entry: entry[2])
    feedback = pd.DataFrame(
        {
            "prediction_id": [str(entry[0]) for entry in ordered],
            "row": np.array([entry[1] for entry in ordered], dtype=np.int32),
            "label": np.array([entry[3] for entry in ordered], dtype=np.float32),
        }
    )
    expected = {(str(entry[0]), entry[1]): entry[3] for entry in ordered}
    labelled = with_labels(frame, feedback)
    found = [expected.get((p, r), -1.0) for p, r in zip(frame["prediction_id"], frame["row"], strict=True)]
    assert labelled["label"].fillna(-1.0).tolist() == found
    known = {(p, r) for p, r in zip(frame["prediction_id"], frame["row"], strict=True)}
    assert unknown_feedback(frame, feedback) == len(set(expected) - known)


def test_a_number_of_rows_that_cannot_be_is_noise(tmp_path):
    whole = as_requests(table_of(5)).to_batches()[0]
    assert is_whole(whole)
    for wrong in (-1, 0, 2, 2**31 - 1):
        columns = [pa.array([wrong] * 5, pa.int32()) if name == "rows" else whole[name] for name in whole.schema.names]
        assert not is_whole(pa.record_batch(columns, schema=whole.schema))
    empty = as_requests(table_of(1, code=["INTERNAL"])).to_batches()[0]
    lists = [pa.nulls(1, field.type) if pa.types.is_list(field.type) else empty[field.name] for field in empty.schema]
    assert is_whole(pa.record_batch(lists, schema=empty.schema))


def test_open_feedback_segments_are_read_too(tmp_path):
    folder = feedback_folder(tmp_path)
    folder.mkdir(parents=True)
    row = {"prediction_id": "p", "row": 0, "at": START, "label": 1.0, "model": "m"}
    batch = pa.RecordBatch.from_pylist([row], schema=FEEDBACK_SCHEMA)
    with pa.OSFile(str(folder / "20260101T000000-1-0.arrows"), "wb") as file:
        pa.ipc.new_stream(file, FEEDBACK_SCHEMA).write_batch(batch)
    assert read_feedback(tmp_path, "m")["label"].tolist() == [1.0]


def test_ten_times_the_rows_take_about_ten_times_as_long(tmp_path):
    seconds: dict[int, float] = {}
    for rows in (2_000, 20_000, 200_000):  # the first is for what the first call alone takes
        table = table_of(rows)
        write_sealed(tmp_path, f"m{rows}", 1, table)
        labels = np.arange(rows, dtype=np.float32) % 5
        write_feedback(tmp_path, f"m{rows}", table["prediction_id"].to_pylist(), labels.tolist())
        started = time.process_time()
        labelled = with_labels(read_predictions(tmp_path, f"m{rows}"), read_feedback(tmp_path, f"m{rows}"))
        seconds[rows] = time.process_time() - started
        assert labelled["label"].notna().all()
    assert seconds[200_000] < 50 * seconds[20_000]
