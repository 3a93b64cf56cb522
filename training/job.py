"""The agreement between the launcher and its workers: a job's files, and what stands in them.

::

    <jobs>/<task>-<fingerprint>-<config>/
      job.json            the Job
      progress.jsonl      one EpochEvent a line, appended by rank 0
      checkpoint.pt       model, best weights, optimizer, epoch and history; replaced after each epoch
      worker.lock         held by rank 0 as long as it lives
      stderr.log          what torchrun and the workers had to say
      model/              model.json, model.safetensors, result.json; there only when the job is done
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import TrainingError

JOB = "job.json"
PROGRESS = "progress.jsonl"
CHECKPOINT = "checkpoint.pt"
LOCK = "worker.lock"
STDERR = "stderr.log"
MODEL = "model"
RESULT = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the workers are to do."""

    key: str
    """The folder's name."""
    task: Task
    dataset: str
    """The folder of the prepared dataset."""
    folder: str
    """Where everything of the job goes."""
    config: dict[str, Any]
    seed: int
    threads: int
    """Threads of each rank."""
    ranks: int
    """Processes on each machine."""
    code_revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEvent:
    """How one epoch went."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """The mean over the epoch's batches, penalties included."""
    valid_metric: float
    """RMSE for ratings, log loss for churn."""
    best: bool
    """Whether it is the best so far."""
    seconds: float
    """Of this epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The content of ``result.json``: how a finished job ended."""

    key: str
    task: Task
    fingerprint: str
    """Of the dataset."""
    config: dict[str, Any]
    seed: int
    ranks: int
    code_revision: str
    history: tuple[EpochEvent, ...]
    metrics: dict[str, float]
    """On the test split, with the best weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel(Result):
    """A finished job's outcome and the folder with its weights."""

    folder: Path


def read_trained(folder: Path) -> TrainedModel:
    """Read what a job left in its ``model`` folder, or what the registry fetched.

    Raises:
        TrainingError: It is missing or damaged.
    """
    try:
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(f"the trained model in {folder} is missing or damaged: {error}") from None
    return TrainedModel(**{name: getattr(result, name) for name in Result.__dataclass_fields__}, folder=folder)


def write_json(path: Path, content: object) -> None:
    """Write a dataclass as indented JSON; for use inside a folder that is published whole."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
