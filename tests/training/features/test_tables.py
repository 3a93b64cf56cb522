"""Rows of features: nothing is known before it happened, and what is known last is what training knows."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import DataError
from training.data.ratings import aggregates
from training.data.sources import CustomersSource, RatingsSource, read_customers, read_ratings
from training.features.tables import KNOWN_AT, aggregate_rows, customer_rows

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 10), st.integers(0, 4 * 86_400)),
    min_size=1,
    max_size=40,
)


def ratings_of(events: list[tuple[int, int, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(events, columns=["user_id", "item_id", "rating", "at"]).astype({"rating": float})


@given(EVENTS)
def test_a_row_counts_exactly_what_came_before_it_was_known(events: list[tuple[int, int, int, int]]) -> None:
    ratings = ratings_of(events).sort_values("at", kind="stable", ignore_index=True)
    rows = aggregate_rows(ratings, "user_id", "item_id", "user_")
    assert len(rows) == len({(user, at // 86_400) for user, _, _, at in events})
    for row in rows.itertuples():
        known_s = row.event_timestamp.timestamp()
        before = ratings[(ratings["user_id"].astype(str) == row.user_id) & (ratings["at"] < known_s)]
        newest = before.drop_duplicates("item_id", keep="last")
        assert row.user_rating_count == len(newest)
        assert row.user_avg_rating == pytest.approx(newest["rating"].mean())


def test_what_was_known_last_is_what_training_aggregates() -> None:
    ratings = read_ratings(RatingsSource())
    for by, other, prefix in (("user_id", "item_id", "user_"), ("item_id", "user_id", "item_")):
        last = aggregate_rows(ratings, by, other, prefix).drop_duplicates(by, keep="last").set_index(by)
        expected = aggregates(ratings, by, other, "others")
        expected = expected.set_index(expected[by].astype(str))
        assert (last[f"{prefix}rating_count"] == expected["rating_count"].reindex(last.index)).all()
        np.testing.assert_allclose(last[f"{prefix}avg_rating"], expected["avg_rating"].reindex(last.index), rtol=1e-9)


def test_customers_are_what_training_computes_with() -> None:
    table = read_customers(CustomersSource())
    rows = customer_rows(table, NOW)
    assert list(rows["customer_id"].head(2)) == ["1", "2"]
    assert rows["monthly_charges"].dtype == np.float32
    assert int(rows["total_charges"].isna().sum()) == int(table["total_charges"].isna().sum()) > 0
    assert set(rows[KNOWN_AT]) == {pd.Timestamp(NOW)}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"customer_id": ["a", "b", "a"]}, "customer 'a' comes twice, in row 3"),
        ({"customer_id": ["a", "b", "c"], "event_timestamp": [1.0, 2.0, 3.0]}, "'event_timestamp' is taken"),
        ({}, "looked up by the customer's id"),
    ],
)
def test_a_table_that_cannot_be_looked_up_is_refused(columns: dict[str, list[object]], says: str) -> None:
    table = pd.DataFrame({"plan": ["x", "y", "z"], "churned": [0.0, 1.0, 0.0], **columns})
    with pytest.raises(DataError, match=says):
        customer_rows(table, NOW)
