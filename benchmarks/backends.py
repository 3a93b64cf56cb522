"""What one run of a model costs in process: backends, settings and ways to call onnxruntime, in microseconds.

Run with ``python -m benchmarks.backends``. The model is a matrix factorization of the default size with random weights, written
by the real exporters. Every case is timed in turn, round after round, and the best time of each is shown: whatever else the
machine does makes a run slower, never faster.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks.models import make_factor_bundle
from exporters.onnx_graph import write_onnx
from exporters.torchscript import write_torchscript
from serving.backends.base import Backend, Feed
from serving.backends.factor_kernel import factor_kernel
from serving.backends.factors import open_factors
from serving.backends.onnx import OnnxBackend
from serving.backends.onnx_bound import BoundOnnxBackend
from serving.backends.onnx_options import session_options
from serving.backends.torchscript import TorchScriptBackend
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

ROWS = (1, 64, 1000, 4096)
USERS, ITEMS, FACTORS = 700, 9000, 64
_ROUND_S = 0.02
"""How long a case runs at a stretch."""

Run = Callable[[Feed], Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how often each case is timed (default: 10)")
    parser.add_argument("--json", action="store_true", help="for scripts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder))
        best = measure(cases, arguments.rounds)
    if arguments.json:
        sys.stdout.write(json.dumps(best, indent=2) + "\n")
        return
    print(f"| us for one run of so many rows | {' | '.join(map(str, ROWS))} |\n|---|{'---|' * len(ROWS)}")
    for name, times in best.items():
        print(f"| {name} | {' | '.join(f'{times[rows]:.1f}' for rows in ROWS)} |")


def make_cases(folder: Path) -> dict[str, Run]:
    """Everything that is compared, by name."""
    graph, script = folder / "model.onnx", folder / "model.ts"
    shape = MatrixFactorizationShape(users=USERS, items=ITEMS, factors=FACTORS, low=0.5, high=5.0)
    model = MatrixFactorization(shape).eval()
    example = (torch.arange(7), torch.arange(7))
    write_onnx(graph, model, example, ["user_index", "item_index"], ["score"])
    write_torchscript(script, model, example)
    backends: dict[str, Backend] = {
        "onnx": OnnxBackend(graph, intra_op_threads=1),
        "onnx, 2 threads": OnnxBackend(graph, intra_op_threads=2),
        "onnx, IO binding": BoundOnnxBackend(graph, device="cpu", intra_op_threads=1),
        "onnx, IO binding, fixed buffers": BoundOnnxBackend(graph, device="cpu", intra_op_threads=1, buckets=ROWS),
        "torchscript": TorchScriptBackend(script, ["score"], device="cpu", intra_op_threads=1),
    }
    if factor_kernel() is not None:
        backends["factors"] = open_factors(make_factor_bundle(folder, 1, users=USERS, items=ITEMS, factors=FACTORS))
    return {name: backend.run for name, backend in backends.items()} | _changed_options(graph) | _other_calls(graph)


def _changed_options(graph: Path) -> dict[str, Run]:
    """The session of ``OnnxBackend`` with one option turned over."""

    def case(change: Callable[[ort.SessionOptions], None], threads: int = 1) -> Run:
        options = session_options(intra_op_threads=threads)
        change(options)
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return lambda feed: session.run(["score"], feed)

    return {
        "session.run alone": case(lambda options: None),
        "no arena": case(lambda options: setattr(options, "enable_cpu_mem_arena", False)),
        "memory plans": case(lambda options: setattr(options, "enable_mem_pattern", True)),
        "no graph optimisation": case(
            lambda options: setattr(options, "graph_optimization_level", ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        ),
        "denormals as zero": case(
            lambda options: options.add_session_config_entry("session.set_denormal_as_zero", "1")
        ),
    }


def _other_calls(graph: Path) -> dict[str, Run]:
    """Other ways into the same session, and what it would cost without one."""
    options = session_options(intra_op_threads=1)
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    shrinking = ort.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def with_values(feed: Feed) -> Any:
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        return session.run_with_ort_values(["score"], values)[0].numpy()

    return {
        "arena shrunk at each run": lambda feed: session.run(["score"], feed, shrinking),
        "run_with_ort_values": with_values,
        "numpy: take, take, einsum, clip": _numpy_run(),
    }


def _numpy_run() -> Run:
    """The same sum with biases and mean folded into the vectors: what the arithmetic itself takes."""
    random = np.random.default_rng(0)
    users: NDArray[Any] = random.normal(size=(USERS, FACTORS + 2)).astype(np.float32)
    items: NDArray[Any] = random.normal(size=(ITEMS, FACTORS + 2)).astype(np.float32)

    def run(feed: Feed) -> Any:
        pairs = users.take(feed["user_index"], 0), items.take(feed["item_index"], 0)
        return np.einsum("nf,nf->n", *pairs).clip(0.5, 5.0)

    return run


def measure(cases: dict[str, Run], rounds: int) -> dict[str, dict[int, float]]:
    """Microseconds of the best round of each case, by rows."""
    random = np.random.default_rng(0)
    best: dict[str, dict[int, float]] = {name: {} for name in cases}
    for rows in ROWS:
        feed = {"user_index": random.integers(0, USERS, rows), "item_index": random.integers(0, ITEMS, rows)}
        for _ in range(rounds):
            for name, run in cases.items():
                best[name][rows] = min(_time_us(run, feed), best[name].get(rows, float("inf")))
    return best


def _time_us(run: Run, feed: Feed) -> float:
    run(feed)
    calls, begun = 0, time.perf_counter()
    while (took := time.perf_counter() - begun) < _ROUND_S:
        run(feed)
        calls += 1
    return took / calls * 1e6


if __name__ == "__main__":
    main()
