"""What tables from outside get wrong, through the functions and the command that train on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from driftwheel.errors import DataError
from tests.command_lines import called
from tests.training.samples import in_this_process, run_job, small_table
from training.config import BoostingConfig, ChurnConfig, RatingConfig
from training.data.customers import prepare_customers
from training.data.dataset import Dataset, encoded_split
from training.data.ratings import prepare_ratings
from training.data.sources import CustomersSource, RatingsSource


def customers(rows: int = 400, **columns: object) -> pd.DataFrame:
    random = np.random.default_rng(3)
    spend = random.normal(50, 20, rows)
    leaves = random.random(rows) < 1 / (1 + np.exp(-(spend - 60) / 10))
    base = {"plan": random.choice(["basic", "full"], rows), "spend": spend, "churn": np.where(leaves, "Yes", "No")}
    return pd.DataFrame(base | columns)


def prepared(table: pd.DataFrame, folder: Path, **changes: object) -> Dataset:
    table.to_csv(folder / "customers.csv", index=False)
    return prepare_customers(CustomersSource(path=str(folder / "customers.csv"), **changes), folder / "data")


@pytest.mark.parametrize(
    ("table", "words", "says"),
    [
        (customers().drop(columns="churn"), [], ["no column 'churn'", "plan, spend", "--label-column"]),
        (customers(churn="No"), [], ["label column 'churn' has no 'Yes'", "it has: 'No'"]),
        (customers(churn="Yes"), [], ["must have two classes"]),
        (customers(churn=["Yes"] * 2 + ["No"] * 398), [], ["2 customers with churned = 1 are too few to split"]),
        (customers(spend=["12 EUR"] * 3 + [1.0] * 397), [], ["column 'spend' holds '12 EUR' in row 1", "not a number"]),
        (customers().head(0), [], ["no valid customer"]),
        (customers(), ["--drop", "gone"], ["no column 'gone'", "--drop"]),
        (customers(), ["--drop", "churn"], ["'churn' is named by --label-column and --drop"]),
    ],
)
def test_customers_that_cannot_be_learned_from(tmp_path: Path, table: pd.DataFrame, words: list[str], says: list[str]):
    table.to_csv(tmp_path / "customers.csv", index=False)
    refused(tmp_path, ["train", "churn", "--customers", str(tmp_path / "customers.csv"), *words], says)


@pytest.mark.parametrize(
    ("table", "words", "says"),
    [
        (small_table(300).drop(columns="rating"), [], ["no column 'rating'", "--rating-column"]),
        (small_table(300).assign(rating=np.nan), [], ["no valid rating in 300 rows", "missing value"]),
        (small_table(300).assign(rating=7.0), [], ["no valid rating in 300 rows", "rating out of range"]),
        (
            small_table(3),
            [],
            ["3 ratings are too few to split into training, validation and test", "shares give 3, 0 and 0"],
        ),
        (small_table(300), ["--until", "1990-01-01"], ["no rating lies before 1990-01-01"]),
        (small_table(300).assign(user_id=None), [], ["no valid rating in 300 rows"]),
    ],
)
def test_ratings_that_cannot_be_learned_from(tmp_path: Path, table: pd.DataFrame, words: list[str], says: list[str]):
    table.to_csv(tmp_path / "ratings.csv", index=False)
    refused(tmp_path, ["train", "mf", "--ratings", str(tmp_path / "ratings.csv"), *words], says)


def test_one_column_is_not_two_things(tmp_path: Path):
    small_table(300).to_csv(tmp_path / "ratings.csv", index=False)
    with pytest.raises(DataError, match="'item_id' is named by --user-column and --item-column"):
        prepare_ratings(RatingsSource(path=str(tmp_path / "ratings.csv"), user_column="item_id"), tmp_path / "data")
    with pytest.raises(DataError, match="'spend' is named by --categorical and --numeric"):
        prepared(customers(), tmp_path, categorical=("spend",), numeric=("spend",))


def refused(folder: Path, words: list[str], says: list[str]) -> None:
    """One clear message and the exit code for data, before any job, run or version is made."""
    done = called(folder / "home", *words)
    message = " ".join(done.stderr.split())
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert all(word in message for word in says), message
    assert not {"jobs", "mlflow", "models"} & {path.name for path in (folder / "home").glob("*")}


def test_a_rating_without_a_value_or_an_infinite_one_is_left_out_and_counted(tmp_path: Path):
    table = small_table(300)
    table.loc[[3, 40], "rating"] = np.nan
    table.loc[[5, 6, 7], "rating"] = [np.inf, np.inf, -np.inf]
    table.to_csv(tmp_path / "ratings.csv", index=False)
    dataset = prepare_ratings(RatingsSource(path=str(tmp_path / "ratings.csv")), tmp_path / "data")
    assert (dataset.dropped["missing value"], dataset.dropped["infinite rating"]) == (2, 3)
    labels = np.concatenate([encoded_split(dataset, split).label for split in ("train", "valid", "test")])
    assert np.isfinite(labels).all()


def test_rows_that_were_prepared_from_another_file_are_reported_as_this_ones(tmp_path: Path):
    table, first, second = small_table(300), tmp_path / "first.csv", tmp_path / "second.csv"
    table.assign(rating=table["rating"].where(table.index != 3)).to_csv(first, index=False)
    table.assign(rating=table["rating"].where(table.index != 3, 7.0)).to_csv(second, index=False)
    missing, outside = (prepare_ratings(RatingsSource(path=str(path)), tmp_path / "data") for path in (first, second))
    assert missing.folder == outside.folder
    assert (missing.source, missing.dropped["missing value"]) == (str(first), 1)
    assert (outside.source, outside.dropped["rating out of range"]) == (str(second), 1)
    assert "missing value" not in outside.dropped


def test_a_user_and_an_item_of_the_test_split_alone_are_unknown_and_get_a_score(tmp_path: Path):
    table = small_table(1000)
    table.loc[999, ["user_id", "item_id"]] = ["late user", "late item"]
    table.to_csv(tmp_path / "ratings.csv", index=False)
    dataset = prepare_ratings(RatingsSource(path=str(tmp_path / "ratings.csv")), tmp_path / "data")
    test = encoded_split(dataset, "test").feed
    assert test["user_index"][-1] == test["item_index"][-1] == 0
    quick = RatingConfig(epochs=2, factors=2)
    with in_this_process():
        assert np.isfinite(run_job(dataset, tmp_path / "jobs", config=quick, ranks=1).metrics["rmse"])


def test_a_category_of_the_test_split_alone_is_unknown(tmp_path: Path):
    for row in range(100):  # where a row goes follows from what is in it: one in five goes to the test split
        table = customers()
        table.loc[row, "plan"] = "late"
        dataset = prepared(table, tmp_path)
        late = pd.read_parquet(dataset.path("test.parquet"))["plan"] == "late"
        if late.any():
            break
    assert late.sum() == 1
    assert dataset.read_vocabularies()["plan"].entries == ("basic", "full")
    assert encoded_split(dataset, "test").feed["category"][late.to_numpy()].tolist() == [[0]]


@pytest.mark.parametrize(
    "config",
    [BoostingConfig(epochs=20), ChurnConfig(epochs=30, heads=2, batch_rows=64, learning_rate=0.01)],
    ids=["trees", "network"],
)
def test_a_constant_and_an_empty_feature_are_learned_past(tmp_path: Path, config: BoostingConfig | ChurnConfig):
    table = customers(constant=1.0, nothing=np.nan, same="x")
    dataset = prepared(table, tmp_path)
    assert [spec.name for spec in dataset.signature.inputs if spec.role == "number"] == ["spend", "constant", "nothing"]
    with in_this_process():
        trained = run_job(dataset, tmp_path / "jobs", config=config, ranks=1)
    assert np.isfinite(trained.metrics["log_loss"])
    assert trained.metrics["auc"] > 0.6


def test_a_category_without_a_value_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="category 'nothing' has no value") as caught:
        prepared(customers(nothing=""), tmp_path, categorical=("nothing",))
    assert caught.value.hint == "--drop nothing"
