"""The ONNX graph of a trained model, as the bundle and MLflow's model both hold it."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from driftwheel.preprocessing import encode
from exporters.golden import edge_batches
from exporters.graphs import exported_graph
from exporters.onnx_graph import write_onnx
from training.data.dataset import Dataset
from training.job import TrainedModel
from training.logged_model import WriteGraph
from training.models.graph import GraphModel
from training.models.store import Model, load_any

EXAMPLE = "7 rows"
"""The edge batch that the exporters trace a model with."""


def graph_writer(trained: TrainedModel, dataset: Dataset) -> WriteGraph:
    """What writes a trained model's graph, as often as it is asked to; it is made once, which takes seconds.

    Args:
        dataset: What the model was trained on.
    """

    @cache
    def content() -> bytes:
        with TemporaryDirectory() as folder:
            write_model_graph(Path(folder) / "model.onnx", load_any(trained.folder), dataset)
            return (Path(folder) / "model.onnx").read_bytes()

    def write(path: Path) -> None:
        path.write_bytes(content())

    return write


def write_model_graph(path: Path, model: Model | GraphModel, dataset: Dataset) -> None:
    """Write a model's graph, whose inputs are the graph inputs of the dataset's signature.

    Args:
        dataset: What the model was trained on.
    """
    if isinstance(model, GraphModel):
        path.write_bytes(model.content)
        return
    signature = dataset.signature
    graph, inputs = exported_graph(model, signature)
    feed = encode(signature, dataset.read_vocabularies(), edge_batches(dataset)[EXAMPLE])
    example = tuple(torch.from_numpy(feed[name]) for name in inputs)
    write_onnx(path, graph, example, inputs, [signature.outputs[0].name])
