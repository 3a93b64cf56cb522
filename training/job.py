"""The agreement between the launcher and its workers: a job's files, and what stands in them.

::

    <jobs>/<task>-<fingerprint>-<config>/       an evaluation, or a refit: see ``Job.evaluation``
      job.json            the Job
      progress.jsonl      one EpochEvent a line, appended by rank 0
      checkpoints/        the last two: model, best weights, optimizer, place in the epoch, history (checkpoint_files.py)
      worker.lock         held by rank 0 as long as it lives
      stderr.log          what torchrun and the workers had to say
      model/              model.json, model.safetensors, result.json; there only when the job is done
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import TrainingError
from training.config import digest
from training.execution import Execution

JOB = "job.json"
PROGRESS = "progress.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = "worker.lock"
STDERR = "stderr.log"
MODEL = "model"
RESULT = "result.json"

STOPPED = "stopped by a signal; its checkpoint holds the work so far"
"""What a rank says on standard error when it was told to end."""


def job_key(task: Task, fingerprint: str, config: dict[str, Any], seed: int, precision: str = "float32") -> str:
    """What a job is known by: its data, its configuration (as ``config.config_fields``), its seed, and how precisely it
    computes.
    """
    key = f"{task}-{fingerprint[:16]}-{digest(config, seed)}"
    return key if precision == "float32" else f"{key}-{precision}"


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
    execution: Execution = field(default_factory=Execution)
    """How it is spread over processes and machines, and in which precision it computes."""
    grace_s: float = 20.0
    """How long a rank may take from SIGTERM to its end. Below the 30 s after which torchrun kills."""
    evaluation: str | None = None
    """In a refit, the folder of the evaluation's model: it trains for as many epochs as were best there, and keeps the
    last weights. None: an evaluation, which stops early by the valid split and is measured on the test split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEvent:
    """How one epoch went."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """The mean over the epoch's batches, penalties included."""
    valid_metric: float | None
    """As ``config.validation_metric`` says, lower is better; None in a refit, which trains on the valid split too, and for
    rankings where nobody has anything relevant."""
    best: bool
    """Whether it is the best so far; in a refit, always."""
    seconds: float
    """Of this epoch."""
    cpu_seconds: float | None = None
    """Processor time that rank 0 spent in this epoch, over all its threads; None where nobody measured it."""
    peak_memory_mb: float | None = None
    """The most memory that rank 0 has held since it started, in megabytes (10^6 bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The content of ``result.json``: how a finished job ended.

    A refit has nothing left to be measured on: history and metrics are those of the evaluation that it follows.
    """

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
    """On the test split, with the best weights of the evaluation; none where the dataset has no test split (a trial)."""
    device: str = "cpu"
    """What it was trained on: ``cpu`` or ``cuda``."""
    refit_rows: int | None = None
    """In a refit, the rows that the weights were trained on; None in an evaluation."""
    refit_epochs: int | None = None
    """In a refit, for how many epochs."""

    @property
    def best_epoch(self) -> int:
        """The evaluation's epoch with the best validation metric."""
        return max(event.epoch for event in self.history if event.best)


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
