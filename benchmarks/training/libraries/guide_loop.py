"""The loop of the guide that Driftwheel answers: a Dataset of single ratings, a DataLoader, Adam over whole tables."""

import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.training.libraries.contract import Answer
from benchmarks.training.libraries.exchange import RatingSplit


class _Rows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    def __init__(self, split: RatingSplit, most: int | None) -> None:
        train = split.train
        self.users, self.items = torch.from_numpy(train.user[:most]), torch.from_numpy(train.item[:most])
        self.ratings = torch.from_numpy(train.rating[:most]).float()

    def __len__(self) -> int:
        return len(self.ratings)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.users[row], self.items[row], self.ratings[row]


class _Network(nn.Module):
    def __init__(self, users: int, items: int, factors: int) -> None:
        super().__init__()
        self.user_vectors = nn.Embedding(users, factors)
        self.item_vectors = nn.Embedding(items, factors)
        self.out = nn.Linear(factors, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.out(self.user_vectors(users) * self.item_vectors(items)).squeeze(-1)


def predict(
    split: RatingSplit, seed: int, *, epochs: int, factors: int = 50, batch: int = 1024, rows: int | None = None
) -> Answer:
    """Its model after as many epochs.

    Args:
        rows: Only the first so many are trained on, where all would take hours.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # more wait for each other: the slices are small
    network = _Network(split.users, split.items, factors)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    loader = DataLoader(_Rows(split, rows), batch_size=batch, shuffle=True)
    started = time.perf_counter()
    for _ in range(epochs):
        for users, items, ratings in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(network(users, items), ratings).backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        predicted = network(torch.from_numpy(split.test.user), torch.from_numpy(split.test.item))
    return Answer(predicted.double().numpy(), seconds)
