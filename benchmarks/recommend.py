"""Exact top-10 over a catalogue: the server over gRPC, beside what libraries do in process on the same cores.

Run with ``python -m benchmarks.recommend``. Each round measures every contestant once, in turn, and medians over the
rounds are shown; what counts are the ratios, since other work may share the machine. Nobody's search leaves out seen items
but the server's, which also decodes, names, logs and encodes. Libraries that are not installed are skipped.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from benchmarks.models import make_factor_bundle
from benchmarks.tools.report import Target, add_results_option, console, show_targets, write_json
from driftwheel.bundle import ITEM_FACTORS, USER_FACTORS
from driftwheel.rollout import serve_stable
from driftwheel.settings import load_settings
from serving._proto import driftwheel_pb2 as pb
from serving.front_door import running
from serving.recommendation.search import TopK

K, BATCH, USERS = 10, 32, 1000
SIZES = (10_000, 1_000_000)
THREADS = 2
CALLERS = 4
"""Batches of 32 that are under way at a time, over gRPC; enough that the server never waits for the network."""

Search = Callable[[NDArray[np.float32]], Any]
"""From user vectors ``[b, factors]`` to their best items."""


@dataclass(frozen=True, slots=True)
class Tables:
    """A catalogue: vectors and, in the last column, biases."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]


def ours(tables: Tables) -> Search:
    """The server's search, without the server."""
    top = TopK(tables.items, threads=THREADS)
    nothing = np.empty(0, dtype=np.int64)
    return lambda users: top.search(users, [K] * len(users), [nothing] * len(users))


def onnxruntime(tables: Tables) -> Search:
    """MatMul, Add, TopK."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["users", "items"], ["affinity"]),
        helper.make_node("Add", ["affinity", "biases"], ["scores"]),
        helper.make_node("TopK", ["scores", "k"], ["best", "index"], axis=1),
    ]
    weights = {
        "items": np.ascontiguousarray(tables.items[:, :-1].T),
        "biases": tables.items[:, -1].copy(),
        "k": np.array([K]),
    }
    graph = helper.make_graph(
        nodes,
        "recommend",
        [helper.make_tensor_value_info("users", TensorProto.FLOAT, ["b", tables.items.shape[1] - 1])],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["b", K])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda users: session.run(None, {"users": users})


def pytorch(tables: Tables) -> Search:
    """Addmm and topk."""
    import torch

    torch.set_num_threads(THREADS)
    items = torch.from_numpy(np.ascontiguousarray(tables.items[:, :-1].T))
    biases = torch.from_numpy(tables.items[:, -1].copy())

    def search(users: NDArray[np.float32]) -> Any:
        with torch.inference_mode():
            return torch.topk(torch.addmm(biases, torch.from_numpy(users), items), K)

    return search


def numpy(tables: Tables) -> Search:
    """A product and argpartition."""
    items = np.ascontiguousarray(tables.items[:, :-1].T)
    biases = tables.items[:, -1].copy()
    return lambda users: np.argpartition(users @ items + biases, -K, axis=1)[:, -K:]


def faiss(tables: Tables) -> Search:
    """A flat index of vectors with the bias as one more dimension."""
    import faiss as library  # pyright: ignore[reportMissingImports] (optional)

    library.omp_set_num_threads(THREADS)
    index = library.IndexFlatIP(tables.items.shape[1])
    index.add(tables.items)
    return lambda users: index.search(np.column_stack([users, np.ones(len(users), np.float32)]), K)


def implicit(tables: Tables) -> Search:
    """Its topk, which its recommenders rest on."""
    from implicit.cpu.topk import topk  # pyright: ignore[reportMissingImports] (optional)

    return lambda users: topk(
        tables.items, np.column_stack([users, np.ones(len(users), np.float32)]), K, num_threads=THREADS
    )


LIBRARIES: dict[str, Callable[[Tables], Search]] = {
    "onnxruntime": onnxruntime,
    "torch": pytorch,
    "numpy": numpy,
    "faiss": faiss,
    "implicit": implicit,
}


@contextmanager
def served(items: int) -> Generator[tuple[Callable[[bytes], bytes], Tables]]:
    """A server with such a catalogue: a call to it, and the catalogue."""
    with tempfile.TemporaryDirectory(prefix="driftwheel-benchmark-") as folder:
        settings = load_settings(home=Path(folder), serving={"port": 0, "recommend_threads": THREADS})
        bundle = make_factor_bundle(settings.models, 1, users=USERS, items=items)
        serve_stable(settings.rollouts, "mf", 1, by="benchmark", now="2026-01-01T00:00:00Z")
        tables = Tables(np.load(bundle.path(USER_FACTORS)), np.load(bundle.path(ITEM_FACTORS)))
        with running(settings) as (_, address), grpc.insecure_channel(address.target) as channel:
            call: Callable[[bytes], bytes] = channel.unary_unary("/driftwheel.v1.Recommender/Recommend")
            yield call, tables


def request(users: int, random: np.random.Generator) -> bytes:
    """For random known users."""
    ids = random.integers(1, USERS + 1, users).tolist()
    return pb.RecommendRequest(users=[{"user_id": one, "k": K} for one in ids]).SerializeToString()


def rate(call: Callable[[], object], seconds: float, *, callers: int = 1) -> float:
    """Users a second, in batches of 32."""
    end = time.perf_counter() + seconds

    def repeat() -> int:
        calls = 0
        while time.perf_counter() < end:
            call()
            calls += 1
        return calls

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        calls = sum(one.result() for one in [pool.submit(repeat) for _ in range(callers)])
    return calls * BATCH / (time.perf_counter() - start)


def median_ms(call: Callable[[], object], seconds: float) -> float:
    """The median duration of one call after another."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(items: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """By contestant: users a second in batches of 32, and one user's median in milliseconds."""
    random = np.random.default_rng(0)
    with served(items) as (call, tables):
        single, batch = request(1, random), request(BATCH, random)
        vectors = np.ascontiguousarray(tables.users[random.integers(1, USERS, BATCH), :-1])
        installed = {name: make for name, make in LIBRARIES.items() if find_spec(name) is not None}
        searches = {"driftwheel, in process": ours(tables), **{name: make(tables) for name, make in installed.items()}}
        rates: dict[str, list[float]] = {"driftwheel over gRPC": [], **{name: [] for name in searches}}
        medians: dict[str, list[float]] = {name: [] for name in rates}
        for _ in track(range(rounds), f"{items:,} items"):
            rates["driftwheel over gRPC"].append(rate(lambda: call(batch), seconds, callers=CALLERS))
            medians["driftwheel over gRPC"].append(median_ms(lambda: call(single), seconds))
            for name, search in searches.items():
                rates[name].append(rate(lambda search=search: search(vectors), seconds))
                medians[name].append(median_ms(lambda search=search: search(vectors[:1]), seconds))
    return {
        name: {"users_per_s": statistics.median(rates[name]), "single_ms": statistics.median(medians[name])}
        for name in rates
    }


def show(items: int, results: dict[str, dict[str, float]]) -> None:
    """A table, with ratios to onnxruntime's."""
    table = Table("", "users/s", "x onnxruntime", "one user, ms", title=f"Exact top-{K} of {items:,} items")
    base = results["onnxruntime"]
    for name, one in results.items():
        ratio = one["users_per_s"] / base["users_per_s"]
        table.add_row(name, f"{one['users_per_s']:,.0f}", f"{ratio:.2f}", f"{one['single_ms']:.2f}")
    console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--items", type=int, nargs="+", default=SIZES)
    add_results_option(parser)
    arguments = parser.parse_args()
    results = {items: measure(items, arguments.rounds, arguments.seconds) for items in arguments.items}
    for items, one in results.items():
        show(items, one)
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    console().print(f"Not installed, and left out: {', '.join(missing) or 'nothing'}")
    targets: list[Target] = []
    for items, wanted in ((10_000, 15_000.0), (1_000_000, 500.0)):
        if items in results:
            value = results[items]["driftwheel over gRPC"]["users_per_s"]
            targets.append(Target(f"users/s over gRPC, {items:,} items", value, ">=", wanted))
    if 1_000_000 in results:
        value = results[1_000_000]["driftwheel over gRPC"]["single_ms"]
        targets.append(Target("one user over gRPC, 1,000,000 items, p50 ms", value, "<=", 15.0))
    show_targets(targets)
    named = {str(items): one for items, one in results.items()}
    path = write_json(
        arguments.results, "recommend", {"threads": THREADS, "factors": 64, "top": K, "batch": BATCH, "items": named}
    )
    console().print(f"{path}")


if __name__ == "__main__":
    main()
