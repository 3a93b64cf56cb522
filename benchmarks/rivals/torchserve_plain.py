"""TorchServe 0.12 as it comes: all its defaults, and a handler as its documentation has one write it.

So batches of one, a worker for each core, its logs and its metrics. Set are only where it listens (free ports on loopback), and
that it asks for no token: h2load could be given one only on its command line, where other users of the machine see it.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.torchserve import TorchServe
from benchmarks.tools.messages import Call, json_of, prediction, predictions_call


class PlainTorchServe(TorchServe):
    """JSON in, JSON out."""

    handler = Path(__file__).parent / "torchserve_plain_handler.py"

    def call(self, rows: int) -> Call:
        return predictions_call(json_of(rows))

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        return np.array(json.loads(prediction(answer)), np.float32)

    def settings(self) -> dict[str, object]:
        return {}

    def flags(self, folder: Path) -> list[str]:
        del folder
        return ["--models", "mf=mf.mar"]


class BareTorchServe(PlainTorchServe):
    """The same without BaseHandler and what that does beside: the least that a handler can be."""

    handler = Path(__file__).parent / "torchserve_bare_handler.py"
