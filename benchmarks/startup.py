"""How long ``driftwheel serve`` takes from its first instruction to its first answer, beside what its libraries' imports take.

Run with ``python -m benchmarks.startup``; in an environment with the serving extra alone it measures what a serving host has.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from driftwheel.rollout import serve_stable
from driftwheel.settings import Settings, load_settings
from serving.runtime import server_address
from tests.bundles import make_churn_bundle, make_rating_bundle

IMPORTS = "import numpy, onnxruntime, pyarrow.parquet, google.protobuf, pydantic_settings, structlog, typer"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts to take the median of (default: 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(home=Path(folder), serving={"port": 0})
        make_rating_bundle(settings.models, 1)
        make_churn_bundle(settings.models, 1)
        for name in ("mf", "churn"):
            serve_stable(settings.rollouts, name, 1, by="benchmark", now="2026-01-01T00:00:00Z")
        starts = [start_up_s(settings) for _ in range(rounds)]
    imports = [import_s() for _ in range(rounds)]
    results = {"start_up_s": statistics.median(starts), "library_imports_s": statistics.median(imports)}
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def start_up_s(settings: Settings) -> float:
    """Seconds until the server has announced that it answers; it is drained again."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "driftwheel", "serve"]
    process = subprocess.Popen(command, env=settings.child_environment(), stderr=subprocess.DEVNULL)
    while (address := server_address(settings)) is None or address.pid != process.pid:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        time.sleep(0.002)
    took = time.perf_counter() - begun
    process.send_signal(signal.SIGTERM)
    process.wait()
    return took


def import_s() -> float:
    """Seconds that a bare interpreter takes to import what the server is built on."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
