"""Small bundles made by hand, so that serving is tested without training: real files, real onnxruntime, no torch."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
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
from driftwheel.preprocessing import encode
from driftwheel.vocabulary import Vocabulary

USERS = [7, 15, 400]
ITEM_IDS = [10, 20, 30, 40, 50]
TITLES = ["Ten", "Twenty", "Thirty", None, "Fifty"]
ITEM_VECTORS = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.5, 0.5]]
FACTORS = FactorParameters(mean=0.0, low=0.5, high=5.0, vector_damping=1.0, bias_damping=1.0)
CONTRACTS = ["Month-to-month", "One year"]

RATING_SIGNATURE = Signature(
    inputs=(
        InputSpec(name="user_id", datatype="INT64", role="id", graph_input="user_index"),
        InputSpec(name="item_id", datatype="INT64", role="id", graph_input="item_index"),
    ),
    outputs=(OutputSpec(name="score", low=0.5, high=5.0),),
    key_input="user_id",
    label="rating",
    label_low=0.5,
    label_high=5.0,
)

CHURN_SIGNATURE = Signature(
    inputs=(
        InputSpec(name="contract", datatype="BYTES", role="category", graph_input="category", column=0),
        InputSpec(name="tenure", datatype="FP32", role="number", graph_input="number", column=0),
    ),
    outputs=(OutputSpec(name="churn_probability", low=0.0, high=1.0),),
    label="churned",
    label_low=0.0,
    label_high=1.0,
)

_RECORD = TrainingRecord(run_id="run", data_fingerprint="0" * 64, data_until=None, rows=9, code_revision="test")


def _model(nodes, inputs, outputs, weights):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def rating_tables(shift: float) -> tuple[np.ndarray, np.ndarray]:
    """User and item biases by index; index 0 is the unknown."""
    users = np.array([0.0, 0.1, 0.2, 0.3], dtype=np.float32)
    items = np.array([0.0, 3.0, 3.5, 2.0, 4.0, 1.0], dtype=np.float32) + np.float32(shift)
    return users, items


def rating_graph(users: np.ndarray, items: np.ndarray) -> bytes:
    """``score = user + item``, clipped to 0.5..5, from a table of each."""
    nodes = [
        helper.make_node("Gather", ["users", "user_index"], ["u"]),
        helper.make_node("Gather", ["items", "item_index"], ["i"]),
        helper.make_node("Add", ["u", "i"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["score"]),
    ]
    weights = {"users": users, "items": items, "low": np.float32(0.5), "high": np.float32(5)}
    inputs = [_value("user_index", TensorProto.INT64, ["n"]), _value("item_index", TensorProto.INT64, ["n"])]
    return _model(nodes, inputs, [_value("score", TensorProto.FLOAT, ["n"])], weights)


def _write_factors(folder: Path, shift: float) -> None:
    """Items have vectors that no user of training has: only who is folded in tells them apart by more than biases."""
    users, items = rating_tables(shift)
    (folder / "factors").mkdir()
    np.save(folder / USER_FACTORS, np.column_stack([np.zeros((len(users), 2)), users]).astype(np.float32))
    np.save(folder / ITEM_FACTORS, np.column_stack([ITEM_VECTORS, items[1:]]).astype(np.float32))
    (folder / FACTOR_PARAMETERS).write_bytes(msgspec.json.encode(FACTORS))


def churn_graph() -> bytes:
    """A logistic model of one category and one number, 30 where it is missing."""
    nodes = [
        helper.make_node("IsNaN", ["number"], ["missing"]),
        helper.make_node("Where", ["missing", "mean", "number"], ["filled"]),
        helper.make_node("Mul", ["filled", "slope"], ["scaled"]),
        helper.make_node("Gather", ["effect", "category"], ["effects"]),
        helper.make_node("Add", ["scaled", "effects"], ["logits"]),
        helper.make_node("Squeeze", ["logits", "axis"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["churn_probability"]),
    ]
    weights = {
        "mean": np.float32(30),
        "slope": np.float32(-0.05),
        "effect": np.array([0.0, 1.0, -1.0], dtype=np.float32),
        "axis": np.array([1]),
    }
    inputs = [_value("category", TensorProto.INT64, ["n", 1]), _value("number", TensorProto.FLOAT, ["n", 1])]
    return _model(nodes, inputs, [_value("churn_probability", TensorProto.FLOAT, ["n"])], weights)


def _golden(folder: Path, signature: Signature, vocabularies: dict[str, Vocabulary], inputs: dict) -> None:
    session = ort.InferenceSession(str(folder / ONNX_GRAPH), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, encode(signature, vocabularies, inputs))
    name = signature.outputs[0].name
    arrays = {f"input:{key}": values for key, values in inputs.items()} | {f"output:{name}": output}
    np.savez(folder / GOLDEN, **arrays)
    columns = {f"in_{key}": values for key, values in inputs.items()}
    label = np.clip(output, signature.label_low, signature.label_high)
    pq.write_table(pa.table(columns | {f"out_{name}": output, "label": label}), folder / REFERENCE)


def make_rating_bundle(
    models: Path, version: int, *, name: str = "mf", shift: float = 0.0, users: int = len(USERS)
) -> Bundle:
    """A rating model of biases: ``score = user + item + shift``, clipped to 0.5..5.

    With fewer ``users`` than there are, recommending for the last ones crashes.
    """
    vocabularies = {"user_id": Vocabulary(USERS), "item_id": Vocabulary(ITEM_IDS)}
    with published_folder(bundle_folder(models, name, version)) as folder:
        (folder / ONNX_GRAPH).write_bytes(rating_graph(*rating_tables(shift)))
        _write_factors(folder, shift)
        items = {"item_id": ITEM_IDS, "title": TITLES, "popularity": [3, 9, 1, 4, 2]}
        pq.write_table(pa.table(items), folder / ITEMS)
        np.savez(folder / SEEN, offsets=np.array([0, 0, 1, 3, 3])[: users + 2], items=np.array([4, 1, 2]))
        inputs = {"user_id": np.array([7, 15, 99]), "item_id": np.array([10, 50, 40])}
        _golden(folder, RATING_SIGNATURE, vocabularies, inputs)
        _seal(folder, name, version, "rating", RATING_SIGNATURE, vocabularies)
    return read_bundle(models, name, version)


def make_churn_bundle(models: Path, version: int, *, name: str = "churn") -> Bundle:
    """A churn model of one category and one number."""
    vocabularies = {"contract": Vocabulary(CONTRACTS)}
    with published_folder(bundle_folder(models, name, version)) as folder:
        (folder / ONNX_GRAPH).write_bytes(churn_graph())
        inputs = {
            "contract": np.array(["One year", "Month-to-month", ""]),
            "tenure": np.array([1.0, np.nan, 60.0], dtype=np.float32),
        }
        _golden(folder, CHURN_SIGNATURE, vocabularies, inputs)
        _seal(folder, name, version, "churn", CHURN_SIGNATURE, vocabularies)
    return read_bundle(models, name, version)


def _seal(folder, name, version, task, signature, vocabularies) -> None:
    files = {}
    for key, vocabulary in vocabularies.items():
        files[key] = f"vocabulary/{key}.json"
        write_vocabulary(folder / files[key], vocabulary)
    manifest = Manifest(
        name=name,
        version=version,
        task=task,
        created_at="2026-01-01T00:00:00Z",
        signature=signature,
        vocabularies=files,
        training=_RECORD,
        parity=(),
    )
    seal(folder, manifest)
