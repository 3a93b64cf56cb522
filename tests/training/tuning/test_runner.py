"""The contract of ``TrialRunner``, which torchrun and its stand-in both keep; and what a real job leaves behind."""

from pathlib import Path

import pytest

from driftwheel.errors import TrainingError
from driftwheel.settings import Settings, TuningSettings
from tests.training.samples import small_table
from tests.training.test_launch import _processes_with
from tests.training.tuning.fakes import FakeRunner
from training.config import IalsConfig, RatingConfig
from training.data.dataset import Dataset, read_split
from training.data.inner import inner_dataset
from training.data.ratings import prepare_ratings
from training.data.sources import RatingsSource
from training.job import EpochEvent
from training.tuning.runner import TorchrunRunner, TrialRunner
from training.tuning.spaces import default_params
from training.tuning.storage import open_storage
from training.tuning.study import Plan, StudyWorker, open_study
from training.tuning.trials import rows_of

QUICK = RatingConfig(epochs=6, batch_rows=1000, factors=4)
ENDLESS = RatingConfig(epochs=100_000, patience=100_000, batch_rows=1000, factors=4)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture(params=["fake", "torchrun"])
def runner(request, small_ratings: Dataset, jobs: Path) -> TrialRunner:
    return FakeRunner() if request.param == "fake" else real(small_ratings, jobs)


def real(dataset: Dataset, jobs: Path, *, ranks: int = 1) -> TorchrunRunner:
    return TorchrunRunner(inner_dataset(dataset), jobs_folder=jobs, ranks=ranks, seed=7)


def test_every_epoch_is_told_and_the_best_value_comes_back(runner: TrialRunner, jobs: Path):
    events: list[EpochEvent] = []
    value = runner.run(QUICK, events.append, timeout_s=60.0)
    assert [event.epoch for event in events] == list(range(1, len(events) + 1))
    assert value == min(event.valid_metric for event in events)
    assert not list(jobs.glob("*"))


def test_what_ranks_is_measured_by_its_last_rankings(small_ratings: Dataset, jobs: Path):
    """It does not stop early: the model is the last sweep's, were an earlier one better."""
    events: list[EpochEvent] = []
    config = IalsConfig(epochs=5, factors=4)
    value = real(small_ratings, jobs).run(config, events.append, timeout_s=60.0)
    assert [event.epoch for event in events] == [1, 2, 3, 4, 5]
    assert value == events[-1].valid_metric
    assert 0 < value < 1
    low = small_table(600).assign(rating=lambda table: table["rating"].clip(upper=3.0))
    low.to_csv(jobs.parent / "low.csv", index=False)
    nothing_liked = prepare_ratings(RatingsSource(path=str(jobs.parent / "low.csv")), jobs.parent / "data")
    with pytest.raises(TrainingError, match="rankings cannot be tuned by them"):
        real(nothing_liked, jobs).run(config, events.append, timeout_s=60.0)


def test_what_an_observer_raises_comes_out():
    """Of the stand-in; of a real job below."""

    def interrupt(event: EpochEvent) -> None:
        if event.epoch == 3:
            raise KeyboardInterrupt

    runner = FakeRunner()
    with pytest.raises(KeyboardInterrupt):
        runner.run(QUICK, interrupt, timeout_s=60.0)
    assert runner.epochs == 3


def test_a_pruned_trial_ends_its_torchrun(small_ratings: Dataset, jobs: Path, tmp_path: Path):
    """The first trials reach values below 0 at once, so that the real one is worse than their median."""

    class GoodThenReal:
        runs = 0

        def run(self, config, on_epoch, *, timeout_s):
            self.runs += 1
            if self.runs <= 2:
                for epoch in range(1, 6):
                    on_epoch(EpochEvent(epoch=epoch, train_loss=0, valid_metric=-1.0, best=True, seconds=0))
                return -1.0
            return real(small_ratings, jobs, ranks=2).run(ENDLESS, on_epoch, timeout_s=timeout_s)

    settings = Settings(home=tmp_path, tuning=TuningSettings(startup_trials=2, warmup_epochs=3))
    opened = open_storage(settings, study="s")
    study = open_study(opened, "s", "rating", seed=1, startup_trials=2, warmup_epochs=3, estimator="sgd")
    StudyWorker(
        study, opened.liveness, GoodThenReal(), Plan(task="rating", estimator="sgd", trials=3, trial_timeout_s=60.0)
    ).run()
    rows = rows_of(study)
    assert rows[0].params == default_params("rating", "sgd")
    assert [row.state for row in rows] == ["complete", "complete", "pruned"]
    assert rows[2].epochs < 100
    assert not _processes_with(str(jobs))
    assert not list(jobs.iterdir())


def test_a_trial_that_takes_too_long_is_ended(small_ratings: Dataset, jobs: Path):
    with pytest.raises(TrainingError, match=r"longer than 0\.2 s"):
        real(small_ratings, jobs).run(ENDLESS, lambda _: None, timeout_s=0.2)


def test_trials_have_no_test_split_to_look_at(small_ratings: Dataset):
    inner = inner_dataset(small_ratings)
    assert set(inner.rows) == {"train", "valid"}
    assert {path.name for path in inner.folder.glob("*.parquet")}.isdisjoint({"test.parquet", "reference.parquet"})
    for split in ("train", "valid"):
        assert read_split(inner, split).equals(read_split(small_ratings, split))
    assert inner.fingerprint != small_ratings.fingerprint
    assert inner_dataset(small_ratings) == inner
