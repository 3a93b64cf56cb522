"""TorchServe's side, as its documentation has one write it: BaseHandler loads the TorchScript, runs it and writes the answer;
``preprocess`` alone is ours.

TorchServe runs this file alone, with its own folder on the path; it must import nothing of ours.
"""

import json
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class PlainHandler(BaseHandler):
    """A list of pairs as JSON objects in, a list of scores out."""

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """Users and items ``[requests, rows, 2]``."""
        bodies = [_parsed(one.get("data") or one["body"]) for one in data]
        pairs = [[[row["user_id"], row["item_id"]] for row in body] for body in bodies]
        return torch.as_tensor(pairs, device=self.device)


def _parsed(body: Any) -> list[dict[str, int]]:
    """Over REST TorchServe has parsed JSON already, over gRPC it has not."""
    return json.loads(body) if isinstance(body, (bytes, bytearray)) else body
