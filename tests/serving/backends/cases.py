"""Small graphs with known answers, each as ONNX and as TorchScript, by the file's suffix."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bundles import churn_graph, rating_graph, rating_tables

Arrays = dict[str, NDArray[Any]]

BIG_MB = 48


@dataclass(frozen=True)
class Case:
    """A graph, what to feed it, and what it must answer."""

    graph: Path
    output: str
    rows: Arrays
    """A few rows, which ``feed`` repeats."""
    expected: Callable[[Arrays], NDArray[Any]]

    def feed(self, rows: int, *, skip: int = 0) -> Arrays:
        """So many rows, beginning with the given one."""
        count = len(next(iter(self.rows.values())))
        return {name: values.take(np.arange(skip, skip + rows) % count, axis=0) for name, values in self.rows.items()}

    def answers(self, rows: int, *, skip: int = 0) -> NDArray[Any]:
        """What ``feed`` of the same rows must give."""
        return self.expected(self.feed(rows, skip=skip))


def make_rating(path: Path) -> Case:
    """User bias plus item bias, clipped."""
    return _rating(path, *rating_tables(0.0))


def make_big(path: Path) -> Case:
    """The same with a user table of ``BIG_MB``."""
    _, items = rating_tables(0.0)
    return _rating(path, np.linspace(0, 1, BIG_MB * 2**20 // 4, dtype=np.float32), items)


def _rating(path: Path, users: NDArray[Any], items: NDArray[Any]) -> Case:
    if path.suffix == ".onnx":
        path.write_bytes(rating_graph(users, items))
    else:
        _write_rating_module(path, users, items)
    rows = {"user_index": np.array([0, 1, 3, 2, 1]), "item_index": np.array([4, 0, 2, 5, 1])}
    return Case(
        path, "score", rows, lambda feed: np.clip(users[feed["user_index"]] + items[feed["item_index"]], 0.5, 5.0)
    )


def make_churn(path: Path) -> Case:
    """One category and one number, which may be missing."""
    if path.suffix == ".onnx":
        path.write_bytes(churn_graph())
    else:
        _write_churn_module(path)
    numbers = np.array([[1.0], [np.nan], [60.0]], dtype=np.float32)
    return Case(path, "churn_probability", {"category": np.array([[2], [1], [0]]), "number": numbers}, _churn)


def _churn(feed: Arrays) -> NDArray[Any]:
    filled = np.where(np.isnan(feed["number"]), np.float32(30), feed["number"])
    logit = filled * np.float32(-0.05) + np.array([0.0, 1.0, -1.0], dtype=np.float32)[feed["category"]]
    return (1 / (1 + np.exp(-logit)))[:, 0]


def _write_rating_module(path: Path, users: NDArray[Any], items: NDArray[Any]) -> None:
    import torch

    from exporters.torchscript import write_torchscript

    class Rating(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = torch.from_numpy(users), torch.from_numpy(items)

        def forward(self, user_index: torch.Tensor, item_index: torch.Tensor) -> torch.Tensor:
            return (self.users[user_index] + self.items[item_index]).clamp(0.5, 5.0)

    write_torchscript(path, Rating(), (torch.tensor([1, 2]), torch.tensor([1, 2])))


def _write_churn_module(path: Path) -> None:
    import torch

    from exporters.torchscript import write_torchscript

    class Churn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.effect = torch.tensor([0.0, 1.0, -1.0])

        def forward(self, category: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
            filled = torch.where(number.isnan(), 30.0, number)
            return torch.sigmoid(filled * -0.05 + self.effect[category]).squeeze(1)

    write_torchscript(path, Churn(), (torch.tensor([[1], [2]]), torch.tensor([[1.0], [2.0]])))
