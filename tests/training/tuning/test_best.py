import dataclasses
from contextlib import contextmanager
from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings, TrainingSettings, TuningSettings
from driftwheel.wheel.parameters import best_parameters, chosen_parameters
from driftwheel.wheel.progress import SILENT
from training.config import BoostingConfig, ForestConfig, RatingConfig
from training.data.dataset import Dataset
from training.tuning.best import Tuned, read_tuned, tuned_path, write_tuned


def found(model: str = "mf", **changes: object) -> Tuned:
    tuned = Tuned(
        model=model,
        task="rating",
        estimator="sgd",
        study="mf-1",
        fingerprint="f" * 64,
        metric="valid_rmse",
        value=0.9,
        trial=3,
        trials=9,
        params={"factors": 6, "batch_rows": "4096"},
    )
    return dataclasses.replace(tuned, **changes)


class Notes:
    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, title: str):
        yield SILENT

    def note(self, text: str) -> None:
        self.said.append(text)


def test_what_is_kept_comes_back(tmp_path: Path):
    assert read_tuned(tmp_path, "mf", "sgd") is None
    write_tuned(tmp_path, found())
    kept = read_tuned(tmp_path, "mf", "sgd")
    assert kept == found()
    assert kept.config == RatingConfig(factors=6, batch_rows=4096)


@pytest.mark.parametrize("content", [b"{", b"{}"])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: bytes):
    path = tuned_path(tmp_path, "mf", "sgd")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mf/sgd\.json cannot be used") as caught:
        read_tuned(tmp_path, "mf", "sgd")
    assert "--no-tuned" in (caught.value.hint or "")


def test_parameters_that_fit_no_knob_are_refused(tmp_path: Path):
    write_tuned(tmp_path, found(params={"factors": "many"}))
    with pytest.raises(ConfigurationError, match="Expected `int`"):
        read_tuned(tmp_path, "mf", "sgd")


def test_training_takes_them_and_says_so(small_ratings: Dataset, tmp_path: Path):
    settings, notes = Settings(home=tmp_path), Notes()
    assert best_parameters(settings, "mf", small_ratings, notes, estimator="sgd") is None
    write_tuned(settings.tuning_folder, found())
    assert best_parameters(settings, "mf", small_ratings, notes, estimator="sgd") == found()
    assert "trial 3 (valid_rmse 0.9000 on data ffffffffffff)" in notes.said[0]
    write_tuned(settings.tuning_folder, found(fingerprint=small_ratings.fingerprint))
    best_parameters(settings, "mf", small_ratings, notes, estimator="sgd")
    assert "on this data" in notes.said[1]


def test_training_takes_the_defaults_where_it_is_told_to_or_has_to(small_ratings: Dataset, tmp_path: Path):
    settings = Settings(home=tmp_path, tuning=TuningSettings(use_best=False))
    write_tuned(settings.tuning_folder, found())
    assert best_parameters(settings, "mf", small_ratings, SILENT, estimator="sgd") is None
    other = Settings(home=tmp_path)
    write_tuned(other.tuning_folder, found(task="churn", estimator="network", params={}))
    assert best_parameters(other, "mf", small_ratings, SILENT, estimator="network") is None


def test_what_was_found_feeds_its_own_estimator_alone(customers: Dataset, tmp_path: Path):
    settings = Settings(home=tmp_path)
    write_tuned(
        settings.tuning_folder, found("churn", task="churn", estimator="boosting", params={"leaves": 5, "l2": 3.0})
    )
    other = chosen_parameters(settings, "churn", customers, SILENT, estimator="forest")
    assert (other.config, other.tuned) == (ForestConfig(), None)
    assert chosen_parameters(settings, "churn", customers, SILENT).tuned is None
    own = chosen_parameters(settings, "churn", customers, SILENT, estimator="boosting")
    assert own.config == BoostingConfig(leaves=5, l2=3.0)
    assert own.tuned is not None


def test_what_was_found_is_laid_over_the_champions_own(customers: Dataset, tmp_path: Path):
    settings, champion = Settings(home=tmp_path), BoostingConfig(leaves=9, epochs=50, missed_cost=3.0)
    alone = chosen_parameters(settings, "churn", customers, SILENT, base=champion)
    assert (alone.config, alone.tuned) == (champion, None)
    write_tuned(settings.tuning_folder, found("churn", task="churn", estimator="boosting", params={"leaves": 5}))
    laid = chosen_parameters(settings, "churn", customers, SILENT, base=champion)
    assert laid.config == dataclasses.replace(champion, leaves=5)
    assert (
        chosen_parameters(settings, "churn", customers, SILENT, estimator="forest", base=champion).config
        == ForestConfig()
    )


def test_an_estimator_of_another_task_is_refused(customers: Dataset, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"--estimator must be one that learns from customers .*, got 'sgd'"):
        chosen_parameters(Settings(home=tmp_path), "churn", customers, SILENT, estimator="sgd")


def test_what_is_given_goes_before_what_was_found_and_the_champions_own(customers: Dataset, tmp_path: Path):
    settings = Settings(home=tmp_path, training=TrainingSettings(parameters={"leaves": 3}))
    write_tuned(settings.tuning_folder, found("churn", task="churn", estimator="boosting", params={"leaves": 5}))
    champion = BoostingConfig(leaves=9, missed_cost=3.0)
    laid = chosen_parameters(settings, "churn", customers, SILENT, base=champion)
    assert laid.config == BoostingConfig(leaves=3, missed_cost=3.0)
