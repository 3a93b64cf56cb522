"""What it costs to answer for customers by their id: start-up, memory and latency with a feature store and without.

Run with ``python -m benchmarks.features``. The features are those of the packaged Telco customers, all 19 of each are read; the
model is a small one that takes two of them. Answers by id are compared with answers to the raw rows before anything is timed.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.tools.processes import memory, tree
from driftwheel.rollout import serve_stable
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel import features
from driftwheel.wheel.sources import Sources
from serving.runtime import server_address
from tests.bundles import make_churn_bundle
from training.data.sources import CustomersSource, RatingsSource, read_customers

INPUTS = ["contract", "tenure"]
AT_ONCE = 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=2000, help="of one customer each, one after the other (default: 2000)"
    )
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        plain = load_settings(home=home, serving={"port": 0})
        make_churn_bundle(plain.models, 1)
        serve_stable(plain.rollouts, "churn", 1, by="benchmark", now="2026-01-01T00:00:00Z")
        results: dict[str, Any] = {}
        for name, step in steps(plain).items():
            begun = time.perf_counter()
            step()
            results[f"{name}_s"] = round(time.perf_counter() - begun, 2)
        results["raw_rows"] = measured(plain, raw_bodies(), requests)
        served = load_settings(home=home, serving={"port": 0}, features={"serve": True, "timeout_ms": 5000})
        results["by_id"] = measured(served, id_bodies(), requests, compare=raw_bodies())
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def steps(settings: Settings) -> dict[str, Callable[[], object]]:
    """What comes before a server can answer by id."""
    now = datetime.now(UTC).replace(microsecond=0)
    sources = Sources(ratings=RatingsSource(), customers=CustomersSource())
    return {
        "build": lambda: features.build(settings, sources, at=now),
        "materialize": lambda: features.materialize(settings, until=now),
    }


def raw_bodies() -> list[dict[str, Any]]:
    """One request for each customer, with its features."""
    rows = json.loads(read_customers(CustomersSource())[INPUTS].to_json(orient="records"))
    return [{"customers": [row]} for row in rows]


def id_bodies() -> list[dict[str, Any]]:
    """One request for each customer, with its id alone."""
    return [{"customer_ids": [one]} for one in read_customers(CustomersSource())["customer_id"].tolist()]


def measured(
    settings: Settings, bodies: list[dict[str, Any]], requests: int, *, compare: list[dict[str, Any]] | None = None
) -> dict[str, float]:
    """Of one server: seconds until it answers, MiB, milliseconds of a request; and how many answers are not ``compare``'s."""
    begun = time.perf_counter()
    with serving(settings) as (url, pid), httpx.Client(base_url=url, timeout=30) as client:
        found = {"start_up_s": round(time.perf_counter() - begun, 2)}

        def ask(body: dict[str, Any]) -> list[float]:
            answer = client.post("/v1/churn", json=body).raise_for_status().json()
            return [row["churn_probability"] for row in answer["predictions"]]

        if compare is not None:
            pairs = zip(together(bodies), together(compare), strict=True)
            differing = sum(a != b for one, other in pairs for a, b in zip(ask(one), ask(other), strict=True))
            found["answers_that_differ"] = differing
        took_ms = list[float]()
        for number in range(requests):
            begun = time.perf_counter()
            ask(bodies[number % len(bodies)])
            took_ms.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        ask(together(bodies)[0])
        found["of_1000_customers_ms"] = round((time.perf_counter() - begun) * 1000, 1)
        quantiles = statistics.quantiles(took_ms, n=100)
        found |= {"p50_ms": round(quantiles[49], 2), "p99_ms": round(quantiles[98], 2)}
        found["memory_mib"] = round(memory(tree(pid)).pss)
        return found


def together(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests of many customers each."""
    (name,) = bodies[0]
    return [
        {name: [body[name][0] for body in bodies[start : start + AT_ONCE]]} for start in range(0, len(bodies), AT_ONCE)
    ]


@contextmanager
def serving(settings: Settings) -> Generator[tuple[str, int]]:
    """A server's URL and process id."""
    command = [sys.executable, "-m", "driftwheel", "serve"]
    process = subprocess.Popen(command, env=settings.child_environment(), stderr=subprocess.DEVNULL)
    try:
        while (address := server_address(settings)) is None or address.pid != process.pid:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with code {process.returncode}")
            time.sleep(0.005)
        yield address.url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
