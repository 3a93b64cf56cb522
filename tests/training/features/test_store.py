"""A real Feast repository of the packaged tables: what serving reads is what training read, and no row knows its future."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from driftwheel.errors import DataError
from driftwheel.feature_store import FeatureSettings
from training.data.dataset import Dataset, public_tensors, read_split
from training.data.sources import CustomersSource, RatingsSource, read_customers, read_ratings
from training.features.offline import CUSTOMERS, ITEMS, USERS, write_history, write_snapshot
from training.features.store import FeatureRepository
from training.features.tables import KNOWN_AT, aggregate_rows, customer_rows

BUILT = datetime(2026, 3, 1, tzinfo=UTC)
SPLITS = ("train", "valid", "test", "live")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Offline files of the packaged tables, and one earlier snapshot in which every tenure is a month shorter."""
    folder = tmp_path_factory.mktemp("features")
    customers, ratings = read_customers(CustomersSource()), read_ratings(RatingsSource())
    write_snapshot(folder, customer_rows(customers, BUILT), BUILT)
    earlier = BUILT - timedelta(days=31)
    shorter = customers.assign(tenure=customers["tenure"] - 1)
    write_snapshot(folder, customer_rows(shorter, earlier), earlier)
    write_history(folder, USERS, aggregate_rows(ratings, "user_id", "item_id", "user_"))
    write_history(folder, ITEMS, aggregate_rows(ratings, "item_id", "user_id", "item_"))
    return folder


@pytest.fixture(scope="module")
def repository(folder: Path) -> FeatureRepository:
    repository = FeatureRepository(FeatureSettings(), folder)
    repository.apply()
    repository.materialize(BUILT)
    return repository


def test_what_is_online_is_bit_for_bit_what_training_read(repository: FeatureRepository, customers: Dataset) -> None:
    table = pa.concat_tables([read_split(customers, split) for split in SPLITS])
    trained = public_tensors(customers.signature, table)
    ids = [str(one) for one in table["customer_id"].to_pylist()]
    online = [
        row for start in range(0, len(ids), 1000) for row in repository.online(CUSTOMERS, ids[start : start + 1000])
    ]
    assert len(online) == 7043
    for spec in customers.signature.inputs:
        values = [row[spec.name] for row in online]
        if spec.datatype == "BYTES":
            assert values == trained[spec.name].tolist(), spec.name
        else:
            served = np.array([np.nan if value is None else value for value in values], np.float32)
            assert served.tobytes() == trained[spec.name].tobytes(), spec.name


def test_a_training_set_is_bit_for_bit_what_training_read(repository: FeatureRepository, customers: Dataset) -> None:
    table = pa.concat_tables([read_split(customers, split) for split in SPLITS])
    asked = pd.DataFrame({"customer_id": [str(one) for one in table["customer_id"].to_pylist()]})
    known = repository.as_known(asked.assign(**{KNOWN_AT: pd.Timestamp(BUILT)}), [CUSTOMERS])
    trained = public_tensors(customers.signature, table)
    for spec in customers.signature.inputs:
        if spec.datatype == "BYTES":
            assert [value if isinstance(value, str) else None for value in known[spec.name]] == trained[
                spec.name
            ].tolist()
        else:
            assert known[spec.name].to_numpy(np.float32).tobytes() == trained[spec.name].tobytes(), spec.name


def test_customers_are_known_as_they_were_then_and_for_so_long(repository: FeatureRepository) -> None:
    now = repository.online(CUSTOMERS, ["2"])[0]["tenure"]
    days = [-32, -31, -25, -23, -1, 0]
    moments = [pd.Timestamp(BUILT + timedelta(days=day)) for day in days]
    tenures = repository.as_known(pd.DataFrame({"customer_id": "2", KNOWN_AT: moments}), [CUSTOMERS])["tenure"]
    # Nothing before the first snapshot; then a week of it (max_age_s); nothing until the second.
    assert [None if np.isnan(one) else one for one in tenures] == [None, now - 1, now - 1, None, None, now]


def test_no_rating_is_joined_with_itself_or_its_future(repository: FeatureRepository) -> None:
    ratings = read_ratings(RatingsSource())
    sample = ratings.sample(100, random_state=7)
    keys = sample[["user_id", "item_id"]].assign(**{KNOWN_AT: pd.to_datetime(sample["at"], unit="s", utc=True)})
    known = repository.as_known(keys, [USERS, ITEMS])
    assert list(known.index) == list(sample.index)
    for column, prefix in (("user_id", "user_"), ("item_id", "item_")):
        rows = aggregate_rows(ratings, column, "item_id" if column == "user_id" else "user_id", prefix)
        for index, one in sample.iterrows():
            past = rows[
                (rows[column] == str(one[column])) & (rows[KNOWN_AT] <= pd.Timestamp(one["at"], unit="s", tz="UTC"))
            ]
            count = known.loc[index, f"{prefix}rating_count"]
            assert (np.isnan(count) and past.empty) or count == past[f"{prefix}rating_count"].iloc[-1]
            assert np.isnan(count) or count <= ((ratings[column] == one[column]) & (ratings["at"] < one["at"])).sum()


def test_what_is_pushed_is_online_at_once(repository: FeatureRepository) -> None:
    before = repository.online(ITEMS, ["318"])[0]
    fresh = pd.DataFrame(
        {"item_id": ["318"], "item_avg_rating": [1.5], "item_rating_count": [9], KNOWN_AT: [pd.Timestamp(BUILT)]}
    )
    repository.push(ITEMS, fresh)
    after = repository.online(ITEMS, ["318"])[0]
    assert (after["item_avg_rating"], after["item_rating_count"], after["known_at"]) == (1.5, 9, BUILT)
    repository.materialize(BUILT)
    assert repository.online(ITEMS, ["318"])[0] == before


def test_an_unknown_customer_has_nothing(repository: FeatureRepository) -> None:
    (row,) = repository.online(CUSTOMERS, ["nobody"])
    assert row.pop("customer_id") == "nobody"
    assert set(row.values()) == {None}


def test_a_repository_without_files_or_definitions_says_so(tmp_path: Path) -> None:
    empty = FeatureRepository(FeatureSettings(), tmp_path / "features")
    for ask in (empty.apply, lambda: empty.materialize(BUILT), lambda: empty.online(USERS, ["1"])):
        with pytest.raises(DataError, match=r"no features"):
            ask()


def test_a_snapshot_with_other_columns_is_refused(tmp_path: Path) -> None:
    rows = customer_rows(pd.DataFrame({"plan": ["x", "y"], "churned": [0.0, 1.0], "customer_id": ["a", "b"]}), BUILT)
    write_snapshot(tmp_path, rows, BUILT)
    write_snapshot(tmp_path, rows, BUILT)
    with pytest.raises(DataError, match="differ from those of .*: colour"):
        write_snapshot(tmp_path, rows.assign(colour="red"), BUILT + timedelta(days=1))


def test_feast_leaves_a_process_and_its_metrics_as_they_were(tmp_path: Path) -> None:
    code = (
        "import os; before = dict(os.environ); from driftwheel.feature_store import import_feast\n"
        "assert import_feast().FeatureStore\n"
        "from prometheus_client import Counter, generate_latest; assert dict(os.environ) == before\n"
        "Counter('ours', 'x').inc(); assert b'ours_total 1.0' in generate_latest()\n"
        "os._exit(0)"  # as a process that is ended, without its last functions
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (0, []), done.stderr
