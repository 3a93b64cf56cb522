"""How a trial is run: the seam between a study and training."""

from pathlib import Path
from shutil import rmtree
from typing import Protocol

from driftwheel.errors import BusyError, TrainingError
from training.calibration import calibrated_log_loss
from training.config import ChurnConfig, TrainConfig, config_fields, config_from, digest
from training.data.dataset import Dataset, encoded_split
from training.job import EpochEvent, TrainedModel
from training.launch import OnEpoch, train


class TrialRunner(Protocol):
    """Trains with one configuration. The contract: ``tests/training/tuning/test_runner.py``."""

    def run(self, config: TrainConfig, on_epoch: OnEpoch, *, timeout_s: float) -> float:
        """The validation metric of the model that training leads to, after calibration where there is one; lower is better.

        Args:
            on_epoch: Called once for each epoch, in order. What it raises ends the training at once and comes out of here.
            timeout_s: Training that takes longer is ended.

        Raises:
            TrainingError: Training failed, took too long, or could not be measured on the validation rows.
            BusyError: Another process trains with this very configuration.
        """
        ...


class TorchrunRunner:
    """Each trial is a training job of its own under torchrun.

    One that was interrupted leaves its checkpoint, and the same configuration goes on there; one that failed leaves its
    standard error. One that ended, well or by its observer's will, leaves nothing.

    Args:
        dataset: What ``data.inner.inner_dataset`` made: it has no test split that a trial could see.
        threads: Of a trial's processes together; all that there are unless given.
    """

    def __init__(
        self, dataset: Dataset, *, jobs_folder: Path, ranks: int, seed: int, threads: int | None = None
    ) -> None:
        self._dataset = dataset
        self._jobs_folder = jobs_folder
        self._ranks = ranks
        self._seed = seed
        self._threads = threads

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
        value = _value(trained, self._dataset)
        rmtree(folder, ignore_errors=True)
        return value

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
            threads=self._threads,
            timeout_s=timeout_s,
            config=config,
            on_epoch=pass_on,
        )
        for event in trained.history[len(seen) :]:  # of a job that was found finished
            on_epoch(event)
        return trained


def _value(trained: TrainedModel, dataset: Dataset) -> float:
    """The validation metric of the epoch that the model is of. A network's is of log odds that are not calibrated yet, and
    it is calibrated on those very rows: so it is measured calibrated part by part instead.
    """
    config = config_from(trained.task, trained.config)
    if isinstance(config, ChurnConfig):
        return _calibrated_log_loss(trained, dataset, config)
    by_epoch = {event.epoch: event.valid_metric for event in trained.history}
    if (value := by_epoch[trained.best_epoch]) is None:
        raise TrainingError(
            "nobody whom the training rows know rated anything high in the validation rows: rankings cannot be tuned by them",
            hint="give it more ratings, or tune an estimator that predicts ratings (--estimator bayes)",
        )
    return value


def _calibrated_log_loss(trained: TrainedModel, dataset: Dataset, config: ChurnConfig) -> float:
    import torch  # takes seconds to import, and trees need none

    from training.inference import full_feed
    from training.models.churn_network import ChurnNetwork
    from training.models.store import load_model

    model, valid = load_model(trained.folder), encoded_split(dataset, "valid")
    assert isinstance(model, ChurnNetwork)  # noqa: S101 (its configuration says so)
    with torch.no_grad():
        logits = model.logits(*full_feed(model, valid.feed)).numpy()
    return calibrated_log_loss(logits, valid.label, spread=config.calibration_spread)
