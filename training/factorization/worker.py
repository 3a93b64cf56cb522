"""One rank of jobs that solve factorizations: ``torchrun ... -m training.factorization.worker JOB.json...``.

It keeps what ``training.worker`` keeps: jobs one after the other, a checkpoint from which the next run goes on, an end between
two sweeps after SIGTERM, and no import of mlflow, pandas, scikit-learn or matplotlib.
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
from training.config import config_from
from training.data.dataset import read_dataset
from training.factorization import checkpoint
from training.factorization.checkpoint import CHECKPOINT, Saved
from training.factorization.estimator import Factorization
from training.factorization.estimators import build_estimator
from training.factorization.exchange import agree, total
from training.factorization.rank_validation import RankValidation
from training.factorization.shards import read_part, read_shard
from training.final_metrics import MOST_RANKED_FOR, relevant_from
from training.job import CHECKPOINTS, PROGRESS, EpochEvent, Job, read_trained
from training.models.fold_in import write_fold_in
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape
from training.publishing import publish
from training.ranks import run_jobs
from training.resources import cpu_seconds, peak_memory_mb
from training.stopping import Stopped

_SAVE_EVERY_S = 10.0
_BEST = "best/"


class Worker:
    """A rank's share of a job. The process group must be there."""

    def __init__(self, job: Job, device: torch.device, stop: Callable[[], bool] = lambda: False) -> None:
        """Args:
        stop: Asked before each sweep, by all ranks, and answered alike: whether to save and end.
        """
        self.job, self.device, self.stop = job, device, stop
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.path = Path(job.folder) / CHECKPOINTS / CHECKPOINT
        self.dataset = read_dataset(Path(job.dataset))
        self.config = config_from(job.task, job.config)
        self.evaluated = read_trained(Path(job.evaluation)) if job.evaluation else None
        self.epochs = self.evaluated.best_epoch if self.evaluated else self.config.epochs
        self.shard = read_shard(self.dataset, self.rank, self.ranks)
        output = self.dataset.signature.outputs[0]
        self.low, self.high = output.low, output.high
        self.estimator = build_estimator(self.shard, self.config, job.seed, device, low=self.low, high=self.high)
        if self.evaluated is None:
            self._read_valid()
        self.history: list[EpochEvent] = []
        self.best: dict[str, Tensor] = {}
        self._resume()

    def _read_valid(self) -> None:
        """Keep this rank's part of the validation split: every n-th row, or in rankings that of its users."""
        if self.estimator.ranks:
            first, end = self.shard.user_bounds[self.rank : self.rank + 2].tolist()
            whole, threshold = read_part(self.dataset, "valid", 0, 1), relevant_from(self.low, self.high)
            most = max(1, MOST_RANKED_FOR // self.ranks)
            self.rankings = RankValidation(
                self.shard, whole, first=first, end=end, relevant_from=threshold, most_users=most
            )
            return
        valid = read_part(self.dataset, "valid", self.rank, self.ranks)
        self.valid_pairs = [torch.from_numpy(side).long().to(self.device) for side in (valid.row, valid.column)]
        self.valid_rating = torch.from_numpy(valid.value).to(self.device)

    def run(self) -> None:
        """Sweep to the end, from where the last checkpoint stands, and publish the model.

        Raises:
            Stopped: ``stop`` said so; the checkpoint holds all that was done.
            TrainingError: The checkpoint cannot be written.
            FloatingPointError: The loss is no number.
        """
        if self.rank == 0:
            lines = b"".join(msgspec.json.encode(event) + b"\n" for event in self.history)
            write_atomically(Path(self.job.folder) / PROGRESS, lines)
        saved_at = time.monotonic()
        while not self._finished():
            if self.stop():
                self._save()
                raise Stopped
            self._sweep()
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                self._save()
                saved_at = time.monotonic()
        self._publish()
        dist.barrier()

    def _finished(self) -> bool:
        if len(self.history) >= self.epochs:
            return True
        best = max((event.epoch for event in self.history if event.best), default=0)
        return (
            self.evaluated is None and self.estimator.stops_early and len(self.history) - best >= self.config.patience
        )

    def _sweep(self) -> None:
        started, cpu_before = time.perf_counter(), cpu_seconds()
        loss = self.estimator.sweep(len(self.history))
        metric = self._validate() if self.evaluated is None else None
        if not np.isfinite([loss, metric or 0.0]).all():
            raise FloatingPointError(
                f"training diverged in epoch {len(self.history) + 1}: loss {loss}, metric {metric}"
            )
        earlier = [event.valid_metric for event in self.history if event.valid_metric is not None]
        best = metric is None or not self.estimator.stops_early or metric < min(earlier, default=np.inf)
        event = EpochEvent(
            epoch=len(self.history) + 1,
            train_loss=loss,
            valid_metric=metric,
            best=best,
            seconds=time.perf_counter() - started,
            cpu_seconds=cpu_seconds() - cpu_before,
            peak_memory_mb=peak_memory_mb(),
        )
        self.history.append(event)
        if self.estimator.stops_early and best:
            self.best = {name: value.clone() for name, value in self.estimator.state().items()}
        if self.rank == 0:
            with (Path(self.job.folder) / PROGRESS).open("ab") as file:
                file.write(msgspec.json.encode(event) + b"\n")

    def _validate(self) -> float | None:
        """The RMSE of clipped scores over the validation split, or how far rankings are from the best; each rank measures its
        part.
        """
        if self.estimator.ranks:
            return self.rankings.ndcg_loss(self.estimator.finish().factorization)
        scores = self.estimator.scores(*self.valid_pairs)
        error = (scores.clamp(self.low, self.high) - self.valid_rating).square().sum(dtype=torch.double)
        sums = total(torch.stack([error, torch.tensor(float(len(scores)), dtype=torch.double, device=self.device)]))
        return float((sums[0] / sums[1]).sqrt())

    def _save(self) -> None:
        """All ranks hold the same: the first one writes."""
        if self.rank == 0:
            best = {_BEST + name: value for name, value in self.best.items()}
            checkpoint.save(self.path, Saved(tuple(self.history), self.estimator.state() | best))

    def _resume(self) -> None:
        """All ranks read the same, for none writes before all have begun; or all begin anew: on a shared folder a node may not
        see yet what another one does.
        """
        saved = checkpoint.load(self.path)
        if not agree(len(saved.history) if saved else 0, self.device) or saved is None:
            return
        self.history = list(saved.history)
        self.estimator.restore({name: value for name, value in saved.state.items() if not name.startswith(_BEST)})
        self.best = {
            name.removeprefix(_BEST): value.to(self.device)
            for name, value in saved.state.items()
            if name.startswith(_BEST)
        }

    def _publish(self) -> None:
        if self.best:
            self.estimator.restore(self.best)
        finished = self.estimator.finish()
        if self.rank == 0:
            model = self._model(finished.factorization)
            publish(
                self.job,
                self.dataset,
                self.config,
                model,
                model.state_dict(),
                history=self.history,
                evaluated=self.evaluated,
                ranks=self.ranks,
                device=self.device,
                write_more=lambda folder: write_fold_in(folder, finished.fold_in),
            )

    @torch.no_grad()
    def _model(self, found: Factorization) -> MatrixFactorization:
        users, factors = found.users.shape
        model = MatrixFactorization(
            MatrixFactorizationShape(users=users, items=len(found.items), factors=factors, low=self.low, high=self.high)
        )
        model.user_vector.weight.copy_(found.users)
        model.item_vector.weight.copy_(found.items)
        model.user_bias.weight.copy_(found.user_bias[:, None])
        model.item_bias.weight.copy_(found.item_bias[:, None])
        for table in (model.user_vector, model.item_vector, model.user_bias, model.item_bias):
            table.weight[0] = 0.0
        model.mean.fill_(found.mean)
        return model


def _run(job: Job, device: torch.device, stop: Callable[[], bool]) -> None:
    with torch.no_grad():
        Worker(job, device, stop).run()


if __name__ == "__main__":
    run_jobs(sys.argv[1:], _run)
