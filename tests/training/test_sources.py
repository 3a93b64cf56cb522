import gzip
from pathlib import Path

import pandas as pd
import pytest

from driftwheel.errors import DataError
from training.data.sources import CustomersSource, RatingsSource, read_customers, read_ratings

GOOD = "user_id,item_id,rating,timestamp\n1,10,4.0,100\n2,11,3.5,200\n"


def ratings_of(tmp_path: Path, text: str, **changes: object) -> pd.DataFrame:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    return read_ratings(RatingsSource(path=str(path), **changes))


def customers_of(tmp_path: Path, table: pd.DataFrame, **changes: object) -> pd.DataFrame:
    path = tmp_path / "customers.csv"
    table.to_csv(path, index=False)
    return read_customers(CustomersSource(path=str(path), **changes))


def customer_rows(rows: int = 20, **columns: object) -> pd.DataFrame:
    base = {
        "id": [f"c{n}" for n in range(rows)],
        "plan": ["basic", "full"] * (rows // 2),
        "charge": [float(n) for n in range(rows)],
        "churn": ["Yes", "No", "No", "No"] * (rows // 4),
    }
    return pd.DataFrame(base | columns)


def test_packaged_ratings():
    table = read_ratings(RatingsSource())
    assert list(table.columns) == ["user_id", "item_id", "rating", "at", "title", "trait_genres", "trait_year"]
    assert table["trait_genres"].str.contains("|", regex=False).any()
    assert table["trait_year"].dtype == "float64"
    assert len(table) == 100_004
    assert {str(table[name].dtype) for name in ("user_id", "item_id", "at")} == {"int64"}


def test_traits_are_numbers_or_categories_and_must_be_there(tmp_path: Path):
    text = "user_id,item_id,rating,timestamp,kind,price\n1,2,4,100,a|b,7\n1,3,5,200, ,\n"
    table = ratings_of(tmp_path, text, trait_columns=("kind", "price"))
    assert table["trait_kind"].tolist() == ["a|b", None]
    assert table["trait_price"].fillna(-1).tolist() == [7.0, -1.0]
    with pytest.raises(DataError, match="no column 'colour'") as raised:
        ratings_of(tmp_path, text, trait_columns=("colour",))
    assert "--trait-columns" in str(raised.value.hint)


def test_an_infinite_time_is_missing_and_changes_no_other(tmp_path: Path):
    table = ratings_of(tmp_path, GOOD + "3,12,4.0,inf\n")
    assert table["at"].tolist() == [100, 200]
    assert table.attrs["dropped"] == {"missing value": 1}


def test_columns_by_flag(tmp_path: Path):
    text = "who,what,stars,when\nann,x,4,2012-01-01\nbob,y,5,2012-01-02T03:00:00+01:00\n"
    source = {"user_column": "who", "item_column": "what", "rating_column": "stars", "time_column": "when"}
    table = ratings_of(tmp_path, text, **source)
    assert table["user_id"].tolist() == ["ann", "bob"]
    assert table["at"].tolist() == [1325376000, 1325469600]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000), ("ns", 1_000_000_000)])
def test_epoch_units(tmp_path: Path, unit: str, factor: int):
    text = f"user_id,item_id,rating,timestamp\n1,1,3,{1260759144 * factor}\n"
    assert ratings_of(tmp_path, text)["at"].tolist() == [1260759144], unit


def test_without_times_the_order_counts(tmp_path: Path):
    assert ratings_of(tmp_path, GOOD, time_column=None)["at"].tolist() == [0, 1]


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_other_formats(tmp_path: Path, suffix: str):
    path = tmp_path / f"ratings{suffix}"
    table = pd.DataFrame({"user_id": [1], "item_id": [2], "rating": [3.0], "timestamp": [pd.Timestamp("2012-01-01")]})
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    assert read_ratings(RatingsSource(path=str(path)))["at"].tolist() == [1325376000]


def test_invalid_rows_are_counted(tmp_path: Path):
    table = ratings_of(tmp_path, GOOD + "3,12,,300\n,13,4.0,300\n4,14,9.5,300\n")
    assert len(table) == 2
    assert table.attrs["dropped"] == {"missing value": 2, "rating out of range": 1}
    assert str(table["user_id"].dtype) == "int64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id,movie,rating,timestamp\n1,2,3,4\n", ["no column 'item_id'", "it has: user_id, movie", "timestamp"]),
        (GOOD + "3,12,four,300\n", ["'rating'", "'four'", "row 3"]),
        (GOOD + "3,12,4.0,yesterday\n", ["'timestamp'", "'yesterday'", "row 3"]),
        ("user_id,item_id,rating,timestamp\n1,2,99,4\n", ["no valid rating in 1 rows", "rating out of range"]),
        ("user_id,item_id,rating,timestamp\n", ["no valid rating in 0 rows"]),
        ("", ["neither CSV nor Parquet"]),
        ("PAR1 but no more", ["neither CSV nor Parquet"]),
    ],
)
def test_bad_ratings(tmp_path: Path, text: str, words: list[str]):
    with pytest.raises(DataError) as caught:
        ratings_of(tmp_path, text)
    for word in words:
        assert word in caught.value.message
    assert "\n" not in caught.value.message


def test_the_hint_names_the_flag(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        ratings_of(tmp_path, "user,item_id,rating,timestamp\n1,2,3,4\n")
    assert "--user-column" in str(caught.value.hint)


def test_binary_rubbish(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00\x80user" * 10)
    with pytest.raises(DataError, match="damaged"):
        read_ratings(RatingsSource(path=str(path)))


@pytest.mark.parametrize(("path", "word"), [("/nowhere/x.csv", "does not exist"), ("/tmp", "cannot be read")])  # noqa: S108
def test_unreadable(path: str, word: str):
    with pytest.raises(DataError, match=word):
        read_ratings(RatingsSource(path=path))


def test_object_storage():
    import fsspec

    with fsspec.open("memory://bucket/ratings.csv", "w") as file:
        file.write(GOOD)
    assert len(read_ratings(RatingsSource(path="memory://bucket/ratings.csv"))) == 2


def test_a_missing_store_library_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(DataError) as caught:
        read_ratings(RatingsSource(path="gs://bucket/x.csv"))
    assert ".[gcs]" in str(caught.value.hint)


def test_packaged_customers():
    table = read_customers(CustomersSource())
    assert len(table) == 7043
    assert table["total_charges"].isna().sum() == 11
    assert table["churned"].sum() == 1869
    assert "customer_id" in table.columns


def test_text_that_is_numbers_is_a_number(tmp_path: Path):
    charges = [" ", *(str(n) for n in range(19))]
    table = customers_of(tmp_path, customer_rows(charge=charges), id_column="id")
    assert table["charge"].dtype == "float64"
    assert table["charge"].isna().sum() == 1


def test_numbers_may_be_categories(tmp_path: Path):
    table = customers_of(tmp_path, customer_rows(region=[1, 2] * 10), id_column="id", categorical=("region",))
    assert table["region"].tolist()[:2] == ["1", "2"]


@pytest.mark.parametrize(
    ("table", "changes", "words"),
    [
        (customer_rows(), {"label_column": "left"}, ["no column 'left'", "it has: id, plan, charge, churn"]),
        (customer_rows(charge=["abc", *["1"] * 19]), {"id_column": "id"}, ["'charge'", "'abc'", "row 1"]),
        (customer_rows(), {}, ["'id'", "looks like an identifier"]),
        (customer_rows(churn=["No"] * 20), {"id_column": "id"}, ["has no 'Yes'", "it has: 'No'"]),
        (customer_rows(churn=["Yes"] * 20), {"id_column": "id"}, ["must have two classes", "it has: 'Yes'"]),
        (customer_rows(churn=[None] * 20), {"id_column": "id"}, ["no valid customer", "'churn'"]),
        (customer_rows(), {"drop": ("id", "plan", "charge")}, ["no feature column"]),
    ],
)
def test_bad_customers(tmp_path: Path, table: pd.DataFrame, changes: dict[str, object], words: list[str]):
    with pytest.raises(DataError) as caught:
        customers_of(tmp_path, table, **changes)
    for word in words:
        assert word in caught.value.message
