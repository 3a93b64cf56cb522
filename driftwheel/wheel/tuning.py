"""Tuning a model, and where training takes what tuning found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.errors import TrainingError
from driftwheel.settings import Settings
from driftwheel.wheel.progress import Reporter, Task

if TYPE_CHECKING:
    from optuna import Study

    from training.data.dataset import Dataset
    from training.tuning.best import Tuned
    from training.tuning.runner import TrialRunner
    from training.tuning.storage import Opened
    from training.tuning.study import Progress
    from training.tuning.trials import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """A study as it stands after this worker's part."""

    tuned: "Tuned"
    rows: "list[TrialRow]"
    """All trials, by number."""
    importance: dict[str, float]
    run_id: str
    """Of MLflow."""


def tune(settings: Settings, name: str, dataset: "Dataset", reporter: Reporter) -> TuneResult:
    """Work on a model's study until it has its trials, keep the best parameters, and put the study on record.

    The study is that of the data's fingerprint, the search space, the defaults and the seed: the same command goes on with
    it, and others work on it at the same time. Trials see training and validation rows alone.

    Raises:
        ConfigurationError: The storage cannot be used.
        TrainingError: No trial succeeded, or the storage failed.
    """
    from training.data.inner import inner_dataset
    from training.tuning.runner import TorchrunRunner
    from training.tuning.storage import open_storage, reachable

    study_name = name_of_study(settings, name, dataset)
    opened = open_storage(settings, study=study_name)
    jobs = settings.tuning_folder / "jobs"
    training = settings.training
    runner = TorchrunRunner(inner_dataset(dataset), jobs_folder=jobs, ranks=training.ranks, seed=training.seed)
    with reachable(opened):
        study = _open(settings, study_name, dataset, opened)
        try:
            _work(settings, study, dataset, opened, runner, reporter)
        finally:
            tuned = keep_best(settings, name, dataset, study)
        if tuned is None:
            raise TrainingError("no trial was trained to its end", hint="give it more --trials or a longer --timeout")
        return _recorded(settings, tuned, dataset, study, reporter)


def name_of_study(settings: Settings, name: str, dataset: "Dataset") -> str:
    """A study's name: whatever makes its trials comparable is in it."""
    from driftwheel.names import check_name
    from training.tuning.spaces import space_digest

    return f"{check_name(name)}-{dataset.fingerprint[:12]}-{space_digest(dataset.task, settings.training.seed)}"


def _open(settings: Settings, study_name: str, dataset: "Dataset", opened: "Opened") -> "Study":
    from training.tuning.study import open_study

    tuning = settings.tuning
    return open_study(
        opened,
        study_name,
        dataset.task,
        seed=settings.training.seed,
        startup_trials=tuning.startup_trials,
        warmup_epochs=tuning.warmup_epochs,
    )


def _work(
    settings: Settings, study: "Study", dataset: "Dataset", opened: "Opened", runner: "TrialRunner", reporter: Reporter
) -> None:
    from training.tuning.study import Plan, StudyWorker
    from training.tuning.trials import rows_of

    tuning = settings.tuning
    plan = Plan(
        task=dataset.task,
        trials=tuning.trials,
        timeout_s=tuning.timeout_s,
        trial_timeout_s=settings.training.timeout_s,
    )
    with reporter.task(f"Tuning in {opened.described}, {tuning.trials} trials") as task:

        def show(progress: "Progress") -> None:
            _show(task, progress, tuning.trials)

        StudyWorker(study, opened.liveness, runner, plan, on_progress=show).run()
        rows = [row for row in rows_of(study) if row.done]
        pruned = sum(row.state == "pruned" for row in rows)
        task.finish(f"{len(rows)} trials, {pruned} of them pruned, {sum(row.error is not None for row in rows)} failed")


def _show(task: Task, progress: "Progress", trials: int) -> None:
    event = progress.event
    metric = "" if event.valid_metric is None else f", validation {event.valid_metric:.4f}"
    task.update(progress.done, trials, f"trial {progress.trial}, epoch {event.epoch}{metric}")


def keep_best(settings: Settings, name: str, dataset: "Dataset", study: "Study") -> "Tuned | None":
    """Write a study's best parameters where training finds them; None where no trial was trained to its end."""
    from training.tuning.best import METRICS, Tuned, write_tuned
    from training.tuning.trials import best_rows, rows_of

    rows = rows_of(study)
    best = best_rows(rows)
    if not best or best[0].value is None:
        return None
    tuned = Tuned(
        model=name,
        task=dataset.task,
        study=study.study_name,
        fingerprint=dataset.fingerprint,
        metric=METRICS[dataset.task],
        value=best[0].value,
        trial=best[0].number,
        trials=sum(row.done for row in rows),
        params=best[0].params,
    )
    write_tuned(settings.tuning_folder, tuned)
    return tuned


def _recorded(settings: Settings, tuned: "Tuned", dataset: "Dataset", study: "Study", reporter: Reporter) -> TuneResult:
    from training.tuning.record import track_study
    from training.tuning.study import importances
    from training.tuning.trials import rows_of

    rows, importance = rows_of(study), importances(study)
    with reporter.task("Putting the study on record") as task:
        run_id = track_study(tuned, rows, importance, dataset, settings)
        task.finish(f"MLflow run {run_id[:8]}")
    return TuneResult(tuned=tuned, rows=rows, importance=importance, run_id=run_id)


def best_parameters(settings: Settings, name: str, dataset: "Dataset", reporter: Reporter) -> "Tuned | None":
    """What tuning found for a model, unless the settings say to train with the defaults.

    Raises:
        ConfigurationError: What it found cannot be used any more.
    """
    from training.tuning.best import read_tuned

    if not settings.tuning.use_best:
        return None
    tuned = read_tuned(settings.tuning_folder, name)
    if tuned is None or tuned.task != dataset.task:
        return None
    where = "on this data" if tuned.fingerprint == dataset.fingerprint else f"on data {tuned.fingerprint[:12]}"
    reporter.note(
        f"tuned parameters of trial {tuned.trial} ({tuned.metric} {tuned.value:.4f} {where}): "
        + ", ".join(f"{knob} {_short(value)}" for knob, value in tuned.params.items())
    )
    return tuned


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
