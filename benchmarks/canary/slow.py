"""A candidate that answers as it would, but 30 ms later on this machine."""

import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.models import Weights, scoring_graph
from serving.backends.onnx_options import session_options

ADDED_MS = 30.0
WITHIN = 0.2
"""How far off it may be, as a share."""

_WIDTH = 1200
_FIRST_PRODUCTS = 40
_ATTEMPTS, _RUNS = 8, 21


def slow_nodes(weights: Weights) -> tuple[list[Any], float]:
    """Nodes for the front of a scoring graph that take 30 ms here, as many as that is found to take by timing them.

    Args:
        weights: Of a factorization; gets the constants that the nodes want.

    Returns:
        The nodes, and how many milliseconds they add to a pair, by itself and in one thread.

    Raises:
        RuntimeError: Timings vary too much for an answer.
    """
    plain, products, seen = _median_ms(scoring_graph(weights)), _FIRST_PRODUCTS, list[str]()
    for _ in range(_ATTEMPTS):
        nodes = delaying_nodes(weights, products=products)
        added = _median_ms(scoring_graph(weights, nodes)) - plain
        if abs(added - ADDED_MS) <= WITHIN * ADDED_MS:
            return nodes, added
        seen.append(f"{products} products took {added:.1f} ms")
        products = max(round(products * ADDED_MS / max(added, 1.0)), 1)
    raise RuntimeError(f"no number of products adds {ADDED_MS:g} ms here, the machine is too busy: {', '.join(seen)}")


def delaying_nodes(weights: Weights, *, products: int) -> list[Any]:
    """Products that change nothing: of the user's vector with zeros first, and of what comes of it with a large unit matrix.
    Their sum is added to the user's position.
    """
    weights["widen"] = np.zeros((weights["users"].shape[1], _WIDTH), np.float32)
    weights["layer"] = np.eye(_WIDTH, dtype=np.float32)
    weights["columns"] = np.array([1])
    nodes = [
        helper.make_node("Gather", ["users", "user_index"], ["u0"]),
        helper.make_node("MatMul", ["u0", "widen"], ["h0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"h{n}", "layer"], [f"h{n + 1}"]) for n in range(products)]
    return [
        *nodes,
        helper.make_node("ReduceSum", [f"h{products}", "columns"], ["nothing"], keepdims=0),
        helper.make_node("Cast", ["nothing"], ["no_rows"], to=TensorProto.INT64),
        helper.make_node("Add", ["user_index", "no_rows"], ["other_user"]),
    ]


def _median_ms(graph: bytes) -> float:
    """What a pair takes, run as the server runs it."""
    session = ort.InferenceSession(graph, session_options(intra_op_threads=1), providers=["CPUExecutionProvider"])
    pair = {name: np.array([1], np.int64) for name in ("user_index", "item_index")}
    took = list[float]()
    for _ in range(_RUNS):
        began = time.perf_counter()
        session.run(None, pair)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1000
