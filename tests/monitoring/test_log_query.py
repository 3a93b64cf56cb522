"""SQL over a log as servers leave it: sealed, open, torn; and nothing else that a query could reach."""

from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from driftwheel.errors import ConfigurationError, NotFoundError
from driftwheel.log_layout import shadow_log
from monitoring.log_query import query_log
from monitoring.windows import read_feedback, read_predictions

from .worlds import CHURN, RATING, START, log_rows, telco, write_feedback, write_open, write_sealed


def ratings(rows: int, start: int = 0, **common: object):
    numbers = np.arange(start, start + rows)
    frame = pd.DataFrame({"in_user_id": numbers % 7, "in_item_id": numbers, "out_rating": 3.0 + numbers % 3})
    at = [START + timedelta(seconds=int(i)) for i in numbers]
    return log_rows(frame, RATING, **{"at": at, "prediction_id": [f"p{i:07d}" for i in numbers], **common})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two sealed segments and one that a killed process left open, in requests of one and of two rows."""
    pairs = [f"p{i // 2:07d}" for i in range(40)]
    positions = np.arange(40, dtype=np.int32) % 2
    write_sealed(tmp_path, "mf", 1, ratings(40, prediction_id=pairs, row=positions, at=[START] * 40))
    write_sealed(tmp_path, "mf", 2, ratings(30, 100, arm=["candidate"] * 30), stem="20260101T000001-1-0")
    torn = write_open(tmp_path, "mf", 2, ratings(20, 200), batch=10, integers="int16")
    torn.write_bytes(torn.read_bytes()[:-7])
    write_feedback(tmp_path, "mf", ["p0000001", "p0000001"], [4.0, 5.0], rows=[0, 1])
    return tmp_path


def one(log: Path, sql: str, **options: str) -> tuple:
    (row,) = query_log(log, sql, limit=10, **options).rows
    return row


def test_a_row_for_each_prediction_of_every_segment(log: Path) -> None:
    found = query_log(log, "SELECT arm, count(*) AS n FROM predictions GROUP BY arm ORDER BY arm", limit=10)
    assert (found.columns, found.rows, found.more) == (("arm", "n"), (("candidate", 30), ("stable", 50)), False)


def test_it_is_what_the_python_readers_read(log: Path) -> None:
    ours = read_predictions(log, "mf")
    columns = "version, prediction_id, row, p.at, code, latency_us, in_user_id, in_item_id, out_rating"
    sql = f"SELECT {columns} FROM predictions p ORDER BY p.at, prediction_id, row"  # noqa: S608 (our own words)
    found = query_log(log, sql, limit=1000)
    read = pd.DataFrame(found.rows, columns=found.columns)
    pd.testing.assert_frame_equal(read, ours[list(read.columns)], check_dtype=False)
    labels = pd.DataFrame(query_log(log, "FROM feedback", limit=1000).rows)
    assert labels[3].tolist() == read_feedback(log)["label"].tolist()


def test_labels_join_the_rows_that_they_are_about(log: Path) -> None:
    joined = "SELECT sum(label - out_rating), count(*) FROM predictions JOIN feedback USING (model, prediction_id, row)"
    assert one(log, joined) == (4 + 5 - 5 - 3, 2)  # of items 2 and 3


def test_a_failed_request_has_a_row_without_outputs(log: Path) -> None:
    stored = ratings(1, 900, code=["INTERNAL"]).to_pandas()
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .worlds import as_requests

    table = as_requests(pa.Table.from_pandas(stored, preserve_index=False))
    lists = pa.array([None], table.schema.field("out_rating").type)
    table = table.set_column(table.schema.get_field_index("out_rating"), "out_rating", lists)
    pq.write_table(table, log / "predictions/mf/2/20260101T000002-1-0.parquet")
    assert one(log, "SELECT in_item_id, out_rating, row FROM predictions WHERE code <> 'OK'") == (900, None, 0)


def test_models_side_by_side_and_one_alone(log: Path) -> None:
    write_sealed(log, "churn", 1, log_rows(telco().head(5), CHURN))
    counts = query_log(log, "SELECT model, count(out_probability) FROM predictions GROUP BY 1 ORDER BY 1", limit=9)
    assert counts.rows == (("churn", 5), ("mf", 0))
    assert one(log, "SELECT count(*) FROM predictions", model="churn") == (5,)
    assert one(log, "SELECT count(*) FROM feedback", model="churn") == (0,)
    with pytest.raises(NotFoundError, match="no predictions of 'no'; it has those of churn, mf"):
        query_log(log, "SELECT 1", model="no", limit=1)


def test_what_was_answered_in_shadow_is_apart(log: Path) -> None:
    write_sealed(shadow_log(log), "mf", 3, ratings(4, arm=["shadow"] * 4))
    assert one(log, "SELECT count(*), min(version) FROM shadow") == (4, 3)
    assert one(log, "SELECT count(*) FROM predictions WHERE version = 3") == (0,)


def test_an_empty_log_answers_with_nothing(tmp_path: Path) -> None:
    assert query_log(tmp_path, "SELECT arm, row FROM predictions", limit=1).rows == ()
    assert one(tmp_path, "SELECT count(label) FROM feedback") == (0,)


def test_no_more_rows_than_were_asked_for(log: Path) -> None:
    found = query_log(log, "SELECT row FROM predictions", limit=3)
    assert (len(found.rows), found.more) == (3, True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
        "CREATE TABLE t (i int)",
        "INSTALL httpfs",
        "ATTACH 'other.db'",
        "SET enable_external_access = true",
        "",
    ],
)
def test_only_one_select(log: Path, sql: str) -> None:
    with pytest.raises(ConfigurationError, match="a query is one SELECT, got"):
        query_log(log, sql, limit=1)


@pytest.mark.parametrize(
    "source",
    [
        "read_text('{secret}')",
        "'{secret}'",
        "read_csv('{secret}')",
        "glob('{folder}/*')",
        "read_text('https://localhost/')",
    ],
)
def test_no_other_file_can_be_read(log: Path, tmp_path_factory: pytest.TempPathFactory, source: str) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    secret = folder / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    assert duckdb.sql(f"FROM '{secret}'").fetchall() == [(1, 2)]
    with pytest.raises(ConfigurationError, match="the query cannot be run"):
        query_log(log, f"FROM {source.format(secret=secret, folder=folder)}", limit=1)


def test_no_variable_of_the_program_is_a_table(log: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be run"):
        query_log(log, "FROM parts", limit=1)


def test_what_is_wrong_with_a_query_is_said(log: Path) -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        query_log(log, "SELECT nonsense FROM predictions", limit=1)


def test_a_damaged_file_is_passed_over(log: Path) -> None:
    (log / "predictions/mf/1/20260102T000000-1-0.parquet").write_bytes(b"PAR1 not")
    assert one(log, "SELECT count(*) FROM predictions") == (80,)


def test_names_with_quotes_are_names(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here"'
    write_sealed(folder, "mf", 1, ratings(3))
    assert one(folder, "SELECT count(*) FROM predictions", model="mf") == (3,)


def test_pandas_and_duckdb_open_a_sealed_segment(log: Path) -> None:
    path = next((log / "predictions/mf/1").glob("*.parquet"))
    assert pd.read_parquet(path)["rows"].sum() == 40
    assert duckdb.read_parquet(str(path)).sum("rows").fetchall() == [(40,)]
