"""How the ranks work on a batch together: data parallelism, with or without shared tables, or a pipeline."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.execution import Execution, Precision
from training.objectives import ChurnObjective, Feed, RatingObjective
from training.placement import Placement
from training.precision import autocast

_ASKED_ROWS = 1024
"""Rows of a sharded model that are measured at once."""


class Steps(Protocol):
    """One rank's part of the work. All methods are called by all ranks together."""

    placement: Placement
    parameters: list[nn.Parameter]
    """What this rank trains."""
    data_rank: int
    """Which part of the rows this rank sees..."""
    data_ranks: int
    """...of how many; ranks with the same part work on the same rows."""

    def backward(self, feed: Feed, label: Tensor) -> Tensor:
        """Leave the gradient of a batch in the parameters. The loss, a scalar, whose sum over all ranks is ``data_ranks``
        times the mean loss.
        """
        ...

    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        """The loss of each row, in evaluation mode; of all ranks together, each row once."""
        ...


class DataParallel:
    """Each rank computes on its own rows; DDP averages the gradients of what all ranks hold."""

    def __init__(self, objective: RatingObjective | ChurnObjective, precision: Precision, device: torch.device) -> None:
        self._objective, self._device = objective.to(device), device
        self._precision: Precision = precision
        self.data_rank, self.data_ranks = dist.get_rank(), dist.get_world_size()
        rows = frozenset(objective.sharded)
        self.placement = Placement(rank=self.data_rank, ranks=self.data_ranks, rows=rows)
        self.parameters = list(objective.parameters())
        if rows:
            ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] (there is no public way)
            ignore(objective, list(rows))
        self._ddp = DistributedDataParallel(objective)

    def backward(self, feed: Feed, label: Tensor) -> Tensor:
        """See ``Steps.backward``."""
        self._ddp.train()
        with autocast(self._device, self._precision):
            loss = self._ddp(feed, label)
        loss.backward()
        return loss.detach()

    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        """See ``Steps.row_loss``."""
        self._objective.eval()
        if not self.placement.rows:
            return self._objective.row_loss(feed, label)
        # Vectors come from other ranks, and must not be more at once than a device can hold; all ranks ask equally often.
        parts = torch.tensor(-(-len(label) // _ASKED_ROWS))
        dist.all_reduce(parts, dist.ReduceOp.MAX)
        losses = [
            self._objective.row_loss({name: column[rows] for name, column in feed.items()}, label[rows])
            for rows in (slice(n * _ASKED_ROWS, (n + 1) * _ASKED_ROWS) for n in range(int(parts)))
        ]
        return torch.cat(losses) if losses else label


def build_steps(objective: RatingObjective | ChurnObjective, execution: Execution, device: torch.device) -> Steps:
    """The way of working that the settings ask for, with the parameters on their device.

    Raises:
        TrainingError: It wants another number of ranks.
    """
    if execution.pipeline and isinstance(objective, ChurnObjective):
        from training.stages import Pipeline

        return Pipeline(objective, execution.precision, device)
    return DataParallel(objective, execution.precision, device)
