"""What the prediction log costs for each request: gathering it, building the Arrow batch, writing it; and sealing it, later and
elsewhere.

Run with ``python -m benchmarks.log``. CPU time, the best of several runs; what counts is the ratio.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from driftwheel.contracts import Arm, InputSpec, OutputSpec, Signature
from driftwheel.predictions import request_schema, widened
from serving.prediction_log import request_batch
from serving.recording import Series
from serving.segments import SegmentWriter, seal_segment

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


Request = tuple[dict[str, bytes], dict[str, bytes]]


def made(requests: int, pairs: int) -> list[Request]:
    """Inputs and outputs of requests, as the core hands them over; ids drawn at random."""
    random = np.random.default_rng(0)

    def ids(bound: int) -> bytes:
        return random.integers(0, bound, pairs).astype("<i8").tobytes()

    return [
        ({"user_id": ids(1000), "item_id": ids(2000)}, {"rating": random.random(pairs, dtype=np.float32).tobytes()})
        for _ in range(requests)
    ]


def gather(series: Series, requests: list[Request]) -> None:
    """Requests as the recorder takes them."""
    for n, (inputs, outputs) in enumerate(requests):
        rows = len(outputs["rating"]) // 4
        series.gathered.append(f"mf.1.0123456789ab{n:x}", 1_700_000_000_000_000 + n, 1e-4, 1e-5, rows, inputs, outputs)


_TIMES = 5


def best_us(
    work: Callable[[], object], requests: int, *, times: int = _TIMES, before: Callable[[], object] = lambda: None
) -> float:
    """CPU microseconds for each request, the best of several runs. ``before`` is called before each, untimed."""
    taken: list[float] = []
    for _ in range(times):
        before()
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken) / requests * 1e6


def measure(requests: int, pairs: int, folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds and bytes for each request, by layout and compression."""
    series = Series("mf", 1, SIGNATURE, Arm.STABLE, "grpc", "infer", "OK", "mf.1.")

    given = made(requests, pairs)

    def gathered() -> None:
        series.gathered.empty()
        gather(series, given)

    results = {"gather": {"us": best_us(gathered, requests)}}
    batch = request_batch(SIGNATURE, series, series.gathered)
    assert widened(batch).schema == request_schema(SIGNATURE)  # noqa: S101 (what is measured is what is stored)

    def build() -> pa.RecordBatch:
        return request_batch(SIGNATURE, series, series.gathered)

    results["build the batch"] = {"us": best_us(build, requests, before=gathered)}
    writer = SegmentWriter(folder / "stream", finish_bytes=2**40, finish_after_s=1e9)
    writer.append(batch)  # which takes the memory that later ones use again
    before = writer.bytes
    write_us = best_us(lambda: writer.append(batch), requests, times=_TIMES)
    results["write"] = {"us": write_us, "bytes": (writer.bytes - before) / _TIMES / requests}
    writer.finish()
    (stream,) = (folder / "stream").glob("*.arrows")
    for compression in ("none", "lz4", "zstd"):
        copy = folder / f"{compression}.arrows"

        def seal(copy: Path = copy, compression: str = compression) -> None:
            seal_segment(copy, compression=compression)

        shutil.copyfile(stream, copy)
        us = best_us(seal, requests * (_TIMES + 1), times=1)
        size = copy.with_suffix(".parquet").stat().st_size
        results[f"seal, {compression}"] = {"us": us, "bytes": size / requests / (_TIMES + 1)}
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    everything: dict[str, dict[str, dict[str, float]]] = {}
    table = Table("pairs of a request", "stage", "us", "bytes")
    with tempfile.TemporaryDirectory() as folder:
        for requests, pairs in ((4000, 1), (200, 1000)):
            found = everything[str(pairs)] = measure(requests, pairs, Path(folder) / str(pairs))
            for name, one in found.items():
                table.add_row(str(pairs), name, f"{one['us']:,.2f}", f"{one['bytes']:,.0f}" if "bytes" in one else "")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
