"""What the ways to solve a factorization have in common: sweep by sweep, then a model with what it takes to fold users in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from training.models.fold_in import FoldIn

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Factorization:
    """``score = mean + user bias + item bias + user . item``; unknown ids, index 0, have zeros."""

    mean: float
    users: Tensor
    """``[users, factors]``."""
    items: Tensor
    user_bias: Tensor
    """``[users]``."""
    item_bias: Tensor


@dataclass(frozen=True, slots=True)
class Finished:
    """What an estimator leads to."""

    factorization: Factorization
    fold_in: FoldIn


class Estimator(ABC):
    """One rank's share. Methods that say so are called by all ranks together."""

    stops_early: bool
    """Whether a later sweep may be worse, so that the tables after the best one are kept."""
    ranks: bool = False
    """Whether it is measured by how it ranks, and not by ``scores``."""

    @abstractmethod
    def sweep(self, number: int) -> float:
        """Better the tables once, all ranks together; the training loss. ``number`` counts from 0."""

    @abstractmethod
    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        """Unclipped scores ``[n]`` of indices ``[n]``, as they stand."""

    @abstractmethod
    def state(self) -> State:
        """What a checkpoint keeps: the same on every rank."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from there."""

    @abstractmethod
    def finish(self) -> Finished:
        """What it would lead to now, all ranks together; sweeps may follow. Tables are whole on every rank; what takes users in
        counts on rank 0.
        """
