"""TorchServe's side, as its documentation has one write it: BaseHandler with its three steps overridden; JSON in, one run of
the graph, JSON out.

TorchServe runs this file alone, with its own folder on the path; it must import nothing of ours.
"""

import json
import os
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from ts.torch_handler.base_handler import BaseHandler


class PlainHandler(BaseHandler):
    """The same graph as everybody's, through onnxruntime with one thread."""

    def initialize(self, context: Any) -> None:
        """Load the graph."""
        folder = context.system_properties["model_dir"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = os.path.join(folder, "model.onnx")  # noqa: PTH118
        self.session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> Any:  # the base promises a tensor
        """The rows of each request: lists of objects."""
        return [json.loads(one.get("data") or one["body"]) for one in data]

    def inference(self, data: list[list[dict[str, int]]], *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """One run for each request."""
        del args, kwargs
        return [self._scores(rows) for rows in data]

    def postprocess(self, data: list[NDArray[np.float32]]) -> list[list[float]]:
        """TorchServe writes a list as JSON."""
        return [scores.tolist() for scores in data]

    def _scores(self, rows: list[dict[str, int]]) -> NDArray[np.float32]:
        users = np.array([row["user_id"] for row in rows], np.int64)
        items = np.array([row["item_id"] for row in rows], np.int64)
        (scores,) = self.session.run(None, {"user_index": users, "item_index": items})
        return scores
