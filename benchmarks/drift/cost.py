"""What one drift decision costs: 100,000 rows of 20 columns, from the prediction log with a label for each row, and from a
table of one's own.

Run with ``python -m benchmarks.drift.cost``. Each is measured in a process of its own, after its imports: seconds from the
rows on disk to the decision, and the most memory that the process ever had, imports and the rows themselves included. The
report for people (Evidently's) is not part of it. Exit code 1 where a target is missed.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json

SECONDS, MIB = 1.0, 300.0
"""Wanted at most."""

NUMBERS, CATEGORIES, VALUES = 10, 9, 8
"""With the prediction, 20 columns."""

WINDOWS = 3
REFERENCE_ROWS = 10_000

Source = Literal["log", "table"]


def main() -> None:
    """Write the rows, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="in three windows (default: 100000)")
    parser.add_argument("--rounds", type=int, default=5, help="of each, the median counts (default: 5)")
    add_results_option(parser)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"log": [], "table": []}
    with tempfile.TemporaryDirectory() as folder:
        _alone(_write, Path(folder), options.rows)
        for _ in range(options.rounds):
            for source, runs in found.items():
                runs.append(_alone(_measure, Path(folder), options.rows, source))
    table = Table("rows from", "seconds", "MiB before", "MiB at most", title=f"A decision over {options.rows:,} rows")
    targets: list[Target] = []
    for source, runs in found.items():
        middle = {key: sorted(one[key] for one in runs)[len(runs) // 2] for key in ("seconds", "mib_before", "mib")}
        table.add_row(source, f"{middle['seconds']:.2f}", f"{middle['mib_before']:.0f}", f"{middle['mib']:.0f}")
        targets.append(Target(f"seconds, rows from the {source}", middle["seconds"], "<=", SECONDS))
        targets.append(Target(f"MiB at most, rows from the {source}", middle["mib"], "<=", MIB))
    console().print(table)
    met = show_targets(targets)
    write_json(options.results, "drift_cost", {"options": vars(options), "runs": found})
    sys.exit(not met)


def _alone(function: Any, *arguments: Any) -> Any:
    """Call it in a process that has done nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _write(folder: Path, rows: int) -> None:
    """A bundle, its log and its feedback, and the same rows as a table."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from driftwheel.bundle import REFERENCE, bundle_folder, seal, write_vocabulary
    from driftwheel.contracts import InputSpec, Manifest, OutputSpec, Signature, TrainingRecord
    from driftwheel.log_layout import feedback_folder, predictions_folder
    from driftwheel.predictions import FEEDBACK_SCHEMA, request_schema
    from driftwheel.vocabulary import Vocabulary

    rng = np.random.default_rng(0)
    names = [f"number_{i}" for i in range(NUMBERS)], [f"category_{i}" for i in range(CATEGORIES)]
    signature = Signature(
        inputs=(
            *(InputSpec(name=name, datatype="FP32", role="number", graph_input="numbers") for name in names[0]),
            *(InputSpec(name=name, datatype="BYTES", role="category", graph_input="categories") for name in names[1]),
        ),
        outputs=(OutputSpec(name="probability", low=0.0, high=1.0),),
        label="churn",
        label_low=0.0,
        label_high=1.0,
    )
    values = np.array([f"value {i}" for i in range(VALUES)], object)

    def columns(count: int) -> dict[str, Any]:
        probability = rng.random(count)
        return {
            **{f"in_{name}": pa.array(rng.standard_normal(count), pa.float32()) for name in names[0]},
            **{f"in_{name}": pa.array(values[rng.integers(0, VALUES, count)], pa.string()) for name in names[1]},
            "out_probability": pa.array(probability, pa.float32()),
            "label": pa.array(rng.random(count) < probability).cast(pa.float32()),
        }

    target = bundle_folder(folder / "models", "churn", 1)
    target.mkdir(parents=True)
    pq.write_table(pa.table(columns(REFERENCE_ROWS)), target / REFERENCE)
    vocabularies = {name: f"vocabulary/{name}.json" for name in names[1]}
    for file in vocabularies.values():
        write_vocabulary(target / file, Vocabulary(values.tolist()))
    training = TrainingRecord(run_id="", data_fingerprint="", data_until=None, rows=1, code_revision="")
    seal(
        target,
        Manifest(
            name="churn",
            version=1,
            task="churn",
            created_at="2026-01-01T00:00:00Z",
            signature=signature,
            vocabularies=vocabularies,
            training=training,
            parity=(),
        ),
    )
    table = columns(rows)
    pq.write_table(pa.table(table), folder / "table.parquet")
    ids = pa.array([f"{number:032x}" for number in range(rows)])
    at = pa.array(np.arange(rows) * 1_000_000 + 1_767_225_600_000_000, pa.timestamp("us", tz="UTC"))
    one = pa.array(np.ones(rows), pa.int32())
    offsets = pa.array(np.arange(rows + 1), pa.int32())
    stored: dict[str, Any] = {"prediction_id": ids, "at": at, "rows": one}
    stored |= {name: pa.array([value] * rows) for name, value in (("arm", "stable"), ("kind", "infer"), ("code", "OK"))}
    stored["latency_us"] = pa.array(np.full(rows, 1500), pa.int32())
    stored |= {name: pa.ListArray.from_arrays(offsets, column) for name, column in table.items() if name != "label"}
    log = folder / "log"
    for place, content in (
        (predictions_folder(log, "churn", 1), pa.table({f.name: stored[f.name] for f in request_schema(signature)})),
        (
            feedback_folder(log),
            pa.table(
                {
                    "prediction_id": ids,
                    "row": pa.array(np.zeros(rows), pa.int32()),
                    "at": at,
                    "label": table["label"],
                    "model": pa.array(["churn"] * rows),
                },
                schema=FEEDBACK_SCHEMA,
            ),
        ),
    ):
        place.mkdir(parents=True)
        pq.write_table(content, place / "20260101T000000-1-0.parquet")


def _measure(folder: Path, rows: int, source: Source) -> dict[str, float]:
    import pandas as pd
    import scipy.special

    from driftwheel.bundle import read_bundle
    from driftwheel.settings import DriftSettings
    from monitoring.drift.job import run_drift

    settings = DriftSettings(window_rows=rows // WINDOWS)
    bundle = read_bundle(folder / "models", "churn", 1)
    scipy.special.gammaincc(1.0, 1.0)  # imports, and what they leave for later, are not what is measured
    before, started = _peak_mib(), time.perf_counter()
    result = run_drift(
        log=folder / "log",
        bundle=bundle,
        reports=folder / "reports",
        settings=settings,
        now="2026-01-02T00:00:00Z",
        window=pd.read_parquet(folder / "table.parquet") if source == "table" else None,
        html=False,
    )
    seconds = time.perf_counter() - started
    if result.decision.windows != WINDOWS or result.decision.status != "stable":
        raise AssertionError(f"the decision is not about all rows: {result.decision.summary}")
    return {"seconds": seconds, "mib_before": before, "mib": _peak_mib()}


def _peak_mib() -> float:
    # Not getrusage: its number survives the exec that this process began with, and may be the parent's.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
