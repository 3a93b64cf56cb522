"""TorchServe 0.12 as it comes: all its defaults, and a handler as its documentation has one write it.

So batches of one, a worker for each core, its threads, its logs and its metrics, and PyTorch's threads. Set are only where it
listens (free ports on loopback), and that it asks for no token: h2load could be given one only on its command line, where other
users of the machine see it.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.rivals.base import Workplace
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.tools.messages import Call, json_of, prediction, predictions_call, rest_call
from driftwheel.bundle import ONNX_GRAPH
from exporters import torchscript


class PlainTorchServe(TorchServe):
    """JSON in, JSON out, over REST."""

    handler = Path(__file__).parent / "torchserve_plain_handler.py"
    rest = True

    def graph(self, workplace: Workplace) -> Path:
        path = workplace.folder / "model.pt"
        write_torchscript(workplace.bundle.path(ONNX_GRAPH), path)
        return path

    def call(self, rows: int) -> Call:
        return rest_call(rows)

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return np.array(json.loads(answer), np.float32)

    def settings(self) -> dict[str, object]:
        return {}

    def flags(self, folder: Path) -> list[str]:
        del folder
        return ["--ncs", "--models", "mf=mf.mar"]


class PlainOverGrpc(PlainTorchServe):
    """The same, asked over its gRPC: the JSON in the one field that its clients send."""

    rest = False

    def call(self, rows: int) -> Call:
        return predictions_call(json_of(rows))

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return super().scores(prediction(answer))


def write_torchscript(graph: Path, path: Path) -> None:
    """Write the benchmark's graph as TorchScript of one tensor, as BaseHandler calls a model: pairs of user and item
    ``[requests, rows, 2]`` to scores ``[requests, rows]``.
    """
    model = onnx.load(graph)
    weights = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in model.graph.initializer}
    pairs = torch.zeros(1, 1, 2, dtype=torch.int64)
    torchscript.write_torchscript(path, _Factors(weights), (pairs,))


class _Factors(torch.nn.Module):
    users: torch.Tensor
    items: torch.Tensor
    user_bias: torch.Tensor
    item_bias: torch.Tensor
    mean: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name in ("users", "items", "user_bias", "item_bias", "mean", "low", "high"):
            self.register_buffer(name, weights[name])

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        user, item = pairs[..., 0], pairs[..., 1]
        dot = (self.users[user] * self.items[item]).sum(-1)
        return torch.clamp(self.mean + self.user_bias[user] + self.item_bias[item] + dot, self.low, self.high)
