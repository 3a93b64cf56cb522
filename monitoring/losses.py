"""The loss of one labelled prediction, and the sums over it that both judges (canary and drift) need."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Task


def loss_name(task: Task) -> str:
    """What ``loss`` computes, in words."""
    return "squared error" if task == "rating" else "Brier score"


def loss(task: Task, output: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """Losses ``[rows]`` of predictions ``[rows]``: the squared difference to the label.

    For a probability and a label of 0 or 1 that is the Brier score (Brier 1950): proper, and bounded by 1, so that one
    confident mistake cannot decide a release as it could with the log loss.
    """
    del task  # both losses are one formula; the name differs
    return np.square(np.asarray(output, dtype=np.float64) - np.asarray(label, dtype=np.float64))


def log_loss(output: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """The log losses ``[rows]``, in nats, of probabilities and of labels 0 or 1. Float32 has no probability between 1 and
    what is 6e-8 below it, so that they are held that far from 0 and 1.
    """
    likely = np.clip(np.asarray(output, dtype=np.float64), 2.0**-24, 1 - 2.0**-24)
    is_one = np.asarray(label, dtype=np.float64)
    return -(is_one * np.log(likely) + (1 - is_one) * np.log1p(-likely))


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Losses of labelled rows in clusters (users, or requests where there is no user).

    With ``S_u`` the sum of losses and ``n_u`` the rows of cluster ``u``, the last three are the sums over clusters of
    ``S_u * S_u``, ``S_u * n_u`` and ``n_u * n_u``: what the variance of a mean of clustered rows is made of.
    """

    labelled: int = 0
    loss_sum: float = 0.0
    loss_square_sum: float = 0.0
    clusters: int = 0
    cluster_loss_square: float = 0.0
    cluster_loss_rows: float = 0.0
    cluster_rows_square: float = 0.0

    @property
    def mean(self) -> float:
        """The mean loss; 0 without labels."""
        return self.loss_sum / self.labelled if self.labelled else 0.0

    @property
    def variance_of_mean(self) -> float:
        """The cluster-robust (Liang & Zeger 1986) variance of ``mean``, corrected for few clusters; 0 below two."""
        if self.clusters < 2:
            return 0.0
        mean = self.mean
        between = self.cluster_loss_square - 2 * mean * self.cluster_loss_rows + mean**2 * self.cluster_rows_square
        return max(between, 0.0) / self.labelled**2 * self.clusters / (self.clusters - 1)


def sum_losses(losses: NDArray[np.float64], clusters: NDArray[Any]) -> LossSums:
    """Sums over losses ``[rows]`` whose clusters are ``[rows]`` (any values that ``numpy.unique`` takes)."""
    if not len(losses):
        return LossSums()
    _, position = np.unique(clusters, return_inverse=True)
    sums, rows = np.bincount(position, weights=losses), np.bincount(position)
    return LossSums(
        labelled=len(losses),
        loss_sum=float(losses.sum()),
        loss_square_sum=float(np.square(losses).sum()),
        clusters=len(rows),
        cluster_loss_square=float(np.square(sums).sum()),
        cluster_loss_rows=float((sums * rows).sum()),
        cluster_rows_square=float(np.square(rows).sum()),
    )
