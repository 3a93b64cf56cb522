"""A study and the worker that runs its trials, one after the other, beside as many others as there are."""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from driftwheel.contracts import Task
from driftwheel.errors import BusyError, TrainingError
from training.config import digest
from training.job import EpochEvent
from training.tuning.runner import TrialRunner
from training.tuning.sampling import sampler
from training.tuning.spaces import Choice, Float, Knob, Params, configured, default_params, is_pruned, space_of
from training.tuning.storage import Liveness, Opened, Took, optuna
from training.tuning.trials import ERROR, TrialRow, rows_of

if TYPE_CHECKING:
    from optuna import Study, Trial

_WAIT_S = 0.5
"""Between two looks at the trials of others, when none is left to begin."""
_HOPELESS = 3
"""So many failed trials, and none that did not fail, end the work: more would fail as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker is to do."""

    task: Task
    estimator: str | None = None
    """The task's default unless given."""
    trials: int
    """How many the study is to have in the end."""
    timeout_s: float | None = None
    """The worker ends after so many seconds."""
    trial_timeout_s: float = 3600.0
    """One trial fails after so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a study is, told after each epoch of this worker's trials."""

    done: int
    """Trials that have ended, those of other workers included."""
    trial: int
    """The number of the trial under way."""
    event: EpochEvent


OnProgress = Callable[[Progress], None]


class _GivenBackError(Exception):
    """A trial was not run to its end, for no fault of its parameters: it does not count."""


def open_study(
    opened: Opened,
    name: str,
    task: Task,
    *,
    seed: int,
    startup_trials: int,
    warmup_epochs: int,
    estimator: str | None = None,
) -> "Study":
    """The study of that name, found or made. Its first trial has the defaults, so that its best is no worse than them."""
    module = optuna()
    median = module.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs)
    study = module.create_study(
        storage=opened.storage,
        study_name=name,
        sampler=sampler(int(digest(name, seed), 16)),
        pruner=median if is_pruned(task, estimator) else module.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )
    with opened.liveness.turn():
        study.enqueue_trial(default_params(task, estimator), skip_if_exists=True)
    return study


class StudyWorker:
    """Asks for trials, runs them and tells how they went, until the study is done or the time is up.

    Args:
        clock: Seconds, from any beginning.
    """

    def __init__(
        self,
        study: "Study",
        liveness: Liveness,
        runner: TrialRunner,
        plan: Plan,
        *,
        on_progress: OnProgress = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study = study
        self._liveness = liveness
        self._runner = runner
        self._plan = plan
        self._on_progress = on_progress
        self._clock = clock
        self._sleep = sleep
        self._deadline = None if plan.timeout_s is None else clock() + plan.timeout_s

    def run(self) -> None:
        """Work until the study has its trials. It waits for trials that others run: it does them, should those die.

        A KeyboardInterrupt comes out of here with the trial under way queued again.

        Raises:
            TrainingError: Nothing but failures.
        """
        while len(done := self._done()) < self._plan.trials and not self._time_is_up():
            if len(done) >= _HOPELESS and all(row.error for row in done):
                raise TrainingError(f"the first {len(done)} trials all failed, the last with: {done[-1].error}")
            if not self._one_trial():
                self._sleep(_WAIT_S)

    def _done(self) -> list[TrialRow]:
        return [row for row in rows_of(self._study) if row.done]

    def _time_is_up(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    def _one_trial(self) -> bool:
        """Run a trial; False where others run all that are wanted."""
        with self._liveness.turn() as took:
            self._liveness.bury(self._study)
            if self._rank_of_next() >= self._plan.trials:
                return False
            asked: list[int] = []
            try:
                self._study.optimize(
                    partial(self._objective, asked=asked, took=took),
                    n_trials=1,
                    catch=(TrainingError, _GivenBackError),
                )
            except (ValueError, optuna().exceptions.UpdateFinishedTrialError):
                if not self._was_buried(asked):
                    raise
        return True

    def _rank_of_next(self) -> int:
        return sum(row.done or row.running for row in rows_of(self._study))

    def _was_buried(self, asked: list[int]) -> bool:
        """Whether others took this worker for dead while it ran a trial (a host that slept), and have queued it again."""
        return bool(asked) and self._study.trials[asked[0]].state.is_finished()

    def _objective(self, trial: "Trial", *, asked: list[int], took: Took) -> float:
        """Run one trial. Workers that asked at the same moment may have begun more than are wanted: the last stand back."""
        asked.append(trial.number)
        took(trial.number)
        # One that waits was queued for a dead worker while this worker asked: somebody else will run it.
        before = [row for row in rows_of(self._study) if row.number < trial.number]
        before = [row for row in before if row.done or row.running or row.waiting]
        if len(before) >= self._plan.trials:
            raise _GivenBackError
        space = space_of(self._plan.task, self._plan.estimator)
        params = {name: _suggest(trial, name, knob) for name, knob in space.items()}
        return self._train(trial, params)

    def _train(self, trial: "Trial", params: Params) -> float:
        plan = self._plan
        config = configured(plan.task, params, plan.estimator)
        tell, kept = partial(self._on_epoch, trial), list[EpochEvent]()
        on_epoch = tell if is_pruned(plan.task, plan.estimator) else kept.append
        try:
            value = self._runner.run(config, on_epoch, timeout_s=self._time_left_s())
        except BusyError:
            raise _GivenBackError from None
        except KeyboardInterrupt:
            self._study.enqueue_trial(params)
            raise
        except TrainingError as error:
            if self._time_is_up():
                self._study.enqueue_trial(params)
                raise _GivenBackError from None
            trial.set_user_attr(ERROR, error.message)
            raise
        if best := [event for event in kept if event.best]:
            tell(best[-1])
        return value

    def _time_left_s(self) -> float:
        left_s = self._plan.trial_timeout_s
        return left_s if self._deadline is None else max(0.0, min(left_s, self._deadline - self._clock()))

    def _on_epoch(self, trial: "Trial", event: EpochEvent) -> None:
        if event.valid_metric is not None:
            trial.report(event.valid_metric, event.epoch)
        self._on_progress(Progress(done=len(self._done()), trial=trial.number, event=event))
        if trial.should_prune():
            raise optuna().TrialPruned


def _suggest(trial: "Trial", name: str, knob: Knob) -> Any:
    if isinstance(knob, Choice):
        return trial.suggest_categorical(name, knob.labels)
    if isinstance(knob, Float):
        return trial.suggest_float(name, knob.low, knob.high, log=knob.log)
    return trial.suggest_int(name, knob.low, knob.high, log=knob.log)


def importances(study: "Study") -> dict[str, float]:
    """How much of the metric's variance each knob explains, summing to 1 (PED-ANOVA, Watanabe et al. 2023); empty with
    too few trials.
    """
    found: dict[str, float] = {}
    with warnings.catch_warnings(), suppress(ValueError, RuntimeError, UserWarning):
        warnings.simplefilter("error", UserWarning)  # too few trials, once more
        found = dict(optuna().importance.get_param_importances(study))
    return found
