import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from driftwheel.errors import DataError
from tests.training.samples import CUT, small_table
from training.data.dataset import Dataset, encoded_split, read_dataset
from training.data.ratings import prepare_ratings, ratings_after
from training.data.sources import RatingsSource


def frame(dataset: Dataset, file: str) -> pd.DataFrame:
    return pq.read_table(dataset.path(file)).to_pandas()


@pytest.fixture
def source(tmp_path: Path) -> RatingsSource:
    small_table(300).to_csv(tmp_path / "small.csv", index=False)
    return RatingsSource(path=str(tmp_path / "small.csv"))


def test_the_split_follows_time(ratings: Dataset):
    train, valid, test = (frame(ratings, f"{name}.parquet") for name in ("train", "valid", "test"))
    assert train["at"].max() <= valid["at"].min()
    assert valid["at"].max() <= test["at"].min()
    assert test["at"].max() < pd.Timestamp(CUT, tz="UTC").timestamp()
    reference = frame(ratings, "reference.parquet")
    assert ratings.rows == {
        "train": len(train),
        "valid": len(valid),
        "test": len(test),
        "reference": len(reference),
    }


def test_the_reference_is_drawn_from_the_training_period_and_not_trained_on(ratings: Dataset):
    train, reference = frame(ratings, "train.parquet"), frame(ratings, "reference.parquet")
    assert train["at"].min() <= reference["at"].min()
    assert reference["at"].max() <= frame(ratings, "valid.parquet")["at"].min()
    assert reference["at"].median() < train["at"].quantile(0.6)
    assert len(train.merge(reference, on=["user_id", "item_id"])) == 0
    assert ratings.data_until == "2012-06-04T16:26:35+00:00"


def test_features_and_vocabularies_know_the_training_split_only(ratings: Dataset):
    train = frame(ratings, "train.parquet")
    vocabularies = ratings.read_vocabularies()
    for column in ("user_id", "item_id"):
        assert list(vocabularies[column].entries) == sorted(train[column].unique())
    users, items = frame(ratings, "user_features.parquet"), frame(ratings, "item_features.parquet")
    expected = train.groupby("user_id")["rating"].agg(["mean", "size"])
    np.testing.assert_allclose(users["avg_rating"], expected["mean"])
    np.testing.assert_array_equal(users["rating_count"], expected["size"])
    np.testing.assert_array_equal(users["unique_items"], train.groupby("user_id")["item_id"].nunique())
    np.testing.assert_array_equal(items["unique_users"], train.groupby("item_id")["user_id"].nunique())
    catalogue = frame(ratings, "items.parquet")
    np.testing.assert_array_equal(catalogue["item_id"], vocabularies["item_id"].entries)
    np.testing.assert_array_equal(catalogue["popularity"], train.groupby("item_id").size())


def test_changing_the_test_split_changes_no_feature(tmp_path: Path):
    datasets = []
    for rating in (0.75, 1.25):  # said by nobody before, so that each is a new rating
        table = small_table(300)
        table.loc[table.index[-30:], "rating"] = rating
        path = tmp_path / f"{rating}.csv"
        table.to_csv(path, index=False)
        datasets.append(prepare_ratings(RatingsSource(path=str(path)), tmp_path / "data"))
    first, second = datasets
    assert first.fingerprint != second.fingerprint
    for file in ("train.parquet", "user_features.parquet", "item_features.parquet", "items.parquet"):
        pd.testing.assert_frame_equal(frame(first, file), frame(second, file))


def test_ids_of_the_test_split_alone_are_unknown(ratings: Dataset):
    known = set(frame(ratings, "train.parquet")["user_id"])
    test = frame(ratings, "test.parquet")
    np.testing.assert_array_equal(
        encoded_split(ratings, "test").feed["user_index"] == 0, [user not in known for user in test["user_id"]]
    )


def test_the_newest_rating_of_a_pair_counts(tmp_path: Path):
    table = small_table(200)
    repeated = table.iloc[[0]].assign(rating=5.0, timestamp=2_000_000_000)
    pd.concat([repeated, table]).to_csv(tmp_path / "x.csv", index=False)
    dataset = prepare_ratings(RatingsSource(path=str(tmp_path / "x.csv")), tmp_path / "data")
    rows = pd.concat([frame(dataset, f"{name}.parquet") for name in ("train", "valid", "test")])
    assert not rows.duplicated(["user_id", "item_id"]).any()
    assert rows.iloc[-1][["rating", "at"]].tolist() == [5.0, 2_000_000_000]
    assert dataset.dropped["rated again later"] >= 1


def test_the_same_rating_once_more_is_nothing_new(source: RatingsSource, tmp_path: Path):
    """Old traffic replayed into the log must not become the newest rows."""
    first = prepare_ratings(source, tmp_path / "data")
    replayed = pd.concat([frame(first, f"{name}.parquet") for name in ("train", "valid", "test", "reference")])
    replayed = replayed.assign(at=1_900_000_000 + np.arange(len(replayed)))
    assert prepare_ratings(source, tmp_path / "data", feedback=replayed).fingerprint == first.fingerprint


def test_preparing_again_finds_what_is_there(source: RatingsSource, tmp_path: Path):
    first = prepare_ratings(source, tmp_path / "data")
    before = first.path("dataset.json").stat().st_mtime_ns
    assert prepare_ratings(source, tmp_path / "data") == first == read_dataset(first.folder)
    assert first.path("dataset.json").stat().st_mtime_ns == before


def test_the_fingerprint_covers_rows_titles_and_split(source: RatingsSource, tmp_path: Path):
    table = small_table(300)
    table.assign(title="Other").to_csv(tmp_path / "titles.csv", index=False)
    variants = [
        prepare_ratings(source, tmp_path / "data"),
        prepare_ratings(source, tmp_path / "data", test_share=0.2),
        prepare_ratings(source, tmp_path / "data", until="2001-09-09T01:50:00"),
        prepare_ratings(dataclasses.replace(source, path=str(tmp_path / "titles.csv")), tmp_path / "data"),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)


def test_feedback_joins_and_wins_ties(source: RatingsSource, tmp_path: Path):
    first = small_table(300).iloc[-1]
    feedback = pd.DataFrame(
        {
            "user_id": ["new", first["user_id"]],
            "item_id": ["i1", first["item_id"]],
            "rating": [4.5, 1.0],
            "at": [1_900_000_000, first["timestamp"]],
        }
    )
    dataset = prepare_ratings(source, tmp_path / "data", until="2020-01-01", feedback=feedback)
    test = frame(dataset, "test.parquet")
    assert test.iloc[-1]["user_id"] == "new"
    pair = test[(test["user_id"] == first["user_id"]) & (test["item_id"] == first["item_id"])]
    assert pair["rating"].tolist() == [1.0]


def test_feedback_of_the_wrong_kind(ratings: Dataset, tmp_path: Path):
    feedback = pd.DataFrame({"user_id": ["text"], "item_id": ["x"], "rating": [4.0], "at": [1]})
    with pytest.raises(DataError, match="does not fit"):
        prepare_ratings(RatingsSource(), tmp_path, feedback=feedback)
    with pytest.raises(DataError, match="no column 'at'"):
        prepare_ratings(RatingsSource(), tmp_path, feedback=feedback.drop(columns="at"))


def test_the_cut_divides_training_from_replay(source: RatingsSource, tmp_path: Path):
    cut = "2001-09-09T01:50:00"
    before = prepare_ratings(source, tmp_path / "data", until=cut)
    after = ratings_after(source, cut)
    whole = prepare_ratings(source, tmp_path / "data")
    assert after["at"].is_monotonic_increasing
    assert sum(before.rows.values()) + before.dropped.get("rated again later", 0) + len(after) == 300
    assert sum(whole.rows.values()) == 300 - whole.dropped["rated again later"]


@pytest.mark.parametrize(
    ("until", "word"), [("1990-01-01", "no rating lies before"), ("soon", "not an ISO 8601"), (CUT, "too few")]
)
def test_bad_cuts(tmp_path: Path, until: str, word: str):
    rows = small_table(3)
    rows.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=word):
        prepare_ratings(RatingsSource(path=str(tmp_path / "x.csv")), tmp_path / "data", until=until)


def test_no_cut_without_times(source: RatingsSource, tmp_path: Path):
    source = dataclasses.replace(source, time_column=None)
    assert prepare_ratings(source, tmp_path / "data").data_until is None
    with pytest.raises(DataError, match="without times"):
        ratings_after(source, CUT)


def test_an_unfinished_folder_is_no_dataset(tmp_path: Path):
    with pytest.raises(DataError, match="no prepared dataset"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_dataset(tmp_path)
