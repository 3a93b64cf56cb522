"""How a trial is run: the seam between a study and training."""

from pathlib import Path
from shutil import rmtree
from typing import Protocol

from driftwheel.errors import BusyError, TrainingError
from training.config import TrainConfig, config_fields, digest
from training.data.dataset import Dataset
from training.job import EpochEvent, TrainedModel
from training.launch import OnEpoch, train


class TrialRunner(Protocol):
    """Trains with one configuration. The contract: ``tests/training/tuning/test_runner.py``."""

    def run(self, config: TrainConfig, on_epoch: OnEpoch, *, timeout_s: float) -> float:
        """The best validation metric that training reaches; lower is better.

        Args:
            on_epoch: Called once for each epoch, in order. What it raises ends the training at once and comes out of here.
            timeout_s: Training that takes longer is ended.

        Raises:
            TrainingError: Training failed, or took too long.
            BusyError: Another process trains with this very configuration.
        """
        ...


class TorchrunRunner:
    """Each trial is a training job of its own under torchrun.

    One that was interrupted leaves its checkpoint, and the same configuration goes on there; one that failed leaves its
    standard error. One that ended, well or by its observer's will, leaves nothing.

    Args:
        dataset: What ``data.inner.inner_dataset`` made: it has no test split that a trial could see.
    """

    def __init__(self, dataset: Dataset, *, jobs_folder: Path, ranks: int, seed: int) -> None:
        self._dataset = dataset
        self._jobs_folder = jobs_folder
        self._ranks = ranks
        self._seed = seed

    def run(self, config: TrainConfig, on_epoch: OnEpoch, *, timeout_s: float) -> float:
        """See ``TrialRunner.run``."""
        folder = self._jobs_folder / digest(config_fields(config))
        try:
            trained = self._train(config, on_epoch, folder, timeout_s)
        except (TrainingError, BusyError):
            raise
        except Exception:  # the observer's
            rmtree(folder, ignore_errors=True)
            raise
        rmtree(folder, ignore_errors=True)
        return _best_metric(trained)

    def _train(self, config: TrainConfig, on_epoch: OnEpoch, folder: Path, timeout_s: float) -> TrainedModel:
        seen: list[EpochEvent] = []

        def pass_on(event: EpochEvent) -> None:
            seen.append(event)
            on_epoch(event)

        trained = train(
            self._dataset,
            jobs_folder=folder,
            ranks=self._ranks,
            seed=self._seed,
            timeout_s=timeout_s,
            config=config,
            on_epoch=pass_on,
        )
        for event in trained.history[len(seen) :]:  # of a job that was found finished
            on_epoch(event)
        return trained


def _best_metric(trained: TrainedModel) -> float:
    return min(event.valid_metric for event in trained.history if event.valid_metric is not None)
