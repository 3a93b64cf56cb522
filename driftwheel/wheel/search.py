"""What the workers of a study have in common."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.settings import Settings

if TYPE_CHECKING:
    from optuna import Study

    from training.data.dataset import Dataset
    from training.tuning.storage import Opened
    from training.tuning.study import OnProgress, Progress, StudyWorker


@dataclass(frozen=True, slots=True)
class Search:
    """What a worker needs to take part in a study; processes of one host agree on it."""

    settings: Settings
    model: str
    dataset: "Dataset"
    estimator: str

    @property
    def study_name(self) -> str:
        """Whatever makes a study's trials comparable is in its name."""
        from driftwheel.names import check_name
        from training.tuning.spaces import space_digest

        digest = space_digest(self.dataset.task, self.settings.training.seed, self.estimator)
        return f"{check_name(self.model)}-{self.dataset.fingerprint[:12]}-{digest}"

    def open_storage(self) -> "Opened":
        """Open what the settings name."""
        from training.tuning.storage import open_storage

        return open_storage(self.settings, study=self.study_name)

    def open_study(self, opened: "Opened") -> "Study":
        """Find the study, or make it."""
        from training.tuning.study import open_study

        tuning = self.settings.tuning
        return open_study(
            opened,
            self.study_name,
            self.dataset.task,
            seed=self.settings.training.seed,
            startup_trials=tuning.startup_trials,
            warmup_epochs=tuning.warmup_epochs,
            estimator=self.estimator,
        )

    def worker(self, study: "Study", opened: "Opened", on_progress: "OnProgress") -> "StudyWorker":
        """One worker. Workers of this host share its cores."""
        from training.data.inner import inner_dataset
        from training.tuning.runner import TorchrunRunner
        from training.tuning.study import Plan, StudyWorker

        tuning, training = self.settings.tuning, self.settings.training
        runner = TorchrunRunner(
            inner_dataset(self.dataset),
            jobs_folder=self.settings.tuning_folder / "jobs",
            ranks=training.ranks,
            seed=training.seed,
            threads=max(1, (os.cpu_count() or 1) // tuning.workers),
        )
        plan = Plan(
            task=self.dataset.task,
            estimator=self.estimator,
            trials=tuning.trials,
            timeout_s=tuning.timeout_s,
            trial_timeout_s=training.timeout_s,
        )
        return StudyWorker(study, opened.liveness, runner, plan, on_progress=on_progress)


def described(progress: "Progress") -> str:
    """Where a worker is, in a few words."""
    event = progress.event
    metric = "" if event.valid_metric is None else f", validation {event.valid_metric:.4f}"
    return f"trial {progress.trial}, epoch {event.epoch}{metric}"
