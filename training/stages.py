"""The churn network as a pipeline of two stages, each on a rank of its own: layer-wise model parallelism."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn import functional

from driftwheel.errors import TrainingError
from training.execution import Precision
from training.models.churn_network import ChurnNetwork
from training.objectives import ChurnObjective, Feed
from training.placement import Placement
from training.precision import autocast

STAGES = 2

_MICROBATCHES = 4
"""The most parts of a batch that are in the pipeline one after the other; fewer where the batch does not divide."""


class FirstStage(nn.Module):
    """Category vectors, encodings, the first half of the hidden layers, and the linear path."""

    def __init__(self, model: ChurnNetwork, precision: Precision) -> None:
        super().__init__()
        model.deep = nn.Sequential(*list(model.deep)[: _cut(model)])  # the rest is the other rank's
        self.model = model
        self.precision: Precision = precision

    def forward(self, category: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """What the second stage needs: ``[heads or 1, n, width]`` and the linear path's ``[n, 1]``, float32."""
        with autocast(category.device, self.precision):
            features = self.model.features(category, number)
            return self.model.deep(features.unsqueeze(0)).float(), self.model.wide(features).float()


class SecondStage(nn.Module):
    """The rest of the hidden layers, and the heads' outputs."""

    def __init__(self, model: ChurnNetwork, precision: Precision) -> None:
        super().__init__()
        self.layers = model.deep[_cut(model) :]
        self.precision: Precision = precision

    def forward(self, hidden: Tensor, wide: Tensor) -> Tensor:
        """The log odds of each head, float32 ``[n, heads]``."""
        with autocast(hidden.device, self.precision):
            deep: Tensor = self.layers(hidden)
        return (deep.float() + wide).squeeze(-1).T


class Pipeline:
    """One rank's stage, and the schedule (GPipe: all microbatches forward, then all backward).

    Both stages get the same rows; the first looks at the inputs, the second at the labels.
    """

    data_rank, data_ranks = 0, 1

    def __init__(self, objective: ChurnObjective, precision: Precision, device: torch.device) -> None:
        """Raises:
        TrainingError: There are not as many ranks as stages.
        """
        if (ranks := dist.get_world_size()) != STAGES:
            raise TrainingError(f"training.pipeline has {STAGES} stages and wants as many ranks, got {ranks}")
        model, self._rank, self._device = objective.model, dist.get_rank(), device
        second = [f"model.deep.{name}" for name, _ in model.deep[_cut(model) :].named_parameters()]
        first = [name for name, _ in objective.named_parameters() if name not in second]
        own, elsewhere = (first, second) if self._rank == 0 else (second, first)
        self.parameters = [parameter for name, parameter in objective.named_parameters() if name in own]
        self.placement = Placement(rank=self._rank, ranks=STAGES, own=frozenset(own), elsewhere=frozenset(elsewhere))
        stage = FirstStage if self._rank == 0 else SecondStage
        self._module = stage(model, precision).to(device)
        self._schedules: dict[tuple[int, bool], ScheduleGPipe] = {}

    def backward(self, feed: Feed, label: Tensor) -> Tensor:
        """Leave the gradient of the batch's mean loss in the stage's parameters; the loss, which the first stage takes
        for zero.
        """
        self._module.train()
        schedule = self._schedule(len(label), learns=True)
        if self._rank == 0:
            schedule.step(feed["category"], feed["number"])
            return torch.zeros((), device=self._device)
        losses: list[Tensor] = []
        schedule.step(target=label, losses=losses)
        return torch.stack(losses).mean().detach()

    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        """The loss of each row ``[n]`` at the second stage; none at the first."""
        self._module.eval()
        if not len(label):
            return torch.zeros(0, device=self._device)
        schedule = self._schedule(len(label), learns=False)
        if self._rank == 0:
            schedule.step(feed["category"], feed["number"])
            return torch.zeros(0, device=self._device)
        logits: Tensor = schedule.step()  # pyright: ignore[reportAssignmentType] (the last stage has an output)
        return functional.binary_cross_entropy_with_logits(logits.mean(dim=1), label, reduction="none")

    def _schedule(self, rows: int, *, learns: bool) -> ScheduleGPipe:
        """The schedule for batches of so many rows: shapes are agreed between the stages once."""
        key = (rows, learns)
        if key not in self._schedules:
            stage = PipelineStage(self._module, self._rank, STAGES, self._device)
            count = max(n for n in range(1, _MICROBATCHES + 1) if rows % n == 0) if learns else 1
            self._schedules[key] = ScheduleGPipe(stage, count, loss_fn=_loss if learns else None)
        return self._schedules[key]


def _loss(logits: Tensor, label: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, label.unsqueeze(-1).expand_as(logits))


def _cut(model: ChurnNetwork) -> int:
    """Where ``deep`` is cut: after half of its hidden layers, of three modules each, or one more."""
    return 3 * ((len(model.shape.hidden) + 1) // 2)
