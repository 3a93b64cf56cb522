"""TorchServe's side, as short as it gets: a JSON body in, one run of the graph, a JSON list out.

TorchServe runs this file alone, with its own folder on the path; it must import nothing of ours. It does not inherit
TorchServe's BaseHandler, which writes two more lines of metrics for each call.
"""

import json
import os
from typing import Any

import numpy as np
import onnxruntime as ort


class BareHandler:
    """The same graph as everybody's, through onnxruntime with one thread."""

    def initialize(self, context: Any) -> None:
        """Load the graph."""
        folder = context.system_properties["model_dir"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = os.path.join(folder, "model.onnx")  # noqa: PTH118
        self.session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[list[float]]:  # noqa: ARG002 (TorchServe gives both)
        """One run for each request; TorchServe writes a list as JSON."""
        return [self._scores(json.loads(one.get("data") or one["body"])) for one in data]

    def _scores(self, rows: list[dict[str, int]]) -> list[float]:
        users = np.array([row["user_id"] for row in rows], np.int64)
        items = np.array([row["item_id"] for row in rows], np.int64)
        (scores,) = self.session.run(None, {"user_index": users, "item_index": items})
        return scores.tolist()
