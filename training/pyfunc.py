"""The model that ``mlflow.pyfunc.load_model`` gives: public inputs in a table, the answers as a column.

MLflow keeps this file beside the ONNX graph ("models from code": nothing is pickled) and runs it wherever the model is
loaded, so it imports nothing of ours: a notebook or a batch job needs mlflow, numpy, pandas and onnxruntime alone.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

GRAPH = "graph"
ENCODING = "encoding"
"""The artifacts' names: the ONNX graph; and JSON of ``inputs`` (as ``contracts.InputSpec``), ``output``, and ``vocabularies``
(input name to entries in index order)."""


class ServedModel(PythonModel):
    """A graph with the vocabularies of its inputs."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the artifacts."""
        import onnxruntime as ort

        encoding = json.loads(Path(context.artifacts[ENCODING]).read_text(encoding="utf-8"))
        self._inputs: list[dict[str, Any]] = encoding["inputs"]
        self._output: str = encoding["output"]
        self._entries = {name: pd.Index(entries) for name, entries in encoding["vocabularies"].items()}
        graph = Path(context.artifacts[GRAPH]).read_bytes()
        self._session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] (MLflow declares None where it means any table)
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One column, float32, named as the output; rows keep their order and their index.

        Args:
            model_input: A column for each public input: ids and categories as they are (unknown and missing ones are
                answered too), numbers (NaN where missing).
        """
        del context, params
        columns: dict[str, dict[int, np.ndarray]] = {}
        for spec in self._inputs:
            columns.setdefault(spec["graph_input"], {})[spec["column"] or 0] = self._encoded(spec, model_input)
        # An input without a column number is [rows] itself; others are [rows, columns].
        flat = {spec["graph_input"] for spec in self._inputs if spec["column"] is None}
        feed = {
            name: parts[0] if name in flat else np.stack([parts[n] for n in range(len(parts))], axis=1)
            for name, parts in columns.items()
        }
        (answers,) = self._session.run([self._output], feed)
        return pd.DataFrame({self._output: answers}, index=model_input.index)

    def _encoded(self, spec: dict[str, Any], table: pd.DataFrame) -> np.ndarray:
        """Float32 numbers; or int64 indices that count from 1, 0 being what the vocabulary does not have."""
        column = table[spec["name"]]
        if spec["role"] == "number":
            return column.to_numpy(dtype=np.float32, na_value=np.nan)
        return (self._entries[spec["name"]].get_indexer(column) + 1).astype(np.int64)


mlflow.models.set_model(ServedModel())
