"""Tuning a model: a study, its workers, and what they found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.errors import TrainingError
from driftwheel.settings import Settings
from driftwheel.wheel.progress import Reporter, Task
from driftwheel.wheel.search import Search, described
from driftwheel.wheel.tuning_workers import run_workers

if TYPE_CHECKING:
    from optuna import Study

    from training.data.dataset import Dataset
    from training.tuning.best import Tuned
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


def tune(
    settings: Settings, name: str, dataset: "Dataset", reporter: Reporter, *, estimator: str | None = None
) -> TuneResult:
    """Work on a model's study until it has its trials, keep the best parameters, and put the study on record.

    The study is that of the data's fingerprint, the estimator, its search space and defaults, and the seed: the same
    command goes on with it, and others work on it at the same time. Trials see training and validation rows alone.

    Args:
        estimator: What is tuned; the task's default unless given.

    Raises:
        ConfigurationError: The storage cannot be used, or nothing of the estimator is searched.
        TrainingError: No trial succeeded, or the storage failed.
    """
    from training.config import default_estimator
    from training.tuning.storage import reachable

    search = Search(settings, name, dataset, estimator or default_estimator(dataset.task))
    opened = search.open_storage()
    with reachable(opened):
        study = search.open_study(opened)
        try:
            _work(search, study, opened, reporter)
        finally:
            tuned = keep_best(search, study)
        if tuned is None:
            raise TrainingError("no trial was trained to its end", hint="give it more --trials or a longer --timeout")
        return _recorded(search, tuned, study, reporter)


def _work(search: Search, study: "Study", opened: "Opened", reporter: Reporter) -> None:
    from training.tuning.trials import rows_of

    tuning = search.settings.tuning
    hands = "" if tuning.workers == 1 else f", {tuning.workers} workers"
    with reporter.task(f"Tuning {search.estimator} in {opened.described}, {tuning.trials} trials{hands}") as task:
        if tuning.workers == 1:
            search.worker(study, opened, lambda progress: _show(task, progress, tuning.trials)).run()
        else:
            run_workers(search, task, reporter)
        rows = [row for row in rows_of(study) if row.done]
        pruned = sum(row.state == "pruned" for row in rows)
        task.finish(f"{len(rows)} trials, {pruned} of them pruned, {sum(row.error is not None for row in rows)} failed")


def _show(task: Task, progress: "Progress", trials: int) -> None:
    task.update(progress.done, trials, described(progress))


def keep_best(search: Search, study: "Study") -> "Tuned | None":
    """Write a study's best parameters where training finds them; None where no trial was trained to its end."""
    from training.config import estimator_config, validation_metric
    from training.tuning.best import Tuned, write_tuned
    from training.tuning.trials import best_rows, rows_of

    rows = rows_of(study)
    best = best_rows(rows)
    if not best or best[0].value is None:
        return None
    tuned = Tuned(
        model=search.model,
        task=search.dataset.task,
        estimator=search.estimator,
        study=study.study_name,
        fingerprint=search.dataset.fingerprint,
        metric=f"valid_{validation_metric(estimator_config(search.dataset.task, search.estimator))}",
        value=best[0].value,
        trial=best[0].number,
        trials=sum(row.done for row in rows),
        params=best[0].params,
    )
    write_tuned(search.settings.tuning_folder, tuned)
    return tuned


def _recorded(search: Search, tuned: "Tuned", study: "Study", reporter: Reporter) -> TuneResult:
    from training.tuning.record import track_study
    from training.tuning.study import importances
    from training.tuning.trials import rows_of

    rows, importance = rows_of(study), importances(study)
    with reporter.task("Putting the study on record") as task:
        run_id = track_study(tuned, rows, importance, search.dataset, search.settings)
        task.finish(f"MLflow run {run_id[:8]}")
    return TuneResult(tuned=tuned, rows=rows, importance=importance, run_id=run_id)
