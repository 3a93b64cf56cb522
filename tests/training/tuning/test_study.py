"""A study's worker, with training that takes no time and a real journal."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from driftwheel.errors import BusyError, TrainingError
from driftwheel.settings import Settings, TuningSettings
from tests.training.tuning.fakes import EPOCHS, FakeRunner, badness, work
from training.config import RatingConfig
from training.tuning.spaces import configured, default_params
from training.tuning.storage import open_storage
from training.tuning.study import importances, open_study
from training.tuning.trials import best_rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, tuning=TuningSettings(startup_trials=3, warmup_epochs=2))


def states(rows) -> list[str]:
    return [row.state for row in rows]


def test_a_study_finds_better_parameters_than_the_defaults(settings: Settings):
    runner = FakeRunner()
    rows = work(settings, runner, trials=25)
    assert runner.configs[0] == RatingConfig()
    assert len([row for row in rows if row.done]) == len(runner.configs) == 25
    best = best_rows(rows)[0]
    assert best.value == pytest.approx(1 + badness(configured("rating", best.params, "sgd")) + 1 / EPOCHS)
    late = sorted(badness(config) for config in runner.configs[15:])
    early = sorted(badness(config) for config in runner.configs[1:11])
    assert late[len(late) // 2] < early[len(early) // 2]


def test_bad_trials_are_pruned_and_good_ones_are_not(settings: Settings):
    runner = FakeRunner()
    rows = work(settings, runner, trials=25)
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    assert {row.epochs for row in pruned} <= {2, 3}
    assert {row.epochs for row in rows if row.state == "complete"} == {EPOCHS}
    assert runner.epochs == sum(row.epochs for row in rows) < 25 * EPOCHS
    assert all(row.state == "complete" for row in rows[:3])


def test_one_worker_draws_the_same_trials_each_time(settings: Settings, tmp_path: Path):
    first, again = FakeRunner(), FakeRunner()
    work(settings, first, trials=14)
    work(settings.model_copy(update={"home": tmp_path / "other"}), again, trials=14)
    assert first.configs == again.configs


def test_a_study_goes_on_where_it_stopped(settings: Settings):
    whole, first, second = FakeRunner(), FakeRunner(), FakeRunner()
    work(settings, whole, name="mf-whole", trials=12)
    work(settings, first, trials=5)
    rows = work(settings, second, trials=12)
    assert (len(first.configs), len(second.configs)) == (5, 7)
    assert len(rows) == 12
    work(settings, second, trials=12)
    assert len(second.configs) == 7


def test_a_failed_trial_counts_and_says_why(settings: Settings):
    runner = FakeRunner(raises={1: TrainingError("diverged")})
    rows = work(settings, runner, trials=4)
    assert states(rows) == ["complete", "fail", "complete", "complete"]
    assert rows[1].error == "diverged"


def test_nothing_but_failures_end_the_work(settings: Settings):
    runner = FakeRunner(raises={n: TrainingError(f"no torch {n}") for n in range(9)})
    with pytest.raises(TrainingError, match="the first 3 trials all failed, the last with: no torch 2"):
        work(settings, runner, trials=9)


def test_an_interrupted_trial_is_run_again(settings: Settings):
    runner = FakeRunner(raises={2: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        work(settings, runner, trials=4)
    rows = work(settings, runner, trials=4)
    assert states(rows)[:4] == ["complete", "complete", "fail", "complete"]
    assert [row.done for row in rows] == [True, True, False, True, True]
    assert rows[2].error is None
    assert rows[3].params == rows[2].params
    assert runner.configs[3] == runner.configs[2]


def test_a_configuration_that_another_process_trains_is_left_to_it(settings: Settings):
    runner = FakeRunner(raises={1: BusyError("elsewhere")})
    rows = work(settings, runner, trials=3)
    assert states(rows) == ["complete", "fail", "complete", "complete"]
    assert [row.done for row in rows] == [True, False, True, True]


def test_the_time_is_up(settings: Settings):
    now_s = 0.0

    class Slow(FakeRunner):
        def run(self, config, on_epoch, *, timeout_s):
            nonlocal now_s
            now_s += min(timeout_s, 4.0)
            if timeout_s < 4.0:
                raise TrainingError("training took longer than that")
            return super().run(config, on_epoch, timeout_s=timeout_s)

    rows = work(settings, Slow(), trials=9, timeout_s=10.0, clock=lambda: now_s)
    assert now_s == 10.0
    assert states(rows) == ["complete", "complete", "fail", "waiting"]
    assert rows[2].error is None
    assert rows[3].state == "waiting"
    again = FakeRunner()
    work(settings, again, trials=3)
    assert [row.params for row in (rows[2],)] == [row.params for row in work(settings, again, trials=3)[3:4]]
    assert len(again.configs) == 1


def test_the_time_left_is_what_a_trial_may_take(settings: Settings):
    given: list[float] = []

    class Timed(FakeRunner):
        def run(self, config, on_epoch, *, timeout_s):
            given.append(timeout_s)
            return super().run(config, on_epoch, timeout_s=timeout_s)

    work(settings, Timed(), trials=1, timeout_s=10.0, trial_timeout_s=60.0, clock=lambda: 0.0)
    work(settings, Timed(), trials=2, timeout_s=10.0, trial_timeout_s=3.0, clock=lambda: 0.0)
    assert given == [10.0, 3.0]


def test_importances_need_trials(settings: Settings):
    work(settings, FakeRunner(), trials=1)
    opened = open_storage(settings, study="mf-test")
    study = open_study(opened, "mf-test", "rating", seed=1, startup_trials=3, warmup_epochs=2, estimator="sgd")
    assert importances(study) == {}
    work(settings, FakeRunner(), trials=20)
    found = importances(study)
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == set(default_params("rating", "sgd"))


def test_a_worker_that_was_taken_for_dead_goes_on_with_another_trial(settings: Settings):
    """As when a host slept: its trial was failed by another worker, which has queued it again."""
    opened = open_storage(settings, study="mf-test")

    class Asleep(FakeRunner):
        def run(self, config, on_epoch, *, timeout_s):
            if not self.configs:
                study = open_study(
                    opened, "mf-test", "rating", seed=1, startup_trials=3, warmup_epochs=2, estimator="sgd"
                )
                study.tell(0, state=TrialState.FAIL)
            return super().run(config, on_epoch, timeout_s=timeout_s)

    rows = work(settings, Asleep(), trials=3)
    assert states(rows)[0] == "fail"
    assert [row.done for row in rows] == [False, True, True, True]
