"""What the prediction log costs for each request: building the Arrow batch, writing it, sealing it to Parquet.

Run with ``python -m benchmarks.log``. Beside the log's own layout (a row for each request, with lists) stands the layout
that it replaced (a row for each pair). CPU time, the best of several runs; what counts is the ratio.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from driftwheel.contracts import Arm, InputSpec, OutputSpec, Signature
from driftwheel.predictions import as_predictions, request_schema
from serving.prediction_log import request_batch
from serving.recording import Record, Series
from serving.segments import SegmentWriter

RESULTS = Path(__file__).parent / "results" / "log.json"

SIGNATURE = Signature(
    inputs=tuple(
        InputSpec(name=name, datatype="INT64", role="id", graph_input=name) for name in ("user_id", "item_id")
    ),
    outputs=(OutputSpec(name="rating", low=0.5, high=5.0),),
    label="rating",
    label_low=0.5,
    label_high=5.0,
)


def records(requests: int, pairs: int) -> list[Record]:
    """Requests as the recorder keeps them, ids drawn at random."""
    random = np.random.default_rng(0)

    def ids(bound: int) -> bytes:
        return random.integers(0, bound, pairs).astype("<i8").tobytes()

    return [
        (
            f"mf.1.0123456789ab{n:x}",
            1_700_000_000_000_000 + n,
            1e-4,
            1e-5,
            pairs,
            {"user_id": ids(1000), "item_id": ids(2000)},
            {"rating": random.random(pairs, dtype=np.float32)},
        )
        for n in range(requests)
    ]


def best_us(work: Callable[[], object], requests: int, *, times: int = 5) -> float:
    """CPU microseconds for each request, the best of several runs."""
    taken: list[float] = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken) / requests * 1e6


def measure(requests: int, pairs: int, folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds and bytes for each request, by layout and compression."""
    series = Series("mf", 1, SIGNATURE, Arm.STABLE, "grpc", "infer", "OK", "mf.1.")
    given = records(requests, pairs)
    batch = request_batch(SIGNATURE, [(series, given)])
    rows = as_predictions(pa.Table.from_batches([batch])).combine_chunks().to_batches()[0]

    def written(one: pa.RecordBatch, compression: str) -> Path:
        writer = SegmentWriter(
            folder / compression, one.schema, seal_bytes=2**40, seal_after_s=1e9, compression=compression
        )
        writer.append(one)
        writer.seal()
        return max((folder / compression).glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)

    results: dict[str, dict[str, float]] = {}
    build_us = best_us(lambda: request_batch(SIGNATURE, [(series, given)]), requests)
    for compression in ("none", "lz4", "zstd"):
        results[f"requests, {compression}"] = {
            "build_us": build_us,
            "write_and_seal_us": best_us(lambda c=compression: written(batch, c), requests),
            "bytes": written(batch, compression).stat().st_size / requests,
        }
    path = folder / "rows.parquet"
    results["pairs (as it was), snappy"] = {
        "build_us": best_us(lambda: as_predictions(pa.Table.from_batches([batch])), requests),
        "write_and_seal_us": best_us(lambda: pq.write_table(pa.Table.from_batches([rows]), path), requests),
        "bytes": path.stat().st_size / requests,
    }
    assert batch.schema == request_schema(SIGNATURE)  # noqa: S101 (what is measured is what is stored)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    everything: dict[str, dict[str, dict[str, float]]] = {}
    table = Table("pairs of a request", "layout, compression", "build us", "write and seal us", "bytes")
    with tempfile.TemporaryDirectory() as folder:
        for requests, pairs in ((4000, 1), (500, 1000)):
            found = everything[str(pairs)] = measure(requests, pairs, Path(folder))
            for name, one in found.items():
                numbers = (f"{one[key]:,.1f}" for key in ("build_us", "write_and_seal_us", "bytes"))
                table.add_row(str(pairs), name, *numbers)
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
