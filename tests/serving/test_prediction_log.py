import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from driftwheel.contracts import Arm
from driftwheel.log_layout import feedback_folder, predictions_folder
from driftwheel.predictions import as_predictions, prediction_schema, request_schema, widened
from driftwheel.serving_settings import LogSettings
from monitoring.metrics import ServingMetrics
from monitoring.segments import read_segments
from serving.prediction_log import Feedback, PredictionLog, request_batch
from serving.recording import Series
from serving.sealing import seal_finished
from tests.bundles import CHURN_SIGNATURE, RATING_SIGNATURE


def series(code: str = "OK", *, model: str = "mf", signature=RATING_SIGNATURE) -> Series:
    return Series(model, 1, signature, Arm.CANDIDATE, "grpc", "infer", code, f"{model}.1.")


def record(one: Series, rows: int = 2, *, prediction_id: str = "mf.1.a", failed: bool = False) -> Series:
    inputs = {"user_id": np.arange(rows).astype("<i8").tobytes(), "item_id": np.arange(rows) + 10}
    outputs = None if failed else {"score": np.arange(rows, dtype=np.float32)}
    one.gathered.append(prediction_id, 1_000_000, 42e-6, 0.0, rows, inputs, outputs)
    return one


def add(log: PredictionLog, one: Series) -> None:
    log.add(one, one.take())


def run(tmp_path: Path, use, **settings) -> ServingMetrics:
    metrics = ServingMetrics(CollectorRegistry())

    async def main() -> None:
        log = PredictionLog(tmp_path, LogSettings(**settings), metrics, now_us=lambda: 7_000_000)
        await log.start()
        await use(log)
        await log.close()

    asyncio.run(main())
    seal_finished(tmp_path)
    return metrics


def sample(metrics: ServingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def table(folder: Path) -> pa.Table:
    (path,) = folder.glob("*.parquet")
    return pq.read_table(path)


def test_each_request_is_a_row_and_each_prediction_can_be_read_as_one(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        add(log, record(series(), 2))
        add(log, record(series("INTERNAL"), 1, prediction_id="mf.1.b", failed=True))

    metrics = run(tmp_path, use)
    stored = table(predictions_folder(tmp_path, "mf", 1))
    assert stored.num_rows == 2
    rows = as_predictions(stored).to_pylist()
    assert [(r["prediction_id"], r["row"], r["in_item_id"], r["out_score"], r["code"]) for r in rows] == [
        ("mf.1.a", 0, 10, 0.0, "OK"),
        ("mf.1.a", 1, 11, 1.0, "OK"),
        ("mf.1.b", 0, 10, None, "INTERNAL"),
    ]
    assert (rows[0]["arm"], rows[0]["latency_us"], rows[0]["at"].timestamp()) == ("candidate", 42, 1.0)
    assert sample(metrics, "driftwheel_prediction_log_rows_total", model="mf") == 3


def test_text_and_missing_values_are_logged(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        inputs = {
            "contract": np.array([b"One year", None, "x"], dtype=object),
            "tenure": np.array([1, np.nan, 3], "f4"),
        }
        answered, failed = (series(code, model="churn", signature=CHURN_SIGNATURE) for code in ("OK", "INTERNAL"))
        answered.gathered.append("c.1.a", 0, 1e-6, 0.0, 3, inputs, {"churn_probability": np.zeros(3, "f4")})
        failed.gathered.append("c.1.b", 0, 1e-6, 0.0, 1, {}, None)
        add(log, answered)
        add(log, failed)

    run(tmp_path, use)
    stored = table(predictions_folder(tmp_path, "churn", 1))
    assert stored.schema.field("in_contract").type.value_type == pa.string()
    rows = as_predictions(stored).to_pylist()
    assert [r["in_contract"] for r in rows] == ["One year", None, "x", None]
    assert rows[0]["in_tenure"] == 1.0
    assert np.isnan(rows[1]["in_tenure"])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_what_is_read_as_predictions_is_what_was_recorded(requests: list[tuple[int, bool]]) -> None:
    one = series()
    for n, (rows, failed) in enumerate(requests):
        record(one, rows, prediction_id=f"p{n}", failed=failed)
    batch = widened(request_batch(RATING_SIGNATURE, one, one.gathered))
    read = as_predictions(pa.Table.from_batches([batch, batch]))
    expected = [
        (f"p{n}", row, row, row + 10, None if failed else float(row))
        for _ in range(2)
        for n, (rows, failed) in enumerate(requests)
        for row in range(rows)
    ]
    columns = ("prediction_id", "row", "in_user_id", "in_item_id", "out_score")
    assert list(zip(*(read.column(name).to_pylist() for name in columns), strict=True)) == expected
    wanted = prediction_schema(RATING_SIGNATURE)
    assert {field.name: field.type for field in read.schema} == {field.name: field.type for field in wanted}


def with_ids(one: Series, *ids: int) -> Series:
    inputs = {"user_id": np.array(ids, "<i8").tobytes(), "item_id": np.arange(len(ids))}
    one.gathered.append(f"mf.1.{ids[0]}", 1_000_000, 42e-6, 0.0, len(ids), inputs, {"score": np.zeros(len(ids), "f4")})
    return one


def open_user_ids(folder: Path) -> list[tuple[str, list[list[int]]]]:
    """Of each open segment: the type of its user ids, and these."""
    found = []
    for path in sorted(folder.glob("*.arrows")):
        with pa.ipc.open_stream(path.read_bytes()) as stream:
            column = stream.read_all().column("in_user_id")
        found.append((str(column.type.value_type), column.to_pylist()))
    return found


def test_ids_take_as_few_bytes_as_they_need_and_are_read_as_they_came(tmp_path: Path) -> None:
    folder = predictions_folder(tmp_path, "mf", 1)
    small, medium, large = [1, -2], [3, 2**30], [2**40, -(2**63)]
    seen = {}

    async def use(log: PredictionLog) -> None:
        for ids in (small, medium, small, large, small):
            add(log, with_ids(series(), *ids))
            await log.flush()
        seen["open"] = open_user_ids(folder)
        seen["tail"] = read_segments(folder)

    run(tmp_path, use, flush_interval_ms=60_000)
    # One that does not fit begins a new segment, and narrower ones go on in that.
    assert seen["open"] == [("int16", [small]), ("int32", [medium, small]), ("int64", [large, small])]
    for stored in (seen["tail"], read_segments(folder)):
        assert stored.schema.equals(request_schema(RATING_SIGNATURE))
        assert stored.column("in_user_id").to_pylist() == [small, medium, small, large, small]
    assert len(list(folder.glob("*.parquet"))) == 3
    assert {pq.read_schema(path).field("in_user_id").type.value_type for path in folder.glob("*.parquet")} == {
        pa.int64()
    }


def test_one_write_of_narrow_and_wide_ids_is_one_segment(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        answered, failed = with_ids(series(), 5), with_ids(series("INTERNAL"), 2**33)
        log._thread.submit(time.sleep, 0.1)  # so that both wait for the same write
        for one in (with_ids(series(), 4), answered, failed):
            add(log, one)
        await log.flush()
        segments = open_user_ids(predictions_folder(tmp_path, "mf", 1))
        assert [ids for _, found in segments for ids in found] == [[4], [5], [2**33]]
        assert segments[-1][0] == "int64"

    run(tmp_path, use, flush_interval_ms=60_000)


def test_a_full_log_drops_and_counts_and_the_disk_may_stall(tmp_path: Path) -> None:
    large = 10_000  # rows: 0.2 MB
    stalled = threading.Event()

    async def use(log: PredictionLog) -> None:
        log._thread.submit(stalled.wait, 10)
        log.before_flush = lambda: add(log, record(series(), large))
        waiting = asyncio.get_running_loop().create_task(log.flush())
        for _ in range(20):
            await asyncio.sleep(0)
            log.before_flush()
        log.before_flush = lambda: None
        stalled.set()
        await waiting

    metrics = run(tmp_path, use, max_pending_mib=1, flush_interval_ms=60_000)
    dropped = sample(metrics, "driftwheel_prediction_log_dropped_rows_total", model="mf")
    logged = sample(metrics, "driftwheel_prediction_log_rows_total", model="mf")
    assert (dropped or 0) + (logged or 0) == 21 * large
    assert logged == 5 * large
    assert as_predictions(table(predictions_folder(tmp_path, "mf", 1))).num_rows == logged


def test_a_retired_version_is_finished_and_forgotten(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        add(log, record(series(), 2))
        await log.forget("mf", 1)
        assert seal_finished(tmp_path) == 1
        assert table(predictions_folder(tmp_path, "mf", 1)).num_rows == 1
        assert log._tables == {}

    run(tmp_path, use, flush_interval_ms=60_000)


def test_feedback_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        given = [Feedback(f"mf.1.{n}", 0, 4.0, "mf") for n in range(50)]
        await asyncio.gather(*(log.accept([one]) for one in given))
        (open_segment,) = feedback_folder(tmp_path).glob("*.arrows")
        content = open_segment.read_bytes()
        assert all(f"mf.1.{n}".encode() in content for n in range(50))

    metrics = run(tmp_path, use, flush_interval_ms=60_000)
    assert table(feedback_folder(tmp_path)).num_rows == 50
    assert sample(metrics, "driftwheel_feedback_total", model="mf") == 50
