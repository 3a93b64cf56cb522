"""A matrix-factorization bundle of realistic size, made without training: random factors cost a graph what trained ones do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from driftwheel.bundle import (
    FACTOR_PARAMETERS,
    GOLDEN,
    ITEM_FACTORS,
    ITEMS,
    ONNX_GRAPH,
    REFERENCE,
    SEEN,
    USER_FACTORS,
    Bundle,
    bundle_folder,
    read_bundle,
    seal,
    write_vocabulary,
)
from driftwheel.contracts import FactorParameters, InputSpec, Manifest, OutputSpec, Signature, TrainingRecord
from driftwheel.files import published_folder
from driftwheel.vocabulary import Vocabulary

USERS, ITEM_COUNT, FACTORS = 1000, 2000, 64

LOW, HIGH, MEAN = 0.5, 5.0, 3.3

SIGNATURE = Signature(
    inputs=(
        InputSpec(name="user_id", datatype="INT64", role="id", graph_input="user_index"),
        InputSpec(name="item_id", datatype="INT64", role="id", graph_input="item_index"),
    ),
    outputs=(OutputSpec(name="score", low=LOW, high=HIGH),),
    key_input="user_id",
    label="rating",
    label_low=LOW,
    label_high=HIGH,
)

Weights = dict[str, NDArray[Any]]


def make_factor_bundle(
    models: Path,
    version: int,
    *,
    name: str = "mf",
    users: int = USERS,
    items: int = ITEM_COUNT,
    factors: int = FACTORS,
    weights: Weights | None = None,
    nodes: Sequence[onnx.NodeProto] = (),
) -> Bundle:
    """A bundle that scores and recommends. Ids count from 1, so an id is its own index: servers without a vocabulary can
    be sent the same tensors.

    Args:
        weights: Made by ``random_weights``; None: others for each version.
        nodes: Added to the front of the scoring graph; what they want of constants is among ``weights``.
    """
    weights = random_weights(np.random.default_rng(version), users, items, factors) if weights is None else weights
    with published_folder(bundle_folder(models, name, version)) as folder:
        (folder / ONNX_GRAPH).write_bytes(scoring_graph(weights, nodes))
        _write_factors(folder, weights)
        _write_catalogue(folder, users, items)
        _write_golden(folder, users, items)
        vocabularies = {"user_id": f"vocabulary/{users}-users.json", "item_id": f"vocabulary/{items}-items.json"}
        for file, count in zip(vocabularies.values(), (users, items), strict=True):
            write_vocabulary(folder / file, Vocabulary(range(1, count + 1)))
        seal(folder, _manifest(name, version, vocabularies))
    return read_bundle(models, name, version)


def _manifest(name: str, version: int, vocabularies: dict[str, str]) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task="rating",
        created_at="2026-01-01T00:00:00Z",
        signature=SIGNATURE,
        vocabularies=vocabularies,
        training=TrainingRecord(
            run_id="benchmark", data_fingerprint="0" * 64, data_until=None, rows=1, code_revision="benchmark"
        ),
        parity=(),
    )


def random_weights(
    rng: np.random.Generator, users: int = USERS, items: int = ITEM_COUNT, factors: int = FACTORS
) -> Weights:
    """Row 0 of each table is the unknown: zeros, as in training."""
    scale = 1.0 / np.sqrt(factors)
    weights = {
        "users": rng.normal(0, scale, (users + 1, factors)).astype(np.float32),
        "items": rng.normal(0, 1, (items + 1, factors)).astype(np.float32),
        "user_bias": rng.normal(0, 0.3, users + 1).astype(np.float32),
        "item_bias": rng.normal(0, 0.5, items + 1).astype(np.float32),
        "mean": np.array(MEAN, np.float32),
        "low": np.array(LOW, np.float32),
        "high": np.array(HIGH, np.float32),
    }
    for table in ("users", "items", "user_bias", "item_bias"):
        weights[table][0] = 0
    return weights


def scoring_graph(weights: Weights, first: Sequence[onnx.NodeProto] = ()) -> bytes:
    """``clip(mean + biases + <user, item>)`` for rows of pairs."""
    nodes = [
        *first,
        helper.make_node("Gather", ["users", _user_of(first)], ["u"]),
        helper.make_node("Gather", ["items", "item_index"], ["i"]),
        helper.make_node("Mul", ["u", "i"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axis"], ["dot"], keepdims=0),
        helper.make_node("Gather", ["user_bias", "user_index"], ["ub"]),
        helper.make_node("Gather", ["item_bias", "item_index"], ["ib"]),
        helper.make_node("Add", ["dot", "ub"], ["with_user"]),
        helper.make_node("Add", ["with_user", "ib"], ["with_item"]),
        helper.make_node("Add", ["with_item", "mean"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["score"]),
    ]
    inputs = [_value("user_index", TensorProto.INT64, ["n"]), _value("item_index", TensorProto.INT64, ["n"])]
    outputs = [_value("score", TensorProto.FLOAT, ["n"])]
    return _serialized(nodes, inputs, outputs, weights | {"axis": np.array([1])})


def _user_of(first: Sequence[onnx.NodeProto]) -> str:
    """The tensor of users' positions: the input, unless a first node makes another."""
    made = [name for node in first for name in node.output]
    return "other_user" if "other_user" in made else "user_index"


def _write_factors(folder: Path, weights: Weights) -> None:
    """What recommending takes: vectors with their biases, the unknown item left out."""
    users = np.column_stack([weights["users"], weights["user_bias"]])
    items = np.column_stack([weights["items"], weights["item_bias"]])[1:]
    parameters = FactorParameters(mean=MEAN, low=LOW, high=HIGH, vector_damping=1.0, bias_damping=1.0)
    (folder / USER_FACTORS).parent.mkdir()
    np.save(folder / USER_FACTORS, users)
    np.save(folder / ITEM_FACTORS, np.ascontiguousarray(items))
    (folder / FACTOR_PARAMETERS).write_bytes(msgspec.json.encode(parameters))


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _serialized(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], weights: Weights
) -> bytes:
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items() if name in used]
    graph = helper.make_graph(nodes, "mf", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def _write_catalogue(folder: Path, users: int, items: int) -> None:
    ids = np.arange(1, items + 1)
    columns = {"item_id": ids, "title": [f"Item {one}" for one in ids], "popularity": items - ids}
    pq.write_table(pa.table(columns), folder / ITEMS)
    seen = np.arange(users + 2) * 4  # four seen items for each index, the unknown's as well; sorted within each
    np.savez(folder / SEEN, offsets=seen, items=np.tile(np.arange(1, 5), users + 1))


def _write_golden(folder: Path, users: int, items: int) -> None:
    session: Any = ort.InferenceSession(str(folder / ONNX_GRAPH), providers=["CPUExecutionProvider"])
    inputs = {"user_id": np.array([1, 2, users]), "item_id": np.array([items, 1, 2])}
    (scores,) = session.run(None, {"user_index": inputs["user_id"], "item_index": inputs["item_id"]})
    arrays = {f"input:{name}": values for name, values in inputs.items()}
    np.savez(folder / GOLDEN, allow_pickle=False, **arrays, **{"output:score": scores})
    columns = {f"in_{name}": values for name, values in inputs.items()}
    pq.write_table(pa.table(columns | {"out_score": scores, "label": scores}), folder / REFERENCE)
