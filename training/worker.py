"""One rank of training jobs: ``torchrun ... -m training.worker JOB.json...``. It reads from top to bottom.

Jobs are done one after the other, so that a refit pays for no second start.

It imports neither mlflow, pandas, scikit-learn nor matplotlib: tracking is the launcher's business.
"""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from driftwheel.files import published_folder, remove_leftovers, waiting_lock, write_atomically
from driftwheel.processes import tie
from training.calibration import platt
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import ChurnConfig, config_from
from training.data.dataset import EncodedSplit, encoded_split, read_dataset
from training.final_metrics import final_metrics
from training.inference import full_feed
from training.job import CHECKPOINT, LOCK, MODEL, PROGRESS, RESULT, EpochEvent, Job, Result, read_trained, write_json
from training.models.churn_network import ChurnNetwork
from training.models.store import Model, forward_inputs, load_model, save_model
from training.objectives import Feed, build_objective
from training.sampling import epoch_batches, rank_seed


class Worker:
    """A rank's share of a job. The process group must be there."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job = job
        self.device = device
        self.folder = Path(job.folder)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        torch.manual_seed(job.seed)

        self.dataset = read_dataset(Path(job.dataset))
        self.config = config_from(job.task, job.config)
        self.evaluated = read_trained(Path(job.evaluation)) if job.evaluation else None
        self.epochs = self.evaluated.best_epoch if self.evaluated else self.config.epochs
        train = encoded_split(self.dataset, "train")
        self.objective = build_objective(self.dataset, train, self.config).to(self.device)
        self.train_feed, self.train_label = self._on_device(train)
        if self.evaluated is None:
            self.valid_feed, self.valid_label = self._on_device(encoded_split(self.dataset, "valid"), part=self.rank)

        self.ddp = DistributedDataParallel(self.objective)
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(), lr=self.config.learning_rate, weight_decay=self.objective.weight_decay
        )
        self.progress = load_checkpoint(self.folder / CHECKPOINT, self.objective, self.optimizer)

    def run(self) -> None:
        """Train to the end, from where the last checkpoint stands, and publish the model."""
        if self.rank == 0:
            lines = b"".join(msgspec.json.encode(event) + b"\n" for event in self.progress.history)
            write_atomically(self.folder / PROGRESS, lines)
        while not self.finished():
            self.run_epoch()
        if self.rank == 0:
            self.publish()
        dist.barrier()

    def finished(self) -> bool:
        """Whether the epochs are used up, or the last ones brought nothing. All ranks agree, since all saw the metric."""
        progress = self.progress
        return progress.epoch >= self.epochs or progress.epochs_since_best >= self.config.patience

    def run_epoch(self) -> None:
        """Train one epoch, measure it, and save where it led."""
        started = time.perf_counter()
        loss = self.train_epoch(self.progress.epoch)
        metric = self.validate() if self.evaluated is None else None
        event = self.advance(loss, metric, time.perf_counter() - started)
        if self.rank == 0:
            save_checkpoint(self.folder / CHECKPOINT, self.progress, self.objective, self.optimizer)
            with (self.folder / PROGRESS).open("ab") as file:
                file.write(msgspec.json.encode(event) + b"\n")

    def train_epoch(self, epoch: int) -> float:
        """One pass over the training split; the mean loss over all ranks."""
        self.ddp.train()
        seed = self.job.seed
        torch.manual_seed(rank_seed(seed, epoch, self.rank))
        batches = epoch_batches(
            len(self.train_label),
            batch_rows=self.config.batch_rows,
            rank=self.rank,
            ranks=self.ranks,
            seed=seed,
            epoch=epoch,
        ).to(self.device)
        total = torch.zeros((), device=self.device)
        for rows in batches:
            self.optimizer.zero_grad()
            loss = self.ddp({name: column[rows] for name, column in self.train_feed.items()}, self.train_label[rows])
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        return total.item() / (len(batches) * self.ranks)

    @torch.no_grad()
    def validate(self) -> float:
        """The validation metric; each rank measures its part of the rows."""
        self.objective.eval()
        losses = self.objective.row_loss(self.valid_feed, self.valid_label).double()
        sums = torch.stack([losses.sum(), torch.tensor(float(len(losses)), device=self.device, dtype=torch.double)])
        dist.all_reduce(sums)
        return self.objective.metric((sums[0] / sums[1]).item())

    def advance(self, loss: float, metric: float | None, seconds: float) -> EpochEvent:
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
        event = EpochEvent(epoch=progress.epoch, train_loss=loss, valid_metric=metric, best=best, seconds=seconds)
        progress.history.append(event)
        return event

    def publish(self) -> None:
        """Make the finished model appear, with its metrics: its own on the test split, or those of the evaluation."""
        self.objective.load_state_dict(self.progress.best_weights)
        model = self.objective.model.eval().cpu()
        if isinstance(model, ChurnNetwork):
            self._calibrate(model)
        with published_folder(self.folder / MODEL) as target:
            save_model(target, model)
            write_json(target / RESULT, self._result(model))

    def _calibrate(self, model: ChurnNetwork) -> None:
        """By the valid split, which the weights did not learn from; a refit keeps what its evaluation found."""
        if self.job.evaluation is not None:
            evaluated = load_model(Path(self.job.evaluation))
            assert isinstance(evaluated, ChurnNetwork)  # noqa: S101 (the same configuration made it)
            scale, bias = evaluated.calibration_scale, evaluated.calibration_bias
        else:
            assert isinstance(self.config, ChurnConfig)  # noqa: S101 (whose objective has such a model)
            valid = encoded_split(self.dataset, "valid")
            with torch.no_grad():
                logits = model.logits(*full_feed(model, valid.feed)).numpy()
            scale, bias = map(torch.tensor, platt(logits, valid.label, spread=self.config.calibration_spread))
        model.calibration_scale.copy_(scale)
        model.calibration_bias.copy_(bias)

    def _result(self, model: Model) -> Result:
        evaluated = self.evaluated
        history = evaluated.history if evaluated else tuple(self.progress.history)
        if "test" not in self.dataset.rows:  # a refit on all rows, or a trial, which may not see it
            metrics = evaluated.metrics if evaluated else {}
        else:
            train, test = encoded_split(self.dataset, "train"), encoded_split(self.dataset, "test")
            metrics = final_metrics(model, train, test, self.config)
        return Result(
            key=self.job.key,
            task=self.job.task,
            fingerprint=self.dataset.fingerprint,
            config=self.job.config,
            seed=self.job.seed,
            ranks=self.ranks,
            code_revision=self.job.code_revision,
            history=history,
            metrics=metrics,
            device=self.device.type,
            refit_rows=len(self.train_label) if evaluated else None,
            refit_epochs=self.progress.epoch if evaluated else None,
        )

    def _on_device(self, split: EncodedSplit, *, part: int | None = None) -> tuple[Feed, Tensor]:
        """A split's tensors; with ``part``, every n-th row of n ranks, from that one on."""
        rows = slice(None) if part is None else slice(part, None, self.ranks)
        columns = full_feed(self.objective.model, split.feed)
        names = forward_inputs(self.objective.model)
        feed = {name: column[rows].to(self.device) for name, column in zip(names, columns, strict=True)}
        return feed, torch.from_numpy(split.label)[rows].to(self.device)


@contextmanager
def process_group(ranks: int) -> Generator[torch.device]:
    """Join the other ranks, over NCCL where each rank of this machine has a GPU of its own, else over gloo."""
    gpus = torch.cuda.device_count()
    on_gpu = gpus >= ranks
    device = torch.device("cuda", dist.get_node_local_rank()) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        # The CPU's algorithms are deterministic as they are, and this takes two seconds to import what it needs.
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    if gpus and not on_gpu and dist.get_rank() == 0:
        print(f"{gpus} GPUs for {ranks} ranks: training on the CPU", file=sys.stderr)  # noqa: T201 (a worker)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def sole_worker(job: Job) -> Generator[None]:
    """Wait until a predecessor that was told to end has ended; what it left half-written is dead then.

    Rank 0 holds the lock for all.
    """
    first = dist.get_rank() == 0
    with waiting_lock(Path(job.folder) / LOCK) if first else nullcontext():
        if first:
            remove_leftovers(Path(job.folder), older_than_s=0.0, now_s=time.time())
        dist.barrier()
        yield


def main(job_paths: list[str]) -> None:
    """Join the process group and do a rank's share of each job.

    SIGTERM is left to the kernel, which ends the process at once, even inside a collective operation that waits for a
    rank that is gone. Nothing is lost but the epoch: all that is written is replaced whole.
    """
    tie(os.getppid())
    jobs = [msgspec.json.decode(Path(path).read_bytes(), type=Job) for path in job_paths]
    torch.set_num_threads(jobs[0].threads)
    with process_group(jobs[0].ranks) as device:
        for job in jobs:
            with sole_worker(job):
                Worker(job, device).run()


if __name__ == "__main__":
    main(sys.argv[1:])
