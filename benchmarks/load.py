"""Requests per second and latency of a Driftwheel server, beside the same transport with no model behind it.

Run with ``make bench``. Rounds are interleaved, medians are taken, and what counts is the ratio: absolute numbers
belong to the machine of the moment. Results go to ``benchmarks/results/load.json``.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from driftwheel.log import configure_logging
from driftwheel.rollout import serve_stable
from driftwheel.settings import load_settings
from serving._proto import open_inference_pb2 as pb
from serving.front_door import running
from tests.bundles import make_rating_bundle

RESULTS = Path(__file__).parent / "results" / "load.json"
CEILING = "ServerLive (no model)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each round (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (default: 3)")
    parser.add_argument("--in-flight", type=int, default=64, help="calls under way at once (default: 64)")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("the load comes from h2load: install Debian's nghttp2-client")
    configure_logging("console", "warning")
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(home=Path(folder), log_level="warning", serving={"port": 0})
        make_rating_bundle(settings.models, 1)
        serve_stable(settings.rollouts, "mf", 1, by="benchmark", now="2026-01-01T00:00:00Z")
        with running(settings) as (_, address):
            results = measure(address.url, Path(folder), options)
    show(results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2))


def measure(url: str, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median requests per second and p99 of each case, over interleaved rounds."""
    cases = {
        "score 1 pair": ("ModelInfer", score_message(1)),
        "score 1000 pairs": ("ModelInfer", score_message(1000)),
        CEILING: ("ServerLive", b""),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (method, message) in cases.items():
            rounds[name].append(run_h2load(url, method, message, folder, options))
    return {
        name: {
            "requests_per_s": statistics.median(rate for rate, _ in taken),
            "p99_ms": statistics.median(p99 for _, p99 in taken),
        }
        for name, taken in rounds.items()
    }


def score_message(rows: int) -> bytes:
    """ModelInfer with raw tensors of so many pairs."""
    columns = {"user_id": np.resize([7, 15, 400, 1], rows), "item_id": np.resize([10, 20, 30], rows)}
    request = pb.ModelInferRequest(
        model_name="mf",
        inputs=[{"name": name, "datatype": "INT64", "shape": [rows]} for name in columns],
        raw_input_contents=[values.astype("<i8").tobytes() for values in columns.values()],
    )
    return request.SerializeToString()


def run_h2load(url: str, method: str, message: bytes, folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Requests per second and p99 in ms of a closed loop over four connections.

    Raises:
        RuntimeError: A call failed. gRPC's errors are HTTP 200 with an empty body, so the bytes are counted.
    """
    body, log = folder / "body", folder / "h2load.tsv"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    log.unlink(missing_ok=True)
    connections = 4
    command = ["h2load", f"--clients={connections}", f"--max-concurrent-streams={options.in_flight // connections}"]
    command += [f"--duration={options.seconds}", "--warm-up-time=1", f"--data={body}", f"--log-file={log}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers"]
    done = subprocess.run(
        [*command, f"{url}/inference.GRPCInferenceService/{method}"], capture_output=True, text=True, check=True
    )
    took = np.loadtxt(log, dtype=np.int64)
    if not (took[:, 1] == 200).all() or "(0) data" in done.stdout:
        raise RuntimeError(f"calls of {method} failed:\n{done.stdout}")
    return len(took) / options.seconds, float(np.quantile(took[:, 2], 0.99) / 1000)


def show(results: dict[str, dict[str, float]]) -> None:
    """A table; the share is of the ceiling in the same run."""
    ceiling = results[CEILING]["requests_per_s"]
    table = Table("case", "requests/s", "p99 ms", "share of the ceiling")
    for name, one in results.items():
        share = one["requests_per_s"] / ceiling
        table.add_row(name, f"{one['requests_per_s']:,.0f}", f"{one['p99_ms']:.1f}", f"{share:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
