"""Two real versions, of which the second learned from newer data: compared, gated, promoted, shown, planned."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from driftwheel.bundle import ITEM_FACTORS, USER_FACTORS
from driftwheel.cli import app
from driftwheel.errors import ConfigurationError, DataError, TrainingError
from driftwheel.rollout import read_rollout, serve_stable
from driftwheel.settings import Settings, TrainingSettings
from driftwheel.wheel.comparing import compare, metrics_side_by_side
from driftwheel.wheel.dry_run import TrainingPlan, plan_training
from driftwheel.wheel.inventory import describe
from driftwheel.wheel.lifecycle import NewVersion, TrackedVersion, enter, make_version, train_version
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.promotion import promote, roll_back, set_archived
from monitoring.ledger import Ledger
from tests.command_lines import called
from tests.training.samples import in_this_process, small_table
from training.answers import read_answers
from training.config import IalsConfig, RatingConfig, config_fields, default_config
from training.data.dataset import Dataset, read_split
from training.data.ratings import prepare_ratings
from training.data.refit import refit_dataset
from training.data.sources import RatingsSource
from training.evaluation import bundle_answers
from training.mlflow_store import open_client
from training.ranking_record import read_rankings
from training.registry import Registry
from training.run_record import fetch_file

CONFIG = RatingConfig(epochs=6, patience=6, batch_rows=500, factors=4)


@dataclass
class World:
    settings: Settings
    source: RatingsSource
    datasets: list[Dataset]
    made: list[NewVersion]


def planned(settings: Settings, dataset: Dataset, *, enters: bool = True) -> TrainingPlan:
    return plan_training(settings, "mf", dataset, SILENT, base=CONFIG, enters=enters)


@pytest.fixture(scope="module")
def plans() -> dict[str, TrainingPlan]:
    """What a training said of itself before it happened."""
    return {}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, plans: dict[str, TrainingPlan]) -> World:
    """Version 1 serves; version 2 learned from a third more rows and waits."""
    home = tmp_path_factory.mktemp("versions") / "home"
    settings = Settings(home=home, training=TrainingSettings(ranks=1))
    home.mkdir()
    table = small_table(6000)
    table.to_csv(home / "ratings.csv", index=False)
    source = RatingsSource(path=str(home / "ratings.csv"))
    cut = f"{np.datetime64(int(table['timestamp'][4000]), 's')}+00:00"
    datasets = [prepare_ratings(source, settings.data, until=until) for until in (cut, None)]
    made: list[NewVersion] = []
    for number, dataset in enumerate(datasets, start=1):
        plans[f"before {number}"] = planned(settings, dataset)
        assert plans["before 1"].run_id is None
        assert (settings.home / "mlflow").exists() == (number > 1)
        with in_this_process():
            made.append(make_version(settings, "mf", dataset, SILENT, base=CONFIG))
        if number == 1:
            enter(settings, made[0], by="test")
    return World(settings, source, datasets, made)


class Silent:
    def update(self, done: float, total: float, detail: str = "") -> None:
        pass

    def finish(self, detail: str) -> None:
        pass


@contextmanager
def put_back(world: World) -> Generator[None]:
    """Version 1 serves again afterwards."""
    try:
        yield
    finally:
        serve_stable(world.settings.rollouts, "mf", 1, by="test", now="2026-01-01T00:00:00Z")


def test_a_plan_says_what_came_to_be(world: World, plans: dict[str, TrainingPlan]) -> None:
    for number, (plan, made, dataset) in enumerate(
        zip((plans["before 1"], plans["before 2"]), world.made, world.datasets, strict=True), start=1
    ):
        assert (plan.version, plan.registered, plan.run_id) == (number, False, None)
        assert made.version == number
        assert plan.rows == dataset.rows
        assert all(job.endswith(", new") for job in plan.jobs.values())
        assert made.bundle is not None
        assert made.bundle.manifest.training.data_fingerprint == plan.shipped_fingerprint
        assert (world.settings.jobs / plan.jobs["shipped"].partition(",")[0] / "model").is_dir()
        again = planned(world.settings, dataset)
        assert (again.version, again.registered, again.run_id) == (number, True, made.run_id)
        assert all(job.endswith("done: it is found again") for job in again.jobs.values())
    assert (plans["before 1"].champion, plans["before 1"].then) == (None, "it enters service")
    assert (plans["before 2"].champion, plans["before 2"].then) == (1, "it goes on trial beside version 1")
    assert planned(world.settings, world.datasets[0]).then == "it is in the rollout already"
    other = plan_training(
        world.settings, "mf", world.datasets[0], SILENT, base=dataclasses.replace(CONFIG, factors=5), enters=False
    )
    assert (other.version, other.registered, other.then) == (3, False, "it is exported, and waits")


def test_a_page_of_each_run_lies_in_the_home(world: World) -> None:
    for made in world.made:
        assert made.report == world.settings.reports / "mf" / f"training-{made.version}.html"
        page = made.report.read_text()
        assert made.bundle is not None
        assert made.bundle.manifest.training.data_fingerprint in page


def test_the_older_version_is_asked_about_rows_that_it_has_not_learned_from(world: World, tmp_path: Path) -> None:
    """The comparison's numbers, computed again by hand from what lies on disk."""
    result = compare(world.settings, "mf", 1, 2, Silent(), resamples=200)
    path = fetch_file(world.settings, world.made[1].run_id, "evaluation/answers.parquet", tmp_path)
    assert path is not None
    answers = read_answers(path)
    assert world.made[0].bundle is not None
    learned = read_split(world.datasets[0], "train").to_pandas()
    for split in ("valid", "test"):  # a version for service learns these too
        learned = learned.merge(read_split(world.datasets[0], split).to_pandas(), how="outer")
    known = set(zip(learned["user_id"], learned["item_id"], strict=True))
    kept = np.array([p not in known for p in zip(answers.tensors["user_id"], answers.tensors["item_id"], strict=True)])
    errors = [
        predicted - answers.actual
        for predicted in (bundle_answers(world.made[0].bundle, answers.tensors), answers.predicted)
    ]
    rmse = result.differences[0]
    assert (result.rows, result.left_out) == (kept.sum(), (~kept).sum())
    assert rmse.a == pytest.approx(np.sqrt(np.mean(errors[0][kept] ** 2)), rel=1e-5)
    assert rmse.b == pytest.approx(np.sqrt(np.mean(errors[1][kept] ** 2)), rel=1e-5)
    assert result.data_of == 2
    assert result.clusters == len(set(answers.tensors["user_id"][kept]))


def test_sides_change_signs_and_nothing_else(world: World) -> None:
    there, back = (compare(world.settings, "mf", a, b, Silent(), resamples=200) for a, b in ((1, 2), (2, 1)))
    for one, other in zip(there.differences, back.differences, strict=True):
        assert (one.a, one.b, one.delta) == (other.b, other.a, -other.delta)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert {there.verdict, back.verdict} in ({"better", "worse"}, {"no difference shown"})
    with pytest.raises(ConfigurationError, match="got 1 twice"):
        compare(world.settings, "mf", 1, 1, Silent(), resamples=200)


def test_promoting_asks_the_gate_beside_the_champion_of_today(world: World) -> None:
    both = metrics_side_by_side(world.settings, "mf", 1, 2)
    assert both is not None
    with put_back(world):
        promote(world.settings, "mf", 2, role="champion", reason="newer data", reporter=SILENT, force=False)
        entry = Ledger(world.settings.ledger).latest("mf", "gate")[0]
        assert entry.summary.startswith("version 2 passed beside version 1: rmse")
        assert (entry.payload["champion"], entry.payload["metrics"]) == both
        registry = Registry(world.settings)
        assert registry.champion("mf") == read_rollout(world.settings.rollouts, "mf").stable == 2
        roll_back(world.settings, "mf", reason="only a test")
        assert registry.champion("mf") == read_rollout(world.settings.rollouts, "mf").stable == 1


def test_the_registry_knows_what_is_archived(world: World) -> None:
    set_archived(world.settings, "mf", 2, archived=True, reason="for a while")
    registry = Registry(world.settings)
    try:
        assert registry.info("mf", 2).tags["driftwheel.archived"] == "for a while"
        assert planned(world.settings, world.datasets[1]).then == "it stays archived"
        assert enter(world.settings, world.made[1], by="test")[0] == "archived"
    finally:
        set_archived(world.settings, "mf", 2, archived=False, reason="")
    assert "driftwheel.archived" not in registry.info("mf", 2).tags


def test_a_version_is_described_with_its_lineage(world: World) -> None:
    facts = describe(world.settings, "mf", 2)
    assert facts["run_id"] == world.made[1].run_id
    assert facts["metrics"]["rmse"] == pytest.approx(world.made[1].metrics["rmse"])
    assert facts["data"].keys() == {"training", "evaluation"}
    assert world.datasets[1].fingerprint[:32] in facts["data"]["evaluation"]
    assert facts["parameters"]["factors"] == "4"
    assert (
        facts["description"].endswith(f"test rmse {world.made[1].metrics['rmse']:.4f}")
        or "rmse" in facts["description"]
    )


def test_who_knows_what_came_after_the_rows_is_not_compared(world: World) -> None:
    registry = Registry(world.settings)
    until = registry.info("mf", 1).tags["data_until"]
    at = read_split(world.datasets[1], "test")["at"].to_numpy()
    later = datetime.fromtimestamp(int(np.sort(at)[len(at) // 2]), UTC).isoformat()
    registry.set_tag("mf", 1, "data_until", later)
    try:
        with pytest.raises(DataError, match="50% of the test rows of version 2 are from before that"):
            compare(world.settings, "mf", 1, 2, Silent(), resamples=200)
        assert metrics_side_by_side(world.settings, "mf", 1, 2) is None
    finally:
        registry.set_tag("mf", 1, "data_until", until)


def run(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    return called(world.settings.home, *words)


def test_the_commands_say_the_same(world: World) -> None:
    done = run(world, "models", "compare", "mf", "champion", "2", "--resamples", "200", "--json")
    expected = compare(world.settings, "mf", 1, 2, Silent(), resamples=200)
    assert json.loads(done.stdout)["differences"] == [dataclasses.asdict(one) for one in expected.differences]
    assert done.returncode == {"better": 0, "no difference shown": 10, "worse": 11}[expected.verdict], done.stderr
    shown = run(world, "models", "compare", "mf", "1", "2", "--resamples", "200")
    assert f"by rmse: {expected.verdict}" in shown.stdout
    assert json.loads(run(world, "models", "show", "mf", "--json").stdout)["version"] == 1


def test_a_dry_run_trains_nothing_and_says_so(world: World) -> None:
    before = sorted(world.settings.jobs.iterdir())
    words = ("--ratings", world.source.path or "", "--dry-run", "--no-tuned")
    done = run(world, "train", "mf", *words, "--json")
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["registered"], plan["then"]) == (0, False, "it is exported, and waits"), done.stderr
    assert plan["config"] == config_fields(default_config("rating"))
    shown = run(world, "train", "mf", *words, "--enter").stdout
    assert "nothing was trained" in shown
    assert "it goes on trial beside version 1" in shown
    again = run(world, "retrain", "mf", *words, "--json")
    assert json.loads(again.stdout)["config"]["factors"] == CONFIG.factors, again.stderr
    assert sorted(world.settings.jobs.iterdir()) == before
    assert not (world.settings.home / "sources.json").exists()


def test_what_stands_in_the_way_of_a_comparison_is_said(world: World, tmp_path: Path) -> None:
    client = open_client(world.settings)
    away = world.datasets[0].folder.with_name("away")
    learned = world.made[0].bundle
    assert learned is not None
    full = world.settings.data / "ratings" / learned.manifest.training.data_fingerprint[:16]
    full.rename(away)
    try:
        with pytest.raises(DataError, match="no prepared dataset under"):
            compare(world.settings, "mf", 1, 2, Silent(), resamples=200)
        assert metrics_side_by_side(world.settings, "mf", 1, 2) is None
    finally:
        away.rename(full)
    artifacts = Path(client.get_run(world.made[1].run_id).info.artifact_uri.removeprefix("file://")) / "evaluation"
    shutil.move(artifacts, tmp_path / "evaluation")
    try:
        with pytest.raises(TrainingError, match="the run of version 2 of mf has no answers"):
            compare(world.settings, "mf", 1, 2, Silent(), resamples=200)
    finally:
        shutil.move(tmp_path / "evaluation", artifacts)


@pytest.fixture(scope="module")
def ranker(world: World) -> TrackedVersion:
    """Version 3, which is trained to rank on the data of version 2. It waits for its export."""
    config = IalsConfig(epochs=2, factors=4, half_life=0.0)
    with in_this_process():
        made = train_version(world.settings, "mf", world.datasets[1], SILENT, base=config)
    assert made.version == 3
    return made


def ndcg(listed: list[str], relevant: set[str]) -> float:
    gains = [1 / np.log2(place + 2) for place, item in enumerate(listed[:10]) if item in relevant]
    return sum(gains) / sum(1 / np.log2(place + 2) for place in range(min(10, len(relevant))))


def test_lists_of_the_same_rows_are_those_on_record(world: World, ranker: TrackedVersion) -> None:
    """One that predicts ratings beside one that ranks: their runs have measured both."""
    result = compare(world.settings, "mf", 2, 3, Silent(), resamples=200)
    found = {one.metric: one for one in result.differences}
    for name in ("ndcg_at_10", "recall_at_20", "mrr_at_10", "map_at_20", "hit_rate_at_10", "coverage_at_20"):
        assert found[name].a == pytest.approx(world.made[1].metrics[name])
        assert found[name].b == pytest.approx(ranker.shipped.metrics[name])
    assert (result.metric, result.judged_by, result.left_out) == ("ndcg_at_10", "rankings", 0)
    assert metrics_side_by_side(world.settings, "mf", 3, 2) is None
    both = metrics_side_by_side(world.settings, "mf", 2, 3)
    assert both is not None
    assert both[1]["ndcg_at_10"] == pytest.approx(ranker.shipped.metrics["ndcg_at_10"])


def test_the_older_version_ranks_what_neither_has_learned(world: World, ranker: TrackedVersion, tmp_path: Path) -> None:
    """The comparison's NDCG, computed again user by user from what lies on disk."""
    result = compare(world.settings, "mf", 1, 3, Silent(), resamples=200)
    files = [
        fetch_file(world.settings, ranker.run_id, f"evaluation/{name}.parquet", tmp_path)
        for name in ("rankings", "ranked_items")
    ]
    assert files[0] is not None
    assert files[1] is not None
    record, older = read_rankings(files[0], files[1]), world.made[0].bundle
    assert older is not None
    newer_train, older_train = (
        {*zip(*(read_split(dataset, "train")[name].to_pylist() for name in ("user_id", "item_id")), strict=True)}
        for dataset in (refit_dataset(world.datasets[1], keep_test=True), refit_dataset(world.datasets[0]))
    )
    test = {
        *zip(*(read_split(world.datasets[1], "test")[name].to_pylist() for name in ("user_id", "item_id")), strict=True)
    }
    known = older.vocabularies()
    users, items = (np.load(older.path(file)) for file in (USER_FACTORS, ITEM_FACTORS))
    values: list[tuple[float, float]] = []
    rows = 0
    for row, user in enumerate(record.users):
        struck = {item for item in known["item_id"].entries if (user, item) in test & older_train}
        relevant = set(record.items[record.relevant.item[record.relevant.row == row]]) - struck
        if not relevant or not known["user_id"].index(user):
            continue
        vector = users[known["user_id"].index(user)]
        order = np.argsort(-(items[:, :-1] @ vector[:-1] + items[:, -1]))
        first = [known["item_id"].entries[place] for place in order]
        first = [item for item in first if (user, item) not in newer_train and item not in struck]
        second = [item for item in record.items[record.ranked[row][record.ranked[row] >= 0]] if item not in struck]
        values.append((ndcg(first, relevant), ndcg(second, relevant)))
        rows += len(relevant)
    headline = next(one for one in result.differences if one.metric == "ndcg_at_10")
    assert (headline.a, headline.b) == pytest.approx(tuple(np.mean(values, axis=0)), abs=1e-6)
    assert (result.clusters, result.rows) == (len(values), rows)
    assert result.left_out > 0
    assert rows + result.left_out == len(record.relevant.row)
    back = compare(world.settings, "mf", 3, 1, Silent(), resamples=200)
    assert {result.verdict, back.verdict} in ({"better", "worse"}, {"no difference shown"})


def test_the_command_shows_lists_and_says_when_there_are_none(
    world: World, ranker: TrackedVersion, tmp_path: Path
) -> None:
    expected = compare(world.settings, "mf", 2, 3, Silent(), resamples=200)
    words = ["--home", str(world.settings.home), "models", "compare", "mf", "2", "3", "--resamples", "200"]
    shown = CliRunner().invoke(app, words)
    assert f"version 3 beside version 2, by ndcg_at_10: {expected.verdict}" in shown.output
    assert f"{expected.rows} high ratings among the test rows of version 3" in shown.output
    assert shown.exit_code == {"better": 0, "no difference shown": 10, "worse": 11}[expected.verdict]
    uri = open_client(world.settings).get_run(ranker.run_id).info.artifact_uri
    record = Path(uri.removeprefix("file://")) / "evaluation" / "rankings.parquet"
    shutil.move(record, tmp_path)
    try:
        with pytest.raises(
            TrainingError, match="the run of version 3 of mf has no rankings of its test split"
        ) as caught:
            compare(world.settings, "mf", 2, 3, Silent(), resamples=200)
        assert "train again" in (caught.value.hint or "")
        assert metrics_side_by_side(world.settings, "mf", 2, 3) is None
    finally:
        shutil.move(tmp_path / "rankings.parquet", record)
