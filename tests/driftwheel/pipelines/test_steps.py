"""What the steps are told and what they do again; the whole of them is run in test_local."""

import dataclasses
import json
from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError, DataError
from driftwheel.pipelines.deployment import deploy_version
from driftwheel.pipelines.running import keep_folder, read_champion, write_champion
from driftwheel.pipelines.steps import sources_from
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.sources import Sources, remember
from monitoring.ledger import Ledger
from tests.bundles import make_churn_bundle
from training.data.sources import CustomersSource, RatingsSource

PACKAGED = Sources(ratings=RatingsSource(), customers=CustomersSource())


def test_sources_are_those_that_are_named_or_remembered_or_packaged(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert sources_from(settings, "") == PACKAGED
    mine = dataclasses.replace(PACKAGED, ratings=RatingsSource(path="mine.csv", time_column=None), until="2015-01-01")
    remember(settings, mine)
    assert sources_from(settings, "") == mine
    text = json.dumps({"ratings": {"path": "s3://data/ratings.parquet"}, "until": "2016-01-01"})
    named = sources_from(settings, text)
    assert named == dataclasses.replace(
        PACKAGED, ratings=RatingsSource(path="s3://data/ratings.parquet"), until="2016-01-01"
    )
    assert sources_from(settings, (tmp_path / "sources.json").read_text()) == mine


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ratings.csv", "sources cannot be used: JSON is malformed"),
        ('{"rating": {}}', "sources has no field rating; its fields are ratings, customers"),
        ('{"ratings": {"path": 5}}', r"Expected `str \| null`, got `int` - at `\$.ratings.path`, got "),
        ("[]", "Expected `object`, got `array`"),
    ],
)
def test_sources_that_cannot_be_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        sources_from(Settings(home=tmp_path), text)


def test_a_deployment_that_is_repeated_changes_nothing(tmp_path: Path) -> None:
    settings, store = Settings(home=tmp_path / "home"), tmp_path / "store"
    make_churn_bundle(settings.models, 1)
    make_churn_bundle(settings.models, 2)
    entries = [
        deploy_version(settings, "churn", version, SILENT, store=str(store), service="") for version in (1, 1, 2, 2)
    ]
    assert entries == ["in service", "known", "on trial", "known"]
    rollout = read_rollout(settings.rollouts, "churn")
    assert (rollout.stable, rollout.candidate, rollout.revision) == (1, 2, 2)
    assert len(Ledger(settings.ledger).entries("churn", "rollout")) == 2
    assert sorted(path.name for path in (store / "models/churn").iterdir()) == ["1", "2"]


def test_kserve_is_reached_from_a_pod_only(tmp_path: Path) -> None:
    settings, store = Settings(home=tmp_path / "home"), tmp_path / "store"
    make_churn_bundle(settings.models, 1)
    with pytest.raises(ConfigurationError, match="in a pod with a service account only"):
        deploy_version(settings, "churn", 1, SILENT, store=str(store), service="driftwheel")
    assert (store / "rollouts/churn.json").exists(), "a step that is repeated goes on from here"


@pytest.mark.parametrize("metrics", [None, {}, {"auc": 0.25}])
def test_what_the_champion_reaches_is_told_as_it_is(tmp_path: Path, metrics: dict[str, float] | None) -> None:
    write_champion(metrics, str(tmp_path / "metrics"))
    assert read_champion(str(tmp_path / "metrics")) == metrics
    (tmp_path / "metrics").write_text('{"auc": "high"}')
    with pytest.raises(DataError, match="the evaluation in .*metrics is missing or damaged"):
        read_champion(str(tmp_path / "metrics"))


def test_an_artifact_holds_all_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "from/inner").mkdir(parents=True)
    (tmp_path / "from/inner/file").write_text("content")
    keep_folder(tmp_path / "from", str(tmp_path / "artifact"))
    assert (tmp_path / "artifact/inner/file").read_text() == "content"
