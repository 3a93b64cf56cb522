"""scikit-learn's trees for customers, and the one graph that each becomes."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.config import BoostingConfig, ForestConfig
from training.data.dataset import EncodedSplit

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

Feed = dict[str, NDArray[Any]]

_OPSET = {"": 20, "ai.onnx.ml": 3}
_ENCODED = "encoded"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Graph inputs to the columns that trees split on: a flag for each category's values, the numbers, and a flag for each
    that is missing. Index 0 (unknown or missing) raises no flag; a missing number is the median; numbers are pulled into
    the range of the training split, infinite ones too, which moves no row across a split.
    """

    columns: NDArray[np.int64]
    """Of each flag, the column of ``category``."""
    values: NDArray[np.int64]
    """Of each flag, the index that raises it."""
    median: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def width(self) -> int:
        """How many columns it makes."""
        return len(self.columns) + 2 * len(self.median)

    def encode(self, feed: Feed) -> NDArray[np.float32]:
        """Columns float32 ``[rows, width]``: what the graph of ``nodes`` computes."""
        parts: list[NDArray[Any]] = []
        if len(self.columns):
            parts.append(feed["category"][:, self.columns] == self.values)
        if len(self.median):
            number = feed["number"]
            missing = np.isnan(number)
            parts += [np.clip(np.where(missing, self.median, number), self.low, self.high), missing]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")


def encoder_of(train: EncodedSplit) -> Encoder:
    """The encoder of a training split."""
    columns, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for column, indices in enumerate(train.feed["category"].T if "category" in train.feed else ()):
        present = np.unique(indices[indices > 0]).astype(np.int64)
        columns.append(np.full(len(present), column, dtype=np.int64))
        values.append(present)
    number = train.feed.get("number", np.empty((len(train.label), 0), dtype=np.float32))
    present = [column[np.isfinite(column)] for column in number.T]
    statistics = [[f(c) if len(c) else 0.0 for c in present] for f in (np.median, np.min, np.max)]
    median, low, high = (np.array(row, dtype=np.float32) for row in statistics)
    return Encoder(np.concatenate(columns), np.concatenate(values), median, low, high)


def forest(config: ForestConfig, seed: int, threads: int) -> "RandomForestClassifier":
    """A random forest to be fitted (Breiman, 2001)."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        config.trees, min_samples_leaf=config.min_leaf_rows, random_state=seed, n_jobs=threads
    )


def boosting(config: BoostingConfig, iterations: int, seed: int) -> "HistGradientBoostingClassifier":
    """Boosted trees over histograms to be fitted (Ke and others, *LightGBM*, 2017)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=config.learning_rate,
        max_iter=iterations,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.min_leaf_rows,
        l2_regularization=config.l2,
        early_stopping=False,  # pyright: ignore[reportArgumentType] (its stubs know "auto" alone)
        random_state=seed,
    )


def graph_of(estimator: Any, encoder: Encoder, feed: Feed, output: str) -> bytes:
    """The encoder and a fitted estimator as one ONNX graph.

    Args:
        feed: Rows with the graph inputs that there are.
        output: The name of its output, the probability of class 1, ``[rows]``.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    trees = _converted(estimator, encoder.width)
    nodes, constants = _encoding(encoder)
    chosen = [
        helper.make_node("Gather", [trees.graph.output[1].name, "leaves"], [output], axis=1),
    ]
    constants["leaves"] = np.array(1, dtype=np.int64)
    kinds = {"category": TensorProto.INT64, "number": TensorProto.FLOAT}
    graph = helper.make_graph(
        [*nodes, *trees.graph.node, *chosen],
        "trees",
        [helper.make_tensor_value_info(name, kinds[name], ["rows", feed[name].shape[1]]) for name in sorted(feed)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])],
        [*trees.graph.initializer, *(numpy_helper.from_array(array, name) for name, array in constants.items())],
    )
    versions = {opset.domain: opset.version for opset in trees.opset_import} | {"": _OPSET[""]}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=trees.ir_version)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _converted(estimator: Any, width: int) -> "ModelProto":
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's about its own insides
        to_onnx: Any = skl2onnx.to_onnx  # its annotations are narrower than what it takes and gives
        return to_onnx(
            estimator,
            initial_types=[(_ENCODED, FloatTensorType([None, width]))],
            options={"zipmap": False},
            target_opset=_OPSET,
        )


def _encoding(encoder: Encoder) -> "tuple[list[NodeProto], dict[str, NDArray[Any]]]":
    """``Encoder.encode`` as nodes, and the constants that they take."""
    from onnx import TensorProto, helper

    nodes: list[NodeProto] = []
    constants: dict[str, NDArray[Any]] = {}
    parts: list[str] = []
    if len(encoder.columns):
        constants |= {"columns": encoder.columns, "values": encoder.values}
        nodes += [
            helper.make_node("Gather", ["category", "columns"], ["chosen"], axis=1),
            helper.make_node("Equal", ["chosen", "values"], ["equal"]),
            helper.make_node("Cast", ["equal"], ["flags"], to=TensorProto.FLOAT),
        ]
        parts.append("flags")
    if len(encoder.median):
        constants |= {"median": encoder.median, "low": encoder.low, "high": encoder.high}
        nodes += [
            helper.make_node("IsNaN", ["number"], ["missing"]),
            helper.make_node("Where", ["missing", "median", "number"], ["present"]),
            helper.make_node("Max", ["present", "low"], ["above"]),
            helper.make_node("Min", ["above", "high"], ["within"]),
            helper.make_node("Cast", ["missing"], ["missing_flags"], to=TensorProto.FLOAT),
        ]
        parts += ["within", "missing_flags"]
    nodes.append(helper.make_node("Concat", parts, [_ENCODED], axis=1))
    return nodes, constants
