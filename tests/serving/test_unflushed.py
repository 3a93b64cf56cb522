"""What a kill can have cost: the busiest interval of the log that it left."""

import os
import re
import signal
import threading
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.predictions import FEEDBACK_SCHEMA
from serving.segments import SegmentWriter, seal_segment
from serving.unflushed import busiest
from tests.serving.test_server import envoy_of, prepared_home, serve, wait_up

SCHEMA = pa.schema([pa.field("at", pa.timestamp("us", tz="UTC")), pa.field("rows", pa.int32())])


def requests(*at_us: int, rows: int = 1) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array(at_us, SCHEMA.field("at").type), pa.array([rows] * len(at_us), pa.int32())], SCHEMA
    )


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), min_size=1, max_size=40))
def test_it_is_what_counting_each_interval_finds(found: list[tuple[int, int]]) -> None:
    batches = [requests(at, rows=rows) for at, rows in found]
    counted = max(sum(rows for at, rows in found if end - 100 < at <= end) for end, _ in found)
    assert busiest(batches, 100e-6) == counted


def test_of_nothing_and_of_labels_there_is_none() -> None:
    assert busiest([], 1.0) == 0
    (labels,) = pa.Table.from_pylist([dict.fromkeys(FEEDBACK_SCHEMA.names)], FEEDBACK_SCHEMA).to_batches()
    assert busiest([labels], 1.0) == 0


@pytest.mark.parametrize("killed", [True, False])
def test_only_of_a_killed_writer_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, killed: bool
) -> None:
    writer = SegmentWriter(tmp_path, finish_bytes=10**9, finish_after_s=1e9)
    writer.append(requests(0, 40_000, 90_000, 500_000))
    (path,) = tmp_path.iterdir()
    if not killed:
        writer.finish()
    seal_segment(path, flush_interval_s=0.1)
    said = re.findall(r"lost_predictions_at_most=(\d+)", "".join(capsys.readouterr()))
    assert said == (["3"] if killed else [])


@pytest.mark.system
def test_a_server_killed_under_load_says_what_it_lost_at_most(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    process = serve(settings)
    url = f"http://{wait_up(settings, process)}"
    answered: list[list[str]] = [[] for _ in range(4)]

    def ask(ids: list[str]) -> None:
        with httpx.Client(base_url=url, trust_env=False) as client:
            try:
                while True:
                    ids.append(client.post("/v1/recommend", json={"user_id": 7, "k": 1}).json()["prediction_id"])
            except httpx.HTTPError:
                return

    threads = [threading.Thread(target=ask, args=(ids,)) for ids in answered]
    for thread in threads:
        thread.start()
    while sum(map(len, answered)) < 1000:
        threads[0].join(0.01)
    os.kill(envoy_of(process), signal.SIGKILL)
    for thread in threads:
        thread.join()
    _, errors = process.communicate(timeout=30)
    sealed = settings.prediction_log.rglob("mf/**/*.parquet")
    stored = {one for path in sealed for one in pq.read_table(path)["prediction_id"].to_pylist()}
    lost = {one for ids in answered for one in ids} - stored
    (told,) = re.findall(r"lost_predictions_at_most\D+(\d+)", errors)
    # A machine that is busy with other things may be late with a flush.
    assert len(lost) <= 5 * int(told), (len(lost), told)
    assert int(told) < 1000
