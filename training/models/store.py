"""Models on disk: ``model.json`` for the shape, ``model.safetensors`` for the weights. Nothing is pickled."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from driftwheel.errors import TrainingError
from training.models.churn_network import ChurnNetwork, ChurnNetworkShape
from training.models.graph import GRAPH, GraphModel, read_graph
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

SHAPE = "model.json"
WEIGHTS = "model.safetensors"

Model = MatrixFactorization | ChurnNetwork


def save_model(folder: Path, model: Model) -> None:
    """Write ``model.json`` and ``model.safetensors``; make the folder appear whole is the caller's business."""
    kind = "matrix_factorization" if isinstance(model, MatrixFactorization) else "churn_network"
    content = {"kind": kind, "shape": dataclasses.asdict(model.shape)}
    (folder / SHAPE).write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, folder / WEIGHTS)


def load_any(folder: Path) -> Model | GraphModel:
    """Read a model of ours, or a graph that another library's model became.

    Raises:
        TrainingError: A file is missing or damaged.
    """
    return read_graph(folder) if (folder / GRAPH).exists() else load_model(folder)


def load_model(folder: Path) -> Model:
    """Read a model, ready to answer (in evaluation mode).

    Raises:
        TrainingError: A file is missing or damaged.
    """
    try:
        model = _build(msgspec.json.decode((folder / SHAPE).read_bytes()))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, RuntimeError, SafetensorError, msgspec.MsgspecError) as error:
        raise TrainingError(f"the model in {folder} is missing or damaged: {error}") from None
    return model.eval()


def forward_inputs(model: nn.Module) -> tuple[str, ...]:
    """The names of ``forward``'s arguments, which are the graph inputs."""
    return ("user_index", "item_index") if isinstance(model, MatrixFactorization) else ("category", "number")


def _build(content: dict[str, Any]) -> Model:
    if content["kind"] == "matrix_factorization":
        return MatrixFactorization(msgspec.convert(content["shape"], MatrixFactorizationShape))
    if content["kind"] == "churn_network":
        return ChurnNetwork(msgspec.convert(content["shape"], ChurnNetworkShape))
    raise TrainingError(f"unknown kind of model {content['kind']!r}")
