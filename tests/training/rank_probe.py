"""One of several ranks that do a number of jobs and leave what they saw: started by ``test_ranks``, as a process."""

import dataclasses
import itertools
import resource
import shutil
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from driftwheel.errors import TrainingError
from training.config import ChurnConfig, RatingConfig, TrainConfig, config_fields
from training.data.dataset import Dataset, read_dataset
from training.execution import Execution
from training.job import MODEL, Job
from training.sampling import epoch_batches
from training.stopping import Stopped, StopRequest
from training.worker import Worker

RATING = RatingConfig(epochs=3, batch_rows=200, factors=4)
CHURN = ChurnConfig(epochs=2, batch_rows=512, dropout=0.0)
DROPOUT = dataclasses.replace(CHURN, dropout=0.3)
SHARDED = Execution(shard_tables=True)
PIPELINE = Execution(pipeline=True)

CASES: dict[str, tuple[TrainConfig, Execution]] = {
    "rating": (RATING, Execution()),
    "rating again": (RATING, Execution()),
    "rating sharded": (RATING, SHARDED),
    "rating bf16": (RATING, Execution(precision="bf16")),
    "churn": (CHURN, Execution()),
    "churn dropout": (DROPOUT, Execution()),
    "churn dropout again": (DROPOUT, Execution()),
    "churn bf16": (CHURN, Execution(precision="bf16")),
    "churn pipeline": (CHURN, PIPELINE),
    "churn pipeline dropout": (DROPOUT, PIPELINE),
    "churn pipeline of one layer": (dataclasses.replace(CHURN, hidden=()), PIPELINE),
    "churn of one layer": (dataclasses.replace(CHURN, hidden=()), Execution()),
}
INTERRUPTED = ("rating", "rating sharded", "churn dropout", "churn pipeline dropout")
"""Cases that are also stopped every few steps until they are done."""


def job_for(dataset: Dataset, folder: Path, config: TrainConfig, execution: Execution, ranks: int) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        key=folder.name,
        task=dataset.task,
        dataset=str(dataset.folder),
        folder=str(folder),
        config=config_fields(config),
        seed=7,
        ranks=ranks,
        threads=1,
        code_revision="test",
        execution=execution,
    )


def first_gradients(job: Job) -> dict[str, torch.Tensor]:
    """The gradients that this rank holds after the first batch of a fresh model."""
    worker = Worker(job, torch.device("cpu"))
    steps = worker.steps
    rows = epoch_batches(
        len(worker.train_label),
        batch_rows=worker.config.batch_rows,
        rank=steps.data_rank,
        ranks=steps.data_ranks,
        seed=job.seed,
        epoch=0,
    )[0]
    loss = steps.backward({name: column[rows] for name, column in worker.train_feed.items()}, worker.train_label[rows])
    dist.all_reduce(loss)
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in worker.objective.named_parameters()
        if parameter.grad is not None and steps.placement.writes(name)
    }
    return gradients | {"loss": loss / steps.data_ranks}


def run_interrupted(job: Job) -> int:
    """Stop every five steps, as long as it takes; how often it was."""
    for stops in itertools.count():
        answers = iter([False] * 5)
        with suppress(Stopped):
            Worker(job, torch.device("cpu"), lambda: next(answers, True)).run()  # noqa: B023 (used within this turn)
            return stops
    raise AssertionError


def plain_epoch(out: Path, staged: Job) -> float:
    """The loss of an epoch that a pipeline began, ended without one on as many ranks."""
    folder = out / "half plain"
    if dist.get_rank() == 0:
        shutil.copytree(staged.folder, folder)
    dist.barrier()
    worker = Worker(dataclasses.replace(staged, folder=str(folder), execution=Execution()), torch.device("cpu"))
    worker.run_epoch()
    return worker.progress.history[0].train_loss


def full_disk(job: Job, rank: int) -> str:
    """What is said when the last rank cannot write."""
    worker = Worker(job, torch.device("cpu"))
    worker.run_epoch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == dist.get_world_size() - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        worker.run_epoch()
    except TrainingError as error:
        return error.message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return "nothing"


def agreed_after(rank: int) -> int:
    """How many questions it takes until all know that rank 1 was told to stop. A second passes between two of them."""
    seconds = itertools.count()
    request = StopRequest(lambda: float(next(seconds)))
    for asked in itertools.count(1):
        if rank == 1 and asked == 3:
            request.requested = True
        if request.agreed():
            return asked
    raise AssertionError


def main(rank: int, ranks: int, out: Path, rating: Path, churn: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(out / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    said = {}
    for name, (config, execution) in CASES.items():
        dataset = read_dataset(rating if isinstance(config, RatingConfig) else churn)
        job = job_for(dataset, out / name, config, execution, ranks)
        save_file(first_gradients(job), out / f"{name}.gradients-{rank}")
        Worker(job, torch.device("cpu")).run()
        if name in INTERRUPTED:
            cut = job_for(dataset, out / f"{name} cut", config, execution, ranks)
            said[f"{name} stops"] = run_interrupted(cut)
    half = job_for(read_dataset(rating), out / "half", RATING, SHARDED, ranks)
    answers = iter([False] * 10)
    with suppress(Stopped):
        Worker(half, torch.device("cpu"), lambda: next(answers, True)).run()
    staged = job_for(read_dataset(churn), out / "half staged", CHURN, PIPELINE, ranks)
    answers = iter([False] * 5)
    with suppress(Stopped):
        Worker(staged, torch.device("cpu"), lambda: next(answers, True)).run()
    said["staged goes on plain"] = plain_epoch(out, staged)
    disk = job_for(read_dataset(rating), out / "disk", RATING, SHARDED, ranks)
    said["full disk"] = full_disk(disk, rank)
    said["disk goes on at epoch"] = Worker(disk, torch.device("cpu")).progress.epoch
    said["agreed after"] = agreed_after(rank)
    said["model on disk"] = (out / "disk" / MODEL).exists()
    (out / f"said-{rank}.json").write_bytes(msgspec.json.encode(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *(Path(argument) for argument in sys.argv[3:6]))
