"""Answers of a model over many rows."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models.graph import GraphModel
from training.models.matrix_factorization import MatrixFactorization
from training.models.store import Model, forward_inputs

_CHUNK_ROWS = 65_536


@torch.no_grad()
def predict(model: Model | GraphModel, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The model's output float32 ``[rows]`` for graph inputs, in evaluation mode, in chunks that fit in memory."""
    if isinstance(model, GraphModel):
        return model.answers(feed)
    model.eval()
    inputs = full_feed(model, feed)
    device = next(model.parameters()).device
    rows = len(inputs[0])
    chunks = (slice(start, start + _CHUNK_ROWS) for start in range(0, rows, _CHUNK_ROWS))
    parts = [model(*(column[chunk].to(device) for column in inputs)).cpu().numpy() for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def full_feed(model: Model, feed: dict[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    """The arguments of ``forward`` in order; a table without numbers, or without categories, gets one without columns."""
    rows = len(next(iter(feed.values())))
    empty = {"category": np.empty((rows, 0), dtype=np.int64), "number": np.empty((rows, 0), dtype=np.float32)}
    return tuple(torch.from_numpy(np.ascontiguousarray((empty | feed)[name])) for name in forward_inputs(model))


@torch.no_grad()
def rank_items(model: MatrixFactorization, user_index: int, exclude: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The indices of the ``k`` best items for a user, best first, by raw score; fewer where fewer are left."""
    items = torch.arange(1, model.shape.items)
    scores = model.raw_scores(torch.tensor(user_index), items)
    scores[torch.from_numpy(exclude) - 1] = -torch.inf
    best = scores.topk(min(k, len(items)))
    return (best.indices[best.values > -torch.inf] + 1).numpy()
