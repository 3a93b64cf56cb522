"""One rank of training jobs: ``torchrun ... -m training.worker JOB.json...``. It reads from top to bottom.

Jobs are done one after the other, so that a refit pays for no second start.

It imports neither mlflow, pandas, scikit-learn nor matplotlib: tracking is the launcher's business.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from driftwheel.files import write_atomically
from training.checkpoint import Checkpoints
from training.config import config_from
from training.data.dataset import EncodedSplit, encoded_split, read_dataset
from training.inference import full_feed
from training.job import CHECKPOINTS, PROGRESS, EpochEvent, Job, read_trained
from training.models.store import forward_inputs
from training.objectives import Feed, build_objective
from training.publishing import publish
from training.randomness import random_state, restore_random_state
from training.ranks import run_jobs
from training.resources import cpu_seconds, peak_memory_mb
from training.sampling import epoch_batches, rank_seed
from training.steps import build_steps
from training.stopping import Stopped


class Worker:
    """A rank's share of a job. The process group must be there."""

    def __init__(self, job: Job, device: torch.device, stop: Callable[[], bool] = lambda: False) -> None:
        """Args:
        stop: Asked before each step, by all ranks, and answered alike: whether to save and end.
        """
        self.job = job
        self.stop = stop
        self.device = device
        self.folder = Path(job.folder)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        torch.manual_seed(job.seed)

        self.dataset = read_dataset(Path(job.dataset))
        self.config = config_from(job.task, job.config)
        self.evaluated = read_trained(Path(job.evaluation)) if job.evaluation else None
        self.epochs = self.evaluated.best_epoch if self.evaluated else self.config.epochs
        train = encoded_split(self.dataset, "train")
        shard = job.execution.shard_tables
        self.objective = build_objective(self.dataset, train, self.config, shard_tables=shard)
        self.steps = build_steps(self.objective, job.execution, device)
        self.train_feed, self.train_label = self._on_device(train)
        if self.evaluated is None:
            self.valid_feed, self.valid_label = self._on_device(encoded_split(self.dataset, "valid"), shared=True)

        self.optimizer = torch.optim.AdamW(
            self.steps.parameters, lr=self.config.learning_rate, weight_decay=self.objective.weight_decay
        )
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.steps.placement)
        self.progress = self.checkpoints.load(self.objective, self.optimizer)

    def run(self) -> None:
        """Train to the end, from where the last checkpoint stands, and publish the model.

        Raises:
            Stopped: ``stop`` said so; a checkpoint holds all that was done.
            TrainingError: A checkpoint cannot be written.
            FloatingPointError: The loss is no number.
        """
        if self.rank == 0:
            lines = b"".join(msgspec.json.encode(event) + b"\n" for event in self.progress.history)
            write_atomically(self.folder / PROGRESS, lines)
        while not self.finished():
            self.run_epoch()
        if self.rank == 0:
            self.publish()
        dist.barrier()

    def publish(self) -> None:
        """Make the model appear, by one rank alone."""
        whole = self.steps.placement.whole
        publish(
            self.job,
            self.dataset,
            self.config,
            self.objective.model,
            self.progress.best_weights if whole else self.checkpoints.best_weights(),
            history=self.progress.history,
            evaluated=self.evaluated,
            ranks=self.ranks,
            device=self.device,
        )

    def finished(self) -> bool:
        """Whether the epochs are used up, or the last ones brought nothing. All ranks agree, since all saw the metric."""
        progress = self.progress
        return progress.epoch >= self.epochs or progress.epochs_since_best >= self.config.patience

    def run_epoch(self) -> None:
        """Train one epoch, measure it, and save where it led."""
        started, cpu_before = time.perf_counter(), cpu_seconds()
        loss = self.train_epoch(self.progress.epoch)
        metric = self.validate() if self.evaluated is None else None
        event = self.advance(loss, metric, time.perf_counter() - started, cpu_seconds() - cpu_before)
        self.checkpoints.save(self.progress, self.objective, self.optimizer)
        if self.rank == 0:
            with (self.folder / PROGRESS).open("ab") as file:
                file.write(msgspec.json.encode(event) + b"\n")

    def train_epoch(self, epoch: int) -> float:
        """What is left of a pass over the training split; the mean loss over all ranks and steps of the pass."""
        progress, seed, ranks = self.progress, self.job.seed, self.steps.data_ranks
        batches = epoch_batches(
            len(self.train_label),
            batch_rows=self.config.batch_rows,
            rank=self.steps.data_rank,
            ranks=ranks,
            seed=seed,
            epoch=epoch,
        ).to(self.device)
        step_rows = batches.shape[1] * ranks
        first = progress.step * progress.step_rows // step_rows  # more or fewer ranks may have rounded otherwise
        torch.manual_seed(rank_seed(seed, epoch, self.rank))
        if progress.random is not None:
            restore_random_state(progress.random, self.device)
        total = torch.zeros((), device=self.device) if progress.loss is None else progress.loss.to(self.device)
        progress.step, progress.step_rows = first, step_rows
        for step in range(first, len(batches)):
            if self.stop():
                self._save_amid(step, total)
                raise Stopped
            rows = batches[step]
            self.optimizer.zero_grad()
            feed = {name: column[rows] for name, column in self.train_feed.items()}
            total += self.steps.backward(feed, self.train_label[rows])
            self.optimizer.step()
        progress.step, progress.loss, progress.random = 0, None, None
        dist.all_reduce(total)
        return total.item() / (len(batches) * ranks)

    def _save_amid(self, step: int, total: Tensor) -> None:
        """Save in the middle of an epoch, unless nothing was done since the last checkpoint."""
        if step > self.progress.step:
            self.progress.step, self.progress.loss = step, total
            self.progress.random = random_state(self.device)
            self.checkpoints.save(self.progress, self.objective, self.optimizer)

    @torch.no_grad()
    def validate(self) -> float:
        """The validation metric; each rank measures its part of the rows."""
        losses = self.steps.row_loss(self.valid_feed, self.valid_label).double()
        sums = torch.stack([losses.sum(), torch.tensor(float(len(losses)), device=self.device, dtype=torch.double)])
        dist.all_reduce(sums)
        return self.objective.metric((sums[0] / sums[1]).item())

    def advance(self, loss: float, metric: float | None, seconds: float, cpu: float) -> EpochEvent:
        """Note an epoch, and keep the weights if they are the best so far; without a metric, the last are."""
        progress = self.progress
        if not np.isfinite([loss, metric or 0.0]).all():
            raise FloatingPointError(f"training diverged in epoch {progress.epoch + 1}: loss {loss}, metric {metric}")
        best = metric is None or metric < progress.best_metric
        progress.epoch += 1
        progress.epochs_since_best = 0 if best else progress.epochs_since_best + 1
        if best:
            progress.best_metric = progress.best_metric if metric is None else metric
            progress.best_weights = {k: v.detach().cpu().clone() for k, v in self.objective.state_dict().items()}
        event = EpochEvent(
            epoch=progress.epoch,
            train_loss=loss,
            valid_metric=metric,
            best=best,
            seconds=seconds,
            cpu_seconds=cpu,
            peak_memory_mb=peak_memory_mb(),
        )
        progress.history.append(event)
        return event

    def _on_device(self, split: EncodedSplit, *, shared: bool = False) -> tuple[Feed, Tensor]:
        """A split's tensors; ``shared``, only the rows that fall to this rank."""
        rows = slice(self.steps.data_rank, None, self.steps.data_ranks) if shared else slice(None)
        columns = full_feed(self.objective.model, split.feed)
        names = forward_inputs(self.objective.model)
        feed = {name: column[rows].to(self.device) for name, column in zip(names, columns, strict=True)}
        return feed, torch.from_numpy(split.label)[rows].to(self.device)


if __name__ == "__main__":
    run_jobs(sys.argv[1:], lambda job, device, stop: Worker(job, device, stop).run())
