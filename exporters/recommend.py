"""Top-K over all items as one ONNX graph, and the same in numpy to prove it against."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx_graph import OPSET
from training.models.matrix_factorization import MatrixFactorization

_IR_VERSION = 10
"""What goes with opset 20 and what onnxruntime since 1.18 reads."""


def write_recommend_graph(path: Path, model: MatrixFactorization) -> None:
    """Write the graph.

    Inputs: ``user_index`` int64 ``[b]``; ``exclude_index`` int64 ``[b, m]``, padded with 0, where m may be 0; ``k``
    int64 ``[1]``. Outputs: ``item_index`` int64 ``[b, k']`` and ``score`` float32 ``[b, k']``, best first, where k' is
    k but at most the size of the item table. Items are ranked by the raw score, and scores clipped to the rating range
    after that. Index 0 and the excluded items are never recommended: where a user's items run out, the index is 0 and
    the score NaN. The search is exact.
    """
    weights = {
        "user_vectors": _numpy(model.user_vector.weight),
        "user_biases": _numpy(model.user_bias.weight),
        "item_vectors": np.ascontiguousarray(_numpy(model.item_vector.weight).T),
        "item_biases": _rankable_biases(model),
        "mean": _numpy(model.mean).reshape(1),
        "low": np.float32(model.shape.low),
        "high": np.float32(model.shape.high),
        "table_size": np.array([model.shape.items], dtype=np.int64),
        "never": np.array([-np.inf], dtype=np.float32),
        "not_a_number": np.array([np.nan], dtype=np.float32),
        "unknown": np.array([0], dtype=np.int64),
    }
    graph = helper.make_graph(
        _nodes(),
        "recommend",
        inputs=[
            helper.make_tensor_value_info("user_index", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("exclude_index", TensorProto.INT64, ["batch", "excluded"]),
            helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        ],
        outputs=[
            helper.make_tensor_value_info("item_index", TensorProto.INT64, ["batch", "k"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", "k"]),
        ],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="driftwheel")
    onnx.checker.check_model(made)
    onnx.save(made, path)


def recommend_in_numpy(
    model: MatrixFactorization, user_index: NDArray[np.int64], exclude_index: NDArray[np.int64], k: int
) -> NDArray[np.float32]:
    """The scores float32 ``[b, k']`` that the graph should give, by sorting everything."""
    vectors, items = _numpy(model.user_vector.weight)[user_index], _numpy(model.item_vector.weight)
    raw = vectors.astype(np.float64) @ items.T.astype(np.float64) + _rankable_biases(model)
    np.put_along_axis(raw, exclude_index, -np.inf, axis=1)
    best = -np.sort(-raw, axis=1)[:, :k]
    scores = np.clip(
        best + _numpy(model.user_bias.weight)[user_index] + model.mean.item(), model.shape.low, model.shape.high
    )
    return np.where(np.isneginf(best), np.nan, scores).astype(np.float32)


def _nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        # Rank by what differs between items; the mean and the user's bias come after.
        node("Gather", ["user_vectors", "user_index"], ["user_vector"]),
        node("MatMul", ["user_vector", "item_vectors"], ["affinity"]),
        node("Add", ["affinity", "item_biases"], ["rank"]),
        node("Shape", ["exclude_index"], ["exclude_shape"]),
        node("Expand", ["never", "exclude_shape"], ["exclude_rank"]),
        node("ScatterElements", ["rank", "exclude_index", "exclude_rank"], ["allowed"], axis=1),
        node("Min", ["k", "table_size"], ["k_there_is"]),
        node("TopK", ["allowed", "k_there_is"], ["best", "best_index"], axis=1),
        node("Gather", ["user_biases", "user_index"], ["user_bias"]),
        node("Add", ["best", "user_bias"], ["best_biased"]),
        node("Add", ["best_biased", "mean"], ["raw_score"]),
        node("Clip", ["raw_score", "low", "high"], ["clipped"]),
        node("IsInf", ["best"], ["ran_out"]),
        node("Where", ["ran_out", "unknown", "best_index"], ["item_index"]),
        node("Where", ["ran_out", "not_a_number", "clipped"], ["score"]),
    ]


def _rankable_biases(model: MatrixFactorization) -> NDArray[np.float32]:
    """The items' biases ``[items]``, the unknown's set so low that it is never recommended."""
    biases = _numpy(model.item_bias.weight)[:, 0].copy()
    biases[0] = -np.inf
    return biases


def _numpy(tensor: Any) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy()
