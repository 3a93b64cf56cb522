"""``driftwheel features``, from two tables and a prediction log to what is online and what is trained on."""

import asyncio
import gc
import json
import sqlite3
import sys
from collections.abc import Generator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from driftwheel.cli import app
from driftwheel.errors import BusyError, DataError
from driftwheel.feature_store import FeatureSettings
from driftwheel.files import exclusive_lock
from driftwheel.settings import load_settings
from driftwheel.wheel import features
from driftwheel.wheel.sources import Sources
from monitoring.metrics import ServingMetrics
from serving.features import Fetched, OnlineFeatures
from tests.monitoring.worlds import RATING, START, log_rows, write_feedback, write_sealed
from tests.training.tuning import servers
from training.data.customers import prepare_customers
from training.data.dataset import read_split
from training.data.sources import CustomersSource, RatingsSource, read_customers
from training.features.offline import snapshot_moment, snapshots, write_snapshot
from training.features.store import FeatureRepository
from training.features.tables import customer_rows

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a table of five ratings, the packaged customers, and one labelled prediction in its log."""
    home = tmp_path_factory.mktemp("home")
    began = int((START - 10 * DAY).timestamp())
    rated = [
        (1, 10, 4.0, 0),
        (1, 20, 2.0, 60),
        (1, 30, 3.0, 3 * 86_400),
        (2, 10, 5.0, 86_400),
        (2, 20, 1.0, 2 * 86_400),
    ]
    table = pd.DataFrame(rated, columns=["user_id", "item_id", "rating", "timestamp"])
    table.assign(timestamp=table["timestamp"] + began).to_csv(home / "ratings.csv", index=False)
    inputs = pd.DataFrame({"in_user_id": [1, 2], "in_item_id": [10, 30], "out_rating": [3.0, 3.0]})
    write_sealed(home / "log", "mf", 1, log_rows(inputs, RATING))
    write_feedback(home / "log", "mf", ["p0000000"], [1.0])
    return home


def run(home: Path, *words: str, **environment: str) -> str:
    done = CliRunner().invoke(app, ["--home", str(home), *words], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def built(home: Path) -> dict[str, Any]:
    long_ago = START - 1000 * DAY
    write_snapshot(home / "features", customer_rows(read_customers(CustomersSource()), long_ago), long_ago)
    words = ["features", "build", "--ratings", str(home / "ratings.csv"), "--at", START.isoformat(), "--json"]
    answer = json.loads(run(home, *words, DRIFTWHEEL_FEATURES__KEEP_DAYS="30"))
    run(home, "features", "materialize")
    return answer


def online(home: Path, view: str, *ids: str) -> list[dict[str, Any]]:
    return json.loads(run(home, "features", "get", view, *ids, "--json"))


def test_each_day_with_ratings_is_a_row_and_the_log_counts(home: Path, built: dict[str, Any]) -> None:
    # User 1: days 0 and 3 and the label's; user 2: days 1 and 2.
    assert built == {"customers": 7043, "users": 5, "items": 6, "learned": 1, "expired": 1}
    assert [snapshot_moment(path) for path in snapshots(home / "features")] == [START]
    one, two, nobody = online(home, "users", "1", "2", "3")
    # The label took the place of the 4 that user 1 had given item 10.
    assert (one["user_avg_rating"], one["user_rating_count"]) == ((2.0 + 3.0 + 1.0) / 3, 3)
    assert pd.Timestamp(one["known_at"]) == pd.Timestamp(START) + pd.Timedelta(seconds=1)
    assert (two["user_avg_rating"], two["user_rating_count"]) == (3.0, 2)
    assert (nobody["known_at"], nobody["user_rating_count"]) == (None, None)


def test_a_push_brings_fresh_labels_online(home: Path, built: dict[str, Any]) -> None:
    write_feedback(home / "log", "mf", ["p0000001"], [5.0], stem="20260101T000000-1-1")
    tables = ["--ratings", str(home / "ratings.csv")]
    pushed = json.loads(run(home, "features", "push", *tables, "--json"))
    assert pushed == {"users": 2, "items": 2, "learned": 2}
    (two,) = online(home, "users", "2")
    assert (two["user_avg_rating"], two["user_rating_count"]) == pytest.approx((11 / 3, 3))
    run(home, "features", "materialize")
    assert online(home, "users", "2") == [two]


def test_the_past_can_be_brought_online(home: Path, built: dict[str, Any]) -> None:
    run(home, "features", "materialize", "--until", (START - 9 * DAY).isoformat())
    (one,) = online(home, "users", "1")
    assert (one["user_avg_rating"], one["user_rating_count"]) == (3.0, 2)
    run(home, "features", "materialize")


def test_a_rating_is_joined_with_what_was_known_before_it(home: Path, built: dict[str, Any], tmp_path: Path) -> None:
    tables = ["--ratings", str(home / "ratings.csv")]
    run(home, "features", "training-set", "rating", str(tmp_path / "r.parquet"), *tables)
    rows = pd.read_parquet(tmp_path / "r.parquet")
    assert rows[["user_id", "item_id"]].to_numpy().tolist() == [[1, 10], [1, 20], [1, 30], [2, 10], [2, 20]]
    assert rows["user_rating_count"].fillna(0).tolist() == [0, 0, 2, 0, 1]
    assert rows["item_rating_count"].fillna(0).tolist() == [0, 0, 0, 1, 1]
    assert rows["item_avg_rating"].fillna(0).tolist() == [0, 0, 0, 4, 2]


def test_training_on_the_store_is_training_on_the_table(home: Path, built: dict[str, Any], tmp_path: Path) -> None:
    run(home, "features", "training-set", "churn", str(tmp_path / "c.parquet"))
    plain = prepare_customers(CustomersSource(), tmp_path / "data")
    source = CustomersSource(path=str(tmp_path / "c.parquet"), id_column="customer_id")
    stored = prepare_customers(source, tmp_path / "data")
    assert stored.signature == plain.signature
    known = {name: vocabulary.entries for name, vocabulary in plain.read_vocabularies().items()}
    assert {name: vocabulary.entries for name, vocabulary in stored.read_vocabularies().items()} == known
    for split in ("train", "valid", "test", "live"):
        columns = [spec.name for spec in plain.signature.inputs] + ["churned"]
        assert read_split(stored, split).select(columns).equals(read_split(plain, split).select(columns)), split


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["get", "films", "1"], "VIEW must be one of customers, users, items, got 'films'"),
        (["materialize", "--until", "soon"], "--until must be an ISO 8601"),
        (["training-set", "drift", "x.parquet"], "TASK must be churn or rating"),
        (["training-set", "churn", "x.csv"], "FILE must end in .parquet"),
        (["build", "--customers", "x.csv"], "looked up by the customer's id"),
        (["build", "--time-column", "", "--ratings", "x.csv"], "need to know when they rated"),
        (["materialize"], "no features have been registered"),
    ],
)
def test_what_cannot_be_done_says_why(tmp_path: Path, words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["--home", str(tmp_path), "features", *words])
    assert says in str(done.exception), done.output


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """A bucket of an S3 of one's own, found as Amazon's tools find it."""
    keys = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}
    port = servers.free_port()
    with servers.running([sys.executable, "-m", "moto.server", "-p", str(port)], port, tmp_path / "s3.log"):
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="features")
        client.close()
        yield "s3://features/registry.db"


@pytest.mark.system
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Feast leaves its temporary files to the collector
def test_definitions_in_a_store_reach_a_home_of_its_own(
    home: Path, built: dict[str, Any], tmp_path: Path, bucket: str
) -> None:
    other = tmp_path / "features"
    other.mkdir()
    source, copy = (sqlite3.connect(folder / "online.sqlite") for folder in (home / "features", other))
    with closing(source), closing(copy):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    shared = FeatureSettings(serve=True, registry=bucket)
    repository = FeatureRepository(shared, home / "features")
    with pytest.raises(DataError, match="no features have been registered in s3://"):
        repository.materialize(START)
    repository.apply()

    async def ask() -> Fetched:
        store = OnlineFeatures(shared, other, ServingMetrics(CollectorRegistry()), now_s=START.timestamp)
        await store.open()
        try:
            return await store.fetch([1, "2"], None)
        finally:
            store.close()

    fetched = asyncio.run(ask())
    expected = online(home, "customers", "1", "2")
    assert {name: [row[name] for row in expected] for name in fetched.columns} == fetched.columns
    assert sorted(path.name for path in other.iterdir()) == ["online.sqlite"]
    gc.collect()


def test_one_process_works_on_a_repository_at_a_time(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    with (
        exclusive_lock(settings.features_folder / "lock", purpose="a test"),
        pytest.raises(BusyError, match="work on the feature repository is already going on"),
    ):
        features.apply(settings)


def test_customers_without_ids_are_refused_before_work(tmp_path: Path) -> None:
    sources = Sources(ratings=RatingsSource(), customers=CustomersSource(path="absent.csv"))
    with pytest.raises(DataError, match="customer's id"):
        features.build(load_settings(home=tmp_path), sources, at=START)
    assert not (tmp_path / "features").exists()
