"""TorchServe's side: raw int64 ids in, raw float32 scores out, the whole batch in one run of the graph.

TorchServe runs this file alone, with its own folder on the path; it must import nothing of ours.
"""

import logging
import os
from typing import Any

import numpy as np
import onnxruntime as ort


class FactorHandler:
    """The same graph as everybody's, through onnxruntime."""

    def initialize(self, context: Any) -> None:
        """Load the graph."""
        logging.getLogger().setLevel(logging.ERROR)  # else two lines for each batch go to the frontend as text
        folder = context.system_properties["model_dir"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = os.path.join(folder, "model.onnx")  # noqa: PTH118
        self.session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.initialized = True

    def handle(self, data: list[dict[str, bytes]], context: Any) -> list[bytes]:  # noqa: ARG002 (TorchServe gives both)
        """A list of requests to a list of answers, in order."""
        users = [np.frombuffer(one["user_id"], "<i8") for one in data]
        items = [np.frombuffer(one["item_id"], "<i8") for one in data]
        feed = {"user_index": np.concatenate(users), "item_index": np.concatenate(items)}
        (scores,) = self.session.run(None, feed)
        answers: list[bytes] = []
        start = 0
        for rows in map(len, users):
            answers.append(scores[start : start + rows].tobytes())
            start += rows
        return answers
