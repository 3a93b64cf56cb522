import asyncio
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry

from driftwheel.contracts import Arm
from driftwheel.predictions import feedback_folder, predictions_folder
from driftwheel.settings import LogSettings
from monitoring.metrics import ServingMetrics
from serving.prediction_log import Feedback, Logged, PredictionLog
from tests.bundles import CHURN_SIGNATURE, RATING_SIGNATURE


def logged(rows: int = 2, *, prediction_id: str = "mf.1.a", failed: bool = False) -> Logged:
    inputs = {"user_id": np.arange(rows), "item_id": np.arange(rows) + 10}
    outputs = None if failed else {"score": np.arange(rows, dtype=np.float32)}
    return Logged(
        prediction_id, 1_000_000, Arm.CANDIDATE, "infer", "INTERNAL" if failed else "OK", 42, rows, inputs, outputs
    )


def run(tmp_path: Path, use, **settings) -> ServingMetrics:
    metrics = ServingMetrics(CollectorRegistry())

    async def main() -> None:
        log = PredictionLog(tmp_path, LogSettings(**settings), metrics, now_us=lambda: 7_000_000, chance=lambda: 0.5)
        await log.start()
        await use(log)
        await log.close()

    asyncio.run(main())
    return metrics


def sample(metrics: ServingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def table(folder: Path) -> list[dict]:
    (path,) = folder.glob("*.parquet")
    return pq.read_table(path).to_pylist()


def test_each_row_of_each_request_is_logged(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        log.add("mf", 1, RATING_SIGNATURE, logged(2))
        log.add("mf", 1, RATING_SIGNATURE, logged(1, prediction_id="mf.1.b", failed=True))

    metrics = run(tmp_path, use)
    rows = table(predictions_folder(tmp_path, "mf", 1))
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
        outputs = {"churn_probability": np.zeros(3, "f4")}
        log.add("churn", 1, CHURN_SIGNATURE, Logged("c.1.a", 0, Arm.STABLE, "infer", "OK", 1, 3, inputs, outputs))
        log.add("churn", 1, CHURN_SIGNATURE, Logged("c.1.b", 0, Arm.STABLE, "infer", "INTERNAL", 1, 1, {}, None))

    run(tmp_path, use)
    rows = table(predictions_folder(tmp_path, "churn", 1))
    assert [r["in_contract"] for r in rows] == ["One year", None, "x", None]


def test_a_full_log_drops_and_counts(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        for _ in range(4):
            log.add("mf", 1, RATING_SIGNATURE, logged(2))

    metrics = run(tmp_path, use, max_pending_rows=5)
    assert len(table(predictions_folder(tmp_path, "mf", 1))) == 4
    assert sample(metrics, "driftwheel_prediction_log_dropped_rows_total", model="mf") == 4


def test_the_sample_decides_what_is_wanted(tmp_path: Path) -> None:
    wanted = []

    async def use(log: PredictionLog) -> None:
        wanted.append(log.wants())

    for share in (0.4, 0.6, 1.0):
        run(tmp_path, use, sample=share)
    assert wanted == [False, True, True]


def test_feedback_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    async def use(log: PredictionLog) -> None:
        given = [Feedback(f"mf.1.{n}", 0, 4.0, "mf") for n in range(50)]
        await asyncio.gather(*(log.accept([one]) for one in given))
        (open_segment,) = feedback_folder(tmp_path).glob("*.arrows")
        content = open_segment.read_bytes()
        assert all(f"mf.1.{n}".encode() in content for n in range(50))

    metrics = run(tmp_path, use, flush_interval_ms=60_000)
    assert len(table(feedback_folder(tmp_path))) == 50
    assert sample(metrics, "driftwheel_feedback_total", model="mf") == 50
