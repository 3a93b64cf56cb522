"""A retrain makes what the champion is, with real training, registry, gate and bundles."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from driftwheel.cli import app
from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings, TrainingSettings, TuningSettings
from driftwheel.wheel.lifecycle import enter, make_version
from driftwheel.wheel.parameters import champion_config
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.retraining import retrain
from driftwheel.wheel.sources import Sources
from monitoring.ledger import Ledger
from tests.training.samples import in_this_process
from tests.training.tuning.test_best import Notes, found
from training.config import BoostingConfig, config_from
from training.data.sources import CustomersSource, RatingsSource
from training.data.tables import packaged_table
from training.job import TrainedModel
from training.registry import Registry
from training.tuning.best import write_tuned

FIRST = BoostingConfig(epochs=60, learning_rate=0.1, leaves=6, missed_cost=3.0)


@dataclasses.dataclass
class World:
    """A home where boosted trees are champion, and customers that came since."""

    settings: Settings
    sources: Sources
    customers: pd.DataFrame
    path: Path

    def newer(self, rows: int) -> None:
        self.customers.head(rows).to_csv(self.path, index=False)

    def version(self, number: int, to: Path) -> TrainedModel:
        return Registry(self.settings).trained_model("churn", number, to / str(number))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("retraining")
    path = folder / "customers.csv"
    source = CustomersSource(path=str(path), id_column="rownames")
    settings = Settings(home=folder / "home", training=TrainingSettings(ranks=1))
    made = World(
        settings, Sources(ratings=RatingsSource(), customers=source), packaged_table("modeldata", "wa_churn"), path
    )
    made.newer(4000)
    dataset = made.sources.prepare("churn", settings, until=None, learn=False)
    with in_this_process():
        first = make_version(settings, "churn", dataset, SILENT, base=FIRST)
    assert enter(settings, first, by="test")[0] == "in service"
    return made


def test_the_champions_record_is_found(world: World, tmp_path: Path):
    assert champion_config(world.settings, "churn", SILENT) == FIRST
    notes = Notes()
    assert champion_config(Settings(home=tmp_path), "churn", notes) is None
    assert notes.said[0].startswith("the champion's parameters are not on record")


def test_the_same_data_has_nothing_new_for_the_same_parameters(world: World):
    outcome = retrain(world.settings, world.sources, "churn", SILENT, reason="test", until=None)
    assert outcome.outcome == "nothing new to learn since version 1"


def test_an_estimator_of_another_task_makes_nothing(world: World):
    with pytest.raises(ConfigurationError, match="learns from customers"):
        retrain(world.settings, world.sources, "churn", SILENT, reason="test", until=None, estimator="sgd")


def test_newer_data_is_learned_by_what_is_champion_at_its_costs(world: World, tmp_path: Path):
    world.newer(4300)
    tuned = found("churn", task="churn", estimator="boosting", params={"min_leaf_rows": 30}, fingerprint="0" * 64)
    write_tuned(world.settings.tuning_folder, tuned)
    with in_this_process():
        made = retrain(world.settings, world.sources, "churn", SILENT, reason="test", until=None).made
    assert made is not None
    trained = world.version(made.version, tmp_path)
    assert config_from("churn", trained.config) == dataclasses.replace(FIRST, min_leaf_rows=30)
    assert made.metrics["threshold"] == 0.25
    assert made.champion_metrics is not None
    assert made.champion_metrics["threshold"] == 0.25
    gate = list(Ledger(world.settings.ledger).entries("churn", "gate"))[-1]
    assert gate.payload["champion"]["threshold"] == 0.25


def test_an_estimator_that_is_asked_for_has_its_own_parameters(world: World, tmp_path: Path):
    settings = world.settings.model_copy(update={"tuning": TuningSettings(use_best=False)})
    dataset = world.sources.prepare("churn", settings, until=None, learn=False)
    with in_this_process():
        made = make_version(settings, "churn", dataset, SILENT, estimator="boosting")
    assert config_from("churn", world.version(made.version, tmp_path).config) == BoostingConfig()
    assert made.tuned is None


def test_what_sets_a_retrain_off_is_one_of_a_few(tmp_path: Path):
    with pytest.raises(
        ConfigurationError, match="--trigger must be one of by hand, drift, alert, schedule, got 'whim'"
    ):
        CliRunner().invoke(app, ["--home", str(tmp_path), "retrain", "mf", "--trigger", "whim"], catch_exceptions=False)
