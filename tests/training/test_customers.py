from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from driftwheel.errors import DataError
from training.data.customers import prepare_customers
from training.data.dataset import Dataset, encoded_split
from training.data.sources import CustomersSource

SPLITS = ("train", "valid", "test", "live")


def frame(dataset: Dataset, split: str) -> pd.DataFrame:
    return pq.read_table(dataset.path(f"{split}.parquet")).to_pandas()


def test_every_customer_is_in_one_split(customers: Dataset):
    ids = pd.concat([frame(customers, split)["customer_id"] for split in SPLITS])
    assert sorted(ids) == list(range(1, 7044))
    rates = [frame(customers, split)["churned"].mean() for split in SPLITS]
    assert max(rates) - min(rates) < 0.05


def test_vocabularies_know_the_training_split_only(customers: Dataset):
    train = frame(customers, "train")
    for name, vocabulary in customers.read_vocabularies().items():
        assert list(vocabulary.entries) == sorted(train[name].dropna().unique())


def test_an_unknown_or_missing_category_is_index_0(tmp_path: Path):
    rows = 200
    table = pd.DataFrame(
        {
            "plan": ["a", "b", "", "c"] * 50,
            "spend": [1.0, None, 3.0, 4.0] * 50,
            "churn": ["Yes", "No", "No", "No", "Yes"] * 40,
        }
    )
    table.to_csv(tmp_path / "x.csv", index=False)
    dataset = prepare_customers(CustomersSource(path=str(tmp_path / "x.csv")), tmp_path / "data")
    assert dataset.read_vocabularies()["plan"].entries == ("a", "b", "c")
    feed = encoded_split(dataset, "train").feed
    assert (feed["category"] == 0).mean() == pytest.approx(0.25, abs=0.1)
    assert np.isnan(feed["number"]).any()
    assert sum(dataset.rows.values()) == rows


def test_the_same_seed_prepares_the_same(customers: Dataset, shared_home: Path, tmp_path: Path):
    assert prepare_customers(CustomersSource(), shared_home / "data") == customers
    assert prepare_customers(CustomersSource(), tmp_path, seed=1).fingerprint != customers.fingerprint


def test_feedback_is_split_and_leaves_the_rest_in_place(customers: Dataset, tmp_path: Path):
    live = frame(customers, "live")
    feedback = pd.concat([live.head(300), live.head(10)])
    later = prepare_customers(CustomersSource(), tmp_path, feedback=feedback)
    distinct = len(live.head(300).drop(columns=["customer_id", "churned"]).drop_duplicates())
    before = sum(customers.rows[split] for split in ("train", "valid", "test"))
    assert sum(later.rows[split] for split in ("train", "valid", "test")) == before + distinct
    for split in ("train", "valid", "test"):
        whole = frame(later, split).head(customers.rows[split]).drop(columns="customer_id")
        pd.testing.assert_frame_equal(whole, frame(customers, split).drop(columns="customer_id"))


def test_a_customer_keeps_its_split_for_ever(customers: Dataset, tmp_path: Path):
    """Whatever else has come, in whatever order, in the single precision that the log keeps."""
    live = frame(customers, "live").drop(columns="customer_id")
    early = live.head(200)
    late = live.sample(frac=1.0, random_state=1)
    splits = []
    for number, feedback in enumerate((early, late)):
        dataset = prepare_customers(CustomersSource(), tmp_path / str(number), feedback=feedback)
        rows = pd.concat([frame(dataset, split).assign(split=split) for split in ("train", "valid", "test")])
        splits.append(rows[rows["customer_id"].isna()].drop(columns="customer_id"))
    both = splits[0].merge(splits[1], on=list(early.columns), suffixes=("_early", "_late"))
    assert len(both) >= 195
    assert (both["split_early"] == both["split_late"]).all()


def test_feedback_must_fit(customers: Dataset, tmp_path: Path):
    feedback = frame(customers, "live").head(5)
    with pytest.raises(DataError, match="no column 'tenure'"):
        prepare_customers(CustomersSource(), tmp_path, feedback=feedback.drop(columns="tenure"))
    with pytest.raises(DataError, match="does not fit"):
        prepare_customers(CustomersSource(), tmp_path, feedback=feedback.assign(tenure="long"))


def test_too_few_of_a_class(tmp_path: Path):
    table = pd.DataFrame({"spend": range(50), "churn": ["Yes"] * 2 + ["No"] * 48})
    table.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match="2 customers with churned = 1 are too few"):
        prepare_customers(CustomersSource(path=str(tmp_path / "x.csv")), tmp_path / "data")


def test_no_feedback_yet_is_as_good_as_none(customers: Dataset, shared_home: Path):
    nothing = pd.DataFrame({"churned": pd.Series(dtype="float32")})
    again = prepare_customers(CustomersSource(), shared_home / "data", feedback=nothing)
    assert again.fingerprint == customers.fingerprint
