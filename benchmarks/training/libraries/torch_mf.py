"""Matrix factorization in plain torch: tensors cut into slices, Adagrad on the rows that a slice touches."""

import time

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training.libraries.contract import Answer
from benchmarks.training.libraries.exchange import RatingSplit


class _Factors(nn.Module):
    """Vectors, with the bias as a last column, of one side."""

    def __init__(self, rows: int, factors: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, factors + 1, sparse=True)
        with torch.no_grad():
            self.table.weight.normal_(0.0, 0.05)
            self.table.weight[:, -1] = 0.0

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.table(index)
        return rows[:, :-1], rows[:, -1]


def predict(
    split: RatingSplit,
    seed: int,
    *,
    factors: int,
    epochs: int,
    batch: int,
    rate: float,
    penalty: float,
    threads: int = 1,
) -> Answer:
    """Mean, biases and factors; the squared norms of a slice's rows, times ``penalty``, are added to its squared errors.

    Args:
        threads: More than one wait for each other where slices are small.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    users, items = _Factors(split.users, factors), _Factors(split.items, factors)
    optimizer = torch.optim.Adagrad([*users.parameters(), *items.parameters()], lr=rate)
    mean = float(split.train.rating.mean())
    columns = (torch.from_numpy(split.train.user), torch.from_numpy(split.train.item))
    target = torch.from_numpy((split.train.rating - mean).astype(np.float32))
    started = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(target))
        for rows in order.split(batch):
            (p, of_user), (q, of_item) = users(columns[0][rows]), items(columns[1][rows])
            error = (p * q).sum(1) + of_user + of_item - target[rows]
            norms = p.square().sum() + q.square().sum() + of_user.square().sum() + of_item.square().sum()
            loss = (error.square().sum() + penalty * norms) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        (p, of_user), (q, of_item) = users(torch.from_numpy(split.test.user)), items(torch.from_numpy(split.test.item))
        predicted = mean + (p * q).sum(1) + of_user + of_item
    return Answer(predicted.double().numpy(), seconds)
