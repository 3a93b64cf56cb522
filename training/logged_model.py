"""The model of a run as MLflow keeps it: an ONNX graph behind public inputs, with its signature. Nothing is pickled."""

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from driftwheel.contracts import Signature
from driftwheel.settings import Settings
from training.data.dataset import Dataset, read_split, reference_split
from training.mlflow_store import use_globally

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

MODEL_NAME = "model"

WriteGraph = Callable[[Path], None]
"""Writes the model that is recorded to a path, as an ONNX file whose inputs are the dataset's graph inputs."""

_EXAMPLE_ROWS = 5

_MLFLOW_TYPES = {"INT64": "long", "FP32": "double", "BYTES": "string"}
"""Numbers are declared as doubles, which pandas' columns are; the graph computes in single precision."""


def log_model(run_id: str, dataset: Dataset, settings: Settings, write_graph: WriteGraph) -> None:
    """Log the model to a run that is not finished.

    Args:
        dataset: What the model was trained on: signature and vocabularies are its.
    """
    import mlflow

    use_globally(settings)
    with TemporaryDirectory() as folder:
        graph, encoding = Path(folder) / "model.onnx", Path(folder) / "encoding.json"
        write_graph(graph)
        encoding.write_bytes(msgspec.json.encode(_encoding(dataset)))
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
            # MLflow warns of integer columns, which cannot hold missing values: an id is never missing.
            warnings.filterwarnings("ignore", message=".*integer column", module="mlflow")
            mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"graph": str(graph), "encoding": str(encoding)},
                signature=model_signature(dataset.signature),
                input_example=_example(dataset),
                pip_requirements=_requirements(),  # named, they spare MLflow a slow guess
            )


def _encoding(dataset: Dataset) -> dict[str, object]:
    return {
        "inputs": dataset.signature.inputs,
        "output": dataset.signature.outputs[0].name,
        "vocabularies": {name: vocabulary.entries for name, vocabulary in dataset.read_vocabularies().items()},
    }


def model_signature(signature: Signature) -> "ModelSignature":
    """A signature in MLflow's words: a column for each public input, and one for the answer."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [ColSpec(_MLFLOW_TYPES[spec.datatype], spec.name) for spec in signature.inputs]
    outputs: list[ColSpec | TensorSpec] = [ColSpec("float", signature.outputs[0].name)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _example(dataset: Dataset) -> "pd.DataFrame":
    """Some rows that the model was not trained on, as a table of public inputs."""
    table = read_split(dataset, reference_split(dataset)).slice(0, _EXAMPLE_ROWS)
    numbers = {spec.name: "float64" for spec in dataset.signature.inputs if spec.datatype == "FP32"}
    return table.select([spec.name for spec in dataset.signature.inputs]).to_pandas().astype(numbers)


def _requirements() -> list[str]:
    """What ``pyfunc.py`` imports, in the versions that are installed here."""
    import mlflow
    import numpy as np
    import onnxruntime as ort
    import pandas as pd

    versions = {"mlflow": mlflow, "numpy": np, "onnxruntime": ort, "pandas": pd}
    return [f"{name}=={library.__version__}" for name, library in versions.items()]
